//! Compresses a language model block by block, on the text of a calibration.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::check::planned_matrices;
use super::error::CompressError;
use super::options::{BlockwiseOptions, Compressor};
use super::refine::{Task, refine};
use super::report::{CompressReport, CompressedMatrix};
use crate::calibrate::{CalibrationError, SharedInputs, Watch};
use crate::forms::{FormError, Rest, StoredForm, attach, fill, read_matrices};
use crate::linalg::{CrossMoment, LinalgError, Matrix, SecondMoment, Weighting};
use crate::model::{LanguageModel, as_tensor, device_of};
use crate::modules::{Change, MatrixName, Place, map_floats, walk};
use crate::plan::MatrixPlan;
use crate::progress::{Part, Progress};
use crate::spectrum::Method;
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
        let Self { calibration, follow, windows, refine, .. } = self;
        format!("{} {follow} {windows:?} {refine:?}", calibration.digest())
    }
}

/// Where finished matrices go.
pub(super) trait Sink {
    /// A matrix that an earlier process compressed, if there is one.
    fn find(&mut self, matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError>;

    /// Takes a finished matrix.
    fn put(&mut self, matrix: &MatrixPlan, made: &StoredForm) -> Result<(), CompressError>;

    /// Whether matrices are rounded to their stored type before later blocks use them.
    fn rounds(&self) -> bool;
}

/// Matrices stay only in the model.
struct Nowhere;

impl Sink for Nowhere {
    fn find(&mut self, _matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError> {
        Ok(None)
    }

    fn put(&mut self, _matrix: &MatrixPlan, _made: &StoredForm) -> Result<(), CompressError> {
        Ok(())
    }

    fn rounds(&self) -> bool {
        false
    }
}

/// What to compress, and how, after all checks.
pub(super) struct Blocks<'a, M> {
    compressor: &'a Compressor<'a>,
    options: &'a BlockwiseOptions<'a>,
    planned: BTreeMap<MatrixName, &'a MatrixPlan>,
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

/// The compressed matrices of a block, by name.
type Block = BTreeMap<MatrixName, StoredForm>;

/// Statistics of the inputs of the matrices of a block, by the first matrix with the same inputs.
#[derive(Default)]
struct Inputs {
    seen: BTreeMap<MatrixName, SecondMoment>,
    cross: BTreeMap<MatrixName, CrossMoment>,
}

/// The inputs of the next block in the dense and in the compressed model, by window.
struct Signal {
    dense: Vec<Tensor<3>>,
    compressed: Vec<Tensor<3>>,
    /// Whether anything before this block is compressed.
    changed: bool,
}

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
    /// Its matrices that should be compressed, in the order of their use.
    layer: Vec<SharedInputs>,
    pass: &'t P,
}

impl<'a, M: LanguageModel> Blocks<'a, M> {
    /// Checks everything that can be checked before the first block.
    pub fn new(
        compressor: &'a Compressor<'a>,
        options: &'a BlockwiseOptions<'a>,
        model: &M,
    ) -> Result<Self, CompressError> {
        let plain = compressor.norms.method() == Method::Svd;
        if plain && options.follow > 0.0 {
            return Err(CompressError::NeedsCalibration);
        }
        let mut text = options.calibration.windows()?;
        text.truncate(options.windows.unwrap_or(usize::MAX));
        if text.is_empty() {
            return Err(CompressError::NoText);
        }
        let (vocab_size, context) = (model.vocab_size(), model.context());
        if let Some(seq_len) = text.iter().map(Vec::len).find(|length| *length > context) {
            return Err(CalibrationError::Context { seq_len, context }.into());
        }
        if let Some(token) = text.iter().flatten().find(|token| **token as usize >= vocab_size) {
            return Err(CalibrationError::UnknownToken { token: *token, vocab_size }.into());
        }
        planned_matrices(model, compressor.plan)?;
        let planned: BTreeMap<MatrixName, &MatrixPlan> =
            compressor.plan.compressed().map(|matrix| (matrix.name.clone(), matrix)).collect();
        let known: BTreeSet<MatrixName> = model.matrices().into_iter().map(|m| m.name).collect();
        if let Some(name) = planned.keys().find(|name| !known.contains(*name)) {
            // For example a head.
            let reason = format!("`{name}` is in no block of the model");
            return Err(CompressError::ForeignPlan { reason });
        }
        let budget = compressor.write.budget;
        let needs = planned.values().map(|plan| compressor.cost(plan).bytes);
        budget.check(planned.keys().map(MatrixName::as_str).zip(needs))?;
        let dense = model.valid();
        Ok(Self {
            watch: Watch::new(&dense)?,
            device: device_of(model),
            compressor,
            options,
            planned,
            text,
            dense,
            workers: Workers::new(options.at_once),
            jobs: budget.workers(),
        })
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
        let mut report = CompressReport::default();
        // Blocks are alike, so each counts the same.
        let blocks = self.dense.blocks();
        progress.begin_work("compressing", self.planned.len(), blocks as u64);
        progress.count_in("matrices");
        for index in 0..blocks {
            progress.check()?;
            let (_, seen) =
                self.watch.survey(|| self.dense.block(index, signal.dense[0].clone(), &pass));
            let mut layer = self.watch.groups(&seen);
            layer.retain(|matrix| self.planned.contains_key(&matrix.name));
            let turn = Turn { index, layer, pass: &pass };
            let compressed = self.block(model, &turn, &signal, sink, progress)?;
            let Compressed { next, block, known, .. } = compressed;
            model = compressed.model;
            report.compressed.extend(turn.layer.iter().map(|SharedInputs { name, .. }| {
                let in_loss = self.compressor.norms.is_of_loss(name);
                CompressedMatrix::new(self.planned[name], block[name].error, in_loss)
            }));
            signal.changed |= !turn.layer.is_empty();
            signal.compressed = match signal.changed {
                true => self.through(&model.valid(), index, &signal.compressed, &pass)?,
                false => next.clone(),
            };
            signal.dense = next;
            let (item, steps) = (format!("block {} of {blocks} done", index + 1), turn.layer.len());
            progress.part(Part { item: &item, steps, operations: 1, known })?;
        }
        let is_planned =
            |place: &Place| place.matrix().is_some_and(|name| self.planned.contains_key(&name));
        let rest_trains = |place: &Place| match self.compressor.rest {
            Rest::Keep => trained.contains(&place.path),
            Rest::Freeze => false,
            Rest::Train => true,
        };
        let trains = |place: &Place| Change::Train(is_planned(place) || rest_trains(place));
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
        let Turn { index, ref layer, pass } = *turn;
        if let Some(block) = self.find(layer, sink)? {
            let (next, _) = self.inputs_of(index, &[], signal, pass);
            let (model, known) = (self.attach(model, &block)?, !layer.is_empty());
            return Ok(Compressed { model, next, block, known });
        }
        // The first compressed block has the same inputs as the dense one.
        let follows = signal.changed && self.options.follow > 0.0;
        let measured: &[SharedInputs] = if follows { layer } else { &[] };
        let (next, inputs) = self.inputs_of(index, measured, signal, pass);
        if !inputs.are_finite() {
            return Err(CompressError::NotFinite { block: index + 1 });
        }
        // Refinement takes steps that are smaller than a stored type resolves.
        let rounds_now = sink.rounds() && self.options.refine.is_none();
        let mut block = self.factor(layer, &inputs, follows, rounds_now)?;
        let mut model = self.attach(model, &block)?;
        if let (Some(options), false) = (&self.options.refine, layer.is_empty()) {
            let names: BTreeSet<MatrixName> = block.keys().cloned().collect();
            let task = Task {
                index,
                names: &names,
                inputs: &signal.compressed,
                targets: &next,
                tokens: &self.text[0],
                metric: self.metric(index)?,
            };
            model = refine(model, &task, options, &self.workers, &self.device, progress)?;
            self.read_back(index, &model, &mut block)?;
        }
        if sink.rounds() {
            // What is rounded already stays as it is.
            self.round(&mut block)?;
            let parts = block.iter().map(|(name, made)| (name.clone(), made.parts.clone()));
            model = fill(model, &parts.collect());
        }
        for (name, made) in &block {
            sink.put(self.planned[name], made)?;
        }
        Ok(Compressed { model, next, block, known: false })
    }

    /// The block from an earlier process, if it finished all of its matrices.
    fn find(
        &self,
        layer: &[SharedInputs],
        sink: &mut dyn Sink,
    ) -> Result<Option<Block>, CompressError> {
        let mut block = Block::new();
        for SharedInputs { name, .. } in layer {
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

    /// The outputs of a block in the dense model, and statistics of the inputs that some of its
    /// matrices have in the compressed model, together with those in the dense model. Not those of
    /// experts, which see other tokens in one than in the other.
    fn inputs_of(
        &self,
        index: usize,
        layer: &[SharedInputs],
        signal: &Signal,
        pass: &M::Pass,
    ) -> (Vec<Tensor<3>>, Inputs) {
        let leaders = layer.iter().filter(|matrix| !matrix.is_routed);
        let leaders: BTreeSet<&MatrixName> = leaders.map(|matrix| &matrix.inputs_of).collect();
        let work = |window: usize| {
            let x = signal.dense[window].clone();
            let mut inputs = Inputs::default();
            if leaders.is_empty() {
                return (self.dense.block(index, x, pass), inputs);
            }
            let (output, should) = self.watch.inputs(|| self.dense.block(index, x, pass));
            let x = signal.compressed[window].clone();
            let (_, does) = self.watch.inputs(|| self.dense.block(index, x, pass));
            for (id, size, x) in &should.inputs {
                let name = self.watch.name(*id);
                let same = does.inputs.iter().find(|(other, ..)| other == id);
                let (true, Some((_, _, y))) = (leaders.contains(name), same) else { continue };
                let mut seen = SecondMoment::new(*size);
                seen.add(y);
                let mut cross = CrossMoment::new(*size);
                cross.add(x, y);
                inputs.seen.insert(name.clone(), seen);
                inputs.cross.insert(name.clone(), cross);
            }
            (output, inputs)
        };
        let (mut outputs, mut sums) = (Vec::new(), Inputs::default());
        // In the order of the windows, so that sums do not depend on the threads.
        self.workers.spread_in_order(signal.dense.len(), work, |_, (output, inputs)| {
            outputs.push(output);
            sums.add(inputs);
        });
        (outputs, sums)
    }

    fn factor(
        &self,
        layer: &[SharedInputs],
        inputs: &Inputs,
        follows: bool,
        rounds: bool,
    ) -> Result<Block, CompressError> {
        let plans: Vec<&MatrixPlan> =
            layer.iter().map(|matrix| self.planned[&matrix.name]).collect();
        let needs: Vec<u64> = plans.iter().map(|plan| self.compressor.cost(plan).bytes).collect();
        let norms = &self.compressor.norms;
        let work = |place: usize| -> Result<StoredForm, CompressError> {
            let (SharedInputs { name, inputs_of, is_routed }, plan) = (&layer[place], plans[place]);
            let norm = match follows && !is_routed {
                true => {
                    let (seen, cross) = (&inputs.seen[inputs_of], &inputs.cross[inputs_of]);
                    let (follow, shrink) = (self.options.follow, norms.shrink().input);
                    let output = norms.output_root(name)?;
                    Weighting::sequential(seen, cross, follow, shrink, output)
                        .map_err(CompressError::of_linalg(name))?
                }
                false => norms.of(name)?,
            };
            let dense = self.watch.matrix(name).map_err(CompressError::of_form(name))?;
            let made = match rounds {
                true => {
                    let rounding = self.compressor.rounding;
                    plan.form.make_stored(&dense, &norm, plan.dtype, rounding)
                }
                false => plan.form.make(&dense, &norm).map(StoredForm::from),
            };
            made.map_err(CompressError::of_making(name))
        };
        let mut block = Block::new();
        let memory = self.compressor.write.budget.memory;
        self.jobs.try_spread_within(memory, &needs, work, |place, made| {
            block.insert(layer[place].name.clone(), made);
            Ok(())
        })?;
        Ok(block)
    }

    /// Rounds the matrices of a block to their stored types.
    fn round(&self, block: &mut Block) -> Result<(), CompressError> {
        for (name, made) in block {
            let dtype = self.planned[name].dtype;
            for part in &mut made.parts {
                *part = part.as_stored(dtype).map_err(CompressError::of_form(name))?;
            }
        }
        Ok(())
    }

    /// Takes the parts of a block from the trained model.
    fn read_back(&self, index: usize, model: &M, block: &mut Block) -> Result<(), CompressError> {
        let trained = read_matrices(&model.valid(), |name| block.contains_key(name));
        let trained = trained.map_err(|(name, source)| match source {
            // Too large a learning rate.
            FormError::Linalg(LinalgError::NotFinite { .. }) => {
                CompressError::NotFinite { block: index + 1 }
            }
            source => CompressError::Form { name, source },
        })?;
        for (name, parts) in trained {
            if let Some(made) = block.get_mut(&name) {
                made.parts = parts;
            }
        }
        Ok(())
    }

    fn attach(&self, model: M, block: &Block) -> Result<M, CompressError> {
        let choose = |name: &MatrixName| {
            let made = block.get(name)?;
            Some((self.planned[name].form, made.parts.clone()))
        };
        let attached = attach(model, choose, Rest::Keep);
        attached.map_err(|(name, source)| CompressError::Form { name, source })
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

impl Inputs {
    fn are_finite(&self) -> bool {
        self.seen.values().all(SecondMoment::is_finite)
            && self.cross.values().all(CrossMoment::is_finite)
    }

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
