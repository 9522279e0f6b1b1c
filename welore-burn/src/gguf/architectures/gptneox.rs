use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{Activation, BlockLayout, DecoderConfig, MlpLayout, NormKind, QkvLayout};

/// GPT-NeoX and Pythia: attention and MLP side by side, one matrix for queries, keys and values,
/// biases everywhere, and rotary positions for a part of the channels.
#[derive(Debug)]
pub(super) struct GptNeox;

/// What the activation is called in its files. llama.cpp has the approximation alone, and does not
/// read the name.
const EXACT: &str = "gelu";
const APPROXIMATE: &str = "gelu_pytorch_tanh";

impl Architecture for GptNeox {
    fn name(&self) -> &'static str {
        "gptneox"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gpt_neox"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_eps")
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let layout = match config.layout {
            BlockLayout::Before => BlockLayout::Before,
            _ => BlockLayout::Parallel,
        };
        let activation = match config.activation {
            // Close enough for every use of these models; see `remark`.
            Activation::Gelu => Activation::Gelu,
            _ => Activation::GeluTanh,
        };
        without_divisors(with_even_heads(plain(config)))
            .with_tie_word_embeddings(false)
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_qkv(QkvLayout::FusedByHead)
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(true)
            .with_activation(activation)
            .with_rotary_width(config.rotary_width)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let activation = match config.activation {
            Activation::Gelu => EXACT,
            _ => APPROXIMATE,
        };
        vec![
            (keys::PARALLEL, Statement::Flag(config.layout == BlockLayout::Parallel)),
            (keys::ACTIVATION, Statement::Text(activation)),
        ]
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gpt_neox", "GPTNeoXForCausalLM");
        let parallel = stated.flag(keys::PARALLEL)?;
        let parallel = stated.file.needed(&stated.name(keys::PARALLEL), parallel)?;
        json["use_parallel_residual"] = parallel.into();
        json["attention_bias"] = true.into();
        // Files of llama.cpp's converter state none, and nearly all models have the exact one.
        json["hidden_act"] = stated.text(keys::ACTIVATION)?.unwrap_or(EXACT).into();
        let share = stated.rotated_share()?;
        json["partial_rotary_factor"] = share.into();
        // The same for transformers 4.
        json["rotary_pct"] = share.into();
        json["rotary_emb_base"] = json["rope_theta"].clone();
        Ok(())
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        let is_exact = config.activation == Activation::Gelu;
        is_exact.then(|| "llama.cpp approximates this model's GELU by a hyperbolic tangent".into())
    }
}
