//! What each tensor of a model directory is made from, and whether a file has that.

use std::collections::BTreeSet;

use anamnesis::GgufType;
use safetensors::Dtype;

use super::GgufConversion;
use super::config::ModelConfig;
use super::error::GgufError;
use super::keys;
use super::names::{Entry, Part, entries};
use super::rope;
use super::row_order::RowOrder;
use super::split_keys::{self, SplitKeys};
use super::tensors::{read_factors, stored_dtype};
use crate::forms::{Form, TensorSpec};
use crate::ggml::{GgufFile, StoredTensor, TensorType};
use crate::modules::MatrixName;

/// What the names of the numbers that matrices in NVFP4 have beside them end in.
const SCALE: &str = ".scale";
const INPUT_SCALE: &str = ".input_scale";

/// A tensor of the model directory, and the tensor of the file that it is made from.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its name in the file.
    pub source: String,
    /// What is written.
    pub spec: TensorSpec,
    /// How the file orders its rows.
    pub order: RowOrder,
    /// What its entries in the file have more; it is F32 then.
    pub shift: f32,
    /// Which part of the file's tensor it is made from, if not all of it.
    pub part: Option<Part>,
    /// What its entries in the file are multiplied by; it is F32 then.
    pub scale: f32,
    /// The type of its blocks, if it stays in them.
    pub packed: Option<TensorType>,
    /// Another tensor of the file that it is made from, if it has keys and values in two.
    pub split: Option<SplitKeys>,
}

impl Planned {
    /// The names of the tensors of the file that it is made from.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        let other = self.split.as_ref().map(|split| split.tensor.as_str());
        [self.source.as_str()].into_iter().chain(other)
    }
}

/// All tensors of the model, in its order.
///
/// # Errors
///
/// [`GgufError::TensorType`], and [`GgufError::Container`] for more layers than tensors, and for a
/// tensor that is missing, that the model does not have, or whose shape is not the one that the metadata
/// gives.
pub(super) fn plan(
    file: &GgufFile,
    model: &ModelConfig,
    conversion: GgufConversion,
) -> Result<Vec<Planned>, GgufError> {
    // A hostile count must not make us list a billion layers before a tensor is found missing.
    let (layers, tensors) = (model.config.num_hidden_layers, file.tensors().len());
    if layers > tensors {
        let key = model.architecture.key(keys::LAYERS);
        return Err(
            file.wrong(&key, format!("is {layers}, but the number of tensors is {tensors}"))
        );
    }
    let planned = entries(&model.config, model.architecture)
        .into_iter()
        .map(|entry| match split_keys::check(&entry, file, &model.config)? {
            Some(planned) => Ok(planned),
            None => check(entry, file, conversion),
        })
        .collect::<Result<Vec<_>, GgufError>>()?;
    let known: BTreeSet<&str> = planned.iter().flat_map(Planned::sources).collect();
    let belongs = |name: &str| {
        rope::TENSORS.contains(&name)
            || known.contains(name)
            || matrix_of_scale(name).is_some_and(|matrix| {
                known.contains(matrix.as_str()) && file.tensors()[&matrix].dtype == GgufType::NVFP4
            })
    };
    match file.tensors().keys().find(|name| !belongs(name)) {
        Some(name) => Err(file.wrong_tensor(name, "does not belong to this architecture".into())),
        None => Ok(planned),
    }
}

/// The tensor of the file for an entry, if it is the expected one.
fn check(entry: Entry, file: &GgufFile, conversion: GgufConversion) -> Result<Planned, GgufError> {
    let stays_whole = entry.is_router() || entry.is_norm();
    let Entry { gguf: source, name, shape, order, shift, part } = entry;
    let wrong = |reason: String| file.wrong_tensor(&source, reason);
    let Some(info) = file.tensors().get(&source) else {
        return Err(wrong("is missing".into()));
    };
    let Some(dtype) = stored_dtype(info.dtype) else {
        let (path, dtype) = (file.path_of(info).into(), info.dtype.to_string());
        return Err(GgufError::TensorType { path, tensor: source, dtype });
    };
    // The file has the fastest-varying dimension first.
    let found: Vec<usize> = info.shape.iter().rev().copied().collect();
    let whole = Part::whole(part, &shape);
    // A matrix of one row may be a vector there.
    if found != whole && whole.strip_prefix(&[1]) != Some(&found[..]) {
        return Err(wrong(format!("has shape {found:?}, not {whole:?}")));
    }
    let (columns, block) = (order.columns(&shape), info.dtype.block_size());
    if !columns.is_multiple_of(block) {
        let reason = format!("has rows of length {columns}, which do not fill blocks of {block}");
        return Err(wrong(reason));
    }
    if shift != 0.0 && dtype != Dtype::F32 {
        return Err(wrong(format!("is {}, not F32", info.dtype)));
    }
    let scale = scale_of(info, part, file)?;
    let kept = TensorType::of(info.dtype).filter(|_| conversion.packed && !stays_whole);
    let in_blocks = kept.and_then(|kept| Some((kept, as_blocks(kept, &name, &shape)?)));
    Ok(match in_blocks {
        Some((kept, spec)) => {
            Planned { source, spec, order, shift, part, scale, packed: Some(kept), split: None }
        }
        None => {
            let spec = TensorSpec { name, dtype, shape };
            Planned { source, spec, order, shift, part, scale, packed: None, split: None }
        }
    })
}

/// What the entries of a tensor are multiplied by: a matrix in NVFP4 may have such a number beside it, and
/// a tensor of experts one for each.
fn scale_of(tensor: &StoredTensor, part: Option<Part>, file: &GgufFile) -> Result<f32, GgufError> {
    let stem = tensor.name.strip_suffix(".weight");
    let Some(stem) = stem.filter(|_| tensor.dtype == GgufType::NVFP4) else { return Ok(1.0) };
    let name = format!("{stem}{SCALE}");
    if !file.tensors().contains_key(&name) {
        return Ok(1.0);
    }
    // It is an f32 in the file.
    let Part { number, of } = part.unwrap_or(Part { number: 0, of: 1 });
    Ok(read_factors(file, &name, of)?[number] as f32)
}

/// The matrix that a tensor is a scale of, if its name is that of one: of the matrix itself, or of
/// inputs that are rounded as well, which they are not here.
fn matrix_of_scale(name: &str) -> Option<String> {
    let stem = name.strip_suffix(SCALE).or_else(|| name.strip_suffix(INPUT_SCALE))?;
    Some(format!("{stem}.weight"))
}

/// The tensor of a matrix that stays in its blocks. `None` for what does not.
fn as_blocks(kept: TensorType, name: &str, shape: &[usize]) -> Option<TensorSpec> {
    let (form, shape) = (Form::blocks(kept), shape.try_into().ok()?);
    let matrix = MatrixName::of_weight(name)?;
    match form.problem(shape) {
        Some(_) => None,
        None => form.tensors(&matrix, shape, Dtype::F32).pop(),
    }
}
