//! What training changed: saved without the rest of the model, and applied to the base again.

use crate::support::Sandbox;

/// A compressed model, a few steps on its factors, and what they changed.
fn tuned() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.8 --storage pivot -o low");
    sandbox.gives(
        "train low --text story.txt -o run --seq-len 32 --batch-size 2 --steps 2 \
         --lr 3e-3 --warmup 1 --save-every 0",
    );
    sandbox.gives("export run/model --changes-of low -o changes");
    sandbox
}

#[test]
fn what_training_changed_is_saved_and_applied_exactly() {
    let sandbox = tuned();
    let line = "export run/model --changes-of low -o other --json";
    let before = sandbox.json(&format!("{line} --dry-run"));
    assert!(!sandbox.path("other").exists());
    let told = sandbox.json(line);
    let changed = sandbox.tensors("changes/changes.safetensors");
    assert_eq!(told["changed"], changed.len());
    assert_eq!((&told["bytes"], &before["dry_run"]), (&before["bytes"], &true.into()));
    assert!(changed.keys().all(|name| name.ends_with(".C.weight") || name.ends_with(".V.weight")));
    assert_eq!(sandbox.json_file("changes/welore_changes.json")["format"], "welore-changes");

    sandbox.gives("export low --changes changes -o again");
    let model = |dir: &str| sandbox.tensors(&format!("{dir}/model.safetensors"));
    assert_eq!(model("again"), model("run/model"));
    assert_ne!(model("again"), model("low"));
    for file in ["config.json", "welore_plan.json"] {
        let of = |dir: &str| sandbox.json_file(&format!("{dir}/{file}"));
        assert_eq!(of("again"), of("run/model"), "{file}");
    }
    let card = String::from_utf8(sandbox.read("again/README.md")).unwrap();
    assert!(card.contains("Fine-tuned after compression: the changes saved in changes"), "{card}");
    // As a whole, it can go on to where others go.
    sandbox.gives("export low --changes changes --dense -o dense");
    sandbox.gives("export run/model --dense -o whole");
    assert_eq!(model("dense"), model("whole"));
    // In its place a newer one may be saved.
    sandbox.gives("export run/model --changes-of low -o changes --force");
}

#[test]
fn changes_that_do_not_fit_are_refused_before_anything_is_made() {
    let sandbox = tuned();
    sandbox.gives("compress model --err 0.7 --storage pivot -o higher");
    sandbox.refuses("export higher --changes changes -o out", "belongs to another model");
    sandbox.refuses("export run/model --changes changes -o out", "belongs to another model");
    sandbox.refuses("export low --changes nowhere -o out", "nowhere/welore_changes.json");
    sandbox.refuses("export low --changes run/model -o out", "no such file");
    sandbox.refuses("export higher --changes-of low -o out", "higher");
    sandbox.refuses("export model --changes-of low -o out", "has no tensor");
    sandbox.refuses("export low --changes-of low -o out", "the same numbers");
    // Inputs stay.
    sandbox.refuses("export run/model --changes-of low -o low --force", "low");
    sandbox.refuses("export low --changes changes -o changes --force", "changes");
    sandbox.refuses("inspect changes", "holds changes of a model");
}
