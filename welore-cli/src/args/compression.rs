//! Arguments of the commands that compress a model.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use welore_burn::plan::{Storage, Target};

use super::compute::ComputeArgs;
use super::general::{PageArgs, size, size_above_0};

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
    /// Matrices in flight at once, among which the cores are shared out [default: the cores]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Most memory for the matrices in flight, such as 3GB; each waits until it fits
    /// [default: what the jobs need]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Measure every matrix, also those that were measured before, and keep nothing
    #[arg(long)]
    pub no_cache: bool,
}

/// How files are cut.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output")]
pub struct ShardArgs {
    /// Close a file of weights at about this size, such as 2GB
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
    /// Not the matrices whose name matches
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub exclude: Vec<String>,
}

/// How ranks are chosen.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Ranks")]
pub struct TargetArgs {
    /// How ranks are chosen [default: loss with gradients of a calibration, energy with inputs
    /// alone, else welore]
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Factor a matrix only if it loses more than this share of its ranks; of the policies welore
    /// and uniform
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger
    #[arg(long)]
    pub never_grow: bool,
    /// How factored matrices are stored [default: pivot with a calibration, else factors]
    #[arg(long, value_enum)]
    pub storage: Option<StorageArg>,
}

/// How far a model is to be reduced.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Target")]
pub struct GoalArgs {
    /// Effective rank reduction to reach: the share of all ranks to remove, in (0, 1)
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// Share of the parameters of these matrices to keep at most, in (0, 1)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, conflicts_with = "err")]
    pub keep_params: Option<f64>,
    /// Most bytes that the whole model may take, such as 400MB
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

/// How factored matrices are stored.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageArg {
    /// Two factors, r (m + n) parameters
    Factors,
    /// Rows of the matrix and what makes the others of them, r (m + n - r) parameters
    Pivot,
}

impl From<StorageArg> for Storage {
    fn from(storage: StorageArg) -> Self {
        match storage {
            StorageArg::Factors => Self::Factors,
            StorageArg::Pivot => Self::Pivot,
        }
    }
}

/// In what sense factors are the best.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Method")]
pub struct MethodArgs {
    /// What the matrices see and do on a text, as `calibrate` wrote it
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// In what sense factors are the best [default: two-sided with a calibration, else svd]
    #[arg(long, value_enum)]
    pub method: Option<MethodArg>,
    /// Added to the second moments of inputs, as a share of their mean [default: 0.001]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub shrink_inputs: Option<f64>,
    /// Added to the second moments of gradients, as a share of their mean [default: 0.3]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub shrink_gradients: Option<f64>,
}

/// The methods.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodArg {
    /// The truncated singular value decomposition of the weights, as in the paper
    Svd,
    /// The smallest error for the inputs of a calibration
    Whitened,
    /// The smallest error for inputs and gradients of a calibration
    TwoSided,
    /// The same, block after block, each for what the compressed blocks before it leave
    Sequential,
    /// The recommended pipeline: two-sided, with what goes with it
    Best,
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
    /// Tell what would be read and measured, and write nothing
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
    /// Most blocks of the text to read
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub calibration_blocks: usize,
    /// Most blocks to compute gradients of; 0 for none, which is enough for --method whitened
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub gradient_blocks: usize,
    /// Blocks to probe every matrix on, for --policy probed; takes as long as all else
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub probe_blocks: usize,
    /// Tokens in a block of the calibration
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub calibration_seq_len: usize,
    /// What to do with fewer tokens than a matrix has inputs
    #[arg(long, value_enum, default_value_t = TooLittleArg::Refuse)]
    pub too_little: TooLittleArg,
}

/// What to do with too little text.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLittleArg {
    /// Say how much is needed
    Refuse,
    /// Go on, with moments shrunk towards equal ones
    Shrink,
}

/// How sequential factors are fitted.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Fitting")]
pub struct FitArgs {
    /// Most blocks of the calibration's text to fit to [default: all]
    #[arg(long, value_name = "N")]
    pub fit_blocks: Option<usize>,
    /// How far factors of --method sequential make up for those before them, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub follow: f64,
    /// How often the text is read to refine each block to answer as the dense one does, with any
    /// calibrated method
    #[arg(long, value_name = "EPOCHS", default_value_t = 0)]
    pub refine: usize,
    /// Learning rate of refining
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
    /// The calibration, as `calibrate` wrote it
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
    /// Methods to compare, each with the policies and storage that go with it, or METHOD/POLICY
    /// or METHOD/POLICY/STORAGE
    #[arg(
        long,
        value_name = "METHODS",
        value_delimiter = ',',
        default_value = "svd,whitened,best",
        help_heading = "Method"
    )]
    pub methods: Vec<String>,
    /// Most blocks of each text
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Evaluation")]
    pub blocks: usize,
    /// Tokens in a block
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Evaluation")]
    pub seq_len: usize,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How sequential factors are fitted.
    #[command(flatten)]
    pub fit: FitArgs,
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

/// The rank policies.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One threshold on min-max normalized singular values, for the whole model
    Welore,
    /// The same share of ranks from every matrix
    Uniform,
    /// The least sum of relative errors
    Energy,
    /// The least sum of errors in units of the loss, which gradients of a calibration give
    Loss,
    /// The same, scaled by what a probe of every matrix really cost
    Probed,
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
    /// In what sense factors will be the best.
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
    /// Measure and plan, tell what would be written, and write nothing
    #[arg(long, help_heading = "Output", conflicts_with = "report")]
    pub dry_run: bool,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// In what sense factors are the best.
    #[command(flatten)]
    pub method: MethodArgs,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How sequential factors are fitted.
    #[command(flatten)]
    pub fit: FitArgs,
    /// Where a calibration and sequential factors are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// How files are cut.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
