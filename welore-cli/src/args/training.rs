//! Arguments of `train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use welore_burn::data::TaskKind;
use welore_burn::train::{GaloreSettings, LoraSettings, ScheduleKind, TrainSettings, Trainable};

use super::compression::{GoalArgs, SelectionArgs, TargetArgs};
use super::compute::ComputeArgs;
use super::general::PageArgs;

/// Arguments of `train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Go on with the run in this directory, exactly where its last checkpoint is
    #[arg(long, value_name = "RUN", help_heading = "Run", conflicts_with_all = ["model", "output", "text", "task", "data", "plan", "err", "keep_params", "max_bytes", "from_scratch", "epochs", "eval_text"])]
    pub resume: Option<PathBuf>,
    /// How a new run starts.
    #[command(flatten)]
    pub start: TrainStartArgs,
    /// Where it is computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Tell what would be trained on what, and write nothing
    #[arg(long, help_heading = "Run", conflicts_with_all = ["resume", "report"])]
    pub dry_run: bool,
    /// A page of it.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a summary when done
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// How a new run starts.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").args(["text", "task"]).multiple(false)))]
pub struct TrainStartArgs {
    /// Model directory, compressed or dense, .gguf file, or org/name(@revision) on the Hub; with
    /// --from-scratch one with config.json and tokenizer.json
    #[arg(required_unless_present = "resume")]
    pub model: Option<PathBuf>,
    /// UTF-8 text to train on, or a .jsonl file whose lines have a `text` each
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub text: Option<PathBuf>,
    /// Task to train on
    #[arg(long, value_name = "NAME", value_enum, requires = "data", help_heading = "Data")]
    pub task: Option<TaskArg>,
    /// The task's file, or a directory with its files; a fifth of a single file is for testing
    #[arg(
        long,
        value_name = "PATH",
        requires = "task",
        conflicts_with = "text",
        help_heading = "Data"
    )]
    pub data: Option<PathBuf>,
    /// Run directory to write
    #[arg(
        short,
        long,
        value_name = "RUN",
        required_unless_present = "resume",
        help_heading = "Run"
    )]
    pub output: Option<PathBuf>,
    /// Compress the dense model by this plan first
    #[arg(long, value_name = "FILE", conflicts_with_all = ["err", "keep_params", "max_bytes", "policy", "min_ratio", "rank_multiple", "never_grow", "storage", "include", "exclude"], help_heading = "Target")]
    pub plan: Option<PathBuf>,
    /// How far the dense model is compressed first.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Start from random weights
    #[arg(long, conflicts_with_all = ["plan", "err", "keep_params", "max_bytes"], help_heading = "Training")]
    pub from_scratch: bool,
    /// Epochs instead of steps
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "steps",
        allow_negative_numbers = true,
        help_heading = "Training"
    )]
    pub epochs: Option<f64>,
    /// Text to evaluate on; a task is evaluated on its test examples
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub eval_text: Option<PathBuf>,
    /// Most blocks or examples of an evaluation [default: all]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub eval_blocks: Option<usize>,
    /// Record the gradients of the projections every N steps in RUN/gradients.jsonl: their singular
    /// values, and how far their leading directions stay the same
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub track_gradients: Option<NonZeroUsize>,
    /// How training goes.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// How ranks are chosen, with a target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices are looked at, with a target.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

impl TrainStartArgs {
    /// The options that say how ranks are chosen, as far as they change anything.
    pub fn rank_options(&self) -> Vec<&'static str> {
        let TargetArgs { policy, min_ratio, rank_multiple, never_grow, storage } = self.target;
        let SelectionArgs { include, exclude } = &self.selection;
        let options = [
            ("--policy", policy.is_some()),
            ("--min-ratio", min_ratio != 0.5),
            ("--rank-multiple", rank_multiple != 1),
            ("--never-grow", never_grow),
            ("--storage", storage.is_some()),
            ("--include", !include.is_empty()),
            ("--exclude", !exclude.is_empty()),
        ];
        options.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect()
    }
}

/// How training goes. Nothing has a default here: it depends on what is trained on, and a
/// resumed run has its own.
#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
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
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub eval_every: Option<usize>,
    /// End after so many evaluations without a better one
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
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
