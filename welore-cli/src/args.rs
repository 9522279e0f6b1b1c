//! The command line, as clap reads it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use burn::tensor::FloatDType;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use welore_burn::data::TaskKind;
use welore_burn::train::{GaloreSettings, LoraSettings, ScheduleKind, TrainSettings, Trainable};

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
    /// Fine-tune a model on a text or a task, by default only its low-rank components
    Train(Box<TrainArgs>),
    /// Measure a model's perplexity on a text, or its accuracy on a task
    Eval(EvalArgs),
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

/// Where numbers are computed, and in which type.
#[derive(Args, Debug, Clone)]
pub struct ComputeArgs {
    /// What computes; auto is a GPU if one is there, else flex, the CPU
    #[arg(long, value_enum, env = "WELORE_BACKEND", default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
    /// Number of the device, as `welore-cli devices` lists them [default: 0]
    #[arg(long, value_name = "N")]
    pub device: Option<usize>,
    /// Type to compute in; what trains is kept in f32 beside it [default: f32]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,
}

/// The backends.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendArg {
    /// The best that is there
    Auto,
    /// The CPU
    Flex,
    /// GPUs by what wgpu finds, with WGSL shaders
    Wgpu,
    /// GPUs by Vulkan, with SPIR-V shaders
    Vulkan,
    /// Apple GPUs
    Metal,
    /// NVIDIA GPUs
    Cuda,
    /// The CPU, by CubeCL's kernels
    Cpu,
}

/// The types to compute in.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeArg {
    /// 32 bits
    #[default]
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits with more digits and less range
    F16,
}

impl DtypeArg {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Burn's type.
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
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
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What measuring and factoring may use.
#[derive(Args, Debug, Clone, Default)]
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
pub struct ShardArgs {
    /// Close a file of weights at about this size, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = shard_size, default_value = "5GB")]
    pub shard_size: u64,
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.0)
}

fn shard_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("it must be more than 0".into()),
        bytes => Ok(bytes),
    }
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
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
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
    /// What it may use.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// How files are cut.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Go on with the run in this directory, exactly where its last checkpoint is
    #[arg(long, value_name = "RUN", conflicts_with_all = ["model", "output", "text", "task", "data", "plan", "err", "from_scratch", "epochs", "eval_text"])]
    pub resume: Option<PathBuf>,
    /// How a new run starts.
    #[command(flatten)]
    pub start: TrainStartArgs,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON instead of a summary when done
    #[arg(long)]
    pub json: bool,
}

/// How a new run starts.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").args(["text", "task"]).multiple(false)))]
pub struct TrainStartArgs {
    /// Model directory, compressed or dense; with --from-scratch one with config.json and
    /// tokenizer.json
    #[arg(required_unless_present = "resume")]
    pub model: Option<PathBuf>,
    /// UTF-8 text to train on, or a .jsonl file whose lines have a `text` each
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Task to train on
    #[arg(long, value_name = "NAME", value_enum, requires = "data")]
    pub task: Option<TaskArg>,
    /// The task's file, or a directory with its files; a fifth of a single file is for testing
    #[arg(long, value_name = "PATH", requires = "task")]
    pub data: Option<PathBuf>,
    /// Run directory to write
    #[arg(short, long, value_name = "RUN", required_unless_present = "resume")]
    pub output: Option<PathBuf>,
    /// Compress the dense model by this plan first
    #[arg(long, value_name = "FILE", conflicts_with_all = ["err", "policy", "min_ratio", "rank_multiple", "never_grow", "include", "exclude"])]
    pub plan: Option<PathBuf>,
    /// Compress the dense model at this effective rank reduction first
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// Start from random weights
    #[arg(long, conflicts_with_all = ["plan", "err"])]
    pub from_scratch: bool,
    /// Epochs instead of steps
    #[arg(long, value_name = "N", conflicts_with = "steps", allow_negative_numbers = true)]
    pub epochs: Option<f64>,
    /// Text to evaluate on; a task is evaluated on its test examples
    #[arg(long, value_name = "FILE")]
    pub eval_text: Option<PathBuf>,
    /// Most blocks or examples of an evaluation [default: all]
    #[arg(long, value_name = "N")]
    pub eval_blocks: Option<usize>,
    /// How training goes.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// How ranks are chosen, with --err.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices are looked at, with --err.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

impl TrainStartArgs {
    /// The options that say how ranks are chosen, as far as they change anything.
    pub fn rank_options(&self) -> Vec<&'static str> {
        let TargetArgs { policy, min_ratio, rank_multiple, never_grow } = self.target;
        let SelectionArgs { include, exclude } = &self.selection;
        let options = [
            ("--policy", policy != Policy::Welore),
            ("--min-ratio", min_ratio != 0.5),
            ("--rank-multiple", rank_multiple != 1),
            ("--never-grow", never_grow),
            ("--include", !include.is_empty()),
            ("--exclude", !exclude.is_empty()),
        ];
        options.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect()
    }
}

/// How training goes. Nothing has a default here: it depends on what is trained on, and a
/// resumed run has its own.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// What is trained; all else is frozen [default: lrc; full with --from-scratch]
    #[arg(long, value_enum)]
    pub trainable: Option<TrainableArg>,
    /// Tokens in a block, or most tokens of an example [default: 1024; 512 for tasks]
    #[arg(long, value_name = "N")]
    pub seq_len: Option<usize>,
    /// Blocks or examples in a batch [default: 4; 8 for tasks]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Batches whose gradients make one step [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Steps in all [default: 10000; 1000 for tasks]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Largest learning rate [default: 5e-5]
    #[arg(long, allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// How the learning rate falls after warm-up [default: cosine]
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleArg>,
    /// Steps over which the learning rate rises [default: a tenth of all, at most 500]
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Share of the learning rate that it falls to [default: 0.1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub lr_floor: Option<f64>,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
    /// Scale gradients down to this global norm [default: leave them]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip: Option<f64>,
    /// Read the data in its order, not shuffled anew in every epoch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Seed of the shuffling, of adapters, and of random weights [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Compute blocks of the model again for the backward pass instead of storing what they
    /// computed: less memory, about a third more work
    #[arg(long)]
    pub recompute: bool,
    /// Rank of the adapters of --trainable lora [default: 8]
    #[arg(long, value_name = "R")]
    pub lora_rank: Option<usize>,
    /// Scale of the adapters, over their rank [default: 16]
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub lora_alpha: Option<f64>,
    /// Rank of the gradients of --trainable galore [default: 128]
    #[arg(long, value_name = "R")]
    pub galore_rank: Option<usize>,
    /// Steps between new projections of the gradients [default: 200]
    #[arg(long, value_name = "N")]
    pub galore_refresh: Option<usize>,
    /// Scale of projected updates [default: 0.25]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub galore_scale: Option<f64>,
    /// Evaluate every so many steps; 0 is never [default: at the end if there is --eval-text]
    #[arg(long, value_name = "N")]
    pub eval_every: Option<usize>,
    /// End after so many evaluations without a better one
    #[arg(long, value_name = "N")]
    pub patience: Option<usize>,
    /// Save a checkpoint every so many steps; 0 is only at the end [default: 500]
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
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
    /// LoRA adapters on all projections
    Lora,
    /// Every parameter, with the gradients of projections projected to low rank
    Galore,
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

/// The tasks.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskArg {
    /// CommonsenseQA, multiple choice
    Commonsenseqa,
    /// SVAMP, arithmetic in words
    Svamp,
    /// BoolQ, yes or no about a passage
    Boolq,
    /// Coin flips, yes or no
    Coinflip,
    /// BIG-bench's tracking of shuffled objects
    ObjectTracking,
    /// StrategyQA, yes or no
    Strategyqa,
    /// Lines with a `prompt` and a `response` each
    Jsonl,
}

impl From<TaskArg> for TaskKind {
    fn from(task: TaskArg) -> Self {
        match task {
            TaskArg::Commonsenseqa => Self::CommonsenseQa,
            TaskArg::Svamp => Self::Svamp,
            TaskArg::Boolq => Self::BoolQ,
            TaskArg::Coinflip => Self::CoinFlip,
            TaskArg::ObjectTracking => Self::ObjectTracking,
            TaskArg::Strategyqa => Self::StrategyQa,
            TaskArg::Jsonl => Self::Jsonl,
        }
    }
}

impl SettingsArgs {
    /// `base`, with what was given instead.
    pub fn over(&self, base: TrainSettings) -> TrainSettings {
        let trainable = self.trainable.map(|trainable| match trainable {
            TrainableArg::Lrc => Trainable::Lrc,
            TrainableArg::Full => Trainable::Full,
            TrainableArg::Nlrc => Trainable::Nlrc,
            TrainableArg::Lora => Trainable::Lora,
            TrainableArg::Galore => Trainable::Galore,
        });
        let schedule = self.schedule.map(|schedule| match schedule {
            ScheduleArg::Constant => ScheduleKind::Constant,
            ScheduleArg::Cosine => ScheduleKind::Cosine,
            ScheduleArg::Linear => ScheduleKind::Linear,
        });
        TrainSettings {
            trainable: trainable.unwrap_or(base.trainable),
            seq_len: self.seq_len.unwrap_or(base.seq_len),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            accumulate: self.accumulate.unwrap_or(base.accumulate),
            steps: self.steps.unwrap_or(base.steps),
            lr: self.lr.unwrap_or(base.lr),
            schedule: schedule.unwrap_or(base.schedule),
            warmup: self.warmup.unwrap_or(base.warmup),
            lr_floor: self.lr_floor.unwrap_or(base.lr_floor),
            weight_decay: self.weight_decay.unwrap_or(base.weight_decay),
            clip: self.clip.or(base.clip),
            shuffle: base.shuffle && !self.no_shuffle,
            seed: self.seed.unwrap_or(base.seed),
            recompute: base.recompute || self.recompute,
            lora: LoraSettings {
                rank: self.lora_rank.unwrap_or(base.lora.rank),
                alpha: self.lora_alpha.unwrap_or(base.lora.alpha),
            },
            galore: GaloreSettings {
                rank: self.galore_rank.unwrap_or(base.galore.rank),
                refresh: self.galore_refresh.unwrap_or(base.galore.refresh),
                scale: self.galore_scale.unwrap_or(base.galore.scale),
            },
            eval_every: self.eval_every.unwrap_or(base.eval_every),
            patience: self.patience.or(base.patience),
            save_every: self.save_every.unwrap_or(base.save_every),
        }
    }
}

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model directory, dense or compressed
    pub model: PathBuf,
    /// UTF-8 text to predict
    #[arg(long, value_name = "FILE", required_unless_present = "task")]
    pub text: Option<PathBuf>,
    /// Task to answer instead, its test examples
    #[arg(long, value_name = "NAME", value_enum, requires = "data", conflicts_with = "text")]
    pub task: Option<TaskArg>,
    /// The task's file, or a directory with its files; a fifth of a single file is for testing
    #[arg(long, value_name = "PATH", requires = "task")]
    pub data: Option<PathBuf>,
    /// Tokens in a block
    #[arg(long, value_name = "N", default_value_t = 512, conflicts_with = "task")]
    pub seq_len: usize,
    /// Most blocks or examples to use [default: all]
    #[arg(long, value_name = "N")]
    pub blocks: Option<usize>,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
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
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
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
    /// How files are cut.
    #[command(flatten)]
    pub shards: ShardArgs,
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
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
