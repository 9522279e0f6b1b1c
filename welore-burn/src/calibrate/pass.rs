use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, Tensor};

use super::collector::{Seen, SharedInputs, Watch, to_rows};
use super::error::CalibrationError;
use super::experts::{experts_of, fill_up, needs, spread_gradients};
use super::file::{Manifest, MatrixEntry};
use super::hidden::{HiddenStates, Like};
use super::labels::{GradientLabels, labels_of_model};
use super::options::{CalibrationOptions, CalibrationSummary};
use super::probe::Probing;
use super::resume::{Counts, Direction, Resume, begin, identity};
use super::text::CalibrationText;
use super::writer::CalibrationWriter;
use crate::checkpoint::Checkpoint;
use crate::linalg::SecondMoment;
use crate::model::{LanguageModel, as_tensor, cross_entropy, device_of, leaf};
use crate::modules::MatrixName;
use crate::progress::{Interrupted, Progress};
use crate::words::number_of;
use crate::workers::Workers;

/// Measures a dense language model on a text, or on several, and writes the result to `path`, whole
/// or not at all. For every matrix that can be compressed, it measures the second moment of the
/// inputs and that of the gradients of the loss, summed over the tokens of a window, with respect to
/// the outputs. For embedding and head, it measures the gradients with respect to rows of the embedding,
/// and the inputs of the head, as many times as the model [multiplies](LanguageModel::token_scales)
/// logits.
///
/// The text passes through one block of the model at a time, forward and, for the gradients,
/// backward. Memory holds the model, the hidden states of all windows, and the second moments of one
/// block: their sum, and those of one window for each of the
/// [`at_once`](CalibrationOptions::at_once) workers. The hidden states of windows with gradients at every
/// block are in memory, too, as long as they fit 1 GiB; beyond that they are in an unnamed file
/// beside `path`. Sums are f64, over products of a window in f32.
///
/// In a mixture of experts, the inputs of an expert are those of the tokens that it sees. If these are
/// fewer than twice the inputs of a matrix, they are made up to that many with the mean over tokens of
/// the text that other experts see. Gradients of an expert are means over all tokens, which are 0 for
/// those that it does not see.
///
/// `model` is on its autodiff device. `checkpoint` is the source of its weights, if known: the
/// calibration is then refused for other weights.
///
/// # Errors
///
/// [`CalibrationError`]; an unsuitable text is refused before anything is computed.
pub fn calibrate<M: LanguageModel>(
    model: &M,
    checkpoint: Option<&Checkpoint>,
    text: &CalibrationText,
    options: &CalibrationOptions,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<CalibrationSummary, CalibrationError> {
    let summary = preview_calibration(model, text, options)?;
    let CalibrationSummary { gradient_windows, seq_len, .. } = summary;
    let records = text.records(seq_len, options.windows);
    let text = text.windows(seq_len, options.windows);
    let watch = Watch::new(model)?;
    let frozen = model.clone().no_grad();
    let device = device_of(&frozen);
    let (layers, width) = survey(&frozen.valid(), &watch, &text[0], &device.clone().inner());
    check_used(model, &layers)?;
    let matrices = entries(checkpoint, &watch, &layers)?;
    let source = checkpoint.map(|from| from.dir().display().to_string()).unwrap_or_default();
    let manifest = Manifest::new(source, seq_len, text.len(), gradient_windows, records, matrices)
        .with_labels(options.gradient_labels, options.label_seed)
        .with_ends(width);
    let resumed = checkpoint.filter(|_| options.resumable);
    let resumed = resumed.map(|from| identity(from, &frozen, &text[0])).transpose()?;
    let (writer, mut resume) = begin(path, &manifest, &text, resumed, layers.len())?;

    let steps = layers.len() * (1 + usize::from(gradient_windows > 0));
    progress.begin(&format!("calibrating on {}", number_of(text.len(), "window")), steps);
    progress.count_in("block passes");
    let workers = Workers::new(options.at_once);
    let pass = Calibrating {
        model: &frozen,
        watch: &watch,
        layers,
        workers,
        device,
        writer,
        options,
        path,
    };
    let Forward { kept, last, mut counts } =
        pass.forward(&text, gradient_windows, &mut resume, progress)?;
    if gradient_windows > 0 {
        let with_gradients = &text[..gradient_windows];
        counts = pass.backward(with_gradients, kept, last, counts, &mut resume, progress)?;
        let probed = options.probe_windows.min(text.len());
        if probed > 0 {
            pass.probe(&text[..probed], progress)?;
        }
    }
    checkpoint.map_or(Ok(()), Checkpoint::check_unchanged)?;
    pass.writer.finish()?;
    let Counts { mixed_experts, uneven } = counts;
    if mixed_experts > 0 {
        tracing::debug!("{} saw few tokens", number_of(mixed_experts, "expert"));
    }
    Ok(CalibrationSummary { mixed_experts, uneven, ..summary })
}

/// What [`calibrate`] would measure. Computes nothing: a model without weights will do.
///
/// # Errors
///
/// Those of [`calibrate`] that follow from the text and the shapes of the model.
pub fn preview_calibration(
    model: &impl LanguageModel,
    text: &CalibrationText,
    options: &CalibrationOptions,
) -> Result<CalibrationSummary, CalibrationError> {
    check_text(model, text, options)?;
    let seq_len = options.seq_len;
    let windows = text.count(seq_len, options.windows);
    let gradient_windows = options.gradient_windows.min(windows);
    let watch = Watch::new(model)?;
    check_amount(&watch, windows * seq_len, options)?;
    Ok(CalibrationSummary {
        matrices: watch.shapes().len(),
        windows,
        gradient_windows,
        seq_len,
        mixed_experts: 0,
        most_outputs: watch.shapes().map(|(_, [outputs, _])| outputs).max().unwrap_or(0),
        uneven: 0,
    })
}

/// Refuses a model with a matrix that none of its blocks uses.
fn check_used(model: &impl LanguageModel, layers: &[Layer]) -> Result<(), CalibrationError> {
    let used: BTreeSet<&MatrixName> = layers.iter().flatten().map(|matrix| &matrix.name).collect();
    match model.matrices().into_iter().find(|matrix| !used.contains(&matrix.name)) {
        Some(matrix) => Err(CalibrationError::NotUsed(matrix.name)),
        None => Ok(()),
    }
}

/// Refuses fewer tokens than a matrix has inputs, unless that is allowed.
fn check_amount(
    watch: &Watch,
    tokens: usize,
    options: &CalibrationOptions,
) -> Result<(), CalibrationError> {
    let sizes = watch.shapes().map(|(name, [_, size])| (size, name));
    match sizes.max().filter(|_| !options.allow_deficient) {
        Some((size, name)) if tokens < size => {
            Err(CalibrationError::TooLittleText { tokens, name: name.clone(), size })
        }
        _ => Ok(()),
    }
}

/// Checks that each text fills a window, that a window fits the context, and that all tokens are in
/// the vocabulary.
fn check_text(
    model: &impl LanguageModel,
    text: &CalibrationText,
    options: &CalibrationOptions,
) -> Result<(), CalibrationError> {
    let (seq_len, context) = (options.seq_len, model.context());
    options.check()?;
    if seq_len > context {
        return Err(CalibrationError::Context { seq_len, context });
    }
    if let Some(tokens) = text.too_short(seq_len) {
        return Err(CalibrationError::TooShort { tokens, seq_len });
    }
    let vocab_size = model.vocab_size();
    match text.largest() {
        Some(token) if token as usize >= vocab_size => {
            Err(CalibrationError::UnknownToken { token, vocab_size })
        }
        _ => Ok(()),
    }
}

impl Counts {
    fn add_uneven(&mut self, moment: &SecondMoment) {
        self.uneven = self.uneven.saturating_add(usize::from(is_uneven(moment)));
    }

    fn add_mixed(&mut self, experts: usize) {
        self.mixed_experts = self.mixed_experts.saturating_add(experts);
    }
}

/// Whether a second moment has rows enough, but few of them decide it, such as those of the first
/// tokens of texts in some models.
fn is_uneven(moment: &SecondMoment) -> bool {
    let size = moment.size();
    moment.count() >= size as u64 && moment.effective_rows().is_some_and(|rows| rows < size as f64)
}

/// The matrices of a block, in the order of their use.
pub(super) type Layer = Vec<SharedInputs>;

/// Runs a few tokens to find which matrices each block has, which of them share inputs, and the width
/// of hidden states.
pub(crate) fn survey<M: LanguageModel>(
    plain: &M,
    watch: &Watch,
    text: &[u32],
    device: &Device,
) -> (Vec<Vec<SharedInputs>>, usize) {
    let few = &text[..text.len().min(4)];
    let (mut x, pass) = plain.begin(as_tensor(few, device));
    let mut layers = Vec::new();
    for index in 0..plain.blocks() {
        let (output, seen) = watch.survey(|| plain.block(index, x, &pass));
        x = output;
        layers.push(watch.groups(&seen));
    }
    let [_, _, width] = x.dims();
    (layers, width)
}

fn entries(
    checkpoint: Option<&Checkpoint>,
    watch: &Watch,
    layers: &[Layer],
) -> Result<Vec<MatrixEntry>, CalibrationError> {
    let entry = |SharedInputs { name, inputs_of, .. }: &SharedInputs| {
        let digest = checkpoint.map(|from| from.digest(&name.weight())).transpose()?;
        let shape = watch.shape(name);
        Ok(MatrixEntry { name: name.clone(), shape, digest, inputs_of: inputs_of.clone() })
    };
    layers.iter().flatten().map(entry).collect()
}

struct Calibrating<'a, M> {
    /// On its autodiff device, without trainable parameters.
    model: &'a M,
    watch: &'a Watch,
    layers: Vec<Layer>,
    workers: Workers,
    device: Device,
    writer: CalibrationWriter,
    options: &'a CalibrationOptions,
    /// The file that is made.
    path: &'a Path,
}

/// Second moments of the matrices of a block.
pub(super) type Moments = BTreeMap<MatrixName, SecondMoment>;

/// What a pass forward leaves for the one backward.
struct Forward {
    /// The inputs of every block, for the windows with gradients.
    kept: HiddenStates,
    /// The last hidden states of these windows.
    last: Vec<Tensor<3>>,
    /// What was counted on the way.
    counts: Counts,
}

impl<M: LanguageModel> Calibrating<'_, M> {
    /// Measures inputs.
    fn forward(
        &self,
        text: &[Vec<u32>],
        gradient_windows: usize,
        resume: &mut Resume,
        progress: &mut dyn Progress,
    ) -> Result<Forward, CalibrationError> {
        let plain = self.model.valid();
        let device = self.device.clone().inner();
        let begin = |tokens: &Vec<u32>| plain.begin(as_tensor(tokens, &device));
        let (_, pass) = begin(&text[0]);
        let mut hidden: Vec<Tensor<3>> = text.iter().map(|tokens| begin(tokens).0).collect();
        let like = Like::of(&hidden[0]);
        let (done, mut counts) = (resume.done(Direction::Forward), resume.counts());
        let mut kept = resume.kept(self.path, gradient_windows, &like);
        if let Some(states) = resume.states(Direction::Forward, text.len(), &like)? {
            hidden = states;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            progress.step(&format!("inputs of block {} of {}", index + 1, self.layers.len()))?;
            if index < done {
                continue;
            }
            let leaders: BTreeSet<MatrixName> =
                layer.iter().map(|matrix| matrix.inputs_of.clone()).collect();
            let block = |window: usize| plain.block(index, hidden[window].clone(), &pass);
            let work = |window: usize| {
                let (output, seen) = self.watch.inputs(|| block(window));
                (output, self.moments_of(&seen, &leaders))
            };
            let (outputs, mut moments) = self.spread(text.len(), work, progress)?;
            let mixed = self.fill_up(layer, &mut moments, text.len(), block, progress)?;
            counts.add_mixed(mixed);
            for (name, moment) in &moments {
                counts.add_uneven(moment);
                self.writer.write_inputs(name, moment)?;
            }
            let inputs = resume.keep(&mut kept, index, &hidden[..gradient_windows])?;
            hidden = outputs;
            resume.note(Direction::Forward, index, &hidden, inputs, counts, &self.writer)?;
        }
        let scale = self.model.token_scales().head;
        let end = |window: usize| plain.end(hidden[window].clone());
        let head = self.sum_up(text.len(), scale, end, progress)?;
        self.writer.write_head(&head)?;
        hidden.truncate(gradient_windows);
        Ok(Forward { kept, last: hidden, counts })
    }

    /// The second moments of the inputs of some matrices in one pass.
    fn moments_of(&self, seen: &Seen, names: &BTreeSet<MatrixName>) -> Moments {
        let mut moments = Moments::new();
        for (id, size, rows) in &seen.inputs {
            let name = self.watch.name(*id);
            if names.contains(name) {
                let moment = moments.entry(name.clone());
                moment.or_insert_with(|| SecondMoment::new(*size)).add(rows);
            }
        }
        moments
    }

    /// Fills up the second moments of the inputs of experts that saw few tokens, with what all tokens
    /// of as many windows as that takes give. Returns the number of these experts.
    fn fill_up(
        &self,
        layer: &Layer,
        moments: &mut Moments,
        windows: usize,
        block: impl Fn(usize) -> Tensor<3> + Sync,
        progress: &mut dyn Progress,
    ) -> Result<usize, Interrupted> {
        let needs = needs(layer, self.watch, moments);
        let Some(most) = needs.values().max() else { return Ok(0) };
        let names: BTreeSet<MatrixName> = needs.keys().cloned().collect();
        let enough = most.div_ceil(self.options.seq_len as u64).min(windows as u64);
        let work = |window: usize| {
            let (output, seen) = self.watch.inputs_of_all(&names, || block(window));
            (output, self.moments_of(&seen, &names))
        };
        let (_, all) = self.spread(enough as usize, work, progress)?;
        fill_up(moments, &needs, &all);
        Ok(experts_of(names.iter()))
    }

    /// Measures gradients of the loss, block by block from the end of the model. Returns all that was
    /// counted.
    fn backward(
        &self,
        text: &[Vec<u32>],
        mut kept: HiddenStates,
        last: Vec<Tensor<3>>,
        mut counts: Counts,
        resume: &mut Resume,
        progress: &mut dyn Progress,
    ) -> Result<Counts, CalibrationError> {
        let (model, blocks) = (self.model, self.layers.len());
        let (_, pass) = model.begin(as_tensor(&text[0], &self.device));
        let head = |window: usize| {
            (self.gradient_of_loss(window, &text[window], last[window].clone()), Moments::new())
        };
        let known = resume.states(Direction::Backward, text.len(), &Like::of(&last[0]))?;
        let mut gradients = match known {
            Some(states) => states,
            None => self.spread(text.len(), head, progress)?.0,
        };
        for step in 0..resume.done(Direction::Backward) {
            progress.step(&format!("gradients of block {} of {blocks}", blocks - step))?;
        }
        kept.forget(resume.done(Direction::Backward));
        // The inputs of a block are freed once it is done.
        while let Some((index, inputs)) = kept.pop()? {
            progress.step(&format!("gradients of block {} of {blocks}", index + 1))?;
            let work = |window: usize| {
                let input = leaf(inputs[window].clone());
                let forward = || model.block(index, input.clone(), &pass);
                let (output, seen) = self.watch.outputs(forward);
                let gradient = Tensor::from_inner(gradients[window].clone());
                let mut backward = (output * gradient).sum().backward();
                let mut moments = Moments::new();
                for (id, probe) in seen.probes {
                    let gradient = probe.grad_remove(&mut backward);
                    let gradient = gradient.expect("every output has a gradient");
                    let [_, size] = gradient.dims();
                    let moment = moments.entry(self.watch.name(id).clone());
                    moment.or_insert_with(|| SecondMoment::new(size)).add(&to_rows(gradient));
                }
                (input.grad_remove(&mut backward).expect("the input is a leaf"), moments)
            };
            let (next, mut moments) = self.spread(text.len(), work, progress)?;
            let tokens = text.len() * self.options.seq_len;
            spread_gradients(&self.layers[index], &mut moments, tokens as u64);
            for (name, moment) in &moments {
                counts.add_uneven(moment);
                self.writer.write_outputs(name, moment)?;
            }
            gradients = next;
            let step = blocks - 1 - index;
            resume.note(Direction::Backward, step, &gradients, None, counts, &self.writer)?;
        }
        let scale = self.model.token_scales().embedding;
        let gradients = |window: usize| gradients[window].clone();
        let embedding = self.sum_up(text.len(), scale, gradients, progress)?;
        self.writer.write_embedding(&embedding)?;
        Ok(counts)
    }

    /// The second moment of hidden states of all windows, each times `scale`.
    fn sum_up(
        &self,
        count: usize,
        scale: f64,
        states: impl Fn(usize) -> Tensor<3> + Sync,
        progress: &mut dyn Progress,
    ) -> Result<SecondMoment, Interrupted> {
        let mut sum = None::<SecondMoment>;
        let work = |window: usize| {
            let states = states(window).flatten::<2>(0, 1);
            let [_, width] = states.dims();
            let mut rows = to_rows(states);
            rows.iter_mut().for_each(|x| *x *= scale as f32);
            let mut moment = SecondMoment::new(width);
            moment.add(&rows);
            moment
        };
        self.workers.try_spread_in_order(count, work, |_, moment| {
            match &mut sum {
                Some(sum) => sum.merge(&moment),
                None => sum = Some(moment),
            }
            progress.check()
        })?;
        Ok(sum.expect("there are windows"))
    }

    fn probe(
        &self,
        text: &[Vec<u32>],
        progress: &mut dyn Progress,
    ) -> Result<(), CalibrationError> {
        let moments = self.writer.so_far()?;
        let probing = Probing {
            model: &self.model.valid(),
            watch: self.watch,
            layers: &self.layers,
            moments: &moments,
            workers: &self.workers,
            device: &self.device.clone().inner(),
        };
        self.writer.write_probes(&probing.run(text, progress)?)
    }

    /// The gradient of the summed loss of window number `window` with respect to the last hidden
    /// states.
    fn gradient_of_loss(&self, window: usize, tokens: &[u32], last: Tensor<3>) -> Tensor<3> {
        let positions = tokens.len() - 1;
        let end = leaf(last);
        let hidden = self.model.end(end.clone()).narrow(1, 0, positions);
        let logits = self.model.logits(hidden).squeeze_dim::<2>(0);
        let plain = logits.clone().inner();
        let of_text = &tokens[1..];
        let labels = match self.options.gradient_labels {
            GradientLabels::Text => of_text.to_vec(),
            GradientLabels::Model => {
                labels_of_model(plain.clone(), of_text, self.options.label_seed, window)
            }
        };
        let targets = as_tensor(&labels, &self.device.clone().inner());
        let targets = targets.reshape([positions, 1]);
        let (_, gradient) = cross_entropy(plain, targets, 1.0);
        let mut backward = (logits * Tensor::from_inner(gradient)).sum().backward();
        end.grad_remove(&mut backward).expect("the end is a leaf")
    }

    /// Does work on every window, and adds up second moments in the order of the windows, so that
    /// the sums do not depend on the threads. May be stopped between two windows: a step has many.
    fn spread(
        &self,
        count: usize,
        work: impl Fn(usize) -> (Tensor<3>, Moments) + Sync,
        progress: &mut dyn Progress,
    ) -> Result<(Vec<Tensor<3>>, Moments), Interrupted> {
        let (mut outputs, mut sums) = (Vec::with_capacity(count), Moments::new());
        self.workers.try_spread_in_order(count, work, |_, (output, moments)| {
            outputs.push(output);
            for (name, moment) in moments {
                match sums.get_mut(&name) {
                    Some(sum) => sum.merge(&moment),
                    None => drop(sums.insert(name, moment)),
                }
            }
            progress.check()
        })?;
        Ok((outputs, sums))
    }
}
