//! The command line, as clap reads it.

mod compression;
mod compute;
mod running;
mod training;

use clap::{Parser, Subcommand};

pub use compression::*;
pub use compute::*;
pub use running::*;
pub use training::*;

/// Low-rank compression of LLaMA-family models (WeLore), on Burn.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One variant a command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the singular values of a model's matrices
    Analyze(AnalyzeArgs),
    /// Measure what a model's matrices see and do on a text, for better factors
    Calibrate(CalibrateArgs),
    /// Decide which matrices are factored, at which rank
    Plan(PlanArgs),
    /// Factor a model's low-rank matrices and write the smaller model
    Compress(Box<CompressArgs>),
    /// Compress in several ways and compare perplexities
    Compare(Box<CompareArgs>),
    /// Fine-tune a model on a text or a task, by default only its low-rank components
    Train(Box<TrainArgs>),
    /// Measure a model's perplexity on a text, or its accuracy on a task
    Eval(EvalArgs),
    /// Draw artifacts as one HTML page
    Report(ReportArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Turn a compressed model into a plain dense one
    Export(ExportArgs),
    /// Tell what a model directory holds
    Inspect(InspectArgs),
    /// Show the whole road on a tiny built-in model
    Demo(DemoArgs),
    /// List the backends and devices that can be computed on
    Devices(DevicesArgs),
}
