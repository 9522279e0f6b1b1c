//! PEFT's `adapter_config.json`.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::chosen::{Modules, texts};
use super::error::{AdapterError, LoraProblem, Refusal};
use super::pattern::{Entries, Table};
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
    /// The matrices that have adapters, where that is said.
    targets: Option<Modules>,
    /// The matrices that have none, where that is said.
    excluded: Option<Modules>,
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
        Ok(Self {
            base: fields.base_model_name_or_path.filter(|base| !base.is_empty()),
            revision: fields.revision.filter(|revision| !revision.is_empty()),
            turned: fields.fan_in_fan_out.unwrap_or(false),
            rank: fields.r,
            alpha: fields.lora_alpha.unwrap_or(DEFAULT_ALPHA),
            ranks: Table::new(fields.rank_pattern.unwrap_or_default())?,
            alphas: Table::new(fields.alpha_pattern.unwrap_or_default())?,
            of_root: fields.use_rslora.unwrap_or(false),
            targets: Modules::targets(&fields.target_modules)?,
            excluded: Modules::excluded(&fields.exclude_modules)?,
            layers: layers(&fields.layers_to_transform)?,
            before_layer: before_layer(&fields.layers_pattern)?,
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

    /// Refuses a matrix that PEFT would leave alone. Modules that are named and have no tensors are
    /// no mistake: PEFT takes what a model has of them.
    pub fn check_chosen(&self, name: &MatrixName) -> Result<(), Refusal> {
        if let Some(excluded) = &self.excluded
            && excluded.have(name.as_str())?
        {
            return Err(Refusal::Excluded(name.clone()));
        }
        if let Some(targets) = &self.targets
            && !targets.have(name.as_str())?
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

/// The numbers of `layers_to_transform`; `None` if it says nothing.
fn layers(value: &Value) -> Result<Option<HashSet<u64>>, Refusal> {
    if value.is_null() || value.as_array().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let numbers = match value {
        Value::Array(values) => values.iter().map(Value::as_u64).collect(),
        _ => value.as_u64().map(|number| HashSet::from([number])),
    };
    let (field, expected) = ("layers_to_transform", "a whole number, or a list of these");
    numbers.map(Some).ok_or(Refusal::Malformed { field, expected })
}

/// The names of `layers_pattern`; none if it says nothing.
fn before_layer(value: &Value) -> Result<HashSet<String>, Refusal> {
    match value {
        Value::Null => Ok(HashSet::new()),
        Value::String(name) => Ok([name.clone()].into_iter().filter(|n| !n.is_empty()).collect()),
        _ => texts("layers_pattern", "a name, or a list of these", value),
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
