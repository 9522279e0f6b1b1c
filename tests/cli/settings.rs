//! Options from a file of settings.

use crate::support::{Outcome, Sandbox};

/// A sandbox with a `settings.toml`.
fn with(settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("settings.toml", settings);
    sandbox
}

const PLAN: &str =
    "[plan]\nerr = 0.5\nmin_ratio = 0\nnever-grow = true\ninclude = ['q_proj', 'k_proj']\n";

#[test]
fn file_says_what_the_command_line_does_not() {
    let sandbox = with(PLAN);
    let typed = "--err 0.5 --min-ratio 0 --never-grow --include q_proj,k_proj";
    let typed = sandbox.json(&format!("plan model {typed} --json"));
    for line in
        ["plan model --json --config settings.toml", "--config settings.toml plan model --json"]
    {
        assert_eq!(sandbox.json(line), typed, "{line}");
    }
    let mut command = sandbox.command("plan model --json");
    let outcome = Outcome::of(command.env("WELORE_CONFIG", "settings.toml"));
    assert_eq!(outcome.stdout, sandbox.gives("plan model --json --config settings.toml").stdout);
}

#[test]
fn what_is_typed_wins_also_over_what_cannot_go_with_it() {
    let sandbox = with(PLAN);
    let plan = |options: &str| {
        sandbox.json(&format!("plan model --config settings.toml --json {options}"))
    };
    assert_eq!(plan("--err 0.3")["target"]["err"], 0.3);
    assert_eq!(plan("--keep-params 0.8")["target"]["keep_params"], 0.8);
    let one = plan("--include q_proj");
    assert_eq!(one["matrices"].as_array().unwrap().len(), 4);

    sandbox.gives("plan model --err 0.4 -o plan.json");
    sandbox.write("settings.toml", "[compress]\nerr = 0.5\npolicy = 'uniform'\noutput = 'low'\n");
    sandbox.gives("compress model --plan plan.json --config settings.toml");
    assert_eq!(sandbox.json("inspect low --json")["plan"]["target"]["err"], 0.4);

    sandbox.write("settings.toml", "[eval]\ntask = 'svamp'\ndata = 'nowhere'\nblocks = 1\n");
    let measured = sandbox.json("eval model --text story.txt --config settings.toml --json");
    assert_eq!(measured["windows"], 1);
}

/// Settings are for all commands of a name, so one that cannot use them goes on without.
#[test]
fn settings_that_need_a_calibration_wait_for_one() {
    let sandbox = with("[compress]\nrefine = 1\ndistill = true\n");
    sandbox.gives("--config settings.toml compress model --err 0.5 -o low");
    sandbox.refuses("compress model --err 0.5 --refine 1 -o typed", "--refine needs a calibration");
}

#[test]
fn required_options_may_be_in_the_file() {
    let sandbox = with("[compress]\nmax-bytes = '350kB'\noutput = 'low'\nno-calibration = true\n");
    sandbox.gives("compress model --config settings.toml");
    assert!(sandbox.path("low/config.json").exists());
    sandbox.write("settings.toml", "[compress]\noutput = 'other'\n");
    sandbox.misused("compress model --config settings.toml", "--err");
    // A file may have tables for other commands only.
    sandbox.misused("plan model --config settings.toml", "--err");
    sandbox.gives("inspect model --config settings.toml");
}

#[test]
fn run_can_be_described_by_a_file() {
    let settings = "[train]\nerr = 0.8\ntext = 'story.txt'\noutput = 'run'\nseq-len = 32\n\
                    batch-size = 2\nsteps = 8\nlr = 3e-3\nwarmup = 2\nsave-every = 0\n";
    let sandbox = with(settings);
    sandbox.gives("train model --config settings.toml --steps 3");
    let run = sandbox.json_file("run/run.json");
    assert_eq!(run["settings"]["steps"], 3);
    assert_eq!(run["settings"]["lr"], 0.003);
}

#[test]
fn mistakes_in_the_file_are_named_with_the_file() {
    let sandbox = Sandbox::new();
    for (settings, named, hint) in [
        ("[plan]\nmin-rato = 0", "[plan] min-rato", "did you mean `min-ratio`?"),
        ("[train]\nstepps = 5", "[train] stepps", "did you mean `steps`?"),
        ("[trian]\nsteps = 5", "[trian]", "did you mean `train`?"),
        ("[plan]\nmodel = 'model'", "[plan] model", ""),
        ("[plan]\nconfig = 'other.toml'", "[plan] config", ""),
        ("err = 0.5", "`err` is not in a table", "[train]"),
        ("[plan]\nerr = true", "[plan] err: found type boolean, expected a number", ""),
        ("[plan]\nerr = [0.5]", "[plan] err", ""),
        ("[plan]\nnever-grow = 'yes'", "[plan] never-grow", ""),
        ("[plan]\noutput = 5", "[plan] output: found type integer", ""),
        ("[plan]\ninclude = [1]", "[plan] include", ""),
        ("[train]\nsteps = 1979-05-27", "[train] steps", ""),
        ("[plan]\npolicy = 'walore'", "'--policy <POLICY>'", "welore"),
        ("[plan]\nrank-multiple = 1.5", "'--rank-multiple <N>'", ""),
        ("[plan]\nmax-bytes = 'lots'", "'--max-bytes <SIZE>'", ""),
        ("[plan]\nkeep-params = 0.5\nmax-bytes = '1MB'", "--keep-params", ""),
        ("[plan]\nerr = 0.5\nerr = 0.6", "line 3", ""),
        ("[plan\n", "settings.toml: line", ""),
    ] {
        sandbox.write("settings.toml", settings);
        // The typed options are complete, so that only the file can be refused.
        let line = match settings.contains("keep-params") || settings.contains("max-bytes") {
            true => "plan model --config settings.toml",
            false if settings.contains("err") => "plan model --config settings.toml --min-ratio 0",
            false => "plan model --err 0.5 --config settings.toml",
        };
        let message = sandbox.refuses(line, "settings.toml");
        assert!(message.contains(named), "{settings}: {message}");
        assert!(sandbox.run(line).stderr.contains(hint), "{settings}");
    }
    sandbox.write("settings.toml", b"[plan]\nerr = \xff");
    sandbox.refuses("plan model --config settings.toml", "settings.toml: not UTF-8");
    sandbox.refuses("plan model --err 0.5 --config nowhere.toml", "nowhere.toml");
    sandbox.refuses("plan model --err 0.5 --config model", "model");
}

#[test]
fn mistakes_on_the_command_line_come_first() {
    let sandbox = with("[plan]\nnonsense = 1");
    sandbox.misused("plan model --config settings.toml --eror 0.5", "--err");
    sandbox.misused("plan model --config settings.toml --err half", "half");
}

#[test]
fn run_goes_on_as_it_began_whatever_the_file_says_now() {
    let sandbox = with("[train]\nlr = 1e-4\nsteps = 4\nseq_len = 32\nbackend = \"flex\"\n");
    let line = "train model --err 0.5 --text story.txt --batch-size 1 -o run --lr 5e-5";
    sandbox.gives(&format!("{line} --config settings.toml"));
    sandbox.gives("train --resume run --config settings.toml");
    assert_eq!(sandbox.json_file("run/run.json")["settings"]["lr"], 5e-5);
    let other = "train --resume run --config settings.toml --lr 1e-4";
    assert!(sandbox.refuses(other, "--lr").contains("0.00005"));
}
