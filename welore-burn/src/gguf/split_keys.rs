//! Keys and values of DeepSeek's latent attention in two tensors, as files of llama.cpp's present form have
//! them: the rows of the keys of each head as columns, and the rows of the values of each head. Files of
//! the earlier form have one matrix, as model directories do.

use safetensors::Dtype;

use super::error::GgufError;
use super::names::Entry;
use super::planned::Planned;
use super::row_order::RowOrder;
use super::tensors::stored_dtype;
use crate::forms::TensorSpec;
use crate::ggml::{GgufFile, TensorType, dequantize_row};
use crate::model::DecoderConfig;

/// What names of the tensors end in: of the matrix of both, of keys, and of values.
const BOTH: &str = ".attn_kv_b.weight";
const KEYS: &str = ".attn_k_b.weight";
const VALUES: &str = ".attn_v_b.weight";

/// What a matrix of keys and values is made of, beside the tensor of keys, `[heads, short, plain]`.
#[derive(Debug)]
pub(super) struct SplitKeys {
    /// The tensor of values, `[heads, values, short]`.
    pub tensor: String,
    /// Width of the keys of a head that are not rotated.
    plain: usize,
    /// Width of the values of a head.
    values: usize,
    /// Width of the short vectors that both are made of.
    short: usize,
}

/// The plan for an entry that a file has in two tensors; `None` for others.
///
/// # Errors
///
/// [`GgufError`] if one of them is missing, has another shape or a type that is not supported, or is
/// there beside the matrix of both.
pub(super) fn check(
    entry: &Entry,
    file: &GgufFile,
    config: &DecoderConfig,
) -> Result<Option<Planned>, GgufError> {
    let (Some(stem), Some(latent)) = (entry.gguf.strip_suffix(BOTH), config.latent) else {
        return Ok(None);
    };
    let [source, tensor] = [KEYS, VALUES].map(|end| format!("{stem}{end}"));
    let has = |name: &String| file.tensors().contains_key(name);
    if has(&entry.gguf) && has(&source) {
        let both = &entry.gguf;
        return Err(
            file.wrong_tensor(&source, format!("contradicts `{both}`, which has the keys, too"))
        );
    }
    if has(&entry.gguf) || !(has(&source) || has(&tensor)) {
        return Ok(None);
    }
    let heads = config.num_attention_heads;
    let (plain, values, short) = (latent.plain, latent.values, latent.keys_from);
    let of_keys = stored(file, &source, [heads, short, plain])?;
    let of_values = stored(file, &tensor, [heads, values, short])?;
    let dtype = if of_keys == of_values { of_keys } else { Dtype::F32 };
    let spec = TensorSpec { name: entry.name.clone(), dtype, shape: entry.shape.clone() };
    Ok(Some(Planned {
        source,
        spec,
        order: RowOrder::Same,
        shift: 0.0,
        part: None,
        scale: 1.0,
        packed: None,
        split: Some(SplitKeys { tensor, plain, values, short }),
    }))
}

/// The type that a tensor of this shape, row-major, has in a model directory.
fn stored(file: &GgufFile, name: &str, shape: [usize; 3]) -> Result<Dtype, GgufError> {
    let wrong = |reason: String| file.wrong_tensor(name, reason);
    let Some(info) = file.tensors().get(name) else { return Err(wrong("is missing".into())) };
    let Some(dtype) = stored_dtype(info.dtype) else {
        let (path, dtype) = (file.path_of(info).into(), info.dtype.to_string());
        return Err(GgufError::TensorType { path, tensor: name.into(), dtype });
    };
    // The file has the fastest-varying dimension first.
    if !info.shape.iter().rev().eq(&shape) {
        let found: Vec<usize> = info.shape.iter().rev().copied().collect();
        return Err(wrong(format!("has shape {found:?}, not {shape:?}")));
    }
    let (columns, block) = (shape[2], info.dtype.block_size());
    if !columns.is_multiple_of(block) {
        let reason = format!("has rows of length {columns}, which do not fill blocks of {block}");
        return Err(wrong(reason));
    }
    Ok(dtype)
}

impl SplitKeys {
    /// The matrix of keys and values of all heads in the planned type, row-major: for each head its keys
    /// and its values.
    pub fn merged(&self, file: &GgufFile, planned: &Planned) -> Result<Vec<u8>, GgufError> {
        let (dtype, short) = (planned.spec.dtype, self.short);
        let size = dtype.bitsize() / 8;
        let keys = numbers(file, &planned.source, self.plain, dtype)?;
        let values = numbers(file, &self.tensor, short, dtype)?;
        let mut made = Vec::with_capacity(keys.len() + values.len());
        let of_heads = keys.chunks_exact(self.plain * short * size);
        for (keys, values) in of_heads.zip(values.chunks_exact(self.values * short * size)) {
            for row in 0..self.plain {
                let entries = keys.chunks_exact(size).skip(row).step_by(self.plain);
                entries.for_each(|entry| made.extend_from_slice(entry));
            }
            made.extend_from_slice(values);
        }
        Ok(made)
    }
}

/// The entries of a tensor with rows of this length in the type of the directory, or in F32.
fn numbers(
    file: &GgufFile,
    name: &str,
    columns: usize,
    dtype: Dtype,
) -> Result<Vec<u8>, GgufError> {
    let info = &file.tensors()[name];
    let bytes = file.bytes(info);
    let float = TensorType::of(info.dtype).filter(|own| own.is_float());
    if float.is_some() && stored_dtype(info.dtype) == Some(dtype) {
        return Ok(bytes.to_vec());
    }
    if let Some(float) = float {
        let about = |source| GgufError::Quantize { tensor: name.into(), source };
        let entries = float.dequantize_rows(bytes, columns).map_err(about)?;
        return Ok(entries.iter().flat_map(|entry| entry.to_le_bytes()).collect());
    }
    let mut made = Vec::new();
    let entries = info.shape.iter().product();
    dequantize_row(info.dtype, bytes, entries, &mut made)
        .map_err(|error| file.wrong_tensor::<GgufError>(name, format!("is damaged: {error}")))?;
    Ok(made)
}
