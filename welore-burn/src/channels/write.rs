//! Writes a model whose MLPs have fewer channels.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::curves::memory;
use super::error::ChannelsError;
use super::mlp::{Mlp, mlps};
use super::plan::{CHANNELS_FILE, ChannelPlan};
use crate::calibrate::Calibration;
use crate::checkpoint::{
    Checkpoint, CheckpointError, ShardLayout, ShardWriter, base_config, check_companions,
    copy_companions,
};
use crate::compress::WriteOptions;
use crate::files::{OutputDir, write_file};
use crate::forms::{FormError, TensorSpec, cast_floats, encode_nearest};
use crate::linalg::{Matrix, refit_channels, shrunk_loss_of_error};
use crate::model::{ConfigError, OpenedModel, with_mlp_widths};
use crate::modules::MatrixName;
use crate::progress::{Part, Progress};

const CONFIG_FILE: &str = "config.json";

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelReport {
    /// The down projections that have fewer channels, with the estimated rise of the loss in nats per
    /// token, from the errors of what is stored, in the norm that their costs were measured in.
    pub fitted: Vec<(MatrixName, f64)>,
}

impl ChannelReport {
    /// The estimated rise of the loss in nats per token, in all.
    pub fn loss(&self) -> f64 {
        self.fitted.iter().map(|(_, loss)| loss).sum()
    }
}

/// Writes the model of a plan as a dense Hugging Face directory. Rows of gate and up projections are
/// copied; down projections are fitted again in f64, and rounded once to the type that they have.
/// `config.json` states the new widths, as a list if they differ. All other tensors and companions
/// are copied byte for byte. The caller commits `output`.
///
/// # Errors
///
/// [`ChannelsError`], such as [`ChannelsError::Foreign`] for a plan that was made with another
/// calibration or for another model.
pub fn write_channels(
    opened: &OpenedModel,
    plan: &ChannelPlan,
    calibration: &Calibration,
    output: &OutputDir,
    options: &WriteOptions,
    progress: &mut dyn Progress,
) -> Result<ChannelReport, ChannelsError> {
    let checkpoint = &opened.checkpoint;
    check_companions(checkpoint.dir())?;
    let mlps = mlps(opened)?;
    check_plan(plan, &mlps, calibration)?;
    let kept = mlps.iter().zip(&plan.layers).map(|(mlp, layer)| Cut { mlp, kept: &layer.kept });
    let cuts: Vec<Cut<'_>> = kept.filter(|cut| cut.kept.len() < cut.mlp.channels).collect();
    let config = new_config(checkpoint, plan, &cuts)?;
    let needs = cuts.iter().map(|cut| (cut.mlp.down.as_str(), memory(cut.mlp.down_shape())));
    options.budget.check(needs)?;
    let layout = ShardLayout::new(&specs(checkpoint, &cuts)?, options.shard_bytes)?;
    let work = Work { checkpoint, calibration, plan, cuts };
    let mut write = || -> Result<ChannelReport, ChannelsError> {
        // Replaces what a killed process left here.
        output.begin::<()>("channels", |_| false)?;
        let files = ShardWriter::new(output.path(), &layout)?;
        let fitted = work.fit(&files, options, progress)?;
        work.copy(&files, progress)?;
        checkpoint.check_unchanged()?;
        files.finish()?;
        copy_companions(checkpoint.dir(), output.path())?;
        if let Some(config) = &config {
            write_file(output.path().join(CONFIG_FILE), config.as_bytes())?;
        }
        write_file(output.path().join(CHANNELS_FILE), plan.to_json().as_bytes())?;
        Ok(ChannelReport { fitted })
    };
    write().map_err(|error| error.about(output))
}

/// Checks that a plan is one for these MLPs and this calibration.
fn check_plan(
    plan: &ChannelPlan,
    mlps: &[Mlp],
    calibration: &Calibration,
) -> Result<(), ChannelsError> {
    let foreign = |reason: String| Err(ChannelsError::Foreign { reason });
    if plan.layers.len() != mlps.len() {
        return foreign(format!("it has {} MLPs, not {}", plan.layers.len(), mlps.len()));
    }
    for (layer, mlp) in plan.layers.iter().zip(mlps) {
        if (&layer.name, layer.channels) != (&mlp.down, mlp.channels) || !layer.is_possible() {
            let (name, channels) = (&layer.name, layer.channels);
            return foreign(format!(
                "it has `{name}` with {channels} channels, the model `{}` with {}",
                mlp.down, mlp.channels
            ));
        }
    }
    if plan.calibration != calibration.digest() {
        return foreign("its costs were measured with another calibration".into());
    }
    Ok(())
}

/// An MLP that loses channels.
struct Cut<'a> {
    mlp: &'a Mlp,
    /// Rising.
    kept: &'a [usize],
}

/// The text of `config.json`, if it has to change.
fn new_config(
    checkpoint: &Checkpoint,
    plan: &ChannelPlan,
    cuts: &[Cut<'_>],
) -> Result<Option<String>, ChannelsError> {
    if cuts.is_empty() {
        return Ok(None);
    }
    let path = checkpoint.dir().join(CONFIG_FILE);
    let bytes = base_config(checkpoint.dir())?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::Json("not UTF-8 text".into()));
    let config = text.and_then(|text| with_mlp_widths(&text, &plan.widths_of_layers()));
    config.map(Some).map_err(|source| ChannelsError::Config { path, source })
}

/// The tensors that are written, in the order of the checkpoint.
fn specs(checkpoint: &Checkpoint, cuts: &[Cut<'_>]) -> Result<Vec<TensorSpec>, CheckpointError> {
    let changed = changed(cuts);
    let spec = |name: &str| {
        let (meta, _) = checkpoint.raw(name)?;
        let mut shape = meta.shape.clone();
        if let Some((axis, kept)) = changed.get(name) {
            shape[*axis] = *kept;
        }
        Ok(TensorSpec { name: name.into(), dtype: meta.dtype, shape })
    };
    checkpoint.names().map(spec).collect()
}

/// Which axis of which tensors becomes how long. Biases are named also where there are none.
fn changed(cuts: &[Cut<'_>]) -> BTreeMap<String, (usize, usize)> {
    let of_cut = |cut: &Cut<'_>| {
        let kept = cut.kept.len();
        let rows = cut.mlp.in_rows().map(|tensor| (tensor, (0, kept)));
        rows.into_iter().chain([(cut.mlp.in_columns(), (1, kept))])
    };
    cuts.iter().flat_map(of_cut).collect()
}

struct Work<'a> {
    checkpoint: &'a Checkpoint,
    calibration: &'a Calibration,
    plan: &'a ChannelPlan,
    cuts: Vec<Cut<'a>>,
}

/// The new tensors of an MLP, and what they are expected to cost.
struct Made {
    tensors: Vec<(String, Vec<u8>)>,
    loss: f64,
}

impl Work<'_> {
    /// Writes the MLPs that lose channels.
    fn fit(
        &self,
        files: &ShardWriter<'_>,
        options: &WriteOptions,
        progress: &mut dyn Progress,
    ) -> Result<Vec<(MatrixName, f64)>, ChannelsError> {
        let shapes = || self.cuts.iter().map(|cut| cut.mlp.down_shape());
        let needs: Vec<u64> = shapes().map(memory).collect();
        let operations: Vec<u64> = shapes()
            .map(|[width, channels]| (channels * channels) as u64 * (channels + 2 * width) as u64)
            .collect();
        progress.begin_work("fitting", self.cuts.len(), operations.iter().sum());
        progress.count_in("MLPs");
        let mut losses = vec![0.0; self.cuts.len()];
        options.budget.workers().try_spread_within(
            options.budget.memory,
            &needs,
            |index| self.make(&self.cuts[index]),
            |index, made| -> Result<(), ChannelsError> {
                for (tensor, data) in &made.tensors {
                    files.write(tensor, data)?;
                }
                losses[index] = made.loss;
                let (item, operations) = (self.cuts[index].mlp.down.as_str(), operations[index]);
                Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
            },
        )?;
        let names = self.cuts.iter().map(|cut| cut.mlp.down.clone());
        Ok(names.zip(losses).collect())
    }

    fn make(&self, cut: &Cut<'_>) -> Result<Made, ChannelsError> {
        let (checkpoint, calibration) = (self.checkpoint, self.calibration);
        let mut tensors = Vec::new();
        let in_rows = cut.mlp.in_rows();
        for tensor in in_rows.into_iter().filter(|tensor| checkpoint.meta(tensor).is_some()) {
            checkpoint.check_finite(&tensor)?;
            let (_, bytes) = checkpoint.content(&tensor)?;
            let row = bytes.len() / cut.mlp.channels;
            let mut data = Vec::with_capacity(row * cut.kept.len());
            cut.kept.iter().for_each(|at| data.extend_from_slice(&bytes[at * row..][..row]));
            checkpoint.release(&tensor);
            tensors.push((tensor, data));
        }
        let (name, tensor) = (&cut.mlp.down, cut.mlp.in_columns());
        calibration.check(name, &checkpoint.digest(&tensor)?)?;
        let dtype = checkpoint.raw(&tensor)?.0.dtype;
        let weight = checkpoint.read_matrix(&tensor)?;
        checkpoint.release(&tensor);
        let (inputs, outputs) = (calibration.inputs(name)?, calibration.outputs(name)?);
        let linalg = ChannelsError::of_linalg(name);
        let fitted =
            refit_channels(&weight, &inputs, cut.kept, self.plan.shrink_inputs).map_err(&linalg)?;
        let encoding =
            |source: FormError| CheckpointError::Encoding { tensor: tensor.clone(), source };
        let data = encode_nearest(fitted.data().iter().copied(), dtype).map_err(encoding)?;
        let stored = cast_floats(&data, dtype, Dtype::F64).map_err(encoding)?;
        let error = error_of(weight, &stored, cut.kept);
        let shrink = [self.plan.shrink_inputs, self.plan.shrink_gradients];
        let loss = shrunk_loss_of_error(&error, &inputs, &outputs, shrink).map_err(&linalg)?;
        tensors.push((tensor, data));
        Ok(Made { tensors, loss })
    }

    /// Copies the tensors that stay as they are.
    fn copy(
        &self,
        files: &ShardWriter<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), ChannelsError> {
        let changed = changed(&self.cuts);
        let same = self.checkpoint.names().filter(|name| !changed.contains_key(*name));
        for name in same {
            progress.check()?;
            self.checkpoint.check_finite(name)?;
            files.write(name, &self.checkpoint.content(name)?.1)?;
            self.checkpoint.release(name);
        }
        Ok(())
    }
}

/// What a matrix `[out, channels]` differs by from a stored one, which has the entries of the channels
/// that are kept, as bytes of f64.
fn error_of(weight: Matrix, stored: &[u8], kept: &[usize]) -> Vec<f32> {
    let channels = weight.cols();
    let mut error = weight.into_data();
    let (stored, _) = stored.as_chunks::<8>();
    for (row, stored) in error.chunks_mut(channels).zip(stored.chunks(kept.len())) {
        for (channel, entry) in kept.iter().zip(stored) {
            row[*channel] -= f64::from_le_bytes(*entry);
        }
    }
    error.into_iter().map(|x| x as f32).collect()
}
