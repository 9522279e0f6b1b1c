//! Arguments of the commands that measure and compress a model.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use welore_burn::channels::Widths;
use welore_burn::forms::Rounding;
use welore_burn::linalg::Shrink;
use welore_burn::plan::{Candidate, PlanColumn};

use super::calibrating::AmountArgs;
use super::choices::named;
use super::compute::ComputeArgs;
use super::general::{PageArgs, size, size_above_0};
use super::method::Way;
use super::ranks::{GoalArgs, TargetArgs};
use super::searching::SearchArgs;
use super::texts::{TextArg, calibration_text};
use super::typing::TypeArgs;

/// Arguments of `analyze`.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Hugging Face model directory (config.json, tokenizer.json, safetensors), .gguf file, or
    /// org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Write the spectra to this file, for `plan`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Which matrices are selected.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Whether convolutions are matrices too.
    #[command(flatten)]
    pub convolutions: ConvolutionArgs,
    /// Limits on measuring.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Limits on measuring and factoring.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Resources")]
pub struct ResourceArgs {
    /// Number of matrices to process at once, sharing the cores [default: number of cores]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Memory limit for the matrices being processed, such as 3GB; a matrix waits until it fits
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Measure every matrix again, and do not cache the results
    #[arg(long)]
    pub no_cache: bool,
}

/// How large the files of weights are.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output")]
pub struct ShardArgs {
    /// Split the weights into files of about this size, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = size_above_0, default_value = "5GB")]
    pub shard_size: u64,
}

/// Which matrices are selected.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Matrices")]
pub struct SelectionArgs {
    /// Select only the matrices whose names match one of these patterns, separated by commas, such
    /// as `q_proj,k_proj` or `*.layers.3.*` [default: attention and MLP projections; linear layers by
    /// name and shape in a model that is not known]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Leave out the matrices whose names match one of these patterns, separated by commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub exclude: Vec<String>,
}

/// Whether convolutions are matrices too.
#[derive(Args, Debug, Clone, Copy, Default)]
#[command(next_help_heading = "Matrices")]
pub struct ConvolutionArgs {
    /// Also treat the convolutions of a model that is not known as matrices, `[out, in, kernel]` as
    /// `[out, in * kernel]`. The first of the two factors is a convolution with the same kernel, the
    /// second one with a kernel of 1. This is right only for convolutions without groups, and files do
    /// not say which have groups: leave those out with --exclude. Those with one input channel stay as
    /// they are
    #[arg(long)]
    pub convolutions: bool,
}

/// How the table of a plan is shown.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Output")]
pub struct ViewArgs {
    /// Sort the table by a column [default: the model's order]
    #[arg(long, value_name = "COLUMN", value_parser = named::<PlanColumn>())]
    pub sort: Option<PlanColumn>,
    /// Show only the matrices whose names match one of these patterns, separated by commas; totals
    /// count all of them
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub filter: Vec<String>,
}

/// How matrices are approximated.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Method")]
pub struct MethodArgs {
    /// Calibration file from `calibrate`, or importance matrix from llama.cpp's `llama-imatrix`, which
    /// has no gradients and so needs --method whitened
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// How matrices are approximated [default: two-sided with a calibration, else svd]
    #[arg(long, value_parser = named::<&Way>())]
    pub method: Option<&'static Way>,
    /// How second moments are shrunk.
    #[command(flatten)]
    pub shrink: ShrinkArgs,
}

/// How second moments are shrunk.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Method")]
pub struct ShrinkArgs {
    /// Amount added to the diagonal of the inputs' second moments, as a share of its mean, or `data` for
    /// the share that suits how many tokens there are and how much they differ [default: 0.001]
    #[arg(long, value_name = "SHARE", value_parser = shrink, allow_negative_numbers = true)]
    pub shrink_inputs: Option<Shrink>,
    /// Amount added to the diagonal of the gradients' second moments, as a share of its mean, or `data`
    /// as for inputs [default: 0.3]
    #[arg(long, value_name = "SHARE", value_parser = shrink, allow_negative_numbers = true)]
    pub shrink_gradients: Option<Shrink>,
}

/// Parses how second moments are shrunk.
fn shrink(text: &str) -> Result<Shrink, String> {
    if text == "data" {
        return Ok(Shrink::Data);
    }
    let share = text.parse::<f64>().ok();
    share.map(Shrink::Share).ok_or("must be a number, or `data`".into())
}

/// How a model is compressed block by block.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Block by block")]
pub struct BlockwiseArgs {
    /// Maximum number of windows of the calibration's text to use [default: all]
    #[arg(long, alias = "fit-blocks", value_name = "N")]
    pub fit_windows: Option<usize>,
    /// How far --method sequential corrects the errors of what is used before a matrix, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, allow_negative_numbers = true)]
    pub follow: f64,
    /// Leave the matrices that stay dense as they are; otherwise --method sequential also changes those
    /// that are used after a compressed one, so that they correct its errors
    #[arg(long)]
    pub no_adapt_dense: bool,
    /// Train each compressed block to reproduce the outputs of the dense one, for this many epochs
    /// of the calibration's text; needs a calibration
    #[arg(long, value_name = "EPOCHS", default_value_t = 0)]
    pub refine: usize,
    /// Learning rate of --refine
    #[arg(long, value_name = "LR", default_value_t = 3e-5, allow_negative_numbers = true)]
    pub refine_lr: f64,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goal").args(["err", "err_applied", "keep_params", "max_bytes", "bits"])))]
pub struct PlanArgs {
    /// Model directory, .gguf file, org/name(@revision) on the Hub, or spectra file from `analyze`;
    /// without a target, a plan file or compressed model directory whose plan is shown
    #[arg(value_name = "MODEL|SPECTRA|PLAN")]
    pub source: PathBuf,
    /// How far the model is compressed.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Which types are chosen, if types are.
    #[command(flatten)]
    pub typing: TypeArgs,
    /// Also write the types to this file, one line for each matrix, for llama.cpp's
    /// `llama-quantize --tensor-type-file`
    #[arg(long, value_name = "FILE", help_heading = "Types")]
    pub tensor_types: Option<PathBuf>,
    /// Write the plan to this file, for `compress`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Calibrate on these texts first with --for, separated by commas; `self` is one that the model
    /// writes [default: self with --for]
    #[arg(
        long,
        value_name = "TEXT",
        value_delimiter = ',',
        value_parser = calibration_text(),
        conflicts_with = "calibration",
        help_heading = "Calibration"
    )]
    pub calibrate: Vec<TextArg>,
    /// Keep the calibration that is made in this file, for `compress` and other targets
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub save_calibration: Option<PathBuf>,
    /// How matrices will be approximated.
    #[command(flatten)]
    pub method: MethodArgs,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// Where a calibration is computed, and where plans are measured.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Which matrices are selected.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Whether convolutions are matrices too.
    #[command(flatten)]
    pub convolutions: ConvolutionArgs,
    /// How plans are measured by a policy that searches.
    #[command(flatten)]
    pub search: SearchArgs,
    /// Limits on measuring and factoring.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// How the table is shown.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Print the plan as JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `compress`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goal").required(true).args(["plan", "err", "err_applied", "keep_params", "max_bytes", "bits"])))]
pub struct CompressArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Carry out the plan in this file, or in this compressed model directory; with --for a plan of
    /// types
    #[arg(long, value_name = "FILE", help_heading = "Target", conflicts_with_all = ["policy", "min_ratio", "rank_multiple", "never_grow", "storage", "keep_dense", "set_rank", "min_rank", "max_rank", "min_saving", "include", "exclude", "convolutions"])]
    pub plan: Option<PathBuf>,
    /// Carry out the plan with a calibration other than the one that it was made with
    #[arg(long, requires = "plan", help_heading = "Calibration")]
    pub other_calibration: bool,
    /// How far the model is compressed, if a plan is made first.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Calibrate on these texts first, separated by commas; `self` is one that the model writes
    /// [default: self with --keep-params, --max-bytes or --for]
    #[arg(
        long,
        value_name = "TEXT",
        value_delimiter = ',',
        value_parser = calibration_text(),
        conflicts_with = "calibration",
        help_heading = "Calibration"
    )]
    pub calibrate: Vec<TextArg>,
    /// Use the weights alone, also for --keep-params and --max-bytes
    #[arg(
        long,
        conflicts_with_all = ["calibrate", "calibration"],
        help_heading = "Calibration"
    )]
    pub no_calibration: bool,
    /// Keep the calibration that is made in this file, for `plan`, `compare` and other targets; also
    /// with --dry-run
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub save_calibration: Option<PathBuf>,
    /// Which types are chosen, if types are.
    #[command(flatten)]
    pub typing: TypeArgs,
    /// Write the chosen types to this file, as JSON, for --plan
    #[arg(long, value_name = "FILE", help_heading = "Types")]
    pub save_types: Option<PathBuf>,
    /// What the model may be made of, separated by commas: `channels` alone, or with `pivot` or
    /// `factors` also ranks within the same --keep-params [default: dense matrices and those of
    /// --storage]
    #[arg(
        long,
        value_name = "FORM",
        value_delimiter = ',',
        value_parser = named::<Candidate>(),
        help_heading = "Channels"
    )]
    pub forms: Vec<Candidate>,
    /// Which widths the MLPs may have with --forms channels
    #[arg(
        long,
        value_name = "WIDTHS",
        value_parser = named::<Widths>(),
        default_value = "one",
        help_heading = "Channels"
    )]
    pub widths: Widths,
    /// Round the widths of MLPs to a multiple of this with --forms channels
    #[arg(long, value_name = "N", default_value = "32", help_heading = "Channels")]
    pub width_multiple: NonZeroUsize,
    /// Model directory to write, or file with --for llama.cpp
    #[arg(short, long, value_name = "PATH", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace the output directory if it is a model directory with nothing else in it
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Measure and plan, but only show what would be written
    #[arg(long, help_heading = "Output", conflicts_with = "report")]
    pub dry_run: bool,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// How the numbers of factored matrices are rounded to types of 16 bits
    #[arg(
        long,
        value_name = "ROUNDING",
        value_parser = named::<Rounding>(),
        default_value = "fitted",
        help_heading = "Ranks"
    )]
    pub rounding: Rounding,
    /// Also try the other storage for each factored matrix of 16 bits, at no more parameters, and take
    /// the one that is nearer as stored; makes these matrices two more times
    #[arg(long, help_heading = "Ranks")]
    pub choose_storage: bool,
    /// How matrices are approximated.
    #[command(flatten)]
    pub method: MethodArgs,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How the model is compressed block by block.
    #[command(flatten)]
    pub blockwise: BlockwiseArgs,
    /// After factoring, take one step with all factors towards what the dense model predicts, as far
    /// as that helps on the last windows of the calibration's text; needs gradients
    #[arg(long, help_heading = "Distillation")]
    pub distill: bool,
    /// Windows at the end of the calibration's text on which lengths of that step are compared
    #[arg(long, value_name = "N", default_value = "8", help_heading = "Distillation")]
    pub distill_windows: NonZeroUsize,
    /// Where the calibration and the blocks are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Which matrices are selected.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Whether convolutions are matrices too.
    #[command(flatten)]
    pub convolutions: ConvolutionArgs,
    /// Limits on measuring and factoring.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// How large the files of weights are.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
