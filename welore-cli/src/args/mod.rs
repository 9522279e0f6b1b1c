//! The command line, as clap reads it.

mod choices;
mod compression;
mod compute;
mod examples;
mod general;
mod method;
mod running;
mod training;

use clap::{Parser, Subcommand};

pub use choices::names;
pub use compression::*;
pub use compute::*;
pub use general::*;
pub use method::Way;
pub use running::*;
pub use training::*;

/// Low-rank compression and fine-tuning of language models (WeLore), on Burn.
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

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the singular values of a model's matrices
    #[command(after_long_help = examples::ANALYZE)]
    Analyze(AnalyzeArgs),
    /// Measure the inputs and gradients of a model's matrices on a text, for better factors
    #[command(after_long_help = examples::CALIBRATE)]
    Calibrate(CalibrateArgs),
    /// Choose which matrices are factored, and at which rank
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
    /// Draw results as one HTML page
    #[command(after_long_help = examples::REPORT)]
    Report(ReportArgs),
    /// Continue a prompt
    #[command(after_long_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Turn a compressed model into a plain dense one
    #[command(after_long_help = examples::EXPORT)]
    Export(ExportArgs),
    /// Show what a model directory holds
    #[command(after_long_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Compress and tune a tiny built-in model, from start to finish
    #[command(after_long_help = examples::DEMO)]
    Demo(DemoArgs),
    /// List backends and devices
    #[command(after_long_help = examples::DEVICES)]
    Devices(DevicesArgs),
    /// Print shell completions
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the reference of all commands, docs/cli.md
    #[command(hide = true)]
    Reference,
}
