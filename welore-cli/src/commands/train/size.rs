//! Whether a model fits into memory, before anything is made of it.

use anyhow::Result;
use burn::tensor::FloatDType;
use welore_burn::forms::packed_bytes;
use welore_burn::model::LanguageModel;
use welore_burn::train::{TrainOptions, Trainable, TrainableCount, count_trainable};
use welore_burn::workers::machine_memory;

use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::format;

/// Bytes of a parameter that trains.
const TRAINED: u128 = size_of::<f32>() as u128;

/// How much of a model trains, if there is memory to train it: for its parameters, for the gradients
/// of those that train, and for the averages that the optimizer keeps of them. What is in blocks stays
/// there. Activations need more.
/// The memory of GPUs is not checked.
pub fn check_training(
    model: &impl LanguageModel,
    options: &TrainOptions,
    compute: &Compute,
) -> Result<TrainableCount> {
    let count = count_trainable(model, options)?;
    if compute.is_host() {
        let trains = u128::from(count.trainable);
        let frozen = u128::from(count.total.saturating_sub(count.packed)).saturating_sub(trains);
        let averages = match options.trainable {
            // In a space of low rank.
            Trainable::Galore => 0,
            _ => 2,
        };
        let numbers = frozen * bytes_of(compute.dtype) + trains * TRAINED * (2 + averages);
        let need = numbers + u128::from(packed_bytes(model));
        check(need, &format!("training {} parameters", format::count(count.trainable)))?;
    }
    Ok(count)
}

/// Refuses to make `parameters` random ones in more memory than this machine has.
pub fn check_random(parameters: u128) -> Result<()> {
    let shown = u64::try_from(parameters).unwrap_or(u64::MAX);
    let what = format!("config.json: a model of {} parameters", format::count(shown));
    check(parameters.saturating_mul(TRAINED), &what)
}

fn check(need: u128, what: &str) -> Result<()> {
    match machine_memory() {
        Some(memory) if need > u128::from(memory) => {
            let need = format::bytes(u64::try_from(need).unwrap_or(u64::MAX));
            let memory = format::bytes(memory);
            let message = format!("{what} needs {need} of memory; this machine has {memory}");
            Err(WrongInput::new(message).into())
        }
        _ => Ok(()),
    }
}

fn bytes_of(dtype: FloatDType) -> u128 {
    match dtype {
        FloatDType::F64 => 8,
        FloatDType::F16 | FloatDType::BF16 => 2,
        _ => 4,
    }
}
