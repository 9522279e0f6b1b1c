//! `--from-scratch`: models with random weights.

use std::path::{Path, PathBuf};

use anyhow::Result;
use safetensors::Dtype;
use welore_burn::data::TextTokenizer;
use welore_burn::files::OutputDir;
use welore_burn::forms::Precision;
use welore_burn::model::{DecoderConfig, read_config};
use welore_burn::modules::initialize;

use super::data::absolute_path;
use super::size::check_random;
use crate::devices::host;
use crate::failure::WrongInput;
use crate::shared::artifacts::read_artifact;
use crate::shared::writing::write_model;

/// The directory with a model's `config.json`; the file itself can be named instead.
pub fn described_in(from: &Path) -> &Path {
    match from.file_name() {
        Some(name) if name == "config.json" => match from.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        },
        _ => from,
    }
}

/// The configuration of a model with random weights, and the type that it is stored in. Checks that
/// everything such a model needs is available.
pub fn described_model(from: &Path) -> Result<(DecoderConfig, Dtype)> {
    let config = read_config(from)?;
    let dtype = stored_type(from)?;
    TextTokenizer::open(from)?;
    check_random(config.parameters())?;
    Ok((config, dtype))
}

/// Writes a model with random weights to `RUN/base`, as `config.json` in `from` describes it and in
/// the type that it names.
pub fn random_model(from: &Path, seed: u64, dir: &Path) -> Result<PathBuf> {
    let (config, dtype) = described_model(from)?;
    let model = config.init(&host());
    initialize(&model, seed);
    let base = dir.join("base");
    write_model(&model, |_| dtype, from, None, None, OutputDir::create(&base, false)?)?;
    absolute_path(&base)
}

/// The type in which a configuration stores weights.
fn stored_type(dir: &Path) -> Result<Dtype> {
    let config: serde_json::Value =
        serde_json::from_str(&read_artifact(&dir.join("config.json"))?)?;
    let name = ["dtype", "torch_dtype"].iter().find_map(|key| config[*key].as_str());
    match name {
        None => Ok(Precision::F32.dtype()),
        Some(name) => match Precision::of_torch_name(name) {
            Some(precision) => Ok(precision.dtype()),
            None => refuse(format!("config.json: weights of type `{name}` are not supported")),
        },
    }
}

fn refuse<T>(message: String) -> Result<T> {
    Err(WrongInput::new(message).into())
}
