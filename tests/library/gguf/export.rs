//! Model directories become GGUF files, which become the same directories again.

mod tokenizers;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;
use welore_burn::checkpoint::{Checkpoint, CheckpointError};
use welore_burn::compress::{Compressor, WriteOptions, merge_directory};
use welore_burn::data::TextTokenizer;
use welore_burn::files::OutputDir;
use welore_burn::ggml::{ContainerError, TensorType, WrittenType};
use welore_burn::gguf::{
    CheckpointSource, GgufConversion, GgufError, GgufExport, GgufOptions, GgufTensor, GgufWritten,
    TensorSource, convert_gguf, export_gguf,
};
use welore_burn::model::{DecoderConfig, RopeScaling, open_model, read_config};
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::progress::{Interrupted, Progress};

use super::writer::Meta;
use super::{convert, logits};
use crate::{checkpoint, compress_into, device, expected, fixture, ids, tiny_spectra};

/// A tokenizer of a few tokens.
fn small_tokenizer() -> Value {
    let token = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [token(1, "<s>"), token(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true },
        "model": {
            "type": "BPE",
            "vocab": { "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5, "ab": 6, "abc": 7, "Ġ": 9 },
            "merges": ["a b", "ab c"],
        },
    })
}

/// A copy of a fixture, with a small tokenizer if it has none.
pub(super) fn model(name: &str, dir: &Path) -> PathBuf {
    let copy = dir.join(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    if !copy.join("tokenizer.json").exists() {
        fs::write(copy.join("tokenizer.json"), small_tokenizer().to_string()).unwrap();
    }
    copy
}

pub(super) fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

pub(super) fn export(
    model: &Path,
    to: &Path,
    options: &GgufOptions,
) -> Result<GgufWritten, GgufError> {
    export_gguf(&open_model(model, &device()).unwrap(), to, options, &mut ())
}

/// Writes a model as a file, and the file as the directory `back`.
pub(super) fn there_and_back(model: &Path, dir: &Path) -> (GgufWritten, PathBuf) {
    let (file, back) = (dir.join("model.gguf"), dir.join("back"));
    let written = export(model, &file, &GgufOptions::default()).unwrap();
    assert_eq!(written.bytes, fs::metadata(&file).unwrap().len());
    let output = OutputDir::create(&back, true).unwrap();
    convert_gguf(&file, GgufConversion::default(), &output, &mut ()).unwrap();
    output.commit().unwrap();
    (written, back)
}

/// Every matrix has the same bytes, and every vector the same numbers.
fn assert_same_weights(one: &Checkpoint, other: &Checkpoint) {
    assert!(one.names().eq(other.names()));
    for name in one.names() {
        let [(meta, bytes), (other_meta, other_bytes)] =
            [one, other].map(|checkpoint| checkpoint.raw(name).unwrap());
        assert_eq!(meta.shape, other_meta.shape, "{name}");
        match meta.shape.len() {
            1 => assert_eq!(one.read_f32(name).unwrap(), other.read_f32(name).unwrap(), "{name}"),
            _ => assert!(meta.dtype == other_meta.dtype && bytes == other_bytes, "{name}"),
        }
    }
}

#[test]
fn every_model_comes_back() {
    for name in ["tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-mistral"] {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        let (written, back) = there_and_back(&model, dir.path());
        let (original, found) = (checkpoint(name), Checkpoint::open(&back).unwrap());
        assert_same_weights(&original, &found);
        assert_eq!(written.architecture, if name == "tiny-qwen2" { "qwen2" } else { "llama" });
        assert_eq!(written.parameters, original.parameters());

        let want = read_config(&model).unwrap();
        // What a file does not state, and the scaling, which a small model does not determine.
        let got: DecoderConfig = read_config(&back)
            .unwrap()
            .with_initializer_range(want.initializer_range)
            .with_first_window_layer(want.first_window_layer)
            .with_rope_scaling(want.rope_scaling.clone());
        assert_eq!(got, want, "{name}");

        let tokens = ids(&expected(name)["input"]);
        let pairs: Vec<(f64, f64)> =
            logits(&back, &tokens).into_iter().zip(logits(&model, &tokens)).collect();
        let gap = pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let scale = pairs.iter().map(|(_, b)| b.abs()).fold(0.0, f64::max);
        assert!(gap < 1e-4 * scale, "{name}: {gap} of {scale}");

        let [before, after] = [&model, &back].map(|dir| TextTokenizer::open(dir).unwrap());
        for text in ["abc ab cab</s>a", ""] {
            assert_eq!(before.encode(text).unwrap(), after.encode(text).unwrap());
            assert_eq!(before.encode_prompt(text).unwrap(), after.encode_prompt(text).unwrap());
        }
    }
}

#[test]
fn biases_of_llama_are_ordered_like_its_rows() {
    let dir = tempdir().unwrap();
    let mut gguf = super::tiny(4, 2);
    gguf.set("llama.attention.key_length", Meta::U32(4));
    gguf.set("llama.attention.value_length", Meta::U32(4));
    for (name, shape) in [("q", [4, 2]), ("k", [4, 2]), ("v", [4, 2]), ("output", [2, 4])] {
        let values: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let tensor = gguf.tensor(&format!("blk.0.attn_{name}.weight"));
        (tensor.shape, tensor.data) = (shape.to_vec(), values);
        let bias: Vec<f32> = (0..shape[0]).map(|i| i as f32).collect();
        gguf.add_f32(&format!("blk.0.attn_{name}.bias"), &shape[..1], &bias);
    }
    convert(&gguf.bytes(), dir.path()).unwrap();
    let model = dir.path().join("model");
    let (_, back) = there_and_back(&model, dir.path());
    let [model, back] = [model, back].map(|dir| Checkpoint::open(dir).unwrap());
    assert_eq!(model.read_f32("model.layers.0.self_attn.q_proj.bias").unwrap(), [0., 2., 1., 3.]);
    assert_same_weights(&model, &back);
}

#[test]
fn compressed_models_are_written_as_their_merged_ones() {
    let dir = tempdir().unwrap();
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.5)).unwrap();
    let [low, dense] = ["low", "dense"].map(|name| dir.path().join(name));
    compress_into(&low, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    let (written, back) = there_and_back(&low, dir.path());
    let output = OutputDir::create(&dense, false).unwrap();
    let options = WriteOptions::default();
    merge_directory(&Checkpoint::open(&low).unwrap(), &output, &options, &mut ()).unwrap();
    output.commit().unwrap();
    let dense = Checkpoint::open(dense).unwrap();
    assert_same_weights(&dense, &Checkpoint::open(back).unwrap());
    assert_eq!(written.parameters, dense.parameters());
}

#[test]
fn types_are_chosen_by_kind_and_by_name() {
    let dir = tempdir().unwrap();
    let model = model("tiny-llama", dir.path());
    let q_proj = "model.layers.1.self_attn.q_proj.weight";
    let options = GgufOptions {
        projections: Some(TensorType::F16),
        embedding: Some(TensorType::Bf16),
        tensors: [(q_proj.to_string(), TensorType::F32)].into(),
        ..GgufOptions::default()
    };
    let opened = open_model(&model, &device()).unwrap();
    let layout = GgufExport::new(&opened, &options).unwrap();
    for GgufTensor { name, shape, dtype } in layout.tensors() {
        let want = match (&name[..], shape.len()) {
            (_, 1) => TensorType::F32,
            (name, _) if name == q_proj => TensorType::F32,
            ("model.embed_tokens.weight", _) => TensorType::Bf16,
            _ => TensorType::F16,
        };
        assert_eq!(*dtype, want, "{name}");
    }
    // 7 projections in 4 layers, one of which is chosen; 9 norms.
    let types = layout.summary().types;
    assert_eq!(types[&WrittenType::from(TensorType::F16)], 27);
    assert_eq!(types[&WrittenType::from(TensorType::F32)], 10);

    let file = dir.path().join("model.gguf");
    let refuses = |tensor: &str, dtype: TensorType| {
        let tensors = [(tensor.to_string(), dtype)].into();
        let error = export(&model, &file, &GgufOptions { tensors, ..GgufOptions::default() });
        assert!(!file.exists());
        error.unwrap_err()
    };
    let norm = "model.layers.1.input_layernorm.weight";
    for (tensor, dtype) in [(norm, TensorType::F16), ("model.layers.9.x", TensorType::F16)] {
        match refuses(tensor, dtype) {
            GgufError::Choice { tensor: named, .. } => assert_eq!(named, tensor),
            other => panic!("{other:?}"),
        }
    }
    match refuses(q_proj, TensorType::Q8_0) {
        GgufError::Blocks { tensor, dtype: TensorType::Q8_0 } => assert_eq!(tensor, q_proj),
        other => panic!("{other:?}"),
    }
    // Rows of 64 entries do not fill blocks of 256.
    match refuses(q_proj, TensorType::Q4K) {
        GgufError::Container(ContainerError::Unwritable { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Gives blocks of zeros, and everything else from a checkpoint.
struct Zeros<'a>(CheckpointSource<'a>);

impl TensorSource for Zeros<'_> {
    fn bytes(
        &self,
        tensor: &GgufTensor,
        progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError> {
        match tensor.dtype.is_float() {
            true => self.0.bytes(tensor, progress),
            false => {
                let [rows, columns] = tensor.shape[..] else { panic!("{tensor:?}") };
                let row = tensor.dtype.row_bytes(columns).unwrap();
                Ok(Cow::Owned(vec![0; rows * row]))
            }
        }
    }
}

#[test]
fn blocks_that_were_made_elsewhere_are_written() {
    let dir = tempdir().unwrap();
    let model = model("tiny-llama", dir.path());
    let opened = open_model(&model, &device()).unwrap();
    let options = GgufOptions { projections: Some(TensorType::Q8_0), ..GgufOptions::default() };
    let layout = GgufExport::new(&opened, &options).unwrap();
    let file = dir.path().join("model.gguf");
    let source = Zeros(CheckpointSource::new(&opened));
    let written = layout.write(&file, &source, &mut ()).unwrap();
    assert_eq!(written, layout.summary());
    assert_eq!(written.types[&WrittenType::from(TensorType::Q8_0)], 28);
    convert(&fs::read(file).unwrap(), dir.path()).unwrap();
    let back = Checkpoint::open(dir.path().join("model")).unwrap();
    let zeros = back.read_f32("model.layers.3.self_attn.k_proj.weight").unwrap();
    assert!(zeros.iter().all(|x| *x == 0.0));
    let embedding = "model.embed_tokens.weight";
    assert_eq!(back.raw(embedding).unwrap().1, opened.checkpoint.raw(embedding).unwrap().1);
}

#[test]
fn rotary_positions_that_llama_cpp_has_come_back() {
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(fixture("rope.json")).unwrap()).unwrap();
    let mut kinds = Vec::new();
    for case in cases {
        let dir = tempdir().unwrap();
        let model = model(case["model"].as_str().unwrap(), dir.path());
        edit(&model.join("config.json"), |config| {
            let config = config.as_object_mut().unwrap();
            for field in ["rope_theta", "rope_scaling", "rope_parameters"] {
                config.remove(field);
            }
            config.extend(case["config"].as_object().unwrap().clone());
        });
        let kept = match read_config(&model).unwrap().rope_scaling {
            RopeScaling::Dynamic { .. } => Err("dynamic"),
            RopeScaling::Yarn { truncate: false, .. } => Err("beta_fast 32"),
            RopeScaling::Yarn { .. } => Ok("yarn"),
            RopeScaling::LongRope { .. } => Ok("longrope"),
            _ => Ok("other"),
        };
        match kept {
            Ok(kind) => kinds.push(kind),
            Err(named) => {
                let file = dir.path().join("model.gguf");
                let error = export(&model, &file, &GgufOptions::default()).unwrap_err();
                assert!(error.to_string().contains(named), "{error}");
                continue;
            }
        }
        let (_, back) = there_and_back(&model, dir.path());
        let tokens = ids(&case["input"]);
        // Within the original context, where that matters, and beyond.
        for tokens in [&tokens[..12], &tokens[..]] {
            let (got, want) = (logits(&back, tokens), logits(&model, tokens));
            let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let scale = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            assert!(gap < 1e-4 * scale, "{}: {gap} of {scale}", case["name"]);
        }
    }
    assert!(kinds.contains(&"yarn") && kinds.contains(&"longrope"), "{kinds:?}");
}

#[test]
fn models_that_llama_cpp_does_not_compute_are_refused() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change); 6] = [
        ("tiny-qwen2", "no sliding window", |c| {
            (c["sliding_window"], c["use_sliding_window"]) = (8.into(), true.into());
            c.as_object_mut().unwrap().remove("layer_types");
            c["max_window_layers"] = 0.into();
        }),
        ("tiny-qwen2", "scale RoPE", |c| {
            c["rope_parameters"] = json!({
                "rope_type": "llama3", "rope_theta": 1e6, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            });
        }),
        ("tiny-qwen2", "scale RoPE as longrope", |c| {
            c["rope_parameters"] = json!({
                "rope_type": "longrope", "rope_theta": 1e6, "short_factor": vec![1.0; 4],
                "long_factor": vec![2.0; 4], "original_max_position_embeddings": 64,
            });
        }),
        ("tiny-mistral", "on some layers only", |c| {
            c["layer_types"] = json!(["full_attention", "sliding_attention"]);
        }),
        ("tiny-mistral", "rope.freq_base", |c| c["rope_theta"] = 1e300.into()),
        ("tiny-mistral", "has another activation in the MLP", |c| c["hidden_act"] = "gelu".into()),
    ];
    for (name, named, change) in cases {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        edit(&model.join("config.json"), change);
        let file = dir.path().join("model.gguf");
        let error = export(&model, &file, &GgufOptions::default()).unwrap_err();
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.to_string().contains(name), "{named}: {error}");
        assert!(!file.exists());
    }
}

/// Has no last norm.
struct Broken<'a>(CheckpointSource<'a>);

impl TensorSource for Broken<'_> {
    fn bytes(
        &self,
        tensor: &GgufTensor,
        progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError> {
        match &tensor.name[..] {
            "model.norm.weight" => {
                let (dir, tensor) = ("elsewhere".into(), tensor.name.clone());
                Err(CheckpointError::TensorMissing { dir, tensor }.into())
            }
            _ => self.0.bytes(tensor, progress),
        }
    }
}

#[test]
fn failure_leaves_what_was_there() {
    let dir = tempdir().unwrap();
    let model = model("tiny-llama3", dir.path());
    let file = dir.path().join("model.gguf");
    fs::write(&file, "mine").unwrap();
    let opened = open_model(&model, &device()).unwrap();
    let layout = GgufExport::new(&opened, &GgufOptions::default()).unwrap();
    let source = Broken(CheckpointSource::new(&opened));
    layout.write(&file, &source, &mut ()).unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    export(&model, &file, &GgufOptions::default()).unwrap();
    assert!(fs::read(&file).unwrap().starts_with(b"GGUF"));
}

#[cfg(unix)]
#[test]
fn what_links_lead_to_elsewhere_is_not_put_into_a_file() {
    let dir = tempdir().unwrap();
    let model = model("tiny-llama", dir.path());
    let secret = dir.path().join("secret");
    fs::write(&secret, "key").unwrap();
    std::os::unix::fs::symlink(&secret, model.join("chat_template.jinja")).unwrap();
    let file = dir.path().join("model.gguf");
    match export(&model, &file, &GgufOptions::default()) {
        Err(GgufError::Checkpoint(CheckpointError::LeadsOut { .. })) => assert!(!file.exists()),
        other => panic!("{other:?}"),
    }
}

struct StopAfter(usize);

impl Progress for StopAfter {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 { Err(Interrupted) } else { Ok(()) }
    }
}

#[test]
fn interrupted_export_leaves_nothing() {
    let dir = tempdir().unwrap();
    let model = model("tiny-llama", dir.path());
    let opened = open_model(&model, &device()).unwrap();
    let file = dir.path().join("model.gguf");
    let stopped = export_gguf(&opened, &file, &GgufOptions::default(), &mut StopAfter(5));
    assert!(matches!(stopped, Err(GgufError::Interrupted(_))), "{stopped:?}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|x| x.unwrap().file_name()).collect();
    assert_eq!(left, ["tiny-llama"]);
}
