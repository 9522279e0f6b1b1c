//! The adapter of what two models differ by, for the commands that make one.

mod divergences;
mod telling;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::adapters::{LoraAdapter, LoraMatrix};
use welore_burn::calibrate::{Calibration, is_tied};
use welore_burn::checkpoint::NotLinear;
use welore_burn::difference::{
    Approximation, Difference, DifferenceError, Differences, Measuring, RankGoal, Side, adapter_of,
};
use welore_burn::files::{OutputDir, check_staged};
use welore_burn::forms::matrices;
use welore_burn::gguf::{adapter_summary, export_adapter};
use welore_burn::linalg::Shrinkage;
use welore_burn::model::{FoundModel, OpenedModel};
use welore_burn::modules::MatrixName;
use welore_burn::spectrum::{Method, Norms};
use welore_burn::workers::Budget;

use self::divergences::{Divergences, Text};
pub use self::telling::{as_json, tell, warn_of_others};
use super::adapting::named_after;
use super::artifacts::{check_artifact, check_place, check_space_of};
use super::inputs::{check_not_left, check_outside, place_of};
use super::labels::of_norm;
use super::opening::{open_any, to_run};
use super::recipe::check_calibration_file;
use super::selecting::{check_patterns, of_found};
use crate::args::{AdapterMakingArgs, Typed, rule};
use crate::failure::WrongInput;
use crate::models::{self, Artifact};
use crate::terminal::Bar;

/// Bytes of a number of an adapter.
pub const BYTES_OF_NUMBER: u64 = 4;

/// What a command that makes an adapter is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub args: &'a AdapterMakingArgs,
    /// The model that the adapter is added to, as it was typed.
    pub from: &'a Path,
    /// The model that it leads to, as it was typed.
    pub to: &'a Path,
    /// Which of them a calibration is of: the one whose matrices are dense numbers.
    pub side: Side,
}

/// The models, and what else is read.
#[derive(Debug)]
pub struct Opened {
    pub from: FoundModel,
    pub to: FoundModel,
    pub calibration: Option<Calibration>,
    text: Option<Text>,
}

/// What was found and made.
#[derive(Debug)]
pub struct Made {
    pub differences: Differences,
    /// The rank of each matrix that differs.
    pub ranks: Vec<usize>,
    /// Nothing in a dry run.
    pub approximations: Vec<Approximation>,
    pub method: Method,
    pub divergences: Option<Divergences>,
}

impl<'a> Job<'a> {
    fn inputs(&self) -> impl Iterator<Item = &'a Path> + use<'a> {
        let AdapterMakingArgs { calibration, text, .. } = self.args;
        let files = [calibration.as_deref(), text.as_deref()];
        [self.from, self.to].into_iter().chain(files.into_iter().flatten())
    }

    /// Checks everything that the arguments alone tell.
    pub fn check(&self, typed: &Typed) -> Result<RankGoal> {
        let args = self.args;
        let (has_text, only) = (args.text.is_some(), "only with --text, which runs the models");
        typed.check(["backend", "device", "dtype"].map(|option| rule(option, has_text, only)))?;
        let goal = goal_of(args)?;
        goal.check()?;
        check_patterns(&args.selection)?;
        check_calibration_file(args.calibration.as_deref())?;
        check_not_left(&args.output, self.inputs())?;
        check_place(&args.output)?;
        check_artifact(args.gguf.as_deref(), Artifact::GgufAdapter, self.inputs())?;
        args.gguf.as_deref().map(check_staged).transpose()?;
        check_beside(args.gguf.as_deref(), &args.output)?;
        Ok(goal)
    }

    /// Opens what is read, and prepares the output directory unless this is a dry run.
    pub fn open(&self) -> Result<(Opened, Option<OutputDir>)> {
        let args = self.args;
        // The types of a quantized model are looked at; a calibration is of numbers as they are read.
        let from_dir = match self.side {
            Side::From => models::directory_of(self.from)?,
            Side::To => models::directory_to_show(self.from)?,
        };
        let to_dir = models::directory_of(self.to)?;
        self.check_two(&from_dir, &to_dir)?;
        let (from, to) = (open_any(&from_dir)?, open_any(&to_dir)?);
        self.check_family(&from, &to)?;
        let output = match args.dry_run {
            true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
            false => Some(OutputDir::create(&args.output, args.force)?),
        };
        check_outside(&args.output, self.inputs())?;
        let calibration = args.calibration.as_deref().map(Calibration::open).transpose()?;
        let calibrated = match self.side {
            Side::From => &from,
            Side::To => &to,
        };
        if let (Some(calibration), Some(model)) = (&calibration, calibrated.familiar()) {
            calibration.check_model(model.skeleton())?;
        }
        let text = args.text.as_deref().map(|path| Text::read(path, args, &from, &to));
        let text = text.transpose()?;
        Ok((Opened { from, to, calibration, text }, output))
    }

    /// Refuses a model that is compared with itself.
    fn check_two(&self, from: &Path, to: &Path) -> Result<()> {
        let place = |dir: &Path| -> Option<PathBuf> { dir.canonicalize().ok() };
        if place(from).is_none_or(|from| Some(from) != place(to)) {
            return Ok(());
        }
        let (from, to) = (self.from.display(), self.to.display());
        let message = format!("{from} and {to} are the same model, so they do not differ");
        Err(WrongInput::with_hint(message, "give two models").into())
    }

    /// Refuses models of different families.
    fn check_family(&self, from: &FoundModel, to: &FoundModel) -> Result<()> {
        let (Some(one), Some(other)) = (from.familiar(), to.familiar()) else { return Ok(()) };
        if one.model_type == other.model_type {
            return Ok(());
        }
        let (from, to) = (self.from.display(), self.to.display());
        let (one, other) = (&one.model_type, &other.model_type);
        let message = format!("{from} is of the family {one}, and {to} of {other}");
        Err(WrongInput::with_hint(message, "give two versions of one model").into())
    }

    /// Measures the difference, makes the adapter and writes it into `output`, if there is one.
    pub fn make(&self, opened: &Opened, goal: RankGoal, output: Option<OutputDir>) -> Result<Made> {
        let args = self.args;
        let (from, to) = (opened.from.checkpoint(), opened.to.checkpoint());
        let selection = of_found(&args.selection, &opened.from)?;
        let difference = Difference::between(from, to, &selection)?;
        check_linear(&opened.from, &difference)?;
        let gguf = match &args.gguf {
            Some(path) => Some((path, check_gguf(opened, &difference)?)),
            None => None,
        };
        let norms = self.norms(opened)?;
        let method = norms.method();
        let budget = Budget { jobs: args.jobs, memory: args.max_memory };
        let measuring = Measuring { norms, side: self.side, budget };
        let mut bar = Bar::for_subject(&format!("norm of the {}", of_norm(method)));
        let differences = difference.measure(&measuring, &mut bar)?;
        bar.finish();
        let ranks = goal.ranks(&differences.matrices).map_err(|error| in_bytes(args, error))?;
        let (approximations, divergences) = (Vec::new(), None);
        let mut made = Made { differences, ranks, approximations, method, divergences };
        // The GGUF file has the same numbers.
        let outputs = [Some(&args.output), args.gguf.as_ref()].into_iter().flatten();
        let outputs: Vec<_> = outputs.map(|path| (path.as_path(), made.bytes())).collect();
        check_space_of(&outputs)?;
        let Some(output) = output else { return Ok(made) };
        let mut bar = Bar::default();
        made.approximations =
            difference.approximate(&made.differences, &made.ranks, &measuring, &mut bar)?;
        bar.finish();
        let mut adapter = adapter_of(&made.approximations, difference.is_turned());
        // Other programs find no such matrices in a compressed model, and load no model of a file.
        if opened.from.compressed().is_empty() && !models::is_model_file(self.from) {
            adapter = named_after(adapter, from.dir())?;
        }
        adapter.write(output.path()).map_err(|error| error.about(&output))?;
        output.commit()?;
        if let Some((path, model)) = gguf {
            export_adapter(model, &adapter, path)?;
        }
        if let Some(text) = &opened.text {
            let models = (&opened.from, &opened.to);
            made.divergences = Some(text.measure(models, &made.approximations)?);
        }
        Ok(made)
    }

    /// The norms of the calibration, if there is one: those of the loss if it has gradients.
    fn norms<'n>(&self, opened: &'n Opened) -> Result<Norms<'n>> {
        let Some(calibration) = &opened.calibration else { return Ok(Norms::plain()) };
        let method = match calibration.has_gradients() {
            true => Method::TwoSided,
            false => Method::Whitened,
        };
        let calibrated = match self.side {
            Side::From => &opened.from,
            Side::To => &opened.to,
        };
        let norms = Norms::new(calibration, method, Shrinkage::default())?;
        Ok(norms.for_tied(is_tied(calibrated.checkpoint())))
    }
}

/// Refuses matrices that belong to no linear layer, such as the embedding: PEFT has no adapter of this
/// kind for them.
fn check_linear(found: &FoundModel, difference: &Difference<'_>) -> Result<()> {
    let mut names = difference.matrices().iter().map(|(name, _)| name);
    let other = match found {
        FoundModel::Familiar(model) => {
            let all = matrices(model.skeleton()).into_iter().filter(|matrix| matrix.of_linear);
            let linear: BTreeSet<MatrixName> = all.map(|matrix| matrix.name).collect();
            names.find(|name| !linear.contains(*name))
        }
        FoundModel::Unfamiliar(model) => {
            let left_out = model.linear_layers().left_out.iter();
            let tables: BTreeSet<&str> = left_out
                .filter(|(_, why)| *why == NotLinear::Embedding)
                .map(|(name, _)| name.as_str())
                .collect();
            names.find(|name| tables.contains(name.as_str()))
        }
    };
    let Some(name) = other else { return Ok(()) };
    let message = format!("`{name}` belongs to no linear layer, so no adapter can be added to it");
    let hint = format!("--exclude {} leaves it out", name.kind());
    Err(WrongInput::with_hint(message, hint).into())
}

/// Refuses a GGUF file in the place of the adapter's directory or inside it: the directory is written
/// first, so the file could not be written, or would keep the directory from being replaced.
fn check_beside(gguf: Option<&Path>, output: &Path) -> Result<()> {
    let Some(gguf) = gguf else { return Ok(()) };
    match (place_of(gguf), place_of(output)) {
        (Some(file), Some(dir)) if file.starts_with(&dir) => {
            let (file, dir) = (gguf.display(), output.display());
            let message = format!("--gguf {file}: the adapter's directory would be {dir}");
            let hint = "give a file beside the directory";
            Err(WrongInput::with_hint(message, hint).into())
        }
        _ => Ok(()),
    }
}

/// The model whose names and row orders an adapter for llama.cpp has, after checking that llama.cpp
/// has such a model, and adds adapters to the selected matrices.
fn check_gguf<'m>(opened: &'m Opened, difference: &Difference<'_>) -> Result<&'m OpenedModel> {
    // Adapters are made for models whose matrices are numbers. Both have the same names.
    let is_packed = |found: &FoundModel| found.compressed().iter().any(|of| of.form.is_packed());
    let found = if is_packed(&opened.from) { &opened.to } else { &opened.from };
    let model = to_run(found, "--gguf", "leave --gguf out")?;
    let mut adapter = LoraAdapter::default();
    for (name, [rows, cols]) in difference.matrices() {
        let (a, b) = (vec![0.0; *cols], vec![0.0; *rows]);
        let matrix = LoraMatrix::new([*rows, *cols], 1, a, b, 1.0)?;
        adapter.matrices.insert(name.clone(), matrix);
    }
    adapter_summary(model, &adapter)?;
    Ok(model)
}

impl Made {
    /// Number of parameters of the adapter.
    pub fn parameters(&self) -> u64 {
        let matrices = self.differences.matrices.iter().zip(&self.ranks);
        matrices.map(|(matrix, rank)| matrix.parameters_of_rank() * *rank as u64).sum()
    }

    /// Bytes of its numbers.
    pub fn bytes(&self) -> u64 {
        BYTES_OF_NUMBER * self.parameters()
    }
}

/// How ranks are chosen.
fn goal_of(args: &AdapterMakingArgs) -> Result<RankGoal> {
    let AdapterMakingArgs { rank, err, max_params, max_bytes, .. } = args;
    let of_bytes = max_bytes.map(|bytes| RankGoal::Parameters(bytes / BYTES_OF_NUMBER));
    let of_numbers = max_params.map(|most| RankGoal::Parameters(most as u64));
    let of_error = err.map(RankGoal::Err);
    let goal = rank.map(|rank| RankGoal::Rank(rank.get()));
    let goal = goal.or(of_error).or(of_numbers).or(of_bytes);
    goal.ok_or_else(|| WrongInput::new("none of --rank, --err, --max-params is given").into())
}

/// An error about a budget in the unit that it was given in.
fn in_bytes(args: &AdapterMakingArgs, error: DifferenceError) -> anyhow::Error {
    match (error, args.max_bytes) {
        (DifferenceError::OutOfReach { least, .. }, Some(most)) => {
            let least = BYTES_OF_NUMBER * least;
            let message = format!(
                "--max-bytes {most}: no matrix can have rank 1 within it: the smallest takes {least}"
            );
            WrongInput::with_hint(message, format!("give at least {least}")).into()
        }
        (error, _) => error.into(),
    }
}
