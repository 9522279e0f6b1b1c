//! PEFT's `adapter_config.json`.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::{AdapterError, LoraProblem, Refusal};
use super::pattern::{Entries, Table, ends};
use crate::artifact::in_words;
use crate::files::{LARGEST_CONFIG, read_existing};
use crate::modules::MatrixName;

/// The fields that are read. PEFT adds fields all the time, and null stands for what they are by
/// default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    peft_type: Option<String>,
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    rank_pattern: Option<Entries>,
    alpha_pattern: Option<Entries>,
    target_modules: Value,
    exclude_modules: Value,
    modules_to_save: Value,
    layers_to_transform: Value,
    layers_pattern: Value,
    bias: Option<String>,
    lora_bias: Option<bool>,
    fan_in_fan_out: Option<bool>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    init_lora_weights: Value,
    layer_replication: Value,
    trainable_token_indices: Value,
    target_parameters: Value,
    use_qalora: Value,
    alora_invocation_tokens: Value,
    arrow_config: Value,
    use_bdlora: Value,
    kasa_config: Value,
    monteclora_config: Value,
}

/// How an adapter is to be applied.
#[derive(Debug)]
pub(super) struct Config {
    pub base: Option<String>,
    pub revision: Option<String>,
    pub turned: bool,
    rank: Option<usize>,
    alpha: f64,
    ranks: Table,
    alphas: Table,
    /// Whether scales are divided by the root of the rank.
    of_root: bool,
    /// The ends of the names of matrices that have adapters, where they are listed.
    targets: Option<HashSet<String>>,
    /// The ends of the names of matrices that have none, where they are listed.
    excluded: HashSet<String>,
    layers: Option<HashSet<u64>>,
    /// What is before the number of a layer, where that is said.
    before_layer: HashSet<String>,
}

/// What PEFT takes for `lora_alpha` if it is left out.
const DEFAULT_ALPHA: f64 = 8.0;

impl Config {
    /// Reads a file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, AdapterError> {
        let Some(text) = read_existing(path, LARGEST_CONFIG)? else { return Ok(None) };
        let broken = |reason: String| AdapterError::Broken {
            path: path.into(),
            reason: format!("not a configuration of PEFT: {reason}"),
        };
        // serde takes a list of the fields for an object.
        if text.trim_ascii_start().starts_with(b"[") {
            return Err(broken("it is a list, not an object".into()));
        }
        let fields: Fields =
            serde_json::from_slice(&text).map_err(|error| broken(in_words(&error)))?;
        let config = Self::of(fields);
        config.map(Some).map_err(|refusal| AdapterError::Refused { path: path.into(), refusal })
    }

    fn of(fields: Fields) -> Result<Self, Refusal> {
        fields.check_kind()?;
        fields.check_others()?;
        let list = |value: &Value| -> HashSet<String> {
            let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.chain(value.as_str()).map(String::from).collect()
        };
        let numbers = |value: &Value| -> HashSet<u64> {
            let numbers = value.as_array().into_iter().flatten().filter_map(Value::as_u64);
            numbers.chain(value.as_u64()).collect()
        };
        // A text is an expression for whole names, or "all-linear". The tensors say what it matched.
        let targets = fields.target_modules.is_array().then(|| list(&fields.target_modules));
        let excluded = Some(&fields.exclude_modules).filter(|modules| modules.is_array());
        let layers = &fields.layers_to_transform;
        Ok(Self {
            base: fields.base_model_name_or_path.filter(|base| !base.is_empty()),
            revision: fields.revision.filter(|revision| !revision.is_empty()),
            turned: fields.fan_in_fan_out.unwrap_or(false),
            rank: fields.r,
            alpha: fields.lora_alpha.unwrap_or(DEFAULT_ALPHA),
            ranks: Table::new(fields.rank_pattern.unwrap_or_default())?,
            alphas: Table::new(fields.alpha_pattern.unwrap_or_default())?,
            of_root: fields.use_rslora.unwrap_or(false),
            targets: targets.filter(|targets| !targets.is_empty()),
            excluded: excluded.map(list).unwrap_or_default(),
            layers: is_set(layers).then(|| numbers(layers)),
            before_layer: list(&fields.layers_pattern),
        })
    }

    /// The scale of the adapter of a matrix, which has this rank.
    pub fn scale(&self, name: &MatrixName, rank: usize) -> Result<f64, LoraProblem> {
        let stated = self.ranks.value(name.as_str()).map(|rank| rank as usize).or(self.rank);
        match stated {
            Some(stated) if stated != rank => {
                return Err(LoraProblem::OtherRank { found: rank, stated });
            }
            _ => {}
        }
        let alpha = self.alphas.value(name.as_str()).unwrap_or(self.alpha);
        Ok(match self.of_root {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        })
    }

    /// Refuses a matrix that PEFT would leave alone.
    pub fn check_chosen(&self, name: &MatrixName) -> Result<(), Refusal> {
        if ends(name.as_str()).any(|end| self.excluded.contains(end)) {
            return Err(Refusal::Excluded(name.clone()));
        }
        if let Some(targets) = &self.targets
            && !ends(name.as_str()).any(|end| targets.contains(end))
        {
            return Err(Refusal::NotTargeted(name.clone()));
        }
        match &self.layers {
            Some(layers) if !self.layer(name).is_some_and(|layer| layers.contains(&layer)) => {
                Err(Refusal::Layer(name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The number of the layer that a matrix is in, as PEFT finds it: the first number in its name, or
    /// that after a word of `layers_pattern`.
    fn layer(&self, name: &MatrixName) -> Option<u64> {
        let words: Vec<&str> = name.as_str().split('.').collect();
        let places = 1..words.len().saturating_sub(1);
        let is_after = |place: &usize| {
            self.before_layer.is_empty() || self.before_layer.contains(words[place - 1])
        };
        places.filter(is_after).find_map(|place| words[place].parse().ok())
    }
}

impl Fields {
    /// Refuses what is no plain LoRA.
    fn check_kind(&self) -> Result<(), Refusal> {
        let kind = self.peft_type.as_deref().unwrap_or("unknown");
        if !kind.eq_ignore_ascii_case("lora") {
            return Err(Refusal::PeftType(kind.into()));
        }
        if self.use_dora == Some(true) {
            return Err(Refusal::Dora);
        }
        match self.bias.as_deref() {
            None | Some("none") => {}
            Some(bias) => return Err(Refusal::Bias(format!("bias: {bias}"))),
        }
        if self.lora_bias == Some(true) {
            return Err(Refusal::Bias("lora_bias".into()));
        }
        if is_set(&self.modules_to_save) {
            let first = self.modules_to_save.get(0).unwrap_or(&self.modules_to_save);
            let first = first.as_str().map_or_else(|| first.to_string(), String::from);
            return Err(Refusal::ModulesToSave(first));
        }
        Ok(())
    }

    /// Refuses what changes the model in other ways.
    fn check_others(&self) -> Result<(), Refusal> {
        // These take the principal parts of weights out of the base, and the adapter adds them again.
        // Others only choose where training begins.
        if let Some(how) = self.init_lora_weights.as_str() {
            let begins = ["pissa", "olora", "loftq", "corda", "lora_ga"];
            let how_low = how.to_lowercase();
            if begins.iter().any(|start| how_low.starts_with(start)) {
                return Err(Refusal::ChangedBase(how.into()));
            }
        }
        let others = [
            ("layer_replication", &self.layer_replication),
            ("target_parameters", &self.target_parameters),
            ("use_qalora", &self.use_qalora),
            ("alora_invocation_tokens", &self.alora_invocation_tokens),
            ("arrow_config", &self.arrow_config),
            ("use_bdlora", &self.use_bdlora),
            ("kasa_config", &self.kasa_config),
            ("monteclora_config", &self.monteclora_config),
        ];
        if is_set(&self.trainable_token_indices) {
            return Err(Refusal::Embedding("trainable_token_indices".into()));
        }
        match others.into_iter().find(|(_, value)| is_set(value)) {
            Some((field, _)) => Err(Refusal::Field(field)),
            None => Ok(()),
        }
    }
}

/// Whether a field says something: null, false and empty lists do not.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    }
}
