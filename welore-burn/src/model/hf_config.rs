use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::activation::{Activation, KNOWN};
use super::config::DecoderConfig;
use super::config_error::{ConfigError, check_count, invalid, positive, unsupported};
use super::families::{Family, family_of};
use super::hf_rope::{HfRope, check_nests};
use crate::artifact::in_words;
use crate::checkpoint::{has_scales, lost_base, restore_base};

/// The fields of a Hugging Face `config.json` that model families read. Those that a file lacks
/// have the defaults of its family, and `null` means none.
#[derive(Deserialize)]
pub(super) struct HfConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: Widths,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    /// The channels of a head that see positions, beside others that do not (DeepSeek).
    pub qk_rope_head_dim: Option<usize>,
    #[serde(default = "silu")]
    pub hidden_act: String,
    pub rms_norm_eps: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub rope_theta: Option<f64>,
    /// As transformers 4 writes it.
    pub rope_scaling: Option<HfRope>,
    /// As transformers 5 writes it.
    pub rope_parameters: Option<HfRope>,
    pub max_position_embeddings: Option<usize>,
    /// The context before it was extended, beside the rope settings.
    pub original_max_position_embeddings: Option<f64>,
    pub tie_word_embeddings: Option<bool>,
    /// Whether tokens see only those before them. Embedding models may say no.
    pub is_causal: Option<bool>,
    pub attention_bias: Option<bool>,
    pub mlp_bias: Option<bool>,
    pub sliding_window: Option<usize>,
    pub use_sliding_window: Option<bool>,
    pub max_window_layers: Option<usize>,
    pub layer_types: Option<Vec<String>>,
    pub initializer_range: Option<f64>,
    /// Only where a text begins that the model writes by itself: odd ones do not matter otherwise.
    pub bos_token_id: Option<Value>,
    #[serde(default)]
    pub eos_token_id: TokenIds,
    pub quantization_config: Option<Value>,
    /// The whole file, for what only one family reads.
    #[serde(skip)]
    own: Value,
}

/// One width for all layers, or one for each, which only this library writes.
#[derive(Deserialize, Clone)]
#[serde(untagged, expecting = "intermediate_size must be a whole number or a list of them")]
pub(super) enum Widths {
    One(usize),
    Each(Vec<usize>),
}

impl Widths {
    fn all(&self) -> &[usize] {
        match self {
            Self::One(width) => std::slice::from_ref(width),
            Self::Each(widths) => widths,
        }
    }

    /// The widths of all layers, if they differ.
    fn each(&self) -> Option<Vec<usize>> {
        let widths = self.all();
        let differ = widths.iter().any(|width| *width != widths[0]);
        differ.then(|| widths.to_vec())
    }

    fn largest(&self) -> usize {
        self.all().iter().copied().max().unwrap_or(0)
    }
}

/// One token id, several, or none.
#[derive(Deserialize, Default, Clone)]
#[serde(untagged, expecting = "eos_token_id must be a token id or a list of them")]
pub(super) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
    #[default]
    None,
}

fn silu() -> String {
    "silu".into()
}

/// No model is larger than this in any dimension. The bound keeps later products from overflowing.
pub(super) const LARGEST: usize = 1 << 24;

/// No model has more layers than this. The bound keeps small files from describing millions of them,
/// each of which takes a kilobyte even without weights.
const MOST_LAYERS: usize = 10_000;

/// The most numbers in all query heads of a token; wider ones do not exist either.
pub(super) const WIDEST_HEADS: usize = 1 << 28;

impl DecoderConfig {
    /// Reads the text of a Hugging Face `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for unknown architectures, variants that are not implemented, and invalid
    /// values.
    pub fn from_hf_json(text: &str) -> Result<Self, ConfigError> {
        let json = |error: serde_json::Error| ConfigError::Json(in_words(&error));
        let mut value: Value = serde_json::from_str(text).map_err(json)?;
        if let Value::Object(config) = &mut value {
            restore_base(config);
        }
        // The architecture is checked first: naming it helps more than naming a missing field.
        let Some(model_type) = value.get("model_type").and_then(Value::as_str) else {
            return Err(ConfigError::Json("it has no `model_type`".into()));
        };
        if let Some(problem) = value.as_object().and_then(lost_base) {
            return Err(ConfigError::LostBase { model_type: model_type.into(), problem });
        }
        let family = family_of(model_type)?;
        match family.fields() {
            // Parsing the text again lets errors name the line.
            [] => drop(serde_json::from_str::<HfConfig>(text).map_err(json)?),
            fields => rename(&mut value, fields),
        }
        family.prepare(&mut value);
        check_nests(&value)?;
        fill(&mut value, family.defaults());
        let mut hf: HfConfig = serde_json::from_value(value.clone()).map_err(json)?;
        hf.own = value;
        hf.check_supported(family)?;
        hf.check_sizes()?;
        family.describe(&hf)
    }
}

/// Sizes that a family has other names for may have their usual ones, too.
const ALSO_USUAL: [&str; 4] =
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"];

/// Gives fields the names that most families have for them. A field that has the usual name, where the
/// family has another one for it, is none of the family's: transformers does not read it.
fn rename(config: &mut Value, fields: &[(&str, &str)]) {
    for (own, usual) in fields {
        match config.get(own).filter(|value| !value.is_null()).cloned() {
            Some(value) => config[*usual] = value,
            None if ALSO_USUAL.contains(usual) => {}
            None => drop(config.as_object_mut().map(|config| config.remove(*usual))),
        }
    }
}

/// Adds the defaults of the fields that a configuration lacks.
fn fill(config: &mut Value, defaults: Value) {
    if let (Value::Object(config), Value::Object(defaults)) = (config, defaults) {
        for (field, value) in defaults {
            config.entry(field).or_insert(value);
        }
    }
}

/// Whether a `config.json` says which tokens end a text.
pub(super) fn states_end(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|config| config.get("eos_token_id").is_some())
}

/// The family that a `config.json` names; empty if it names none.
pub(super) fn model_type_in(text: &str) -> String {
    let config = serde_json::from_str::<Value>(text).unwrap_or_default();
    config.get("model_type").and_then(Value::as_str).unwrap_or_default().into()
}

impl HfConfig {
    fn check_supported(&self, family: &dyn Family) -> Result<(), ConfigError> {
        if self.is_causal == Some(false) {
            let supported = "true: each token sees those before it";
            return Err(unsupported("is_causal", "false", supported));
        }
        let in_part = self.rotated_share().filter(|factor| *factor != 1.0);
        if let Some(factor) = in_part.filter(|_| !family.rotates_in_part()) {
            return Err(unsupported("partial_rotary_factor", factor.to_string(), "1"));
        }
        match &self.quantization_config {
            Some(config) if !config.is_null() && !has_scales(config) => {
                let supported = "F32, F16, BF16, and F8_E4M3 with scales";
                Err(unsupported("quantization_config", "a quantized checkpoint", supported))
            }
            _ => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", Some(self.vocab_size)),
            ("hidden_size", Some(self.hidden_size)),
            ("num_attention_heads", Some(self.num_attention_heads)),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("sliding_window", self.sliding_window),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, size) in sizes {
            check_count(field, size.unwrap_or(1), LARGEST)?;
        }
        check_count("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS)?;
        self.check_widths()?;
        check_count("head_dim", self.head_width(), WIDEST_HEADS / self.num_attention_heads)?;
        let (heads, kv) = (self.num_attention_heads, self.kv_heads());
        if !heads.is_multiple_of(kv) {
            return Err(invalid(
                "num_key_value_heads",
                format!("{kv} does not divide `num_attention_heads` {heads}"),
            ));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            return Err(invalid("hidden_size", format!("not a multiple of the {heads} heads")));
        }
        if !self.head_width().is_multiple_of(2) {
            return Err(invalid("head_dim", format!("{} is odd", self.head_width())));
        }
        Ok(())
    }

    fn check_widths(&self) -> Result<(), ConfigError> {
        let (widths, layers) = (self.intermediate_size.all(), self.num_hidden_layers);
        if let Widths::Each(widths) = &self.intermediate_size
            && widths.len() != layers
        {
            let reason = format!("{} widths are not one for each of {layers} layers", widths.len());
            return Err(invalid("intermediate_size", reason));
        }
        widths.iter().try_for_each(|width| check_count("intermediate_size", *width, LARGEST))
    }

    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Longest context, in tokens, before rotary positions are scaled in the model.
    pub fn context(&self) -> usize {
        // What is the same in all families is here, the rest in `Family::defaults`.
        self.max_position_embeddings.unwrap_or(2048)
    }

    /// The part that all families have in common, with no biases in attention and no sliding
    /// window.
    pub fn describe(&self) -> Result<DecoderConfig, ConfigError> {
        self.describe_layers(None)
    }

    /// The same, where rotary positions may differ between types of layers: those of `layer_type`.
    pub fn describe_layers(&self, layer_type: Option<&str>) -> Result<DecoderConfig, ConfigError> {
        let (theta, scaling) = self.rope(layer_type, self.rope_theta.unwrap_or(10000.0))?;
        self.windows()?;
        let config = DecoderConfig::new(
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size.largest(),
            self.num_hidden_layers,
            self.num_attention_heads,
            self.kv_heads(),
            self.head_width(),
        );
        Ok(config
            .with_rms_norm_eps(positive("rms_norm_eps", self.rms_norm_eps.unwrap_or(1e-6))?)
            .with_rope_theta(theta)
            .with_rope_scaling(scaling)
            .with_max_position_embeddings(self.context())
            .with_tie_word_embeddings(self.tie_word_embeddings.unwrap_or(false))
            .with_mlp_bias(self.mlp_bias.unwrap_or(false))
            .with_activation(activation(self.name_of("hidden_act"), &self.hidden_act)?)
            .with_rotary_width(self.rotary_width()?)
            .with_intermediate_sizes(self.intermediate_size.each())
            .with_initializer_range(self.initializer_range.unwrap_or(0.02))
            .with_bos_token_id(self.first_token())
            .with_eos_token_ids(self.eos_token_id.clone().into()))
    }

    /// The token that begins a text, if it is one of the vocabulary.
    fn first_token(&self) -> Option<u32> {
        let id = u32::try_from(self.bos_token_id.as_ref()?.as_u64()?).ok()?;
        ((id as usize) < self.vocab_size).then_some(id)
    }

    /// Adds the biases of all matrices of attention if `attention_bias` says so, as it does in most
    /// families.
    pub fn with_attention_biases(&self, config: DecoderConfig) -> DecoderConfig {
        let bias = self.attention_bias.unwrap_or(false);
        config.with_qkv_bias(bias).with_output_bias(bias)
    }

    /// Adds the sliding window as [`with_window`](Self::with_window) does if `use_sliding_window` says
    /// so.
    pub fn with_used_window(
        &self,
        config: DecoderConfig,
        first: usize,
    ) -> Result<DecoderConfig, ConfigError> {
        match self.use_sliding_window {
            Some(true) => self.with_window(config, first),
            _ => Ok(config),
        }
    }

    /// Adds the sliding window on every layer from number `first` on, or on the layers that
    /// `layer_types` names.
    pub fn with_window(
        &self,
        config: DecoderConfig,
        first: usize,
    ) -> Result<DecoderConfig, ConfigError> {
        let from_first = (0..self.num_hidden_layers).map(|layer| layer >= first).collect();
        self.with_windows(config, from_first)
    }

    /// Adds the sliding window on the layers that `layer_types` names; without it, on those for
    /// which `otherwise` is true.
    pub fn with_windows(
        &self,
        config: DecoderConfig,
        otherwise: Vec<bool>,
    ) -> Result<DecoderConfig, ConfigError> {
        let windows = self.windows()?.unwrap_or(otherwise);
        let layers = self.num_hidden_layers;
        let first = windows.iter().position(|window| *window).unwrap_or(layers);
        let window = self.sliding_window.filter(|_| first < layers);
        let is_mixed = window.is_some() && !windows.iter().skip(first).all(|window| *window);
        Ok(config
            .with_sliding_window(window)
            .with_first_window_layer(first)
            .with_window_layers(is_mixed.then_some(windows)))
    }

    /// Whether each layer has the sliding window, if there are `layer_types`.
    fn windows(&self) -> Result<Option<Vec<bool>>, ConfigError> {
        let Some(types) = &self.layer_types else { return Ok(None) };
        let layers = self.num_hidden_layers;
        if types.len() != layers {
            let reason = format!("{} types are not one for each of {layers} layers", types.len());
            return Err(invalid("layer_types", reason));
        }
        let in_window = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(false),
            "sliding_attention" => Ok(true),
            kind => Err(unsupported("layer_types", kind, "full_attention and sliding_attention")),
        };
        types.iter().map(in_window).collect::<Result<_, _>>().map(Some)
    }

    /// The fields that only one family reads.
    pub fn own<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        serde_json::from_value(self.own.clone()).map_err(|e| ConfigError::Json(in_words(&e)))
    }

    /// What the file calls a field with this usual name.
    fn name_of(&self, usual: &'static str) -> &'static str {
        let family = self.own["model_type"].as_str().and_then(|name| family_of(name).ok());
        let mut fields = family.into_iter().flat_map(|family| family.fields());
        let own = fields.find(|(own, name)| *name == usual && !self.own[*own].is_null());
        own.map_or(usual, |(own, _)| *own)
    }

    /// How many channels of a head are rotated, if not all are.
    fn rotary_width(&self) -> Result<Option<usize>, ConfigError> {
        let Some(factor) = self.rotated_share().filter(|factor| *factor != 1.0) else {
            return Ok(None);
        };
        let width = (self.head_width() as f64 * factor) as usize;
        let fits = width.is_multiple_of(2) && (2..=self.head_width()).contains(&width);
        match fits {
            true => Ok(Some(width)),
            false => {
                let reason = format!(
                    "{factor} of {} channels is not an even number of them",
                    self.head_width()
                );
                Err(invalid("partial_rotary_factor", reason))
            }
        }
    }
}

/// The tokens that end a text, from a `generation_config.json`.
pub(super) fn stop_tokens(json: &[u8]) -> Result<Vec<u32>, ConfigError> {
    #[derive(Deserialize)]
    struct Generation {
        #[serde(default)]
        eos_token_id: TokenIds,
    }
    let generation: Generation =
        serde_json::from_slice(json).map_err(|error| ConfigError::Json(in_words(&error)))?;
    Ok(generation.eos_token_id.into())
}

impl From<TokenIds> for Vec<u32> {
    fn from(ids: TokenIds) -> Self {
        match ids {
            TokenIds::One(id) => vec![id],
            TokenIds::Many(ids) => ids,
            TokenIds::None => Vec::new(),
        }
    }
}

/// The activation of this name, which a field states.
pub(super) fn activation(field: &'static str, name: &str) -> Result<Activation, ConfigError> {
    Activation::named(name).ok_or_else(|| unsupported(field, name, KNOWN))
}
