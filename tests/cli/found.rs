//! Checkpoints as they are found: of models that are not known here, and under other names.

use safetensors::Dtype;
use serde_json::json;

use crate::support::{Sandbox, Tensor, Tensors};

const WEIGHTS: &str = "model/model.safetensors";
const CONFIG: &str = "model/config.json";
const EMBEDDING: &str = "bert.embeddings.word_embeddings.weight";

/// A sandbox whose model has the names of BERT, and what else such checkpoints hold.
fn bert() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write(CONFIG, json!({ "model_type": "bert" }).to_string());
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let named = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
            let name = name.replace("model.layers", "bert.encoder.layer");
            (name.replace("model.embed_tokens", "bert.embeddings.word_embeddings"), tensor)
        });
        tensors.extend(named);
        let square = tensors["bert.encoder.layer.0.self_attn.q_proj.weight"].clone();
        tensors.insert("bert.pooler.dense.weight".into(), square.clone());
        tensors.insert("cls.predictions.transform.dense.weight".into(), square);
        tensors.insert("bert.embeddings.position_ids".into(), Tensor::zeros(Dtype::I64, &[1, 8]));
    });
    sandbox
}

#[test]
fn weights_of_any_model_are_compressed_from_file_to_file() {
    let sandbox = bert();
    let linear = 4 * 7 + 1;
    let names = |line: &str| -> Vec<String> {
        let found = sandbox.json(line);
        let names = found["matrices"].as_array().unwrap().iter();
        names.map(|matrix| matrix["name"].as_str().unwrap().to_string()).collect()
    };
    let selected = names("analyze model --json");
    assert_eq!(selected.len(), linear);
    assert!(selected.contains(&"bert.pooler.dense".to_string()), "{selected:?}");
    assert_eq!(names("plan model --err 0.5 --json"), selected);
    let embedding = EMBEDDING.strip_suffix(".weight").unwrap();
    assert_eq!(names("analyze model --include word_embeddings --json"), [embedding]);

    let said = sandbox.gives("compress model --err 0.5 -o low").stderr;
    for told in ["`bert` is not supported", "29 linear layers", &format!("{embedding} (embedding)")]
    {
        assert!(said.contains(told), "{told}: {said}");
    }
    let (dense, low) = (sandbox.tensors(WEIGHTS), sandbox.tensors("low/model.safetensors"));
    assert!(low.keys().any(|name| name.ends_with(".V.weight")), "{:?}", low.keys());
    for copied in [EMBEDDING, "bert.embeddings.position_ids"] {
        assert_eq!(low[copied], dense[copied], "{copied}");
    }
    assert_eq!(sandbox.json_file("low/config.json")["welore"]["base"]["model_type"], "bert");
    sandbox.gives("report --plan low -o page.html");
    sandbox.refuses("compress low --err 0.5 -o lower", "already factored");
    sandbox.gives("export low --dense -o dense");
    let merged = sandbox.tensors("dense/model.safetensors");
    assert!(merged.keys().eq(dense.keys()));
    sandbox.gives("compress model --keep-params 0.8 --no-calibration -o smaller");
    let said = sandbox.gives("inspect smaller").stdout;
    assert!(said.contains("29 linear layers") && said.contains("compressed: "), "{said}");
}

#[test]
fn a_configuration_is_not_needed_where_only_weights_are() {
    let sandbox = bert();
    for config in [Some("{}"), Some(r#"{"model_type": null, "dim": 8}"#), None] {
        match config {
            Some(text) => sandbox.write(CONFIG, text),
            None => sandbox.remove(CONFIG),
        }
        let found = sandbox.json("inspect model --json");
        assert!(found["cannot_run"].as_str().unwrap().contains("config.json"), "{found}");
        sandbox.gives("compress model --err 0.5 -o low --force");
    }
    assert!(!sandbox.path("low/config.json").exists());
    sandbox.gives("export low --dense -o dense");
}

#[test]
fn calibrating_a_model_that_cannot_be_run_says_what_works() {
    let sandbox = bert();
    for (options, hint) in [
        ("--keep-params 0.8", "--no-calibration"),
        ("--err 0.5 --calibrate story.txt", "--method svd"),
    ] {
        let line = format!("compress model {options} -o out");
        sandbox.refuses(&line, "model_type `bert` is not supported");
        let said = sandbox.run(&line).stderr;
        assert!(said.lines().nth(1).is_some_and(|line| line.contains(hint)), "{said}");
    }
}

/// A sandbox whose model has convolutions, one of them with one input channel.
fn with_convolutions() -> Sandbox {
    let sandbox = bert();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let matrix = tensors["bert.pooler.dense.weight"].clone();
        let [rows, columns] = matrix.shape[..] else { panic!("{:?}", matrix.shape) };
        let shape = vec![rows, columns / 4, 2, 2];
        tensors.insert("conv.patch_embedding.weight".into(), Tensor { shape, ..matrix.clone() });
        let shape = vec![rows, 1, columns];
        tensors.insert("conv.depthwise.weight".into(), Tensor { shape, ..matrix });
    });
    sandbox
}

#[test]
fn convolutions_are_compressed_where_that_is_asked_for() {
    let sandbox = with_convolutions();
    let (name, conv) = ("conv.patch_embedding", "conv.patch_embedding.weight");
    let count = |line: &str| sandbox.json(line)["matrices"].as_array().unwrap().len();
    assert_eq!(count("analyze model --json"), 29);
    assert_eq!(count("analyze model --convolutions --json"), 30);
    assert_eq!(count("analyze model --convolutions --include patch_embedding --json"), 1);
    let not_asked = "analyze model --include patch_embedding";
    sandbox.refuses(not_asked, "no matrix matches `patch_embedding`, but convolutions do");
    assert!(sandbox.run(not_asked).stderr.contains("--convolutions takes them as matrices"));
    let options = "--err 0.5 --convolutions --set-rank patch_embedding=8";
    let said = sandbox.gives(&format!("compress model {options} -o low")).stderr;
    for told in ["1 convolution read as matrices", "conv.depthwise (one input channel)"] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let dense = sandbox.tensors(WEIGHTS);
    let (low, shape) = (sandbox.tensors("low/model.safetensors"), &dense[conv].shape);
    assert_eq!(low[&format!("{name}.V.weight")].shape, [8, shape[1], 2, 2]);
    assert_eq!(low[&format!("{name}.U.weight")].shape, [shape[0], 8, 1, 1]);
    assert_eq!(low["conv.depthwise.weight"], dense["conv.depthwise.weight"]);
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    assert!(card.contains("two convolutions") && !card.contains("```"), "{card}");

    // A plan says by itself which convolutions are matrices.
    sandbox.gives(&format!("plan model {options} -o plan.json"));
    sandbox.gives("compress model --plan plan.json -o planned");
    assert!(sandbox.read("planned/model.safetensors") == sandbox.read("low/model.safetensors"));
    sandbox.gives("export low --dense -o dense");
    let merged = sandbox.tensors("dense/model.safetensors");
    assert_eq!(&merged[conv].shape, shape);
    let factored = sandbox.json("inspect low --json")["factored"].clone();
    assert!(factored.as_array().unwrap().iter().any(|matrix| matrix["name"] == name));
    sandbox.gives("report --plan low -o page.html");
}

#[test]
fn convolutions_are_refused_where_there_are_none() {
    let sandbox = with_convolutions();
    sandbox.add("tiny-llama", "known");
    let none = "has none that is a matrix";
    sandbox.refuses("analyze known --convolutions", none);
    sandbox.refuses("compress known --err 0.5 --convolutions -o out", none);
    let pivot = "--err 0.5 --convolutions --storage pivot";
    sandbox.refuses(&format!("compress model {pivot} -o out"), "--storage pivot");
    sandbox.refuses(&format!("plan model {pivot}"), "--storage pivot");
    sandbox.gives("analyze model -o spectra.json");
    sandbox.refuses("plan spectra.json --err 0.5 --convolutions", "--convolutions");
    sandbox
        .refuses("compress model --for llama.cpp --bits 5 --convolutions -o o", "--convolutions");
    sandbox.misused("eval known --text story.txt --convolutions", "--convolutions");
}

/// A sandbox whose tensors have other names.
fn renamed(new_name: impl Fn(&str) -> String) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let all = std::mem::take(tensors).into_iter();
        tensors.extend(all.map(|(name, tensor)| (new_name(&name), tensor)));
    });
    sandbox
}

const EVAL: &str = "eval model --text story.txt --seq-len 64 --windows 1";

/// What is written has the plain names, whatever those of the input were.
#[test]
fn names_with_something_before_them_are_read_and_written_plain() {
    let plain = Sandbox::new();
    let perplexity = plain.json(&format!("{EVAL} --json"))["perplexity"].clone();
    plain.gives("compress model --err 0.5 -o low");
    let low = plain.tensors("low/model.safetensors");
    let text = |name: &str| name.replace("model.", "model.language_model.");
    let inner = |name: &str| format!("language_model.{name}");
    let bare = |name: &str| name.replace("model.", "");
    let wrapped = |name: &str| format!("module._orig_mod.{name}");
    let merged = |name: &str| format!("base_model.model.{name}");
    type Naming<'a> = &'a dyn Fn(&str) -> String;
    let namings: [(Naming<'_>, &str); 5] = [
        (&text, "with `model.` in the place of `model.language_model.`"),
        (&inner, "with `model.` in the place of `language_model.model.`"),
        (&bare, "with `model.` before them"),
        (&wrapped, "without `module._orig_mod.`"),
        (&merged, "without `base_model.model.`"),
    ];
    for (naming, told) in namings {
        let sandbox = renamed(naming);
        let said = sandbox.gives("compress model --err 0.5 -o low").stderr;
        assert_eq!(said.matches(told).count(), 1, "{told}: {said}");
        assert_eq!(sandbox.tensors("low/model.safetensors"), low, "{told}");
    }
    let sandbox = renamed(bare);
    assert_eq!(sandbox.json(&format!("{EVAL} --json"))["perplexity"], perplexity);
}

#[test]
fn buffers_are_left_out_and_told() {
    let sandbox = Sandbox::new();
    let before = sandbox.json(&format!("{EVAL} --json"))["perplexity"].clone();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        for (name, dtype, shape) in [
            ("self_attn.rotary_emb.inv_freq", Dtype::F32, &[8][..]),
            ("self_attn.masked_bias", Dtype::F32, &[][..]),
            ("self_attn.bias", Dtype::BOOL, &[1, 1, 4, 4][..]),
        ] {
            tensors.insert(format!("model.layers.1.{name}"), Tensor::zeros(dtype, shape));
        }
    });
    let outcome = sandbox.gives(&format!("{EVAL} --json"));
    assert!(outcome.stderr.contains("3 buffers such as `model.layers.1."), "{}", outcome.stderr);
    assert_eq!(sandbox.json(&format!("{EVAL} --json"))["perplexity"], before);
}

const UP_PROJ: &str = "model.layers.1.mlp.up_proj.weight";

/// The number of a code of F8_E4M3.
fn number(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from((code >> 3) & 15), f32::from(code & 7) / 8.0);
    let size = match exponent {
        0 => fraction * 2f32.powi(-6),
        _ => (1.0 + fraction) * 2f32.powi(exponent - 7),
    };
    if code < 128 { size } else { -size }
}

/// Replaces a matrix by numbers of 8 bits with scales of the given shape, and returns the matrix that
/// they stand for, in bf16.
fn scale(
    tensors: &mut Tensors,
    name: &str,
    end: &str,
    shape: &[usize],
    block: [usize; 2],
) -> Tensor {
    let [rows, cols]: [usize; 2] = tensors[name].shape.clone().try_into().unwrap();
    // Not all of a matrix has one rank, and no code is not a number.
    let codes: Vec<u8> =
        (0..rows * cols).map(|at| ((at * at + 7 * at) % 251) as u8 & 0xf7).collect();
    // Powers of two, so that a product is exact.
    let scales: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|at: usize| 2f32.powi(-12 + at as i32 % 3))
        .collect();
    let across = cols.div_ceil(block[1]);
    let product = |at: usize| {
        let scale = scales[at / cols / block[0] * across + at % cols / block[1]];
        // The upper half of an f32 that is a bf16.
        let [_, _, low, high] = (number(codes[at]) * scale).to_le_bytes();
        [low, high]
    };
    let data = (0..rows * cols).flat_map(product).collect();
    let plain = Tensor { dtype: Dtype::BF16, shape: vec![rows, cols], data };
    let scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let scales = Tensor { dtype: Dtype::F32, shape: shape.to_vec(), data: scales };
    tensors.insert(format!("{name}{end}"), scales);
    let codes = Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols], data: codes };
    tensors.insert(name.into(), codes);
    plain
}

#[test]
fn numbers_of_8_bits_with_scales_are_read_and_written_as_bf16() {
    let plain = Sandbox::new();
    let shape = plain.tensors(WEIGHTS)[UP_PROJ].shape.clone();
    let block = [48, 40];
    let blocks: Vec<usize> = shape.iter().zip(block).map(|(all, n)| all.div_ceil(n)).collect();
    let fp8 = json!({ "quant_method": "fp8", "weight_block_size": block });
    let everything = [shape[0], shape[1]];
    for (end, scales, block) in [
        ("_scale_inv", &blocks[..], block),
        ("_scale", &[][..], everything),
        ("_scale", &[shape[0], 1][..], [1, shape[1]]),
    ] {
        let sandbox = Sandbox::new();
        sandbox.edit_json(CONFIG, |config| config["quantization_config"] = fp8.clone());
        let mut same = None;
        sandbox.edit_tensors(WEIGHTS, |tensors| {
            same = Some(scale(tensors, UP_PROJ, end, scales, block));
            let unused = UP_PROJ.replace("weight", "input_scale");
            tensors.insert(unused, Tensor::zeros(Dtype::F32, &[]));
        });
        plain.edit_tensors(WEIGHTS, |tensors| {
            tensors.insert(UP_PROJ.into(), same.unwrap());
        });
        let said = sandbox.gives("compress model --err 0.5 -o low").stderr;
        assert!(said.contains("1 tensor in F8_E4M3 with scales"), "{said}");
        plain.gives("compress model --err 0.5 -o low --force");
        let weights = "low/model.safetensors";
        assert_eq!(sandbox.tensors(weights), plain.tensors(weights), "{end} {scales:?}");
        assert_eq!(sandbox.json_file("low/config.json"), plain.json_file("low/config.json"));
        if end == "_scale_inv" {
            let line = format!("{EVAL} --json");
            assert_eq!(sandbox.json(&line)["perplexity"], plain.json(&line)["perplexity"]);
        }
        sandbox.gives("export model --dtype bf16 -o copy");
        assert_eq!(sandbox.tensors("copy/model.safetensors"), plain.tensors(WEIGHTS));
    }
}

#[test]
fn numbers_of_8_bits_without_fitting_scales_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        scale(tensors, UP_PROJ, "_scale", &[1], [usize::MAX, usize::MAX]);
        tensors.insert(format!("{UP_PROJ}_scale"), Tensor::zeros(Dtype::F32, &[3, 5]));
    });
    for line in [EVAL, "compress model --err 0.5 -o out"] {
        let message = sandbox.refuses(line, "F32 [3, 5]");
        assert!(message.contains(UP_PROJ), "{message}");
    }
    sandbox.edit_tensors(WEIGHTS, |tensors| drop(tensors.remove(&format!("{UP_PROJ}_scale"))));
    for line in [EVAL, "inspect model", "compress model --err 0.5 -o out"] {
        sandbox.refuses(line, &format!("neither `{UP_PROJ}_scale_inv` nor `{UP_PROJ}_scale`"));
    }
}

#[test]
fn weights_that_others_quantized_say_what_makes_them_readable() {
    for (ends, by, hint) in [
        (&["qweight", "qzeros", "g_idx"][..], "GPTQ", "amn remember"),
        (&["qweight", "qzeros"][..], "AWQ", "amn remember"),
        (
            &["weight.absmax", "weight.quant_state.bitsandbytes__nf4"][..],
            "bitsandbytes",
            "dequantize()",
        ),
        (&["weight_packed"][..], "compressed-tensors", "quantized from"),
    ] {
        for (model_type, line) in [("llama", EVAL), ("bert", "compress model --err 0.5 -o out")] {
            let sandbox = Sandbox::new();
            sandbox.edit_json(CONFIG, |config| config["model_type"] = model_type.into());
            sandbox.edit_tensors(WEIGHTS, |tensors| {
                for end in ends {
                    let name = UP_PROJ.replace("weight", end);
                    tensors.insert(name, Tensor::zeros(Dtype::I32, &[8, 8]));
                }
            });
            sandbox.refuses(line, &format!("quantized by {by}"));
            let said = sandbox.run(line).stderr;
            assert!(said.lines().nth(1).is_some_and(|line| line.contains(hint)), "{said}");
        }
    }
}

#[test]
fn a_model_of_more_than_text_is_compressed_as_a_whole_and_its_text_is_run() {
    let plain = Sandbox::new();
    let perplexity = plain.json(&format!("{EVAL} --json"))["perplexity"].clone();
    let sandbox = renamed(|name| format!("language_model.{name}"));
    let text = sandbox.json_file(CONFIG);
    sandbox.write(CONFIG, json!({ "model_type": "llava", "text_config": text }).to_string());
    let vision = "vision_tower.encoder.layers.0.self_attn.q_proj";
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let square = tensors["language_model.model.layers.0.self_attn.q_proj.weight"].clone();
        tensors.insert(format!("{vision}.weight"), square);
    });
    let outcome = sandbox.gives(&format!("{EVAL} --json"));
    assert!(outcome.stderr.contains("without 1 tensor of other parts"), "{}", outcome.stderr);
    assert_eq!(sandbox.json(&format!("{EVAL} --json"))["perplexity"], perplexity);
    let said = sandbox.gives("compress model --err 0.5 --min-ratio 0 -o low").stderr;
    assert!(said.contains("`llava` has other parts than text"), "{said}");
    let low = sandbox.tensors("low/model.safetensors");
    assert!(low.contains_key(&format!("{vision}.V.weight")), "{:?}", low.keys());
    assert!(
        low.keys().any(|name| name.starts_with("language_model.") && name.ends_with(".V.weight"))
    );
    sandbox.gives("eval low --text story.txt --seq-len 64 --windows 1");
}

#[test]
fn a_model_without_a_language_models_head_is_compressed_and_not_run() {
    let sandbox = Sandbox::new();
    sandbox.edit_json(CONFIG, |config| config["tie_word_embeddings"] = false.into());
    for classifies in [false, true] {
        if classifies {
            sandbox.edit_tensors(WEIGHTS, |tensors| {
                tensors.insert("score.weight".into(), Tensor::zeros(Dtype::BF16, &[2, 64]));
            });
        }
        let said = sandbox.gives("compress model --err 0.5 -o low --force").stderr;
        assert!(said.contains("28 linear layers") && said.contains("another head"), "{said}");
        sandbox.refuses(EVAL, "`lm_head.weight` is missing");
    }
}
