//! The command line, as clap reads it.

mod compression;
mod compute;
mod examples;
mod general;
mod running;
mod training;

use clap::{Parser, Subcommand};

pub use compression::*;
pub use compute::*;
pub use general::*;
pub use running::*;
pub use training::*;

/// Low-rank compression of LLaMA-family models (WeLore), on Burn.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100, after_long_help = examples::PROGRAM)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every command takes.
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// One variant a command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the singular values of a model's matrices
    #[command(after_long_help = examples::ANALYZE)]
    Analyze(AnalyzeArgs),
    /// Measure what a model's matrices see and do on a text, for better factors
    #[command(after_long_help = examples::CALIBRATE)]
    Calibrate(CalibrateArgs),
    /// Decide which matrices are factored, at which rank
    #[command(after_long_help = examples::PLAN)]
    Plan(PlanArgs),
    /// Factor a model's low-rank matrices and write the smaller model
    #[command(after_long_help = examples::COMPRESS)]
    Compress(Box<CompressArgs>),
    /// Compress in several ways and compare perplexities
    #[command(after_long_help = examples::COMPARE)]
    Compare(Box<CompareArgs>),
    /// Fine-tune a model on a text or a task, by default only its low-rank components
    #[command(after_long_help = examples::TRAIN)]
    Train(Box<TrainArgs>),
    /// Measure a model's perplexity on a text, or its accuracy on a task
    #[command(after_long_help = examples::EVAL)]
    Eval(EvalArgs),
    /// Draw artifacts as one HTML page
    #[command(after_long_help = examples::REPORT)]
    Report(ReportArgs),
    /// Continue a prompt
    #[command(after_long_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Turn a compressed model into a plain dense one
    #[command(after_long_help = examples::EXPORT)]
    Export(ExportArgs),
    /// Tell what a model directory holds
    #[command(after_long_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Show the whole road on a tiny built-in model
    #[command(after_long_help = examples::DEMO)]
    Demo(DemoArgs),
    /// List the backends and devices that can be computed on
    #[command(after_long_help = examples::DEVICES)]
    Devices(DevicesArgs),
    /// Print what a shell needs to complete this program's options
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the reference of all commands, docs/cli.md
    #[command(hide = true)]
    Reference,
}
