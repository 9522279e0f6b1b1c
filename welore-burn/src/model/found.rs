//! Model directories as they are found: also those that no decoder here can run, by their weights
//! alone.

use std::fmt;
use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;

use super::config_error::ConfigError;
use super::families::nearest_model_type;
use super::language::projections;
use super::load::{LoadError, OpenedModel, open_model};
use super::names::{Names, TokenMatrix};
use super::text_part::type_of_parts;
use crate::changes::{ChangesError, SavedChanges};
use crate::checkpoint::{
    Checkpoint, CheckpointError, LinearLayers, MissingKind, StoredMatrix, TensorProblem,
    base_config,
};
use crate::modules::{MatrixName, Selection};
use crate::progress::Progress;

/// A model directory for work from file to file, which needs weights only.
#[derive(Debug)]
pub enum FoundModel {
    /// Its model is known here, and fits its tensors.
    Familiar(Box<OpenedModel>),
    /// Only its weights are known.
    Unfamiliar(Box<UnfamiliarModel>),
}

/// The weights of a model that cannot be run here.
#[derive(Debug)]
pub struct UnfamiliarModel {
    /// Its tensors, under the names that they have.
    pub checkpoint: Checkpoint,
    /// Its matrices that are not dense.
    pub compressed: Vec<StoredMatrix>,
    /// Why it cannot be run.
    pub why: Unfamiliar,
    layers: LinearLayers,
}

/// Why a model cannot be run here, though its weights can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfamiliar {
    /// There is no `config.json`.
    NoConfig,
    /// The `config.json` does not say what kind of model it is.
    NoModelType,
    /// No family here has this `model_type`.
    ModelType(String),
    /// The family is known, but the model classifies or embeds: it lacks the head of a language model,
    /// or has more beside its layers.
    OtherHead,
    /// It is of this `model_type`, which has other parts than text. All of them are compressed, though
    /// only the text can be run.
    Parts(String),
    /// The family is known, but not this variation of it: what is said about its `config.json`.
    Variation(String),
}

impl fmt::Display for Unfamiliar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConfig => f.write_str("there is no config.json"),
            Self::NoModelType => f.write_str("config.json has no `model_type`"),
            Self::ModelType(model_type) => {
                write!(f, "model_type `{model_type}` is not supported")?;
                match nearest_model_type(model_type) {
                    Some(nearest) => write!(f, " (the nearest that is: `{nearest}`)"),
                    None => Ok(()),
                }
            }
            Self::OtherHead => {
                f.write_str("the model has another head than a language model's, or none")
            }
            Self::Parts(model_type) => {
                write!(f, "model_type `{model_type}` has other parts than text")
            }
            Self::Variation(problem) => f.write_str(problem),
        }
    }
}

/// Opens a Hugging Face model directory, dense or compressed, and checks it without reading
/// weights. A directory whose model is not known here, or that has no `config.json`, is opened by
/// its weights alone.
///
/// # Errors
///
/// [`LoadError`] for files and tensors that are unusable, and for a model that is known here but
/// does not fit its tensors.
pub fn open_found(dir: impl AsRef<Path>, device: &Device) -> Result<FoundModel, LoadError> {
    let dir = dir.as_ref();
    let why = match type_of_parts(dir) {
        Some(model_type) => Unfamiliar::Parts(model_type),
        None => match open_model(dir, device) {
            Ok(model) => return Ok(FoundModel::Familiar(Box::new(model))),
            Err(error) => unfamiliar(&error).ok_or(error)?,
        },
    };
    let checkpoint = Checkpoint::open(dir)?;
    let compressed = checkpoint.compressed_matrices()?;
    let layers = checkpoint.linear_layers(&compressed);
    let model = UnfamiliarModel { checkpoint, compressed, why, layers };
    Ok(FoundModel::Unfamiliar(Box::new(model)))
}

/// Why a model cannot be run, if its weights may be read nevertheless.
fn unfamiliar(error: &LoadError) -> Option<Unfamiliar> {
    match error {
        LoadError::Checkpoint(CheckpointError::Missing { path, what: MissingKind::File })
            if path.ends_with("config.json") =>
        {
            Some(Unfamiliar::NoConfig)
        }
        LoadError::Config { source: ConfigError::Architecture { model_type, .. }, .. } => {
            Some(Unfamiliar::ModelType(model_type.clone()))
        }
        LoadError::Checkpoint(CheckpointError::Mismatch { problems, .. })
            if problems.iter().all(is_of_head) =>
        {
            Some(Unfamiliar::OtherHead)
        }
        // What is quantized has other tensors in the place of weights.
        LoadError::Config { source: source @ ConfigError::Unsupported { field, .. }, path }
            if *field != "quantization_config" && path.ends_with("config.json") =>
        {
            Some(Unfamiliar::Variation(source.to_string()))
        }
        LoadError::Config { source: ConfigError::Json(_), path } if is_of_no_model(path) => {
            Some(Unfamiliar::NoModelType)
        }
        _ => None,
    }
}

/// Whether all that does not fit is beside the layers of a decoder.
fn is_of_head(problem: &TensorProblem) -> bool {
    match problem {
        TensorProblem::Missing { tensor, .. } => TokenMatrix::of(tensor) == Some(TokenMatrix::Head),
        TensorProblem::Unused { tensor } => !Names::is_in_body(tensor),
        TensorProblem::Shape { .. } => false,
    }
}

/// Whether a `config.json` is a configuration, but not that of a model of a kind that it names.
fn is_of_no_model(path: &Path) -> bool {
    let Some(dir) = path.parent().filter(|_| path.ends_with("config.json")) else { return false };
    let Ok(Some(bytes)) = base_config(dir) else { return false };
    let config: Result<Value, _> = serde_json::from_slice(&bytes);
    let is_config =
        |config: &Value| config.is_object() && config.get("model_type").is_none_or(Value::is_null);
    config.as_ref().is_ok_and(is_config)
}

impl FoundModel {
    /// Its tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Familiar(model) => &model.checkpoint,
            Self::Unfamiliar(model) => &model.checkpoint,
        }
    }

    /// Its matrices that are not dense.
    pub fn compressed(&self) -> &[StoredMatrix] {
        match self {
            Self::Familiar(model) => &model.compressed,
            Self::Unfamiliar(model) => &model.compressed,
        }
    }

    /// The model, if it is known.
    pub fn familiar(&self) -> Option<&OpenedModel> {
        match self {
            Self::Familiar(model) => Some(model),
            Self::Unfamiliar(_) => None,
        }
    }

    /// Why it cannot be run, if it cannot.
    pub fn unfamiliar(&self) -> Option<&UnfamiliarModel> {
        match self {
            Self::Familiar(_) => None,
            Self::Unfamiliar(model) => Some(model),
        }
    }

    /// The same with weights of convolutions as matrices, those whose names are `chosen`: see
    /// [`Checkpoint::with_convolutions`]. No model that is known here has some.
    pub fn with_convolutions(self, chosen: impl Fn(&MatrixName) -> bool) -> Self {
        match self {
            Self::Familiar(model) => Self::Familiar(model),
            Self::Unfamiliar(model) => {
                let UnfamiliarModel { checkpoint, compressed, why, .. } = *model;
                let checkpoint = checkpoint.with_convolutions(chosen);
                let layers = checkpoint.linear_layers(&compressed);
                let model = UnfamiliarModel { checkpoint, compressed, why, layers };
                Self::Unfamiliar(Box::new(model))
            }
        }
    }

    /// The same with numbers that training changed: see [`SavedChanges::applied_to`].
    ///
    /// # Errors
    ///
    /// Those of [`SavedChanges::applied_to`].
    pub fn with_changes(
        self,
        changes: SavedChanges,
        progress: &mut dyn Progress,
    ) -> Result<Self, ChangesError> {
        Ok(match self {
            Self::Familiar(model) => {
                let mut model = *model;
                model.checkpoint = changes.applied_to(model.checkpoint, progress)?;
                Self::Familiar(Box::new(model))
            }
            Self::Unfamiliar(model) => {
                let mut model = *model;
                model.checkpoint = changes.applied_to(model.checkpoint, progress)?;
                Self::Unfamiliar(Box::new(model))
            }
        })
    }

    /// The matrices to compress unless others are named: the projections of a model that is known,
    /// the linear layers of another.
    pub fn selection(&self) -> Selection {
        match self {
            Self::Familiar(model) => projections(model.skeleton()),
            Self::Unfamiliar(model) => {
                let names = model.layers.names.iter();
                Selection::of_names(names.map(|name| name.as_str().to_string()))
            }
        }
    }
}

impl UnfamiliarModel {
    /// Which of its matrices are taken for linear layers, and which tensors are not.
    pub fn linear_layers(&self) -> &LinearLayers {
        &self.layers
    }
}
