//! `--adapter`: a LoRA adapter of the PEFT library on a model.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::Value;
use welore_burn::adapters::LoraAdapter;
use welore_burn::files::FileError;
use welore_burn::model::{LoadedModel, OpenedModel};

use super::artifacts::in_file;
use super::opening::open_known;
use crate::devices::Compute;
use crate::models;
use crate::terminal::Bar;

/// The directory of a model that is only run, the model in it, and the adapter that may be given; no
/// weights are read yet. With an adapter, the matrices of a `.gguf` file become numbers, since nothing can
/// be added to blocks.
pub fn open(
    model: &Path,
    adapter: Option<&Path>,
    compute: &Compute,
) -> Result<(PathBuf, OpenedModel, Option<LoraAdapter>)> {
    let dir = match adapter {
        Some(_) => models::directory_of(model)?,
        None => models::directory_to_run(model, compute)?,
    };
    let opened = open_known(&dir, &compute.device)?;
    let adapter = adapter.map(|adapter| open_adapter(adapter, &opened)).transpose()?;
    Ok((dir, opened, adapter))
}

/// Reads the adapter in a directory, and checks that it fits a model, whose weights are not read yet.
pub fn open_adapter(dir: &Path, opened: &OpenedModel) -> Result<LoraAdapter> {
    let adapter = LoraAdapter::open(dir)?;
    let adapter = in_file(adapter.for_checkpoint(&opened.checkpoint), dir)?;
    in_file(adapter.check_module(opened.skeleton()), dir)?;
    Ok(adapter)
}

/// Loads a model, with its adapter if there is one.
pub fn load(
    opened: OpenedModel,
    dtype: FloatDType,
    adapter: Option<LoraAdapter>,
) -> Result<LoadedModel> {
    let mut loaded = opened.load(dtype, |_| false, &mut Bar::default())?;
    if let Some(adapter) = adapter {
        loaded.model = adapter.apply(loaded.model)?;
    }
    Ok(loaded)
}

/// Says in a result that it is that of a model with an adapter.
pub fn note_adapter(adapter: Option<&Path>, result: &mut Value) {
    if let Some(adapter) = adapter {
        result["adapter"] = adapter.display().to_string().into();
    }
}

/// Says that an adapter belongs to the model in a directory, so that PEFT can load that: by its id and
/// revision on the Hub, or by its path.
pub fn named_after(adapter: LoraAdapter, dir: &Path) -> Result<LoraAdapter> {
    let dir = dir.canonicalize().map_err(FileError::io(dir))?;
    let (base, revision) = match in_hub(&dir) {
        Some((id, revision)) => (id, Some(revision)),
        None => (dir.display().to_string(), None),
    };
    Ok(LoraAdapter { base: Some(base), revision, ..adapter })
}

/// The id and the revision of a model in the cache of the Hub: `org/name` and `REVISION` for
/// `models--org--name/snapshots/REVISION`.
fn in_hub(dir: &Path) -> Option<(String, String)> {
    let names: Vec<&str> = dir
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let [.., model, "snapshots", revision] = names[..] else { return None };
    let name = model.strip_prefix("models--")?;
    Some((name.replace("--", "/"), revision.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_in_the_cache_of_the_hub_have_their_ids_and_revisions() {
        let found = |dir: &str| in_hub(Path::new(dir));
        let cached = "/home/me/.cache/huggingface/hub/models--org--tiny/snapshots/0123";
        assert_eq!(found(cached), Some(("org/tiny".into(), "0123".into())));
        for other in ["/models/tiny", "/snapshots/tiny", "/models--org--tiny/blobs/0123"] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
