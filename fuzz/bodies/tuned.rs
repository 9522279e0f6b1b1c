//! What tuning a model leaves beside it: adapters and changes.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use welore_burn::adapters::{LoraAdapter, LoraMatrix};
use welore_burn::changes::{Changes, SavedChanges};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::modules::MatrixName;

use super::{FACTORED, directory};

/// A small adapter, in a directory of its own.
pub fn adapter_fixture() -> TempDir {
    let dir = directory(&[]);
    let numbers = |count: usize| (0..count).map(|n| n as f32 / 8.0).collect();
    let matrix =
        |rank: usize| LoraMatrix::new([3, 4], rank, numbers(4 * rank), numbers(3 * rank), 0.5);
    let names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    let matrices = names
        .iter()
        .zip([1, 2])
        .map(|(name, rank)| (MatrixName::from(*name), matrix(rank).expect("its numbers fit")));
    let adapter = LoraAdapter { matrices: matrices.collect(), ..LoraAdapter::default() };
    adapter.save(dir.path().join("adapter"), false).expect("there is room");
    dir
}

/// Whether there is an adapter, which is then written and read again.
fn adapter_in(dir: &Path) -> bool {
    let Ok(adapter) = LoraAdapter::open(dir.join("adapter")) else { return false };
    assert!(!adapter.matrices.is_empty());
    let again = dir.join("again");
    // A scale may be beyond what another one leaves of f32.
    if adapter.save(&again, false).is_ok() {
        let read = LoraAdapter::open(&again).expect("what is written can be read");
        assert!(read.matrices.keys().eq(adapter.matrices.keys()));
        for (one, other) in read.matrices.values().zip(adapter.matrices.values()) {
            assert_eq!(
                (one.shape(), one.rank(), one.a()),
                (other.shape(), other.rank(), other.a())
            );
            assert!(one.scale().is_finite() && other.scale().is_finite());
        }
    }
    true
}

/// `adapter_model.safetensors` of an adapter.
pub fn adapter(data: &[u8]) -> bool {
    let dir = adapter_fixture();
    fs::write(dir.path().join("adapter/adapter_model.safetensors"), data).expect("there is room");
    adapter_in(dir.path())
}

/// `adapter_config.json` of one.
pub fn adapter_config(data: &[u8]) -> bool {
    let dir = adapter_fixture();
    fs::write(dir.path().join("adapter/adapter_config.json"), data).expect("there is room");
    adapter_in(dir.path())
}

/// A small model, `base`, one with another number, `tuned`, and what was changed, `changes`.
pub fn changes_fixture() -> TempDir {
    let mut tuned = FACTORED.to_vec();
    if let Some(last) = tuned.last_mut() {
        *last ^= 1;
    }
    let models = [("base/model.safetensors", FACTORED), ("tuned/model.safetensors", &tuned[..])];
    let dir = directory(&models);
    let open = |name: &str| Checkpoint::open(dir.path().join(name)).expect("it is a whole model");
    let (base, tuned) = (open("base"), open("tuned"));
    let changes = Changes::between(&base, &tuned, &mut ()).expect("one number differs");
    changes.save(dir.path().join("changes"), false).expect("there is room");
    dir
}

/// `export --changes-of`: what is applied to the base makes the tuned model of it.
pub fn changes(data: &[u8]) -> bool {
    let dir = changes_fixture();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("changes/welore_changes.json"), data).expect("there is room");
    let Ok(saved) = SavedChanges::open(path("changes")) else { return false };
    let open = |name: &str| Checkpoint::open(path(name)).expect("it is a whole model");
    if let Ok(applied) = saved.applied_to(open("base"), &mut ()) {
        let tuned = open("tuned");
        assert!(applied.names().eq(tuned.names()));
        for name in tuned.names() {
            let content = |of: &Checkpoint| of.content(name).expect("it is listed").1.into_owned();
            assert!(content(&applied) == content(&tuned), "{name}");
        }
    }
    true
}
