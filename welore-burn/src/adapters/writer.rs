use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::error::AdapterError;
use super::lora::{A, B, LoraAdapter};
use super::pattern::{ends, key_of};
use super::reader::{CONFIG_FILE, PREFIX, WEIGHTS_FILE};
use crate::files::{OutputDir, write_file};
use crate::modules::MatrixName;

impl LoraAdapter {
    /// Writes the directory of an adapter that PEFT, transformers, vLLM and llama.cpp's converter read;
    /// it appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`AdapterError::File`], and those of [`write`](LoraAdapter::write).
    pub fn save(&self, dir: impl AsRef<Path>, replace: bool) -> Result<(), AdapterError> {
        let output = OutputDir::create(dir, replace)?;
        self.write(output.path()).map_err(|error| error.about(&output))?;
        Ok(output.commit()?)
    }

    /// Writes both files into a directory, such as that of an [`OutputDir`] that is not committed yet.
    ///
    /// One `lora_alpha` serves all matrices, so that programs compute the same which know no other scale
    /// than `lora_alpha / rank`: a matrix with another scale has the rest in its `B`, rounded to f32.
    ///
    /// # Errors
    ///
    /// [`AdapterError::File`]; [`AdapterError::Matrix`] for a scale with which an entry does not fit f32;
    /// [`AdapterError::Broken`] without any matrix.
    pub fn write(&self, dir: &Path) -> Result<(), AdapterError> {
        let path = dir.join(WEIGHTS_FILE);
        let broken = |reason: String| AdapterError::Broken { path: path.clone(), reason };
        if self.matrices.is_empty() {
            return Err(broken("it would change no matrix".into()));
        }
        let alpha = self.alpha();
        let mut tensors: Vec<(String, Numbers<'_>)> = Vec::new();
        for (name, matrix) in &self.matrices {
            let (rank, [outputs, inputs]) = (matrix.rank(), matrix.shape());
            let b = matrix.b_at(alpha / rank as f64).map_err(|problem| AdapterError::Matrix {
                path: path.clone(),
                matrix: name.clone(),
                problem,
            })?;
            let a = Numbers { shape: [rank, inputs], values: Cow::Borrowed(matrix.a()) };
            tensors.push((tensor_name(name, A), a));
            tensors.push((tensor_name(name, B), Numbers { shape: [outputs, rank], values: b }));
        }
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        let file = safetensors::serialize(tensors, Some(format));
        write_file(&path, &file.map_err(|error| broken(error.to_string()))?)?;
        let config = format!("{:#}\n", self.config(alpha));
        Ok(write_file(dir.join(CONFIG_FILE), config.as_bytes())?)
    }

    /// `adapter_config.json`.
    fn config(&self, alpha: f64) -> Value {
        let rank = self.most_frequent_rank();
        let names = self.matrices.keys().map(MatrixName::as_str);
        let inner: HashSet<&str> = names.flat_map(|name| ends(name).skip(1)).collect();
        // A key also matches names that end like it.
        let key = |name: &str| match inner.contains(name) {
            true => format!("^{}", key_of(name)),
            false => key_of(name),
        };
        let others = self.matrices.iter().filter(|(_, matrix)| matrix.rank() != rank);
        let others: BTreeMap<String, usize> =
            others.map(|(name, matrix)| (key(name.as_str()), matrix.rank())).collect();
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "revision": self.revision,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": number(alpha),
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": self.targets(),
            "rank_pattern": others,
            "alpha_pattern": {},
            "fan_in_fan_out": self.turned,
            "use_rslora": false,
            "use_dora": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
        })
    }

    fn most_frequent_rank(&self) -> usize {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for matrix in self.matrices.values() {
            *counts.entry(matrix.rank()).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(rank, count)| (*count, *rank)).map_or(1, |(rank, _)| rank)
    }

    /// The last parts of the names, such as `q_proj`, if all layers up to the last one have the same
    /// matrices; else all names, since a layer that was left out has such matrices, too.
    fn targets(&self) -> BTreeSet<&str> {
        let mut numbers: BTreeMap<String, BTreeSet<Vec<u64>>> = BTreeMap::new();
        for name in self.matrices.keys() {
            let (stem, found) = without_numbers(name.as_str());
            numbers.entry(stem).or_default().insert(found);
        }
        let mut sets = numbers.values();
        let is_alike = sets.next().is_some_and(|first| {
            let counted = (0..first.len() as u64).map(|number| vec![number]);
            first.iter().cloned().eq(counted) && sets.all(|set| set == first)
        });
        let names = self.matrices.keys();
        match is_alike {
            true => names.map(MatrixName::kind).collect(),
            false => names.map(MatrixName::as_str).collect(),
        }
    }
}

/// A name with its numbers apart.
fn without_numbers(name: &str) -> (String, Vec<u64>) {
    let mut numbers = Vec::new();
    let words = name.split('.').map(|word| match word.parse() {
        Ok(number) => {
            numbers.push(number);
            "*"
        }
        Err(_) => word,
    });
    let stem = words.collect::<Vec<_>>().join(".");
    (stem, numbers)
}

fn tensor_name(matrix: &MatrixName, part: &str) -> String {
    format!("{PREFIX}{}", matrix.part(&format!("{part}.weight")))
}

/// A tensor of a file, which becomes bytes when its turn comes.
struct Numbers<'a> {
    shape: [usize; 2],
    values: Cow<'a, [f32]>,
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(&*self.values)
    }
}

/// A whole number as such: PEFT says that `lora_alpha` is one.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}
