//! Where outputs may go: beside models, over what is of their own kind, and not where another
//! process writes.

use std::fs;

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
