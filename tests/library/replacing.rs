//! What may be in a model directory that is replaced, what may not be made in one, and whose an
//! output is.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use welore_burn::files::{
    FileClaim, FileError, OutputDir, check_beside_models, replaced_file, write_file,
};

fn make_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::write(dir.join(file), "old").unwrap();
    }
}

#[test]
fn models_are_replaced_with_what_belongs_to_them_and_nothing_else() {
    let home = tempdir().unwrap();
    let target = home.path().join("out");
    make_model(&target);
    for file in ["LICENSE.txt", "Notice", "tokenizer.model", "pytorch_model.bin", "README.md"] {
        fs::write(target.join(file), "").unwrap();
    }
    fs::create_dir_all(target.join(".cache/huggingface")).unwrap();
    OutputDir::check_free(&target, true).unwrap();
    for held in ["run/checkpoints", ".git", ".cache/mine", "photo.raw"] {
        let (place, name) = (target.join(held), held.split('/').next().unwrap());
        match held.contains(".raw") {
            true => fs::write(&place, "mine").unwrap(),
            false => fs::create_dir_all(&place).unwrap(),
        }
        for refused in [
            OutputDir::check_free(&target, true),
            OutputDir::create(&target, true).map(drop),
            OutputDir::resumable(&target, true).map(drop),
        ] {
            let error = refused.unwrap_err();
            let FileError::OutputHolds { held, .. } = &error else { panic!("{error}") };
            assert_eq!(*held, target.join(name));
        }
        match place.is_dir() {
            true => fs::remove_dir_all(&place).unwrap(),
            false => fs::remove_file(&place).unwrap(),
        }
        if name == "run" {
            fs::remove_dir(target.join(name)).unwrap();
        }
    }
    // What comes while the new model is written is found as well.
    let output = OutputDir::create(&target, true).unwrap();
    make_model(output.path());
    fs::create_dir(target.join("run")).unwrap();
    let error = output.commit().unwrap_err();
    assert!(matches!(error, FileError::OutputHolds { .. }), "{error}");
    assert!(target.join("run").is_dir() && target.join("README.md").is_file());
}

#[test]
fn places_inside_models_are_recognized_by_where_they_lead() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    make_model(&at("model"));
    for beside in ["run", "model", "model/../run", "new/run"] {
        check_beside_models(at(beside)).unwrap();
    }
    for inside in ["model/run", "model/new/run", "run/../model/run"] {
        let error = check_beside_models(at(inside)).unwrap_err();
        let FileError::InsideModel { model, .. } = &error else { panic!("{error}") };
        assert_eq!(model.canonicalize().unwrap(), at("model").canonicalize().unwrap());
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model", at("link")).unwrap();
        let error = check_beside_models(at("link/run")).unwrap_err();
        assert!(matches!(&error, FileError::InsideModel { model, .. } if *model == at("link")));
    }
}

#[test]
fn a_file_is_claimed_by_one_at_a_time_and_nothing_is_left() {
    let home = tempdir().unwrap();
    let path = home.path().join("plan.json");
    let claim = FileClaim::take(&path).unwrap();
    let error = FileClaim::take(&path).unwrap_err();
    assert!(matches!(&error, FileError::OutputBusy { path: busy } if *busy == path), "{error}");
    drop(FileClaim::take(home.path().join("other.json")).unwrap());
    // Writing needs no claim, and sweeps none.
    write_file(&path, b"{}").unwrap();
    assert!(FileClaim::take(&path).is_err());
    drop(claim);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);

    // One that a killed process left is taken over.
    fs::write(home.path().join(".plan.json.welore-writer"), "").unwrap();
    drop(FileClaim::take(&path).unwrap());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    let error = FileClaim::take(home.path().join("nowhere/plan.json")).unwrap_err();
    assert!(matches!(error, FileError::NoParent { .. }), "{error}");
}

#[test]
fn what_would_be_replaced_is_found_at_the_end_of_links() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    assert_eq!(replaced_file(at("new")).unwrap(), None);
    fs::write(at("old"), "x").unwrap();
    assert_eq!(replaced_file(at("old")).unwrap(), Some(at("old")));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("old", at("link")).unwrap();
        assert_eq!(replaced_file(at("link")).unwrap(), Some(at("old")));
        assert_eq!(replaced_file("/dev/null").unwrap(), None);
    }
}
