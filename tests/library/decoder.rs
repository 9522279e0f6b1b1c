//! Every family against PyTorch, on the fixtures.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{Compressor, WriteOptions, merge_directory};
use welore_burn::data::TextTokenizer;
use welore_burn::eval::{EvalError, PerplexityOptions, perplexity};
use welore_burn::files::OutputDir;
use welore_burn::forms::Form;
use welore_burn::model::{
    Decoder, DecoderConfig, GenerateOptions, LanguageModel, LoadedModel, RopeScaling, Sampler,
    generate, load_model,
};
use welore_burn::modules::Selection;
use welore_burn::plan::{MatrixPlan, PlanOptions, RankPlan, WeLore, make_plan, read_plan};
use welore_burn::spectrum::{MeasureOptions, measure_checkpoint};

use crate::{
    checkpoint, compress_into, device, expected, fixture, floats, ids, is_on_flex, story_tokens,
    tiny_spectra,
};

pub const FAMILIES: &[&str] = &[
    "tiny-llama",
    "tiny-llama3",
    "tiny-qwen2",
    "tiny-mistral",
    "tiny-qwen3",
    "tiny-smollm3",
    "tiny-granite",
    "tiny-olmo2",
    "tiny-olmo3",
    "tiny-gemma",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-phi3",
    "tiny-stablelm",
    "tiny-stablelm-parallel",
    "tiny-starcoder2",
    "tiny-olmo",
    "tiny-cohere",
    "tiny-glm",
    "tiny-glm4",
    "tiny-helium",
    "tiny-seed-oss",
    "tiny-arcee",
    "tiny-ernie",
    "tiny-ministral",
    "tiny-neox",
    "tiny-cohere2",
    "tiny-exaone4",
    "tiny-gpt2",
    "tiny-falcon",
    "tiny-cohere-plus",
    "tiny-stablelm-heads",
    "tiny-falcon-two-norms",
    "tiny-opt",
    "tiny-mixtral",
    "tiny-qwen2-moe",
    "tiny-qwen3-moe",
    "tiny-olmoe",
    "tiny-gpt-oss",
    "tiny-deepseek-v2",
    "tiny-deepseek-v3",
];

pub fn load(name: &str) -> LoadedModel {
    load_model(fixture(name), &device(), FloatDType::F32, &mut ()).unwrap()
}

pub fn logits(model: &Decoder, tokens: &[u32]) -> Vec<Vec<f64>> {
    let data: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let len = data.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(data, [1, len]), &device());
    let logits = model.forward(tokens);
    let vocab = logits.dims()[2];
    let flat: Vec<f64> = logits.into_data().iter::<f64>().collect();
    flat.chunks(vocab).map(<[f64]>::to_vec).collect()
}

#[test]
fn logits_agree_with_pytorch_for_every_architecture() {
    for name in FAMILIES {
        let figures = expected(name);
        let all = logits(&load(name).model, &ids(&figures["input"]));
        let last = floats(&figures["last_logits"]);
        for (got, want) in all.last().unwrap().iter().zip(&last) {
            assert!((got - want).abs() < 1e-3, "{name}: {got} for {want}");
        }
        for (row, want) in all.iter().zip(floats(&figures["logits_norm"])) {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((norm - want).abs() < 1e-4 * want, "{name}: norm {norm} for {want}");
        }
    }
}

/// Training attends in another way than evaluation, and keeps all scores.
#[test]
fn families_compute_the_same_where_gradients_are_recorded() {
    let device = device().autodiff();
    for name in FAMILIES {
        let figures = expected(name);
        let model = load_model(fixture(name), &device, FloatDType::F32, &mut ()).unwrap().model;
        let input: Vec<i32> = ids(&figures["input"]).iter().map(|id| *id as i32).collect();
        let len = input.len();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(input, [1, len]), &device);
        let last = model.forward(tokens).inner().narrow(1, len - 1, 1).into_data();
        for (got, want) in last.iter::<f64>().zip(floats(&figures["last_logits"])) {
            assert!((got - want).abs() < 1e-3, "{name}: {got} for {want}");
        }
    }
}

#[test]
fn parameters_are_counted_from_the_configuration_alone() {
    for name in FAMILIES {
        let LoadedModel { model, config, .. } = load(name);
        assert_eq!(config.parameters(), model.num_params() as u128, "{name}");
    }
    let config = DecoderConfig::new(11, 8, 12, 3, 2, 1, 6)
        .with_qkv_bias(true)
        .with_output_bias(true)
        .with_mlp_bias(true);
    assert_eq!(config.parameters(), config.init(&device()).num_params() as u128);
}

#[test]
fn greedy_generation_with_the_cache_agrees_with_pytorch() {
    for name in FAMILIES {
        let figures = expected(name);
        let prompt = &ids(&figures["input"])[..8];
        let options = GenerateOptions { max_new_tokens: 12, stop: vec![] };
        let model = load(name).model;
        let mut seen = Vec::new();
        let tokens = generate(&model, prompt, &mut Sampler::greedy(), &options, |t| {
            seen.push(t);
            ControlFlow::Continue(())
        });
        assert_eq!(tokens.unwrap(), ids(&figures["greedy"]), "{name}");
        assert_eq!(seen, ids(&figures["greedy"]), "{name}");
    }
}

#[test]
fn the_cache_of_a_batch_gives_the_logits_of_whole_passes() {
    // Both beyond the windows of the fixtures, which are 8.
    let (len, first) = if is_on_flex() { (20, 12) } else { (11, 9) };
    for name in FAMILIES {
        let model = load(name).model;
        let vocab_size = model.vocab_size();
        let rows = |offset: usize| -> Tensor<2, Int> {
            let id = |n: usize| ((n * 37 + n / len + offset) % vocab_size) as i32;
            let ids: Vec<i32> = (0..3 * len).map(id).collect();
            Tensor::from_data(TensorData::new(ids, [3, len]), &device())
        };
        let check = |tokens: &Tensor<2, Int>, start: usize, cache: &mut _| {
            let whole = model.forward(tokens.clone());
            let mut seen = start;
            // Several positions at once, then one by one.
            while seen < len {
                let count = if seen == 0 { 5 } else { 1 };
                let hidden = model.extend(tokens.clone().narrow(1, seen, count), cache);
                let gap = model.logits(hidden) - whole.clone().narrow(1, seen, count);
                let gap = gap.abs().max().into_scalar::<f64>();
                assert!(gap < 1e-3, "{name}: {gap} at {seen}");
                seen += count;
            }
        };
        let tokens = rows(0);
        let mut cache = model.cache();
        model.extend(tokens.clone().narrow(1, 0, first), &mut cache);
        // A copy goes its own way.
        let other = Tensor::cat(
            vec![tokens.clone().narrow(1, 0, first), rows(5).narrow(1, first, len - first)],
            1,
        );
        check(&other, first, &mut cache.clone());
        check(&tokens, first, &mut cache);
        check(&tokens, 0, &mut model.cache());
        assert_eq!(cache.len(), len);
    }
}

#[test]
fn generation_stops_where_it_is_told() {
    let prompt = &ids(&expected("tiny-llama")["input"])[..8];
    let greedy = ids(&expected("tiny-llama")["greedy"]);
    let scratch = tempfile::tempdir().unwrap();
    let run = |stop: Vec<u32>, context: usize| {
        let model = load_in_context(scratch.path(), context);
        let options = GenerateOptions { max_new_tokens: 12, stop };
        let go_on = |_| ControlFlow::Continue(());
        generate(&model, prompt, &mut Sampler::greedy(), &options, go_on)
    };
    let first = greedy.iter().position(|t| *t == greedy[3]).unwrap();
    assert_eq!(run(vec![greedy[3]], 512).unwrap(), greedy[..first]);
    // Position 10 still has a row of logits, so a context of 10 gives 3 tokens after 8.
    assert_eq!(run(vec![], 10).unwrap(), greedy[..3]);
    assert!(run(vec![], 7).unwrap_err().to_string().contains("8 tokens"));
}

/// tiny-llama with another context length.
fn load_in_context(dir: &Path, context: usize) -> Decoder {
    let config = std::fs::read_to_string(fixture("tiny-llama/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = context.into();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture("tiny-llama/model.safetensors"), dir.join("model.safetensors")).unwrap();
    load_model(dir, &device(), FloatDType::F32, &mut ()).unwrap().model
}

#[test]
fn batches_are_independent() {
    let model = load("tiny-llama").model;
    let (a, b): (Vec<i32>, Vec<i32>) = ((10..26).collect(), (100..116).collect());
    let one = |ids: &[i32]| {
        Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, 16]), &device())
    };
    let both = model.forward(Tensor::cat(vec![one(&a), one(&b)], 0));
    let second = model.forward(one(&b));
    let gap = (both.narrow(0, 1, 1) - second).abs().max().into_scalar::<f64>();
    assert!(gap < 1e-4, "{gap}");
}

#[test]
fn tokens_and_perplexity_agree_with_pytorch_dense_and_compressed() {
    let figures = expected("tiny-llama");
    let tokenizer = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    let sentence = figures["sentence"].as_str().unwrap();
    assert_eq!(tokenizer.encode(sentence).unwrap(), ids(&figures["tokens"]));
    assert_eq!(tokenizer.decode(&ids(&figures["tokens"])).unwrap(), sentence);

    let text = story_tokens();
    let at_once = NonZeroUsize::new(3).unwrap();
    let options =
        PerplexityOptions { seq_len: 64, windows: Some(8), at_once, ..Default::default() };
    let measure = |model: &Decoder| perplexity(model, &text, &options, &mut ()).unwrap().perplexity;
    let dense = load("tiny-llama");
    assert_eq!(dense.model.num_params() as u64, figures["params"].as_u64().unwrap());
    let want = figures["perplexity"]["value"].as_f64().unwrap();
    assert!((measure(&dense.model) / want - 1.0).abs() < 1e-4);

    let (checkpoint, spectra) = (checkpoint("tiny-llama"), tiny_spectra());
    let scratch = tempfile::tempdir().unwrap();
    for target in figures["compress"].as_array().unwrap() {
        for factored in target["factored"].as_array().unwrap() {
            let min_ratio = factored["min_ratio"].as_f64().unwrap();
            let err = target["err"].as_f64().unwrap();
            let options = PlanOptions { min_ratio, ..PlanOptions::new(err) };
            let plan = make_plan(&spectra, &WeLore, &options).unwrap();
            let dir = scratch.path().join(format!("{err}-{min_ratio}"));
            compress_into(&dir, &checkpoint, &Compressor::new(&plan));

            let loaded = load_model(&dir, &device(), FloatDType::F32, &mut ()).unwrap();
            assert_eq!(loaded.model.num_params() as u64, factored["params"].as_u64().unwrap());
            assert_eq!(
                read_plan(&dir).unwrap().map(RankPlan::without_errors).as_ref(),
                Some(&plan)
            );
            // The reference keeps f32 factors, the directory the source's bf16.
            let want = factored["perplexity"].as_f64().unwrap();
            let got = measure(&loaded.model);
            assert!((got / want - 1.0).abs() < 0.01, "{got} for {want}");

            let dense_dir = scratch.path().join(format!("{err}-{min_ratio}-dense"));
            let factored_files = Checkpoint::open(&dir).unwrap();
            let output = OutputDir::create(&dense_dir, false).unwrap();
            merge_directory(&factored_files, &output, &WriteOptions::default(), &mut ()).unwrap();
            output.commit().unwrap();
            let merged = load_model(&dense_dir, &device(), FloatDType::F32, &mut ()).unwrap();
            assert!(read_plan(&dense_dir).unwrap().is_none());
            assert_eq!(merged.model.num_params(), dense.model.num_params());
            assert!((measure(&merged.model) / got - 1.0).abs() < 0.01);
        }
    }
}

#[test]
fn embeddings_and_biased_projections_can_be_factored_too() {
    let everything = Selection::all();
    let scratch = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let dense = logits(&load(name).model, &ids(&expected(name)["input"]));
        let checkpoint = checkpoint(name);
        let measuring = MeasureOptions::default();
        let spectra = measure_checkpoint(&checkpoint, &everything, &measuring, &mut ()).unwrap();
        // At full rank a factored matrix is the dense one, up to the rounding of its type.
        let matrices = spectra.matrices.iter().map(|m| {
            MatrixPlan::new(m.name.clone(), m.shape, Form::factors(m.full_rank()), m.dtype)
        });
        let plan = RankPlan::new("full ranks", spectra.model, matrices.collect()).unwrap();
        let dir = scratch.path().join(name);
        compress_into(&dir, &checkpoint, &Compressor::new(&plan));
        let model = load_model(&dir, &device(), FloatDType::F32, &mut ()).unwrap().model;
        let factored = logits(&model, &ids(&expected(name)["input"]));
        let (mut gap, mut size) = (0.0, 0.0);
        for (a, b) in dense.iter().flatten().zip(factored.iter().flatten()) {
            gap += (a - b).powi(2);
            size += a.powi(2);
        }
        assert!((gap / size).sqrt() < 0.03, "{name}: {}", (gap / size).sqrt());
    }
}

#[test]
fn perplexity_refuses_what_it_cannot_measure() {
    let model = load("tiny-llama").model;
    let refuse = |tokens: &[u32], seq_len, windows| {
        let options = PerplexityOptions { seq_len, windows, ..PerplexityOptions::default() };
        perplexity(&model, tokens, &options, &mut ()).unwrap_err()
    };
    assert_eq!(refuse(&[1; 10], 16, None), EvalError::TooShort { tokens: 10, seq_len: 16 });
    assert_eq!(refuse(&[1; 10], 1, None), EvalError::SeqLen(1));
    assert_eq!(refuse(&[1; 10], 5, Some(0)), EvalError::NoWindows);
    assert!(matches!(refuse(&[1; 1000], 600, None), EvalError::Context { .. }));
    let options = PerplexityOptions { seq_len: 5, skip: 4, ..PerplexityOptions::default() };
    let error = perplexity(&model, &[1; 10], &options, &mut ()).unwrap_err();
    assert_eq!(error, EvalError::Skip { skip: 4, seq_len: 5 });
    assert!(matches!(refuse(&[9999; 10], 5, None), EvalError::UnknownToken { token: 9999, .. }));
}

#[test]
fn configurations_of_the_family_are_understood() {
    let config = |name: &str| load(name).config;
    assert!(config("tiny-llama").tie_word_embeddings);
    assert!(config("tiny-qwen2").qkv_bias && !config("tiny-qwen2").output_bias);
    assert_eq!(config("tiny-mistral").sliding_window, Some(8));
    assert!(matches!(config("tiny-llama3").rope_scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    assert_eq!(config("tiny-llama3").head_dim, 16);
}
