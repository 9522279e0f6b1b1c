//! Arguments of calibrating a model on a text.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use welore_burn::calibrate::GradientLabels;

use super::chatting::TemplateArgs;
use super::choices::named;
use super::compute::ComputeArgs;
use super::effort::Effort;
use super::general::whole;
use super::texts::{BosArg, TextArg, calibration_text};

/// Arguments of `calibrate`.
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// UTF-8 texts to calibrate on, or .jsonl files with a `text` or `messages` on each line, separated by
    /// commas; `self` is a text that the model writes first (a file of this name is ./self);
    /// several texts give the same number of windows
    #[arg(
        long,
        value_name = "TEXT",
        value_delimiter = ',',
        value_parser = calibration_text(),
        required = true,
        help_heading = "Calibration"
    )]
    pub text: Vec<TextArg>,
    /// What makes text of conversations.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Write the calibration to this file, for `plan`, `compress` and `compare`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    /// Show what would be measured, and the time and memory that it is expected to take: tries a few
    /// windows with temporary files, and writes nothing else
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// How much of the text is read.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// Where numbers are computed.
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
    /// How long you are willing to wait: decides the numbers of windows that are not given
    #[arg(long, value_name = "EFFORT", value_parser = named::<&Effort>(), default_value = "normal")]
    pub effort: &'static Effort,
    /// Maximum number of windows of the text to read [default: 64 to 256, more for wider matrices; 128
    /// to 512 of the model's own text alone]
    #[arg(long, alias = "calibration-blocks", value_name = "N")]
    pub calibration_windows: Option<usize>,
    /// Maximum number of windows to compute gradients on; 0 is enough for --method whitened
    /// [default: 16 to 128, more for wider matrices; 32 to 128 of the model's own text alone]
    #[arg(long, alias = "gradient-blocks", value_name = "N")]
    pub gradient_windows: Option<usize>,
    /// Which tokens the loss takes for the right ones where its gradients are measured
    #[arg(
        long,
        value_name = "LABELS",
        value_parser = named::<GradientLabels>(),
        default_value = "text"
    )]
    pub gradient_labels: GradientLabels,
    /// Random seed with which the model's own labels are drawn
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u64>,
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub label_seed: u64,
    /// Number of windows to probe every matrix on, for --policy probed; needs gradients, and takes
    /// about as long as the rest of the calibration
    #[arg(long, alias = "probe-blocks", value_name = "N", default_value_t = 0)]
    pub probe_windows: usize,
    /// Tokens per window of the calibration [default: 512, and 256 of the model's own text alone; at
    /// most the model's context]
    #[arg(long, value_name = "N")]
    pub calibration_seq_len: Option<usize>,
    /// What begins with the token that begins texts (BOS), where texts are read from files
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = BosArg::Auto)]
    pub bos: BosArg,
    /// How the model writes its own text.
    #[command(flatten)]
    pub own: OwnTextArgs,
    /// What to do if the text has fewer tokens than a matrix has inputs
    #[arg(long, value_enum, value_name = "ACTION", default_value_t = TooLittleArg::Refuse)]
    pub too_little: TooLittleArg,
}

/// How the model writes the text `self`.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Calibration")]
pub struct OwnTextArgs {
    /// Number of samples in the text that the model writes, `self` [default: as many as fill its
    /// windows]
    #[arg(long, value_name = "N")]
    pub self_samples: Option<usize>,
    /// Tokens per sample [default: --calibration-seq-len]
    #[arg(long, value_name = "N")]
    pub self_length: Option<usize>,
    /// Temperature of sampling; at 1, tokens have the probabilities that the model gives them
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub self_temperature: f64,
    /// Random seed for sampling
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u64>,
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub self_seed: u64,
    /// Number of the token that every sample starts from [default: the one that begins a text
    /// according to config.json, or else the first that ends one]
    #[arg(long, value_name = "ID", value_parser = whole::<u32>, allow_negative_numbers = true)]
    pub self_start: Option<u32>,
}

/// What to do if there is too little text.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLittleArg {
    /// stop, and report how much text is needed
    Refuse,
    /// continue; shrinkage makes up for the missing directions
    Shrink,
}
