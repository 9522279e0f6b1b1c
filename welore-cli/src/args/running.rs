//! Arguments of the commands that use a model.

use std::path::PathBuf;

use clap::Args;
use welore_burn::data::TaskKind;

use super::choices::named;
use super::compression::ShardArgs;
use super::compute::ComputeArgs;
use super::general::PageArgs;

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model directory, dense or compressed, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// UTF-8 text to predict
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "task",
        help_heading = "Evaluation"
    )]
    pub text: Option<PathBuf>,
    /// Task whose test examples are answered instead
    #[arg(
        long,
        value_name = "NAME",
        value_parser = named::<TaskKind>(),
        requires = "data",
        conflicts_with = "text",
        help_heading = "Evaluation"
    )]
    pub task: Option<TaskKind>,
    /// The task's file, or a directory with its files; of a single file, a fifth is for testing
    #[arg(
        long,
        value_name = "PATH",
        requires = "task",
        conflicts_with = "text",
        help_heading = "Evaluation"
    )]
    pub data: Option<PathBuf>,
    /// Tokens in a window of the text
    #[arg(
        long,
        value_name = "N",
        default_value_t = 512,
        conflicts_with = "task",
        help_heading = "Evaluation"
    )]
    pub seq_len: usize,
    /// Most windows or examples to use [default: all]
    #[arg(long, alias = "blocks", value_name = "N", help_heading = "Evaluation")]
    pub windows: Option<usize>,
    /// Add the result to the model card that `compress` or `train` wrote into the directory
    #[arg(long)]
    pub record: bool,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model directory, dense or compressed, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Text to continue
    #[arg(long)]
    pub prompt: String,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Sampling")]
    pub max_new_tokens: usize,
    /// 0 takes the most likely token; larger values make unlikely ones likelier
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub temperature: f64,
    /// Sample among this many of the most likely tokens
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    pub top_p: Option<f64>,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON when done instead of text as it comes
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Compressed model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Multiply the factors together, so that any Hugging Face tool can load the model
    #[arg(long, required = true)]
    pub dense: bool,
    /// Model directory to write
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace the output directory if it is a model directory
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Show what would be written, and write nothing
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// How large files are.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model directory, dense or compressed, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["spectra", "plan", "compare", "run"])))]
pub struct ReportArgs {
    /// Spectra, as `analyze` wrote them
    #[arg(long, value_name = "FILE", help_heading = "Artifacts")]
    pub spectra: Option<PathBuf>,
    /// A plan, or a compressed model directory
    #[arg(long, value_name = "PATH", help_heading = "Artifacts")]
    pub plan: Option<PathBuf>,
    /// What `compare --json` printed
    #[arg(long, value_name = "FILE", help_heading = "Artifacts")]
    pub compare: Option<PathBuf>,
    /// Run directories of `train`, with their gradients if they were tracked
    #[arg(long, value_name = "RUN", help_heading = "Artifacts")]
    pub run: Vec<PathBuf>,
    /// Title of the page
    #[arg(long, help_heading = "Output")]
    pub title: Option<String>,
    /// Write the page here
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Keep the model directories here
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Replace model directories that are there
    #[arg(long, requires = "output", help_heading = "Output")]
    pub force: bool,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
