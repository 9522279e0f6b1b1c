//! Arguments of `train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use welore_burn::data::TaskKind;
use welore_burn::named::Named;
use welore_burn::train::{ScheduleKind, TrainOptions, Trainable};

use super::chatting::TemplateArgs;
use super::choices::named;
use super::compression::SelectionArgs;
use super::compute::ComputeArgs;
use super::general::{PageArgs, whole};
use super::ranks::{GoalArgs, TargetArgs};
use super::texts::BosArg;

/// Arguments of `train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Resume the run in this directory from its last checkpoint, with exactly the steps that an
    /// uninterrupted run would take; a larger --steps extends it
    #[arg(long, value_name = "RUN", help_heading = "Run", conflicts_with_all = ["model", "adapter", "output", "text", "task", "data", "plan", "err", "err_applied", "keep_params", "max_bytes", "from_scratch", "epochs", "eval_text", "watch_text", "bos", "template"])]
    pub resume: Option<PathBuf>,
    /// How a new run starts.
    #[command(flatten)]
    pub start: TrainStartArgs,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Exit with code 3 at the end if no evaluation was better than that of the start; the run
    /// remembers this when it is resumed
    #[arg(long, help_heading = "Evaluation")]
    pub must_improve: bool,
    /// Show what would be trained, on what, and the time and memory that it is expected to take;
    /// with --resume, for the steps that are left. Tries a few steps with temporary files, and
    /// writes nothing else but the cache of spectra
    #[arg(long, help_heading = "Run", conflicts_with = "report")]
    pub dry_run: bool,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON at the end instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// How a new run starts.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").args(["text", "task"]).multiple(false)))]
pub struct TrainStartArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub;
    /// --from-scratch needs only its config.json and tokenizer.json
    #[arg(required_unless_present = "resume")]
    pub model: Option<PathBuf>,
    /// LoRA adapter of the PEFT library to add to the model first: the directory with its
    /// adapter_config.json. Training starts from the sum, which is dense and is kept in RUN/base
    #[arg(long, value_name = "DIR", conflicts_with_all = ["plan", "err", "err_applied", "keep_params", "max_bytes", "from_scratch"], help_heading = "Training")]
    pub adapter: Option<PathBuf>,
    /// UTF-8 text to train on, or a .jsonl file with a `text` on each line, or with `messages`, of
    /// which what the assistant says is learnt; can be repeated, and the texts then follow each other
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub text: Vec<PathBuf>,
    /// What begins with the token that begins texts (BOS) in the texts of the run
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t = BosArg::Auto,
        help_heading = "Data"
    )]
    pub bos: BosArg,
    /// What makes text of conversations.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Task to train on
    #[arg(long, value_name = "NAME", value_parser = named::<TaskKind>(), requires = "data", help_heading = "Data")]
    pub task: Option<TaskKind>,
    /// The task's file, or a directory of its files; a fifth of a single file is kept for testing
    #[arg(
        long,
        value_name = "PATH",
        requires = "task",
        conflicts_with = "text",
        help_heading = "Data"
    )]
    pub data: Option<PathBuf>,
    /// Run directory to create
    #[arg(
        short,
        long,
        value_name = "RUN",
        required_unless_present = "resume",
        help_heading = "Run"
    )]
    pub output: Option<PathBuf>,
    /// Compress the dense model first, with the plan in this file or compressed model directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["err", "err_applied", "keep_params", "max_bytes", "policy", "min_ratio", "rank_multiple", "never_grow", "storage", "keep_dense", "set_rank", "min_rank", "max_rank", "min_saving", "include", "exclude"], help_heading = "Target")]
    pub plan: Option<PathBuf>,
    /// How far the dense model is compressed first.
    #[command(flatten)]
    pub goal: GoalArgs,
    /// Start from random weights
    #[arg(long, conflicts_with_all = ["plan", "err", "err_applied", "keep_params", "max_bytes"], help_heading = "Training")]
    pub from_scratch: bool,
    /// Train for N epochs instead of a number of steps
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "steps",
        allow_negative_numbers = true,
        help_heading = "Training"
    )]
    pub epochs: Option<f64>,
    /// Text to evaluate on; without it, tasks use their test examples. The result of the run is the
    /// model that scores best, which may be the one that it starts from
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub eval_text: Option<PathBuf>,
    /// Another text whose perplexity is measured with every evaluation; it decides nothing
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub watch_text: Option<PathBuf>,
    /// Tokens per window of --eval-text and --watch-text [default: 512 as in `eval`, or the model's
    /// context if that is shorter]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub eval_seq_len: Option<usize>,
    /// Maximum number of windows or examples per evaluation [default: all]
    #[arg(long, alias = "eval-blocks", value_name = "N", help_heading = "Evaluation")]
    pub eval_windows: Option<usize>,
    /// Every N steps, record the singular values of the projections' gradients and how stable their
    /// leading directions are, in RUN/gradients.jsonl
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub track_gradients: Option<NonZeroUsize>,
    /// How the model is trained.
    #[command(flatten)]
    pub options: OptionsArgs,
    /// How ranks are chosen, for a target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which matrices are selected, for a target.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// The options on ranks and matrices.
pub const RANK_OPTIONS: [&str; 12] = [
    "policy",
    "min-ratio",
    "rank-multiple",
    "never-grow",
    "storage",
    "keep-dense",
    "set-rank",
    "min-rank",
    "max-rank",
    "min-saving",
    "include",
    "exclude",
];

/// How a model is trained. No field has a default here: defaults depend on the data, and a resumed
/// run has its own options.
///
/// A field has the name of the option of [`TrainOptions`] that it sets, with `_` for the dot of
/// `lora.rank`.
#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Training")]
pub struct OptionsArgs {
    /// What is trained; the rest is frozen [default: lrc; full with --from-scratch]
    #[arg(long, value_parser = named::<Trainable>())]
    pub trainable: Option<Trainable>,
    /// Tokens per window, or maximum tokens per example [default: 1024, 512 for tasks, or the
    /// model's context if that is shorter]
    #[arg(long, value_name = "N")]
    pub seq_len: Option<usize>,
    /// Windows or examples per batch [default: 4; 8 for tasks]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Number of batches whose gradients are summed for one step [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Total number of steps; with --resume, a larger number extends the run [default: 10000; 1000
    /// for tasks]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Peak learning rate [default: 5e-5]
    #[arg(long, allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// How the learning rate falls after warm-up [default: cosine]
    #[arg(long, value_parser = named::<ScheduleKind>())]
    pub schedule: Option<ScheduleKind>,
    /// Steps over which the learning rate rises [default: a tenth of all steps, at most 500]
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Learning rate at the end, as a share of the peak [default: 0.1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub lr_floor: Option<f64>,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
    /// Clip gradients to this global norm [default: no clipping]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip: Option<f64>,
    /// Read the data in order instead of shuffling it in every epoch
    #[arg(long)]
    #[serde(skip)]
    pub no_shuffle: bool,
    /// Random seed for shuffling, adapters and random weights [default: 0]
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Recompute the activations of the model's blocks in the backward pass instead of storing
    /// them: less memory, about a third more work
    #[arg(long)]
    #[serde(skip)]
    pub recompute: bool,
    /// Rank of the adapters of --trainable lora [default: 8]
    #[arg(long, value_name = "R")]
    pub lora_rank: Option<usize>,
    /// Scale of the adapters, divided by their rank [default: 16]
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub lora_alpha: Option<f64>,
    /// Rank of the projected gradients of --trainable galore [default: 128]
    #[arg(long, value_name = "R")]
    pub galore_rank: Option<usize>,
    /// Steps between updates of the gradients' projections [default: 200]
    #[arg(long, value_name = "N")]
    pub galore_refresh: Option<usize>,
    /// Scale of the projected updates [default: 0.25]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub galore_scale: Option<f64>,
    /// Evaluate the start and every N steps; 0 for never [default: only the start and the end if
    /// --eval-text is given, otherwise never]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub eval_every: Option<usize>,
    /// Stop after N evaluations in a row without a better score
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub patience: Option<usize>,
    /// Save a checkpoint every N steps; 0 for only at the end [default: 500]
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
}

impl OptionsArgs {
    /// The given options, by their names in [`TrainOptions`].
    pub fn given(&self) -> Map<String, Value> {
        let fields = serde_json::to_value(self).expect("numbers and names serialize");
        let Value::Object(fields) = fields else { unreachable!("a struct is an object") };
        let mut given: Map<String, Value> =
            fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
        if self.no_shuffle {
            given.insert("shuffle".into(), false.into());
        }
        if self.recompute {
            given.insert("recompute".into(), true.into());
        }
        given
    }

    /// `base`, with the given options in place of its own.
    pub fn over(&self, base: &TrainOptions) -> TrainOptions {
        let mut options = serde_json::to_value(base).expect("options serialize");
        for (name, value) in self.given() {
            *field_of(&mut options, &name) = value;
        }
        serde_json::from_value(options).expect("options of the same types")
    }

    /// The flag of a given option that has no effect, because only another way to train reads it,
    /// and that way.
    pub fn idle(&self, chosen: Trainable) -> Option<(String, Trainable)> {
        let given = self.given();
        let others = Trainable::all().iter().filter(|other| **other != chosen);
        let mut idle = others.flat_map(|other| other.options().iter().map(|name| (*name, *other)));
        let (name, other) = idle.find(|(name, _)| given.contains_key(&name.replace('.', "_")))?;
        Some((flag_of(name), other))
    }
}

/// The field that an option sets: `lora_rank` is the `rank` of `lora`.
fn field_of<'a>(options: &'a mut Value, name: &str) -> &'a mut Value {
    match name.split_once('_') {
        Some((group, field)) if options[group].is_object() => &mut options[group][field],
        _ => &mut options[name],
    }
}

/// The flag that sets an option of the library, such as `lora.rank`.
pub fn flag_of(name: &str) -> String {
    match name {
        // The only flag that states the opposite.
        "shuffle" => "--no-shuffle".into(),
        _ => format!("--{}", name.replace(['.', '_'], "-")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A command line of these options only.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: OptionsArgs,
    }

    fn given(line: &str) -> OptionsArgs {
        Line::parse_from(["train"].into_iter().chain(line.split_whitespace())).options
    }

    #[test]
    fn every_flag_sets_an_option_of_the_library() {
        let base = TrainOptions::default();
        assert_eq!(given("").over(&base), base);
        let line = "--trainable galore --seq-len 3 --batch-size 5 --accumulate 6 --steps 7 --lr 0.1 \
                    --schedule linear --warmup 9 --lr-floor 0.7 --weight-decay 0.3 --clip 2.5 \
                    --no-shuffle --seed 18446744073709551615 --recompute --lora-rank 11 \
                    --lora-alpha 0.9 --galore-rank 12 --galore-refresh 13 --galore-scale 0.123 \
                    --eval-every 14 --patience 15 --save-every 16";
        let changed = serde_json::to_value(given(line).over(&base)).unwrap();
        let base = serde_json::to_value(base).unwrap();
        assert_all_differ(&base, &changed, "");
        assert_eq!(changed["seed"], u64::MAX);
        assert_eq!(changed["galore"]["scale"], 0.123);
    }

    fn assert_all_differ(base: &Value, changed: &Value, name: &str) {
        match base {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| assert_all_differ(value, &changed[key], key));
            }
            _ => assert_ne!(base, changed, "{name}"),
        }
    }

    #[test]
    fn options_of_another_way_to_train_are_idle() {
        let idle = |line, chosen| given(line).idle(chosen);
        let (flag, of) = idle("--lora-alpha 3", Trainable::Lrc).unwrap();
        assert_eq!((flag.as_str(), of), ("--lora-alpha", Trainable::Lora));
        assert_eq!(idle("--lora-alpha 3", Trainable::Lora), None);
        assert_eq!(idle("--lr 3", Trainable::Full), None);
    }
}
