use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::config::LlamaConfig;
use super::hf_config::{ConfigError, stop_tokens};
use super::model::Llama;
use crate::checkpoint::{
    Checkpoint, CheckpointError, FactorNames, PLAN_FILE, check_module, load_module,
};
use crate::linear::{FactorParams, Rest, attach_factors, empty_param};
use crate::plan::{PlanFileError, RankPlan, Storage};
use crate::progress::Progress;

/// Why a model directory cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files or tensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its `config.json`.
    #[error("{path}: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// Its plan.
    #[error("{path}: {source}", path = path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PlanFileError,
    },
    /// Its plan and its tensors disagree.
    #[error("{path}: `{name}` is {planned} in the plan and {stored} in the weights", path = path.display())]
    PlanDisagrees {
        /// The plan file.
        path: PathBuf,
        /// The matrix.
        name: String,
        /// What the plan says.
        planned: String,
        /// What the tensors say.
        stored: String,
    },
}

/// A loaded model with what was read beside its weights.
#[derive(Debug)]
pub struct LoadedLlama {
    /// The model, factored where the directory is.
    pub model: Llama,
    /// Its configuration.
    pub config: LlamaConfig,
    /// The plan it was compressed by, if the directory carries one.
    pub plan: Option<RankPlan>,
    /// Bytes of the stored weights.
    pub bytes: u64,
}

/// Reads the `config.json` of a model directory, and the tokens that end a text from its
/// `generation_config.json` too, where chat models list more of them.
///
/// # Errors
///
/// [`LoadError::Checkpoint`] if the file is missing, [`LoadError::Config`] if it describes
/// no supported model.
pub fn read_config(dir: impl AsRef<Path>) -> Result<LlamaConfig, LoadError> {
    let dir = dir.as_ref();
    let path = dir.join("config.json");
    if !dir.is_dir() {
        return Err(missing(dir, "model directory"));
    }
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => missing(&path, "file"),
        _ => CheckpointError::Io { path: path.clone(), source }.into(),
    })?;
    let text = String::from_utf8(bytes).map_err(|error| LoadError::Config {
        path: path.clone(),
        source: ConfigError::Json(error.to_string()),
    })?;
    let mut config =
        LlamaConfig::from_hf_json(&text).map_err(|source| LoadError::Config { path, source })?;
    let path = dir.join("generation_config.json");
    if path.is_file() {
        let bytes = std::fs::read(&path).map_err(CheckpointError::io(&path))?;
        let more = stop_tokens(&bytes).map_err(|source| LoadError::Config { path, source })?;
        config.eos_token_ids.extend(more);
    }
    Ok(config)
}

/// Reads the plan a compressed model directory carries, if there is one.
///
/// # Errors
///
/// [`LoadError::Plan`] for a file that is not a plan or is impossible.
pub fn read_plan(dir: impl AsRef<Path>) -> Result<Option<RankPlan>, LoadError> {
    let path = dir.as_ref().join(PLAN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            RankPlan::from_json(&text).map(Some).map_err(|source| LoadError::Plan { path, source })
        }
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Io { path, source }.into()),
    }
}

/// A model directory that was checked but not read: configuration, tensors and plan fit each
/// other.
#[derive(Debug)]
pub struct OpenedLlama {
    /// Its configuration.
    pub config: LlamaConfig,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// The plan it was compressed by, if the directory carries one.
    pub plan: Option<RankPlan>,
    skeleton: Llama,
}

/// Opens a Hugging Face model directory, dense or factored, and checks it without reading
/// weights.
///
/// # Errors
///
/// [`LoadError`]. Missing, unused and misshaped tensors are all named.
pub fn open_llama(dir: impl AsRef<Path>, device: &Device) -> Result<OpenedLlama, LoadError> {
    let dir = dir.as_ref();
    let config = read_config(dir)?;
    let checkpoint = Checkpoint::open(dir)?.without(ignored(&config));
    check_layer_count(&config, &checkpoint)?;
    let plan = read_plan(dir)?;
    let ranks = factored_matrices(&checkpoint)?;
    if let Some(plan) = &plan {
        check_against_plan(dir, plan, &ranks)?;
    }
    let skeleton = skeleton_of(&config, &ranks, device);
    check_module(&skeleton, &checkpoint)?;
    Ok(OpenedLlama { config, checkpoint, plan, skeleton })
}

/// A model without its weights, factored as `ranks` says.
fn skeleton_of(config: &LlamaConfig, ranks: &BTreeMap<String, Stored>, device: &Device) -> Llama {
    attach_factors(
        config.init(device),
        |path, weight| {
            let Stored { rank, order } = ranks.get(path.strip_suffix(".weight")?)?;
            let shape = weight.lazy_shape();
            let made = if order.is_some() { shape[1].saturating_sub(*rank) } else { shape[1] };
            let order = order.as_ref().map(|order| {
                Tensor::from_data(TensorData::new(order.clone(), [order.len()]), device)
            });
            Some(FactorParams {
                down: empty_param([shape[0], *rank], device),
                up: empty_param([*rank, made], device),
                order,
            })
        },
        Rest::Keep,
    )
}

impl OpenedLlama {
    /// The model without its weights; nothing is allocated.
    pub fn skeleton(&self) -> &Llama {
        &self.skeleton
    }

    /// The same for what a plan would make of the dense model. To count and not to compute: what
    /// pivoted storage keeps in which place is not known yet.
    pub fn skeleton_by(&self, plan: &RankPlan, device: &Device) -> Llama {
        let low_rank = plan.matrices.iter().filter(|matrix| matrix.low_rank);
        let stored = low_rank.map(|matrix| {
            let outputs = i32::try_from(matrix.shape[0]).unwrap_or(i32::MAX);
            let order = (matrix.storage == Storage::Pivot).then(|| (0..outputs).collect());
            (matrix.name.clone(), Stored { rank: matrix.rank, order })
        });
        let ranks: BTreeMap<String, Stored> = stored.collect();
        skeleton_of(&self.config, &ranks, device)
    }

    /// Reads the weights, to compute in `dtype`: they are held in it, but for those whose path
    /// `is_master` names, which are f32 so that they can train.
    ///
    /// # Errors
    ///
    /// [`LoadError::Checkpoint`] for weights that are not finite, and when interrupted.
    pub fn load(
        self,
        dtype: FloatDType,
        is_master: impl Fn(&str) -> bool,
        progress: &mut dyn Progress,
    ) -> Result<LoadedLlama, LoadError> {
        let Self { config, checkpoint, plan, skeleton } = self;
        let dtype_of = |path: &str| if is_master(path) { FloatDType::F32 } else { dtype };
        let model = load_module(skeleton, &checkpoint, dtype_of, progress)?.with_dtype(dtype);
        let bytes = checkpoint.bytes();
        tracing::debug!(
            "{}: {bytes} bytes loaded, to compute in {dtype:?}",
            checkpoint.dir().display()
        );
        Ok(LoadedLlama { model, config, plan, bytes })
    }
}

/// Loads a Hugging Face model directory, dense or factored, on `device`, to compute in `dtype`.
/// Factored weights come straight from their files: nothing is decomposed.
///
/// # Errors
///
/// As [`open_llama`], and for weights that are not finite.
pub fn load_llama(
    dir: impl AsRef<Path>,
    device: &Device,
    dtype: FloatDType,
    progress: &mut dyn Progress,
) -> Result<LoadedLlama, LoadError> {
    open_llama(dir, device)?.load(dtype, |_| false, progress)
}

/// Tensors that a model may have and that are not parameters: old checkpoints store the
/// rotary frequencies, and some store a tied head twice.
fn ignored(config: &LlamaConfig) -> impl Fn(&str) -> bool {
    let tied = config.tie_word_embeddings;
    move |name| name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}

/// A hostile `config.json` must not make us build a billion layers before a tensor is
/// found missing: every layer has a norm, so there are no more layers than tensors.
fn check_layer_count(config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let norm = |layer| format!("model.layers.{layer}.input_layernorm.weight");
    let missing =
        (0..config.num_hidden_layers).map(norm).find(|name| checkpoint.meta(name).is_none());
    match missing {
        Some(tensor) => {
            let dir = checkpoint.dir().into();
            Err(CheckpointError::TensorMissing { dir, tensor }.into())
        }
        None => Ok(()),
    }
}

/// How a factored matrix is stored.
struct Stored {
    rank: usize,
    /// Of its rows, in pivoted storage.
    order: Option<Vec<i32>>,
}

/// Every matrix that the checkpoint stores factored.
fn factored_matrices(checkpoint: &Checkpoint) -> Result<BTreeMap<String, Stored>, LoadError> {
    let mut found = BTreeMap::new();
    for tensor in checkpoint.names() {
        let Some(name) = FactorNames::matrix_of_v(tensor) else { continue };
        let [rank, _] = checkpoint.matrix_shape(tensor)?;
        let names = FactorNames::of(name);
        let order = match checkpoint.meta(&names.pivots) {
            Some(_) => {
                let [others, _] = checkpoint.matrix_shape(&names.c)?;
                Some(checkpoint.read_order(&names.pivots, rank, rank + others)?)
            }
            None => None,
        };
        found.insert(name.to_string(), Stored { rank, order });
    }
    Ok(found)
}

fn check_against_plan(
    dir: &Path,
    plan: &RankPlan,
    ranks: &BTreeMap<String, Stored>,
) -> Result<(), LoadError> {
    let says = |rank: Option<usize>| rank.map_or("dense".into(), |rank| format!("rank {rank}"));
    let disagreement = plan.matrices.iter().find_map(|matrix| {
        let planned = matrix.low_rank.then_some(matrix.rank);
        let stored = ranks.get(&matrix.name).map(|stored| stored.rank);
        (planned != stored).then(|| LoadError::PlanDisagrees {
            path: dir.join(PLAN_FILE),
            name: matrix.name.clone(),
            planned: says(planned),
            stored: says(stored),
        })
    });
    disagreement.map_or(Ok(()), Err)
}

fn missing(path: &Path, what: &'static str) -> LoadError {
    CheckpointError::Missing { path: path.into(), what }.into()
}
