use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::plain;
use super::{Architecture, set_family};
use crate::model::{Activation, DecoderConfig, MlpLayout, RopeScaling};

/// Arcee's AFM: LLaMA with an MLP that has no gate, and the square of ReLU.
#[derive(Debug)]
pub(super) struct Arcee;

impl Architecture for Arcee {
    fn name(&self) -> &'static str {
        "arcee"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["arcee"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let mut computed =
            plain(config).with_mlp(MlpLayout::Plain).with_activation(Activation::Relu2);
        if matches!(config.rope_scaling, RopeScaling::LongRope { .. }) {
            computed.rope_scaling = RopeScaling::None;
        }
        computed
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "arcee", "ArceeForCausalLM");
        json["hidden_act"] = "relu2".into();
        Ok(())
    }
}
