//! Weights that other programs have changed in ways that are not read here.

use std::fmt;

use super::error::CheckpointError;
use super::reader::Checkpoint;

/// How another program has quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantizer {
    /// GPTQ.
    Gptq,
    /// AWQ.
    Awq,
    /// bitsandbytes, in 4 or 8 bits.
    BitsAndBytes,
    /// compressed-tensors, in packed integers.
    Packed,
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::BitsAndBytes => "bitsandbytes",
            Self::Packed => "compressed-tensors",
        })
    }
}

impl Quantizer {
    /// The program that gives tensors such a name. GPTQ and AWQ share names, except one.
    fn of(tensor: &str, has_order: bool) -> Option<Self> {
        let last = tensor.rsplit('.').next().unwrap_or_default();
        match last {
            "qweight" | "qzeros" if has_order => Some(Self::Gptq),
            "qweight" | "qzeros" => Some(Self::Awq),
            "absmax" | "SCB" => Some(Self::BitsAndBytes),
            "weight_packed" => Some(Self::Packed),
            _ if tensor.contains(".quant_state.") => Some(Self::BitsAndBytes),
            _ => None,
        }
    }
}

impl Checkpoint {
    /// Refuses weights that were quantized by another program, and adapters beside weights.
    pub(super) fn check_not_foreign(&self) -> Result<(), CheckpointError> {
        let tensors = || self.tensors.keys().map(String::as_str);
        let dir = || self.dir().to_path_buf();
        let is_adapter =
            |name: &&str| [".lora_A.", ".lora_B."].iter().any(|part| name.contains(part));
        if let Some(tensor) = tensors().find(is_adapter) {
            return Err(CheckpointError::Adapter { dir: dir(), tensor: tensor.into() });
        }
        let has_order = tensors().any(|name| name.ends_with(".g_idx"));
        match tensors().find_map(|name| Some((Quantizer::of(name, has_order)?, name))) {
            Some((by, tensor)) => {
                Err(CheckpointError::Quantized { dir: dir(), by, tensor: tensor.into() })
            }
            None => Ok(()),
        }
    }
}
