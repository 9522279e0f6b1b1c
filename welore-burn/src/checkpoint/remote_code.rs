//! Compressed directories in transformers: the code that runs them there, and what their `config.json`
//! says for it. Without that code they must not load: transformers takes factors for tensors that do
//! not belong to the model, and draws the matrices at random.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use super::reader::Checkpoint;
use super::stored::StoredMatrix;
use crate::files::{FileError, LARGEST_CONFIG, read_existing, write_file};

/// The code that transformers runs.
const CODE: &str = include_str!("modeling_welore.py");

/// File name of that code in a compressed model directory.
pub const CODE_FILE: &str = "modeling_welore.py";

const CONFIG_FILE: &str = "config.json";

/// The field that is only in the `config.json` of a compressed directory.
const KEY: &str = "welore";

/// The fields of it that list matrices, by what their forms are called there.
const FORMS: [&str; 2] = ["factors", "pivots"];

/// The fields that are others there than in that of its base, which are kept in `welore.base`.
const REPLACED: [&str; 3] = ["architectures", "auto_map", "model_type"];

/// The classes in the code for transformers' own.
const CLASSES: [(&str, &str); 3] = [
    ("AutoConfig", "modeling_welore.WeLoreConfig"),
    ("AutoModel", "modeling_welore.WeLoreModel"),
    ("AutoModelForCausalLM", "modeling_welore.WeLoreForCausalLM"),
];

/// Makes a directory one that transformers either runs as it is stored or refuses, if it has matrices
/// that are not dense. Its weights and the `config.json` of its base are there already.
///
/// The `model_type` there becomes one that transformers does not know, so that it is not taken for a
/// dense model. Where all such matrices are linear layers in two factors or with pivots, the directory also
/// gets the file `modeling_welore.py`, which runs it with `trust_remote_code=True`, and the fields that
/// name it. A directory without a `config.json`, and a dense one, stay as they are.
///
/// # Errors
///
/// [`CheckpointError`] for a directory that cannot be read or written.
pub fn state_compressed(dir: &Path) -> Result<(), CheckpointError> {
    let Some(bytes) = base_config(dir)? else { return Ok(()) };
    let checkpoint = Checkpoint::open(dir)?;
    let compressed = checkpoint.compressed_matrices()?;
    let Ok(mut config) = serde_json::from_slice::<Map<String, Value>>(&bytes) else {
        return Ok(());
    };
    if compressed.is_empty() {
        return Ok(());
    }
    let mut base = Map::new();
    for field in REPLACED {
        if let Some(value) = config.remove(field) {
            base.insert(field.into(), value);
        }
    }
    let model_type = base.get("model_type").and_then(Value::as_str);
    let new_type = model_type.map_or_else(|| KEY.into(), |name| format!("{KEY}_{name}"));
    config.insert("model_type".into(), new_type.into());
    config.insert("architectures".into(), json!(["WeLoreForCausalLM"]));
    let mut own = Map::from_iter([("base".to_string(), Value::Object(base))]);
    let has_one_width = !config.get("intermediate_size").is_some_and(Value::is_array);
    let ranks = ranks_of(&checkpoint, &compressed).filter(|_| has_one_width);
    if let Some(ranks) = ranks {
        own.extend(ranks);
        let classes = CLASSES.map(|(auto, class)| (auto.to_string(), Value::from(class)));
        config.insert("auto_map".into(), Value::Object(Map::from_iter(classes)));
        write_file(dir.join(CODE_FILE), CODE.as_bytes())?;
    }
    config.insert(KEY.into(), Value::Object(own));
    Ok(write_file(dir.join(CONFIG_FILE), text_of(config).as_bytes())?)
}

/// Whether a compressed directory has the `config.json` of its base, as earlier versions wrote it, so
/// that transformers takes it for a dense model.
///
/// # Errors
///
/// [`CheckpointError`] for a directory that cannot be read.
pub fn passes_for_dense(checkpoint: &Checkpoint) -> Result<bool, CheckpointError> {
    let bytes = read_existing(checkpoint.dir().join(CONFIG_FILE), LARGEST_CONFIG)?;
    let config = bytes.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok());
    let lacks_it = config.is_some_and(|config| !config.contains_key(KEY));
    Ok(lacks_it && !checkpoint.compressed_matrices()?.is_empty())
}

/// The ranks of matrices by their names, under their forms, if the code has layers for all of them.
fn ranks_of(checkpoint: &Checkpoint, matrices: &[StoredMatrix]) -> Option<Map<String, Value>> {
    let mut forms = FORMS.map(|form| (form, Map::new()));
    for matrix in matrices {
        if checkpoint.is_convolution(&matrix.name) {
            return None;
        }
        let form = matrix.form.in_transformers()?;
        let (_, ranks) = forms.iter_mut().find(|(known, _)| *known == form)?;
        ranks.insert(matrix.name.as_str().into(), matrix.form.rank()?.into());
    }
    Some(forms.into_iter().map(|(form, ranks)| (form.into(), Value::Object(ranks))).collect())
}

/// The `config.json` of a model directory, if there is one; in a compressed directory that of its base.
/// It names no code in files beside it. Everything that reads it for the model reads it here.
///
/// # Errors
///
/// [`FileError`] for a file that cannot be read or is too large.
pub(crate) fn base_config(dir: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = read_existing(dir.join(CONFIG_FILE), LARGEST_CONFIG)?;
    let as_of_base = |bytes: Vec<u8>| {
        let change = |config: &mut Map<String, Value>| restore_base(config) | forget_code(config);
        changed(&bytes, change).unwrap_or(bytes)
    };
    Ok(bytes.map(as_of_base))
}

/// Turns the `config.json` of a compressed directory into that of its base. Whether it was one, and says
/// what its base is.
pub(crate) fn restore_base(config: &mut Map<String, Value>) -> bool {
    let states_base = config.get(KEY).and_then(|own| own.get("base")).is_some_and(Value::is_object);
    if !states_base || lost_base(config).is_some() {
        return false;
    }
    let own = config.remove(KEY).unwrap_or_default();
    for field in REPLACED {
        match own["base"].get(field) {
            Some(value) => config.insert(field.into(), value.clone()),
            None => config.remove(field),
        };
    }
    true
}

/// What is wrong with `welore.base` in the `config.json` of a compressed directory, as a predicate:
/// `is missing`. `None` if nothing is, or if it is no such configuration.
pub(crate) fn lost_base(config: &Map<String, Value>) -> Option<&'static str> {
    let own_type = config.get("model_type")?.as_str()?;
    let base_type = own_type.strip_prefix(KEY)?;
    // That of a base without a `model_type` is the key alone.
    let base_type = match base_type.strip_prefix('_') {
        None if !base_type.is_empty() => return None,
        base_type => base_type,
    };
    let states =
        |base: &Map<String, Value>| base.get("model_type").and_then(Value::as_str) == base_type;
    match config.get(KEY).and_then(|own| own.get("base")) {
        None => Some("is missing"),
        Some(Value::Object(base)) if states(base) => None,
        Some(Value::Object(_)) => Some("states another `model_type`"),
        Some(_) => Some("is no object"),
    }
}

/// Takes out of a configuration what names code in files beside it, which are never copied. What names
/// code in a repository of the Hub stays. Whether there was any.
pub(super) fn forget_code(config: &mut Map<String, Value>) -> bool {
    let Some(Value::Object(classes)) = config.get_mut("auto_map") else { return false };
    let before = classes.len();
    classes.retain(|_, class| is_on_the_hub(class));
    let left = classes.len();
    if left == 0 {
        config.remove("auto_map");
    }
    left < before
}

/// Whether a class of remote code, or each of several, is in a repository of the Hub.
fn is_on_the_hub(class: &Value) -> bool {
    match class {
        Value::String(name) => name.contains("--"),
        Value::Array(classes) => classes.iter().all(is_on_the_hub),
        value => value.is_null(),
    }
}

/// A configuration with a change made to it; `None` if there was nothing to change.
pub(super) fn changed(
    config: &[u8],
    change: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Option<Vec<u8>> {
    let mut config = serde_json::from_slice(config).ok()?;
    change(&mut config).then(|| text_of(config).into_bytes())
}

fn text_of(config: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_is_lost_is_not_restored() {
        let llama = json!({ "base": { "model_type": "llama" } });
        for (model_type, own, lost) in [
            ("welore_llama", llama.clone(), None),
            ("welore", json!({ "base": {} }), None),
            ("llama", json!({}), None),
            ("weloreish", json!({}), None),
            ("welore_llama", json!(null), Some("is missing")),
            ("welore", json!({}), Some("is missing")),
            ("welore_llama", json!({ "base": "llama" }), Some("is no object")),
            ("welore_llama", json!({ "base": {} }), Some("states another `model_type`")),
            ("welore_mistral", llama, Some("states another `model_type`")),
        ] {
            let fields = [("model_type", model_type.into()), (KEY, own)];
            let fields = fields.map(|(field, value)| (field.to_string(), value));
            let mut config = Map::from_iter(fields);
            assert_eq!(lost_base(&config), lost, "{config:?}");
            let before = config.clone();
            let is_restored = restore_base(&mut config);
            assert_eq!(is_restored, config != before, "{before:?}");
            assert!(lost.is_none() || !is_restored, "{before:?}");
        }
    }
}
