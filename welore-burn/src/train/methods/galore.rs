use burn::module::ParamGroup;
use burn::optim::ModuleOptimizer;

use super::super::error::TrainError;
use super::super::options::TrainOptions;
use super::super::selecting::Projections;
use super::TrainingMethod;
use super::adamw::{EPSILON, adamw};
use super::galore_optimizer::GaLoreConfig;
use super::restored::RestoredOn;
use crate::model::LanguageModel;
use crate::modules::Place;

/// Every parameter, with the gradients of projections projected to low rank.
pub(super) struct Galore;

impl TrainingMethod for Galore {
    const TRAINED: &'static str = "all parameters, with GaLore";
    const OPTIONS: &'static [&'static str] = &["galore.rank", "galore.refresh", "galore.scale"];

    fn trains(_place: &Place, _projections: &Projections) -> bool {
        true
    }

    fn check(options: &TrainOptions) -> Result<(), TrainError> {
        options.check_count("galore.rank", options.galore.rank)?;
        options.check_count("galore.refresh", options.galore.refresh)?;
        options.check_positive("galore.scale", options.galore.scale)
    }

    /// Refuses a rank at which nothing is projected: smaller matrices train as with AdamW, but not
    /// all of them may.
    fn check_model(projections: &Projections, options: &TrainOptions) -> Result<(), TrainError> {
        let rank = options.galore.rank;
        let sides = projections.dense_shapes().map(|[rows, cols]| rows.min(cols));
        let full = sides.max().unwrap_or(0);
        if rank < full {
            return Ok(());
        }
        let reason = format!(
            "nothing is projected at rank {rank}; the largest possible is {}, below the full rank \
             of the largest matrix",
            full.saturating_sub(1)
        );
        Err(TrainError::Option { name: "galore.rank", reason })
    }

    fn optimizer<M: LanguageModel>(model: &M, options: &TrainOptions) -> ModuleOptimizer {
        let galore = GaLoreConfig::new(options.galore.rank)
            .with_refresh(options.galore.refresh)
            .with_scale(options.galore.scale)
            .with_epsilon(EPSILON)
            .with_weight_decay(options.weight_decay as f32)
            .build();
        let projections = Projections::of(model);
        let paths = projections.paths(|place| projections.contains(place));
        let group = ParamGroup::from_paths(paths.into_iter().collect::<Vec<_>>());
        let galore = RestoredOn::device_of(model, galore);
        adamw(model, options).with_group(group, galore, None)
    }
}
