use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::config::Config;
use super::error::{AdapterError, LoraProblem, Refusal};
use super::lora::{A, B, LoraAdapter, LoraMatrix};
use crate::escape::shortened;
use crate::files::MappedFile;
use crate::modules::MatrixName;

/// File name of the configuration of an adapter.
pub(super) const CONFIG_FILE: &str = "adapter_config.json";

/// File name of its tensors.
pub(super) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The same in the old format.
const PICKLE_FILE: &str = "adapter_model.bin";

/// The most characters of the name of a tensor.
const LONGEST: usize = 400;

/// How names of tensors begin.
pub(super) const PREFIX: &str = "base_model.model.";

/// Whether a directory looks like an adapter of PEFT. Opens nothing.
pub fn is_adapter(dir: impl AsRef<Path>) -> bool {
    dir.as_ref().join(CONFIG_FILE).is_file()
}

/// The tensors of a matrix, which come in any order.
#[derive(Default)]
struct Pair<'a> {
    a: Option<TensorView<'a>>,
    b: Option<TensorView<'a>>,
}

impl LoraAdapter {
    /// Reads an adapter of PEFT, a directory with `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Missing`], [`AdapterError::File`] and [`AdapterError::Broken`] for files that
    /// cannot be read; [`AdapterError::Refused`] for an adapter that is more than a sum, or not LoRA;
    /// [`AdapterError::Matrix`] for tensors that do not fit each other, or are not finite.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, AdapterError> {
        let dir = dir.as_ref();
        let (config_path, path) = (dir.join(CONFIG_FILE), dir.join(WEIGHTS_FILE));
        let missing = |path: &Path| AdapterError::Missing { path: path.into() };
        let config = Config::read(&config_path)?.ok_or_else(|| missing(&config_path))?;
        let Some(file) = MappedFile::open(&path)? else {
            let pickle = dir.join(PICKLE_FILE);
            return Err(match pickle.is_file() {
                true => AdapterError::Refused { path: pickle, refusal: Refusal::Pickle },
                false => missing(&path),
            });
        };
        let tensors = SafeTensors::deserialize(&file).map_err(|error| {
            let reason = format!("not a valid safetensors file: {error}");
            AdapterError::Broken { path: path.clone(), reason }
        })?;
        let refused = |path: &Path| {
            let path = path.to_path_buf();
            move |refusal| AdapterError::Refused { path, refusal }
        };
        let mut matrices = BTreeMap::new();
        for (name, pair) in pairs(&tensors).map_err(refused(&path))? {
            config.check_chosen(&name).map_err(refused(&config_path))?;
            let matrix = read(&pair, |rank| config.scale(&name, rank));
            let matrix = matrix.map_err(|problem| AdapterError::Matrix {
                path: path.clone(),
                matrix: name.clone(),
                problem,
            })?;
            matrices.insert(name, matrix);
        }
        file.check_unchanged()?;
        if matrices.is_empty() {
            return Err(AdapterError::Broken { path, reason: "it changes no matrix".into() });
        }
        let Config { base, revision, turned, .. } = config;
        Ok(Self { base, revision, turned, matrices })
    }
}

/// The tensors by the matrices that they belong to.
fn pairs<'a>(tensors: &SafeTensors<'a>) -> Result<BTreeMap<MatrixName, Pair<'a>>, Refusal> {
    let mut pairs: BTreeMap<MatrixName, Pair<'a>> = BTreeMap::new();
    for (tensor, view) in tensors.iter() {
        let (name, is_a) = place(tensor)?;
        let pair = pairs.entry(name).or_default();
        match is_a {
            true => pair.a = Some(view),
            false => pair.b = Some(view),
        }
    }
    Ok(pairs)
}

/// The matrix that a tensor belongs to, and whether it is `A`.
fn place(tensor: &str) -> Result<(MatrixName, bool), Refusal> {
    if tensor.chars().nth(LONGEST).is_some() {
        return Err(Refusal::Tensor(shortened(tensor, LONGEST + 1).into_owned()));
    }
    let Some(name) = tensor.strip_prefix(PREFIX) else {
        return Err(Refusal::Tensor(tensor.into()));
    };
    for (part, is_a) in [(A, true), (B, false)] {
        let stem = name.strip_suffix(".weight").and_then(|stem| stem.strip_suffix(part));
        let matrix = stem.and_then(|stem| stem.strip_suffix('.'));
        if let Some(matrix) = matrix.filter(|matrix| !matrix.is_empty()) {
            return Ok((MatrixName::from(matrix), is_a));
        }
    }
    let tensor = String::from(tensor);
    Err(if name.contains("lora_magnitude_vector") {
        Refusal::Dora
    } else if name.contains("lora_embedding_") || name.contains("token_adapter") {
        Refusal::Embedding(tensor)
    } else if name.contains("lora_") {
        match name.ends_with(".bias") {
            true => Refusal::Bias(tensor),
            false => Refusal::Tensor(tensor),
        }
    } else if name.ends_with(".bias") {
        Refusal::Bias(tensor)
    } else if name.ends_with(".weight") {
        Refusal::ModulesToSave(tensor)
    } else {
        Refusal::Tensor(tensor)
    })
}

/// The adapter of a matrix, given the scale for its rank.
fn read(
    pair: &Pair<'_>,
    scale: impl FnOnce(usize) -> Result<f64, LoraProblem>,
) -> Result<LoraMatrix, LoraProblem> {
    let a = pair.a.as_ref().ok_or(LoraProblem::Half(A))?;
    let b = pair.b.as_ref().ok_or(LoraProblem::Half(B))?;
    let ([rank, inputs], [outputs, columns]) = (sides(a, A)?, sides(b, B)?);
    if rank != columns {
        return Err(LoraProblem::Rank { a: rank, b: columns });
    }
    let scale = scale(rank)?;
    LoraMatrix::new([outputs, inputs], rank, numbers(a, A)?, numbers(b, B)?, scale)
}

fn sides(view: &TensorView<'_>, tensor: &'static str) -> Result<[usize; 2], LoraProblem> {
    match *view.shape() {
        [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
        ref shape => Err(LoraProblem::NotMatrix { tensor, shape: shape.to_vec() }),
    }
}

/// The entries as f32; what is beyond f32 becomes infinite.
fn numbers(view: &TensorView<'_>, tensor: &'static str) -> Result<Vec<f32>, LoraProblem> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        dtype => return Err(LoraProblem::Dtype { tensor, dtype }),
    })
}

fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| convert(*chunk)).collect()
}
