//! Arguments of the commands that compress a model.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use welore_burn::forms::Storage;
use welore_burn::plan::{RankPolicy, Target};

use super::choices::named;
use super::compute::ComputeArgs;
use super::general::{PageArgs, size, size_above_0};
use super::method::Way;

/// Arguments of `analyze`.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Hugging Face model directory (config.json, tokenizer.json, safetensors), or
    /// org/name(@revision) on the Hub, or a .gguf file
    pub model: PathBuf,
    /// Write the spectra here, for `plan`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What measuring and factoring may use.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Resources")]
pub struct ResourceArgs {
    /// Matrices that are worked on at once, sharing the cores [default: number of cores]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Most memory for the matrices that are worked on, such as 3GB; each waits until it fits
    /// [default: as much as the jobs need]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Measure every matrix, including those measured before, and keep no results
    #[arg(long)]
    pub no_cache: bool,
}

/// How large files are.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output")]
pub struct ShardArgs {
    /// Start a new file of weights at about this size, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = size_above_0, default_value = "5GB")]
    pub shard_size: u64,
}

/// Which matrices to look at.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Matrices")]
pub struct SelectionArgs {
    /// Only matrices whose name matches, such as `q_proj` or `*.layers.3.*`
    /// [default: attention and MLP projections]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Leave out matrices whose name matches
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub exclude: Vec<String>,
}

/// How ranks are chosen.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Ranks")]
pub struct TargetArgs {
    /// How ranks are chosen [default: loss with the gradients of a calibration, energy with its
    /// inputs alone, else welore]
    #[arg(long, value_parser = named::<&dyn RankPolicy>())]
    pub policy: Option<&'static dyn RankPolicy>,
    /// Factor a matrix only if it loses more than this share of its ranks; for the policies welore
    /// and uniform
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger
    #[arg(long)]
    pub never_grow: bool,
    /// How low-rank matrices are stored [default: pivot with a calibration, else factors]
    #[arg(long, value_parser = named::<Storage>())]
    pub storage: Option<Storage>,
}

/// How far a model is to be reduced.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Target")]
pub struct GoalArgs {
    /// Effective rank reduction to reach: the share of all ranks to remove, in (0, 1)
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// Largest share of the parameters of these matrices to keep, in (0, 1)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, conflicts_with = "err")]
    pub keep_params: Option<f64>,
    /// Largest size of the whole model, such as 400MB
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["err", "keep_params"])]
    pub max_bytes: Option<u64>,
}

impl GoalArgs {
    /// The target, if one was given.
    pub fn target(&self) -> Option<Target> {
        let err = self.err.map(Target::Err);
        let keep = self.keep_params.map(Target::KeepParams);
        err.or(keep).or(self.max_bytes.map(Target::MaxBytes))
    }
}

/// What factors are best for.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Method")]
pub struct MethodArgs {
    /// Calibration that `calibrate` wrote
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// What the factors are best for [default: two-sided with a calibration, else svd]
    #[arg(long, value_parser = named::<&Way>())]
    pub method: Option<&'static Way>,
    /// How much is added to the second moments of inputs, as a share of their mean [default: 0.001]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub shrink_inputs: Option<f64>,
    /// How much is added to the second moments of gradients, as a share of their mean
    /// [default: 0.3]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub shrink_gradients: Option<f64>,
}

/// Arguments of `calibrate`.
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// UTF-8 text to calibrate on, or a .jsonl file whose lines have a `text` each
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub text: PathBuf,
    /// Write the calibration here, for `plan` and `compress`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    /// Show what would be read and measured, and write nothing
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// How much of the text is read.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// How much of a text is read to calibrate.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Calibration")]
pub struct AmountArgs {
    /// Most windows of the text to read
    #[arg(long, alias = "calibration-blocks", value_name = "N", default_value_t = 64)]
    pub calibration_windows: usize,
    /// Most windows to compute gradients on; 0 for none, which is enough for --method whitened
    #[arg(long, alias = "gradient-blocks", value_name = "N", default_value_t = 16)]
    pub gradient_windows: usize,
    /// Windows to probe every matrix on, for --policy probed; takes as long as all the rest
    #[arg(long, alias = "probe-blocks", value_name = "N", default_value_t = 0)]
    pub probe_windows: usize,
    /// Tokens in a window of the calibration
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub calibration_seq_len: usize,
    /// What to do if the text has fewer tokens than a matrix has inputs
    #[arg(long, value_enum, default_value_t = TooLittleArg::Refuse)]
    pub too_little: TooLittleArg,
}

/// What to do if there is too little text.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLittleArg {
    /// say how much is needed
    Refuse,
    /// go on; shrinkage makes up for the directions that are missing
    Shrink,
}

/// How a model is compressed block by block.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Block by block")]
pub struct BlockwiseArgs {
    /// Most windows of the calibration's text to use [default: all]
    #[arg(long, alias = "fit-blocks", value_name = "N")]
    pub fit_windows: Option<usize>,
    /// How far --method sequential corrects the errors of earlier blocks, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub follow: f64,
    /// Train each compressed block to give the outputs of the dense one, for this many epochs of
    /// the calibration's text; with any calibrated method
    #[arg(long, value_name = "EPOCHS", default_value_t = 0)]
    pub refine: usize,
    /// Learning rate of --refine
    #[arg(long, value_name = "LR", default_value_t = 3e-5, allow_negative_numbers = true)]
    pub refine_lr: f64,
}

/// Arguments of `compare`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["calibrate", "calibration"])))]
pub struct CompareArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// UTF-8 texts to measure perplexity on
    #[arg(long, value_name = "FILE", required = true, help_heading = "Evaluation")]
    pub text: Vec<PathBuf>,
    /// Calibrate on this text first
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibrate: Option<PathBuf>,
    /// Calibration that `calibrate` wrote
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// Shares of the parameters of the matrices to keep
    #[arg(
        long,
        value_name = "SHARES",
        value_delimiter = ',',
        default_value = "0.9,0.8,0.7",
        help_heading = "Target"
    )]
    pub keep_params: Vec<f64>,
    /// Methods to compare, each with the policy and the storage that go with it; also
    /// METHOD/POLICY and METHOD/POLICY/STORAGE
    #[arg(
        long,
        value_name = "METHODS",
        value_delimiter = ',',
        default_value = "svd,whitened,best",
        help_heading = "Method"
    )]
    pub methods: Vec<String>,
    /// Most windows of each text
    #[arg(
        long,
        alias = "blocks",
        value_name = "N",
        default_value_t = 16,
        help_heading = "Evaluation"
    )]
    pub windows: usize,
    /// Tokens in a window
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Evaluation")]
    pub seq_len: usize,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How it is compressed block by block.
    #[command(flatten)]
    pub blockwise: BlockwiseArgs,
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

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goal").required(true).args(["err", "keep_params", "max_bytes"])))]
pub struct PlanArgs {
    /// Model directory, .gguf file, org/name(@revision) on the Hub, or a spectra file that `analyze` wrote
    #[arg(value_name = "MODEL|SPECTRA")]
    pub source: PathBuf,
    /// How far.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Write the plan here, for `compress`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What factors will be best for.
    #[command(flatten)]
    pub method: MethodArgs,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print the plan as JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `compress`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goal").required(true).args(["plan", "err", "keep_params", "max_bytes"])))]
pub struct CompressArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Carry out this plan
    #[arg(long, value_name = "FILE", help_heading = "Target", conflicts_with_all = ["policy", "min_ratio", "rank_multiple", "never_grow", "storage", "include", "exclude"])]
    pub plan: Option<PathBuf>,
    /// How far, to plan for it first.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Calibrate on this text first
    #[arg(long, value_name = "FILE", conflicts_with = "calibration", help_heading = "Calibration")]
    pub calibrate: Option<PathBuf>,
    /// Model directory to write
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace the output directory if it is a model directory
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Measure and plan, show what would be written, and write nothing
    #[arg(long, help_heading = "Output", conflicts_with = "report")]
    pub dry_run: bool,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What factors are best for.
    #[command(flatten)]
    pub method: MethodArgs,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How it is compressed block by block.
    #[command(flatten)]
    pub blockwise: BlockwiseArgs,
    /// Where the calibration and the blocks are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// How large files are.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
