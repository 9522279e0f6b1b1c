//! What training changed in a model directory: saved by itself, and applied to its base again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::changes::{Changes, ChangesError, SavedChanges, are_changes};
use welore_burn::checkpoint::{Checkpoint, CheckpointError};
use welore_burn::compress::{Conversion, WriteOptions, convert_directory};
use welore_burn::files::{FileError, OutputDir};
use welore_burn::plan::read_plan;

use crate::fixture;

const FACTOR: &str = "model.layers.1.mlp.up_proj.V.weight";
const NORM: &str = "model.norm.weight";

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Rewrites a safetensors file with other tensors in it.
fn edit(file: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = fs::read(file).unwrap();
    let tensor = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors =
        read.iter().map(|(name, view)| (name.to_string(), tensor(view))).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a copy of a fixture, `base`, and one with other numbers, `tuned`.
fn tuned(name: &str, is_changed: impl Fn(&str) -> bool) -> TempDir {
    let home = tempdir().unwrap();
    for copy in ["base", "tuned"] {
        let dir = home.path().join(copy);
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
    edit(&home.path().join("tuned/model.safetensors"), |tensors| {
        let changed = tensors.iter_mut().filter(|(name, _)| is_changed(name));
        // The lowest bits, which no difference in the same type keeps.
        changed.for_each(|(_, (_, _, data))| data.iter_mut().step_by(4).for_each(|x| *x ^= 1));
    });
    home
}

/// The same, whose factors and matrices of coefficients are others, with its changes in `changes`.
fn saved(name: &str) -> TempDir {
    let home = tuned(name, is_trained);
    save(home.path()).unwrap();
    home
}

fn is_trained(tensor: &str) -> bool {
    [".V.weight", ".U.weight", ".C.weight"].iter().any(|end| tensor.ends_with(end))
}

fn open(home: &Path, dir: &str) -> Checkpoint {
    Checkpoint::open(home.join(dir)).unwrap()
}

fn save(home: &Path) -> Result<(), ChangesError> {
    let (base, tuned) = (open(home, "base"), open(home, "tuned"));
    Changes::between(&base, &tuned, &mut ())?.save(home.join("changes"), false)
}

fn apply(home: &Path) -> Result<Checkpoint, ChangesError> {
    SavedChanges::open(home.join("changes"))?.applied_to(open(home, "base"), &mut ())
}

fn contents(checkpoint: &Checkpoint) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let content = |name: &str| {
        let (meta, bytes) = checkpoint.content(name).unwrap();
        (name.to_string(), meta.shape.clone(), bytes.to_vec())
    };
    checkpoint.names().map(content).collect()
}

/// Writes a checkpoint as it is, and opens what was written.
fn written(checkpoint: &Checkpoint, to: &Path) -> Checkpoint {
    let output = OutputDir::create(to, false).unwrap();
    let (as_it_is, options) = (Conversion::default(), WriteOptions::default());
    convert_directory(checkpoint, as_it_is, &output, &options, &mut ()).unwrap();
    output.commit().unwrap();
    Checkpoint::open(to).unwrap()
}

#[test]
fn tuned_factors_come_back_bit_by_bit() {
    for name in ["earlier/low", "earlier/pivot"] {
        let home = saved(name);
        let file = Checkpoint::open_file(home.path().join("changes/changes.safetensors")).unwrap();
        let (base, tuned) = (open(home.path(), "base"), open(home.path(), "tuned"));
        assert!(file.names().all(is_trained) && are_changes(home.path().join("changes")));
        assert_eq!(file.names().count(), base.names().filter(|name| is_trained(name)).count());

        let applied = apply(home.path()).unwrap();
        assert_ne!(contents(&base), contents(&tuned));
        assert_eq!(contents(&applied), contents(&tuned));
        let again = written(&applied, &home.path().join("again"));
        assert_eq!(contents(&again), contents(&tuned));
        // The digests, which other files refer to, are those of the tuned model, too.
        for tensor in tuned.names() {
            assert_eq!(applied.digest(tensor).unwrap(), tuned.digest(tensor).unwrap(), "{tensor}");
        }
        let dir = |name: &str| home.path().join(name);
        assert_eq!(read_plan(dir("again")).unwrap(), read_plan(dir("tuned")).unwrap());
    }
}

#[test]
fn changes_are_counted() {
    let home = tuned("earlier/low", |name| name == FACTOR || name == NORM);
    let (base, tuned) = (open(home.path(), "base"), open(home.path(), "tuned"));
    let changes = Changes::between(&base, &tuned, &mut ()).unwrap();
    let names: Vec<&str> = changes.tensors().iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, [FACTOR, NORM]);
    let parameters = 7 * 16 + 16;
    assert_eq!((changes.parameters(), changes.bytes()), (parameters, 2 * parameters));
}

/// GPT-2's matrices are `[in, out]` in files.
#[test]
fn turned_matrices_stay_turned() {
    let home = tuned("tiny-gpt2", |name| name.starts_with("transformer.h.0."));
    save(home.path()).unwrap();
    let file = Checkpoint::open_file(home.path().join("changes/changes.safetensors")).unwrap();
    assert_eq!(file.meta("transformer.h.0.mlp.c_fc.weight").unwrap().shape, [32, 40]);
    let (applied, tuned) = (apply(home.path()).unwrap(), open(home.path(), "tuned"));
    assert_eq!(contents(&applied), contents(&tuned));
    let again = written(&applied, &home.path().join("again"));
    let raw = |checkpoint: &Checkpoint, name: &str| checkpoint.raw(name).unwrap().1.to_vec();
    assert!(tuned.names().all(|name| raw(&again, name) == raw(&tuned, name)));
}

#[test]
fn another_base_is_refused() {
    // Also one that differs only where nothing was changed.
    for tensor in [FACTOR, NORM] {
        let home = saved("earlier/low");
        edit(&home.path().join("base/model.safetensors"), |tensors| {
            tensors.get_mut(tensor).unwrap().2[0] ^= 1;
        });
        let error = apply(home.path()).unwrap_err();
        assert!(
            matches!(&error, ChangesError::OtherBase { tensor: named, .. } if named == tensor),
            "{error}"
        );
    }
    let home = saved("earlier/low");
    let of_pivots = saved("earlier/pivot");
    let changes = SavedChanges::open(of_pivots.path().join("changes")).unwrap();
    let error = changes.applied_to(open(home.path(), "base"), &mut ()).unwrap_err();
    assert!(matches!(error, ChangesError::OtherBase { .. }), "{error}");
}

#[test]
fn models_of_other_tensors_are_refused() {
    type Edit = fn(&mut Tensors);
    let cases: [(Edit, &str); 4] = [
        (|tensors| drop(tensors.remove(NORM)), "tuned has no tensor `model.norm.weight`"),
        (
            |tensors| drop(tensors.insert("more".into(), (Dtype::BF16, vec![1], vec![0; 2]))),
            "base has no tensor `more`",
        ),
        (
            |tensors| drop(tensors.insert(NORM.into(), (Dtype::BF16, vec![17], vec![0; 34]))),
            "`model.norm.weight` is BF16 [16]",
        ),
        (
            |tensors| drop(tensors.insert(NORM.into(), (Dtype::F32, vec![16], vec![0; 64]))),
            "but F32 [16] in",
        ),
    ];
    for (change, named) in cases {
        let home = tuned("earlier/low", is_trained);
        edit(&home.path().join("tuned/model.safetensors"), change);
        let error = save(home.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!home.path().join("changes").exists());
    }
}

#[test]
fn nothing_is_saved_of_models_that_do_not_differ_or_are_not_finite() {
    let home = tuned("earlier/low", |_| false);
    let error = save(home.path()).unwrap_err();
    assert!(matches!(error, ChangesError::Same { .. }), "{error}");
    edit(&home.path().join("tuned/model.safetensors"), |tensors| {
        // A NaN in bf16.
        tensors.get_mut(NORM).unwrap().2[..2].copy_from_slice(&[0xc0, 0x7f]);
    });
    let error = save(home.path()).unwrap_err();
    let ChangesError::Checkpoint(CheckpointError::NotFinite { tensor, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(tensor, NORM);
    assert!(!home.path().join("changes").exists());
}

#[test]
fn damaged_changes_are_refused() {
    fn record(dir: &Path, change: impl FnOnce(&mut Value)) {
        let path = dir.join("welore_changes.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 9] = [
        (|dir| fs::remove_file(dir.join("welore_changes.json")).unwrap(), "no such file"),
        (|dir| fs::remove_file(dir.join("changes.safetensors")).unwrap(), "no such file"),
        (|dir| fs::write(dir.join("welore_changes.json"), "[]").unwrap(), "a list, not an object"),
        (|dir| record(dir, |all| all["format"] = json!("welore-plan")), "`welore-plan`"),
        (|dir| record(dir, |all| all["version"] = json!(2)), "version 2"),
        (|dir| record(dir, |all| all["more"] = json!(1)), "unknown field `more`"),
        (|dir| record(dir, |all| all["changed"] = json!({})), "are not those that"),
        (
            |dir| {
                edit(&dir.join("changes.safetensors"), |tensors| {
                    tensors.get_mut(FACTOR).unwrap().2[0] ^= 1;
                });
            },
            "the numbers of `model.layers.1.mlp.up_proj.V.weight` are damaged",
        ),
        (
            |dir| {
                edit(&dir.join("changes.safetensors"), |tensors| {
                    tensors.get_mut(FACTOR).unwrap().1 = vec![16, 7];
                });
            },
            "another type or shape",
        ),
    ];
    for (damage, named) in cases {
        let home = saved("earlier/low");
        damage(&home.path().join("changes"));
        let error = apply(home.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn changes_replace_nothing_but_changes() {
    let home = saved("earlier/low");
    let error = save(home.path()).unwrap_err();
    assert!(matches!(error, ChangesError::File(FileError::OutputExists { .. })), "{error}");
    let (base, tuned) = (open(home.path(), "base"), open(home.path(), "tuned"));
    let changes = Changes::between(&base, &tuned, &mut ()).unwrap();
    changes.save(home.path().join("changes"), true).unwrap();
    fs::create_dir(home.path().join("other")).unwrap();
    fs::write(home.path().join("other/notes"), "mine").unwrap();
    let error = changes.save(home.path().join("other"), true).unwrap_err();
    assert!(matches!(error, ChangesError::File(FileError::OutputForeign { .. })), "{error}");
}
