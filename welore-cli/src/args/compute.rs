//! Where numbers are computed.

use burn::tensor::FloatDType;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Where numbers are computed, and in which type.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Compute")]
pub struct ComputeArgs {
    /// What computes; auto is a GPU if one is there, else flex, the CPU
    #[arg(long, value_enum, env = "WELORE_BACKEND", default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
    /// Number of the device, as `welore-cli devices` lists them [default: 0]
    #[arg(long, value_name = "N")]
    pub device: Option<usize>,
    /// Type to compute in; what trains is kept in f32 beside it [default: f32]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,
}

/// The backends.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendArg {
    /// The best that is there
    Auto,
    /// The CPU
    Flex,
    /// GPUs by what wgpu finds, with WGSL shaders
    Wgpu,
    /// GPUs by Vulkan, with SPIR-V shaders
    Vulkan,
    /// Apple GPUs
    Metal,
    /// NVIDIA GPUs
    Cuda,
    /// The CPU, by CubeCL's kernels
    Cpu,
}

/// The types to compute in.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeArg {
    /// 32 bits
    #[default]
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits with more digits and less range
    F16,
}

impl DtypeArg {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Burn's type.
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
