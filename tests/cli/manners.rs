//! How the commands behave towards their users: help, completions, output on stderr, dry runs,
//! pages.

use std::fs;

use serde_json::Value;

use crate::support::{Outcome, Sandbox};
use crate::training::SHORT;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

#[test]
fn reference_in_the_docs_is_that_of_the_program() {
    let written = fs::read_to_string(REFERENCE).unwrap_or_default();
    let printed = Sandbox::new().gives("reference").stdout;
    let rewrite = "cargo run -p welore-cli -- reference > docs/cli.md";
    assert!(written == printed, "docs/cli.md is not up to date; `{rewrite}` rewrites it");
}

#[test]
fn help_has_examples_and_groups_and_the_short_one_is_short() {
    let sandbox = Sandbox::new();
    let (long, short) = (sandbox.gives("train --help").stdout, sandbox.gives("train -h").stdout);
    for part in ["Examples:", "welore-cli train --resume run", "\nTraining:", "\nEvaluation:"] {
        assert!(long.contains(part), "{part}: {long}");
    }
    assert!(!short.contains("Examples:") && short.contains("\nTraining:"), "{short}");
    assert!(short.lines().count() < long.lines().count());
}

#[test]
fn completions_are_printed_for_every_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.gives(&format!("completions {shell}")).stdout;
        for word in ["welore-cli", "compress", "keep-params"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    sandbox.misused("completions tcsh", "bash");
}

#[cfg(unix)]
#[test]
fn bash_completes_commands_options_and_values() {
    let sandbox = Sandbox::new();
    sandbox.write("complete.bash", sandbox.gives("completions bash").stdout);
    let complete = |words: &str| {
        let line = format!(
            "source complete.bash; f=$(complete -p welore-cli); f=${{f#*-F }}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             ${{f%% *}} welore-cli \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
             echo ${{COMPREPLY[@]}}"
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.arg("-c").arg(line).current_dir(sandbox.path("")).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    if complete("welore-cli ex").is_none() {
        return crate::skipped::skip("there is no bash");
    }
    assert_eq!(complete("welore-cli exp").unwrap(), "export");
    assert_eq!(complete("welore-cli ref").unwrap(), "");
    assert_eq!(complete("welore-cli train --tra").unwrap(), "--track-gradients --trainable");
    assert_eq!(complete("welore-cli train --trainable lo").unwrap(), "lora");
}

#[cfg(target_os = "linux")]
#[test]
fn that_nobody_reads_notes_is_no_reason_to_stop() {
    let sandbox = Sandbox::new();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for (line, made) in [("compress model --err 0.5 -o low", "low"), (SHORT, "run/model")] {
        let status = sandbox.command(line).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{line}");
        assert!(sandbox.path(made).is_dir(), "{made}");
    }
    let status = sandbox.command("inspect nothing").stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn quiet_commands_leave_stderr_empty_and_say_the_same_on_stdout() {
    let sandbox = Sandbox::new();
    let short = format!("{SHORT} --eval-text story.txt --eval-windows 2");
    for line in [
        "analyze model -o spectra.json",
        "plan spectra.json --err 0.5 -o plan.json",
        "compress model --plan plan.json -o low --report page.html",
        "generate model --prompt Mia --max-new-tokens 4",
        &short,
    ] {
        let outcome = sandbox.gives(&format!("{line} --quiet"));
        // A warning is no note, and a plan from the weights alone may get this one.
        let is_warning = |said: &&str| said.starts_with("warning: without tuning, ");
        let notes = outcome.stderr.lines().find(|said| !is_warning(said));
        assert_eq!(notes, None, "{line}");
        assert!(!outcome.stdout.is_empty(), "{line}");
    }
    let loud = sandbox.gives("analyze model");
    assert_eq!(sandbox.gives("-q analyze model").stdout, loud.stdout);
    assert!(loud.stderr.contains("measured before"), "{loud:?}");
}

#[test]
fn warnings_and_errors_are_said_quietly_too() {
    let sandbox = Sandbox::new();
    let warned = sandbox.gives("plan model --err 0.01 --quiet");
    assert!(warned.stderr.starts_with("warning: "), "{warned:?}");
    sandbox.refuses("plan model --err 2 -q", "ERR 2");
}

#[test]
fn verbose_commands_tell_what_goes_on_inside() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.gives("analyze model --no-cache -v");
    let events = outcome.stderr.lines().filter(|line| line.ends_with("measured"));
    assert_eq!(events.count(), 28, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, sandbox.gives("analyze model --no-cache").stdout);

    let trained = sandbox.gives(&format!("{SHORT} -v"));
    assert!(trained.stderr.contains("welore_cli"), "{}", trained.stderr);
    let log = String::from_utf8(sandbox.read("run/train.log")).unwrap();
    assert!(log.contains("step 8 loss") && !log.contains("DEBUG"), "{log}");
}

#[test]
fn no_color_is_honoured_where_color_is_forced() {
    let sandbox = Sandbox::new();
    let escapes = |line: &str, no_color: bool| {
        let mut command = sandbox.command(line);
        command.env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR");
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let outcome = Outcome::of(&mut command);
        format!("{}{}", outcome.stdout, outcome.stderr).contains('\x1b')
    };
    assert!(escapes("--help", false) && escapes("compres model", false));
    for line in ["--help", "compres model", "plan model --err 0.5 -v", "plan model --err 2"] {
        assert!(!escapes(line, true), "{line}");
    }
}

#[test]
fn misspelt_patterns_are_answered_with_what_was_meant() {
    let sandbox = Sandbox::new();
    for (pattern, meant) in [
        ("*q_prj", "did you mean `*q_proj`?"),
        ("*.layer.0.*", "did you mean `*.layers.0.*`?"),
        ("nothing", "`welore-cli analyze MODEL` lists them"),
    ] {
        let line = format!("plan model --err 0.5 --include {pattern}");
        sandbox.refuses(&line, pattern);
        assert!(sandbox.run(&line).stderr.contains(meant), "{pattern}");
    }
}

/// Dry-runs a command, which has to succeed and to leave everything as it was.
fn dry(sandbox: &Sandbox, line: &str) -> Value {
    let before = sandbox.contents();
    let told = sandbox.json(&format!("{line} --dry-run --json"));
    assert!(sandbox.gives(&format!("{line} --dry-run")).stdout.contains("would "), "{line}");
    assert!(sandbox.contents() == before, "`{line} --dry-run` left something behind");
    assert_eq!(told["dry_run"], true);
    told
}

/// Checks that a dry run says what the real one is expected to take, and what it tried.
fn assert_expects(told: &Value, tried: &str) {
    assert!(told["expected_seconds"].as_f64().unwrap() > 0.0, "{told}");
    let bytes = &told["expected_peak_bytes"];
    match cfg!(target_os = "linux") {
        true => assert!(bytes.as_u64().unwrap() > 1 << 20, "{told}"),
        false => assert!(bytes.is_u64() || bytes.is_null(), "{told}"),
    }
    assert!(["all", "host"].contains(&told["expected_peak_of"].as_str().unwrap()), "{told}");
    assert!(told["tried"].as_str().unwrap().contains(tried), "{told}");
}

#[test]
fn dry_runs_say_what_the_real_ones_are_expected_to_take() {
    let sandbox = Sandbox::new();
    let calibrate = "calibrate model --text self,story.txt --calibration-seq-len 64 \
                     --calibration-windows 12 --gradient-windows 3 --probe-windows 2 -o seen";
    let told = dry(&sandbox, calibrate);
    for tried in ["a few tokens of 6 samples", "windows", "8 matrices on 2 windows"] {
        assert_expects(&told, tried);
    }
    let without = calibrate.replace("self,", "").replace("--probe-windows 2", "");
    assert_expects(&dry(&sandbox, &without), "windows");

    assert_expects(&dry(&sandbox, &SHORT.replace("--steps 8", "--steps 4")), "4 steps");
    let long = SHORT.replace("--steps 8", "--steps 100000");
    let whole = dry(&sandbox, &long);
    assert_expects(&whole, "steps");
    let few: u64 = whole["tried"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((3..=10).contains(&few), "{whole}");
    let evaluated = format!("{SHORT} --eval-text story.txt --track-gradients 3");
    assert_expects(&dry(&sandbox, &evaluated), " and ");
    let scratch = "train model/config.json --from-scratch --text story.txt --seq-len 32 \
                   --batch-size 2 --steps 2 -o new";
    assert_expects(&dry(&sandbox, scratch), "2 steps");
    let said = sandbox.gives(&format!("{scratch} --dry-run")).stdout;
    assert!(said.contains("\nexpected to take about "), "{said}");
    assert!(said.ends_with("from 2 steps tried here\n"), "{said}");
}

#[cfg(unix)]
#[test]
fn dry_runs_leave_no_temporary_files() {
    let sandbox = Sandbox::new();
    let place = tempfile::tempdir().unwrap();
    let calibrate = "calibrate model --text self --calibration-seq-len 64 -o seen";
    for line in [calibrate, SHORT] {
        let line = format!("{line} --dry-run");
        let outcome = Outcome::of(sandbox.command(&line).env("TMPDIR", place.path()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{line}");
    }
}

#[test]
fn dry_runs_of_compress_and_export_tell_the_size_of_what_they_do_not_write() {
    let sandbox = Sandbox::new();
    for (name, line) in [
        ("low", "compress model --err 0.5 -o low"),
        ("pivoted", "compress model --keep-params 0.7 --no-calibration --storage pivot -o pivoted"),
    ] {
        let told = dry(&sandbox, line);
        sandbox.gives(line);
        let written = sandbox.json(&format!("inspect {name} --json"));
        assert_eq!(told["totals"]["parameters_after"], written["parameters"]);
        assert_eq!(told["totals"]["bytes_after"], written["bytes"]);

        let line = format!("export {name} --dense -o {name}-dense");
        let told = dry(&sandbox, &line);
        sandbox.gives(&line);
        let written = sandbox.json(&format!("inspect {name}-dense --json"));
        assert_eq!(
            (&told["parameters"], &told["bytes"]),
            (&written["parameters"], &written["bytes"])
        );
    }
    sandbox.refuses("compress model --err 0.5 -o low --dry-run", "low already exists");
    sandbox.refuses("compress model --err 0.5 -o model --dry-run", "the model itself");
    sandbox.refuses("export model --dense -o other --dry-run", "dense already");
}

#[test]
fn dry_run_of_calibrate_tells_what_the_text_is_good_for() {
    let sandbox = Sandbox::new();
    let line = "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 6 \
                --gradient-windows 2 -o seen";
    let told = dry(&sandbox, line);
    let done = sandbox.json(&format!("{line} --json"));
    for field in ["matrices", "windows", "gradient_windows", "seq_len"] {
        assert_eq!(told[field], done[field], "{field}");
    }
    let little = "--calibration-seq-len 64 --calibration-windows 1 -o few --dry-run";
    sandbox.refuses(&format!("calibrate model --text story.txt {little}"), "story.txt");
}

#[test]
fn dry_run_of_train_tells_what_the_run_would_be() {
    let sandbox = Sandbox::new();
    let short = SHORT.replace("--steps 8", "--steps 1").replace("--warmup 2", "--warmup 0");
    for (run, options) in [
        ("a", "--trainable lrc"),
        ("b", "--trainable full"),
        ("c", "--trainable lora --lora-rank 2"),
        ("d", "--trainable lora --lora-rank 2 --storage pivot"),
    ] {
        let line = format!("{} {options}", short.replace("-o run", &format!("-o {run}")));
        let told = dry(&sandbox, &line);
        let done = sandbox.json(&format!("{line} --json"));
        assert_eq!(told["trainable"], done["trainable"], "{options}");
        assert_eq!(told["parameters"], done["parameters"], "{options}");
        let settings = sandbox.json_file(&format!("{run}/run.json"))["settings"].clone();
        assert_eq!(told["settings"], settings, "{options}");
    }
    let evaluated = format!("{short} --eval-text story.txt --eval-windows 2 --must-improve");
    let said =
        sandbox.gives(&format!("{evaluated} --trainable galore --galore-rank 2 --dry-run")).stdout;
    for used in ["galore-rank", "eval-text", "eval-seq-len", "eval-windows", "must-improve"] {
        let is_of_it = |line: &str| line.split_whitespace().next() == Some(used);
        assert!(said.lines().any(is_of_it), "{used}: {said}");
    }
    assert!(!said.contains("lora") && !said.contains("watch-text"), "{said}");
    let said = sandbox.gives(&format!("{short} --schedule constant --dry-run")).stdout;
    for idle in ["lora", "galore", "lr-floor", "eval-text", "must-improve"] {
        assert!(!said.contains(idle), "{idle}: {said}");
    }
    let epochs = short.replace("--steps 1", "--epochs 2").replace("-o run", "-o e");
    let told = dry(&sandbox, &epochs);
    let (rows, steps) = (told["rows"].as_u64().unwrap(), told["settings"]["steps"].as_u64());
    assert_eq!(steps, Some((2 * rows).div_ceil(2)));

    sandbox.refuses(
        &format!("{short} --dry-run --plan nowhere.json").replace("--err 0.8 ", ""),
        "nowhere",
    );
    sandbox.refuses(&short.replace("--err 0.8 ", "--dry-run "), "nothing to train");
    let large = short.replace("--batch-size 2", "--batch-size 100000");
    sandbox.refuses(&format!("{large} --dry-run"), "story.txt");
    sandbox.refuses("train --resume model --dry-run", "run.json");
}

/// The data embedded in a page.
fn page(sandbox: &Sandbox, name: &str) -> Value {
    let html = String::from_utf8(sandbox.read(name)).unwrap();
    let start = html.find("type=\"application/json\">").expect("a page holds data") + 24;
    let end = start + html[start..].find("</script>").unwrap();
    serde_json::from_str(&html[start..end]).unwrap()
}

#[test]
fn report_option_draws_what_each_command_made() {
    let sandbox = Sandbox::new();
    let count = |value: &Value| value.as_array().map(Vec::len);
    sandbox.gives("analyze model -o spectra.json --report analyze.html");
    let drawn = page(&sandbox, "analyze.html");
    assert_eq!((count(&drawn["spectra"]["matrices"]), count(&drawn["runs"])), (Some(28), None));

    sandbox.gives("plan spectra.json --err 0.5 -o plan.json --report plan.html");
    let plan = sandbox.json_file("plan.json");
    let drawn = page(&sandbox, "plan.html");
    let ranks = |matrices: &Value| -> Vec<Value> {
        matrices.as_array().unwrap().iter().map(|matrix| matrix["rank"].clone()).collect()
    };
    assert_eq!(ranks(&drawn["plan"]["matrices"]), ranks(&plan["matrices"]));
    assert_eq!(count(&drawn["spectra"]["matrices"]), Some(28));

    sandbox.gives("compress model --err 0.5 -o low --report compress.html");
    let mut made = page(&sandbox, "compress.html")["plan"].clone();
    for matrix in made["matrices"].as_array_mut().unwrap() {
        // What was made has errors, which a plan does not know yet.
        assert_eq!(matrix["stored_error"].is_number(), matrix["low_rank"] == true, "{matrix}");
        (matrix["error"], matrix["stored_error"]) = (Value::Null, Value::Null);
    }
    assert_eq!(made, drawn["plan"]);

    sandbox.gives(&format!("{SHORT} --report train.html"));
    let drawn = page(&sandbox, "train.html");
    assert_eq!(drawn["runs"][0]["label"], "run");
    assert_eq!(count(&drawn["runs"][0]["steps"]), Some(8));
    assert_eq!(drawn["plan"]["policy"], "welore");

    let compared = sandbox.json(
        "compare model --text story.txt --keep-params 0.7 --methods svd/welore --min-ratio 0 \
         --seq-len 64 --windows 2 --report compare.html --json",
    );
    let drawn = page(&sandbox, "compare.html");
    assert_eq!(count(&drawn["models"]), Some(2));
    let dense = &compared["rows"][0];
    assert_eq!(drawn["models"][0]["perplexities"]["story.txt"], dense["perplexity"]);
}

#[test]
fn pages_that_cannot_be_written_are_refused_before_the_work() {
    let sandbox = Sandbox::new();
    for line in ["analyze model", "compress model --err 0.5 -o low", SHORT, "demo"] {
        sandbox.refuses(&format!("{line} --report nowhere/page.html"), "nowhere/page.html");
        sandbox.refuses(&format!("{line} --report model"), "model is a directory");
    }
    sandbox.refuses("analyze model -o one --report one", "one: both");
}
