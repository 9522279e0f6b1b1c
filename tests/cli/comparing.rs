//! `compare` measures what `compress` and `eval` give.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::support::Sandbox;

const CALIBRATE: &str = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";
const EVAL: &str = "--text story.txt --seq-len 32 --windows 2";

/// A sandbox with a calibration of `model` in `seen`, with probes.
fn probed() -> Sandbox {
    let sandbox = Sandbox::new();
    let line = format!("calibrate model --text story.txt {CALIBRATE} --probe-windows 1 -o seen");
    sandbox.gives(&line);
    sandbox
}

/// The values that an option of `compress` takes, as the program lists them.
fn values_of(sandbox: &Sandbox, option: &str) -> Vec<String> {
    let said = sandbox.run(&format!("compress model --err 0.5 -o out --{option} nothing")).stderr;
    let (_, values) = said.split_once("[possible values: ").expect("the values are listed");
    values.split(']').next().unwrap().split(", ").map(String::from).collect()
}

/// What `compress` with the options of a row writes, as `eval` and its plan describe it.
fn compressed(sandbox: &Sandbox, row: &Value, goal: &str, output: &str) -> Value {
    let [method, policy, storage] =
        ["method", "policy", "storage"].map(|field| row[field].as_str().unwrap());
    let calibration = if method == "svd" { "" } else { "--calibration seen" };
    sandbox.gives(&format!(
        "compress model {goal} --method {method} --policy {policy} --storage {storage} \
         {calibration} -o {output}"
    ));
    let lrcs = sandbox.json_file(&format!("{output}/welore_plan.json"))["totals"]["lrcs"].clone();
    let measured = sandbox.json(&format!("eval {output} {EVAL} --json"));
    json!({
        "perplexity": measured["perplexity"],
        "parameters": measured["parameters"],
        "bytes": measured["bytes"],
        "lrcs": lrcs,
    })
}

/// Every method with every policy and storage is carried out, half of them for each target: a
/// method with a policy for one target in one storage, for the other target in the other one.
#[test]
fn every_row_is_what_compress_and_eval_give() {
    let sandbox = probed();
    let [methods, mut policies, storages] =
        ["method", "policy", "storage"].map(|option| values_of(&sandbox, option));
    // These search on the model, which `plan` does.
    policies.retain(|policy| !["searched", "bolaco"].contains(&policy.as_str()));
    let line = format!(
        "compare model --calibration seen {EVAL} --keep-params 0.8 --err 0.5 --json --methods {} \
         --policies {} --storages {}",
        methods.join(","),
        policies.join(","),
        storages.join(",")
    );
    let outcome = sandbox.gives(&line);
    let left_out = outcome.stderr.lines().find(|line| line.starts_with("left out")).unwrap();
    let left_out = left_out.rsplit(": ").next().unwrap().split(", ").count();
    let compared: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let rows = compared["rows"].as_array().unwrap();
    let together = (methods.len() * policies.len() - left_out) * storages.len();
    assert_eq!(rows.len(), 1 + 2 * together, "no way to compress is missing");

    let mut cases: Vec<(&Value, &str)> = Vec::new();
    for row in &rows[1..] {
        let is_first = row["storage"] == storages[0].as_str();
        let goal = match row["target"]["keep_params"].is_number() {
            true => "--keep-params 0.8",
            false => "--err 0.5",
        };
        // `best` is another name for two-sided, so that its rows are compared below.
        if row["method"] != "best" && is_first == (goal == "--err 0.5") {
            cases.push((row, goal));
        }
    }
    let check = |(place, (row, goal)): (usize, &(&Value, &str))| {
        let found = compressed(&sandbox, row, goal, &format!("low-{place}"));
        for field in ["parameters", "bytes", "lrcs"] {
            assert_eq!(found[field], row[field], "{field} of {row}");
        }
        let [found, row_has] = [&found, *row].map(|of| of["perplexity"].as_f64().unwrap());
        assert!((found / row_has - 1.0).abs() < 1e-9, "{found} for {row}");
    };
    thread::scope(|scope| {
        let half = |first: usize| cases.iter().enumerate().skip(first).step_by(2);
        let other = scope.spawn(move || half(1).for_each(check));
        half(0).for_each(check);
        other.join().unwrap();
    });

    let of = |method: &str| -> Vec<Value> {
        let rows = rows.iter().filter(|row| row["method"] == method).cloned();
        let nameless = rows.map(|mut row| {
            let fields = row.as_object_mut().unwrap();
            fields.retain(|field, _| !["method", "seconds"].contains(&field.as_str()));
            row
        });
        nameless.collect()
    };
    assert_eq!(of("best"), of("two-sided"));
}

#[test]
fn weights_alone_need_no_calibration_and_other_methods_calibrate_by_themselves() {
    let sandbox = Sandbox::new();
    let compared = sandbox.json(&format!(
        "compare model {EVAL} --methods svd --policies energy,uniform,energy --err 0.4 \
         --max-bytes 340kB,370kB --err-applied 0.3 --json"
    ));
    let rows = compared["rows"].as_array().unwrap();
    let targets: Vec<String> = rows[1..].iter().map(|row| row["target"].to_string()).collect();
    assert_eq!(targets.len(), 8, "each once: {targets:?}");
    let distinct: BTreeSet<&String> = targets.iter().collect();
    assert_eq!(distinct.len(), 4, "{targets:?}");
    assert_eq!((&compared["calibration"], &rows[1]["norm"]), (&Value::Null, &json!("weights")));

    let line = format!("compare model {EVAL} {CALIBRATE} --keep-params 0.8");
    let outcome = sandbox.gives(&format!("{line} --methods whitened,best --json"));
    assert!(outcome.stderr.contains("a text that the model writes"), "{}", outcome.stderr);
    let own: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(own["calibrated_on"][0]["name"], "self");
    let line = format!("compare model {EVAL} --keep-params 0.8");
    sandbox.refuses(
        &format!("{line} --no-calibration --methods svd,best"),
        "--no-calibration: method best needs a calibration",
    );
    let plain = sandbox.json(&format!("{line} --no-calibration --json"));
    assert_eq!(plain["rows"].as_array().unwrap().len(), 2, "only svd is left");
}

#[test]
fn policies_that_do_not_go_with_a_method_are_left_out_unless_they_are_typed_with_it() {
    let sandbox = Sandbox::new();
    let line = format!("compare model {EVAL} --err 0.5 --json --methods");
    let outcome = sandbox.gives(&format!("{line} svd --policies loss,energy"));
    assert!(outcome.stderr.contains("svd/loss"), "{}", outcome.stderr);
    let compared: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let policies: Vec<&Value> =
        compared["rows"].as_array().unwrap().iter().map(|row| &row["policy"]).collect();
    assert_eq!(policies, ["", "energy"]);
    sandbox.refuses(&format!("{line} svd --policies loss"), "--policies: none goes");
    sandbox.refuses(&format!("{line} svd/loss --policies energy"), "--policies");
    sandbox.refuses(&format!("{line} svd/loss"), "policy loss");
}

#[test]
fn plans_are_carried_out_in_their_own_norm_and_with_their_own_calibration() {
    let sandbox = probed();
    sandbox.gives("plan model --calibration seen --method two-sided --err 0.5 -o loss.json");
    sandbox.gives("plan model --method svd --policy energy --err 0.5 --never-grow -o plain.json");
    let line = format!("compare model {EVAL} --plan plain.json,loss.json");
    sandbox.refuses(&line, "loss.json: the plan was made with a calibration");
    let compared = sandbox.json(&format!("{line} --calibration seen --json"));
    let rows = compared["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "no target is added to plans");
    for (row, [plan, norm, options]) in rows[1..]
        .iter()
        .zip([["plain.json", "weights", ""], ["loss.json", "loss", "--calibration seen"]])
    {
        assert_eq!((&row["plan"], &row["norm"]), (&json!(plan), &json!(norm)));
        sandbox.gives(&format!("compress model --plan {plan} {options} -o {norm}"));
        let measured = sandbox.json(&format!("eval {norm} {EVAL} --json"));
        assert_eq!(row["parameters"], measured["parameters"]);
        let [a, b] = [row, &measured].map(|of| of["perplexity"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-9, "{a} for {b}");
    }
    sandbox.gives(&format!("calibrate model --text story.txt {CALIBRATE} -o other"));
    let message = sandbox.refuses(&format!("{line} --calibration other"), "another calibration");
    assert!(message.contains("loss.json: "), "{message}");
    sandbox.refuses(&format!("{line} --calibration seen --other-calibration"), "this calibration");
    // Plans of the same name in several directories are told apart.
    fs::create_dir(sandbox.path("plans")).unwrap();
    sandbox.write("plans/plain.json", sandbox.read("plain.json"));
    let line = line.replace("plain.json", "plans/plain.json");
    let printed = sandbox.gives(&format!("{line} --calibration other --other-calibration")).stdout;
    assert!(printed.contains("plan plans/plain.json"), "{printed}");
}

#[test]
fn results_say_what_was_measured_on_which_tokens() {
    let sandbox = Sandbox::new();
    sandbox.write("other, \"text\".txt", sandbox.read("story.txt"));
    let compare = format!("compare model {EVAL} --methods svd/energy --err 0.5");
    let compared = sandbox.json(&format!("{compare} --json"));
    let evaluated = sandbox.json(&format!("eval model {EVAL} --json"));
    for result in [&compared, &evaluated] {
        assert_eq!(result["model"], "model");
        assert_eq!((&result["seq_len"], &result["windows"]), (&json!(32), &json!(2)));
        for field in ["dtype", "backend", "device", "version"] {
            assert!(result[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
        }
        assert!(result["seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(compared["model_digest"], evaluated["model_digest"]);
    assert_eq!(compared["text_digests"][0], evaluated["text_digest"]);
    assert_eq!(compared["rows"][0]["perplexity"], evaluated["perplexity"]);
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        tensors.values_mut().next().unwrap().data[0] ^= 1;
    });
    let changed = sandbox.json(&format!("eval model {EVAL} --json"));
    assert_ne!(changed["model_digest"], evaluated["model_digest"]);

    let mut command = sandbox.command(&format!("{compare} --csv"));
    let output = command.args(["--text", "other, \"text\".txt"]).output().unwrap();
    let csv = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(lines[0].contains(",perplexity,\"perplexity on other, \"\"text\"\".txt\","), "{csv}");
    assert!(lines[2].starts_with("ERR 0.5,svd,energy,factors,weights,"), "{csv}");
    sandbox.misused(&format!("{compare} --csv --json"), "--csv");
}

#[test]
fn run_that_is_given_as_a_model_to_record_is_told_from_its_model() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("train low --text story.txt --seq-len 32 --batch-size 1 --steps 1 -o run");
    let line = format!("eval run {EVAL} --record");
    sandbox.refuses(&line, "the directory of a training run");
    assert!(sandbox.run(&line).stderr.contains("run/model"));
    sandbox.gives(&format!("eval run/model {EVAL} --record"));
}

#[test]
fn warnings_name_the_rows_that_they_are_about_once_for_each_kind() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.15 --min-ratio 0 -o plan.json");
    let said = sandbox
        .gives(&format!(
            "compare model {EVAL} --methods svd/welore --err 0.1,0.2 --min-ratio 0 --plan plan.json"
        ))
        .stderr;
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{said}");
    for named in
        ["LRCs become larger", "ERR 0.1 (", "ERR 0.2 (", "plan plan.json (", "--never-grow"]
    {
        assert!(warnings[0].contains(named), "{named}: {said}");
    }
}

#[test]
fn a_matrix_that_two_rows_compress_in_the_same_way_is_compressed_once() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 --min-ratio 0 -o one.json");
    sandbox.gives("plan model --err 0.5 --min-ratio 0 -o two.json");
    sandbox.edit_json("two.json", |plan| {
        let mut matrices = plan["matrices"].as_array_mut().unwrap().iter_mut();
        let first = matrices.find(|matrix| matrix["form"]["kind"] == "factors").unwrap();
        first["form"] = json!({ "kind": "factors", "rank": 2 });
        first["rank"] = json!(2);
    });
    let line = format!("compare model {EVAL} --plan one.json,two.json");
    let outcome = sandbox.gives(&format!("{line} --json"));
    let all = sandbox.json("plan one.json --json")["totals"]["lrcs"].as_u64().unwrap();
    let told = format!("{} of {all} matrices were compressed before", all - 1);
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
    let compared: Value = serde_json::from_str(&outcome.stdout).unwrap();
    sandbox.gives("compress model --plan two.json -o two");
    let measured = sandbox.json(&format!("eval two {EVAL} --json"));
    let [a, b] = [&compared["rows"][2], &measured].map(|of| of["perplexity"].as_f64().unwrap());
    assert!((a / b - 1.0).abs() < 1e-9, "{a} for {b}");
}

#[test]
fn models_that_exist_are_measured_as_they_are() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("export low --gguf low.gguf --dtype f16");
    let line = format!("compare model {EVAL} --kl --models low.rank=low --models low.gguf");
    let drawn = "--report page.html --picture picture.svg";
    let outcome = sandbox.gives(&format!("{line} --json {drawn}"));
    let compared: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let rows = compared["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "no target is added to models");
    for (row, name) in rows[1..].iter().zip(["low", "low.gguf"]) {
        let measured = sandbox.json(&format!("eval {name} {EVAL} --against model --json"));
        assert_eq!((&row["model"], &row["method"]), (&json!(name), &json!("as given")));
        let measures = [
            [&row["perplexity"], &measured["perplexity"]],
            [&row["kl"], &measured["divergence"]["kl"]["value"]],
        ];
        for [found, expected] in measures.map(|pair| pair.map(|value| value.as_f64().unwrap())) {
            assert!((found / expected - 1.0).abs() < 1e-9, "{found} for {expected} of {name}");
        }
    }
    let plan = sandbox.json_file("low/welore_plan.json");
    assert_eq!(rows[1]["lrcs"], plan["totals"]["lrcs"]);
    assert_eq!(rows[1]["kept"], plan["totals"]["keep_params"]);
    assert_eq!((&rows[2]["lrcs"], &rows[2]["kept"]), (&json!(0), &json!(1.0)));
    assert_eq!(rows[2]["bytes"], sandbox.read("low.gguf").len(), "the whole file counts");
    let page = String::from_utf8(sandbox.read("page.html")).unwrap();
    assert!(page.contains("\"divergences\":{\"story.txt\""));
    let series = [&rows[0], &rows[1], &rows[2]].map(|row| &row["series"]);
    assert_eq!(series, [&Value::Null, &json!("low.rank"), &Value::Null]);
    assert!(page.contains("\"series\":\"low.rank\""));
    let picture = String::from_utf8(sandbox.read("picture.svg")).unwrap();
    assert!(picture.contains(">low.rank</text>") && picture.contains("story.txt"), "{picture}");

    // What was measured is drawn again without measuring.
    sandbox.write("compared.json", outcome.stdout);
    sandbox.gives("report --compare compared.json -o other.html --picture other.svg");
    let labels = |svg: &str| svg.matches("<text").count();
    let again = String::from_utf8(sandbox.read("other.svg")).unwrap();
    assert_eq!(labels(&again), labels(&picture));

    sandbox.refuses(&format!("{line},missing"), "missing");
    sandbox.refuses(&format!("{line} --methods svd"), "--methods");
    sandbox.edit_json("low/config.json", |config| config["vocab_size"] = json!(9));
    sandbox.refuses(&line, "low");
}

#[test]
fn series_that_could_mean_two_things_are_refused_before_the_work() {
    let sandbox = Sandbox::new();
    let line = format!("compare model {EVAL} --kl --models");
    sandbox.misused(&format!("{line} one=a,two=b"), "give `two=b` to another one");
    sandbox.misused(&format!("{line} =a"), "needs a name");
    sandbox.misused(&format!("{line} one=a,"), "a model is missing");
    sandbox.refuses(&format!("{line} one=a --models two=b,a"), "a is given twice");
    let parts = "m-00001-of-00002.gguf,m-00002-of-00002.gguf";
    sandbox.refuses(&format!("{line} {parts}"), "m-00002-of-00002.gguf is given twice");
    sandbox.duplicate("model", "one=a");
    sandbox.refuses(&format!("{line} one=a"), "both a path and a model of a series `one`");
    // It is known to be a path, and it is the dense model.
    let compared = sandbox.json(&format!("{line} ./one=a --json"));
    assert_eq!(compared["rows"][1]["kl"], 0.0);
}

#[test]
fn pictures_need_divergences_and_a_file_of_their_own() {
    let sandbox = Sandbox::new();
    let line = format!("compare model {EVAL} --methods svd/energy --err 0.5");
    sandbox.misused(&format!("{line} --picture new.svg"), "--kl");
    sandbox.refuses(&format!("{line} --kl --report one --picture one"), "one: both");
    let message = sandbox.refuses(&format!("{line} --kl --picture story.txt"), "story.txt");
    assert!(message.contains("is an input"), "{message}");
    sandbox.write("compared.json", sandbox.gives(&format!("{line} --json")).stdout);
    let report = "report --compare compared.json -o page.html --picture new.svg";
    sandbox.refuses(report, "compared.json: there are no KL divergences");
    sandbox.misused("report -o page.html --picture new.svg", "--compare");
}
