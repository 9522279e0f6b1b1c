//! What is read from a `config.json`, for every family.

use burn::module::Module;
use serde_json::{Value, json};
use welore_burn::model::{
    BlockLayout, ConfigError, DecoderConfig, NormKind, QkNorm, RopeScaling, model_types,
    read_config,
};

use crate::{device, expected, fixture};

/// A configuration that states no more than sizes, with some more fields.
fn short_config(model_type: &str, more: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config = json!({
        "model_type": model_type,
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    DecoderConfig::from_hf_json(&config.to_string())
}

#[test]
fn mlps_may_have_a_width_for_each_layer() {
    let with = |widths: Value| short_config("llama", json!({ "intermediate_size": widths }));
    let config = with(json!([64, 96])).unwrap();
    assert_eq!((config.intermediate_size, config.mlp_width(0), config.mlp_width(1)), (96, 64, 96));
    assert_eq!(config.parameters(), config.init(&device()).num_params() as u128);
    assert_eq!(with(json!([96, 96])), short_config("llama", json!({})), "they do not differ");
    for wrong in [json!([96]), json!([]), json!([96, 0]), json!([96, -1]), json!("wide")] {
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.contains("intermediate_size"), "{error}");
    }
}

#[test]
fn fields_that_a_configuration_lacks_are_those_of_transformers() {
    let (none, nothing) = (None::<usize>, Vec::<u32>::new());
    for (model_type, more, kv_heads, context, window, ends) in [
        ("llama", json!({}), 32, 2048, none, vec![2]),
        ("llama", json!({ "eos_token_id": null }), 32, 2048, none, nothing.clone()),
        ("mistral", json!({}), 8, 131_072, Some(4096), vec![2]),
        ("mistral", json!({ "sliding_window": null }), 8, 131_072, none, vec![2]),
        ("mistral", json!({ "num_key_value_heads": null }), 32, 131_072, Some(4096), vec![2]),
        ("mistral", json!({ "num_key_value_heads": 4 }), 4, 131_072, Some(4096), vec![2]),
        ("qwen2", json!({}), 32, 32_768, none, nothing.clone()),
        (
            "qwen2",
            json!({ "use_sliding_window": true, "max_window_layers": 1 }),
            32,
            32_768,
            Some(4096),
            nothing.clone(),
        ),
        // All of the two layers are among the first 28.
        ("qwen2", json!({ "use_sliding_window": true }), 32, 32_768, none, nothing.clone()),
    ] {
        let config = short_config(model_type, more.clone()).unwrap();
        let case = format!("{model_type} {more}");
        assert_eq!(config.num_key_value_heads, kv_heads, "{case}");
        assert_eq!(config.max_position_embeddings, context, "{case}");
        assert_eq!(config.sliding_window, window, "{case}");
        assert_eq!(config.eos_token_ids, ends, "{case}");
        assert_eq!((config.rope_theta, config.rms_norm_eps), (10000.0, 1e-6), "{case}");
        assert_eq!((config.head_dim, config.initializer_range), (2, 0.02), "{case}");
        assert!(!config.tie_word_embeddings && !config.mlp_bias && !config.output_bias, "{case}");
        assert_eq!(config.qkv_bias, model_type == "qwen2", "{case}");
    }
}

/// `families.json` has the defaults of the families that were added after the first three.
#[test]
fn families_have_the_defaults_of_transformers() {
    let short = expected("short");
    let defaults = expected("defaults");
    for want in defaults.as_array().unwrap() {
        let mut json = short.clone();
        json["model_type"] = want["model_type"].clone();
        let config = DecoderConfig::from_hf_json(&json.to_string()).unwrap();
        let windows: Vec<Option<usize>> = (0..config.num_hidden_layers)
            .map(|layer| config.sliding_window.filter(|_| config.has_window(layer)))
            .collect();
        let got = json!({
            "model_type": want["model_type"],
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "context": config.max_position_embeddings,
            "windows": windows,
            "ends": config.eos_token_ids,
            "theta": config.rope_theta,
            "eps": config.rms_norm_eps,
            "tied": config.tie_word_embeddings,
        });
        assert_eq!(&got, want);
    }
}

#[test]
fn layers_that_differ_are_described_one_by_one() {
    let of = |model_type: &str, more: Value| {
        let mut sizes = json!({
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        });
        sizes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        short_config(model_type, sizes)
    };
    let rotary = |more| {
        let config = of("smollm3", more).unwrap();
        (0..4).map(|layer| config.has_rotary(layer)).collect::<Vec<_>>()
    };
    assert_eq!(rotary(json!({})), [true, true, true, false]);
    assert_eq!(rotary(json!({ "no_rope_layer_interval": 2 })), [true, false, true, false]);
    assert_eq!(rotary(json!({ "no_rope_layers": [0, 1, 1, 1, 0] })), [false, true, true, true]);
    let few = of("smollm3", json!({ "no_rope_layers": [0, 1] })).unwrap_err();
    assert!(few.to_string().contains("no_rope_layers"), "{few}");

    // As transformers 5 nests settings of the two types of layers, and as files had them before.
    let scaled = json!({ "rope_type": "linear", "factor": 8.0, "rope_theta": 5e5 });
    let nested = json!({
        "rope_parameters": {
            "full_attention": scaled,
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e3 },
        },
    });
    let older = json!({
        "rope_theta": 5e5,
        "rope_local_base_freq": 1e3,
        "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
    });
    let config = of("gemma3_text", nested.clone()).unwrap();
    assert_eq!(of("gemma3_text", older), Ok(config.clone()));
    assert_eq!((config.rope_theta, config.window_rope), (5e5, Some((1e3, RopeScaling::None))));
    assert!(of("llama", nested.clone()).unwrap_err().to_string().contains("rope_parameters"));
    // Settings beside these replace single ones, and those of no type of layers do not count.
    let mut both = nested;
    both["rope_scaling"] = json!({ "factor": 2.0 });
    both["rope_parameters"]["rope_type"] = "dynamic".into();
    let config = of("gemma3_text", both).unwrap();
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!((config.rope_theta, config.window_rope), (5e5, Some((1e3, RopeScaling::None))));
    let flat = json!({ "rope_parameters": { "rope_type": "linear", "factor": 8.0 } });
    for model_type in ["gemma3_text", "olmo3"] {
        let config = of(model_type, flat.clone()).unwrap();
        assert_eq!(config.rope_scaling, RopeScaling::None, "{model_type}");
    }

    let types = json!(["sliding_attention", "full_attention"]);
    let few = of("ministral", json!({ "layer_types": types })).unwrap_err();
    assert!(few.to_string().contains("layer_types"), "{few}");
}

/// Fields of GPT-2 have names of their own, and its MLPs are four times as wide as the rest unless it is
/// said how wide.
#[test]
fn sizes_and_scales_of_gpt_2_are_read_from_its_own_fields() {
    let of = |more: Value| {
        let mut config = json!({ "model_type": "gpt2", "vocab_size": 64 });
        for (field, size) in [("n_embd", 32), ("n_layer", 2), ("n_head", 4)] {
            config[field] = size.into();
        }
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        DecoderConfig::from_hf_json(&config.to_string())
    };
    let config = of(json!({ "n_positions": 80, "intermediate_size": 9, "n_inner": null })).unwrap();
    let sizes = [config.hidden_size, config.num_hidden_layers, config.num_attention_heads];
    assert_eq!((sizes, config.intermediate_size, config.context()), ([32, 2, 4], 128, 80));
    assert_eq!(of(json!({ "n_inner": 40 })).unwrap().intermediate_size, 40);
    assert_eq!(of(json!({ "n_embd": null })).unwrap().hidden_size, 768);
    assert_eq!(config.parameters(), config.init(&device()).num_params() as u128);

    let scales = |more: Value| {
        let config = of(more).unwrap();
        [0, 1].map(|layer| config.attention_scale_of(layer))
    };
    assert_eq!(scales(json!({ "reorder_and_upcast_attn": true })), [None, None]);
    assert_eq!(scales(json!({ "scale_attn_weights": false })), [Some(1.0), Some(1.0)]);
    let by_layer = json!({ "scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true });
    assert_eq!(scales(by_layer), [Some(1.0), Some(0.5)]);
    let usual = 8f64.powf(-0.5);
    let by_layer = json!({ "scale_attn_by_inverse_layer_idx": true });
    assert_eq!(scales(by_layer), [Some(usual), Some(usual / 2.0)]);

    for (field, value) in [
        ("add_cross_attention", json!(true)),
        ("layer_norm_epsilon", json!(0.0)),
        ("n_inner", json!(0)),
        ("n_layer", json!(1u64 << 40)),
        ("n_embd", json!("wide")),
    ] {
        assert!(of(json!({ field: value })).is_err(), "{field}");
    }
}

/// Falcons with the new architecture may have any number of heads of keys, and a norm each for attention
/// and MLP.
#[test]
fn falcons_of_all_sizes_are_read_from_their_own_fields() {
    let of = |more| short_config("falcon", more);
    let config = of(json!({ "ffn_hidden_size": null, "activation": "relu" })).unwrap();
    assert_eq!((config.num_key_value_heads, config.intermediate_size), (1, 256));
    assert_eq!(of(json!({ "ffn_hidden_size": 40 })).unwrap().intermediate_size, 40);
    assert_eq!(of(json!({ "multi_query": false })).unwrap().num_key_value_heads, 32);
    let new = |kv_heads: Value, norms: Value| {
        let config = of(json!({
            "new_decoder_architecture": true, "num_kv_heads": kv_heads,
            "num_ln_in_parallel_attn": norms, "parallel_attn": false,
        }));
        config.map(|config| (config.num_key_value_heads, config.layout))
    };
    assert_eq!(new(json!(8), json!(null)).unwrap(), (8, BlockLayout::Parallel));
    assert_eq!(new(json!(8), json!(2)).unwrap(), (8, BlockLayout::Parallel));
    assert_eq!(new(json!(null), json!(1)).unwrap(), (32, BlockLayout::SharedNorm));
    assert!(new(json!(5), json!(1)).is_err() && new(json!(8), json!(3)).is_err());
    for (field, value) in [("alibi", json!(true)), ("num_ln_in_parallel_attn", json!(2))] {
        let error = of(json!({ field: value })).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

/// The 350M model has narrower embeddings and norms in other places.
#[test]
fn models_of_opt_are_read_from_their_own_fields_or_refused_by_them() {
    let of = |more| short_config("opt", more);
    let config = of(json!({ "ffn_dim": 40, "init_std": 0.1, "activation_function": "gelu" }));
    let config = config.unwrap();
    assert_eq!((config.intermediate_size, config.initializer_range), (40, 0.1));
    assert_eq!((config.context(), config.position_rows()), (2048, 2050));
    assert_eq!(config.parameters(), config.init(&device()).num_params() as u128);
    let galactica = json!({ "enable_bias": false, "layer_norm_elementwise_affine": false });
    let galactica = of(galactica).unwrap();
    assert_eq!((galactica.qkv_bias, galactica.mlp_bias), (false, false));
    assert_eq!(galactica.norm, NormKind::LayerAlone);
    for (field, value) in [
        ("word_embed_proj_dim", json!(32)),
        ("do_layer_norm_before", json!(false)),
        ("_remove_final_layer_norm", json!(true)),
    ] {
        let error = of(json!({ field: value })).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

/// The configuration of a model with four layers, and four heads of 16 channels.
fn small(model_type: &str, more: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config =
        json!({ "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2 });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    short_config(model_type, config)
}

#[test]
fn rotary_settings_are_read_where_the_family_has_them() {
    // GPT-NeoX has its own names for base and share at the top level.
    let neox =
        small("gpt_neox", json!({ "rope_theta": 5e5, "partial_rotary_factor": 0.5 })).unwrap();
    assert_eq!((neox.rope_theta, neox.rotary_width), (1e4, Some(4)));
    let neox = small("gpt_neox", json!({ "rotary_emb_base": 5e5, "rotary_pct": 0.5 })).unwrap();
    assert_eq!((neox.rope_theta, neox.rotary_width), (5e5, Some(8)));

    // Phi-3 has its original context at the top level, and rope settings do not change it.
    let divisors = json!(vec![1.0; 8]);
    let original = |more: Value| {
        let mut config = json!({ "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "original_max_position_embeddings": 16,
        }});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match small("phi3", config).unwrap().rope_scaling {
            RopeScaling::LongRope { original_context, .. } => original_context,
            _ => 0.0,
        }
    };
    assert_eq!(original(json!({})), 4096.0);
    assert_eq!(original(json!({ "original_max_position_embeddings": 32 })), 32.0);

    // The channels that see positions have divisors, not all of a head.
    let divisors = json!([1.0, 2.0]);
    let rope = json!({
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "factor": 2.0,
    });
    let latent =
        json!({ "qk_rope_head_dim": 4, "n_group": 1, "topk_group": 1, "rope_parameters": rope });
    for model_type in ["deepseek_v2", "deepseek_v3"] {
        let config = small(model_type, latent.clone()).unwrap();
        assert!(matches!(config.rope_scaling, RopeScaling::LongRope { .. }), "{model_type}");
    }
}

#[test]
fn families_read_the_fields_that_are_theirs_and_no_others() {
    let windows = |model_type: &str, more: Value| {
        let config = small(model_type, more).unwrap();
        (0..4).map(|layer| config.has_window(layer)).collect::<Vec<_>>()
    };
    let types = json!(["sliding_attention", "full_attention", "full_attention", "full_attention"]);
    let stated = json!({ "layer_types": types, "sliding_window": 8, "use_sliding_window": false });
    assert_eq!(windows("smollm3", stated.clone()), [true, false, false, false]);
    assert_eq!(windows("qwen2", stated), [false; 4]);

    let pattern = |pattern: Value| json!({ "sliding_window_pattern": pattern });
    assert_eq!(windows("exaone4", json!({})), [true, true, true, false]);
    assert_eq!(windows("exaone4", pattern(json!(2))), [true, false, true, false]);
    assert_eq!(windows("exaone4", pattern(json!("LLG"))), [true, true, false, false]);
    let mut listed = pattern(json!("LLLG"));
    listed["layer_types"] = types;
    assert_eq!(windows("exaone4", listed), [true, false, false, false]);
    for wrong in [json!(0), json!(""), json!("LX"), json!(1.5), json!({})] {
        let error = small("exaone4", pattern(wrong.clone())).unwrap_err().to_string();
        assert!(error.contains("sliding_window_pattern"), "{wrong}: {error}");
    }

    // Command R7B has heads of one width and no norms of queries and keys; Command R+ has them.
    let more = json!({ "head_dim": 6, "use_qk_norm": true });
    let of = |model_type| {
        let config = small(model_type, more.clone()).unwrap();
        (config.head_dim, config.qk_norm)
    };
    assert_eq!(of("cohere2"), (16, QkNorm::None));
    assert_eq!(of("cohere"), (6, QkNorm::EachHead));
}

#[test]
fn a_default_end_of_text_gives_way_to_that_of_the_generation_settings() {
    let dir = tempfile::tempdir().unwrap();
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(fixture("tiny-llama/config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("eos_token_id");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(read_config(dir.path()).unwrap().eos_token_ids, [2]);
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [7, 9]}"#)
        .unwrap();
    assert_eq!(read_config(dir.path()).unwrap().eos_token_ids, [7, 9]);
}

#[test]
fn rotary_settings_that_are_not_computed_are_refused() {
    let default = |factor: f64| json!({ "rope_type": "default", "partial_rotary_factor": factor });
    let nested = json!({
        "full_attention": { "rope_type": "default", "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
    });
    for place in ["rope_parameters", "rope_scaling"] {
        for model_type in ["llama", "mistral", "qwen2"] {
            let refused = |rope: Value| {
                short_config(model_type, json!({ place: rope })).unwrap_err().to_string()
            };
            assert!(refused(default(0.5)).contains("`partial_rotary_factor`: 0.5"));
            assert!(refused(nested.clone()).contains(&format!("`{place}`")));
            assert!(short_config(model_type, json!({ place: default(1.0) })).is_ok());
        }
    }
}

#[test]
fn activations_are_refused_under_the_name_that_a_family_has_for_them() {
    for (fixture_name, field) in [
        ("tiny-falcon", "activation"),
        ("tiny-opt", "activation_function"),
        ("tiny-gpt2", "activation_function"),
        ("tiny-gemma2", "hidden_activation"),
        ("tiny-llama", "hidden_act"),
    ] {
        let text = std::fs::read_to_string(fixture(fixture_name).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[field] = "quick_gelu".into();
        let refused = DecoderConfig::from_hf_json(&config.to_string()).unwrap_err();
        let own =
            matches!(refused, ConfigError::Unsupported { field: named, .. } if named == field);
        assert!(own, "{fixture_name}: {refused}");
    }
}

/// transformers reads the family's own field alone.
#[test]
fn the_usual_name_of_a_field_says_nothing_where_a_family_has_its_own() {
    for (fixture_name, field) in
        [("tiny-falcon", "activation"), ("tiny-opt", "activation_function")]
    {
        let text = std::fs::read_to_string(fixture(fixture_name).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().remove(field);
        let by_default = DecoderConfig::from_hf_json(&config.to_string()).unwrap();
        config["hidden_act"] = "silu".into();
        assert_eq!(DecoderConfig::from_hf_json(&config.to_string()).unwrap(), by_default);
    }
}

#[test]
fn configurations_of_other_models_are_refused_by_field() {
    let text = std::fs::read_to_string(fixture("tiny-llama/config.json")).unwrap();
    let edited = |key: &str, value: serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        DecoderConfig::from_hf_json(&config.to_string()).unwrap_err()
    };
    let other = edited("model_type", json!("gptj"));
    let unknown = "gptj".to_string();
    assert!(
        matches!(&other, ConfigError::Architecture { model_type, .. } if *model_type == unknown)
    );
    // Those that are named alike are named, and not all that there are.
    let (said, all) = (other.to_string(), model_types().count());
    assert!(
        said.contains(&format!("{all} others are")) && said.contains("`gpt2` (GPT-2"),
        "{said}"
    );
    assert!(!said.contains("qwen2"), "{said}");
    let said = edited("model_type", json!("qwen3_me")).to_string();
    let places = ["`qwen3_moe` (", "`qwen2_moe` (", "`qwen3` ("].map(|name| said.find(name));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    let said = edited("model_type", json!("wav2vec")).to_string();
    assert!(said.ends_with(&format!("; {all} others are")), "{said}");
    for (key, value) in [
        ("hidden_act", json!("quick_gelu")),
        ("is_causal", json!(false)),
        ("quantization_config", json!({"bits": 4})),
        ("rope_parameters", json!({"rope_type": "spline", "factor": 2.0})),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 60)),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_parameters", json!({"rope_type": "linear"})),
        ("vocab_size", json!("many")),
    ] {
        // `rope_parameters` holds the fields that are at fault.
        let field = if key == "rope_parameters" { "rope_type factor" } else { key };
        let error = edited(key, value.clone()).to_string();
        let named = field.split(' ').any(|field| error.contains(field));
        assert!(named || error.contains("many"), "{key}: {error}");
    }
    assert!(matches!(DecoderConfig::from_hf_json("{"), Err(ConfigError::Json(_))));
    assert!(matches!(DecoderConfig::from_hf_json("{}"), Err(ConfigError::Json(_))));
}
