use std::collections::BTreeMap;

use burn::tensor::{DType, Device, FloatDType, TensorData};

use super::approximate::Approximation;
use super::contents::Contents;
use super::error::DifferenceError;
use crate::forms::{Slot, slots};
use crate::model::{Decoder, OpenedModel};
use crate::modules::load_values;
use crate::progress::Progress;

/// A model with all of its matrices dense, whatever their forms in its directory, to compute in `dtype`.
/// What is `added` is added to its matrices in f64.
///
/// # Errors
///
/// [`DifferenceError::Checkpoint`] for weights that cannot be read or are not finite,
/// [`DifferenceError::Lora`] for a product that overflows, [`DifferenceError::Interrupted`].
pub fn dense_model(
    opened: &OpenedModel,
    added: &[Approximation],
    device: &Device,
    dtype: FloatDType,
    progress: &mut dyn Progress,
) -> Result<Decoder, DifferenceError> {
    let contents = Contents::of(&opened.checkpoint)?;
    let added: BTreeMap<String, &Approximation> =
        added.iter().map(|one| (one.name.weight(), one)).collect();
    let module = opened.config.init(device);
    let slots = slots(&module)
        .map_err(|(name, source)| opened.checkpoint.form_error(&name)(source))?
        .into_iter()
        .map(|slot| (slot.path.clone(), slot));
    let slots: BTreeMap<String, Slot> = slots.collect();
    progress.begin("loading", slots.len());
    progress.count_in("tensors");
    let mut failed = None;
    let mut read = |slot: &Slot| -> Result<TensorData, DifferenceError> {
        progress.step(&slot.tensor)?;
        let values = match added.get(&slot.tensor).map(|one| one.product()).transpose()?.flatten() {
            None => contents.values(&slot.tensor)?,
            Some(product) => {
                let matrix = contents.matrix(&added[&slot.tensor].name)?;
                let sums = matrix.data().iter().zip(product.data());
                sums.map(|(entry, more)| (entry + more) as f32).collect()
            }
        };
        Ok(slot.codec.load(values, &slot.shape))
    };
    let module = load_values(module, |place, _| {
        let slot = slots.get(&place.path).filter(|_| failed.is_none())?;
        match read(slot) {
            Ok(data) => {
                let is_small = data.shape().len() == 1 || place.is_norm();
                let dtype = if is_small { FloatDType::F32 } else { dtype };
                Some((data, DType::from(dtype)))
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    failed.map_or(Ok(()), Err)?;
    opened.checkpoint.check_unchanged()?;
    Ok(module.with_dtype(dtype))
}
