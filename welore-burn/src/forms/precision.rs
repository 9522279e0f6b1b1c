use burn::tensor::FloatDType;
use safetensors::Dtype;

use crate::named::{Named, named};

/// Types of floating point numbers, to compute with and to store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits with more precision and less range than bf16.
    F16,
}

named!(Precision {
    F32 => "f32", "32 bits";
    Bf16 => "bf16", "16 bits with the range of f32";
    F16 => "f16", "16 bits with more precision and less range than bf16";
});

impl Precision {
    /// Burn's type.
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// The type of a stored tensor.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// PyTorch's name, which a Hugging Face `config.json` states.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type that PyTorch names so.
    pub fn of_torch_name(name: &str) -> Option<Self> {
        Self::all().iter().find(|precision| precision.torch_name() == name).copied()
    }
}
