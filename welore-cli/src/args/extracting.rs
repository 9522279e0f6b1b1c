//! Arguments of the commands that make adapters of what two models differ by.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::compression::SelectionArgs;
use super::compute::ComputeArgs;
use super::general::{size, size_above_0};

/// Arguments of `extract`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("ranks").required(true).args(["rank", "err", "max_params", "max_bytes"])))]
pub struct ExtractArgs {
    /// Tuned model: directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub tuned: PathBuf,
    /// The model that it was tuned from, of any of these kinds
    #[arg(long, value_name = "MODEL")]
    pub base: PathBuf,
    /// How the adapter is made.
    #[command(flatten)]
    pub making: AdapterMakingArgs,
}

/// Arguments of `repair`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("ranks").required(true).args(["rank", "err", "max_params", "max_bytes"])))]
pub struct RepairArgs {
    /// Quantized model: .gguf file, directory (in types, factored, or rounded), or
    /// org/name(@revision) on the Hub
    pub quantized: PathBuf,
    /// The full-precision model that it was made from
    #[arg(long, value_name = "MODEL")]
    pub source: PathBuf,
    /// Do not measure what larger types of llama.cpp would leave for the bytes of the adapter, which
    /// quantizes each matrix in each of them
    #[arg(long, help_heading = "Calibration")]
    pub no_types: bool,
    /// How the adapter is made.
    #[command(flatten)]
    pub making: AdapterMakingArgs,
}

/// How the adapter of a difference is made, and what it is measured on.
#[derive(Args, Debug)]
pub struct AdapterMakingArgs {
    /// The same rank for all matrices
    #[arg(long, value_name = "R", help_heading = "Ranks")]
    pub rank: Option<NonZeroUsize>,
    /// For each matrix the smallest rank that leaves at most this share of the difference, such as 0.1
    #[arg(long, value_name = "SHARE", help_heading = "Ranks", allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// Ranks where they leave least, with at most this many parameters in the adapter
    #[arg(long, value_name = "N", help_heading = "Ranks")]
    pub max_params: Option<usize>,
    /// The same with at most so many bytes of numbers in the adapter, such as 20MB; a parameter has 4
    #[arg(long, value_name = "SIZE", value_parser = size_above_0, help_heading = "Ranks")]
    pub max_bytes: Option<u64>,
    /// Calibration file from `calibrate` of the full model (MODEL): differences count as they change
    /// outputs and the loss, not as they change weights
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// PEFT adapter directory to write
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
    /// Also write the adapter to this file for llama.cpp's --lora
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub gguf: Option<PathBuf>,
    /// Replace the output directory if it is that of an adapter or a model with nothing else in it
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Measure and choose ranks, but only show what would be written
    #[arg(long, help_heading = "Output", conflicts_with = "text")]
    pub dry_run: bool,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Also measure on this UTF-8 text or .jsonl file how far the predictions are from those of the
    /// model that the adapter leads to, without it and with it (KL divergence); needs dense copies of
    /// the models in memory
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub text: Option<PathBuf>,
    /// Maximum number of windows of the text [default: all]
    #[arg(long, value_name = "N", requires = "text", help_heading = "Evaluation")]
    pub windows: Option<usize>,
    /// Tokens per window of the text
    /// [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", requires = "text", help_heading = "Evaluation")]
    pub seq_len: Option<usize>,
    /// Which matrices are selected.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Number of matrices to process at once, sharing the cores [default: number of cores]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    pub jobs: Option<NonZeroUsize>,
    /// Memory limit for the matrices being processed, such as 3GB; a matrix waits until it fits
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Resources")]
    pub max_memory: Option<u64>,
    /// Where the text is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
}
