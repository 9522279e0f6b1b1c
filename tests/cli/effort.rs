//! `--effort`: how many windows are read where no option says it.

use serde_json::{Value, json};

use crate::support::Sandbox;

#[test]
fn an_effort_decides_how_many_windows_are_read_unless_they_are_given() {
    let sandbox = Sandbox::new();
    let line = "calibrate model --text self --calibration-seq-len 16 -o seen --dry-run --json";
    for (options, windows) in [
        ("", [128, 32]),
        ("--effort normal", [128, 32]),
        ("--effort quick", [32, 8]),
        ("--effort thorough", [256, 64]),
        ("--effort quick --gradient-windows 3", [32, 3]),
        ("--effort thorough --calibration-windows 70", [70, 64]),
    ] {
        let told = sandbox.json(&format!("{line} {options}"));
        let found = ["windows", "gradient_windows"].map(|key| told[key].as_u64().unwrap());
        assert_eq!(found, windows, "{options}");
        assert_eq!(told["self"]["samples"], windows[0], "{options}");
    }
}

#[test]
fn quick_reads_as_many_tokens_as_a_matrix_has_inputs() {
    let sandbox = Sandbox::new();
    // 16 windows of 8 tokens would be fewer than the 160 inputs of a down projection.
    let line = "calibrate model --text story.txt --calibration-seq-len 8 -o seen --dry-run --json";
    assert_eq!(sandbox.json(&format!("{line} --effort quick"))["windows"], 20);
    let few = "--effort quick --calibration-windows 16";
    sandbox.refuses(&format!("{line} {few}"), "only 128 tokens");
}

#[test]
fn plan_and_card_say_how_much_was_read() {
    let sandbox = Sandbox::new();
    let line = "compress model --keep-params 0.8 --calibrate story.txt --calibration-seq-len 16 \
                --effort quick --save-calibration seen -o low";
    let told = sandbox.gives(line).stdout;
    let line = "\ncalibrated on 16 windows of 16 tokens, gradients on 4 of them\n";
    assert!(told.contains(line), "{told}");
    let amount = json!({ "windows": 16, "gradient_windows": 4, "seq_len": 16 });
    let plan = sandbox.json_file("low/welore_plan.json");
    assert_eq!((&plan["calibrated_on"], &plan["sequential"]), (&amount, &Value::Null));
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    let line = "- Calibrated on 16 windows of 16 tokens, with gradients on 4 of them.\n";
    assert!(card.contains(line) && !card.contains("order of use"), "{card}");
    let plan = sandbox.json("plan model --calibration seen --keep-params 0.8 --json");
    assert_eq!(plan["calibrated_on"], amount);
    let plan = sandbox.json("plan model --keep-params 0.8 --json");
    assert!(plan.get("calibrated_on").is_none(), "{plan}");
}

#[test]
fn an_effort_is_refused_with_the_reason_where_other_options_decide() {
    let sandbox = Sandbox::new();
    let given = "--calibration-windows 4 --gradient-windows 2";
    for (line, why) in [
        (
            format!("calibrate model --text story.txt {given} --effort thorough -o seen"),
            "--calibration-windows and --gradient-windows decide",
        ),
        (
            "compress model --keep-params 0.8 --calibration seen --effort quick -o out".into(),
            "only where a calibration is made",
        ),
        (
            "compress model --keep-params 0.8 --calibration seen --method best --effort thorough \
             -o out"
                .into(),
            "only where a calibration is made",
        ),
        (
            "calibrate model --text self --self-samples 8 --effort thorough -o seen".into(),
            "--self-samples says how much text",
        ),
        (
            "compress model --err 0.5 --effort thorough -o out".into(),
            "only where a calibration is made",
        ),
        ("plan model --keep-params 0.8 --effort quick".into(), "only with --for"),
    ] {
        let message = sandbox.refuses(&line, why);
        assert!(message.contains("--effort"), "{message}");
    }
    // Of a text beside it, an effort still says how much is read.
    sandbox.gives(
        "calibrate model --text self,story.txt --self-samples 8 --calibration-seq-len 16 \
         --effort quick -o seen --dry-run",
    );
    // A file of settings is for many commands.
    sandbox.write("settings.toml", "[compress]\neffort = \"quick\"\n");
    sandbox.gives("compress model --err 0.5 -o low --config settings.toml");
}

#[test]
fn a_kept_calibration_is_known_by_its_windows_not_by_the_effort() {
    let sandbox = Sandbox::new();
    let line = "plan model --for llama.cpp --bits 6 --types q8_0,q4_0 --no-measure \
                --calibration-seq-len 16 --gradient-windows 2";
    let reused = |options: &str| {
        sandbox.gives(&format!("{line} {options}")).stderr.contains("was calibrated on it")
    };
    assert!(!reused("--effort quick"));
    assert!(reused("--calibration-windows 32"));
}
