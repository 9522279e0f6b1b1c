//! What holds for any bytes in the place of a file, one function for each format. A fuzz target
//! gives a function whatever libFuzzer thinks of; `tests/library/fuzzed.rs` gives it some hundred
//! damaged files.
//!
//! A function returns whether the library accepted the bytes. It panics if the library does, and if
//! something that was accepted is not what the library promises of it.

#![allow(dead_code)] // A fuzz target calls one of them.

#[path = "bodies/gguf.rs"]
mod gguf_files;
#[path = "bodies/search.rs"]
mod searches;
#[path = "bodies/tuned.rs"]
mod tuned;

use std::fs;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use serde_json::{Value, json};
use tempfile::TempDir;
use welore_burn::calibrate::{Calibration, write_imatrix};
use welore_burn::checkpoint::{Checkpoint, PLAN_FILE};
use welore_burn::data::{
    ChoiceTask, Task, TaskKind, TextTokenizer, read_documents, read_rows, write_rows,
};
use welore_burn::eval::{PerplexityOptions, SavedLogits};
use welore_burn::model::{DecoderConfig, load_model, open_model, read_config};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::plan::{
    MatrixPlan, PlanOptions, RankPlan, RankPolicy, Target, make_plan, read_plan,
};
use welore_burn::report::Report;
use welore_burn::spectrum::Spectra;
use welore_burn::train::{
    Checkpoints, GradientDynamics, GradientRecord, Metrics, Position, RUN_FILE, RunFile,
    TrainOptions, read_gradients,
};

#[allow(unused_imports)] // For the same reason.
pub use gguf_files::{gguf, gguf_part, packed_gguf};
#[allow(unused_imports)]
pub use searches::{NOTED, SEARCHING, journal, search_fixture, search_options};
#[allow(unused_imports)]
pub use tuned::{adapter, adapter_config, adapter_fixture, changes, changes_fixture};

// What stands beside the file in question. The weights are those of the configuration.
const CONFIG: &[u8] = include_bytes!("../tests/fixtures/earlier/model/config.json");
const WEIGHTS: &[u8] = include_bytes!("../tests/fixtures/earlier/model/model.safetensors");
const FACTORED: &[u8] = include_bytes!("../tests/fixtures/earlier/low/model.safetensors");
const SHARD_1: &[u8] =
    include_bytes!("../tests/fixtures/tiny-llama3/model-00001-of-00002.safetensors");
const SHARD_2: &[u8] =
    include_bytes!("../tests/fixtures/tiny-llama3/model-00002-of-00002.safetensors");

/// The run that the checkpoint of the fixtures belongs to.
const ORIGIN: &str = "8f6bbbbc5b586ab9ece69e02bead858b8c32a52d82d9282248f8b06494709acd";

/// The most matrices of a file that are read, so that many entries for one tensor take no minutes.
const MATRICES: usize = 100;

/// The most entries of a matrix that is merged: small factors stand for a matrix of any size.
const ENTRIES: usize = 1 << 20;

/// A directory with some files, in memory where there is such a place: what the library writes is
/// synced.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = made.expect("there is a place for temporary files");
    for (name, content) in files {
        let path = dir.path().join(name);
        let parent = path.parent().expect("it is within the directory");
        fs::create_dir_all(parent).expect("there is room");
        fs::write(&path, content).expect("there is room");
    }
    dir
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// `plan -o`: a plan is possible, its sums are right, and it comes back from its text.
pub fn plan(data: &[u8]) -> bool {
    let Some(plan) = text(data).and_then(|text| RankPlan::from_json(text).ok()) else {
        return false;
    };
    check_plan(&plan);
    true
}

fn check_plan(plan: &RankPlan) {
    plan.matrices.iter().for_each(check_matrix);
    let totals = &plan.totals;
    assert_eq!(totals.matrices, plan.matrices.len());
    assert_eq!(totals.lrcs, plan.low_rank().count());
    assert_eq!(totals.growing, plan.low_rank().filter(|matrix| matrix.grows).count());
    assert!((0.0..1.0).contains(&totals.err) && totals.err_applied <= totals.err, "{totals:?}");
    let sum = |of: fn(&MatrixPlan) -> u64| -> u128 {
        plan.matrices.iter().map(|matrix| u128::from(of(matrix))).sum()
    };
    let (before, after) = (sum(|m| m.parameters_before), sum(|m| m.parameters_after));
    let whole = u128::from(totals.parameters_before);
    // The sums of the library stop at the largest u64, so those of a plan may be larger.
    if let Some(rest) = whole.checked_sub(before) {
        let expected = (rest + after).min(u128::from(u64::MAX));
        assert_eq!(u128::from(totals.parameters_after), expected);
    } else {
        assert_eq!(totals.parameters_before, u64::MAX);
    }
    assert_eq!(plan.clone().checked().ok().as_ref(), Some(plan));
    assert_eq!(RankPlan::from_json(&plan.to_json()).ok().as_ref(), Some(plan));
}

fn check_matrix(matrix: &MatrixPlan) {
    let [rows, cols] = matrix.shape;
    let full = rows.min(cols);
    assert!(matrix.full_rank == full && (1..=full).contains(&matrix.rank), "{matrix:?}");
    assert!(matrix.form.rank().is_none_or(|rank| rank == matrix.rank), "{matrix:?}");
    assert_eq!(matrix.form.problem(matrix.shape), None, "{matrix:?}");
    assert_eq!(matrix.parameters_before, rows as u64 * cols as u64);
    assert_eq!(matrix.parameters_after, matrix.form.parameters(matrix.shape));
    assert!((0.0..1.0).contains(&matrix.reduction), "{matrix:?}");
}

/// `welore_plan.json` in a compressed directory: what both of its readers accept is what is stored.
pub fn stored_plan(data: &[u8]) -> bool {
    let weights = ("model.safetensors", FACTORED);
    let dir = directory(&[("config.json", CONFIG), weights, (PLAN_FILE, data)]);
    let checkpoint = Checkpoint::open(dir.path()).expect("the weights are whole");
    let (stored, plan) = (checkpoint.compressed_matrices(), read_plan(dir.path()));
    let (Ok(stored), Ok(Some(plan))) = (stored, plan) else { return false };
    for matrix in plan.compressed() {
        let found = stored.iter().find(|stored| stored.name == matrix.name);
        assert_eq!(found.map(|stored| stored.form), Some(matrix.form), "{matrix:?}");
    }
    true
}

/// `analyze -o`: spectra are sorted and come back, and what any policy plans from them is possible
/// and within its target.
pub fn spectra(data: &[u8]) -> bool {
    let Some(spectra) = text(data).and_then(|text| Spectra::from_json(text).ok()) else {
        return false;
    };
    assert_eq!(Spectra::from_json(&spectra.to_json()).ok().as_ref(), Some(&spectra));
    for matrix in &spectra.matrices {
        let values = &matrix.singular_values;
        assert_eq!(values.len(), matrix.full_rank());
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{matrix:?}");
    }
    let half = Target::MaxBytes(spectra.model.bytes / 2);
    for target in [Target::Err(0.5), Target::ErrApplied(0.5), Target::KeepParams(0.5), half] {
        for (index, policy) in <&'static dyn RankPolicy as Named>::all().iter().enumerate() {
            let never_grow = index % 2 == 0;
            let options = PlanOptions { never_grow, ..PlanOptions::to(target) };
            let Ok(plan) = make_plan(&spectra, *policy, &options) else { continue };
            assert!(!never_grow || plan.totals.growing == 0);
            check_plan(&plan);
            assert_eq!(plan.matrices.len(), spectra.matrices.len());
            let totals = &plan.totals;
            match target {
                Target::ErrApplied(err) => assert!(totals.err_applied >= err - 1e-6, "{totals:?}"),
                Target::KeepParams(share) => assert!(totals.keep_params <= share + 1e-9),
                Target::MaxBytes(most) => assert!(totals.bytes_after <= most, "{totals:?}"),
                _ => {}
            }
        }
    }
    true
}

/// `calibrate -o`: moments have the size that the manifest states, and finite entries.
pub fn calibration(data: &[u8]) -> bool {
    let dir = directory(&[("calibration", data)]);
    let path = dir.path().join("calibration");
    let Ok(calibration) = Calibration::open(&path) else { return false };
    if calibration.is_diagonal() {
        return imatrix(data);
    }
    let tensors = Checkpoint::open_file(&path).expect("it was opened before");
    let (_, manifest) = tensors.raw("manifest").expect("it was read before");
    let manifest: Value = serde_json::from_slice(manifest).expect("it was read before");
    for entry in manifest["matrices"].as_array().into_iter().flatten().take(MATRICES) {
        check_moments(&calibration, entry);
    }
    let longest = manifest["seq_len"].as_u64();
    let windows = calibration.windows().expect("its place was checked");
    assert!(windows.iter().all(|window| Some(window.len() as u64) <= longest));
    true
}

/// An importance matrix of llama.cpp: squares are finite and not negative, and what is written of it
/// says the same again.
pub fn imatrix(data: &[u8]) -> bool {
    let dir = directory(&[("imatrix", data)]);
    let Ok(calibration) = Calibration::open(dir.path().join("imatrix")) else { return false };
    if !calibration.is_diagonal() {
        return false;
    }
    for name in calibration.names().take(MATRICES) {
        let inputs = calibration.inputs(name).expect("it is one of its names");
        assert!(inputs.squares().iter().all(|x| x.is_finite() && *x >= 0.0), "{name}");
        assert_eq!(calibration.input_width(name).expect("it is one of its names"), inputs.size());
        assert!(calibration.outputs(name).is_err(), "{name}");
    }
    let again = dir.path().join("again.gguf");
    // Sums can leave the range of f32 if a text is as long as no text is.
    if write_imatrix(&calibration, &again).is_ok() {
        let read = Calibration::open(&again).expect("what is written can be opened");
        assert!(read.names().eq(calibration.names()));
    }
    true
}

/// The text that logits are saved of: two windows and a rest.
pub const LOGITS_TOKENS: [u32; 18] =
    [5, 70, 71, 300, 72, 5, 383, 0, 9, 9, 10, 200, 201, 5, 70, 71, 1, 2];

/// The windows that logits are saved of.
pub fn logits_options() -> PerplexityOptions {
    PerplexityOptions { seq_len: 8, skip: 1, ..PerplexityOptions::default() }
}

/// `eval --save-logits`: whatever is in it, a divergence from it is finite and not negative.
pub fn logits(data: &[u8]) -> bool {
    let model = [("model/config.json", CONFIG), ("model/model.safetensors", WEIGHTS)];
    let dir = directory(&[model[0], model[1], ("logits", data)]);
    let Ok(saved) = SavedLogits::open(&dir.path().join("logits")) else { return false };
    let device = Device::flex();
    let model = load_model(dir.path().join("model"), &device, FloatDType::F32, &mut ());
    let model = model.expect("the model is whole").model;
    if let Ok(found) = saved.divergence(&model, &LOGITS_TOKENS, &logits_options(), &mut ()) {
        assert!(found.spread.minimum >= 0.0 && found.kl.value.is_finite(), "{found:?}");
        assert_eq!((found.model.tokens, found.dense.tokens), (12, 12));
    }
    true
}

fn check_moments(calibration: &Calibration, entry: &Value) {
    // serde takes a list for an entry as well.
    let Some(name) = entry["name"].as_str().map(MatrixName::from) else { return };
    let side = |side: usize| entry["shape"][side].as_u64();
    if let Ok(inputs) = calibration.inputs(&name) {
        assert_eq!(Some(inputs.size() as u64), side(1), "{name}");
        assert!(inputs.is_finite(), "{name}");
    }
    if let Ok(outputs) = calibration.outputs(&name) {
        assert_eq!(Some(outputs.size() as u64), side(0), "{name}");
        assert!(outputs.is_finite(), "{name}");
    }
    assert!(calibration.probe(&name).is_none_or(f64::is_finite), "{name}");
}

/// `model.safetensors`: every tensor is as long as its shape, what is read is finite, and matrices
/// have the shape that their tensors stand for.
pub fn weights(data: &[u8]) -> bool {
    let dir = directory(&[("model.safetensors", data)]);
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return false };
    for name in checkpoint.names() {
        check_tensor(&checkpoint, name);
    }
    let compressed = checkpoint.compressed_matrices().unwrap_or_default();
    for matrix in compressed.iter().take(MATRICES) {
        assert_eq!(checkpoint.stored_matrix(&matrix.name).as_ref(), Some(matrix));
        let [rows, cols] = matrix.shape;
        if rows.checked_mul(cols).is_some_and(|entries| entries <= ENTRIES)
            && let Ok(merged) = checkpoint.read_merged(matrix)
        {
            assert_eq!([merged.rows(), merged.cols()], matrix.shape, "{matrix:?}");
        }
    }
    true
}

fn check_tensor(checkpoint: &Checkpoint, name: &str) {
    let (meta, bytes) = checkpoint.raw(name).expect("it is listed");
    assert_eq!(bytes.len() as u64, meta.bytes(), "{name}");
    let values = checkpoint.read_f32(name);
    assert_eq!(values.is_ok(), checkpoint.check_finite(name).is_ok(), "{name}");
    if let Ok(values) = values {
        assert_eq!(values.len() as u64, meta.parameters(), "{name}");
        assert!(values.iter().all(|value| value.is_finite()), "{name}");
    }
    if let Ok(matrix) = checkpoint.read_matrix(name) {
        assert_eq!(meta.shape, [matrix.rows(), matrix.cols()], "{name}");
    }
    assert!(checkpoint.digest(name).is_ok(), "{name}");
    checkpoint.release(name);
}

/// `model.safetensors.index.json`: every tensor that it names is there.
pub fn index(data: &[u8]) -> bool {
    let dir = directory(&[
        ("model.safetensors.index.json", data),
        ("model-00001-of-00002.safetensors", SHARD_1),
        ("model-00002-of-00002.safetensors", SHARD_2),
    ]);
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return false };
    let index: Value = serde_json::from_slice(data).expect("it was read before");
    for name in index["weight_map"].as_object().into_iter().flat_map(|map| map.keys()) {
        assert!(checkpoint.meta(name).is_some(), "{name}");
    }
    true
}

/// `config.json`: sizes belong together, and a model that is opened is the one described.
pub fn config(data: &[u8]) -> bool {
    let dir = directory(&[("config.json", data), ("model.safetensors", WEIGHTS)]);
    let config = text(data).and_then(|text| DecoderConfig::from_hf_json(text).ok());
    assert_eq!(read_config(dir.path()).ok(), config);
    let Some(config) = config else { return false };
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{config:?}");
    assert!(config.head_dim > 0 && config.head_dim.is_multiple_of(2), "{config:?}");
    for number in [config.rms_norm_eps, config.rope_theta] {
        assert!(number.is_finite() && number > 0.0, "{config:?}");
    }
    assert!(config.context() >= config.max_position_embeddings, "{config:?}");
    if let Ok(opened) = open_model(dir.path(), &Device::flex()) {
        assert_eq!(opened.config, config);
    }
    true
}

/// `generation_config.json`: adds tokens that end a text, and changes nothing else.
pub fn generation_config(data: &[u8]) -> bool {
    let dir = directory(&[("config.json", CONFIG), ("generation_config.json", data)]);
    let Ok(mut config) = read_config(dir.path()) else { return false };
    let own = DecoderConfig::from_hf_json(text(CONFIG).expect("it is text"));
    let own = own.expect("it is a configuration");
    assert!(config.eos_token_ids.starts_with(&own.eos_token_ids));
    config.eos_token_ids.truncate(own.eos_token_ids.len());
    assert_eq!(config, own);
    true
}

/// `tokenizer.json`: what opens encodes and decodes, or says that it cannot.
pub fn tokenizer(data: &[u8]) -> bool {
    let dir = directory(&[("tokenizer.json", data)]);
    let Ok(tokenizer) = TextTokenizer::open(dir.path()) else { return false };
    for text in ["", "The fox gave Mia a red apple, 123.\n", "na\u{ef}ve \u{5317}\u{4eac} \0"] {
        for tokens in [tokenizer.encode(text), tokenizer.encode_prompt(text)].into_iter().flatten()
        {
            // Either outcome will do.
            drop(tokenizer.decode(&tokens));
        }
    }
    true
}

/// `run.json`: options are in their ranges, and the run that is written is the one that was read.
pub fn run(data: &[u8]) -> bool {
    let dir = directory(&[(RUN_FILE, data)]);
    let Ok(run) = RunFile::read(dir.path()) else { return false };
    run.check().expect("its options were checked");
    run.write(dir.path()).expect("there is room");
    let again = RunFile::read(dir.path()).expect("what is written can be read");
    assert_eq!((again.identity(), again), (run.identity(), run));
    true
}

/// `last.json` and `best.json`: they name a checkpoint beside them, at a step of the run.
pub fn pointer(data: &[u8]) -> bool {
    let dir = directory(&[("checkpoints/last.json", data), ("checkpoints/best.json", data)]);
    let options = TrainOptions { steps: 12, eval_every: 6, ..TrainOptions::default() };
    let last = Checkpoints::of_run(dir.path(), ORIGIN).last(&options);
    let Ok(Some((position, named))) = last else { return false };
    assert!(position.step <= options.steps, "{position:?}");
    assert_eq!(named.parent(), Some(dir.path().join("checkpoints").as_path()));
    true
}

/// `metrics.jsonl`: lines are kept once and for all, and a page of them is a page.
pub fn metrics(data: &[u8]) -> bool {
    let dir = directory(&[("metrics.jsonl", data)]);
    let path = dir.path().join("metrics.jsonl");
    let position = Position { step: 4, evaluated: 4, ..Position::start() };
    let open = || {
        let missing = Metrics::open(&path, &position).expect("any file has lines").missing();
        (missing, fs::read(&path).expect("it was opened before"))
    };
    let (missing, kept) = open();
    assert!(missing <= position.step);
    assert_eq!(open(), (missing, kept.clone()));
    let mut report = Report::new("title", "test");
    report.run("run", &String::from_utf8_lossy(data));
    check_page(&report);
    !kept.is_empty()
}

/// No text ends the script of a page.
fn check_page(report: &Report) {
    let scripts = |report: &Report| report.to_html().matches("</script").count();
    assert_eq!(scripts(report), scripts(&Report::new("title", "test")));
}

/// `gradients.jsonl`: records come back, and so does their summary.
pub fn gradients(data: &[u8]) -> bool {
    let records = read_gradients(&String::from_utf8_lossy(data));
    let line = |record: &GradientRecord| {
        serde_json::to_string(record).expect("numbers and text serialize") + "\n"
    };
    let lines: String = records.iter().map(line).collect();
    assert_eq!(read_gradients(&lines), records);
    let summary = GradientDynamics::of(&records);
    assert_eq!(GradientDynamics::from_json(&summary.to_json()).ok().as_ref(), Some(&summary));
    let mut report = Report::new("title", "test");
    report.gradients("run", &records, &summary);
    check_page(&report);
    !records.is_empty()
}

/// `gradients.json`: a summary comes back from its text.
pub fn dynamics(data: &[u8]) -> bool {
    let Some(summary) = text(data).and_then(|text| GradientDynamics::from_json(text).ok()) else {
        return false;
    };
    assert_eq!(GradientDynamics::from_json(&summary.to_json()).ok().as_ref(), Some(&summary));
    true
}

/// Files of tasks: examples on both sides, every response answers its own prompt, and of choices one
/// is right.
pub fn task(data: &[u8]) -> bool {
    let dir = directory(&[("task", data)]);
    let mut accepted = false;
    for kind in TaskKind::all() {
        let Ok(task) = Task::read(*kind, dir.path().join("task")) else { continue };
        accepted = true;
        assert!(!task.train.is_empty() && !task.test.is_empty());
        for example in task.train.iter().chain(&task.test) {
            assert!(example.is_answered_by(&example.response), "{kind:?}: {example:?}");
        }
    }
    for task in ChoiceTask::all() {
        let Ok(questions) = task.read(dir.path().join("task")) else { continue };
        accepted = true;
        assert!(!questions.is_empty());
        for question in questions {
            let right = question.continuation(question.right);
            assert!(
                question.choices.len() > 1 && !right.trim().is_empty(),
                "{task:?}: {question:?}"
            );
        }
    }
    accepted
}

/// `.jsonl` texts: the documents that are written are those that were read.
pub fn documents(data: &[u8]) -> bool {
    let dir = directory(&[("text.jsonl", data), ("text.txt", data)]);
    let read = |name: &str| read_documents(dir.path().join(name)).ok();
    assert!(read("text.txt").is_none_or(|whole| whole.len() == 1));
    let Some(documents) = read("text.jsonl") else { return false };
    let line = |document: &String| format!("{}\n", json!({ "text": document }));
    let lines: String = documents.iter().map(line).collect();
    fs::write(dir.path().join("again.jsonl"), lines).expect("there is room");
    assert_eq!(read("again.jsonl"), Some(documents));
    true
}

/// The `tokens` of a run: every row predicts something, and rows come back.
pub fn tokens(data: &[u8]) -> bool {
    let dir = directory(&[("tokens", data)]);
    let read = |path: &Path| read_rows(path).ok();
    let Some(rows) = read(&dir.path().join("tokens")) else { return false };
    for number in 0..rows.len() {
        let row = rows.nth(number, None);
        assert!((1..row.tokens.len()).contains(&row.given), "{row:?}");
    }
    let again = dir.path().join("again");
    write_rows(&again, &rows).expect("there is room");
    let again = read(&again).expect("what is written can be read");
    assert_eq!((again.len(), again.digest()), (rows.len(), rows.digest()));
    true
}
