//! Files that a stranger may have made: of absurd sizes, with impossible numbers, or linked elsewhere.

mod names;
#[cfg(unix)]
mod pipes;

use std::time::{Duration, Instant};

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::support::{Outcome, Sandbox, Tensor};

const WEIGHTS: &str = "model/model.safetensors";
const CONFIG: &str = "model/config.json";
const EVAL: &str = "eval model --text story.txt --seq-len 64 --windows 1";
const TRAIN: &str = "--text story.txt --seq-len 32 --batch-size 1 --steps 1 -o run";

/// Checks that a terminal only shows an output, and that no line of it is forged.
fn assert_harmless(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        let acts = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
        assert!(!text.contains(acts), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{text}");
    }
}

/// Checks that a card has its own metadata, one place for scores, and no HTML.
fn assert_honest_card(sandbox: &Sandbox, directory: &str) {
    let card = String::from_utf8(sandbox.read(&format!("{directory}/README.md"))).unwrap();
    assert!(card.starts_with("---\ntags:\n- welore\n- low-rank\n---\n\n# "), "{card}");
    assert_eq!(card.matches("<!-- measured -->").count(), 1, "{card}");
    assert!(!card.contains("<script") && !card.contains('\u{1b}'), "{card}");
}

#[cfg(unix)]
#[test]
fn links_out_of_a_model_directory_are_not_published() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.write("secret", "key");
    for model in ["model", "low"] {
        std::os::unix::fs::symlink("../secret", sandbox.path(&format!("{model}/LICENSE.txt")))
            .unwrap();
    }
    for line in [
        "compress model --err 0.5 -o out",
        "compress model --err 0.5 -o out --dry-run",
        "export low --dense -o out",
        &format!("train low {TRAIN}"),
        &format!("train low {TRAIN} --dry-run"),
    ] {
        let message = sandbox.refuses(line, "LICENSE.txt leads out of the model directory");
        assert!(message.ends_with("secret"), "{message}");
    }
    // What is not copied may be anywhere.
    sandbox.gives(EVAL);
    // Within the directory a link is as good as a file.
    for model in ["model", "low"] {
        sandbox.remove(&format!("{model}/LICENSE.txt"));
        std::os::unix::fs::symlink("config.json", sandbox.path(&format!("{model}/LICENSE")))
            .unwrap();
    }
    sandbox.gives("compress model --err 0.5 -o out");
    let copied = sandbox.path("out/LICENSE").symlink_metadata().unwrap();
    assert!(copied.is_file(), "a copy, not a link");
    assert_eq!(sandbox.read("out/LICENSE"), sandbox.read(CONFIG));
}

/// A sandbox with the configuration and the tokenizer of a model in `bare`.
fn bare(fields: &[(&str, Value)]) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("bare")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        sandbox.write(&format!("bare/{file}"), sandbox.read(&format!("model/{file}")));
    }
    sandbox.edit_json("bare/config.json", |config| {
        for (field, value) in fields {
            config[*field] = value.clone();
        }
    });
    sandbox
}

#[test]
fn absurd_models_are_not_made_from_scratch() {
    let wide = json!(1 << 24);
    let mut cases = vec![(
        vec![
            ("num_hidden_layers", json!(1 << 24)),
            ("hidden_size", json!(2)),
            ("intermediate_size", json!(1)),
        ],
        "bare/config.json: `num_hidden_layers`",
    )];
    if cfg!(target_os = "linux") {
        let sizes = vec![("hidden_size", wide.clone()), ("intermediate_size", wide)];
        cases.push((sizes, "of memory; this machine has"));
    }
    for (fields, named) in cases {
        let sandbox = bare(&fields);
        for end in ["", " --dry-run"] {
            let started = Instant::now();
            sandbox.refuses(&format!("train bare --from-scratch {TRAIN}{end}"), named);
            assert!(started.elapsed() < Duration::from_secs(10), "{named}{end} takes long");
        }
    }
}

/// Files as they were found, each of which once reached the terminal or the card, or aborted.
#[test]
fn files_that_once_went_wrong_do_no_harm() {
    let sandbox = Sandbox::new();
    sandbox.add("odd", "odd");
    let planned = sandbox.gives("plan odd/spectra.json --err 0.5");
    assert!(planned.stdout.contains("\\u{1b}[2Jevil"), "{}", planned.stdout);
    assert_harmless(&planned);
    assert_harmless(&sandbox.gives("compress model --plan odd/plan.json -o low"));
    assert_honest_card(&sandbox, "low");
    for (config, named) in [
        ("config.json", "x\\u{1b}]0;owned"),
        ("16M-layers.json", "num_hidden_layers"),
        // Refused for want of memory, unless the machine has it.
        ("16G-parameters.json", "memory"),
    ] {
        let json = sandbox.json_file(&format!("odd/{config}"));
        sandbox.write(CONFIG, json.to_string());
        let started = Instant::now();
        let outcome = sandbox.run(&format!("train model --from-scratch --dry-run {TRAIN}"));
        assert!(started.elapsed() < Duration::from_secs(10), "{config} takes long");
        assert_harmless(&outcome);
        if config != "16G-parameters.json" || outcome.code != Some(0) {
            assert!(outcome.complaint(2).contains(named), "{outcome:?}");
        }
    }
}

#[test]
fn absurd_ranks_of_adapters_are_refused_before_anything_is_merged() {
    let sandbox = Sandbox::new();
    for rank in ["65", "1000000000"] {
        for end in ["", " --dry-run"] {
            let line = format!("train model --trainable lora --lora-rank {rank} {TRAIN}{end}");
            sandbox.refuses(&line, "--lora-rank");
        }
    }
}

#[test]
fn a_rank_at_which_no_gradient_is_projected_is_refused_with_the_largest() {
    let sandbox = Sandbox::new();
    for rank in ["64", "99999999"] {
        for end in ["", " --dry-run"] {
            let line = format!("train model --trainable galore --galore-rank {rank} {TRAIN}{end}");
            let message = sandbox.refuses(&line, "--galore-rank");
            assert!(message.contains("the largest possible is 63"), "{message}");
        }
    }
    sandbox.gives(&format!("train model --trainable galore --galore-rank 63 {TRAIN} --dry-run"));
}

/// A model in `big` whose MLP would have a terabyte if its factors of rank 1 were merged.
#[cfg(target_os = "linux")]
fn big() -> Sandbox {
    const WIDE: usize = 1 << 20;
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "big");
    sandbox.edit_json("big/config.json", |config| {
        for (field, size) in [
            ("hidden_size", WIDE),
            ("intermediate_size", WIDE),
            ("num_hidden_layers", 1),
            ("vocab_size", 2),
        ] {
            config[field] = size.into();
        }
    });
    // Both tokens, and a text of them.
    sandbox.edit_json("big/tokenizer.json", |tokenizer| {
        *tokenizer = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1}},
        });
    });
    sandbox.write("story.txt", "a b ".repeat(100));
    sandbox.edit_tensors("big/model.safetensors", |tensors| {
        tensors.clear();
        let mut add = |name: &str, shape: &[usize]| {
            tensors.insert(name.into(), Tensor::zeros(Dtype::BF16, shape));
        };
        add("model.embed_tokens.weight", &[2, WIDE]);
        add("model.norm.weight", &[WIDE]);
        add("model.layers.0.input_layernorm.weight", &[WIDE]);
        add("model.layers.0.post_attention_layernorm.weight", &[WIDE]);
        for (name, rows, cols) in [
            ("self_attn.q_proj", 64, WIDE),
            ("self_attn.k_proj", 32, WIDE),
            ("self_attn.v_proj", 32, WIDE),
            ("self_attn.o_proj", WIDE, 64),
            ("mlp.gate_proj", WIDE, WIDE),
            ("mlp.up_proj", WIDE, WIDE),
            ("mlp.down_proj", WIDE, WIDE),
        ] {
            add(&format!("model.layers.0.{name}.V.weight"), &[1, cols]);
            add(&format!("model.layers.0.{name}.U.weight"), &[rows, 1]);
        }
    });
    sandbox
}

#[cfg(target_os = "linux")]
#[test]
fn small_factors_of_huge_matrices_are_not_merged() {
    let sandbox = big();
    sandbox.gives("inspect big");
    for end in ["", " --dry-run"] {
        let message = sandbox.refuses(&format!("export big --dense -o out{end}"), "_proj`");
        assert!(message.ends_with(" of this machine"), "{message}");
        let line = format!("train big --trainable lora {TRAIN}{end}");
        sandbox.refuses(&line, "of memory; this machine has");
    }
}

#[test]
fn calibrations_that_do_not_fit_the_model_are_refused() {
    const COMPRESS: &str = "compress model --calibration seen --keep-params 0.8 -o out";
    let calibrated = || {
        let sandbox = Sandbox::new();
        sandbox.gives(
            "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 6 \
             --gradient-windows 2 -o seen",
        );
        sandbox
    };
    let sandbox = calibrated();
    sandbox.edit_json(CONFIG, |config| config["max_position_embeddings"] = 32.into());
    sandbox.refuses(&format!("{COMPRESS} --method sequential"), "the model's context of 32");

    type Edit<'a> = &'a dyn Fn(&mut Value);
    let edits: [(&str, &str, Edit<'_>); 3] = [
        ("not the 64 x 64 matrix", "model.layers.0.self_attn.q_proj.outputs", &|matrix| {
            matrix["shape"] = json!([32, 64]);
        }),
        ("no inputs of", "", &|matrix| matrix["inputs_of"] = "nothing".into()),
        ("not a calibration", "", &|matrix| matrix["shape"] = json!([64, 1 << 20])),
    ];
    for (named, smaller, edit) in edits {
        let sandbox = calibrated();
        sandbox.edit_tensors("seen", |tensors| {
            let manifest = tensors.get_mut("manifest").unwrap();
            let mut value: Value = serde_json::from_slice(&manifest.data).unwrap();
            let matrices = value["matrices"].as_array_mut().unwrap();
            let q_proj = "model.layers.0.self_attn.q_proj";
            edit(matrices.iter_mut().find(|matrix| matrix["name"] == q_proj).unwrap());
            manifest.data = value.to_string().into_bytes();
            manifest.shape = vec![manifest.data.len()];
            if !smaller.is_empty() {
                tensors.insert(smaller.into(), Tensor::zeros(Dtype::F32, &[32 * 33 / 2]));
            }
        });
        for line in [COMPRESS, "plan model --calibration seen --keep-params 0.8"] {
            sandbox.refuses(line, named);
        }
    }
}

#[test]
fn calibrations_with_impossible_numbers_are_refused_when_they_are_opened() {
    let sandbox = Sandbox::new();
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 6 \
         --gradient-windows 2 -o seen",
    );
    let line = "plan model --calibration seen --keep-params 0.8";
    let whole = sandbox.read("seen");
    let outputs = "model.layers.0.self_attn.q_proj.outputs";
    for (tensor, first, named) in [
        (outputs, (-1f32).to_le_bytes().to_vec(), "`model.layers.0.self_attn.q_proj.outputs` has"),
        ("spread", f64::NAN.to_le_bytes().to_vec(), "the spread of"),
        ("spread", (-1f64).to_le_bytes().to_vec(), "the spread of"),
        ("probes", (-1f64).to_le_bytes().to_vec(), "the probe of"),
        // Such numbers are told in a few digits.
        (
            outputs,
            f32::MIN.to_le_bytes().to_vec(),
            "`model.layers.0.self_attn.q_proj.outputs` has the mean square -3.4",
        ),
        (
            "probes",
            (-1e300f64).to_le_bytes().to_vec(),
            "the probe of `model.layers.0.self_attn.q_proj` is -1e300,",
        ),
    ] {
        sandbox.edit_tensors("seen", |tensors| {
            let data = &mut tensors.get_mut(tensor).unwrap().data;
            data[..first.len()].copy_from_slice(&first);
        });
        sandbox.refuses(line, &format!("seen: not a calibration: {named}"));
        sandbox.write("seen", &whole);
    }
    // What is read only where it is needed is refused there, and is not called weights.
    sandbox.edit_tensors("seen", |tensors| {
        let data = &mut tensors.get_mut(outputs).unwrap().data;
        data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    sandbox.refuses(line, "`model.layers.0.self_attn.q_proj.outputs` holds NaN");
    let said = sandbox.run(line).stderr;
    assert!(said.contains("hint: the calibration is damaged"), "{said}");
    sandbox.write("seen", &whole);
    sandbox.edit_tensors("seen", |tensors| {
        let manifest = tensors.get_mut("manifest").unwrap();
        let mut value: Value = serde_json::from_slice(&manifest.data).unwrap();
        value["gradient_blocks"] = 7.into();
        manifest.data = value.to_string().into_bytes();
        manifest.shape = vec![manifest.data.len()];
    });
    sandbox.refuses(line, "seen: not a calibration: `gradient_blocks` is 7, of 6 `blocks`");
    // A probe may be 0, but not all of them.
    sandbox.write("seen", &whole);
    sandbox.edit_tensors("seen", |tensors| tensors.get_mut("probes").unwrap().data.fill(0));
    sandbox.refuses(&format!("{line} --policy probed"), "needs probes above 0");
    sandbox.gives(line);
}

#[test]
fn headers_with_many_names_take_no_minutes() {
    let sandbox = Sandbox::new();
    sandbox.edit_json(CONFIG, |config| config["num_hidden_layers"] = 2000.into());
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        // Each layer has its first norm and lacks everything else.
        for layer in 4..2000 {
            let name = format!("model.layers.{layer}.input_layernorm.weight");
            tensors.insert(name, Tensor::zeros(Dtype::BF16, &[64]));
        }
        for number in 0..200_000 {
            let name = format!("model.layers.{number}.self_attn.p_proj.weight");
            tensors.insert(name, Tensor::zeros(Dtype::BF16, &[0]));
        }
    });
    let started = Instant::now();
    sandbox.refuses("inspect model", "is missing");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_file_that_is_no_model_is_called_what_it_is() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 -o plan.json");
    for (file, what) in [
        ("story.txt", "story.txt is a text, not a model directory"),
        ("plan.json", "plan.json is a plan, not"),
        (WEIGHTS, "model.safetensors is a safetensors file, not"),
        (CONFIG, "config.json is the configuration of a model, not"),
    ] {
        for line in ["inspect", "export --dense -o out", "generate --prompt Mia"] {
            sandbox.refuses(&format!("{line} {file}"), what);
        }
    }
}

#[test]
fn endless_names_do_not_make_endless_messages() {
    let sandbox = Sandbox::new();
    let name = "x".repeat(100_000);
    sandbox.edit_json("model/config.json", |config| config["model_type"] = name.clone().into());
    let message = sandbox.refuses(EVAL, "model_type");
    assert!(message.chars().count() < 1100, "{} characters", message.len());
    sandbox.write("plan.json", format!("{{\"format\": \"{name}\", \"version\": 3}}"));
    let message = sandbox.refuses("compress model --plan plan.json -o out", "plan.json");
    assert!(message.chars().count() < 1100, "{} characters", message.len());
}
