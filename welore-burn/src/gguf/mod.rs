//! Turns GGUF files, the model files of llama.cpp, into Hugging Face model directories, and back.
//!
//! [`convert_gguf`] writes `config.json`, `tokenizer.json` and the weights of a file of a known
//! architecture. Everything else in this library works on the result. Quantized
//! tensors become F32, others keep their type; or matrices stay in their blocks, for a model that is
//! only run ([`GgufConversion`]). A model of several files is read from any of them.
//!
//! [`export_gguf`] writes a file of a model directory. Factored matrices are multiplied together,
//! because llama.cpp does not know them. [`GgufExport`] does the same in steps: it tells the size of
//! the file before it is written, and takes the bytes of tensors from any [`TensorSource`].
//!
//! [`export_adapter`] writes a LoRA adapter, which llama.cpp adds to a file of the model.

mod adapter;
mod architectures;
mod config;
mod error;
mod export;
mod keys;
mod metadata;
mod names;
mod planned;
mod rope;
mod row_order;
mod source;
mod split_keys;
mod stated;
mod tensors;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::architectures::Known;
use self::names::Part;
use self::planned::Planned;
use crate::checkpoint::{
    CheckpointError, DEFAULT_SHARD_BYTES, FileShapes, ShardLayout, ShardWriter, Turned,
};
use crate::files::{OutputDir, write_file};
use crate::forms::{TensorSpec, parameters_in};
use crate::ggml::GgufFile;
use crate::progress::Progress;

pub use adapter::{adapter_summary, export_adapter};
pub use error::GgufError;
pub use export::{GgufExport, GgufOptions, GgufWritten, export_gguf};
pub use source::{CheckpointSource, GgufTensor, TensorSource};

/// What was read from a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufSummary {
    /// Its architecture, such as `llama`.
    pub architecture: String,
    /// How many tensors of each type were read.
    pub types: BTreeMap<String, usize>,
    /// Number of parameters in all tensors.
    pub parameters: u64,
    /// Bytes of the weights as they are written.
    pub bytes: u64,
}

/// How [`convert_gguf`] stores what it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GgufConversion {
    /// Whether matrices stay in their blocks, as [`Form::blocks`](crate::forms::Form::blocks), in any
    /// [`TensorType`](crate::ggml::TensorType) but F32. The model computes the same, and is as small
    /// in memory as in the file; it does not train, and its matrices cannot be compressed. Blocks of
    /// other types, such as IQ2_XS, become F32 all the same.
    pub packed: bool,
}

/// The version of the conversion, for callers that keep its result: raised when the same file would
/// become something else.
pub const GGUF_CONVERSION: u32 = 4;

/// The files of the model that a GGUF file belongs to, in order: itself, or all parts if it is one of
/// several. The others are beside it, under the names that `llama-gguf-split` gave them.
///
/// # Errors
///
/// [`GgufError::Container`], for example for parts that are missing or belong to another model.
pub fn gguf_files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, GgufError> {
    Ok(GgufFile::open(path.as_ref())?.paths().map(PathBuf::from).collect())
}

/// Writes the model of the GGUF file `path` as a Hugging Face model directory: `config.json`,
/// `tokenizer.json`, `tokenizer_config.json`, `model.safetensors` or shards, and a `README.md` if
/// the file states a licence.
///
/// All parts of a model of several files are read, whichever `path` is. Only one tensor at a time is
/// in memory. Nothing is written before all metadata is understood, the tokenizer is loaded, and the
/// tensors are found to be those of the model. The caller commits `output`.
///
/// # Errors
///
/// [`GgufError`], for example for architectures, tokenizers, tensor types and variations that are
/// not supported, and for weights that are not finite.
pub fn convert_gguf(
    path: impl AsRef<Path>,
    conversion: GgufConversion,
    output: &OutputDir,
    progress: &mut dyn Progress,
) -> Result<GgufSummary, GgufError> {
    let file = GgufFile::open(path.as_ref())?;
    let special = tokenizer::SpecialTokens::read(&file)?;
    let model = config::read_config(&file, &special)?;
    let planned = planned::plan(&file, &model, conversion)?;
    let tokenizer = tokenizer::read_tokenizer(&file, &special, &model.config)?;
    // Replaces what a killed process left here.
    output.begin::<()>("gguf", |_| false)?;
    let write = |name: &str, content: &[u8]| {
        write_file(output.path().join(name), content).map_err(|e| output.name_target(e))
    };
    write("config.json", model.json.as_bytes())?;
    write("tokenizer.json", &tokenizer.tokenizer)?;
    write("tokenizer_config.json", &tokenizer.config)?;
    if let Some(card) = licence_card(&file) {
        write("README.md", card.as_bytes())?;
    }
    let names = planned.iter().map(|tensor| tensor.spec.name.as_str());
    let turned = match model.config.names.turns_layers() {
        true => Turned::of(names),
        false => Turned::default(),
    };
    write_weights(&file, &planned, &turned.into(), output, progress)?;
    Ok(summary(&file, model.architecture, &planned))
}

/// A model card with the licence that the file states, if it has the form that model hubs use.
fn licence_card(file: &GgufFile) -> Option<String> {
    let licence = file.text("general.license").ok()??;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let plain = !licence.is_empty() && licence.len() <= 64 && licence.chars().all(is_plain);
    plain.then(|| format!("---\nlicense: {licence}\n---\n\nConverted from a GGUF file.\n"))
}

fn write_weights(
    file: &GgufFile,
    planned: &[Planned],
    shapes: &FileShapes,
    output: &OutputDir,
    progress: &mut dyn Progress,
) -> Result<(), GgufError> {
    let named = |error: CheckpointError| match error {
        CheckpointError::File(error) => GgufError::File(output.name_target(error)),
        other => other.into(),
    };
    let specs: Vec<TensorSpec> = planned.iter().map(|tensor| tensor.spec.clone()).collect();
    let layout = ShardLayout::shaped(&specs, DEFAULT_SHARD_BYTES, shapes)?;
    let files = ShardWriter::new(output.path(), &layout).map_err(named)?;
    progress.begin("converting", planned.len());
    progress.count_in("tensors");
    for tensor in planned {
        progress.step(&tensor.spec.name)?;
        let info = &file.tensors()[&tensor.source];
        let data = tensors::decode(file, info, tensor)?;
        files.write(&tensor.spec.name, &data).map_err(named)?;
        tensor.sources().for_each(|source| file.release(&file.tensors()[source]));
    }
    file.check_unchanged()?;
    files.finish().map_err(named)?;
    Ok(())
}

fn summary(file: &GgufFile, architecture: Known, planned: &[Planned]) -> GgufSummary {
    let mut types = BTreeMap::new();
    let (mut parameters, mut bytes) = (0, 0);
    for tensor in planned {
        let Planned { spec, part, .. } = tensor;
        for source in tensor.sources().filter(|_| Part::is_first(*part)) {
            *types.entry(file.tensors()[source].dtype.to_string()).or_insert(0) += 1;
        }
        parameters += parameters_in(&spec.name, spec.dtype, &spec.shape);
        bytes += spec.bytes();
    }
    GgufSummary { architecture: architecture.name().into(), types, parameters, bytes }
}
