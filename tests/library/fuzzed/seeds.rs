//! Whole files of every format, most of them fixtures. The function for a format has the name of
//! its fuzz target.

use std::fs;

use burn::tensor::{Device, FloatDType};
use serde_json::{Value, json};
use welore_burn::eval::{LogitsSource, save_logits};
use welore_burn::ggml::TensorType;
use welore_burn::model::load_model;
use welore_burn::plan::{RankPlan, RankPolicy};
use welore_burn::spectrum::Spectra;
use welore_burn::train::{GradientDynamics, read_gradients};

use super::bodies::{
    LOGITS_TOKENS, NOTED, SEARCHING, adapter_fixture, changes_fixture, logits_options,
    search_fixture, search_options,
};
use super::mutate::{Seed, Tensors};
use crate::fixture;
use crate::gguf::writer::{Gguf, Meta, tiny};

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&read(name)).unwrap()
}

fn text_of(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

fn files(names: &[&str]) -> Vec<Seed> {
    names.iter().map(|name| Seed::Json(json_of(name))).collect()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The fixtures are of an earlier version; one more is of the present one.
pub fn plan() -> Vec<Seed> {
    let now = RankPlan::from_json(&text_of("earlier/pivot/welore_plan.json")).unwrap();
    let mut seeds = files(&["earlier/plan.json", "earlier/low/welore_plan.json"]);
    seeds.push(Seed::Json(parsed(&now.to_json())));
    seeds
}

pub fn stored_plan() -> Vec<Seed> {
    let now = RankPlan::from_json(&text_of("earlier/low/welore_plan.json")).unwrap();
    let mut seeds = files(&["earlier/low/welore_plan.json"]);
    seeds.push(Seed::Json(parsed(&now.to_json())));
    seeds
}

pub fn spectra() -> Vec<Seed> {
    let now = Spectra::from_json(&text_of("earlier/spectra.json")).unwrap();
    let now = parsed(&now.to_json());
    let mut loss = now.clone();
    loss["unit"] = json!("loss");
    for matrix in loss["matrices"].as_array_mut().unwrap() {
        matrix["measurements"] = json!({ "probe": 1.5 });
    }
    let mut seeds = files(&["earlier/spectra.json"]);
    seeds.extend([now, loss].map(Seed::Json));
    seeds
}

pub fn journal() -> Vec<Seed> {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let loaded = load_model(fixture("earlier/model"), &device, FloatDType::F32, &mut ()).unwrap();
    let noted = |policy: &dyn RankPolicy| {
        let path = dir.path().join(policy.name());
        let options = search_options(NOTED, &path, dir.path());
        search_fixture(&loaded.model, policy, &options).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        Seed::Lines(text.lines().map(parsed).collect())
    };
    SEARCHING.map(noted).into()
}

pub fn calibration() -> Vec<Seed> {
    vec![Seed::Tensors(calibration_file())]
}

pub fn imatrix() -> Vec<Seed> {
    let mut gguf = Gguf::default();
    gguf.set("general.type", Meta::Text("imatrix".into()));
    gguf.set("imatrix.datasets", Meta::Texts(vec!["text".into()]));
    gguf.set("imatrix.chunk_count", Meta::U32(3));
    gguf.set("imatrix.chunk_size", Meta::U32(4));
    for (matrix, sums) in [("attn_q", [3.0, 0.0]), ("ffn_down", [1.5, 24.0])] {
        gguf.add_f32(&format!("blk.0.{matrix}.weight.in_sum2"), &[2], &sums);
        gguf.add_f32(&format!("blk.0.{matrix}.weight.counts"), &[1], &[12.0]);
    }
    vec![Seed::Gguf(gguf)]
}

pub fn adapter() -> Vec<Seed> {
    let dir = adapter_fixture();
    let bytes = fs::read(dir.path().join("adapter/adapter_model.safetensors")).unwrap();
    vec![Seed::Tensors(Tensors::parse(&bytes, None))]
}

pub fn adapter_config() -> Vec<Seed> {
    let dir = adapter_fixture();
    let text = fs::read_to_string(dir.path().join("adapter/adapter_config.json")).unwrap();
    let (config, mut patterns) = (parsed(&text), parsed(&text));
    patterns["alpha_pattern"] = json!({ r"layers\.\d+\..*q_proj": 8, "q_proj": 2.5 });
    patterns["use_rslora"] = json!(true);
    patterns["layers_to_transform"] = json!([0, 1]);
    vec![Seed::Json(config), Seed::Json(patterns)]
}

pub fn changes() -> Vec<Seed> {
    let dir = changes_fixture();
    let text = fs::read_to_string(dir.path().join("changes/welore_changes.json")).unwrap();
    vec![Seed::Json(parsed(&text))]
}

pub fn calibration_file() -> Tensors {
    Tensors::parse(&read("earlier/calibration"), Some("manifest"))
}

pub fn logits() -> Vec<Seed> {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let loaded = load_model(fixture("earlier/model"), &device, FloatDType::F32, &mut ()).unwrap();
    let path = dir.path().join("logits");
    let source = LogitsSource { model: "model".into(), model_digest: "0123".into() };
    let options = logits_options();
    save_logits(&path, &loaded.model, &source, &LOGITS_TOKENS, &options, &mut ()).unwrap();
    let file = fs::read(&path).unwrap();
    vec![Seed::Tensors(Tensors::parse(&file, Some("saved_logits.manifest")))]
}

pub fn weights() -> Vec<Seed> {
    let dirs = ["model", "low", "pivot"];
    let file = |dir: &str| Tensors::parse(&read(&format!("earlier/{dir}/model.safetensors")), None);
    dirs.map(|dir| Seed::Tensors(file(dir))).into()
}

pub fn index() -> Vec<Seed> {
    files(&["tiny-llama3/model.safetensors.index.json"])
}

/// Those of the fixtures, and one with each of the rotary settings there.
pub fn config() -> Vec<Seed> {
    let mut seeds = files(&[
        "earlier/model/config.json",
        "tiny-llama/config.json",
        "tiny-llama3/config.json",
        "tiny-mistral/config.json",
        "tiny-qwen2/config.json",
    ]);
    for case in json_of("rope.json").as_array().unwrap() {
        let mut config = json_of("tiny-llama3/config.json");
        let fields = config.as_object_mut().unwrap();
        fields.remove("rope_scaling");
        fields.extend(case["config"].as_object().unwrap().clone());
        seeds.push(Seed::Json(config));
    }
    seeds
}

pub fn generation_config() -> Vec<Seed> {
    [json!({ "eos_token_id": [1, 2], "top_k": 5 }), json!({ "eos_token_id": 3 })]
        .map(Seed::Json)
        .into()
}

pub fn gguf() -> Vec<Seed> {
    let mut quantized = tiny(2, 32);
    let embedding = quantized.tensor("token_embd.weight");
    // Q8_0: a scale of 1 in 16 bits and 32 entries, for each of the two rows.
    embedding.kind = 8;
    embedding.data = [&[0x00, 0x3c][..], &[1; 32]].concat().repeat(2);
    let mut unpacked = tiny(1, 256);
    let embedding = unpacked.tensor("token_embd.weight");
    // IQ2_XS: any bytes are blocks, as long as the scale is finite.
    (embedding.kind, embedding.data) = (17, vec![0x2b; 74]);
    [tiny(4, 2), quantized, unpacked, sentence_piece()].map(Seed::Gguf).into()
}

/// Both parts of a model, each of which fits the other part of the one in `split`.
pub fn gguf_part() -> Vec<Seed> {
    tiny(2, 2).parts(&[6, 5]).into_iter().map(Seed::Gguf).collect()
}

/// All types that have blocks, by their numbers in ggml, in two models: those whose blocks have 32
/// entries, and those with 256.
pub fn packed_gguf() -> Vec<Seed> {
    use TensorType::*;

    let short = [(8, Q8_0), (7, Q5_1), (6, Q5_0), (3, Q4_1), (2, Q4_0), (20, Iq4Nl)];
    let long = [(14, Q6K), (13, Q5K), (12, Q4K), (23, Iq4Xs), (11, Q3K), (10, Q2K)];
    [in_blocks(32, short), in_blocks(256, long)].map(Seed::Gguf).into()
}

/// A model with its matrices in these types one after the other, and in floats of 16 bits where rows
/// are too short.
fn in_blocks(hidden: usize, types: [(u32, TensorType); 6]) -> Gguf {
    let mut gguf = tiny(2, hidden);
    let mut fitting = types.into_iter().cycle();
    let mut narrow = [(1, TensorType::F16), (30, TensorType::Bf16)].into_iter().cycle();
    for tensor in &mut gguf.tensors {
        let [_, columns] = tensor.shape[..] else { continue };
        let next = if columns == hidden { fitting.next() } else { narrow.next() };
        let (kind, kept) = next.unwrap();
        let (entries, _) = tensor.data.as_chunks::<4>();
        let entries: Vec<f32> = entries.iter().map(|x| f32::from_le_bytes(*x)).collect();
        (tensor.kind, tensor.data) = (kind, kept.quantize(&entries, columns, None).unwrap());
    }
    gguf
}

fn sentence_piece() -> Gguf {
    let mut gguf = tiny(5, 2);
    let tokens = ["<unk>", "<s>", "</s>", "a", "aa"].map(String::from).to_vec();
    gguf.unset("tokenizer.ggml.merges");
    gguf.set("tokenizer.ggml.model", Meta::Text("llama".into()));
    gguf.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    gguf.set("tokenizer.ggml.scores", Meta::Numbers(vec![0.0, 0.0, 0.0, -2.0, -1.0]));
    gguf.set("tokenizer.ggml.token_type", Meta::Integers(vec![2, 3, 3, 1, 1]));
    gguf
}

pub fn tokenizer() -> Vec<Seed> {
    files(&["tiny-llama/tokenizer.json"])
}

pub fn run() -> Vec<Seed> {
    let mut now = json_of("earlier/run/run.json");
    now["format"] = json!("welore-run");
    now["version"] = json!(2);
    let mut seeds = files(&["earlier/run/run.json"]);
    seeds.push(Seed::Json(now));
    seeds
}

pub fn pointer() -> Vec<Seed> {
    files(&["earlier/run/checkpoints/last.json"])
}

pub fn metrics() -> Vec<Seed> {
    let text = text_of("earlier/run/metrics.jsonl");
    vec![Seed::Lines(text.lines().map(parsed).collect())]
}

pub fn gradients() -> Vec<Seed> {
    let line = |step: u64, name: &str, similarity: Value| {
        json!({
            "step": step, "name": name, "shape": [16, 64], "norm": 2.0, "stable_rank": 1.5,
            "full_rank": 16, "values": [1.0, 0.25], "rank": 2, "similarity": similarity,
        })
    };
    let (first, second) = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj.V");
    let (before, after) = (json!(null), json!(0.75));
    vec![Seed::Lines(vec![
        line(10, first, before.clone()),
        line(10, second, before),
        line(20, first, after.clone()),
        line(20, second, after),
    ])]
}

pub fn dynamics() -> Vec<Seed> {
    let lines = gradients().remove(0).bytes();
    let records = read_gradients(std::str::from_utf8(&lines).unwrap());
    let mut summary = GradientDynamics::of(&records);
    const VALUES: &[f64] = &[2.0, 0.5, 0.0];
    summary.set_weights(|name| name.as_str().ends_with(".V").then_some(VALUES));
    vec![Seed::Json(parsed(&summary.to_json()))]
}

/// One file of every kind of task.
pub fn task() -> Vec<Seed> {
    let choices = json!([{ "label": "A", "text": "bank" }, { "label": "B", "text": "mall" }]);
    let lettered = |stem: &str, key: &str| {
        let question = json!({ "stem": stem, "choices": choices });
        json!({ "answerKey": key, "question": question })
    };
    let scored = |input: &str, first: &str, second: &str| {
        let scores = json!({ first: 1, second: 0 });
        json!({ "input": input, "target_scores": scores })
    };
    let passage = |question: &str| json!({ "question": question, "passage": "p", "answer": true });
    let problem =
        |body: &str, answer: f64| json!({ "Body": body, "Question": "How?", "Answer": answer });
    let coin = |question: &str| json!({ "question": question, "answer": "Yes" });
    let examples = |examples: [Value; 2]| Seed::Json(json!({ "examples": examples }));
    let own = |prompt: &str| json!({ "prompt": prompt, "response": "a\nb" });
    let texts = json!({ "question": "Who?", "choices": ["a", "b"], "answer": "b" });
    let columns = json!({ "label": ["1", "2"], "text": ["c", "d"] });
    let columns = json!({ "question": "What?", "choices": columns, "answer": 1, "context": "e" });
    vec![
        Seed::Lines(vec![lettered("Where?", "B"), lettered("When?", "A")]),
        Seed::Json(json!([problem("It costs 7.", 51.0), problem("It is 3.", -2.5)])),
        Seed::Lines(vec![passage("is it"), passage("was it")]),
        examples([coin("Heads?"), coin("Tails?")]),
        examples([scored("Bob has", "red.", "red ball."), scored("Eve has", "b", "c")]),
        examples([scored("Is it?", "Yes", "No"), scored("Was it?", "no", "yes")]),
        Seed::Lines(vec![own("first"), own("second")]),
        Seed::Lines(vec![texts, columns]),
    ]
}

pub fn documents() -> Vec<Seed> {
    vec![Seed::Lines(vec![json!({ "text": "one\ntwo" }), json!({ "text": "three", "id": 3 })])]
}

pub fn tokens() -> Vec<Seed> {
    vec![Seed::Tensors(Tensors::parse(&read("earlier/run/tokens"), None))]
}
