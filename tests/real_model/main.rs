//! Parity with PyTorch on SmolLM2-135M, a real pretrained model.
//!
//! Needs two environment variables, without which the tests are skipped:
//! `WELORE_SMOLLM2`, the model directory, and `WELORE_SMOLLM2_REFERENCE`, a folder with
//! `smollm2.json` (figures and their definitions), `test.txt` and `valid.txt` (WikiText-2).

#[path = "../skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use serde_json::Value;
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::model::{load_model, open_model, projections};
use welore_burn::plan::{PlanOptions, RankPlan, WeLore, make_plan};
use welore_burn::spectrum::{MeasureOptions, Spectra, measure_checkpoint};

use skipped::skip;

struct Setup {
    model: PathBuf,
    text: PathBuf,
    /// To train on.
    valid: PathBuf,
    reference: Value,
}

/// The model and its figures. Without them the test is skipped.
fn setup() -> Option<Setup> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(model), Some(folder)) =
        (variable("WELORE_SMOLLM2"), variable("WELORE_SMOLLM2_REFERENCE"))
    else {
        skip("WELORE_SMOLLM2 and WELORE_SMOLLM2_REFERENCE are not set");
        return None;
    };
    let text = std::fs::read_to_string(folder.join("smollm2.json")).unwrap();
    Some(Setup {
        model,
        text: folder.join("test.txt"),
        valid: folder.join("valid.txt"),
        reference: serde_json::from_str(&text).unwrap(),
    })
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// Runs the binary and parses its JSON.
fn welore(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_welore-cli")).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn eval(model: &Path, text: &Path) -> Value {
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    welore(&["eval", model, "--text", text, "--seq-len", "512", "--windows", "8", "--json"])
}

fn assert_within(got: f64, want: f64, share: f64) {
    assert!((got / want - 1.0).abs() <= share, "{got} for {want}");
}

#[test]
fn tokens_and_logits_are_the_references() {
    let Some(setup) = setup() else { return };
    let tokenizer = TextTokenizer::open(&setup.model).unwrap();
    let tokens = &setup.reference["tokens"];
    assert_eq!(
        tokenizer.encode(tokens["sentence"].as_str().unwrap()).unwrap(),
        ids(&tokens["ids"])
    );
    let text = tokenizer.encode(&read_text(&setup.text).unwrap()).unwrap();
    assert_eq!(text.len() as u64, tokens["test_count"].as_u64().unwrap());
    let first = ids(&tokens["test_first"]);
    assert_eq!(text[..first.len()], first);

    let device = Device::flex();
    let model = load_model(&setup.model, &device, FloatDType::F32, &mut ()).unwrap().model;
    let input: Vec<i32> = text[..32].iter().map(|t| *t as i32).collect();
    let input = Tensor::<2, Int>::from_data(TensorData::new(input, [1, 32]), &device);
    let last = model.forward(input).narrow(1, 31, 1);
    let last: Vec<f64> = last.into_data().iter::<f64>().collect();
    let figures = &setup.reference["logits"];
    let first = figures["first8"].as_array().unwrap();
    assert!(first.len() == 8 && last.len() > 8);
    for (got, want) in last.iter().zip(first) {
        assert!((got - want.as_f64().unwrap()).abs() < 1e-3, "{got} for {want}");
    }
    let norm = last.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert_within(norm, figures["norm"].as_f64().unwrap(), 1e-5);
    let argmax = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
    assert_eq!(argmax as u64, figures["argmax"].as_u64().unwrap());
}

#[test]
fn greedy_continuation_is_the_references() {
    let Some(setup) = setup() else { return };
    let figures = &setup.reference["greedy"];
    let prompt = figures["prompt"].as_str().unwrap();
    let model = setup.model.to_str().unwrap();
    let args = ["generate", model, "--prompt", prompt, "--max-new-tokens", "12", "--json"];
    let result = welore(&args);
    let all = [ids(&result["prompt_ids"]), ids(&result["ids"])].concat();
    let want = ids(&figures["ids"]);
    assert_eq!(all[..want.len()], want);
}

#[test]
fn dense_perplexity_is_the_references() {
    let Some(setup) = setup() else { return };
    let result = eval(&setup.model, &setup.text);
    assert_within(
        result["perplexity"].as_f64().unwrap(),
        setup.reference["ppl_dense"].as_f64().unwrap(),
        1e-3,
    );
    assert_eq!(result["parameters"], setup.reference["params"]);
    assert_eq!(result["tokens"], 8 * 511);
}

fn plan(spectra: &Spectra, err: f64, min_ratio: f64) -> RankPlan {
    make_plan(spectra, &WeLore, &PlanOptions { min_ratio, ..PlanOptions::new(err) }).unwrap()
}

/// The reference's singular values are f32, so a rank may be off by one if a normalized value is
/// within 1e-5 of the threshold.
fn assert_same_rank(spectra: &Spectra, plan: &RankPlan, index: usize, pruned: usize) {
    let (matrix, spectrum) = (&plan.matrices[index], &spectra.matrices[index]);
    let want = matrix.full_rank - pruned;
    if matrix.rank == want {
        return;
    }
    let (s, tau) = (&spectrum.singular_values, plan.threshold.unwrap());
    let (max, min) = (s[0], s[s.len() - 1]);
    let close = s.iter().any(|s| ((s - min) / (max - min) - tau).abs() < 1e-5);
    assert!(
        close && matrix.rank.abs_diff(want) == 1,
        "{}: {} for {want}",
        matrix.name,
        matrix.rank
    );
}

#[test]
fn spectra_ranks_and_compressed_perplexity_are_the_references() {
    let Some(setup) = setup() else { return };
    let opened = open_model(&setup.model, &Device::flex()).unwrap();
    let (selection, options) = (projections(opened.skeleton()), MeasureOptions::default());
    let spectra = measure_checkpoint(&opened.checkpoint, &selection, &options, &mut ()).unwrap();
    assert_eq!(spectra.matrices.len(), 210);
    for m in &spectra.matrices {
        let figures = &setup.reference["spectra"][m.name.as_str()];
        let (max, s) = (figures["max"].as_f64().unwrap(), &m.singular_values);
        for (got, key) in [(s[0], "max"), (s[s.len() - 1], "min")] {
            let want = figures[key].as_f64().unwrap();
            assert!((got - want).abs() < 1e-5 * max, "{}: {key} {got} for {want}", m.name);
        }
        let energy = s.iter().map(|s| s * s).sum::<f64>();
        assert_within(energy, figures["sum_sq"].as_f64().unwrap(), 1e-5);
    }

    let odd = plan(&spectra, 0.37, 0.5);
    let total: usize = odd.matrices.iter().map(|m| m.full_rank).sum();
    assert!((odd.totals.err - 0.37).abs() * total as f64 <= 1.0);

    let scratch = tempfile::tempdir().unwrap();
    let mut measured = 0;
    for target in setup.reference["plans"].as_array().unwrap() {
        let err = target["err"].as_f64().unwrap();
        for run in target["runs"].as_array().unwrap() {
            let min_ratio = run["min_ratio"].as_f64().unwrap();
            let plan = plan(&spectra, err, min_ratio);
            for (i, m) in plan.matrices.iter().enumerate() {
                let pruned = target["pruned"][m.name.as_str()].as_u64().unwrap() as usize;
                assert_same_rank(&spectra, &plan, i, pruned);
            }
            assert_eq!(plan.totals.lrcs as u64, run["lrcs"].as_u64().unwrap());
            assert_eq!(plan.totals.parameters_after, run["params"].as_u64().unwrap());
            let want = run["ppl"].as_f64().unwrap();
            if want < 1000.0 {
                measured += 1;
                compressed_perplexity(&setup, scratch.path(), &plan, want);
            }
        }
    }
    assert!(measured > 0, "no perplexity was compared");
}

/// Compresses with the binary, evaluates, exports a dense model, and evaluates it again.
fn compressed_perplexity(setup: &Setup, scratch: &Path, plan: &RankPlan, want: f64) {
    let path = |name: &str| scratch.join(format!("{name}-{:?}", plan.target));
    let (file, factored, dense) = (path("plan"), path("factored"), path("dense"));
    std::fs::write(&file, plan.to_json()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (model, file, out) = (text(&setup.model), text(&file), text(&factored));
    welore(&["compress", &model, "--plan", &file, "-o", &out, "--json"]);
    let measured = eval(&factored, &setup.text);
    assert_within(measured["perplexity"].as_f64().unwrap(), want, 0.01);
    assert_eq!(measured["parameters"], plan.totals.parameters_after);

    welore(&["export", &out, "--dense", "-o", &text(&dense), "--json"]);
    let merged = eval(&dense, &setup.text);
    assert_within(merged["perplexity"].as_f64().unwrap(), want, 0.01);
    assert_eq!(merged["parameters"], setup.reference["params"]);
}

#[test]
fn first_steps_of_training_are_the_references() {
    let Some(setup) = setup() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (model, valid) = (text(&setup.model), text(&setup.valid));
    let run = text(&scratch.path().join("run"));
    let figures = &setup.reference["training"];
    let err = figures["err"].to_string();
    let place = ["train", &model, "--text", &valid, "-o", &run, "--err", &err];
    let settings = ["--seq-len", "256", "--batch-size", "2", "--steps", "3", "--no-shuffle"];
    let schedule = ["--schedule", "constant", "--warmup", "0", "--save-every", "0", "--json"];
    let result = welore(&[&place[..], &settings, &schedule].concat());
    assert_eq!(result["trainable"], figures["lrc"]["trainable"]);
    let metrics = std::fs::read_to_string(scratch.path().join("run/metrics.jsonl")).unwrap();
    let losses = figures["lrc"]["loss"].as_array().unwrap();
    assert!(metrics.lines().count() == 3 && losses.len() >= 3, "{metrics}");
    for (line, want) in metrics.lines().zip(losses) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_within(line["loss"].as_f64().unwrap(), want.as_f64().unwrap(), 1e-4);
    }
}
