//! Turns GGUF metadata into a `config.json`.

use serde_json::{Value, json};

use super::architecture::Architecture;
use super::error::GgufError;
use super::keys;
use super::rope::{Frequencies, rope_scaling};
use super::tokenizer::SpecialTokens;
use crate::ggml::{ContainerError, GgufFile};
use crate::model::DecoderConfig;

/// A configuration, as it is written and as it is read back.
#[derive(Debug)]
pub(super) struct ModelConfig {
    /// The architecture that the file names.
    pub architecture: Architecture,
    /// The text of `config.json`.
    pub json: String,
    /// That text as this library reads it.
    pub config: DecoderConfig,
}

/// Metadata of the LLaMA family that would change what is computed, with the values that do not.
const NEUTRAL: [(&str, f64); 6] = [
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("expert_count", 0.0),
];

/// Describes the model of a file.
pub(super) fn read_config(
    file: &GgufFile,
    special: &SpecialTokens,
) -> Result<ModelConfig, GgufError> {
    let name = file.needed(keys::ARCHITECTURE, file.text(keys::ARCHITECTURE)?)?;
    let Some(architecture) = Architecture::named(name) else {
        let (path, architecture) = (file.path().into(), name.into());
        return Err(GgufError::Architecture { path, architecture });
    };
    let key = "split.count";
    if let Some(parts) = file.integer(key)?.filter(|parts| *parts > 1) {
        let reason = format!("is {parts}: join the parts with `llama-gguf-split --merge` first");
        return Err(file.wrong(key, reason));
    }
    let metadata = Metadata { file, architecture };
    metadata.check_neutral()?;
    let json = metadata.describe(special)?;
    let text = format!("{json:#}\n");
    let config = DecoderConfig::from_hf_json(&text)
        .map_err(|source| GgufError::Config { path: file.path().into(), source })?;
    metadata.check_heads(&config)?;
    Ok(ModelConfig { architecture, json: text, config })
}

/// The metadata whose keys begin with the name of an architecture.
struct Metadata<'a> {
    file: &'a GgufFile,
    architecture: Architecture,
}

impl Metadata<'_> {
    fn name(&self, key: &str) -> String {
        self.architecture.key(key)
    }

    fn integer(&self, key: &str) -> Result<Option<u64>, ContainerError> {
        self.file.integer(&self.name(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ContainerError> {
        self.file.number(&self.name(key))
    }

    fn needed(&self, key: &str) -> Result<u64, ContainerError> {
        self.file.needed(&self.name(key), self.integer(key)?)
    }

    fn check_neutral(&self) -> Result<(), GgufError> {
        for (key, neutral) in NEUTRAL {
            let value = match self.integer(key) {
                Ok(value) => value.map(|value| value as f64),
                Err(_) => self.number(key)?,
            };
            if let Some(value) = value.filter(|value| *value != neutral) {
                let reason = format!("is {value}; only {neutral} is supported");
                return Err(self.file.wrong(&self.name(key), reason));
            }
        }
        Ok(())
    }

    fn describe(&self, special: &SpecialTokens) -> Result<Value, GgufError> {
        let has = |tensor: &str| self.file.tensors().contains_key(tensor);
        let hidden = self.needed(keys::HIDDEN)?;
        let heads = self.needed(keys::HEADS)?;
        let head_dim = self.integer(keys::KEY_WIDTH)?;
        let eps = self.number(keys::NORM_EPS)?;
        let eps = self.file.needed(&self.name(keys::NORM_EPS), eps)?;
        let context = self.needed(keys::CONTEXT)?;
        let theta = self.number(keys::ROPE_BASE)?.unwrap_or(10000.0);
        let window = self.integer(keys::WINDOW)?.filter(|window| *window > 0);
        // In this family only Mistral has a sliding window; otherwise it is the same model.
        let (model_type, class) = match (self.architecture, window) {
            (Architecture::Qwen2, _) => ("qwen2", "Qwen2ForCausalLM"),
            (Architecture::Llama | Architecture::Deci, Some(_)) => {
                ("mistral", "MistralForCausalLM")
            }
            (Architecture::Llama | Architecture::Deci, None) => ("llama", "LlamaForCausalLM"),
        };
        let mut json = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocab_size()?,
            "hidden_size": hidden,
            "intermediate_size": self.mlp_widths()?,
            "num_hidden_layers": self.needed(keys::LAYERS)?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.integer(keys::KV_HEADS)?.unwrap_or(heads),
            "hidden_act": "silu",
            "rms_norm_eps": eps,
            "rope_theta": theta,
            "max_position_embeddings": context,
            "tie_word_embeddings": !has("output.weight"),
        });
        if let Some(width) = head_dim {
            json["head_dim"] = width.into();
        }
        let width = head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0)) as usize;
        self.scale(&mut json, &Frequencies { theta, width, context })?;
        match model_type {
            "llama" => {
                json["attention_bias"] = has("blk.0.attn_q.bias").into();
                json["mlp_bias"] = has("blk.0.ffn_up.bias").into();
            }
            "mistral" => json["sliding_window"] = window.into(),
            _ => json["use_sliding_window"] = false.into(),
        }
        if let Some(bos) = special.bos {
            json["bos_token_id"] = bos.into();
        }
        match special.ends[..] {
            // Without this, readers take that of the family's first models.
            [] => json["eos_token_id"] = Value::Null,
            [end] => json["eos_token_id"] = end.into(),
            ref ends => json["eos_token_id"] = ends.into(),
        }
        Ok(json)
    }

    /// Adds the scaling of the rotary frequencies.
    fn scale(&self, json: &mut Value, frequencies: &Frequencies) -> Result<(), GgufError> {
        let Some(scaling) = rope_scaling(self.file, self.architecture, frequencies)? else {
            return Ok(());
        };
        if scaling["rope_type"] == "longrope" {
            // transformers 4 reads it nowhere else.
            let field = "original_max_position_embeddings";
            json[field] = scaling[field].clone();
        }
        json["rope_scaling"] = scaling;
        Ok(())
    }

    /// The width of the MLPs: one number, or a list with one for each layer.
    fn mlp_widths(&self) -> Result<Value, GgufError> {
        let name = self.name(keys::MLP);
        if let Some(widths) = self.file.list(&name) {
            return Ok(widths?.into());
        }
        Ok(self.needed(keys::MLP)?.into())
    }

    /// The number of rows of the embedding: `vocab_size` in the metadata and the list of tokens may
    /// not count its padding.
    fn vocab_size(&self) -> Result<usize, GgufError> {
        let name = "token_embd.weight";
        let embedding = self.file.tensors().get(name);
        match embedding.and_then(|info| info.shape.get(1)) {
            Some(rows) => Ok(*rows),
            None => Err(self.file.wrong_tensor(name, "is missing or not a matrix".into())),
        }
    }

    /// Refuses heads whose values or rotary positions have another width than their keys.
    fn check_heads(&self, config: &DecoderConfig) -> Result<(), GgufError> {
        for key in [keys::VALUE_WIDTH, keys::ROPE_WIDTH] {
            if let Some(width) = self.integer(key)?.filter(|w| *w != config.head_dim as u64) {
                let reason = format!("is {width}, but heads are {} wide", config.head_dim);
                return Err(self.file.wrong(&self.name(key), reason));
            }
        }
        Ok(())
    }
}
