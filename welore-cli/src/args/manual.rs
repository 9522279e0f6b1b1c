//! Arguments of `manual`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `manual`.
#[derive(Args, Debug)]
pub struct ManualArgs {
    /// Write the pages to this directory
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
}
