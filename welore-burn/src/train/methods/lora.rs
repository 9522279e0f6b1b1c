use burn::module::{Lora as Adapters, ParamGroup};
use burn::tensor::FloatDType;

use super::super::error::TrainError;
use super::super::options::{LoraOptions, TrainOptions};
use super::super::selecting::{Projections, TrainableCount};
use super::TrainingMethod;
use crate::model::LanguageModel;
use crate::modules::{Change, Place, map_floats};

/// Adapters on every projection. Compressed projections are merged first, because
/// reparameterizations do not nest, and the sum with an adapter has a larger rank anyway.
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
        check_rank(rank, projections)?;
        let sides: usize = projections.dense_shapes().flatten().sum();
        let trainable = (rank * sides) as u64;
        Ok(TrainableCount { trainable, total: projections.merged_total() + trainable })
    }

    fn select<M: LanguageModel>(model: M, options: &TrainOptions) -> Result<M, TrainError> {
        let LoraOptions { rank, alpha } = options.lora;
        // Before the weights are merged: the result may be much larger than the factors.
        check_rank(rank, &Projections::of(&model))?;
        let model = model.materialize();
        let projections = Projections::of(&model);
        let paths: Vec<String> =
            projections.paths(|place| projections.contains(place)).into_iter().collect();
        for device in model.devices() {
            // Adapters start at random; with the seed a run can be repeated.
            device.seed(options.seed);
        }
        let adapters = Adapters::new(rank, alpha).set_param_group(ParamGroup::from_paths(paths));
        Ok(model.apply_lora(adapters))
    }

    fn finish<M: LanguageModel>(model: M) -> M {
        // Weights and adapters may be of different types.
        map_floats(model, |_, _| Change::Cast(FloatDType::F32)).materialize()
    }
}

/// Refuses a rank above the smallest side of all projections.
fn check_rank(rank: usize, projections: &Projections) -> Result<(), TrainError> {
    let full = projections.dense_shapes().flatten().min().unwrap_or(0);
    if rank <= full {
        return Ok(());
    }
    let reason = format!("is larger than {full}, the full rank of the smallest projection");
    Err(TrainError::Option { name: "lora.rank", reason })
}
