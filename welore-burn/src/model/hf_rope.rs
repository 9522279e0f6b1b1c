//! Rotary positions as a Hugging Face `config.json` states them, resolved as transformers 5 does.
//!
//! transformers 4.57 differs where a file is at odds with itself, or made for the other version: it
//! ignores `rope_parameters` and a `rope_theta` within `rope_scaling`, takes `type` before
//! `rope_type`, reads the top level's `original_max_position_embeddings` for `longrope` alone, and
//! its `factor` not at all beside that. Files that either version wrote give the same in both.

use serde::Deserialize;
use serde_json::Value;

use super::config_error::{ConfigError, invalid, positive};
use super::hf_config::HfConfig;
use super::rope::RopeScaling;

/// Settings of the rotary position encoding.
#[derive(Deserialize, Default, PartialEq)]
pub(super) struct HfRope {
    rope_type: Option<String>,
    /// The older name; transformers 4 wrote both.
    #[serde(rename = "type")]
    old_rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    /// Settings for one type of layers, as families with several types have them.
    full_attention: Option<Box<HfRope>>,
    sliding_attention: Option<Box<HfRope>>,
}

/// The types of layers that may have settings of their own.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// Refuses rotary settings of their own for types of layers that no family has.
pub(super) fn check_nests(config: &Value) -> Result<(), ConfigError> {
    for field in ["rope_parameters", "rope_scaling"] {
        let mut settings = config[field].as_object().into_iter().flatten();
        let unknown = settings
            .find(|(name, value)| value.is_object() && !LAYER_TYPES.contains(&name.as_str()));
        if let Some((name, _)) = unknown {
            return Err(ConfigError::Unsupported {
                field,
                value: format!("settings for `{name}`"),
                supported: "settings for full_attention and sliding_attention",
            });
        }
    }
    Ok(())
}

impl HfConfig {
    /// Base and scaling of the rotary positions. `theta` is the base where the settings state none.
    ///
    /// With a `layer_type` they are those of the layers of this type, nested under its name in
    /// `rope_parameters`. Without one, settings for each type of layer are refused.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for types that are not supported and for values that are missing or wrong.
    pub fn rope(
        &self,
        layer_type: Option<&str>,
        theta: f64,
    ) -> Result<(f64, RopeScaling), ConfigError> {
        let none = HfRope::default();
        let Some(layer_type) = layer_type else {
            let (field, settings) = self.rope_settings().unwrap_or(("rope_parameters", &none));
            if settings.is_nested() {
                return Err(ConfigError::Unsupported {
                    field,
                    value: "settings for each type of layer".into(),
                    supported: "the same settings for all layers",
                });
            }
            let top = self.original_max_position_embeddings;
            return settings.resolved(self, theta, top);
        };
        let settings = self.rope_parameters.as_ref().and_then(|rope| rope.of(layer_type));
        settings.unwrap_or(&none).resolved(self, theta, None)
    }

    /// The share of the channels of a head that are rotated, if the file states one.
    pub fn rotated_share(&self) -> Option<f64> {
        let settings = self.rope_settings().and_then(|(_, rope)| rope.partial_rotary_factor);
        settings.or(self.partial_rotary_factor)
    }

    /// What DeepSeek multiplies scores of attention by where contexts are extended.
    pub fn sharpened(&self) -> f64 {
        let settings = self.rope_settings().map(|(_, rope)| rope);
        let settings = settings.filter(|rope| !matches!(rope.kind(), None | Some("default")));
        let weight = settings.and_then(|rope| Some((rope.factor?, rope.mscale_all_dim?)));
        match weight.filter(|(factor, weight)| *factor > 1.0 && *weight != 0.0) {
            Some((factor, weight)) => (0.1 * weight * factor.ln() + 1.0).powi(2),
            None => 1.0,
        }
    }

    /// The settings that count, and their field: all of `rope_scaling`, unless it is empty, comes
    /// before all of `rope_parameters`.
    fn rope_settings(&self) -> Option<(&'static str, &HfRope)> {
        let fields =
            [("rope_scaling", &self.rope_scaling), ("rope_parameters", &self.rope_parameters)];
        fields.into_iter().find_map(|(field, rope)| Some((field, stated(rope)?)))
    }

    /// Number of channels of a head that are rotated.
    fn rotated_width(&self) -> usize {
        if let Some(width) = self.qk_rope_head_dim {
            return width;
        }
        (self.head_width() as f64 * self.rotated_share().unwrap_or(1.0)) as usize
    }
}

impl HfRope {
    fn is_nested(&self) -> bool {
        self.full_attention.is_some() || self.sliding_attention.is_some()
    }

    /// The settings for a type of layers.
    fn of(&self, layer_type: &str) -> Option<&Self> {
        match layer_type {
            "sliding_attention" => self.sliding_attention.as_deref(),
            _ => self.full_attention.as_deref(),
        }
    }

    fn kind(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.old_rope_type.as_deref())
    }

    /// Base and scaling. `original` is the original context that the top level states.
    fn resolved(
        &self,
        config: &HfConfig,
        theta: f64,
        original: Option<f64>,
    ) -> Result<(f64, RopeScaling), ConfigError> {
        let theta = positive("rope_theta", self.rope_theta.unwrap_or(theta))?;
        let context = config.context() as f64;
        let original = original.or(self.original_max_position_embeddings);
        let original = positive("original_max_position_embeddings", original.unwrap_or(context))?;
        let scaling = match self.kind() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: needed("factor", self.factor)? },
            // It is the stated context that is the original one here.
            Some("dynamic") => RopeScaling::Dynamic {
                factor: needed("factor", self.factor)?,
                original_context: context,
            },
            Some("llama3") => self.llama3(original)?,
            Some("yarn") => self.yarn(theta, original, context)?,
            // Its first name, in Phi-3.
            Some("longrope" | "su") => {
                self.longrope(config.rotated_width() / 2, original, context)?
            }
            Some(other) => {
                return Err(ConfigError::Unsupported {
                    field: "rope_type",
                    value: other.into(),
                    supported: "default, linear, dynamic, llama3, yarn and longrope",
                });
            }
        };
        Ok((theta, scaling))
    }

    fn llama3(&self, original_context: f64) -> Result<RopeScaling, ConfigError> {
        let low_freq_factor = needed("low_freq_factor", self.low_freq_factor)?;
        let high_freq_factor = needed("high_freq_factor", self.high_freq_factor)?;
        if high_freq_factor <= low_freq_factor {
            let reason =
                format!("{high_freq_factor} is not above low_freq_factor {low_freq_factor}");
            return Err(invalid("high_freq_factor", reason));
        }
        let factor = needed("factor", self.factor)?;
        Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
    }

    fn yarn(
        &self,
        theta: f64,
        original_context: f64,
        context: f64,
    ) -> Result<RopeScaling, ConfigError> {
        if theta <= 1.0 {
            return Err(invalid("rope_theta", format!("yarn needs a base above 1, not {theta}")));
        }
        // Some files leave it to the two contexts.
        let stretch = Some(context / original_context).filter(|stretch| *stretch != 1.0);
        let factor = needed("factor", self.factor.or(stretch))?;
        // 0 is as good as none there.
        let given = |value: Option<f64>| value.filter(|value| *value != 0.0);
        let sharpness = |weight: f64| match factor > 1.0 {
            true => 0.1 * weight * factor.ln() + 1.0,
            false => 1.0,
        };
        let usual = match (given(self.mscale), given(self.mscale_all_dim)) {
            (Some(weight), Some(all)) => sharpness(weight) / sharpness(all),
            _ => sharpness(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: positive("beta_fast", given(self.beta_fast).unwrap_or(32.0))?,
            beta_slow: positive("beta_slow", given(self.beta_slow).unwrap_or(1.0))?,
            truncate: self.truncate.unwrap_or(true),
            attention_factor: positive("attention_factor", self.attention_factor.unwrap_or(usual))?,
        })
    }

    fn longrope(
        &self,
        count: usize,
        original_context: f64,
        context: f64,
    ) -> Result<RopeScaling, ConfigError> {
        let factors = |field, factors: &Option<Vec<f64>>| {
            let Some(factors) = factors else { return needed(field, None).map(|_| Vec::new()) };
            factors.iter().try_for_each(|factor| positive(field, *factor).map(drop))?;
            match factors.len() {
                len if len == count => Ok(factors.clone()),
                len => Err(invalid(field, format!("has {len} numbers, not {count}"))),
            }
        };
        let factor = positive("factor", self.factor.unwrap_or(context / original_context))?;
        let usual = match factor > 1.0 {
            true => (1.0 + factor.ln() / original_context.ln()).sqrt(),
            false => 1.0,
        };
        Ok(RopeScaling::LongRope {
            short_factors: factors("short_factor", &self.short_factor)?,
            long_factors: factors("long_factor", &self.long_factor)?,
            original_context,
            attention_factor: positive("attention_factor", self.attention_factor.unwrap_or(usual))?,
        })
    }
}

/// Settings that say anything.
fn stated(rope: &Option<HfRope>) -> Option<&HfRope> {
    rope.as_ref().filter(|rope| **rope != HfRope::default())
}

fn needed(field: &'static str, value: Option<f64>) -> Result<f64, ConfigError> {
    match value {
        Some(value) => positive(field, value),
        None => Err(invalid(field, "is missing from the rope settings".into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(more: Value) -> HfConfig {
        let mut config = json!({
            "vocab_size": 64,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "max_position_embeddings": 512,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(config).unwrap()
    }

    const LINEAR: RopeScaling = RopeScaling::Linear { factor: 8.0 };

    #[test]
    fn each_type_of_layer_may_have_settings_of_its_own() {
        let nested = config(json!({ "rope_parameters": {
            "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
            "sliding_attention": { "rope_type": "default" },
        }}));
        let rope = |config: &HfConfig, kind| config.rope(Some(kind), 1e4).unwrap();
        assert_eq!(rope(&nested, "full_attention"), (1e6, LINEAR));
        assert_eq!(rope(&nested, "sliding_attention"), (1e4, RopeScaling::None));
        assert!(nested.rope(None, 1e4).is_err());
    }

    #[test]
    fn the_original_context_of_a_type_of_layer_is_its_own() {
        let nested = config(json!({
            "original_max_position_embeddings": 64,
            "rope_parameters": { "full_attention": { "rope_type": "yarn", "factor": 4.0 } },
        }));
        let (_, scaling) = nested.rope(Some("full_attention"), 1e4).unwrap();
        let original = match scaling {
            RopeScaling::Yarn { original_context, .. } => original_context,
            _ => 0.0,
        };
        assert_eq!(original, 512.0);
    }
}
