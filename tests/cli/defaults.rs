//! What is done where neither a method nor a policy is asked for, and what is said of the result.

use serde_json::{Value, json};

use crate::support::Sandbox;

const AMOUNT: &str = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";

#[test]
fn a_model_is_calibrated_on_its_own_text_for_a_target_in_parameters_or_bytes() {
    let sandbox = Sandbox::new();
    for (name, goal) in [("share", "--keep-params 0.8"), ("bytes", "--max-bytes 350kB")] {
        let line = format!("compress model {goal} {AMOUNT}");
        let said = sandbox.gives(&format!("{line} -o {name}")).stderr;
        for part in
            ["a text of its own", "6 samples of 64 tokens", "--calibrate", "--no-calibration"]
        {
            assert!(said.contains(part), "{said}");
        }
        let asked = sandbox.gives(&format!("{line} --calibrate self -o {name}-asked")).stderr;
        assert!(!asked.contains("--no-calibration"), "{asked}");
        for file in ["model.safetensors", "welore_plan.json"] {
            let [a, b] = ["", "-asked"].map(|end| sandbox.read(&format!("{name}{end}/{file}")));
            assert!(a == b, "{file} differs for {goal}");
        }
        let plan = sandbox.json_file(&format!("{name}/welore_plan.json"));
        assert_eq!((&plan["policy"], &plan["unit"]), (&json!("loss"), &json!("loss")));
    }
}

#[test]
fn weights_alone_are_planned_by_energy_for_a_size_and_as_in_the_paper_for_an_err() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    let planned = |line: &str| {
        let plan = sandbox.json(&format!("{line} --json"));
        // Only spectra of the weights say how much of their energy is cut.
        let totals = &plan["totals"];
        assert!(totals["energy_lost"].is_number(), "{line}: {totals}");
        assert!(totals.get("expected_loss").is_none(), "{line}: {totals}");
        plan["policy"].clone()
    };
    for source in ["model", "spectra.json"] {
        assert_eq!(planned(&format!("plan {source} --keep-params 0.8")), "energy");
        assert_eq!(planned(&format!("plan {source} --max-bytes 350kB")), "energy");
        assert_eq!(planned(&format!("plan {source} --keep-params 0.8 --policy welore")), "welore");
        assert_eq!(planned(&format!("plan {source} --err 0.5")), "welore");
    }
    for options in ["--no-calibration", "--method svd"] {
        let line = format!("compress model --keep-params 0.8 {options} -o out --dry-run");
        assert_eq!(planned(&line), "energy", "{options}");
    }
    for goal in ["--err 0.5", "--err-applied 0.4"] {
        assert_eq!(planned(&format!("compress model {goal} -o out --dry-run")), "welore");
    }
    sandbox.gives("compress model --err 0.5 -o low");
    let plan = sandbox.json_file("low/welore_plan.json");
    let mut forms = plan["matrices"].as_array().unwrap().iter().map(|m| m["form"]["kind"].clone());
    assert!(forms.all(|form| form != "pivot"), "{plan}");
    let told = sandbox.gives("plan model --keep-params 0.8").stderr;
    assert!(told.contains("--text self") && told.contains("--calibration"), "{told}");
}

#[test]
fn a_calibration_and_none_exclude_each_other() {
    let sandbox = Sandbox::new();
    let line = "compress model --keep-params 0.8 --no-calibration -o out";
    sandbox.misused(&format!("{line} --calibrate story.txt"), "--calibrate");
    sandbox.misused(&format!("{line} --calibration seen"), "--calibration");
    sandbox.refuses(&format!("{line} --method best"), "needs a calibration");
    for (line, why) in [
        ("compress model --err 0.5", "no effect with --err"),
        ("compress model --keep-params 0.8 --method svd", "no effect with --method svd"),
    ] {
        let message = sandbox.refuses(&format!("{line} --no-calibration -o out"), why);
        assert!(message.contains("--no-calibration: has"), "{message}");
    }
}

#[test]
fn windows_are_no_longer_than_the_context_unless_told() {
    let sandbox = Sandbox::new();
    sandbox.edit_json("model/config.json", |config| config["max_position_embeddings"] = json!(64));
    let line = "--calibration-windows 6 --gradient-windows 2";
    let said = sandbox.gives(&format!("compress model --keep-params 0.8 {line} -o low")).stderr;
    assert!(said.contains("6 samples of 64 tokens"), "{said}");
    sandbox.refuses(
        &format!("calibrate model --text self {line} --calibration-seq-len 65 -o seen"),
        "context of 64",
    );
    sandbox.edit_json("model/config.json", |config| {
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = Value::Null;
    });
    let said = sandbox.run(&format!("compress model --keep-params 0.8 {line} -o out")).stderr;
    assert!(said.contains("--self-start") && said.contains("--no-calibration"), "{said}");
}

#[test]
fn ruin_is_said_before_writing_and_in_the_card() {
    const RUIN: &str = "is expected to ruin the model: it cuts ";
    let sandbox = Sandbox::new();
    let card = |name: &str| String::from_utf8(sandbox.read(&format!("{name}/README.md"))).unwrap();
    let low = sandbox.gives("compress model --keep-params 0.5 --no-calibration -o low").stderr;
    assert!(low.contains(&format!("warning: without tuning, this {RUIN}")), "{low}");
    assert!(card("low").contains(RUIN), "{}", card("low"));
    let totals = &sandbox.json_file("low/welore_plan.json")["totals"];
    assert!(totals["energy_lost"].as_f64().unwrap() > 0.02, "{totals}");
    assert!(totals.get("expected_loss").is_none(), "{totals}");
    let told = sandbox.json("plan model --keep-params 0.5 --json");
    assert_eq!(&told["totals"], totals);
    assert!(sandbox.gives("plan model --keep-params 0.5").stderr.contains(RUIN));

    // One rank of one matrix is no harm.
    let mild = "--err 0.02 --min-ratio 0 --include *.layers.0.self_attn.q_proj";
    let said = sandbox.gives(&format!("compress model {mild} -o mild")).stderr;
    assert!(!said.contains("expected to"), "{said}");
    assert!(!card("mild").contains("expected to"), "{}", card("mild"));
    let calibrated = format!("compress model --keep-params 0.8 {AMOUNT} --json -o out");
    let totals = sandbox.json(&calibrated)["totals"].clone();
    assert!(totals["expected_loss"].as_f64().unwrap() > 0.0, "{totals}");
    assert!(totals.get("energy_lost").is_none(), "{totals}");
}

#[test]
fn targets_out_of_reach_are_refused_before_the_model_writes() {
    let sandbox = Sandbox::new();
    for target in ["--max-bytes 1kB", "--keep-params 0.01", "--keep-params 0.3 --min-rank 60"] {
        sandbox.refuses(&format!("compress model {target} -o out"), "out of reach");
        let said = sandbox.run(&format!("compress model {target} -o out")).stderr;
        assert!(!said.contains("the model first writes"), "{said}");
    }
    let line = "compare model --text story.txt --keep-params 0.8,0.01";
    sandbox.refuses(line, "out of reach");
    assert!(!sandbox.run(line).stderr.contains("the model wrote"));
}

#[test]
fn a_text_that_is_as_good_as_random_is_told() {
    let sandbox = Sandbox::new();
    // The fixture has never seen the token that its samples start from.
    let amount = AMOUNT.replace("windows 6", "windows 40");
    let line = format!("compress model --keep-params 0.8 {amount} -o");
    assert!(sandbox.gives(&format!("{line} random")).stderr.contains("nearly random"));
    let said = sandbox.gives(&format!("{line} told --self-start 45")).stderr;
    assert!(!said.contains("nearly random"), "{said}");
}

#[test]
fn a_size_that_the_model_does_not_exceed_is_refused_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    for line in [
        "compress model --max-bytes 5MB -o out",
        "compress model --max-bytes 5MB --no-calibration --policy welore -o out",
        "plan model --max-bytes 5MB",
        "plan spectra.json --max-bytes 5MB",
        "compare model --text story.txt --max-bytes 350kB,5MB",
        "train model --text story.txt --seq-len 32 --batch-size 1 --max-bytes 5MB -o run",
    ] {
        sandbox.refuses(line, "--max-bytes 5.0 MB: nothing would be factored");
        let said = sandbox.run(line).stderr;
        assert!(!said.contains("the model first writes"), "{said}");
        assert!(said.contains("hint: give less than "), "{said}");
    }
    // A rank that is set is a reason of its own.
    sandbox.gives("plan model --max-bytes 5MB --set-rank q_proj=4");
}
