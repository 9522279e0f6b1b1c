//! How plans are measured on a model.

use std::path::PathBuf;

use clap::Args;

use super::general::whole;

/// How a policy that searches measures plans.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Search")]
pub struct SearchArgs {
    /// Number of plans that the policies searched and bolaco measure
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub evaluations: usize,
    /// Random seed of the search
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u64>,
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub search_seed: u64,
    /// UTF-8 text or .jsonl file to measure plans on [default: the last windows of the calibration]
    #[arg(long, value_name = "FILE")]
    pub search_text: Option<PathBuf>,
    /// Maximum number of windows of text to measure plans on
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub search_windows: usize,
    /// Note every measurement in this file; with it, a search that was stopped continues, and a
    /// finished one can be made longer
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}
