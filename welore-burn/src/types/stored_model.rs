//! A model as a file will have it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::num::NonZeroUsize;

use burn::module::Module;

use super::costs::with_values;
use super::error::TypesError;
use crate::calibrate::Calibration;
use crate::eval::{Estimate, PerplexityOptions, divergence};
use crate::gguf::{GgufError, GgufTensor, TensorSource};
use crate::model::LanguageModel;
use crate::progress::Progress;

/// A source of tensors that also gives a model the numbers that the file stores, so that no matrix is
/// quantized once more for measuring what the file loses.
///
/// A tensor that the model does not have leaves it as it is; so do vectors, whose numbers are not
/// changed in a file.
#[derive(Debug)]
pub struct StoredModel<S, M> {
    source: S,
    /// There is always one, except while it is changed.
    model: RefCell<Option<M>>,
}

impl<S: TensorSource, M: Module> StoredModel<S, M> {
    /// The tensors of `source`; `model` is the dense model, which gets their numbers.
    pub fn new(source: S, model: M) -> Self {
        Self { source, model: RefCell::new(Some(model)) }
    }

    /// Makes the matrices among these tensors without writing them.
    ///
    /// # Errors
    ///
    /// [`GgufError`], such as those of the source.
    pub fn make<'t>(
        &self,
        tensors: impl IntoIterator<Item = &'t GgufTensor>,
        progress: &mut dyn Progress,
    ) -> Result<(), GgufError> {
        let matrices: Vec<&GgufTensor> =
            tensors.into_iter().filter(|tensor| tensor.shape.len() == 2).collect();
        matrices.iter().try_for_each(|tensor| self.check(tensor))?;
        progress.begin("rounding", matrices.len());
        for tensor in matrices {
            progress.step(&tensor.name)?;
            self.bytes(tensor, progress)?;
            self.release(tensor);
        }
        Ok(())
    }

    /// The model with the numbers of all tensors that were made.
    pub fn into_model(self) -> Option<M> {
        self.model.into_inner()
    }
}

impl<S: TensorSource, M: Module> TensorSource for StoredModel<S, M> {
    fn check(&self, tensor: &GgufTensor) -> Result<(), GgufError> {
        self.source.check(tensor)
    }

    fn bytes(
        &self,
        tensor: &GgufTensor,
        progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError> {
        let bytes = self.source.bytes(tensor, progress)?;
        if let [rows, columns] = tensor.shape[..] {
            let about = |source| GgufError::Quantize { tensor: tensor.name.clone(), source };
            // What is in blocks that the model gave has the model's numbers.
            let Some(dtype) = tensor.dtype.rounded() else { return Ok(bytes) };
            let values = dtype.dequantize_rows(&bytes, columns).map_err(about)?;
            let model = self.model.take();
            let changed =
                model.map(|model| with_values(model, &tensor.name, values, [rows, columns]));
            self.model.replace(changed);
        }
        Ok(bytes)
    }

    fn release(&self, tensor: &GgufTensor) {
        self.source.release(tensor);
    }
}

/// The mean KL divergence of a model from the dense one, in nats per token, on the last `windows`
/// windows of a calibration's text. Costs come from its first windows, as far as it has more: the
/// gradients of matrices, and the divergences of embedding and head.
///
/// # Errors
///
/// [`TypesError::Eval`], for a calibration without text as for one that is too short.
pub fn measure_stored<M: LanguageModel>(
    stored: &M,
    dense: &M,
    calibration: &Calibration,
    windows: usize,
    at_once: NonZeroUsize,
    progress: &mut dyn Progress,
) -> Result<Estimate, TypesError> {
    let text = calibration.windows()?;
    let last = &text[text.len().saturating_sub(windows)..];
    let seq_len = last.first().map_or(PerplexityOptions::default().seq_len, Vec::len);
    let options = PerplexityOptions { seq_len, at_once, ..PerplexityOptions::default() };
    Ok(divergence(stored, dense, &last.concat(), &options, progress)?.kl)
}
