use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};

use super::config::{DecoderConfig, QkNorm};
use super::config_error::ConfigError;
use super::decoder::Decoder;
use super::hf_config::{model_type_in, states_end, stop_tokens};
use super::language::device_of;
use super::names::{EMBEDDING, HEAD, LAYERS};
use super::norm::NormKind;
use super::plain_names::open_weights;
use super::text_part::text_part;
use crate::checkpoint::{
    Checkpoint, CheckpointError, MissingKind, StoredMatrix, base_config, check_directory,
    check_module, load_weights, with_forms,
};
use crate::files::{FileError, LARGEST_CONFIG, read_existing};
use crate::forms::{Form, skeleton};
use crate::modules::MatrixName;
use crate::progress::Progress;

/// Why a model directory cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Its files or tensors are unusable.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Its `config.json` or `generation_config.json` is unusable.
    #[error("{path}: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// It has a head of its own, though its `config.json` says that the embedding is the head.
    #[error(
        "{path}: `lm_head.weight` is not the embedding, though config.json says so \
         (`tie_word_embeddings`)",
        path = dir.display()
    )]
    OwnHead {
        /// The model directory.
        dir: PathBuf,
    },
}

/// A loaded model, with its configuration and its directory.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model. Its matrices have the forms in which they are stored.
    pub model: Decoder,
    /// Its configuration.
    pub config: DecoderConfig,
    /// The directory that it was loaded from.
    pub checkpoint: Checkpoint,
}

/// Reads the `config.json` of a model directory, or what it says of the text in a model of more than
/// text, and further tokens that end a text from its
/// `generation_config.json`, where chat models list them.
///
/// # Errors
///
/// [`LoadError::Checkpoint`] if `config.json` is missing or a file cannot be read,
/// [`LoadError::Config`] if it does not describe a supported model.
pub fn read_config(dir: impl AsRef<Path>) -> Result<DecoderConfig, LoadError> {
    let dir = dir.as_ref();
    read_config_of(dir, &config_text(dir)?)
}

/// The text of the `config.json` of a model directory; in a model of more than text, only the part about
/// its text.
fn config_text(dir: &Path) -> Result<String, LoadError> {
    let path = dir.join("config.json");
    check_directory(dir)?;
    let bytes = base_config(dir).map_err(file_error)?;
    let bytes = bytes.ok_or_else(|| missing(&path, MissingKind::File))?;
    let text = String::from_utf8(bytes).map_err(|_| LoadError::Config {
        path,
        source: ConfigError::Json("not UTF-8 text".into()),
    })?;
    Ok(text_part(&text).unwrap_or(text))
}

/// Reads that text, and the tokens of a `generation_config.json` beside it.
fn read_config_of(dir: &Path, text: &str) -> Result<DecoderConfig, LoadError> {
    let path = dir.join("config.json");
    let mut config =
        DecoderConfig::from_hf_json(text).map_err(|source| LoadError::Config { path, source })?;
    let path = dir.join("generation_config.json");
    if let Some(bytes) = read_existing(&path, LARGEST_CONFIG).map_err(file_error)? {
        let more = stop_tokens(&bytes).map_err(|source| LoadError::Config { path, source })?;
        if !more.is_empty() && !states_end(text) {
            // A default counts only if neither file says which token it is.
            config.eos_token_ids.clear();
        }
        config.eos_token_ids.extend(more);
    }
    Ok(config)
}

/// A model directory that has been checked: its configuration fits its tensors. Weights are not
/// read yet.
#[derive(Debug)]
pub struct OpenedModel {
    /// Its configuration.
    pub config: DecoderConfig,
    /// The family that its `config.json` names.
    pub model_type: String,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Its matrices that are not dense.
    pub compressed: Vec<StoredMatrix>,
    skeleton: Decoder,
}

/// Opens a Hugging Face model directory, dense or compressed, and checks it without reading
/// weights, except that a head which should be the embedding is compared with it.
///
/// # Errors
///
/// [`LoadError`]. Missing, unused and misshaped tensors are all named.
pub fn open_model(dir: impl AsRef<Path>, device: &Device) -> Result<OpenedModel, LoadError> {
    let dir = dir.as_ref();
    let checkpoint = open_weights(dir)?;
    let text = config_text(dir)?;
    let (config, model_type) = (read_config_of(dir, &text)?, model_type_in(&text));
    check_tied_head(&config, &checkpoint)?;
    let checkpoint = checkpoint.without(ignored(&config));
    check_layer_count(&config, &checkpoint)?;
    check_expert_count(&config, &checkpoint)?;
    check_head_count(&config, &checkpoint)?;
    let compressed = checkpoint.compressed_matrices()?;
    let skeleton = with_forms(config.init(device), &checkpoint, &compressed)?;
    check_module(&skeleton, &checkpoint)?;
    Ok(OpenedModel { config, model_type, checkpoint, compressed, skeleton })
}

impl OpenedModel {
    /// The model without weights; nothing is allocated.
    pub fn skeleton(&self) -> &Decoder {
        &self.skeleton
    }

    /// Turns into the model without weights.
    pub fn into_skeleton(self) -> Decoder {
        self.skeleton
    }

    /// The model without weights, with each matrix in the form that `form_of` returns, or dense for
    /// `None`. It is for counting, not for computing.
    ///
    /// # Errors
    ///
    /// [`LoadError::Checkpoint`] for a form that a matrix cannot have.
    pub fn skeleton_in(
        &self,
        form_of: impl Fn(&MatrixName) -> Option<Form>,
    ) -> Result<Decoder, LoadError> {
        // The indices are not known yet; any will do.
        let form_of = |name: &MatrixName| {
            let form = form_of(name)?;
            Some((form, form.any_indices()))
        };
        let module = skeleton(self.config.init(&device_of(&self.skeleton)), form_of);
        Ok(module.map_err(|(name, source)| self.checkpoint.form_error(&name)(source))?)
    }

    /// Reads the weights, for computation in `dtype`. They are held in that type, except those
    /// whose path `is_master` selects: these are f32, so that they can be trained.
    ///
    /// # Errors
    ///
    /// [`LoadError::Checkpoint`] for weights that are not finite, and if interrupted.
    pub fn load(
        self,
        dtype: FloatDType,
        is_master: impl Fn(&str) -> bool,
        progress: &mut dyn Progress,
    ) -> Result<LoadedModel, LoadError> {
        let Self { config, checkpoint, skeleton, .. } = self;
        let dtype_of = |path: &str| if is_master(path) { FloatDType::F32 } else { dtype };
        let model = load_weights(skeleton, &checkpoint, dtype_of, progress)?.with_dtype(dtype);
        let (dir, bytes) = (checkpoint.dir().display(), checkpoint.bytes());
        tracing::debug!("{dir}: {bytes} bytes loaded, to compute in {dtype:?}");
        Ok(LoadedModel { model, config, checkpoint })
    }
}

/// Loads a Hugging Face model directory, dense or compressed, on `device`, for computation in
/// `dtype`. Compressed weights are read as they are stored: nothing is decomposed.
///
/// # Errors
///
/// Those of [`open_model`] and [`OpenedModel::load`].
pub fn load_model(
    dir: impl AsRef<Path>,
    device: &Device,
    dtype: FloatDType,
    progress: &mut dyn Progress,
) -> Result<LoadedModel, LoadError> {
    open_model(dir, device)?.load(dtype, |_| false, progress)
}

/// Refuses a head that is not the embedding, though the configuration says so. Programs differ in
/// which of the two they compute with.
fn check_tied_head(config: &DecoderConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let both = [EMBEDDING, HEAD].map(|path| config.names.of_path(path));
    let both = both.each_ref().map(String::as_str);
    let has_both = both.iter().all(|name| checkpoint.meta(name).is_some());
    if !config.tie_word_embeddings || !has_both {
        return Ok(());
    }
    let [(meta, embedding), (of_head, head)] =
        [checkpoint.content(both[0])?, checkpoint.content(both[1])?];
    let is_same = meta.shape == of_head.shape
        && match meta.dtype == of_head.dtype {
            true => embedding == head,
            false => checkpoint.read_f32(both[0])? == checkpoint.read_f32(both[1])?,
        };
    both.iter().for_each(|name| checkpoint.release(name));
    match is_same {
        true => Ok(()),
        false => Err(LoadError::OwnHead { dir: checkpoint.dir().into() }),
    }
}

/// Tensors of a checkpoint that are no part of the decoder: some checkpoints store a tied head as well,
/// and those of some families have more layers than the stack.
fn ignored(config: &DecoderConfig) -> impl Fn(&str) -> bool {
    let (tied, head) = (config.tie_word_embeddings, config.names.of_path(HEAD));
    let further = config.names.has_further_layers.then_some(config.num_hidden_layers);
    move |name| {
        let number = |rest: &str| rest.split('.').next()?.parse::<usize>().ok();
        let layer = name.strip_prefix(LAYERS).and_then(number);
        let is_further = further.zip(layer).is_some_and(|(first, layer)| layer >= first);
        is_further || (tied && name == head)
    }
}

/// A hostile `config.json` must not make us build a billion layers before we find a tensor missing:
/// every layer has tensors, so there cannot be more layers than tensors.
fn check_layer_count(config: &DecoderConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let layers_at = config.names.of_path(LAYERS);
    let number = |name: &str| -> Option<usize> {
        name.strip_prefix(layers_at.as_str())?.split('.').next()?.parse().ok()
    };
    let layers: BTreeSet<usize> = checkpoint.names().filter_map(number).collect();
    let Some(missing) = (0..config.num_hidden_layers).find(|layer| !layers.contains(layer)) else {
        return Ok(());
    };
    let first = config.layout.norms().into_iter().flatten().next();
    let first = first.filter(|_| config.norm != NormKind::LayerAlone);
    let first = config.names.of_path(first.unwrap_or("self_attn.o_proj"));
    let tensor = format!("{layers_at}{missing}.{first}.weight");
    Err(absent(checkpoint, tensor).into())
}

/// The same for the experts of layers.
fn check_expert_count(config: &DecoderConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let Some(mixture) = &config.mixture else { return Ok(()) };
    // Tensors of a matrix that is not dense have longer names, such as `down_proj.V.weight`.
    let present: BTreeSet<&str> = checkpoint
        .names()
        .flat_map(|name| name.match_indices('.').map(move |(end, _)| &name[..end]))
        .filter(|stem| stem.contains(".experts."))
        .collect();
    let layers = (0..config.num_hidden_layers).filter(|layer| mixture.is_in(*layer));
    let mut experts = layers.flat_map(|layer| (0..mixture.experts).map(move |n| (layer, n)));
    let absent_one = experts.find_map(|(layer, expert)| {
        let field = format!("{LAYERS}{layer}.mlp.experts.{expert}.down_proj");
        Some(config.names.of_path(&field)).filter(|name| !present.contains(name.as_str()))
    });
    match absent_one {
        Some(name) => Err(absent(checkpoint, format!("{name}.weight")).into()),
        None => Ok(()),
    }
}

/// The same for heads whose norms are tensors of their own.
fn check_head_count(config: &DecoderConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    if config.qk_norm != QkNorm::EachHeadApart {
        return Ok(());
    }
    let both = [("q", config.num_attention_heads), ("k", config.num_key_value_heads)];
    for layer in 0..config.num_hidden_layers {
        for (kind, heads) in both {
            let norms = format!("{LAYERS}{layer}.self_attn.{kind}_head_norm.norms");
            let norms = config.names.of_path(&norms);
            let mut tensors = (0..heads).map(|head| format!("{norms}.{head}.weight"));
            if let Some(tensor) = tensors.find(|tensor| checkpoint.meta(tensor).is_none()) {
                return Err(absent(checkpoint, tensor).into());
            }
        }
    }
    Ok(())
}

/// The error for a missing tensor, which may be there under a longer name.
fn absent(checkpoint: &Checkpoint, tensor: String) -> CheckpointError {
    let dir = checkpoint.dir().into();
    let prefixed = checkpoint.names().find_map(|name| {
        let prefix = name.strip_suffix(tensor.as_str()).filter(|prefix| prefix.ends_with('.'))?;
        Some((prefix.to_string(), name.to_string()))
    });
    match prefixed {
        Some((prefix, tensor)) => CheckpointError::Prefixed { dir, prefix, tensor },
        None => CheckpointError::TensorMissing { dir, tensor },
    }
}

fn missing(path: &Path, what: MissingKind) -> LoadError {
    CheckpointError::Missing { path: path.into(), what }.into()
}

fn file_error(error: FileError) -> LoadError {
    CheckpointError::from(error).into()
}
