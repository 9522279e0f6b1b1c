//! `compress --forms channels`: a dense model whose MLPs have fewer channels.

use serde_json::{Value, json};

use crate::support::Sandbox;

const CALIBRATE: &str = "calibrate model --text story.txt --calibration-seq-len 64 \
                         --calibration-windows 6 --gradient-windows 2 -o seen";
const COMPRESS: &str = "compress model --forms channels --calibration seen";

fn calibrated() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    sandbox
}

#[test]
fn narrow_model_is_dense_and_as_small_as_was_told() {
    let sandbox = calibrated();
    sandbox.write("model/README.md", "---\nlicense: mit\n---\n# The base\n");
    let line = format!("{COMPRESS} --keep-params 0.8 --json");
    let dry = sandbox.json(&format!("{line} --dry-run -o narrow"));
    assert!(!sandbox.path("narrow").exists(), "a dry run writes nothing");
    let told = sandbox.json(&format!("{line} --for transformers -o narrow"));
    let widths = json!([96, 96, 96, 96]);
    assert_eq!((&told["widths"], &dry["widths"]), (&widths, &widths));
    assert!(told["keep_params"].as_f64().unwrap() <= 0.8);
    assert!(told["expected_loss"].as_f64().unwrap() > 0.0);
    let found = sandbox.json("inspect narrow --json");
    for (key, after) in [("parameters", "parameters_after"), ("bytes", "bytes_after")] {
        assert_eq!(found[key], told[after], "{key}");
        assert_eq!(found[key], dry[after], "{key}");
    }
    assert_eq!((&found["factored"], &found["plan"]), (&Value::Array(vec![]), &Value::Null));
    let (before, mut after) =
        (sandbox.json_file("model/config.json"), sandbox.json_file("narrow/config.json"));
    assert_eq!(after["intermediate_size"], 96);
    after["intermediate_size"] = before["intermediate_size"].clone();
    assert_eq!(after, before, "nothing else changed");
    // It is a model like any other, with a card to which scores can be added.
    sandbox.gives("eval narrow --text story.txt --seq-len 64 --windows 2 --record");
    let card = String::from_utf8(sandbox.read("narrow/README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: mit\n") && card.contains("# model, fewer channels\n"));
    assert!(card.contains("96 of 160 in each MLP") && card.contains("| perplexity | "), "{card}");
    // Without JSON it says the same, and the same command gives the same bytes.
    let said = sandbox.gives(&format!("{COMPRESS} --keep-params 0.8 -o again")).stdout;
    assert!(said.contains("96 of 160 in each MLP") && said.contains("wrote again"), "{said}");
    assert!(sandbox.read("again/model.safetensors") == sandbox.read("narrow/model.safetensors"));
}

#[test]
fn each_layer_has_its_own_width_where_that_is_asked_for() {
    let sandbox = calibrated();
    let goal = "--widths each --width-multiple 1 --keep-params 0.7";
    let told = sandbox.json(&format!("{COMPRESS} {goal} -o narrow --json"));
    assert_eq!(sandbox.json_file("narrow/config.json")["intermediate_size"], told["widths"]);
    sandbox.gives("eval narrow --text story.txt --seq-len 64 --windows 2");
    sandbox.gives("export narrow --gguf narrow.gguf");
    let found = sandbox.json("inspect narrow.gguf --json");
    assert_eq!(found["config"]["intermediate_sizes"], told["widths"]);
    let said = sandbox.gives("inspect narrow").stdout;
    assert!(said.contains(" to "), "{said}");
    // Of such a model even more can be left out.
    let calibrate = CALIBRATE.replace("calibrate model", "calibrate narrow");
    sandbox.gives(&calibrate.replace("-o seen", "-o again"));
    let line = "compress narrow --forms channels --calibration again --keep-params 0.7 -o narrower";
    let widths = || told["widths"].as_array().unwrap().iter().map(|width| width.as_u64().unwrap());
    let (least, most) = (widths().min().unwrap(), widths().max().unwrap());
    let said = sandbox.gives(line).stdout;
    assert!(least < most && said.contains(&format!(" of {least} to {most} in each MLP")), "{said}");
}

/// Fewer channels and lower ranks, of which only 8 and those of queries are to be had.
const JOINT: &str = "compress model --forms channels,factors --calibration seen --widths each \
                     --width-multiple 1 --set-rank q_proj=8 --min-rank 8 --max-rank 8";

#[test]
fn channels_and_ranks_share_a_budget_of_parameters() {
    let sandbox = calibrated();
    let line = format!("{JOINT} --keep-params 0.8 --json");
    let dry = sandbox.json(&format!("{line} --dry-run -o joint"));
    assert!(!sandbox.path("joint").exists(), "a dry run writes nothing");
    let told = sandbox.json(&format!("{line} -o joint"));
    for key in ["widths", "keep_params", "parameters_after", "expected_loss"] {
        assert_eq!(told[key], dry[key], "{key}");
    }
    let ranks = |of: &Value| -> Vec<Value> {
        let factored = of["factored"].as_array().unwrap().iter();
        factored.map(|matrix| json!([matrix["name"], matrix["rank"]])).collect()
    };
    assert_eq!(ranks(&told), ranks(&dry));
    // Channels and ranks are measured as stored, in one norm, as they were weighed.
    let (expected, stored) = (&told["expected_loss"], &told["stored_loss"]);
    let ratio = stored.as_f64().unwrap() / expected.as_f64().unwrap();
    assert!((0.98..1.1).contains(&ratio), "{stored} for {expected}");
    let plan = sandbox.json_file("joint/welore_plan.json");
    assert_eq!(&plan["totals"]["stored_loss"], stored);
    let stated = plan["matrices"].as_array().unwrap().iter().filter(|m| !m["error"].is_null());
    assert_eq!(stated.count(), ranks(&told).len());
    assert!(told["stored_error"].as_f64() >= told["relative_error"].as_f64());
    let (kept, factored) = (told["keep_params"].as_f64().unwrap(), &told["factored"]);
    assert!(kept <= 0.8 && kept > 0.79, "{kept}");
    assert!(factored.as_array().unwrap().len() >= 4, "{factored}");
    let found = sandbox.json("inspect joint --json");
    for (key, after) in [("parameters", "parameters_after"), ("bytes", "bytes_after")] {
        assert_eq!(found[key], told[after], "{key}");
    }
    assert_eq!(sandbox.json_file("joint/config.json")["intermediate_size"], told["widths"]);
    let card = String::from_utf8(sandbox.read("joint/README.md")).unwrap();
    assert!(card.contains("- Channels: ") && card.contains("are factored"), "{card}");
    assert!(card.contains(&format!("| parameters | {} |", told["parameters_before"])), "{card}");
    // The dense export computes the same.
    sandbox.gives("export joint --dense -o dense");
    let eval = "--text story.txt --seq-len 64 --windows 2 --json";
    let [joint, dense] = ["joint", "dense"].map(|dir| {
        let found = sandbox.json(&format!("eval {dir} {eval}"));
        found["perplexity"].as_f64().unwrap()
    });
    assert!((joint / dense - 1.0).abs() < 1e-2, "{joint} and {dense}");
    // The same command gives the same bytes, and says the same in words.
    let said = sandbox.gives(&format!("{JOINT} --keep-params 0.8 -o again")).stdout;
    assert!(said.contains("of 160 in each MLP") && said.contains("wrote again"), "{said}");
    assert!(said.contains("as stored by") && said.contains("error  "), "{said}");
    assert!(sandbox.read("again/model.safetensors") == sandbox.read("joint/model.safetensors"));
}

#[test]
fn channels_and_ranks_that_cannot_be_weighed_together_are_refused() {
    let sandbox = calibrated();
    let line = "compress model --forms channels,pivot --calibration seen -o out";
    let goal = format!("{line} --keep-params 0.8");
    for (line, named) in [
        (format!("{line} --max-bytes 300kB"), "--keep-params"),
        (format!("{line} --err 0.3"), "--keep-params"),
        (format!("{line} --keep-params 0.001"), "out of reach"),
        (format!("{goal} --policy energy"), "--policy energy"),
        (format!("{goal} --method svd"), "--method svd"),
        (format!("{goal} --method sequential"), "--method sequential"),
        (format!("{goal} --storage pivot"), "--storage"),
        (format!("{goal} --refine 1"), "--refine"),
        (format!("{goal} --keep-dense up_proj"), "has a form that is fixed"),
        (format!("{goal} --exclude down_proj"), "down_proj` is not selected"),
        (format!("{goal} --for transformers"), "--for"),
        (goal.replace("pivot", "pivot,blocks"), "`blocks`"),
        (goal.replace("--calibration seen", "--no-calibration"), "--no-calibration"),
    ] {
        sandbox.refuses(&line, named);
    }
}

#[test]
fn what_is_not_possible_is_refused_before_any_work() {
    let sandbox = calibrated();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives(
        &CALIBRATE.replace("--gradient-windows 2 -o seen", "--gradient-windows 0 -o inputs"),
    );
    let goal = format!("{COMPRESS} -o out --keep-params");
    for (line, named) in [
        (format!("{goal} 0.2"), "the nearest is a share of 0.4286 of the parameters"),
        (format!("{goal} 80"), "80"),
        (format!("{goal} 0.8 --exclude down_proj"), "down_proj` is not selected"),
        (format!("{goal} 0.8 --exclude nosuch"), "`nosuch`"),
        (format!("{goal} 0.8 --shrink-inputs -1"), "--shrink-inputs"),
        (goal.replace("channels", "dense,channels") + " 0.8", "only `channels` alone"),
        (goal.replace("channels", "pivot") + " 0.8", "--forms pivot"),
        (goal.replace("--forms channels", "--for transformers") + " 0.8", "--forms channels"),
        (format!("{goal} 0.8 --for llama.cpp"), "--for llama.cpp"),
        (format!("{goal} 0.8 --for transformers --widths each"), "--widths each"),
        (goal.replace("model", "low") + " 0.8", "not dense"),
        (goal.replace("seen", "inputs") + " 0.8", "gradients"),
        (format!("{COMPRESS} -o out --max-bytes 1GB"), "no channel would be left out"),
        (format!("{COMPRESS} -o out --err 0.5"), "--err"),
        (format!("{COMPRESS} -o model --keep-params 0.8"), "model"),
    ] {
        sandbox.refuses(&line, named);
    }
}
