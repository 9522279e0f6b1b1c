//! `compress --distill`: one step of factors after all.

use serde_json::Value;

use crate::support::Sandbox;

const CALIBRATE: &str = "calibrate model --text story.txt --calibration-seq-len 64 \
                         --calibration-windows 6 --gradient-windows 2 -o seen";

#[test]
fn a_step_is_kept_only_if_it_helps_and_changes_nothing_else() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let line = "compress model --keep-params 0.6 --calibration seen";
    let plain = sandbox.json(&format!("{line} --json -o plain"));
    assert_eq!(plain["distilled"], Value::Null);
    let line = format!("{line} --distill --distill-windows 2");
    let told = sandbox.json(&format!("{line} --json -o stepped"));
    let step = &told["distilled"];
    let (length, before) = (step["length"].as_f64().unwrap(), &step["before"]["value"]);
    let (before, after) = (before.as_f64().unwrap(), step["after"].as_f64().unwrap());
    assert!(before > 0.0 && after <= before, "{step}");
    assert_eq!(length > 0.0, after < before, "{step}");
    let sizes = |of: &Value| {
        let mut totals = of["totals"].clone();
        totals["stored_loss"] = Value::Null;
        totals
    };
    assert_eq!(sizes(&told), sizes(&plain));
    // Errors are those of after the step.
    assert_eq!(told["loss"], plain["loss"]);
    assert_eq!(told["stored_loss"] != plain["stored_loss"], length > 0.0);
    let noted = sandbox.json_file("stepped/welore_plan.json");
    assert_eq!(noted["totals"]["stored_loss"], told["stored_loss"]);
    let weights = |dir: &str| sandbox.read(&format!("{dir}/model.safetensors"));
    assert_eq!(weights("plain") != weights("stepped"), length > 0.0);
    sandbox.gives("eval stepped --text story.txt --seq-len 64 --windows 2");
    let said = sandbox.gives(&format!("{line} -o again")).stdout;
    assert!(said.contains("distilled  "), "{said}");
    assert_eq!(said.contains("as stored after the step"), length > 0.0, "{said}");
    assert!(weights("again") == weights("stepped"));
}

#[test]
fn a_step_that_cannot_be_taken_is_refused_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let line = "compress model --keep-params 0.6 -o out";
    for (line, named) in [
        (format!("{line} --calibration seen --distill"), "6 windows"),
        (format!("{line} --no-calibration --distill"), "--distill"),
        (format!("{line} --calibration seen --method whitened --distill"), "--distill"),
        (format!("{line} --calibration seen --distill-windows 2"), "--distill-windows"),
        (format!("{line} --calibration seen --forms channels --distill"), "--distill"),
    ] {
        sandbox.refuses(&line, named);
    }
}
