//! Arguments of the commands that choose types for another program.

use clap::{Args, ValueEnum};
use welore_burn::ggml::TensorType;

use super::choices::named;

/// A program that files are written for.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineArg {
    /// a GGUF file, each matrix in the type that costs the loss least
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// a directory in the forms of this program, each matrix in the one that costs the loss least
    Welore,
    /// a directory that transformers loads without other code; needs --forms channels
    Transformers,
}

/// Which types are chosen.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Types")]
pub struct TypeArgs {
    /// Make a model that this program loads. For llama.cpp, types are chosen in place of ranks, those
    /// that cost the loss least within --max-bytes or --bits, and `compress` writes a file in place of
    /// a directory. For welore, forms are chosen within --max-bytes: blocks of these types by rows or by
    /// columns, which stay packed in memory, and factors in blocks with --forms blocks,factors
    #[arg(long = "for", id = "for", value_name = "PROGRAM", value_enum)]
    pub engine: Option<EngineArg>,
    /// With --for, the largest mean number of bits of a weight of the attention and MLP projections,
    /// scales included, such as 4.5; embedding and head get types whose bytes save as much
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
    /// With --for, do not measure what the whole quantized model loses, which is more than the sum of
    /// what each matrix loses alone
    #[arg(long)]
    pub no_measure: bool,
}
