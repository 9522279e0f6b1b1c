use burn::module::{Module, ParamGroup};
use burn::optim::{AdamWConfig, ModuleOptimizer};

use super::galore::GaLoreConfig;
use super::settings::TrainSettings;
use super::trainable::{Trainable, projection_weights};

/// The optimizer of a run: AdamW, and GaLore for projections where that is asked for.
pub(super) fn optimizer_for(module: &impl Module, settings: &TrainSettings) -> ModuleOptimizer {
    let weight_decay = settings.weight_decay as f32;
    let adamw = AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(weight_decay).init();
    if settings.trainable != Trainable::Galore {
        return adamw;
    }
    let galore = GaLoreConfig::new(settings.galore.rank)
        .with_refresh(settings.galore.refresh)
        .with_scale(settings.galore.scale)
        .with_epsilon(EPSILON)
        .with_weight_decay(weight_decay)
        .build();
    let paths = projection_weights(module);
    let paths = paths.iter().map(String::as_str).collect();
    adamw.with_group(ParamGroup::from_paths(paths), galore, None)
}

const EPSILON: f32 = 1e-8;
