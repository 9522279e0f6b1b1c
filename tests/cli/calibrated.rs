//! Compression with a calibration, with every method.

use serde_json::{Value, json};

use crate::support::Sandbox;

const CALIBRATE: &str = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";
const EVAL: &str = "--text story.txt --seq-len 64 --windows 8 --json";

/// A sandbox with a calibration of `model` in `seen`.
fn calibrated() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("calibrate model --text story.txt {CALIBRATE} -o seen"));
    sandbox
}

fn perplexity(sandbox: &Sandbox, model: &str) -> f64 {
    sandbox.json(&format!("eval {model} {EVAL}"))["perplexity"].as_f64().unwrap()
}

#[test]
fn every_method_meets_the_target_and_better_ones_lose_less() {
    let sandbox = calibrated();
    let mut found = Vec::new();
    for method in ["svd", "whitened", "two-sided", "sequential", "best"] {
        // Each option where it has an effect.
        let options =
            if method == "svd" { "--policy welore --min-ratio 0" } else { "--calibration seen" };
        let goal = "--keep-params 0.7 --storage pivot";
        sandbox.gives(&format!("compress model --method {method} {options} {goal} -o {method}"));
        let low = sandbox.json(&format!("inspect {method} --json"));
        assert!(low["plan"]["totals"]["keep_params"].as_f64().unwrap() <= 0.7, "{method}");
        assert_eq!(low["parameters"], low["plan"]["totals"]["parameters_after"], "{method}");
        assert_eq!(low["bytes"], low["plan"]["totals"]["bytes_after"], "{method}");
        found.push((method, perplexity(&sandbox, method)));
    }
    let of = |method| found.iter().find(|(name, _)| *name == method).unwrap().1;
    assert!(of("whitened") < of("svd"), "{found:?}");
    assert!(of("two-sided") < of("svd"), "{found:?}");
    assert_eq!(of("best"), of("two-sided"), "best is another name for two-sided");
}

#[test]
fn compressing_on_a_text_is_calibrating_planning_and_compressing() {
    let sandbox = calibrated();
    sandbox.gives("plan model --calibration seen --keep-params 0.8 -o plan.json");
    sandbox.gives("compress model --plan plan.json --calibration seen -o planned");
    sandbox.gives(&format!(
        "compress model --calibrate story.txt {CALIBRATE} --keep-params 0.8 -o direct"
    ));
    for file in ["model.safetensors", "config.json"] {
        let [a, b] = ["planned", "direct"].map(|dir| sandbox.read(&format!("{dir}/{file}")));
        assert!(a == b, "{file} differs");
    }
    let plan = sandbox.json_file("plan.json");
    assert_eq!((&plan["policy"], &plan["unit"]), (&"loss".into(), &"loss".into()));
    assert!(plan["totals"]["err"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_calibration_that_compress_makes_can_be_kept_for_other_targets() {
    let sandbox = calibrated();
    let line = format!("compress model --calibrate story.txt {CALIBRATE} --keep-params 0.8 -o low");
    let said = sandbox.gives(&format!("{line} --dry-run --save-calibration kept")).stderr;
    assert!(said.contains("wrote kept"), "{said}");
    assert!(sandbox.read("kept") == sandbox.read("seen"), "it is what `calibrate` writes");
    sandbox.gives(&line);
    sandbox.gives("plan model --calibration kept --keep-params 0.8 -o plan.json");
    assert_eq!(sandbox.json_file("plan.json"), sandbox.plan_of("low"));
    sandbox.gives("compress model --plan low/welore_plan.json --calibration kept -o again");
    assert!(sandbox.read("again/model.safetensors") == sandbox.read("low/model.safetensors"));

    // What is not kept is told before the work, and so is what a plan asks for.
    let own = format!("compress model --keep-params 0.7 {CALIBRATE} -o lower");
    assert!(sandbox.gives(&own).stderr.contains("--save-calibration FILE keeps it"));
    let asks = sandbox.run("compress model --plan plan.json -o out").stderr;
    assert!(asks.contains("--save-calibration"), "{asks}");
    for (file, named) in [
        ("low/kept", "replaced by the model"),
        ("new", "replaced by the model"),
        ("story.txt", "story.txt is an input"),
        ("page.html", "the --report page"),
        ("nowhere/kept", "nowhere/kept"),
    ] {
        let output = if file == "new" { "-o new" } else { "-o low --force" };
        let line = line.replace("-o low", output);
        let line = format!("{line} --report page.html --save-calibration {file}");
        sandbox.refuses(&line, named);
    }
}

#[test]
fn a_plan_is_carried_out_with_a_calibration_of_the_same_weights() {
    let sandbox = calibrated();
    sandbox.gives("plan model --calibration seen --keep-params 0.8 -o plan.json");
    let fewer = CALIBRATE.replace("windows 6", "windows 5");
    sandbox.gives(&format!("calibrate model --text story.txt {fewer} -o other"));
    sandbox.gives("compress model --plan plan.json --calibration seen -o same");
    let other = "compress model --plan plan.json --calibration other -o low";
    sandbox.refuses(other, "the plan was made with another calibration");
    sandbox.gives(&format!("{other} --other-calibration"));
    let own = "compress model --plan plan.json --calibration seen --other-calibration -o no";
    sandbox.refuses(own, "--other-calibration: the plan was made with this calibration");
    let calibrating = format!("compress model --plan plan.json --calibrate story.txt {CALIBRATE}");
    sandbox.refuses(&format!("{calibrating} -o no"), "--calibrate makes another one");
    sandbox.gives("plan model --err 0.5 -o plain.json");
    let outcome = sandbox
        .gives("compress model --plan plain.json --method two-sided --calibration other -o plain");
    assert!(outcome.stderr.contains("warning: the plan was made without"), "{}", outcome.stderr);

    sandbox.duplicate("model", "foreign");
    sandbox.edit_tensors("foreign/model.safetensors", |tensors| {
        let weight = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
        weight.data[0] ^= 1;
    });
    sandbox.gives(&format!("calibrate foreign --text story.txt {CALIBRATE} -o far"));
    sandbox.refuses("compress model --plan plan.json --calibration far -o no", "up_proj");
    assert!(!sandbox.path("no").exists());
}

#[test]
fn a_model_of_pivots_trains_and_exports() {
    let sandbox = calibrated();
    sandbox.gives("compress model --calibration seen --keep-params 0.6 -o low");
    let before = perplexity(&sandbox, "low");
    sandbox.gives(
        "train low --text story.txt --seq-len 64 --batch-size 4 --steps 8 --lr 1e-3 --warmup 0 \
         -o run",
    );
    let after = perplexity(&sandbox, "run/model");
    assert!(after < before, "{after} for {before}");
    let low = sandbox.json("inspect low --json");
    let tuned = sandbox.json("inspect run/model --json");
    assert_eq!(tuned["factored"], low["factored"]);
    sandbox.gives("export run/model --dense -o dense");
    let dense = perplexity(&sandbox, "dense");
    assert!((dense / after - 1.0).abs() < 1e-3, "{dense} for {after}");
    assert!(sandbox.json("inspect dense --json")["factored"].as_array().unwrap().is_empty());
}

#[test]
fn targets_in_bytes_and_parameters_are_never_exceeded() {
    let sandbox = calibrated();
    let bytes = sandbox.json("inspect model --json")["bytes"].as_u64().unwrap();
    let most = bytes * 8 / 10;
    sandbox.gives(&format!("compress model --calibration seen --max-bytes {most} -o small"));
    assert!(sandbox.json("inspect small --json")["bytes"].as_u64().unwrap() <= most);
    sandbox.refuses("compress model --max-bytes 1KB --no-calibration -o out", "out of reach");
    for share in ["0", "1", "-1"] {
        sandbox.refuses(&format!("plan model --keep-params={share}"), "share of");
    }
    assert_eq!(sandbox.run("plan model --keep-params 0.5 --err 0.5").code, Some(2));
}

#[test]
fn refinement_that_diverges_is_refused_and_leaves_nothing() {
    let sandbox = calibrated();
    let line = "compress model --calibration seen --method sequential --refine 1 \
                --refine-lr 1e30 --keep-params 0.7 -o out";
    let outcome = sandbox.run(line);
    assert!(outcome.complaint(1).contains("block 1 of the compressed model"));
    assert!(outcome.stderr.contains("--refine-lr"), "{}", outcome.stderr);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn dense_matrices_that_were_changed_are_told_everywhere() {
    let sandbox = calibrated();
    let line = "compress model --calibration seen --method sequential --keep-params 0.7 \
                --keep-dense o_proj";
    let told = sandbox.json(&format!("{line} --report page.html --json -o low"));
    let adapted = told["adapted"].as_array().unwrap();
    assert!(!adapted.is_empty(), "{told}");
    let plan = sandbox.json_file("low/welore_plan.json");
    let matrices = plan["matrices"].as_array().unwrap().iter();
    assert_eq!(matrices.filter(|matrix| matrix["adapted"] == true).count(), adapted.len());
    let inspected = sandbox.json("inspect low --json");
    assert_eq!(inspected["plan"]["adapted"].as_array().unwrap().len(), adapted.len());
    let shown = sandbox.gives("plan low").stdout;
    assert!(shown.contains("dense, fixed, adapted"), "{shown}");
    assert!(shown.contains(&format!("\nadapted    {} of ", adapted.len())), "{shown}");
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    assert!(card.contains("other entries than in the original"), "{card}");

    let told = sandbox.json(&format!("{line} --no-adapt-dense --json -o same"));
    assert_eq!(told["adapted"], serde_json::json!([]));
    let card = String::from_utf8(sandbox.read("same/README.md")).unwrap();
    assert!(!card.contains("other entries"), "{card}");
}

#[test]
fn the_order_of_use_is_told_of_what_was_made_in_it() {
    let sandbox = calibrated();
    let line = "compress model --calibration seen --keep-params 0.7 --method sequential -o low";
    sandbox.gives(line);
    assert_eq!(sandbox.json_file("low/welore_plan.json")["sequential"], true);
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    assert!(card.contains("- Matrices were made in the order of use"), "{card}");
    // Whoever carries its plan out in another way gets a plan that says so, and is told so before.
    let again = "compress model --plan low --calibration seen --method two-sided -o again";
    let told = sandbox.gives(&format!("{again} --dry-run")).stdout;
    assert!(told.contains("calibrated on") && !told.contains("order of use"), "{told}");
    sandbox.gives(again);
    assert_eq!(sandbox.json_file("again/welore_plan.json")["sequential"], Value::Null);
}

#[test]
fn compare_measures_every_method_at_every_share() {
    let sandbox = calibrated();
    let line = "compare model --text story.txt --calibration seen --keep-params 0.9,0.7 \
                --methods svd/welore,two-sided/loss/factors,best --min-ratio 0 --seq-len 64 --windows 4";
    let table = sandbox.json(&format!("{line} --json"));
    let rows = table["rows"].as_array().unwrap();
    let has = |keep: f64, method: &str| -> &Value {
        rows.iter().find(|row| row["keep"] == keep && row["method"] == method).unwrap()
    };
    assert_eq!(rows.len(), 7);
    let dense = has(1.0, "dense")["perplexity"].as_f64().unwrap();
    for keep in [0.9, 0.7] {
        for method in ["svd", "two-sided", "best"] {
            let row = has(keep, method);
            assert!(row["kept"].as_f64().unwrap() <= keep);
            assert!(row["perplexity"].as_f64().unwrap() > 0.9 * dense);
            for field in ["policy", "storage", "parameters", "bytes", "lrcs", "seconds"] {
                assert!(!row[field].is_null(), "{field}");
            }
        }
    }
    assert_eq!(has(0.9, "two-sided")["storage"], "factors");
    assert!(sandbox.gives(line).stdout.contains("two-sided"));
    sandbox.refuses(&format!("{line} --methods magic"), "`magic`");
}

#[test]
fn calibrations_that_do_not_fit_are_refused() {
    let sandbox = calibrated();
    sandbox.add("tiny-llama3", "other");
    let compress =
        |model: &str, options: &str| format!("compress {model} --keep-params 0.8 {options} -o out");
    sandbox.refuses(&compress("other", "--calibration seen"), "another model");
    sandbox.refuses(&compress("model", "--calibration story.txt"), "story.txt");
    sandbox.refuses(&compress("model", "--calibration nowhere"), "nowhere");
    sandbox
        .refuses(&compress("model", "--method two-sided --no-calibration"), "needs a calibration");
    sandbox.refuses(&compress("model", "--policy loss --no-calibration"), "calibration");
    sandbox.refuses(&compress("model", "--calibration seen --policy probed"), "probed");
    sandbox.refuses(&compress("model", "--calibration seen --shrink-inputs=-1"), "--shrink-inputs");
    sandbox.refuses(&compress("model", "--calibration seen --follow 2"), "--follow");

    let mut bytes = sandbox.read("seen");
    bytes.truncate(bytes.len() / 2);
    sandbox.write("broken", &bytes);
    sandbox.refuses(&compress("model", "--calibration broken"), "broken");
    sandbox.refuses(&compress("model", "--calibration model/model.safetensors"), "manifest");

    sandbox.gives("plan model --calibration seen --keep-params 0.8 -o plan.json");
    sandbox.refuses("compress model --plan plan.json -o out", "calibration");
}

#[test]
fn too_little_text_is_told_and_can_be_shrunk() {
    let sandbox = Sandbox::new();
    let line = "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 1";
    sandbox.refuses(&format!("{line} -o seen"), "at least 160");
    sandbox.gives(&format!("{line} --gradient-windows 0 --too-little shrink -o seen"));
    sandbox.refuses("plan model --keep-params 0.8 --calibration seen", "no gradients");
    sandbox.gives("compress model --calibration seen --method whitened --keep-params 0.8 -o low");
    sandbox.refuses(
        "calibrate model --text story.txt --calibration-seq-len 1000000 -o seen2",
        "context",
    );
    sandbox.write("empty.txt", "");
    sandbox.refuses("calibrate model --text empty.txt -o seen2", "empty");
}

#[test]
fn probes_set_estimates_straight() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!(
        "calibrate model --text story.txt {CALIBRATE} --probe-windows 1 -o probed"
    ));
    let plan = sandbox.json("plan model --calibration probed --keep-params 0.7 --json");
    sandbox.gives("compress model --calibration probed --policy probed --keep-params 0.7 -o low");
    let low = sandbox.json_file("low/welore_plan.json");
    assert_eq!(low["policy"], "probed");
    assert!(low["totals"]["keep_params"].as_f64().unwrap() <= 0.7);
    assert_ne!(low["matrices"], plan["matrices"], "probes change ranks");
    assert!(perplexity(&sandbox, "low").is_finite());
}

#[test]
fn plans_say_how_many_matrices_no_probe_measured() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    let line = "plan spectra.json --policy probed --keep-params 0.7";
    sandbox.edit_json("spectra.json", |spectra| spectra["unit"] = "loss".into());
    sandbox.refuses(line, "needs a calibration with probes");
    sandbox.edit_json("spectra.json", |spectra| {
        for matrix in &mut spectra["matrices"].as_array_mut().unwrap()[2..] {
            matrix["measurements"] = json!({ "probe": 1.5 });
        }
    });
    sandbox.refuses(line, "needs a probe of every matrix, and `model.layers.0.");
    sandbox.edit_json("spectra.json", |spectra| {
        for expert in 0..2 {
            spectra["matrices"][expert]["name"] =
                format!("model.layers.0.mlp.experts.{expert}.up_proj").into();
        }
    });
    let said = sandbox.gives(line).stderr;
    assert!(
        said.contains("2 matrices of experts that see none of the text of the probes"),
        "{said}"
    );
}

#[test]
fn report_holds_the_numbers_of_the_artifacts() {
    let sandbox = calibrated();
    sandbox.gives("analyze model -o spectra.json");
    sandbox.gives("compress model --calibration seen --keep-params 0.8 -o low");
    let compared = sandbox.gives(
        "compare model --text story.txt --calibration seen --keep-params 0.8 --methods whitened \
         --seq-len 64 --windows 2 --json",
    );
    sandbox.write("compared.json", compared.stdout);
    sandbox.gives(
        "train low --text story.txt --seq-len 64 --batch-size 2 --steps 2 --warmup 0 -o run",
    );
    sandbox.gives(
        "report --spectra spectra.json --plan low --compare compared.json --run run -o page.html",
    );
    let page = String::from_utf8(sandbox.read("page.html")).unwrap();
    let start = page.find("type=\"application/json\">").unwrap() + 24;
    let data: Value =
        serde_json::from_str(&page[start..][..page[start..].find("</script>").unwrap()]).unwrap();
    let plan = sandbox.json_file("low/welore_plan.json");
    let [drawn, planned] = [&data["plan"], &plan].map(|plan| plan["matrices"].as_array().unwrap());
    assert_eq!((drawn.len(), planned.len()), (28, 28));
    for (drawn, planned) in drawn.iter().zip(planned) {
        for (ours, theirs) in [("name", "name"), ("rank", "rank"), ("after", "parameters_after")] {
            assert_eq!(drawn[ours], planned[theirs]);
        }
    }
    let spectra = sandbox.json_file("spectra.json");
    assert_eq!(
        data["spectra"]["matrices"][3]["points"][0][1],
        spectra["matrices"][3]["singular_values"][0]
    );
    assert_eq!(data["models"].as_array().unwrap().len(), 2);
    assert_eq!(data["runs"][0]["steps"].as_array().unwrap().len(), 2);
    sandbox.refuses("report --plan model -o other.html", "no plan");
    sandbox.refuses("report --compare spectra.json -o other.html", "compare");
}

#[test]
fn errors_are_told_as_computed_and_as_stored() {
    let sandbox = calibrated();
    let line = "compress model --calibration seen --keep-params 0.7 --json";
    let of = |options: &str, output: &str| {
        let told = sandbox.json(&format!("{line} {options} -o {output}"));
        let plan = sandbox.json_file(&format!("{output}/welore_plan.json"));
        let number = |field: &str| told[field].as_f64().unwrap();
        assert_eq!(plan["totals"]["stored_loss"], told["stored_loss"]);
        assert!(number("loss") <= number("stored_loss"));
        assert!(number("relative_error") <= number("stored_error"));
        let matrices = plan["matrices"].as_array().unwrap();
        let stated = matrices.iter().filter(|matrix| !matrix["error"].is_null()).count();
        assert_eq!(stated, told["factored"].as_array().unwrap().len());
        number("stored_loss") - number("loss")
    };
    // What rounding adds.
    let (fitted, nearest) = (of("", "low"), of("--rounding nearest", "nearest"));
    assert!(fitted < 0.5 * nearest, "{fitted} {nearest}");
    of("--choose-storage --shrink-inputs data --shrink-gradients data", "chosen");
    let said = sandbox.gives("compress model --calibration seen --keep-params 0.7 -o again").stdout;
    assert!(said.contains("as stored"), "{said}");
    let line = "compress model --calibration seen --keep-params 0.7 -o out";
    sandbox.misused(&format!("{line} --shrink-inputs some"), "data");
}
