use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, NORMS, set_family};
use crate::model::{BlockLayout, DecoderConfig};

/// Seed-OSS: LLaMA with biases at queries, keys and values, and another name for the norm before the
/// MLP.
#[derive(Debug)]
pub(super) struct SeedOss;

impl Architecture for SeedOss {
    fn name(&self) -> &'static str {
        "seed_oss"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["seed_oss"]
    }

    fn norms(&self, _layout: BlockLayout) -> [&'static str; 4] {
        let [first, second, _, last] = NORMS;
        [first, second, second, last]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(plain(config)).with_qkv_bias(config.qkv_bias)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "seed_oss", "SeedOssForCausalLM");
        json["attention_bias"] = stated.has("blk.0.attn_q.bias").into();
        json["attention_out_bias"] = false.into();
        Ok(())
    }
}
