//! What a file states about the model under the keys of its architecture.

use serde_json::Value;

use super::architectures::Known;
use super::error::GgufError;
use super::keys;
use crate::ggml::{ContainerError, GgufFile};

/// The metadata whose keys begin with the name of an architecture, and the tensors.
pub(super) struct Stated<'a> {
    pub file: &'a GgufFile,
    pub architecture: Known,
}

impl Stated<'_> {
    /// The whole key.
    pub fn name(&self, key: &str) -> String {
        self.architecture.key(key)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.file.tensors().contains_key(tensor)
    }

    pub fn integer(&self, key: &str) -> Result<Option<u64>, ContainerError> {
        self.file.integer(&self.name(key))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, ContainerError> {
        self.file.number(&self.name(key))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ContainerError> {
        self.file.flag(&self.name(key))
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, ContainerError> {
        self.file.text(&self.name(key))
    }

    pub fn needed(&self, key: &str) -> Result<u64, ContainerError> {
        self.file.needed(&self.name(key), self.integer(key)?)
    }

    pub fn needed_number(&self, key: &str) -> Result<f64, ContainerError> {
        self.file.needed(&self.name(key), self.number(key)?)
    }

    /// A number, where llama.cpp takes 0 for none.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, ContainerError> {
        Ok(self.number(key)?.filter(|number| *number != 0.0))
    }

    /// The sliding window, where there is one.
    pub fn window(&self) -> Result<Option<u64>, ContainerError> {
        Ok(self.integer(keys::WINDOW)?.filter(|window| *window > 0))
    }

    /// A size, where llama.cpp takes 0 for none.
    pub fn positive_size(&self, key: &str) -> Result<Option<u64>, ContainerError> {
        Ok(self.integer(key)?.filter(|size| *size > 0))
    }

    /// Adds to a `config.json` how many experts a layer has, in a field of this name, and how many of
    /// them see a token.
    pub fn add_experts(&self, field: &str, json: &mut Value) -> Result<(), GgufError> {
        let experts = self.needed(keys::EXPERTS)?;
        // Before as many are listed.
        let mut tensors = self.file.tensors().iter();
        let found = tensors.find(|(name, _)| name.ends_with(".ffn_down_exps.weight"));
        let tensor = found.map_or("blk.0.ffn_down_exps.weight", |(name, _)| name.as_str());
        match found.and_then(|(_, info)| info.shape.get(2)) {
            Some(found) if *found as u64 == experts => {}
            Some(found) => {
                let reason = format!("is {experts}, but `{tensor}` is of {found}");
                return Err(self.wrong(keys::EXPERTS, reason));
            }
            None => {
                let reason = "is missing or not of several experts".into();
                return Err(self.file.wrong_tensor(tensor, reason));
            }
        }
        json[field] = experts.into();
        json["num_experts_per_tok"] = self.needed(keys::CHOSEN_EXPERTS)?.into();
        Ok(())
    }

    /// Width of an expert.
    pub fn expert_width(&self) -> Result<u64, ContainerError> {
        if let Some(width) = self.positive_size(keys::EXPERT_MLP)? {
            return Ok(width);
        }
        let (all, chosen) = (self.needed(keys::MLP)?, self.needed(keys::CHOSEN_EXPERTS)?);
        Ok(all.checked_div(chosen).unwrap_or(0))
    }

    /// Width of a head.
    pub fn head_width(&self) -> Result<u64, ContainerError> {
        match self.integer(keys::KEY_WIDTH)? {
            Some(width) => Ok(width),
            None => {
                let (hidden, heads) = (self.needed(keys::HIDDEN)?, self.needed(keys::HEADS)?);
                Ok(hidden.checked_div(heads).unwrap_or(0))
            }
        }
    }

    /// The key of the width of a head's values. Where keys and values of latent attention are two tensors,
    /// a file states widths of what llama.cpp caches under the usual keys, and those of heads under
    /// others.
    pub fn value_key(&self) -> Result<&'static str, ContainerError> {
        Ok(match self.positive_size(keys::LATENT_KEY_WIDTH)? {
            Some(_) => keys::LATENT_VALUE_WIDTH,
            None => keys::VALUE_WIDTH,
        })
    }

    /// How many channels of a head are rotated.
    pub fn rotary_width(&self) -> Result<u64, ContainerError> {
        match self.integer(keys::ROPE_WIDTH)? {
            Some(width) => Ok(width),
            None => self.head_width(),
        }
    }

    /// An error about the value of a key.
    pub fn wrong(&self, key: &str, reason: String) -> GgufError {
        self.file.wrong(&self.name(key), reason)
    }

    /// The share of the channels that are rotated.
    pub fn rotated_share(&self) -> Result<f64, ContainerError> {
        let (rotated, width) = (self.rotary_width()?, self.head_width()?);
        let (rotated, width) = (rotated as f64, width.max(1) as f64);
        let share = rotated / width;
        // Readers round the product down.
        Ok(if share * width < rotated { share.next_up() } else { share })
    }

    /// The types of layers, as a `config.json` names them: those that the file states, or with the last
    /// one of every `period` layers without the sliding window.
    pub fn layer_types(&self, period: usize) -> Result<Value, GgufError> {
        // More layers than tensors are an error later on.
        let layers = (self.needed(keys::LAYERS)? as usize).min(self.file.tensors().len());
        let key = keys::WINDOW_PATTERN;
        let windows = match self.file.flags(&self.name(key)) {
            Some(windows) => windows?,
            None => {
                let stated = self.integer(key)?.map(|period| period as usize);
                let period = stated.unwrap_or(period);
                // llama.cpp reads 0 as a window on all layers.
                (1..=layers).map(|layer| period == 0 || !layer.is_multiple_of(period)).collect()
            }
        };
        if windows.len() < layers {
            let reason = format!("has {} entries for {layers} layers", windows.len());
            return Err(self.wrong(key, reason));
        }
        let name = |window: &bool| match window {
            true => "sliding_attention",
            false => "full_attention",
        };
        Ok(windows.iter().take(layers).map(name).collect())
    }
}
