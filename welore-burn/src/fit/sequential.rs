use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};

use super::error::FitError;
use super::refine::{RefineOptions, Task, refine};
use crate::calibrate::{Calibration, CalibrationError, Watch, as_tensor};
use crate::language::LanguageModel;
use crate::linalg::{CrossMoment, LinalgError, SecondMoment, Shrinkage, Weighting};
use crate::linear::{Rest, attach_factors};
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::Progress;
use crate::surgery::{
    Factored, FactoredMatrix, SurgeryError, SurgeryReport, factor_in, factor_params,
};
use crate::workers::Workers;

/// How factors are fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// Of the moments of inputs and of gradients.
    pub shrink: Shrinkage,
    /// How far a factored matrix follows what the dense model computes: its target is what the
    /// dense matrix answers, this share of it to the inputs of the dense model, the rest to those
    /// that the compressed model has. In [0, 1]; at 0 nothing has to be measured for it.
    pub follow: f64,
    /// Most blocks of text to fit to; `None` is all that the calibration has.
    pub blocks: Option<usize>,
    /// Whether and how the factors of each block are refined.
    pub refine: Option<RefineOptions>,
    /// Blocks of text computed at once, each by a thread of its own.
    pub at_once: NonZeroUsize,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            shrink: Shrinkage::default(),
            follow: 0.5,
            blocks: None,
            refine: None,
            at_once: NonZeroUsize::MIN,
        }
    }
}

/// Factors a dense language model by a plan, block after block, on the text of a calibration.
///
/// `model` is on its autodiff device, in f32. In memory are the dense and the compressed model
/// and the hidden states of both for all text. The factors of the result are trainable, all
/// else is frozen.
///
/// # Errors
///
/// [`FitError`].
pub fn fit<M: LanguageModel>(
    model: M,
    plan: &RankPlan,
    calibration: &Calibration,
    options: &FitOptions,
    progress: &mut dyn Progress,
) -> Result<(M, SurgeryReport), FitError> {
    let mut text = calibration.blocks()?;
    text.truncate(options.blocks.unwrap_or(usize::MAX));
    if text.is_empty() {
        return Err(FitError::NoText);
    }
    let vocab_size = model.vocab_size();
    if let Some(token) = text.iter().flatten().find(|token| **token as usize >= vocab_size) {
        return Err(CalibrationError::UnknownToken { token: *token, vocab_size }.into());
    }
    let planned: BTreeMap<&str, &MatrixPlan> =
        plan.low_rank().map(|matrix| (matrix.name.as_str(), matrix)).collect();
    let device = model.devices().into_iter().next().expect("a model has parameters");
    let dense = model.valid();
    let watch = Watch::new(&dense)?;
    let mut fitting = Fitting {
        dense,
        planned,
        calibration,
        options,
        watch,
        workers: Workers::new(options.at_once),
        device,
        report: SurgeryReport { factored: Vec::new() },
    };
    let model = fitting.run(model.no_grad(), &text, progress)?;
    let done: BTreeSet<&str> = fitting.report.factored.iter().map(|m| m.name.as_str()).collect();
    if let Some(name) = fitting.planned.keys().find(|name| !done.contains(*name)) {
        // A head, say, which is in no block.
        return Err(SurgeryError::NoSuchMatrix(name.to_string()).into());
    }
    Ok((model, fitting.report))
}

struct Fitting<'a, M> {
    dense: M,
    planned: BTreeMap<&'a str, &'a MatrixPlan>,
    calibration: &'a Calibration,
    options: &'a FitOptions,
    watch: Watch,
    workers: Workers,
    device: Device,
    report: SurgeryReport,
}

/// What the matrices of a block see, by the first of those that see the same.
#[derive(Default)]
struct Inputs {
    seen: BTreeMap<String, SecondMoment>,
    cross: BTreeMap<String, CrossMoment>,
}

impl<M: LanguageModel> Fitting<'_, M> {
    fn run(
        &mut self,
        mut model: M,
        text: &[Vec<u32>],
        progress: &mut dyn Progress,
    ) -> Result<M, FitError> {
        let plain_device = self.device.clone().inner();
        let begin = |tokens: &Vec<u32>| self.dense.begin(as_tensor(tokens, &plain_device));
        let (_, pass) = begin(&text[0]);
        // What the dense and the compressed model have come to.
        let mut ours: Vec<Tensor<3>> = text.iter().map(|tokens| begin(tokens).0).collect();
        let mut compressed = ours.clone();
        let mut changed = false;
        progress.begin("fitting", self.dense.blocks());
        for index in 0..self.dense.blocks() {
            progress.step(&format!("block {}", index + 1))?;
            let layer = self.matrices_of(index, &ours[0], &pass);
            // The first factored block sees what the dense one does.
            let follows = changed && self.options.follow > 0.0;
            let (next, inputs) = self.inputs_of(index, &layer, &ours, &compressed, &pass, follows);
            let factored = self.factor(&layer, &inputs, follows)?;
            changed |= !factored.is_empty();
            let names: BTreeSet<String> = factored.keys().cloned().collect();
            model = self.attach(model, factored);
            if let (Some(options), false) = (self.options.refine, names.is_empty()) {
                let last = layer.last().map(|(name, _)| name.as_str());
                let metric = last.and_then(|name| self.calibration.outputs(name).ok());
                let metric = metric.map(|moment| moment.root(self.options.shrink.output));
                let metric = metric.transpose().map_err(|source| FitError::Linalg {
                    name: last.unwrap_or_default().into(),
                    source,
                })?;
                let task = Task {
                    index,
                    names: &names,
                    inputs: &compressed,
                    targets: &next,
                    tokens: &text[0],
                    metric,
                };
                model = refine(model, &task, &options, &self.workers, &self.device, progress)?;
            }
            if changed {
                let plain = model.valid();
                compressed = self.through(&plain, index, &compressed, &pass);
            } else {
                compressed = next.clone();
            }
            let sum = compressed[0].clone().abs().max().into_scalar::<f64>();
            if !sum.is_finite() {
                return Err(FitError::NotFinite { block: index + 1 });
            }
            ours = next;
        }
        Ok(model)
    }

    /// The matrices of a block in the order of their use, each with the first that sees the same.
    fn matrices_of(&self, index: usize, x: &Tensor<3>, pass: &M::Pass) -> Vec<(String, String)> {
        let (_, seen) = self.watch.inputs(|| self.dense.block(index, x.clone(), pass));
        self.watch.groups(&seen)
    }

    /// What the dense model makes of a block, and what the matrices of the block see in the
    /// compressed model beside what they see in the dense one.
    fn inputs_of(
        &self,
        index: usize,
        layer: &[(String, String)],
        ours: &[Tensor<3>],
        compressed: &[Tensor<3>],
        pass: &M::Pass,
        follows: bool,
    ) -> (Vec<Tensor<3>>, Inputs) {
        let leaders: BTreeSet<&String> = layer
            .iter()
            .filter(|(name, _)| self.planned.contains_key(name.as_str()))
            .map(|(_, leader)| leader)
            .collect();
        let work = |block: usize| {
            let x = ours[block].clone();
            let mut inputs = Inputs::default();
            if !follows || leaders.is_empty() {
                return (self.dense.block(index, x, pass), inputs);
            }
            let (output, should) = self.watch.inputs(|| self.dense.block(index, x, pass));
            let x = compressed[block].clone();
            let (_, does) = self.watch.inputs(|| self.dense.block(index, x, pass));
            for ((id, size, x), (_, _, y)) in should.inputs.iter().zip(&does.inputs) {
                let name = self.watch.name(*id);
                if !leaders.contains(name) {
                    continue;
                }
                let mut seen = SecondMoment::new(*size);
                seen.add(y);
                let mut cross = CrossMoment::new(*size);
                cross.add(x, y);
                inputs.seen.insert(name.clone(), seen);
                inputs.cross.insert(name.clone(), cross);
            }
            (output, inputs)
        };
        let mut outputs: Vec<Option<Tensor<3>>> = vec![None; ours.len()];
        let (mut sums, mut waiting, mut next) = (Inputs::default(), BTreeMap::new(), 0);
        self.workers.spread(ours.len(), work, |block, (output, inputs)| {
            outputs[block] = Some(output);
            waiting.insert(block, inputs);
            // In their order, so that sums do not depend on the threads.
            while let Some(inputs) = waiting.remove(&next) {
                next += 1;
                sums.add(inputs);
            }
            ControlFlow::Continue(())
        });
        (outputs.into_iter().flatten().collect(), sums)
    }

    fn factor(
        &mut self,
        layer: &[(String, String)],
        inputs: &Inputs,
        follows: bool,
    ) -> Result<BTreeMap<String, (ParamId, Factored)>, FitError> {
        let todo: Vec<&(String, String)> =
            layer.iter().filter(|(name, _)| self.planned.contains_key(name.as_str())).collect();
        let this = &*self;
        let work = |place: usize| -> Result<(ParamId, Factored), FitError> {
            let (name, leader) = todo[place];
            let failed = |source: LinalgError| FitError::Linalg { name: name.clone(), source };
            let outputs = match this.calibration.has_gradients() {
                true => Some(this.calibration.outputs(name)?),
                false => None,
            };
            let (outputs, shrink) = (outputs.as_deref(), this.options.shrink);
            let norm = match follows {
                true => {
                    let (seen, cross) = (&inputs.seen[leader], &inputs.cross[leader]);
                    Weighting::sequential(seen, cross, this.options.follow, outputs, shrink)
                }
                false => Weighting::new(&*this.calibration.inputs(name)?, outputs, shrink),
            };
            let (id, dense) = this.watch.matrix(name).map_err(failed)?;
            let plan = this.planned[name.as_str()];
            Ok((id, factor_in(&dense, plan, &norm.map_err(failed)?).map_err(failed)?))
        };
        let mut made: Vec<Option<_>> = todo.iter().map(|_| None).collect();
        this.workers.spread(todo.len(), work, |place, result| {
            made[place] = Some(result);
            ControlFlow::Continue(())
        });
        let mut factored = BTreeMap::new();
        for ((name, _), made) in todo.iter().zip(made.into_iter().flatten()) {
            let (id, matrix) = made?;
            self.report.factored.push(FactoredMatrix {
                name: name.clone(),
                rank: self.planned[name.as_str()].rank,
                relative_error: matrix.relative_error,
            });
            factored.insert(name.clone(), (id, matrix));
        }
        Ok(factored)
    }

    fn attach(&self, model: M, mut factored: BTreeMap<String, (ParamId, Factored)>) -> M {
        attach_factors(
            model,
            |path, weight| {
                let name = path.strip_suffix(".weight")?;
                let (id, matrix) = factored.remove(name)?;
                let dtype = weight.base().dtype();
                Some(factor_params(id, matrix.form, self.planned[name], dtype, &self.device))
            },
            Rest::Keep,
        )
    }

    fn through(
        &self,
        plain: &M,
        index: usize,
        inputs: &[Tensor<3>],
        pass: &M::Pass,
    ) -> Vec<Tensor<3>> {
        let mut outputs: Vec<Option<Tensor<3>>> = vec![None; inputs.len()];
        self.workers.spread(
            inputs.len(),
            |block| plain.block(index, inputs[block].clone(), pass),
            |block, output| {
                outputs[block] = Some(output);
                ControlFlow::Continue(())
            },
        );
        outputs.into_iter().flatten().collect()
    }
}

impl Inputs {
    fn add(&mut self, other: Self) {
        for (name, moment) in other.seen {
            match self.seen.get_mut(&name) {
                Some(sum) => sum.merge(&moment),
                None => drop(self.seen.insert(name, moment)),
            }
        }
        for (name, moment) in other.cross {
            match self.cross.get_mut(&name) {
                Some(sum) => sum.merge(&moment),
                None => drop(self.cross.insert(name, moment)),
            }
        }
    }
}
