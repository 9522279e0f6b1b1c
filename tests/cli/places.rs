//! Where outputs may go: beside models, over what is of their own kind, and not where another
//! process writes.

use std::fs;

#[cfg(unix)]
use welore_burn::files::{FileClaim, OutputDir};

#[cfg(target_os = "linux")]
use crate::support::Outcome;
use crate::support::Sandbox;
use crate::training::SHORT;

#[test]
fn directories_are_made_beside_models_and_not_in_them() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let train = SHORT.replace("-o run", "-o model/runs/run");
    for line in [
        train.as_str(),
        &format!("{train} --dry-run"),
        "compress model --err 0.5 -o model/low",
        "compress model --err 0.5 -o low/inner --dry-run",
        "export low --dense -o model/new/../dense",
        "demo -o low/demo",
    ] {
        let message = sandbox.refuses(line, "inside the model directory ");
        assert!(!message.contains("/tmp"), "{message}");
        assert!(sandbox.run(line).stderr.contains("hint: give a directory beside the model"));
    }
    // Nothing is inside a model here.
    sandbox.gives("compress model --err 0.5 -o model/../other");
}

/// Somebody's run was deleted with the model that it was in.
#[test]
fn a_model_directory_with_something_else_in_it_is_not_replaced() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.duplicate("model", "dense");
    for dir in ["low", "dense"] {
        let line = match dir {
            "low" => "compress model --err 0.3 -o low --force",
            _ => "export low --dense -o dense --force",
        };
        fs::create_dir_all(sandbox.path(dir).join("run/checkpoints")).unwrap();
        let held = format!("{dir} holds more than a model, so it is not replaced: {dir}/run");
        sandbox.refuses(line, &held);
        sandbox.refuses(&format!("{line} --dry-run"), &held);
        fs::remove_dir_all(sandbox.path(dir).join("run")).unwrap();
        sandbox.write(&format!("{dir}/thesis.docx"), "years");
        sandbox.refuses(line, &format!("{dir}/thesis.docx"));
        sandbox.remove(&format!("{dir}/thesis.docx"));
        // What the Hub's own program leaves there is of no use without the model.
        fs::create_dir_all(sandbox.path(dir).join(".cache/huggingface/download")).unwrap();
        for name in [".gitattributes", "LICENSE", "README.md", "merges.txt", "modeling_x.py"] {
            sandbox.write(&format!("{dir}/{name}"), "of the Hub");
        }
        sandbox.gives(line);
    }
}

const CALIBRATE: &str = "calibrate model --text story.txt --calibration-seq-len 64 \
                         --calibration-windows 2 --too-little shrink";

#[test]
fn files_replace_only_what_is_of_their_kind() {
    let sandbox = Sandbox::new();
    let lines = [
        ("analyze model", "spectra.json", "a file of spectra"),
        ("plan model --err 0.4", "plan.json", "a plan"),
        (CALIBRATE, "seen", "a calibration"),
        ("report --spectra spectra.json", "page.html", "a page"),
    ];
    for (line, own, _) in lines {
        sandbox.gives(&format!("{line} -o {own}"));
    }
    sandbox.write("thesis.txt", "years");
    for (line, own, kind) in lines {
        for other in ["spectra.json", "plan.json", "seen", "page.html", "thesis.txt"] {
            if other == own {
                sandbox.gives(&format!("{line} -o {own}"));
                continue;
            }
            let message = sandbox.refuses(&format!("{line} -o {other}"), other);
            let is_told = message.contains(&format!("exists and is not {kind}"));
            assert!(is_told || message.contains("is an input"), "{message}");
        }
        // As `mktemp` makes it.
        sandbox.write("empty", "");
        sandbox.gives(&format!("{line} -o empty"));
    }
}

/// What is already in a file that standard output goes to is not replaced.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_may_go_to_any_file() {
    let sandbox = Sandbox::new();
    sandbox.write("log.txt", "years\n");
    let mut command = sandbox.command("analyze model -o /dev/stdout");
    command.stdout(fs::File::options().append(true).open(sandbox.path("log.txt")).unwrap());
    assert_eq!(Outcome::of(&mut command).code, Some(0));
    let log = String::from_utf8(sandbox.read("log.txt")).unwrap();
    assert!(log.starts_with("years\n{") && log.contains("welore-spectra"), "{log}");
}

/// Not on Windows, where nobody can read what another process has locked.
#[cfg(unix)]
#[test]
fn a_second_process_with_the_same_output_stops_before_its_work() {
    let sandbox = Sandbox::new();
    let claims = ["spectra.json", "plan.json", "seen", "out.gguf"]
        .map(|name| FileClaim::take(sandbox.path(name)).unwrap());
    let out = OutputDir::create(sandbox.path("out"), false).unwrap();
    for (line, output) in [
        ("analyze model", "spectra.json"),
        ("plan model --err 0.5", "plan.json"),
        ("calibrate model --text self", "seen"),
        ("compress model --keep-params 0.8", "out"),
        ("compress model --for llama.cpp --bits 5", "out.gguf"),
    ] {
        let busy = format!("{output}: another process is writing it");
        sandbox.refuses(&format!("{line} -o {output}"), &busy);
    }
    assert!(sandbox.cached().is_empty(), "a matrix was measured");
    drop((claims, out));
    sandbox.gives("analyze model -o spectra.json");
    let names = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}
