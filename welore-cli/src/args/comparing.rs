//! Arguments of `compare`.

use std::path::{Path, PathBuf};

use clap::Args;
use welore_burn::forms::Storage;
use welore_burn::plan::{RankPolicy, Target};

use super::calibrating::AmountArgs;
use super::choices::named;
use super::compression::{BlockwiseArgs, ResourceArgs, SelectionArgs, ShrinkArgs};
use super::compute::ComputeArgs;
use super::general::{PageArgs, size};
use super::ranks::RankArgs;
use super::series::{SeriesArg, series};
use super::texts::{TextArg, calibration_text};

/// Arguments of `compare`.
#[derive(Args, Debug)]
pub struct CompareArgs {
    /// Dense Hugging Face model directory, .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// UTF-8 text or .jsonl file to measure perplexity on; can be repeated
    #[arg(long, value_name = "FILE", required = true, help_heading = "Evaluation")]
    pub text: Vec<PathBuf>,
    /// Calibrate on these texts first, separated by commas; `self` is one that the model writes
    /// [default: self, if a method needs a calibration and no --calibration is given]
    #[arg(
        long,
        value_name = "TEXT",
        value_delimiter = ',',
        value_parser = calibration_text(),
        conflicts_with = "calibration",
        help_heading = "Calibration"
    )]
    pub calibrate: Vec<TextArg>,
    /// Calibration file from `calibrate`, or importance matrix from llama.cpp's `llama-imatrix`, which
    /// has no gradients and so needs --methods svd,whitened
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// Do not calibrate; only with methods that work on the weights alone
    #[arg(long, conflicts_with_all = ["calibrate", "calibration"], help_heading = "Calibration")]
    pub no_calibration: bool,
    /// Carry out plans with a calibration other than the one that they were made with
    #[arg(long, requires = "plan", help_heading = "Calibration")]
    pub other_calibration: bool,
    /// How far the model is compressed.
    #[command(flatten)]
    pub goals: GoalsArgs,
    /// Methods to compare, separated by commas, each with its default policy and storage, as
    /// `compress` has them; METHOD/POLICY or METHOD/POLICY/STORAGE for others
    /// [default: svd,whitened,best; svd with --no-calibration]
    #[arg(long, value_name = "METHODS", value_delimiter = ',', help_heading = "Method")]
    pub methods: Vec<String>,
    /// Policies, separated by commas, for every method that does not name its own; those that do
    /// not go with a method are left out
    #[arg(
        long,
        value_name = "POLICIES",
        value_delimiter = ',',
        value_parser = named::<&dyn RankPolicy>(),
        help_heading = "Method"
    )]
    pub policies: Vec<&'static dyn RankPolicy>,
    /// Storages, separated by commas, for every method that does not name its own
    #[arg(
        long,
        value_name = "STORAGES",
        value_delimiter = ',',
        value_parser = named::<Storage>(),
        help_heading = "Method"
    )]
    pub storages: Vec<Storage>,
    /// How second moments are shrunk.
    #[command(flatten)]
    pub shrink: ShrinkArgs,
    /// Maximum number of windows of each text
    #[arg(
        long,
        alias = "blocks",
        value_name = "N",
        default_value_t = 16,
        help_heading = "Evaluation"
    )]
    pub windows: usize,
    /// Tokens per window of the texts
    /// [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub seq_len: Option<usize>,
    /// Predictions at the start of each window that are not scored, because they are made from few
    /// tokens
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Evaluation")]
    pub skip: usize,
    /// Also measure how far the predictions of each row are from the dense model's (KL divergence);
    /// the dense model stays in memory
    #[arg(long, help_heading = "Evaluation")]
    pub kl: bool,
    /// Which matrices are factored, and which ranks they may have.
    #[command(flatten)]
    pub ranks: RankArgs,
    /// Which matrices are selected.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How much of the text is read to calibrate.
    #[command(flatten)]
    pub amount: AmountArgs,
    /// How the model is compressed block by block.
    #[command(flatten)]
    pub blockwise: BlockwiseArgs,
    /// Limits on measuring and factoring.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// Also draw size against KL divergence as an SVG picture in this file, with a line for every
    /// series of models and every way to compress
    #[arg(long, value_name = "FILE", requires = "kl", help_heading = "Output")]
    pub picture: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print comma-separated values instead of a table
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    pub csv: bool,
}

/// How far a model is compressed: several targets, each of them for every method, and plans.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Target")]
pub struct GoalsArgs {
    /// Largest shares of the selected matrices' parameters to keep, separated by commas
    /// [default: 0.9,0.8,0.7 without any other target, plan or model]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', allow_negative_numbers = true)]
    pub keep_params: Vec<f64>,
    /// Largest sizes of the whole model, such as 400MB, separated by commas
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size)]
    pub max_bytes: Vec<u64>,
    /// Effective rank reductions (ERR) to reach, separated by commas
    #[arg(long, value_name = "SHARES", value_delimiter = ',', allow_negative_numbers = true)]
    pub err: Vec<f64>,
    /// The same, but only ranks of factored matrices count: the paper's ERR
    #[arg(long, value_name = "SHARES", value_delimiter = ',', allow_negative_numbers = true)]
    pub err_applied: Vec<f64>,
    /// Carry out the plans in these files or compressed model directories as well, separated by
    /// commas, each in the norm that it was made in
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    pub plan: Vec<PathBuf>,
    /// Measure these models as well, separated by commas: dense or compressed directories and .gguf
    /// files that were made from MODEL; NAME=MODEL,MODEL makes them a series of that name, and every
    /// series needs a --models of its own
    #[arg(long, value_name = "MODELS", value_parser = series())]
    pub models: Vec<SeriesArg>,
}

impl GoalsArgs {
    /// The shares of parameters that are kept if nothing is asked for.
    const KEPT: [f64; 3] = [0.9, 0.8, 0.7];

    /// The models that exist already, with the names of their series.
    pub fn given(&self) -> impl Iterator<Item = (Option<&str>, &Path)> {
        self.models.iter().flat_map(|series| {
            let name = series.name.as_deref();
            series.models.iter().map(move |model| (name, model.as_path()))
        })
    }

    /// The targets, each once, of one kind after the other and from the largest model to the
    /// smallest.
    pub fn targets(&self) -> Vec<Target> {
        let falling = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(|a, b| b.total_cmp(a));
            values
        };
        let rising = |values: &[f64]| falling(values).into_iter().rev().collect::<Vec<f64>>();
        let mut sizes = self.max_bytes.clone();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut targets: Vec<Target> =
            falling(&self.keep_params).into_iter().map(Target::KeepParams).collect();
        targets.extend(sizes.into_iter().map(Target::MaxBytes));
        targets.extend(rising(&self.err).into_iter().map(Target::Err));
        targets.extend(rising(&self.err_applied).into_iter().map(Target::ErrApplied));
        if targets.is_empty() && self.plan.is_empty() && self.models.is_empty() {
            targets.extend(Self::KEPT.map(Target::KeepParams));
        }
        targets.dedup();
        targets
    }
}
