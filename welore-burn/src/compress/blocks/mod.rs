//! Compresses a language model block by block, on the text of a calibration.

mod making;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::check::{planned_matrices, readable_text};
use super::error::CompressError;
use super::options::{BlockwiseOptions, Compressor};
use super::refine::{Task, refine};
use super::report::CompressReport;
use super::sink::{Nowhere, Sink};
use super::stages::{Inputs, Signal, Stage, adapted, in_one_stage, of_planned, stages_of};
use crate::calibrate::{SharedInputs, Watch, survey};
use crate::forms::{Rest, Rounding, StoredForm};
use crate::linalg::Matrix;
use crate::model::{LanguageModel, as_tensor, device_of};
use crate::modules::{Change, MatrixName, Place, map_floats, walk};
use crate::plan::MatrixPlan;
use crate::progress::{Part, Progress};
use crate::workers::Workers;

impl Compressor<'_> {
    /// Compresses a dense language model: each matrix independently as
    /// [`module`](Compressor::module) does, or block by block.
    ///
    /// Block by block, `model` is on its autodiff device, in f32. Memory holds the dense and the
    /// compressed model, and the hidden states of both for all of the text. In the
    /// result the parts of the compressed matrices are trainable, and everything else is frozen
    /// unless [`with_rest`](Compressor::with_rest) says otherwise.
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn model<M: LanguageModel>(
        &self,
        model: M,
        progress: &mut dyn Progress,
    ) -> Result<(M, CompressReport), CompressError> {
        match &self.blockwise {
            Some(options) => Blocks::new(self, options, &model)?.run(model, &mut Nowhere, progress),
            None => self.module(model, progress),
        }
    }
}

impl BlockwiseOptions<'_> {
    /// Identifies what the result depends on.
    pub(super) fn identity(&self) -> String {
        let Self { calibration, follow, adapt_dense, windows, refine, .. } = self;
        let digest = calibration.digest();
        format!("{digest} in stages {follow} {adapt_dense} {windows:?} {refine:?}")
    }
}

/// What to compress, and how, after all checks.
pub(super) struct Blocks<'a, M> {
    compressor: &'a Compressor<'a>,
    options: &'a BlockwiseOptions<'a>,
    /// What is compressed, and the dense matrices that correct its errors.
    planned: BTreeMap<MatrixName, &'a MatrixPlan>,
    /// The planned matrices of every block.
    layers: Vec<Vec<Stage>>,
    /// Windows of tokens.
    text: Vec<Vec<u32>>,
    dense: M,
    watch: Watch,
    /// Workers for windows.
    workers: Workers,
    /// Workers for matrices.
    jobs: Workers,
    device: Device,
}

/// When the numbers of matrices are rounded to the types that they are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounds {
    /// As they are made, so that later matrices make up for it.
    Now,
    /// Once they are refined, by steps that are smaller than a stored type resolves.
    Later,
    Never,
}

/// The planned matrices of a block as they become, by name.
type Block = BTreeMap<MatrixName, StoredForm>;

/// A model after one more of its blocks was compressed.
struct Compressed<M> {
    model: M,
    /// Outputs of the dense block in the dense model, by window.
    next: Vec<Tensor<3>>,
    block: Block,
    /// Whether an earlier process had compressed the block.
    known: bool,
}

/// The current block.
struct Turn<'t, P> {
    /// Its number.
    index: usize,
    /// Its planned matrices, in the order of their use.
    stages: &'t [Stage],
    pass: &'t P,
}

impl<'a, M: LanguageModel> Blocks<'a, M> {
    /// Checks everything that can be checked before the first block.
    pub fn new(
        compressor: &'a Compressor<'a>,
        options: &'a BlockwiseOptions<'a>,
        model: &M,
    ) -> Result<Self, CompressError> {
        let text = readable_text(options, model, compressor.norms.method())?;
        planned_matrices(model, compressor.plan)?;
        let mut planned: BTreeMap<MatrixName, &MatrixPlan> =
            compressor.plan.compressed().map(|matrix| (matrix.name.clone(), matrix)).collect();
        let known: BTreeSet<MatrixName> = model.matrices().into_iter().map(|m| m.name).collect();
        if let Some(name) = planned.keys().find(|name| !known.contains(*name)) {
            // For example a head.
            let reason = format!("`{name}` is in no block of the model");
            return Err(CompressError::ForeignPlan { reason });
        }
        let (dense, device) = (model.valid(), device_of(model));
        let watch = Watch::new(&dense)?;
        let (layers, _) = survey(&dense, &watch, &text[0], &device.clone().inner());
        let layers: Vec<Vec<Stage>> = layers.into_iter().map(stages_of).collect();
        if options.follows() && options.adapt_dense {
            planned.extend(adapted(&layers, compressor.plan));
        }
        let budget = compressor.write.budget;
        let needs = planned.values().map(|plan| compressor.cost(plan).bytes);
        budget.check(planned.keys().map(MatrixName::as_str).zip(needs))?;
        let layers = layers.into_iter().map(|stages| {
            let stages = of_planned(stages, |name| planned.contains_key(name));
            // Where nothing is measured, no matrix has to wait for another one.
            if options.follows() { stages } else { in_one_stage(stages) }
        });
        Ok(Self {
            layers: layers.collect(),
            watch,
            device,
            compressor,
            options,
            planned,
            text,
            dense,
            workers: Workers::new(options.at_once),
            jobs: budget.workers(),
        })
    }

    /// The plans of the dense matrices that correct the errors of those before them.
    pub fn adapted(&self) -> impl Iterator<Item = &'a MatrixPlan> {
        self.planned.values().copied().filter(|plan| plan.is_dense())
    }

    /// Compresses the model, and passes every finished matrix to the sink.
    pub fn run(
        &self,
        model: M,
        sink: &mut dyn Sink,
        progress: &mut dyn Progress,
    ) -> Result<(M, CompressReport), CompressError> {
        let trained = trained_paths(&model);
        let mut model = model.no_grad();
        let plain = self.device.clone().inner();
        let begin = |tokens: &Vec<u32>| self.dense.begin(as_tensor(tokens, &plain));
        let (_, pass) = begin(&self.text[0]);
        let dense: Vec<Tensor<3>> = self.text.iter().map(|tokens| begin(tokens).0).collect();
        let mut signal = Signal { compressed: dense.clone(), dense, changed: false };
        let sequential = self.options.follows();
        let mut report = CompressReport { sequential, ..CompressReport::default() };
        // Blocks are alike, so each counts the same.
        let blocks = self.layers.len();
        progress.begin_work("compressing", self.planned.len(), blocks as u64);
        progress.count_in("matrices");
        for (index, stages) in self.layers.iter().enumerate() {
            progress.check()?;
            let turn = Turn { index, stages, pass: &pass };
            let compressed = self.block(model, &turn, &signal, sink, progress)?;
            let Compressed { next, block, known, .. } = compressed;
            model = compressed.model;
            for name in turn.names() {
                let in_loss = self.compressor.norms.is_of_loss(name);
                report.add(self.planned[name], block[name].error, in_loss);
            }
            signal.changed |= !block.is_empty();
            signal.compressed = match signal.changed {
                true => self.through(&model.valid(), index, &signal.compressed, &pass)?,
                false => next.clone(),
            };
            signal.dense = next;
            let (item, steps) = (format!("block {} of {blocks} done", index + 1), block.len());
            progress.part(Part { item: &item, steps, operations: 1, known })?;
        }
        let is_compressed = |place: &Place| {
            let plan = place.matrix().and_then(|name| self.planned.get(&name));
            plan.is_some_and(|plan| !plan.is_dense())
        };
        let rest_trains = |place: &Place| match self.compressor.rest {
            Rest::Keep => trained.contains(&place.path),
            Rest::Freeze => false,
            Rest::Train => true,
        };
        let trains = |place: &Place| Change::Train(is_compressed(place) || rest_trains(place));
        Ok((map_floats(model, |place, _| trains(place)), report))
    }

    /// Compresses one block, or takes it from an earlier process.
    fn block(
        &self,
        model: M,
        turn: &Turn<'_, M::Pass>,
        signal: &Signal,
        sink: &mut dyn Sink,
        progress: &mut dyn Progress,
    ) -> Result<Compressed<M>, CompressError> {
        if let Some(block) = self.find(turn, sink)? {
            let next = self.outputs(turn, signal);
            let (model, known) = (self.attach(model, &block)?, !block.is_empty());
            return Ok(Compressed { model, next, block, known });
        }
        let rounds = match (sink.rounds(), &self.options.refine) {
            (false, _) => Rounds::Never,
            (true, None) => Rounds::Now,
            (true, Some(_)) => Rounds::Later,
        };
        let (mut model, mut block, mut next) = (model, Block::new(), None);
        let mut norms = Vec::new();
        for stage in turn.stages {
            progress.check()?;
            // The first compressed matrices have the same inputs as in the dense model.
            let changed = signal.changed || !block.is_empty();
            let inputs = match changed && self.options.follows() && !stage[0].is_routed {
                true => {
                    let (outputs, inputs) = self.inputs_of(turn, stage, signal, &model.valid());
                    next.get_or_insert(outputs);
                    Some(inputs)
                }
                false => None,
            };
            if inputs.as_ref().is_some_and(|inputs| !inputs.are_finite()) {
                return Err(CompressError::NotFinite { block: turn.index + 1 });
            }
            let norm = inputs.map(|inputs| self.norm_for(stage, &inputs)).transpose()?;
            let made = self.factor(stage, norm.as_ref(), rounds)?;
            model = self.attach(model, &made)?;
            block.extend(made);
            norms.push(norm.filter(|_| self.options.refine.is_some()));
        }
        let next = next.unwrap_or_else(|| self.outputs(turn, signal));
        let refined = self.refined(model, &mut block, turn, (signal, next.as_slice()), progress)?;
        if rounds == Rounds::Later && self.compressor.rounding == Rounding::Fitted {
            for (stage, norm) in turn.stages.iter().zip(&norms) {
                self.refit(stage, norm.as_ref(), &mut block)?;
            }
        }
        let model = match rounds {
            Rounds::Never => refined,
            // What is rounded already stays as it is.
            Rounds::Now | Rounds::Later => self.rounded(refined, &mut block)?,
        };
        if self.options.refine.is_some() {
            for (stage, norm) in turn.stages.iter().zip(norms) {
                self.measure(stage, norm.as_ref(), &mut block)?;
            }
        }
        for (name, made) in &block {
            sink.put(self.planned[name], made)?;
        }
        Ok(Compressed { model, next, block, known: false })
    }

    /// The model after the compressed matrices of a block were trained, if they are to be.
    fn refined(
        &self,
        model: M,
        block: &mut Block,
        turn: &Turn<'_, M::Pass>,
        (signal, next): (&Signal, &[Tensor<3>]),
        progress: &mut dyn Progress,
    ) -> Result<M, CompressError> {
        let compressed = block.keys().filter(|name| !self.planned[*name].is_dense());
        let names: BTreeSet<MatrixName> = compressed.cloned().collect();
        let Some(options) = self.options.refine.as_ref().filter(|_| !names.is_empty()) else {
            return Ok(model);
        };
        let task = Task {
            index: turn.index,
            names: &names,
            inputs: &signal.compressed,
            targets: next,
            tokens: &self.text[0],
            metric: self.metric(turn.index)?,
        };
        let model = refine(model, &task, options, &self.workers, &self.device, progress)?;
        self.read_back(turn.index, &model, block)?;
        Ok(model)
    }

    /// The block from an earlier process, if it finished all of its matrices.
    fn find(
        &self,
        turn: &Turn<'_, M::Pass>,
        sink: &mut dyn Sink,
    ) -> Result<Option<Block>, CompressError> {
        let mut block = Block::new();
        for name in turn.names() {
            match sink.find(self.planned[name])? {
                Some(made) => drop(block.insert(name.clone(), made)),
                None => return Ok(None),
            }
        }
        Ok(Some(block))
    }

    /// `L` with `L Lᵀ = E[g gᵀ]` of the gradients of the block's output, if the calibration has
    /// gradients: those of its last matrix, if that writes to the residual stream. Experts do not,
    /// each by itself.
    fn metric(&self, index: usize) -> Result<Option<Matrix>, CompressError> {
        let calibration = self.options.calibration;
        if !calibration.has_gradients() {
            return Ok(None);
        }
        let mut matrices = self.dense.matrices().into_iter().rev();
        let last = matrices.find(|matrix| matrix.block == index);
        let last = last.filter(|matrix| matrix.writes_residual);
        let Some(name) = last.map(|matrix| matrix.name) else { return Ok(None) };
        let root = calibration.outputs(&name)?.root(self.compressor.norms.shrink().output);
        let metric = root.and_then(|root| root.to_matrix());
        Ok(Some(metric.map_err(CompressError::of_linalg(&name))?))
    }

    /// The outputs of a block in the dense model, by window.
    fn outputs(&self, turn: &Turn<'_, M::Pass>, signal: &Signal) -> Vec<Tensor<3>> {
        let work =
            |window: usize| self.dense.block(turn.index, signal.dense[window].clone(), turn.pass);
        self.workers.map(signal.dense.len(), work)
    }

    /// The same, and statistics of the inputs that a stage of the block has in the model so far, in
    /// which earlier stages are what they became, together with those in the dense model. Not of
    /// experts, which see other tokens in one than in the other.
    fn inputs_of(
        &self,
        turn: &Turn<'_, M::Pass>,
        stage: &[SharedInputs],
        signal: &Signal,
        so_far: &M,
    ) -> (Vec<Tensor<3>>, Inputs) {
        let Turn { index, pass, .. } = *turn;
        // It is dense in both.
        let name = &stage[0].name;
        let [_, size] = self.watch.shape(name);
        let work = |window: usize| {
            let (x, y) = (signal.dense[window].clone(), signal.compressed[window].clone());
            let (output, should) = self.watch.inputs_of(name, || self.dense.block(index, x, pass));
            let (_, does) = self.watch.inputs_of(name, || so_far.block(index, y, pass));
            (output, Inputs::of(size, &should, &does))
        };
        let (mut outputs, mut sum) = (Vec::new(), Inputs::none(size));
        // In the order of the windows, so that sums do not depend on the threads.
        self.workers.spread_in_order(signal.dense.len(), work, |_, (output, inputs)| {
            outputs.push(output);
            sum.add(&inputs);
        });
        (outputs, sum)
    }

    /// The outputs of a block of the compressed model, by window.
    fn through(
        &self,
        plain: &M,
        index: usize,
        inputs: &[Tensor<3>],
        pass: &M::Pass,
    ) -> Result<Vec<Tensor<3>>, CompressError> {
        let work = |window: usize| {
            let output = plain.block(index, inputs[window].clone(), pass);
            let is_finite = output.clone().is_finite().all();
            (output, is_finite)
        };
        let computed = self.workers.map(inputs.len(), work);
        let (outputs, are_finite): (Vec<Tensor<3>>, Vec<Tensor<1, Bool>>) =
            computed.into_iter().unzip();
        // One number for all windows, so that the device is waited for once.
        match Tensor::cat(are_finite, 0).all().into_scalar::<bool>() {
            true => Ok(outputs),
            false => Err(CompressError::NotFinite { block: index + 1 }),
        }
    }
}

impl<P> Turn<'_, P> {
    /// The planned matrices of the block.
    fn names(&self) -> impl Iterator<Item = &MatrixName> {
        self.stages.iter().flatten().map(|matrix| &matrix.name)
    }
}

/// Paths of the parameters of a module that train.
fn trained_paths(module: &impl Module) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    walk(module, |place, param| {
        if param.trains() {
            paths.insert(place.path.clone());
        }
    });
    paths
}
