//! The step, and the search for its length.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use serde::Serialize;

use super::error::DistillError;
use super::gradients::gradients;
use crate::calibrate::Calibration;
use crate::checkpoint::Checkpoint;
use crate::compress::{CompressReport, Compressor};
use crate::eval::{Estimate, EvalError, PerplexityOptions, check_text, divergence};
use crate::files::OutputDir;
use crate::forms::{FormError, Part, fill, moved, product_gradients, product_of, read_matrices};
use crate::linalg::{Matrix, natural_step};
use crate::model::{LanguageModel, device_of};
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::Progress;
use crate::workers::Workers;

/// How the step is computed, and how its length is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct DistillOptions {
    /// The most windows that the gradient is measured on; `None` for all that are not held back.
    pub windows: Option<usize>,
    /// Windows at the end of the text on which lengths are compared. At least 1.
    pub held_back: usize,
    /// The lengths that are tried beside 0, rising; 1 is the whole natural step.
    pub lengths: Vec<f64>,
    /// What is added to the diagonals of the second moments of inputs and gradients before they
    /// precondition the gradient, as a share of their means.
    pub damping: [f64; 2],
    /// Number of windows computed at once, each by its own worker.
    pub at_once: NonZeroUsize,
}

impl Default for DistillOptions {
    /// Nine lengths up to 0.1 on 8 windows that are held back, with the gradient of all others. The more
    /// was lost, the shorter the best one: the curvature is that of the dense model.
    fn default() -> Self {
        Self {
            windows: None,
            held_back: 8,
            lengths: vec![1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1],
            damping: [0.1, 1.0],
            at_once: NonZeroUsize::MIN,
        }
    }
}

/// A length that was tried, and the divergence there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tried {
    /// The length.
    pub length: f64,
    /// The mean KL divergence from the dense model in nats per token; infinite if there was none.
    pub kl: f64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct Distilled {
    /// The length that was chosen, 0 if no other one lowers the divergence.
    pub length: f64,
    /// The divergence on the windows that are held back, before the step.
    pub before: Estimate,
    /// All lengths that were tried beside 0, in order.
    pub tried: Vec<Tried>,
    /// The new parts of the changed matrices, as they are stored. Empty at length 0.
    parts: BTreeMap<MatrixName, Vec<Part>>,
}

impl DistillOptions {
    /// Checks the options, and that a calibration has gradients, and more text than is held back.
    ///
    /// # Errors
    ///
    /// [`DistillError::Options`], [`DistillError::TooFewWindows`], and those of the calibration.
    pub fn check(&self, calibration: &Calibration) -> Result<(), DistillError> {
        self.split(calibration).map(drop)
    }

    /// The windows for the gradient, and those that are held back.
    fn split(&self, calibration: &Calibration) -> Result<[Vec<Vec<u32>>; 2], DistillError> {
        let rises = self.lengths.windows(2).all(|pair| pair[0] < pair[1]);
        let are_lengths = self.lengths.iter().all(|length| length.is_finite() && *length > 0.0);
        let damps = |share: f64| share.is_finite() && share > 0.0;
        let wrong = if self.held_back == 0 || self.windows == Some(0) {
            Some("a step needs at least 1 window for its gradient, and 1 that is held back")
        } else if self.lengths.is_empty() || !rises || !are_lengths {
            Some("lengths of a step must be above 0, finite, and rise")
        } else if !self.damping.into_iter().all(damps) {
            Some("the damping of a step must be above 0 and finite")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(DistillError::Options(wrong));
        }
        if !calibration.has_gradients() {
            return Err(calibration.without_gradients().into());
        }
        let mut text = calibration.windows()?;
        let (windows, held_back) = (text.len(), self.held_back);
        if windows <= held_back {
            return Err(DistillError::TooFewWindows { windows, held_back });
        }
        let held = text.split_off(windows - held_back);
        text.truncate(self.windows.unwrap_or(usize::MAX));
        Ok([text, held])
    }
}

/// Takes one step with the factors of a compressed model, down the gradient of its KL divergence from the
/// dense model, preconditioned by the curvature of K-FAC: what the calibration has measured of the dense
/// model's inputs and gradients. The length is that of [`DistillOptions::lengths`], or 0, with the
/// lowest divergence on windows that the gradient does not see, with all numbers rounded as they are
/// stored.
///
/// `model` is on its autodiff device in f32, and has the forms of the plan; `dense` is on the device within.
/// Matrices in blocks, and those that the calibration does not know, stay as they are.
///
/// # Errors
///
/// [`DistillError`].
pub fn distill<M: LanguageModel, D: LanguageModel>(
    model: &M,
    dense: &D,
    plan: &RankPlan,
    calibration: &Calibration,
    options: &DistillOptions,
    progress: &mut dyn Progress,
) -> Result<Distilled, DistillError> {
    let [text, held] = options.split(calibration)?;
    let windows = PerplexityOptions {
        seq_len: held[0].len(),
        at_once: options.at_once,
        ..PerplexityOptions::default()
    };
    check_text(model, &text.concat(), &windows)?;
    let (vocab_size, of_dense) = (model.vocab_size(), dense.vocab_size());
    if vocab_size != of_dense {
        return Err(EvalError::Vocabulary { vocab_size, dense: of_dense }.into());
    }
    let planned: BTreeMap<&MatrixName, &MatrixPlan> =
        plan.compressed().map(|matrix| (&matrix.name, matrix)).collect();
    // A head has no moments of its own.
    let steps_of = |name: &MatrixName| planned.contains_key(name) && calibration.knows(name);
    let mut parts = read_matrices(model, steps_of)
        .map_err(|(name, source)| DistillError::Form { name, source })?;
    let mut failed = None;
    parts.retain(|name, parts| match product_of(parts) {
        Ok(found) => found.is_some(),
        Err(source) => {
            failed.get_or_insert(DistillError::Form { name: name.clone(), source });
            false
        }
    });
    failed.map_or(Ok(()), Err)?;
    if parts.is_empty() {
        return Err(DistillError::NothingFactored);
    }
    let names: BTreeSet<MatrixName> = parts.keys().cloned().collect();
    let (device, workers) = (device_of(model), Workers::new(options.at_once));
    let slopes = gradients(model, dense, &names, &text, (&device, &workers), progress)?;
    let steps = steps(&parts, &slopes, calibration, options.damping, progress)?;
    let search = Search {
        plain: model.valid(),
        dense,
        planned,
        parts: &parts,
        steps,
        text: held.concat(),
        options: windows,
    };
    search.run(&options.lengths, progress)
}

/// The step of both factors of each matrix that has a gradient.
fn steps(
    parts: &BTreeMap<MatrixName, Vec<Part>>,
    slopes: &BTreeMap<MatrixName, [Matrix; 2]>,
    calibration: &Calibration,
    damping: [f64; 2],
    progress: &mut dyn Progress,
) -> Result<BTreeMap<MatrixName, [Matrix; 2]>, DistillError> {
    progress.begin("steps", slopes.len());
    progress.count_in("matrices");
    let mut steps = BTreeMap::new();
    for (name, slopes) in slopes {
        progress.step(name.as_str())?;
        let Some(parts) = parts.get(name) else { continue };
        let about = || DistillError::of_form(name);
        let product = product_of(parts).map_err(about())?;
        let slopes = product_gradients(parts, slopes).map_err(about())?;
        let (Some([left, right]), Some([of_left, of_right])) = (product, slopes) else { continue };
        let (inputs, outputs) = (calibration.inputs(name)?, calibration.outputs(name)?);
        let step = natural_step([&left, &right], [&of_left, &of_right], &inputs, &outputs, damping)
            .map_err(|source| DistillError::Linalg { name: name.clone(), source })?;
        steps.insert(name.clone(), step);
    }
    Ok(steps)
}

/// What lengths are tried on.
struct Search<'a, M, D> {
    /// The compressed model without gradients.
    plain: M,
    dense: &'a D,
    planned: BTreeMap<&'a MatrixName, &'a MatrixPlan>,
    parts: &'a BTreeMap<MatrixName, Vec<Part>>,
    steps: BTreeMap<MatrixName, [Matrix; 2]>,
    text: Vec<u32>,
    options: PerplexityOptions,
}

impl<M: LanguageModel, D: LanguageModel> Search<'_, M, D> {
    fn run(&self, lengths: &[f64], progress: &mut dyn Progress) -> Result<Distilled, DistillError> {
        let before = self.divergence(&self.plain, progress)?;
        let mut best = Distilled {
            length: 0.0,
            before,
            tried: Vec::with_capacity(lengths.len()),
            parts: BTreeMap::new(),
        };
        let mut least = before.value;
        for length in lengths {
            let kl = match self.stepped(*length) {
                Ok(parts) => {
                    let model = fill(self.plain.clone(), &parts);
                    match self.divergence(&model, progress) {
                        Ok(kl) if kl.value < least => {
                            least = kl.value;
                            (best.length, best.parts) = (*length, parts);
                            kl.value
                        }
                        Ok(kl) => kl.value,
                        // Too far: no number is no divergence.
                        Err(DistillError::Eval(EvalError::NotFinite { .. })) => f64::INFINITY,
                        Err(error) => return Err(error),
                    }
                }
                // Too far for the type that numbers are stored in.
                Err(DistillError::Form { source: FormError::Overflow { .. }, .. }) => f64::INFINITY,
                Err(error) => return Err(error),
            };
            best.tried.push(Tried { length: *length, kl });
        }
        Ok(best)
    }

    /// The parts of all matrices after a step, rounded as they are stored.
    fn stepped(&self, length: f64) -> Result<BTreeMap<MatrixName, Vec<Part>>, DistillError> {
        let mut stepped = BTreeMap::new();
        for (name, step) in &self.steps {
            let (Some(parts), Some(plan)) = (self.parts.get(name), self.planned.get(name)) else {
                continue;
            };
            let of_form = || DistillError::of_form(name);
            let after = moved(parts, step, length).map_err(of_form())?;
            let specs = plan.form.parts(plan.shape);
            let rounded = specs.iter().zip(after).map(|(spec, part)| {
                Part::decode(spec, spec.kind.dtype(plan.dtype), &part.encode(plan.dtype)?)
            });
            let rounded = rounded.collect::<Result<Vec<Part>, FormError>>().map_err(of_form())?;
            stepped.insert(name.clone(), rounded);
        }
        Ok(stepped)
    }

    fn divergence(&self, model: &M, progress: &mut dyn Progress) -> Result<Estimate, DistillError> {
        Ok(divergence(model, self.dense, &self.text, &self.options, progress)?.kl)
    }
}

impl Distilled {
    /// The divergence after the step, on the windows that are held back.
    pub fn after(&self) -> f64 {
        let chosen = self.tried.iter().find(|tried| tried.length == self.length);
        chosen.map_or(self.before.value, |tried| tried.kl)
    }

    /// Puts the changed matrices into a directory that a compressor has written from the dense model in
    /// `checkpoint`, before it is committed. Their errors as stored are measured again, for the plan
    /// there and for the `report` of the compressor; those of sequential compression become
    /// [outdated](CompressReport::outdated). At length 0 nothing changes. If the process is killed
    /// meanwhile, the same job resumes as if there had been no step.
    ///
    /// # Errors
    ///
    /// [`DistillError::Compress`].
    pub fn write(
        &self,
        compressor: &Compressor<'_>,
        checkpoint: &Checkpoint,
        output: &OutputDir,
        report: &mut CompressReport,
        progress: &mut dyn Progress,
    ) -> Result<(), DistillError> {
        match self.parts.is_empty() {
            true => Ok(()),
            false => Ok(compressor.replace(checkpoint, output, &self.parts, report, progress)?),
        }
    }
}
