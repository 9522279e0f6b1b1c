//! Options and texts that cannot be used.

use safetensors::Dtype;

use crate::support::{Outcome, Sandbox, Tensor};

#[test]
fn err_outside_0_and_1_is_refused() {
    let sandbox = Sandbox::new();
    for err in ["0", "1", "-1", "1.5"] {
        sandbox.refuses(&format!("plan model --err={err} -o plan.json"), "ERR");
        sandbox.refuses(&format!("compress model --err={err} -o out"), "ERR");
        sandbox.refuses(&format!("plan model --err-applied={err} -o plan.json"), "ERR");
    }
}

#[test]
fn err_that_leaves_a_matrix_without_rank_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.refuses("plan model --err 0.999 -o plan.json", "ERR 0.999");
    sandbox.refuses("compress model --err 0.5 --rank-multiple 64 -o out", "rank multiple of 64");
}

#[test]
fn other_planning_options_out_of_range_are_named() {
    let sandbox = Sandbox::new();
    for (option, named) in [
        ("--min-ratio 1", "min_ratio 1"),
        ("--min-ratio=-0.5", "min_ratio -0.5"),
        ("--rank-multiple 0", "rank multiple"),
    ] {
        sandbox.refuses(&format!("plan model --err 0.5 {option} -o plan.json"), named);
        sandbox.refuses(&format!("compress model --err 0.5 {option} -o out"), named);
    }
}

#[test]
fn patterns_that_match_nothing_are_named() {
    let sandbox = Sandbox::new();
    for (option, named) in [
        ("--include qproj", "`qproj`"),
        ("--include q_proj,layers.7.*", "`layers.7.*`"),
        ("--exclude nothing", "`nothing`"),
        ("--include [q", "`[q`"),
        ("--exclude *", "no matrix"),
    ] {
        sandbox.refuses(&format!("analyze model {option} -o spectra.json"), named);
        sandbox.refuses(&format!("compress model --err 0.5 {option} -o out"), named);
    }
}

/// Decomposing a real model takes minutes, which a mistake in an option should not waste.
#[test]
fn options_are_looked_at_before_the_model() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        let name = "model.layers.0.mlp.down_proj.weight".to_string();
        tensors.insert(name, Tensor::zeros(Dtype::I16, &[64, 160]));
    });
    sandbox.refuses("plan model --err 1.5", "ERR 1.5");
    sandbox.refuses("compress model --err 0.5 --min-ratio 1 -o out", "min_ratio 1");
    sandbox.refuses("compress model --err 0.5 --rank-multiple 0 -o out", "rank multiple");
    sandbox.refuses("analyze model -o nowhere/spectra.json", "nowhere/spectra.json");
}

#[test]
fn command_lines_that_make_no_sense_explain_the_usage() {
    let sandbox = Sandbox::new();
    for (line, named) in [
        ("inspect model --frobnicate", "--frobnicate"),
        ("compres model", "compress"),
        ("compress model -o out", "--err"),
        ("compress model --err 0.5", "--output"),
        ("compress model --plan plan.json --err 0.5 -o out", "--plan"),
        ("compress model --plan plan.json --err-applied 0.5 -o out", "--err-applied"),
        ("compress model --plan plan.json --min-ratio 0 -o out", "--min-ratio"),
        ("plan model --err 0.5 --err-applied 0.5", "--err-applied"),
        ("plan model --keep-params 0.5 --err-applied 0.5", "--err-applied"),
        ("plan model --max-bytes 1MB --err-applied 0.5", "--err-applied"),
        ("train --resume run --err-applied 0.5", "--err-applied"),
        ("train model --from-scratch --err-applied 0.5 --text story.txt -o run", "--err-applied"),
        ("train model --plan p --err-applied 0.5 --text story.txt -o run", "--err-applied"),
        ("compress model --plan plan.json --include q_proj -o out", "--include"),
        ("plan model", "--err"),
        ("plan model --err half", "half"),
        ("plan model --err 0.5 --policy fair", "welore, uniform"),
        ("eval model --text story.txt --seq-len many", "many"),
    ] {
        sandbox.misused(line, named);
    }
}

#[test]
fn negative_numbers_are_values_and_not_flags() {
    let sandbox = Sandbox::new();
    sandbox.refuses("plan model --err -1", "ERR -1");
    sandbox.refuses("plan model --err 0.5 --min-ratio -1", "min_ratio -1");
    sandbox.refuses("generate model --prompt Mia --temperature -1", "temperature -1");
}

#[test]
fn texts_that_cannot_be_evaluated_are_named() {
    let sandbox = Sandbox::new();
    let texts: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b" \n\n\t", "empty"),
        (b"caf\xe9", "byte 3"),
        (b"Mia had a red apple.", "512"),
    ];
    for (text, problem) in texts {
        sandbox.write("text.txt", text);
        let message = sandbox.refuses("eval model --text text.txt", "text.txt");
        assert!(message.contains(problem), "{message}");
    }
    sandbox.refuses("eval model --text nowhere.txt", "nowhere.txt");
    sandbox.refuses("eval model --text model", "model");
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    for (option, named) in [
        ("--seq-len 0", "at least 2 tokens"),
        ("--seq-len 1", "at least 2 tokens"),
        ("--seq-len 513", "context of 512"),
        ("--seq-len 18446744073709551615", "context of 512"),
        ("--windows 0", "at least 1 window"),
    ] {
        sandbox.refuses(&format!("eval model --text story.txt {option}"), named);
    }
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let sandbox = Sandbox::new();
    let long = "apple".repeat(600);
    sandbox.refuses(&format!("generate model --prompt {long}"), "context is 512");
    sandbox.refuses("generate model --prompt=", "prompt is empty");
}

#[test]
fn a_prompt_without_its_option_is_told_where_it_goes() {
    let sandbox = Sandbox::new();
    for words in [
        &["generate", "model", "The capital of France is"][..],
        &["generate", "model", "--prompt", "The", "capital"],
        &["--quiet", "generate", "model", "--json", "Mia"],
    ] {
        let outcome = Outcome::of(sandbox.command("").args(words));
        let message = outcome.complaint(2);
        assert!(message.contains("needs --prompt"), "{message}");
        assert!(outcome.stderr.contains("hint: welore-cli generate MODEL --prompt \"TEXT\""));
    }
    sandbox.misused("generate model --promt Mia", "--promt");
    sandbox.misused("inspect model Mia", "Mia");
}

/// Loading a real model takes a while, which a mistake in a text should not waste.
#[test]
fn texts_are_looked_at_before_weights() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        let weight = tensors.get_mut("model.layers.0.mlp.down_proj.weight").unwrap();
        weight.data.fill(0xff);
    });
    sandbox.write("short.txt", "a");
    sandbox.refuses("generate model --prompt=", "prompt is empty");
    sandbox.refuses("eval model --text short.txt", "short.txt: the text has 1 token");
    sandbox.refuses("eval model --text story.txt --seq-len 64 --windows 0", "at least 1 window");
    let tuned = "--seq-len 32 --batch-size 2 --steps 1 --warmup 0 -o run";
    sandbox.refuses(
        &format!("train model --err 0.8 --text short.txt {tuned}"),
        "short.txt: there is too little to train on",
    );
    assert!(sandbox.cached().is_empty(), "a matrix was measured");
}

#[test]
fn shares_may_be_percentages() {
    let sandbox = Sandbox::new();
    let plan = |share: &str| sandbox.gives(&format!("plan model --json {share}")).stdout;
    assert_eq!(plan("--keep-params 80%"), plan("--keep-params 0.8"));
    assert_eq!(plan("--err 55% --min-ratio 25%"), plan("--err 0.55 --min-ratio 0.25"));
    sandbox.write("settings.toml", "[plan]\nkeep-params = \"80%\"\n");
    assert_eq!(plan("--config settings.toml"), plan("--keep-params 0.8"));
}

#[test]
fn sampling_options_out_of_range_are_named() {
    let sandbox = Sandbox::new();
    for (option, named) in [
        ("--temperature=-1", "temperature -1"),
        ("--temperature 1 --top-k 0", "top_k"),
        ("--temperature 1 --top-p 0", "top_p 0"),
        ("--temperature 1 --top-p 1.5", "top_p 1.5"),
    ] {
        sandbox.refuses(&format!("generate model --prompt Mia {option}"), named);
    }
}

/// What is given to an option that takes something else is named, with the option that takes it.
#[test]
fn files_that_are_taken_for_each_other_are_told_apart() {
    let sandbox = Sandbox::new();
    let amount = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";
    sandbox.gives(&format!("calibrate model --text story.txt {amount} -o seen"));
    sandbox.gives("analyze model -o spectra.json");
    sandbox.gives("plan spectra.json --err 0.5 -o plan.json");
    sandbox.gives("compress model --err 0.5 -o low");
    let calibrated = "--keep-params 0.8 --calibration";
    let files = [
        ("seen", "a calibration", "--calibration seen"),
        ("plan.json", "a plan", "--plan plan.json"),
        ("spectra.json", "a file of spectra", "`welore-cli plan spectra.json"),
        ("story.txt", "a text", "--calibrate story.txt"),
        ("model", "a model directory", ""),
        ("low", "a model directory", ""),
    ];
    let lines = [
        (format!("compress model -o out {calibrated}"), "a calibration"),
        (format!("plan model {calibrated}"), "a calibration"),
        ("compare model --text story.txt --calibration".into(), "a calibration"),
        ("compress model -o out --plan".into(), "a plan"),
        ("compare model --text story.txt --plan".into(), "a plan"),
        ("train model --text story.txt -o run --plan".into(), "a plan"),
        ("eval model --text".into(), "a text"),
        ("compare model --text".into(), "a text"),
        (format!("compare model --text story.txt {amount} --calibrate"), "a text"),
        (format!("calibrate model {amount} -o new --text"), "a text"),
        (format!("compress model --keep-params 0.8 {amount} -o out --calibrate"), "a text"),
        ("train model -o run --text".into(), "a text"),
        ("train model --text story.txt -o run --eval-text".into(), "a text"),
    ];
    for (line, wanted) in &lines {
        // A directory may have a plan.
        let is_taken = |file: &str, what: &str| {
            what == *wanted || matches!((file, *wanted), ("low" | "model", "a plan"))
        };
        for (file, what, hint) in files.iter().filter(|(file, what, _)| !is_taken(file, what)) {
            let outcome = sandbox.run(&format!("{line} {file}"));
            let message = outcome.complaint(2);
            assert!(message.contains(&format!("{file} is {what}, not {wanted}")), "{message}");
            assert!(outcome.stderr.contains(hint), "`{line} {file}` says: {}", outcome.stderr);
        }
    }
    sandbox.gives("compress model -o out --plan low");
}

#[test]
fn a_page_is_about_one_model() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "tuned");
    sandbox.edit_tensors("tuned/model.safetensors", |tensors| {
        tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().data[0] ^= 1;
    });
    sandbox.add("tiny-llama3", "other");
    for model in ["model", "tuned", "other"] {
        sandbox.gives(&format!("analyze {model} -o {model}.json"));
        sandbox.gives(&format!("plan {model}.json --err 0.5 --min-ratio 0 -o {model}-plan.json"));
    }
    let compare = "compare model --text story.txt --seq-len 32 --windows 1 --methods svd --err 0.5";
    sandbox.write("compared.json", sandbox.gives(&format!("{compare} --json")).stdout);
    let spectra = "report -o page.html --spectra model.json";
    sandbox.gives(&format!("{spectra} --plan model-plan.json --compare compared.json"));
    sandbox.refuses(
        &format!("{} --plan tuned-plan.json", spectra.replace("page", "new")),
        "model.json and tuned-plan.json are of different models: `model.layers.1.mlp.up_proj`",
    );
    sandbox.refuses(
        "report --plan other-plan.json --compare compared.json -o new.html",
        "other-plan.json and compared.json are of different models: one has ",
    );
}
