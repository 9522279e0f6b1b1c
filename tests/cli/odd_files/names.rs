//! Hostile names in files, which reach neither a terminal nor a model card as they are.

use safetensors::Dtype;

use super::{CONFIG, EVAL, TRAIN, WEIGHTS, assert_harmless, assert_honest_card};
#[cfg(unix)]
use crate::support::Outcome;
use crate::support::{Sandbox, Tensor};

/// Sets a title, clears the screen, reorders what follows, and begins a line of its own.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\nerror: forged";

#[test]
fn names_in_refusals_reach_the_terminal_spelt_out() {
    let sandbox = Sandbox::new();
    sandbox.edit_json(CONFIG, |config| config["model_type"] = HOSTILE.into());
    assert_harmless(&sandbox.gives("inspect model"));
    for line in [EVAL, "generate model --prompt Once --max-new-tokens 1"] {
        let outcome = sandbox.run(line);
        assert_harmless(&outcome);
        assert!(outcome.complaint(2).contains("x\\u{1b}]0;owned"), "{outcome:?}");
    }
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.insert(format!("{HOSTILE}.weight"), Tensor::zeros(Dtype::BF16, &[4, 4]));
    });
    // Its weights alone are read; it cannot be run.
    for line in ["inspect model", "compress model --err 0.5 -o out"] {
        assert_harmless(&sandbox.gives(line));
    }
    let outcome = sandbox.run(EVAL);
    assert_harmless(&outcome);
    outcome.complaint(2);
}

#[test]
fn names_in_results_reach_the_terminal_spelt_out() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    sandbox.edit_json("spectra.json", |spectra| spectra["matrices"][0]["name"] = HOSTILE.into());
    let planned = sandbox.gives("plan spectra.json --err 0.5");
    assert!(planned.stdout.contains("\\u{1b}"), "the name is in the table: {}", planned.stdout);
    assert_harmless(&planned);
    let json = sandbox.json("plan spectra.json --err 0.5 --json");
    assert_eq!(json["matrices"][0]["name"], HOSTILE, "JSON has the name itself");
}

#[test]
fn a_policy_reaches_neither_the_terminal_nor_the_card() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 -o plan.json");
    let policy = format!("x`\n<!-- measured -->\n\n<script>alert(1)</script>\n{HOSTILE}");
    sandbox.edit_json("plan.json", |plan| plan["policy"] = policy.clone().into());
    assert_harmless(&sandbox.gives("compress model --plan plan.json -o low --verbose"));
    assert_honest_card(&sandbox, "low");
    let inspected = sandbox.gives("inspect low");
    assert_harmless(&inspected);
    assert!(inspected.stdout.contains("by policy x`\\u{a}<!--"), "{}", inspected.stdout);
    sandbox.gives("eval low --text story.txt --seq-len 64 --windows 1 --record");
    assert_honest_card(&sandbox, "low");
    assert_harmless(&sandbox.gives(&format!("train low {TRAIN}")));
    assert_honest_card(&sandbox, "run/model");
}

#[cfg(unix)]
#[test]
fn the_name_of_a_directory_is_only_a_name() {
    let sandbox = Sandbox::new();
    let name = format!("x`\n<!-- measured -->\n<script>\n---\n{HOSTILE}");
    sandbox.duplicate("model", &name);
    let mut command = sandbox.command("compress --err 0.5 --verbose -o low");
    let outcome = Outcome::of(command.arg(&name));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_harmless(&outcome);
    assert_honest_card(&sandbox, "low");
    assert_harmless(&Outcome::of(sandbox.command("inspect").arg(&name)));
    let outcome = Outcome::of(sandbox.command("inspect").arg(format!("{name}-nowhere")));
    assert_harmless(&outcome);
    outcome.complaint(2);
}
