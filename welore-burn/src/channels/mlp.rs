use super::error::ChannelsError;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::model::{LanguageModel, OpenedModel};
use crate::modules::MatrixName;

/// The gated MLP of a layer of a dense model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mlp {
    /// Gate projection, `[channels, width]`.
    pub gate: MatrixName,
    /// Up projection, `[channels, width]`.
    pub up: MatrixName,
    /// Down projection, `[width, channels]`.
    pub down: MatrixName,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of channels.
    pub channels: usize,
}

impl Mlp {
    /// Its matrices.
    pub fn matrices(&self) -> [&MatrixName; 3] {
        [&self.gate, &self.up, &self.down]
    }

    /// The shape of the down projection, `[out, in]`.
    pub(super) fn down_shape(&self) -> [usize; 2] {
        [self.width, self.channels]
    }

    /// The tensors that have a row for each channel: weights, and biases where there are any.
    pub(super) fn in_rows(&self) -> [String; 4] {
        let [gate, up] = [&self.gate, &self.up];
        [gate.weight(), up.weight(), gate.part("bias"), up.part("bias")]
    }

    /// The parameters and the bytes of one channel, in weights, and in biases where there are any.
    pub(super) fn channel_size(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<(u64, u64), CheckpointError> {
        let in_rows = self.in_rows();
        let rows = in_rows.iter().filter_map(|tensor| checkpoint.meta(tensor));
        let all = [checkpoint.raw(&self.in_columns())?.0].into_iter().chain(rows);
        let channels = self.channels.max(1) as u64;
        Ok(all.fold((0, 0), |(parameters, bytes), meta| {
            (parameters + meta.parameters() / channels, bytes + meta.bytes() / channels)
        }))
    }

    /// The tensor that has a column for each channel.
    pub(super) fn in_columns(&self) -> String {
        self.down.weight()
    }
}

/// The MLPs of a dense model, in its order.
///
/// # Errors
///
/// [`ChannelsError::NotDense`], [`ChannelsError::NoMlp`] and [`ChannelsError::Experts`].
pub fn mlps(opened: &OpenedModel) -> Result<Vec<Mlp>, ChannelsError> {
    if let Some(matrix) = opened.compressed.first() {
        let (name, form) = (matrix.name.clone(), matrix.form);
        return Err(ChannelsError::NotDense { name, form });
    }
    let checkpoint = &opened.checkpoint;
    if opened.config.mixture.is_some() {
        return Err(ChannelsError::Experts { dir: checkpoint.dir().into() });
    }
    let matrices = opened.skeleton().matrices();
    // Fused matrices and MLPs without a gate have no gate projection.
    let stems = matrices.iter().filter_map(|matrix| matrix.name.as_str().strip_suffix("gate_proj"));
    let mlps = stems
        .map(|stem| {
            let name = |part: &str| MatrixName::new(format!("{stem}{part}_proj"));
            let [gate, up, down] = ["gate", "up", "down"].map(name);
            let [width, channels] = checkpoint.matrix_shape(&down.weight())?;
            Ok(Mlp { gate, up, down, width, channels })
        })
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    match mlps.is_empty() {
        true => Err(ChannelsError::NoMlp { dir: checkpoint.dir().into() }),
        false => Ok(mlps),
    }
}
