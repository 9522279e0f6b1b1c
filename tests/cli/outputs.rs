//! What commands write, what they replace, and what they never touch.

use std::fs;

use crate::support::Sandbox;

const COMPRESS: &str = "compress model --err 0.5";

/// A sandbox with a compressed model in `low`, to which its owner added a note.
fn with_low() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.write("low/note.txt", "mine");
    sandbox
}

#[test]
fn existing_model_is_replaced_only_by_force() {
    let sandbox = with_low();
    sandbox.refuses("compress model --err 0.3 -o low", "low exists already");
    sandbox.refuses("compress model --err 0.3 -o low/", "low exists already");
    sandbox.refuses("export low --dense -o model", "model exists already");

    sandbox.gives("compress model --err 0.3 -o low --force");
    assert_eq!(sandbox.json("inspect low --json")["plan"]["target_err"], 0.3);
    sandbox.duplicate("model", "dense");
    sandbox.gives("export low --dense -o dense --force");
    assert!(sandbox.read("dense/model.safetensors") != sandbox.read("model/model.safetensors"));
}

#[test]
fn what_was_there_survives_a_failure_by_force() {
    let sandbox = with_low();
    sandbox.refuses("compress model --err 0.999 -o low --force", "ERR 0.999");
    sandbox.refuses("compress low --err 0.5 -o model --force", "factored already");
    sandbox.refuses("compress model --plan nowhere.json -o low --force", "nowhere.json");
}

#[test]
fn only_model_directories_are_ever_replaced() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "mine");
    fs::create_dir(sandbox.path("folder")).unwrap();
    sandbox.write("folder/note.txt", "mine");
    for output in ["file", "folder", "."] {
        let foreign = format!("{output} is not a model directory");
        for force in ["", "--force"] {
            sandbox.refuses(&format!("{COMPRESS} -o {output} {force}"), &foreign);
        }
    }
}

#[test]
fn empty_directory_is_filled() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.gives(&format!("{COMPRESS} -o empty"));
    sandbox.gives("inspect empty");
}

#[test]
fn missing_folders_above_an_output_are_made_but_not_left_behind() {
    let sandbox = Sandbox::new();
    sandbox.refuses("compress model --err 0.999 -o new/folder/low", "ERR 0.999");
    sandbox.refuses("export model --dense -o new/folder/dense", "dense already");
    sandbox.gives("compress model --err 0.5 -o new/folder/low");
    sandbox.gives("inspect new/folder/low");
}

#[test]
fn model_is_never_its_own_output() {
    let sandbox = with_low();
    for output in ["model", "model/.", "./model/", "low/../model"] {
        for force in ["", "--force"] {
            sandbox.refuses(&format!("{COMPRESS} -o {output} {force}"), "the model itself");
        }
    }
    sandbox.refuses("export low --dense -o low --force", "the model itself");
}

#[test]
fn model_is_never_lost_with_a_directory_around_it() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "outer");
    sandbox.duplicate("model", "outer/inner");
    sandbox.refuses("compress outer/inner --err 0.5 -o outer --force", "outer");
}

#[cfg(unix)]
#[test]
fn link_to_the_model_is_the_model() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("model", sandbox.path("link")).unwrap();
    sandbox.refuses(&format!("{COMPRESS} -o link --force"), "the model itself");
}

#[test]
fn outputs_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "mine");
    sandbox.refuses(&format!("{COMPRESS} -o file/low"), "file");
    sandbox.refuses("demo -o file", "file");
    for command in ["analyze model", "plan model --err 0.5"] {
        sandbox.refuses(&format!("{command} -o nowhere/out.json"), "nowhere/out.json");
        sandbox.refuses(&format!("{command} -o model"), "model");
    }
}

#[test]
fn artifact_is_replaced_whole() {
    let sandbox = Sandbox::new();
    sandbox.write("plan.json", "x".repeat(1_000_000));
    sandbox.gives("plan model --err 0.5 -o plan.json");
    sandbox.gives("compress model --plan plan.json -o low");
}

#[test]
fn demo_replaces_nothing_that_it_was_not_told_to() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "kept/dense");
    sandbox.write("kept/dense/note.txt", "mine");
    sandbox.refuses("demo -o kept", "no earlier demo");
    sandbox.refuses("demo -o kept --force", "no earlier demo");
}

#[cfg(unix)]
#[test]
fn results_have_the_permissions_of_ordinary_files() {
    use std::os::unix::fs::PermissionsExt;

    let sandbox = with_low();
    sandbox.gives("analyze model -o spectra.json");
    let mode = |name: &str| sandbox.path(name).metadata().unwrap().permissions().mode() & 0o777;
    for file in ["low/model.safetensors", "low/config.json", "low/welore_plan.json", "spectra.json"]
    {
        assert_eq!(mode(file), mode("low/note.txt"), "{file}");
    }
    fs::create_dir(sandbox.path("ordinary")).unwrap();
    assert_eq!(mode("low"), mode("ordinary"));
}
