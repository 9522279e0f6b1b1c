//! Model directories that are incomplete, damaged or wrong.

use std::fs;
use std::time::{Duration, Instant};

use safetensors::Dtype;

use crate::support::{Sandbox, Tensor, Tensors};
use crate::training::SHORT;

/// Every command that reads a model directory.
const READERS: [&str; 7] = [
    "inspect model",
    "analyze model -o spectra.json",
    "plan model --err 0.5 -o plan.json",
    "compress model --err 0.5 -o out",
    "eval model --text story.txt",
    "generate model --prompt Mia",
    "export model --dense -o out",
];

const WEIGHTS: &str = "model/model.safetensors";
const EVAL: &str = "eval model --text story.txt --seq-len 64 --windows 1";
const Q_PROJ: &str = "model.layers.1.self_attn.q_proj";

fn weight() -> String {
    format!("{Q_PROJ}.weight")
}

/// Where the tensors begin in a safetensors file.
fn header_end(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

#[test]
fn missing_directory_is_named() {
    let sandbox = Sandbox::new();
    fs::remove_dir_all(sandbox.path("model")).unwrap();
    for line in READERS {
        sandbox.refuses(line, "model: no such");
    }
}

#[test]
fn missing_file_is_named() {
    let sandbox = Sandbox::new();
    let config = sandbox.read("model/config.json");
    sandbox.remove("model/config.json");
    for line in [EVAL, "generate model --prompt Mia", "export model --gguf model.gguf"] {
        refuses_with(&sandbox, line, "model/config.json", "need its weights only");
    }
    sandbox.write("model/config.json", config);
    sandbox.remove(WEIGHTS);
    for line in READERS {
        sandbox.refuses(line, WEIGHTS);
    }
}

#[test]
fn missing_tokenizer_is_named_where_text_is_read() {
    let sandbox = Sandbox::new();
    sandbox.remove("model/tokenizer.json");
    for line in [EVAL, "generate model --prompt Mia"] {
        let message = sandbox.refuses(line, "model/tokenizer.json");
        assert!(!message.contains("not a tokenizer"), "the file is missing: {message}");
    }
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.write("model/tokenizer.json", "{}");
    sandbox.refuses(EVAL, "model/tokenizer.json: not a tokenizer");
}

/// Runs a command that has to refuse its model, and to say what helps.
fn refuses_with(sandbox: &Sandbox, line: &str, named: &str, hint: &str) {
    sandbox.refuses(line, named);
    let said = sandbox.run(line).stderr;
    assert!(said.lines().nth(1).is_some_and(|line| line.contains(hint)), "`{line}` says: {said}");
}

#[test]
fn directory_of_a_run_is_told_from_the_model_in_it() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    let lines = [
        "inspect run",
        "plan run --err 0.5",
        "compress run --err 0.5 -o out",
        "eval run --text story.txt",
        "generate run --prompt Mia",
        "export run --dense -o out",
        "train run --text story.txt -o more",
    ];
    for line in lines {
        refuses_with(&sandbox, line, "run is the directory of a training run", "run/model");
    }
    sandbox.gives("inspect run/model");
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    refuses_with(&sandbox, "inspect run", "a training run", "train --resume run");
}

#[test]
fn directories_of_other_formats_are_told_with_what_to_do() {
    let sandbox = Sandbox::new();
    for (file, named, hint) in [
        ("quant-Q4_0.gguf", "only GGUF (quant-Q4_0.gguf)", "give the file: model/quant-Q4_0.gguf"),
        ("pytorch_model.bin", "only pickled weights (pytorch_model.bin)", "save_pretrained"),
        ("adapter_config.json", "model holds a PEFT adapter", "merge_and_unload"),
    ] {
        sandbox.write(&format!("model/{file}"), "");
        // Files beside weights that can be read change nothing.
        sandbox.gives("inspect model");
        let weights = sandbox.read(WEIGHTS);
        sandbox.remove(WEIGHTS);
        for line in READERS {
            refuses_with(&sandbox, line, named, hint);
        }
        sandbox.remove(&format!("model/{file}"));
        sandbox.write(WEIGHTS, weights);
    }
}

#[test]
fn tensors_under_the_names_of_an_unknown_wrapper_are_told() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let wrapped = std::mem::take(tensors).into_iter();
        *tensors = wrapped.map(|(name, tensor)| (format!("student.{name}"), tensor)).collect();
    });
    for line in READERS {
        refuses_with(&sandbox, line, "begin with `student.`", "what wraps it");
    }
}

#[test]
fn an_adapter_that_is_not_merged_is_told() {
    let lora = format!("base_model.model.{Q_PROJ}.lora_A.weight");
    let beside = |tensors: &mut Tensors| {
        tensors.insert(lora.clone(), Tensor::zeros(Dtype::F32, &[4, 64]));
    };
    let alone = |tensors: &mut Tensors| {
        tensors.clear();
        beside(tensors);
    };
    let edits: [&dyn Fn(&mut Tensors); 2] = [&beside, &alone];
    for edit in edits {
        let sandbox = Sandbox::new();
        sandbox.edit_tensors(WEIGHTS, edit);
        for line in READERS {
            refuses_with(&sandbox, line, "a LoRA adapter that is not merged", "merge_and_unload");
        }
    }
}

#[test]
fn pointers_of_git_lfs_are_told_before_any_work() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 412000\n";
    let sandbox = Sandbox::new();
    let tokenizer = sandbox.read("model/tokenizer.json");
    sandbox.write("model/tokenizer.json", pointer);
    for line in [EVAL, "generate model --prompt Mia", SHORT] {
        let named = "model/tokenizer.json: a Git LFS pointer";
        refuses_with(&sandbox, line, named, "`git lfs pull`");
    }
    assert!(sandbox.cached().is_empty(), "a matrix was measured");
    sandbox.write("model/tokenizer.json", tokenizer);
    sandbox.write(WEIGHTS, pointer);
    for line in READERS {
        refuses_with(&sandbox, line, "model.safetensors: a Git LFS pointer", "`git lfs pull`");
    }
}

#[test]
fn tokenizer_of_another_model_is_told() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-qwen2", "other");
    fs::copy(sandbox.path("model/tokenizer.json"), sandbox.path("other/tokenizer.json")).unwrap();
    sandbox.refuses("eval other --text story.txt", "vocabulary of 64");
    sandbox.refuses("generate other --prompt Mia", "vocabulary of 64");
}

#[test]
fn hostile_tokenizers_are_refused_in_one_line() {
    let sandbox = Sandbox::new();
    sandbox.add("tokenizers", "hostile");
    let files: Vec<_> =
        fs::read_dir(sandbox.path("hostile")).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 8);
    for file in files {
        fs::copy(file.path(), sandbox.path("model/tokenizer.json")).unwrap();
        for line in [EVAL, "generate model --prompt Mia"] {
            let start = Instant::now();
            let message = sandbox.refuses(line, "model/tokenizer.json: its ");
            assert!(!message.contains("internal error"), "{message}");
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}: {message}", file.path());
        }
    }
}

#[test]
fn missing_shard_is_named() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "sharded");
    sandbox.remove("sharded/model-00002-of-00002.safetensors");
    for line in ["inspect sharded", "compress sharded --err 0.5 -o out"] {
        sandbox.refuses(line, "sharded/model-00002-of-00002.safetensors");
    }
}

#[test]
fn shards_outside_the_model_directory_are_never_opened() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "sharded");
    sandbox.add("tiny-llama3", "other");
    let index = String::from_utf8(sandbox.read("sharded/model.safetensors.index.json")).unwrap();
    let elsewhere = sandbox.path("other").display().to_string();
    for folder in ["../other", "../sharded", &elsewhere] {
        let hostile = index.replace("model-00002", &format!("{folder}/model-00002"));
        sandbox.write("sharded/model.safetensors.index.json", hostile);
        let message = sandbox.refuses("inspect sharded", "sharded/model.safetensors.index.json");
        assert!(message.contains("outside its directory"), "{message}");
    }
}

#[test]
fn broken_shard_index_is_named() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "sharded");
    let index = String::from_utf8(sandbox.read("sharded/model.safetensors.index.json")).unwrap();
    let phantom = index.replace("\"lm_head.weight\"", "\"phantom.weight\"");
    for text in ["", "[]", "{\"weight_map\": 3}", &phantom] {
        sandbox.write("sharded/model.safetensors.index.json", text);
        sandbox.refuses("inspect sharded", "sharded/model.safetensors.index.json");
    }
}

#[test]
fn truncated_weights_are_refused_wherever_they_end() {
    let sandbox = Sandbox::new();
    let whole = sandbox.read(WEIGHTS);
    let header = header_end(&whole);
    for end in [0, 1, 7, 8, 100, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        sandbox.write(WEIGHTS, &whole[..end]);
        for line in ["inspect model", "compress model --err 0.5 -o out", EVAL] {
            sandbox.refuses(line, WEIGHTS);
        }
    }
}

#[test]
fn corrupt_headers_are_refused() {
    let sandbox = Sandbox::new();
    let whole = sandbox.read(WEIGHTS);
    let header = header_end(&whole);
    let not_text = [&whole[..8], &[0xff; 20], &whole[28..]].concat();
    let not_json = [&whole[..8], &vec![b'x'; header - 8][..], &whole[header..]].concat();
    let too_long = [&whole[..], b"more"].concat();
    let web_page = b"<html>the model has moved</html>".to_vec();
    for content in [not_text, not_json, too_long, web_page] {
        sandbox.write(WEIGHTS, content);
        sandbox.refuses("inspect model", WEIGHTS);
        sandbox.refuses("compress model --err 0.5 -o out", WEIGHTS);
    }
}

#[test]
fn absurd_header_lengths_are_refused_without_reserving_them() {
    let sandbox = Sandbox::new();
    let whole = sandbox.read(WEIGHTS);
    for length in [0, 90_000_000, 1 << 62, u64::MAX - 7, u64::MAX] {
        sandbox.write(WEIGHTS, [&length.to_le_bytes()[..], &whole[8..]].concat());
        sandbox.refuses("inspect model", WEIGHTS);
    }
}

#[test]
fn impossible_places_and_shapes_of_tensors_are_refused() {
    let sandbox = Sandbox::new();
    for entry in [
        r#"{"dtype":"F32","shape":[1],"data_offsets":[1152921504606846976,1152921504606846980]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#,
        r#"{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}"#,
        r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#,
    ] {
        let header = format!(r#"{{"lm_head.weight":{entry}}}"#);
        let length = header.len() as u64;
        sandbox.write(WEIGHTS, [&length.to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
        sandbox.refuses("inspect model", WEIGHTS);
    }
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let bias = format!("{Q_PROJ}.bias");
    let misspelt = Q_PROJ.replace("q_proj", "qproj");
    type Edit<'a> = &'a dyn Fn(&mut Tensors);
    let edits: [(&str, Edit<'_>); 5] = [
        ("is missing", &|tensors| drop(tensors.remove(&weight()))),
        ("is not used", &|tensors| {
            tensors.insert(bias.clone(), Tensor::zeros(Dtype::F32, &[64]));
        }),
        ("has shape [32, 128] instead of [64, 64]", &|tensors| {
            tensors.insert(weight(), Tensor::zeros(Dtype::BF16, &[32, 128]));
        }),
        ("has shape [4096] instead of [64, 64]", &|tensors| {
            tensors.insert(weight(), Tensor::zeros(Dtype::BF16, &[4096]));
        }),
        ("qproj.weight` meant?", &|tensors| {
            let tensor = tensors.remove(&weight()).unwrap();
            tensors.insert(format!("{misspelt}.weight"), tensor);
        }),
    ];
    for (problem, edit) in edits {
        let sandbox = Sandbox::new();
        sandbox.edit_tensors(WEIGHTS, edit);
        let message = sandbox.refuses(EVAL, problem);
        assert!(message.contains(Q_PROJ), "{message}");
    }
}

#[test]
fn a_stored_head_has_to_be_the_embedding_where_both_are_one() {
    let embedding = "model.embed_tokens.weight";
    let sandbox = Sandbox::new();
    let perplexity = || sandbox.json(&format!("{EVAL} --json"))["perplexity"].clone();
    let tied = perplexity();
    let heads: [fn(&Tensor) -> Tensor; 2] = [Tensor::clone, Tensor::in_f32];
    for head in heads {
        sandbox.edit_tensors(WEIGHTS, |tensors| {
            tensors.insert("lm_head.weight".into(), head(&tensors[embedding]));
        });
        assert_eq!(perplexity(), tied, "the same numbers are the same head");
    }
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.get_mut("lm_head.weight").unwrap().data[200] ^= 1;
    });
    for line in ["inspect model", "compress model --err 0.5 -o out", EVAL] {
        sandbox.refuses(line, "model: `lm_head.weight` is not the embedding");
    }
    sandbox.edit_json("model/config.json", |config| config["tie_word_embeddings"] = false.into());
    sandbox.gives(EVAL);
}

#[test]
fn weights_of_a_type_without_decimals_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.insert(weight(), Tensor::zeros(Dtype::I16, &[64, 64]));
    });
    for line in ["analyze model", "compress model --err 0.5 -o out", EVAL] {
        sandbox.refuses(line, &weight());
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    for (value, bfloat16) in [("NaN", 0x7fc0_u16), ("inf", 0x7f80), ("-inf", 0xff80)] {
        let sandbox = Sandbox::new();
        sandbox.edit_tensors(WEIGHTS, |tensors| {
            let data = &mut tensors.get_mut(&weight()).unwrap().data;
            data[200..202].copy_from_slice(&bfloat16.to_le_bytes());
        });
        for line in [
            "analyze model -o spectra.json",
            "plan model --err 0.5 -o plan.json",
            "compress model --err 0.5 -o out",
            EVAL,
            "generate model --prompt Mia",
        ] {
            let message = sandbox.refuses(line, &weight());
            assert!(message.contains(&format!("{value} at flat index 100")), "{message}");
        }
    }
}

#[test]
fn half_a_factored_matrix_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.remove(&weight());
        tensors.insert(format!("{Q_PROJ}.V.weight"), Tensor::zeros(Dtype::BF16, &[4, 64]));
    });
    for line in [EVAL, "inspect model", "export model --dense -o out"] {
        sandbox.refuses(line, &format!("{Q_PROJ}.U.weight"));
    }
}

#[test]
fn factors_of_different_ranks_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.remove(&weight());
        tensors.insert(format!("{Q_PROJ}.V.weight"), Tensor::zeros(Dtype::BF16, &[4, 64]));
        tensors.insert(format!("{Q_PROJ}.U.weight"), Tensor::zeros(Dtype::BF16, &[64, 5]));
    });
    for line in [EVAL, "export model --dense -o out"] {
        sandbox.refuses(line, Q_PROJ);
    }
}

#[test]
fn matrix_that_is_both_dense_and_factored_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.insert(format!("{Q_PROJ}.V.weight"), Tensor::zeros(Dtype::BF16, &[4, 64]));
        tensors.insert(format!("{Q_PROJ}.U.weight"), Tensor::zeros(Dtype::BF16, &[64, 4]));
    });
    for line in [EVAL, "export model --dense -o out"] {
        sandbox.refuses(line, Q_PROJ);
    }
}
