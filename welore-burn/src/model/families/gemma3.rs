use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use super::gemma::described;
use super::gemma2::with_second_norms;
use crate::model::config::{DecoderConfig, QkNorm};
use crate::model::config_error::{ConfigError, invalid};
use crate::model::hf_config::HfConfig;

/// The text model of Gemma 3 (arXiv 2503.19786): Gemma 2 with norms of queries and keys in place of the
/// cap of scores, and five layers with a sliding window, with rotary frequencies of their own, for
/// each one without.
pub(super) struct Gemma3;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    rope_local_base_freq: f64,
    /// The last one of so many layers has no window.
    sliding_window_pattern: usize,
}

/// The base of the rotary frequencies in layers with the sliding window.
#[derive(Deserialize)]
pub(super) struct LocalRope {
    pub rope_local_base_freq: Option<f64>,
}

/// Which layers have the sliding window if the last one of every `few` has not.
pub(super) fn every_few_layers(layers: usize, few: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(few)).collect()
}

/// The type of layers whose rotary positions are those of the model.
pub(super) const FULL: Option<&str> = Some("full_attention");

/// Nests rotary settings by types of layers, as transformers resolves them: single settings of
/// `rope_scaling` replace those of full attention, and in `rope_parameters` those of no type do not
/// count.
pub(super) fn nest_rope(config: &mut Value) {
    let added = std::mem::take(&mut config["rope_scaling"]);
    let stated = &mut config["rope_parameters"];
    if stated.is_null() {
        *stated = json!({});
    }
    if !stated.is_object() {
        return;
    }
    for kind in ["full_attention", "sliding_attention"] {
        if stated[kind].is_null() {
            stated[kind] = json!({ "rope_type": "default" });
        }
    }
    if let (Value::Object(full), Value::Object(added)) = (&mut stated["full_attention"], added) {
        full.extend(added);
    }
}

/// Gives layers with the sliding window rotary positions of their own. `theta` is their base where the
/// file states none for this type of layers.
pub(super) fn local_rope(
    config: &HfConfig,
    decoder: DecoderConfig,
    theta: f64,
) -> Result<DecoderConfig, ConfigError> {
    let local = config.rope(Some("sliding_attention"), theta)?;
    let is_same = local.0 == decoder.rope_theta && local.1 == decoder.rope_scaling;
    Ok(decoder.with_window_rope((!is_same).then_some(local)))
}

impl Family for Gemma3 {
    fn model_type(&self) -> &'static str {
        "gemma3_text"
    }

    fn models(&self) -> &'static str {
        "Gemma 3, text"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "tie_word_embeddings": true,
            "query_pre_attn_scalar": 256,
            "bos_token_id": 2,
            "eos_token_id": 1,
        })
    }

    fn prepare(&self, config: &mut Value) {
        nest_rope(config);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        if own.sliding_window_pattern == 0 {
            return Err(invalid("sliding_window_pattern", "0 is not a number of layers".into()));
        }
        let decoder =
            with_second_norms(config, described(config, FULL)?)?.with_qk_norm(QkNorm::Head);
        let windows = every_few_layers(config.num_hidden_layers, own.sliding_window_pattern);
        let decoder = config.with_windows(decoder, windows)?;
        local_rope(config, decoder, own.rope_local_base_freq)
    }
}
