//! Arguments of the commands that choose types for another program.

use clap::{Args, ValueEnum};
use welore_burn::ggml::TensorType;

use super::choices::named;

/// A program that types are chosen for.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineArg {
    /// its types, in a GGUF file
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// Which types are chosen.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Types")]
pub struct TypeArgs {
    /// Choose a type of this program for each matrix in place of ranks, those that cost the loss
    /// least within --max-bytes or --bits; `compress` then writes a file for it, dense, in place of a
    /// directory
    #[arg(long = "for", id = "for", value_name = "PROGRAM", value_enum)]
    pub engine: Option<EngineArg>,
    /// With --for, the largest mean number of bits of a weight of the attention and MLP projections,
    /// scales included, such as 4.5; embedding and head get the types that are as worth their bytes
    #[arg(long, value_name = "BITS", help_heading = "Target", allow_negative_numbers = true)]
    pub bits: Option<f64>,
    /// Types that matrices may have with --for, separated by commas [default: all but f32 and bf16]
    #[arg(
        long,
        value_name = "TYPE",
        value_delimiter = ',',
        value_parser = named::<TensorType>()
    )]
    pub types: Vec<TensorType>,
    /// With --for, do not measure what the whole quantized model loses: the sum of what each matrix
    /// loses alone is too low
    #[arg(long)]
    pub no_measure: bool,
}
