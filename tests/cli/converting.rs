//! `export --dtype`, and `export` of GGUF files.

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::gguf::of_fixture;
use crate::support::{Sandbox, Tensors};

fn weights(sandbox: &Sandbox, model: &str) -> Tensors {
    sandbox.tensors(&format!("{model}/model.safetensors"))
}

fn types(tensors: &Tensors) -> Vec<Dtype> {
    let mut types: Vec<Dtype> = tensors.values().map(|tensor| tensor.dtype).collect();
    types.sort();
    types.dedup();
    types
}

fn card(sandbox: &Sandbox, model: &str) -> String {
    String::from_utf8(sandbox.read(&format!("{model}/README.md"))).unwrap()
}

fn perplexity(sandbox: &Sandbox, model: &str) -> f64 {
    let line = format!("eval {model} --text story.txt --seq-len 64 --windows 2 --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

#[test]
fn dense_model_is_stored_in_the_type_that_is_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.write("model/README.md", "---\nlicense: mit\n---\n# The base\n");
    let original = weights(&sandbox, "model");
    for (dtype, stored, stated) in [("f32", Dtype::F32, "float32"), ("f16", Dtype::F16, "float16")]
    {
        let dry =
            sandbox.json(&format!("export model --dtype {dtype} -o {dtype} --dry-run --json"));
        let told = sandbox.json(&format!("export model --dtype {dtype} -o {dtype} --json"));
        assert_eq!((&dry["parameters"], &dry["bytes"]), (&told["parameters"], &told["bytes"]));
        let tensors = weights(&sandbox, dtype);
        // Norms and embeddings, too.
        assert_eq!(types(&tensors), [stored]);
        assert!(tensors.keys().eq(original.keys()));
        let bytes: usize = tensors.values().map(|tensor| tensor.data.len()).sum();
        assert_eq!(told["bytes"], bytes);
        assert_eq!(sandbox.json_file(&format!("{dtype}/config.json"))["dtype"], stated);
        let card = card(&sandbox, dtype);
        assert!(card.starts_with("---\nlicense: mit\n"), "{card}");
        assert!(card.contains(&format!("stored as {stored},")), "{card}");
        assert!((perplexity(&sandbox, dtype) / perplexity(&sandbox, "model") - 1.0).abs() < 1e-3);
    }
    for (name, tensor) in weights(&sandbox, "f32") {
        assert!(tensor == original[&name].in_f32(), "{name}");
    }
    // Every bf16 is an f32, so nothing is lost on the way back.
    sandbox.gives("export f32 --dtype bf16 -o back");
    assert!(weights(&sandbox, "back") == original);
    assert_eq!(sandbox.json_file("back/config.json"), sandbox.json_file("model/config.json"));
}

#[test]
fn compressed_models_keep_their_forms_and_say_what_is_stored_now() {
    for storage in ["factors", "pivot"] {
        let sandbox = Sandbox::new();
        sandbox.gives(&format!("compress model --err 0.5 --storage {storage} -o low"));
        sandbox.gives("eval low --text story.txt --seq-len 64 --windows 1 --record");
        sandbox.gives("export low --dtype f32 -o wide");
        let (low, wide) = (weights(&sandbox, "low"), weights(&sandbox, "wide"));
        for (name, tensor) in &low {
            match tensor.dtype {
                Dtype::I32 => assert!(wide[name] == *tensor, "{name}"),
                _ => assert!(wide[name] == tensor.in_f32(), "{name}"),
            }
        }
        let inspected = |model: &str| sandbox.json(&format!("inspect {model} --json"));
        let (before, after) = (inspected("low"), inspected("wide"));
        assert_eq!(before["factored"], after["factored"]);
        assert_eq!(before["parameters"], after["parameters"]);

        let plan = sandbox.json_file("wide/welore_plan.json");
        let matrices = plan["matrices"].as_array().unwrap();
        assert!(matrices.iter().all(|matrix| matrix["dtype"] == "F32"), "{plan}");
        let totals = &plan["totals"];
        assert_eq!(totals["bytes_after"], after["bytes"]);
        // `inspect` counts again, from what the plan states.
        assert_eq!(&after["plan"]["totals"], totals);
        let dense = 4 * totals["parameters_before"].as_u64().unwrap();
        assert_eq!(totals["bytes_before"], dense);

        let card = card(&sandbox, "wide");
        assert!(card.contains(&format!("| bytes | {dense} | {} |", after["bytes"])), "{card}");
        assert!(card.contains("All numbers are stored as F32."), "{card}");
        // It was measured on other numbers.
        assert!(!card.contains("| perplexity | "), "{card}");
        assert!((perplexity(&sandbox, "wide") / perplexity(&sandbox, "low") - 1.0).abs() < 1e-6);

        sandbox.gives("export wide --dtype bf16 -o back");
        assert!(weights(&sandbox, "back") == low);
        // Errors of numbers that were rounded once more are not known.
        assert_eq!(sandbox.plan_of("low"), sandbox.plan_of("back"));
    }
}

#[test]
fn matrices_are_merged_and_converted_at_once() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("export low --dense --dtype f32 -o dense");
    let tensors = weights(&sandbox, "dense");
    assert_eq!(types(&tensors), [Dtype::F32]);
    assert!(tensors.keys().eq(weights(&sandbox, "model").keys()));
    assert!(!sandbox.path("dense/welore_plan.json").exists());
    assert_eq!(sandbox.json_file("dense/config.json")["dtype"], "float32");
    let ratio = perplexity(&sandbox, "dense") / perplexity(&sandbox, "low");
    assert!((ratio - 1.0).abs() < 1e-3, "{ratio}");
}

#[test]
fn shards_and_older_configurations_are_converted() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "other");
    sandbox.gives("export other --dtype f32 --shard-size 20kB -o out");
    assert!(sandbox.path("out/model.safetensors.index.json").exists());
    let [before, after] =
        ["other", "out"].map(|model: &str| sandbox.json(&format!("inspect {model} --json")));
    for field in ["parameters", "tensors", "config"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let names: Vec<&String> = after["dtypes"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["F32"]);
    let config = sandbox.json_file("out/config.json");
    assert_eq!((&config["torch_dtype"], &config["dtype"]), (&json!("float32"), &Value::Null));
}

#[test]
fn numbers_that_f16_cannot_hold_are_refused_by_name() {
    let sandbox = Sandbox::new();
    sandbox.gives("export model --dtype f32 -o wide");
    sandbox.edit_tensors("wide/model.safetensors", |tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        norm.data[..4].copy_from_slice(&7e4f32.to_le_bytes());
    });
    let line = "export wide --dtype f16 -o out";
    let message = sandbox.refuses(line, "`model.norm.weight`");
    assert!(message.contains("7e4 does not fit F16"), "{message}");
    let stderr = sandbox.run(line).stderr;
    assert!(stderr.contains("hint: ") && stderr.contains("--dtype bf16"), "{stderr}");
    sandbox.gives("export wide --dtype bf16 -o out");
}

#[test]
fn exports_that_would_change_nothing_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.refuses("export model -o out", "neither --dense nor --dtype");
    sandbox.refuses("export model --dtype bf16 -o out", "all numbers are BF16 already");
    sandbox.refuses("export model --dense --dtype f32 -o out", "dense already");
    sandbox.misused("export model --dtype int8 -o out", "int8");
}

#[test]
fn gguf_file_becomes_a_directory_by_itself_or_in_another_type() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.gguf", of_fixture("tiny-llama").bytes());
    sandbox.gives("export tiny.gguf -o plain");
    sandbox.gives("export tiny.gguf --dtype f16 -o half");
    let original = weights(&sandbox, "model");
    for (model, stored) in [("plain", vec![Dtype::BF16, Dtype::F32]), ("half", vec![Dtype::F16])] {
        let tensors = weights(&sandbox, model);
        assert!(tensors.keys().eq(original.keys()), "{model}");
        assert_eq!(types(&tensors), stored);
        let card = card(&sandbox, model);
        assert!(card.contains("`tiny.gguf` in safetensors"), "{card}");
        sandbox.gives(&format!("inspect {model}"));
    }
    let config = |model: &str| sandbox.json_file(&format!("{model}/config.json"));
    assert_eq!(config("half")["torch_dtype"], "float16");
    assert!(config("plain").get("torch_dtype").is_none());
    sandbox.refuses("export tiny.gguf --dense -o out", "dense already");
    assert!(sandbox.run("export tiny.gguf --dense -o out").stderr.contains("leave out --dense"));
}

#[test]
fn gguf_model_of_several_files_is_read_from_any_of_them() {
    let sandbox = Sandbox::new();
    let whole = of_fixture("tiny-llama");
    sandbox.write("tiny.gguf", whole.bytes());
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let parts = whole.parts(&[5, whole.tensors.len() - 5]).into_iter().map(|part| part.bytes());
    let mut bytes = 0;
    for (name, part) in names.into_iter().zip(parts) {
        sandbox.write(name, &part);
        bytes += part.len();
    }
    sandbox.gives("export tiny.gguf --dtype f32 -o read");
    let whole_weights = weights(&sandbox, "read");
    for name in names {
        assert_eq!(sandbox.json(&format!("inspect {name} --json"))["bytes"], bytes);
        sandbox.gives(&format!("export {name} --dtype f32 -o {name}-read"));
        assert_eq!(weights(&sandbox, &format!("{name}-read")), whole_weights);
    }
    let [first, second] = names;
    sandbox.refuses(&format!("export {second} --gguf {first}"), "is an input of this command");
    sandbox.remove(first);
    let outcome = sandbox.run(&format!("inspect {second}"));
    let message = outcome.complaint(2);
    assert!(message.contains(&format!("{first}: no such file; it is part 1 of 2")), "{message}");
    assert!(outcome.stderr.contains("hint: all parts of a model belong in one directory"));
}

#[test]
fn model_becomes_a_file_for_llama_cpp_and_a_directory_again() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("export low --dense -o dense");
    for (from, same) in [("model", "model"), ("low", "dense")] {
        let line = format!("export {from} --gguf {from}.gguf");
        let dry = sandbox.json(&format!("{line} --dry-run --json"));
        assert!(!sandbox.path(&format!("{from}.gguf")).exists());
        let told = sandbox.json(&format!("{line} --json"));
        for field in ["output", "architecture", "parameters", "bytes", "types"] {
            assert_eq!(dry[field], told[field], "{field}");
        }
        assert_eq!((&dry["dry_run"], &told["dry_run"]), (&json!(true), &Value::Null));
        assert_eq!(told["bytes"], sandbox.read(&format!("{from}.gguf")).len());
        // Norms are f32 there.
        assert_eq!(told["types"], json!({ "bf16": 29, "f32": 9 }));
        assert_eq!(
            told["parameters"],
            sandbox.json(&format!("inspect {same} --json"))["parameters"]
        );

        sandbox.gives(&format!("export {from}.gguf -o {from}-back"));
        let (found, original) =
            (weights(&sandbox, &format!("{from}-back")), weights(&sandbox, same));
        assert!(found.keys().eq(original.keys()));
        for (name, tensor) in found {
            let original = &original[&name];
            let is_same = match tensor.shape.len() {
                1 => tensor == original.in_f32(),
                _ => tensor == *original,
            };
            assert!(is_same, "{name}");
        }
        let ratio = perplexity(&sandbox, &format!("{from}-back")) / perplexity(&sandbox, same);
        assert!((ratio - 1.0).abs() < 1e-6, "{ratio}");
    }
}

#[test]
fn file_for_llama_cpp_has_the_type_that_is_asked_for_and_replaces_only_such_a_file() {
    let sandbox = Sandbox::new();
    sandbox.write("out.gguf", "mine");
    sandbox.refuses("export model --gguf out.gguf --dtype f16", "out.gguf exists and is not");
    sandbox.write("out.gguf", "GGUF of an earlier model");
    let told = sandbox.gives("export model --gguf out.gguf --dtype f16").stdout;
    assert!(told.contains("29 tensors in f16") && told.contains("9 tensors in f32"), "{told}");
    assert!(sandbox.read("out.gguf").starts_with(b"GGUF"));
    sandbox.gives("export out.gguf --gguf wide.gguf --dtype f32");
    let types = sandbox.json("export wide.gguf --gguf x.gguf --dry-run --json")["types"].clone();
    assert_eq!(types, json!({ "f32": 38 }));
    let ends_in_gguf = |output: &str| {
        let line = format!("export wide.gguf --gguf {output} --dry-run");
        !sandbox.gives(&line).stderr.contains("only if its name ends in .gguf")
    };
    assert!(ends_in_gguf("x.gguf") && ends_in_gguf("x.GGUF") && !ends_in_gguf("x"));
    sandbox.gives("export wide.gguf --gguf x");
    sandbox.refuses("inspect x", "whose name does not end in .gguf");
    assert!(sandbox.run("inspect x").stderr.contains("rename it to x.gguf"));
}

#[test]
fn files_for_llama_cpp_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.misused("export model --dtype f16", "--gguf <FILE>");
    sandbox.misused("export model --gguf out.gguf -o out", "cannot be used with");
    sandbox.write("tiny.gguf", of_fixture("tiny-llama").bytes());
    sandbox.refuses("export tiny.gguf --gguf tiny.gguf", "is an input of this command");
    sandbox.refuses("export model --gguf model", "model");
    sandbox.refuses("export model --gguf nowhere/out.gguf", "nowhere/out.gguf");
    sandbox.gives("export model --dtype f32 -o large");
    sandbox.edit_tensors("large/model.safetensors", |tensors| {
        let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
        embedding.data[..4].copy_from_slice(&7e4f32.to_le_bytes());
    });
    let message =
        sandbox.refuses("export large --gguf out.gguf --dtype f16", "`model.embed_tokens.weight`");
    assert!(message.contains("7e4 does not fit F16"), "{message}");
    sandbox.edit_json("model/tokenizer.json", |tokenizer| {
        tokenizer["pre_tokenizer"]["add_prefix_space"] = true.into();
    });
    let message = sandbox.refuses("export model --gguf out.gguf", "splits text in a way");
    assert!(message.contains("model: cannot be written as GGUF: its tokenizer:"), "{message}");
}

/// `--dtype` of other commands is the type to compute in.
#[test]
fn who_wants_compress_to_store_in_another_type_is_sent_to_export() {
    let sandbox = Sandbox::new();
    let line = "compress model --err 0.5 --dtype f16 -o out";
    sandbox.refuses(line, "--dtype");
    assert!(sandbox.run(line).stderr.contains("hint: `welore-cli export DIR --dtype TYPE`"));
}
