//! Tensors in block types, quantized with a calibration.

use std::borrow::Cow;

use super::rounding::{Inputs, Rounding};
use crate::calibrate::{Calibration, is_tied};
use crate::checkpoint::Checkpoint;
use crate::ggml::TensorType;
use crate::gguf::{CheckpointSource, GgufError, GgufTensor, TensorSource};
use crate::model::OpenedModel;
use crate::modules::MatrixName;
use crate::progress::Progress;

/// The tensors of a dense model directory, in any type: floats are rounded to the nearest, matrices
/// in block types with what a calibration knows about their inputs and outputs.
#[derive(Debug)]
pub struct QuantizedSource<'a> {
    checkpoint: &'a Checkpoint,
    floats: CheckpointSource<'a>,
    calibration: Option<&'a Calibration>,
    rounding: Rounding,
}

impl<'a> QuantizedSource<'a> {
    /// The tensors of an opened model.
    pub fn new(
        opened: &'a OpenedModel,
        calibration: Option<&'a Calibration>,
        rounding: Rounding,
    ) -> Self {
        let (checkpoint, floats) = (&opened.checkpoint, CheckpointSource::new(opened));
        Self { checkpoint, floats, calibration, rounding }
    }

    fn inputs_of(&self, tensor: &str) -> Result<Inputs, GgufError> {
        let name = MatrixName::of_weight(tensor);
        let Some((calibration, name)) = self.calibration.zip(name) else {
            return Ok(Inputs::Unknown);
        };
        let about = |source| GgufError::Linalg { tensor: tensor.into(), source };
        if !calibration.knows(&name) {
            let moment = calibration.token_rows(tensor, is_tied(self.checkpoint))?;
            let inputs = moment.map(|moment| Inputs::of(&moment, None, self.rounding));
            return inputs.transpose().map_err(about).map(|known| known.unwrap_or(Inputs::Unknown));
        }
        let inputs = calibration.inputs(&name)?;
        let outputs = calibration.has_gradients().then(|| calibration.outputs(&name));
        let outputs = outputs.transpose()?;
        Inputs::of(&inputs, outputs.as_deref(), self.rounding).map_err(about)
    }
}

/// The type of the blocks that a tensor is rounded to, if it is.
fn blocks_of(tensor: &GgufTensor) -> Option<TensorType> {
    tensor.dtype.rounded().filter(|dtype| !dtype.is_float())
}

impl TensorSource for QuantizedSource<'_> {
    fn check(&self, tensor: &GgufTensor) -> Result<(), GgufError> {
        match blocks_of(tensor) {
            None => self.floats.check(tensor),
            // A matrix in another form has no tensor of this name.
            Some(_) => {
                self.checkpoint.matrix_shape(&tensor.name).map(drop).map_err(GgufError::from)
            }
        }
    }

    fn bytes(
        &self,
        tensor: &GgufTensor,
        progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError> {
        let Some(dtype) = blocks_of(tensor) else { return self.floats.bytes(tensor, progress) };
        let [_, columns] = self.checkpoint.matrix_shape(&tensor.name)?;
        let entries = self.checkpoint.read_f32(&tensor.name)?;
        let inputs = self.inputs_of(&tensor.name)?;
        let about = |source| GgufError::Quantize { tensor: tensor.name.clone(), source };
        let bytes = inputs.quantize_in_tiles(dtype, &entries, columns, progress, about)?;
        Ok(Cow::Owned(bytes))
    }

    fn release(&self, tensor: &GgufTensor) {
        self.floats.release(tensor);
    }
}
