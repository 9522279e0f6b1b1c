//! `completions`: what shells need to complete options.

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};

/// Runs the command.
pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    // Not straight to stdout: the generators panic where it cannot be written.
    clap_complete::generate(args.shell, &mut Cli::command(), "welore-cli", &mut script);
    say!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
