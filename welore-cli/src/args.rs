//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use welore_burn::train::{ScheduleKind, TrainSettings, Trainable};

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
    /// Decide which matrices are factored, at which rank
    Plan(PlanArgs),
    /// Factor a model's low-rank matrices and write the smaller model
    Compress(CompressArgs),
    /// Fine-tune a model on a text, by default only its low-rank components
    Train(Box<TrainArgs>),
    /// Measure a model's perplexity on a text
    Eval(EvalArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Turn a compressed model into a plain dense one
    Export(ExportArgs),
    /// Tell what a model directory holds
    Inspect(InspectArgs),
    /// Show the whole road on a tiny built-in model
    Demo(DemoArgs),
}

/// Arguments of `analyze`.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Hugging Face model directory (config.json, tokenizer.json, safetensors)
    pub model: PathBuf,
    /// Write the spectra here, for `plan`
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Which matrices to look at.
#[derive(Args, Debug, Clone)]
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
pub struct TargetArgs {
    /// How ranks are chosen
    #[arg(long, value_enum, default_value_t = Policy::Welore)]
    pub policy: Policy,
    /// Factor a matrix only if it loses more than this share of its ranks
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger
    #[arg(long)]
    pub never_grow: bool,
}

/// The rank policies.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One threshold on min-max normalized singular values, for the whole model
    Welore,
    /// The same share of ranks from every matrix
    Uniform,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Model directory, or a spectra file that `analyze` wrote
    #[arg(value_name = "MODEL|SPECTRA")]
    pub source: PathBuf,
    /// Effective rank reduction to reach: the share of all ranks to remove, in (0, 1)
    #[arg(long, allow_negative_numbers = true)]
    pub err: f64,
    /// Write the plan here, for `compress`
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Print the plan as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `compress`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("goal").required(true).args(["plan", "err"])))]
pub struct CompressArgs {
    /// Dense Hugging Face model directory
    pub model: PathBuf,
    /// Carry out this plan
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policy", "min_ratio", "rank_multiple", "never_grow", "include", "exclude"])]
    pub plan: Option<PathBuf>,
    /// Plan for this effective rank reduction first, in (0, 1)
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// Model directory to write
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the output directory if it is a model directory
    #[arg(long)]
    pub force: bool,
    /// How ranks are chosen.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices to look at.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Go on with the run in this directory, exactly where its last checkpoint is
    #[arg(long, value_name = "RUN", conflicts_with_all = ["model", "text", "output"])]
    pub resume: Option<PathBuf>,
    /// How a new run starts.
    #[command(flatten)]
    pub start: TrainStartArgs,
    /// Print JSON instead of a summary when done
    #[arg(long)]
    pub json: bool,
}

/// How a new run starts.
#[derive(Args, Debug)]
pub struct TrainStartArgs {
    /// Model directory, compressed or dense
    #[arg(required_unless_present = "resume")]
    pub model: Option<PathBuf>,
    /// UTF-8 text to train on
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    pub text: Option<PathBuf>,
    /// Run directory to write
    #[arg(short, long, value_name = "RUN", required_unless_present = "resume")]
    pub output: Option<PathBuf>,
    /// Compress the dense model by this plan first
    #[arg(long, value_name = "FILE", conflicts_with = "err")]
    pub plan: Option<PathBuf>,
    /// Compress the dense model at this effective rank reduction first
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// What is trained; all else is frozen
    #[arg(long, value_enum, default_value_t = TrainableArg::Lrc)]
    pub trainable: TrainableArg,
    /// Tokens in a block
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub seq_len: usize,
    /// Blocks in a batch
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub batch_size: usize,
    /// Batches whose gradients make one step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub accumulate: usize,
    /// Steps in all
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub steps: usize,
    /// Largest learning rate
    #[arg(long, default_value_t = 5e-5, allow_negative_numbers = true)]
    pub lr: f64,
    /// How the learning rate falls after warm-up
    #[arg(long, value_enum, default_value_t = ScheduleArg::Cosine)]
    pub schedule: ScheduleArg,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub warmup: usize,
    /// Share of the learning rate that it falls to
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, allow_negative_numbers = true)]
    pub lr_floor: f64,
    /// Decoupled weight decay
    #[arg(long, value_name = "W", default_value_t = 0.0, allow_negative_numbers = true)]
    pub weight_decay: f64,
    /// Scale gradients down to this global norm
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip: Option<f64>,
    /// Read the text in its order, not shuffled anew in every epoch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Seed of the shuffling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Text to evaluate on
    #[arg(long, value_name = "FILE")]
    pub eval_text: Option<PathBuf>,
    /// Evaluate every so many steps; 0 is never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub eval_every: usize,
    /// Most blocks of an evaluation [default: the whole text]
    #[arg(long, value_name = "N")]
    pub eval_blocks: Option<usize>,
    /// Save a checkpoint every so many steps; 0 is only at the end
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub save_every: usize,
    /// How ranks are chosen, with --err.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices are looked at, with --err.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// What is trained.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainableArg {
    /// The factors of the low-rank components
    Lrc,
    /// Every parameter
    Full,
    /// The projections that stayed dense
    Nlrc,
}

/// How the learning rate falls after warm-up.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleArg {
    /// Not at all
    Constant,
    /// Along a half cosine
    Cosine,
    /// Along a line
    Linear,
}

impl TrainStartArgs {
    /// The settings of the run.
    pub fn settings(&self) -> TrainSettings {
        TrainSettings {
            trainable: match self.trainable {
                TrainableArg::Lrc => Trainable::Lrc,
                TrainableArg::Full => Trainable::Full,
                TrainableArg::Nlrc => Trainable::Nlrc,
            },
            seq_len: self.seq_len,
            batch_size: self.batch_size,
            accumulate: self.accumulate,
            steps: self.steps,
            lr: self.lr,
            schedule: match self.schedule {
                ScheduleArg::Constant => ScheduleKind::Constant,
                ScheduleArg::Cosine => ScheduleKind::Cosine,
                ScheduleArg::Linear => ScheduleKind::Linear,
            },
            warmup: self.warmup,
            lr_floor: self.lr_floor,
            weight_decay: self.weight_decay,
            clip: self.clip,
            shuffle: !self.no_shuffle,
            seed: self.seed,
            eval_every: self.eval_every,
            save_every: self.save_every,
        }
    }
}

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model directory, dense or compressed
    pub model: PathBuf,
    /// UTF-8 text to predict
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens in a block
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub seq_len: usize,
    /// Most blocks to use [default: the whole text]
    #[arg(long, value_name = "N")]
    pub blocks: Option<usize>,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model directory, dense or compressed
    pub model: PathBuf,
    /// Text to continue
    #[arg(long)]
    pub prompt: String,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_new_tokens: usize,
    /// 0 takes the most likely token; larger values take more chances
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Sample among this many most likely tokens
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that make up this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print JSON when done instead of text as it comes
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Compressed model directory
    pub model: PathBuf,
    /// Multiply the factors out, so that any Hugging Face tool can load the model
    #[arg(long, required = true)]
    pub dense: bool,
    /// Model directory to write
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the output directory if it is a model directory
    #[arg(long)]
    pub force: bool,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model directory, dense or compressed
    pub model: PathBuf,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Keep the model directories here
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Replace model directories that are there
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
