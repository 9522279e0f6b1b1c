//! What may be in a model directory that is replaced, and what may not be made in one.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use welore_burn::files::{FileError, OutputDir, check_beside_models};

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
