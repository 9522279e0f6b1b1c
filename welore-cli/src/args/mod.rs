//! The command line, as clap reads it.

mod calibrating;
mod chatting;
mod choices;
mod comparing;
mod compression;
mod compute;
mod effort;
mod examples;
mod extracting;
mod general;
mod manual;
mod method;
mod ranks;
mod running;
mod searching;
mod series;
mod texts;
mod training;
mod typed;
mod typing;

use clap::{Parser, Subcommand};

pub use calibrating::*;
pub use chatting::*;
pub use choices::names;
pub use comparing::*;
pub use compression::*;
pub use compute::*;
pub use effort::Effort;
pub use extracting::*;
pub use general::*;
pub use manual::*;
pub use method::Way;
pub use ranks::*;
pub use running::*;
pub use texts::{BosArg, TextArg};
pub use training::*;
pub use typed::{Rule, Typed, rule};
pub use typing::{EngineArg, TypeArgs};

/// Low-rank compression and fine-tuning of language models (WeLore), built on Burn.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100, after_long_help = examples::PROGRAM)]
#[command(mut_subcommands = general::numbers_in_words)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the singular values of a model's weight matrices
    #[command(after_long_help = examples::ANALYZE)]
    Analyze(AnalyzeArgs),
    /// Measure the inputs and gradients of a model's matrices on a text, for better compression
    #[command(after_long_help = examples::CALIBRATE)]
    Calibrate(CalibrateArgs),
    /// Write a calibration as an importance matrix for llama.cpp
    #[command(after_long_help = examples::IMATRIX)]
    Imatrix(ImatrixArgs),
    /// Choose which matrices to factor, and at which ranks
    #[command(after_long_help = examples::PLAN)]
    Plan(Box<PlanArgs>),
    /// Factor a model's low-rank matrices and write the smaller model
    #[command(after_long_help = examples::COMPRESS)]
    Compress(Box<CompressArgs>),
    /// Compress a model in several ways and compare perplexities
    #[command(after_long_help = examples::COMPARE)]
    Compare(Box<CompareArgs>),
    /// Fine-tune a model on a text or a task, by default only its low-rank components
    #[command(after_long_help = examples::TRAIN)]
    Train(Box<TrainArgs>),
    /// Measure a model's perplexity on a text, alone or against the dense model, or its accuracy on a
    /// task
    #[command(after_long_help = examples::EVAL)]
    Eval(EvalArgs),
    /// Draw results as a single HTML page
    #[command(after_long_help = examples::REPORT)]
    Report(ReportArgs),
    /// Continue a prompt
    #[command(after_long_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Talk with a model: each line is a message, and answers appear as they are written
    #[command(after_long_help = examples::CHAT)]
    Chat(ChatArgs),
    /// Write a model for other programs: dense, in another type, from a GGUF file or as one
    #[command(after_long_help = examples::EXPORT)]
    Export(ExportArgs),
    /// Make a LoRA adapter of what a tuned model and its base differ by
    #[command(after_long_help = examples::EXTRACT)]
    Extract(Box<ExtractArgs>),
    /// Make a LoRA adapter that brings a quantized model back to its full-precision source
    #[command(after_long_help = examples::REPAIR)]
    Repair(Box<RepairArgs>),
    /// Show what a model directory contains
    #[command(after_long_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Compress and fine-tune a tiny built-in model, from start to finish
    #[command(after_long_help = examples::DEMO)]
    Demo(DemoArgs),
    /// List backends and devices
    #[command(after_long_help = examples::DEVICES)]
    Devices(DevicesArgs),
    /// Print shell completions
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Write manual pages, for packages
    #[command(hide = true)]
    Manual(ManualArgs),
    /// Print the reference of all commands (docs/cli.md)
    #[command(hide = true)]
    Reference,
}
