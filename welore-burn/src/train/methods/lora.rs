use std::collections::BTreeSet;

use burn::tensor::FloatDType;

use super::super::adapters::check_rank;
use super::super::error::TrainError;
use super::super::options::{LoraOptions, TrainOptions};
use super::super::selecting::{Projections, TrainableCount};
use super::TrainingMethod;
use crate::forms::attach_adapters;
use crate::model::LanguageModel;
use crate::modules::{Change, MatrixName, Place, map_floats};

/// Adapters on every projection. Compressed projections are merged first, because the sum with an
/// adapter has a larger rank, and a run writes a model without adapters.
pub(super) struct Lora;

impl TrainingMethod for Lora {
    const TRAINED: &'static str = "all parameters";
    const MERGES: bool = true;
    const TRACKED: bool = false;
    const RANDOM: bool = true;
    const OPTIONS: &'static [&'static str] = &["lora.rank", "lora.alpha"];

    /// Only the new adapters train, no existing parameter.
    fn trains(_place: &Place, _projections: &Projections) -> bool {
        false
    }

    fn check(options: &TrainOptions) -> Result<(), TrainError> {
        options.check_count("lora.rank", options.lora.rank)?;
        options.check_positive("lora.alpha", options.lora.alpha)
    }

    fn count(
        projections: &Projections,
        options: &TrainOptions,
    ) -> Result<TrainableCount, TrainError> {
        let rank = options.lora.rank;
        check_rank(rank, projections.dense_shapes())?;
        let sides: usize = projections.dense_shapes().flatten().sum();
        let trainable = (rank * sides) as u64;
        Ok(TrainableCount { trainable, total: projections.merged_total() + trainable, packed: 0 })
    }

    fn select<M: LanguageModel>(model: M, options: &TrainOptions) -> Result<M, TrainError> {
        let LoraOptions { rank, alpha } = options.lora;
        // Before the weights are merged: the result may be much larger than the factors.
        check_rank(rank, Projections::of(&model).dense_shapes())?;
        let model = model.materialize();
        let names: BTreeSet<MatrixName> =
            model.matrices().into_iter().map(|matrix| matrix.name).collect();
        for device in model.devices() {
            // Adapters start at random; with the seed a run can be repeated.
            device.seed(options.seed);
        }
        Ok(attach_adapters(model, &names, rank, alpha))
    }

    fn finish<M: LanguageModel>(model: M) -> M {
        // Weights and adapters may be of different types.
        map_floats(model, |_, _| Change::Cast(FloatDType::F32)).materialize()
    }
}
