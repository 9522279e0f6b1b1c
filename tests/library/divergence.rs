//! How far one model's predictions are from another's: what the numbers are, and that saved logits
//! give the same ones.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use welore_burn::compress::Compressor;
use welore_burn::eval::{
    Divergence, Estimate, EvalError, LogitsError, LogitsSource, PerplexityOptions, SavedLogits,
    divergence, perplexity, save_logits, saved_bytes,
};
use welore_burn::files::FileError;
use welore_burn::model::{Decoder, LanguageModel, ModelMatrix, TokenCache, load_model};
use welore_burn::plan::{Energy, PlanOptions, make_plan};

use crate::train::repeats_itself;
use crate::{checkpoint, compress_into, device, story_tokens, tiny_llama, tiny_spectra};

const VOCAB: usize = 4;

/// A model whose logits after a token are a row of a table.
#[derive(Module, Debug)]
struct Table {
    rows: Embedding,
}

impl Table {
    fn new(rows: [[f32; VOCAB]; VOCAB]) -> Self {
        let device = device();
        let data = TensorData::new(rows.as_flattened().to_vec(), [VOCAB, VOCAB]);
        let mut embedding = EmbeddingConfig::new(VOCAB, VOCAB).init(&device);
        embedding.weight = Param::from_tensor(Tensor::from_data(data, &device));
        Self { rows: embedding }
    }
}

impl LanguageModel for Table {
    type Pass = ();
    type Cache = TokenCache;

    fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, ()) {
        (self.rows.forward(tokens), ())
    }

    fn blocks(&self) -> usize {
        0
    }

    fn block(&self, _index: usize, x: Tensor<3>, _pass: &()) -> Tensor<3> {
        x
    }

    fn end(&self, x: Tensor<3>) -> Tensor<3> {
        x
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        hidden
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context(&self) -> usize {
        64
    }

    fn matrices(&self) -> Vec<ModelMatrix> {
        Vec::new()
    }

    fn cache(&self) -> TokenCache {
        TokenCache::new()
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut TokenCache) -> Tensor<3> {
        cache.extend(self, tokens)
    }
}

const OWN: [[f32; VOCAB]; VOCAB] =
    [[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 1.0, 0.0], [-1.0, 0.5, 0.25, 0.0], [9.0, -9.0, 3.0, 1.0]];
const DENSE: [[f32; VOCAB]; VOCAB] =
    [[0.5, 1.0, 2.5, 2.0], [4.0, 6.0, 1.0, 0.5], [-1.0, 0.5, 0.0, 0.0], [7.0, -3.0, 3.0, 2.0]];

/// Two windows of 5 tokens and a rest.
const TOKENS: [u32; 12] = [0, 3, 1, 1, 2, 2, 0, 0, 3, 1, 2, 2];

fn windows_of(seq_len: usize, skip: usize) -> PerplexityOptions {
    PerplexityOptions { seq_len, skip, ..PerplexityOptions::default() }
}

fn measure(own: &Table, dense: &Table, skip: usize) -> Divergence {
    divergence(own, dense, &TOKENS, &windows_of(5, skip), &mut ()).unwrap()
}

/// The natural logarithms of the softmax of a row.
fn log_softmax(row: &[f32; VOCAB]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    row.iter().map(|x| f64::from(*x) - sum.ln()).collect()
}

/// The divergence after a token, from its definition.
fn kl_after(token: u32, own: &[[f32; VOCAB]; VOCAB], dense: &[[f32; VOCAB]; VOCAB]) -> f64 {
    let [q, p] = [own, dense].map(|table| log_softmax(&table[token as usize]));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[track_caller]
fn assert_near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-9), "{got} for {want}");
}

/// The scored pairs of a token and the next one.
fn pairs(skip: usize) -> Vec<(u32, u32)> {
    let of_window = |window: &[u32]| {
        window.windows(2).skip(skip).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    };
    TOKENS.chunks_exact(5).flat_map(of_window).collect()
}

#[test]
fn divergence_is_that_of_its_definition_token_by_token() {
    let (own, dense) = (Table::new(OWN), Table::new(DENSE));
    for skip in [0, 2, 3] {
        let got = measure(&own, &dense, skip);
        let pairs = pairs(skip);
        assert_eq!((got.model.tokens, got.model.windows), (pairs.len(), 2));
        let count = pairs.len() as f64;
        let kls: Vec<f64> = pairs.iter().map(|(token, _)| kl_after(*token, &OWN, &DENSE)).collect();
        assert_near(got.kl.value, kls.iter().sum::<f64>() / count, 1e-12);
        let squares: f64 = kls.iter().map(|kl| (kl - got.kl.value).powi(2)).sum();
        assert_near(got.kl.standard_error, (squares / (count - 1.0) / count).sqrt(), 1e-9);
        let most = kls.iter().copied().fold(0.0, f64::max);
        assert_near(got.spread.maximum, most, 1e-12);

        let loss = |table: &[[f32; VOCAB]; VOCAB]| {
            let of =
                |(token, next): &(u32, u32)| -log_softmax(&table[*token as usize])[*next as usize];
            pairs.iter().map(of).collect::<Vec<f64>>()
        };
        let (own, dense) = (loss(&OWN), loss(&DENSE));
        assert_near(got.model.nll, own.iter().sum(), 1e-12);
        assert_near(got.dense.nll, dense.iter().sum(), 1e-12);
        let changes: Vec<f64> =
            own.iter().zip(&dense).map(|(q, p)| (-q).exp() - (-p).exp()).collect();
        assert_near(got.probability_change.value, changes.iter().sum::<f64>() / count, 1e-9);
        let square = changes.iter().map(|change| change * change).sum::<f64>() / count;
        assert_near(got.probability_change_rms.value, square.sqrt(), 1e-9);
    }
}

/// After 0 the models differ about the most likely token; after 1 the first of two equal ones counts,
/// which is not the dense model's.
#[test]
fn same_top_counts_tokens_that_both_models_think_the_most_likely() {
    let got = measure(&Table::new(OWN), &Table::new(DENSE), 0);
    let pairs = pairs(0);
    let same = pairs.iter().filter(|(token, _)| *token > 1).count() as f64;
    let share = same / pairs.len() as f64;
    assert_eq!(got.same_top.value, share);
    let error = (share * (1.0 - share) / (pairs.len() as f64 - 1.0)).sqrt();
    assert_near(got.same_top.standard_error, error, 1e-12);
}

#[test]
fn divergence_of_equal_models_is_zero_and_it_is_not_symmetric() {
    let (own, dense) = (Table::new(OWN), Table::new(DENSE));
    let none = measure(&dense, &dense, 0);
    assert_eq!(none.kl, Estimate { value: 0.0, standard_error: 0.0 });
    assert_eq!((none.spread.maximum, none.same_top.value), (0.0, 1.0));
    assert_eq!(none.ratio(), Estimate { value: 1.0, standard_error: 0.0 });
    assert_eq!(none.probability_change_rms.value, 0.0);
    let [one, other] = [measure(&own, &dense, 0), measure(&dense, &own, 0)];
    assert!((one.kl.value / other.kl.value - 1.0).abs() > 0.05, "{one:?} {other:?}");
    assert_near(one.log_ratio.value, -other.log_ratio.value, 1e-12);
    // The same function, all logits of which are larger by 100.
    let shifted = Table::new(DENSE.map(|row| row.map(|x| x + 100.0)));
    assert!(measure(&shifted, &dense, 0).kl.value < 1e-12);
}

/// tiny-llama, and what is left of it at half of its parameters.
fn decoders() -> (Decoder, Decoder) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("low");
    let plan = make_plan(&tiny_spectra(), &Energy, &PlanOptions::new(0.5)).unwrap();
    compress_into(&dir, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    let low = load_model(&dir, &device(), FloatDType::F32, &mut ()).unwrap().model;
    (low, tiny_llama(&device()))
}

fn story_options(skip: usize) -> PerplexityOptions {
    let at_once = NonZeroUsize::new(3).unwrap();
    PerplexityOptions { seq_len: 48, windows: Some(4), skip, at_once, ..Default::default() }
}

#[test]
fn perplexities_and_their_ratio_are_those_that_are_measured_alone() {
    let ((low, dense), tokens) = (decoders(), story_tokens());
    for skip in [0, 24] {
        let options = story_options(skip);
        let alone = |model: &Decoder| perplexity(model, &tokens, &options, &mut ()).unwrap();
        let (of_low, of_dense) = (alone(&low), alone(&dense));
        assert_eq!(of_low.tokens, 4 * (47 - skip));
        let got = divergence(&low, &dense, &tokens, &options, &mut ()).unwrap();
        assert_near(got.model.perplexity, of_low.perplexity, 1e-5);
        assert_near(got.dense.perplexity, of_dense.perplexity, 1e-5);
        assert_near(got.ratio().value, of_low.perplexity / of_dense.perplexity, 1e-5);
        assert_eq!((got.model.tokens, got.model.windows), (of_low.tokens, of_low.windows));
        assert!(got.kl.value > 0.0 && got.spread.p1 <= got.spread.median);
        assert!(got.spread.median <= got.spread.p99 && got.spread.p99 <= got.spread.maximum);
        // What both models find hard cancels in the ratio.
        assert!(got.correlation > 0.0 && got.correlation <= 1.0 + 1e-12);
        let same = divergence(&dense, &dense, &tokens, &options, &mut ()).unwrap();
        assert!(same.kl.value < 1e-9);
        if repeats_itself() {
            assert_eq!((same.kl.value, same.spread.maximum), (0.0, 0.0));
        }
    }
}

/// The default of llama-perplexity: the first half of each window is read and not scored.
#[test]
fn skipped_predictions_are_read_but_not_scored() {
    let (model, tokens) = (tiny_llama(&device()), story_tokens());
    let windows = 2;
    let nll = |skip| {
        let options = PerplexityOptions { windows: Some(windows), ..story_options(skip) };
        let measured = perplexity(&model, &tokens, &options, &mut ()).unwrap();
        assert_eq!(measured.tokens, windows * (47 - skip));
        assert_near(measured.perplexity, (measured.nll / measured.tokens as f64).exp(), 1e-12);
        measured.nll
    };
    // A prediction does not depend on how many of those before it are scored.
    let short = |seq_len| {
        let firsts = tokens.chunks_exact(48).take(windows);
        let of = |window: &[u32]| {
            let options = windows_of(seq_len, 0);
            perplexity(&model, &window[..seq_len], &options, &mut ()).unwrap().nll
        };
        firsts.map(of).sum::<f64>()
    };
    assert_near(nll(24), nll(0) - short(25), 1e-4);
    assert!(nll(46) > 0.0);
}

#[test]
fn models_that_cannot_be_compared_are_refused() {
    let (own, tokens) = (Table::new(OWN), vec![1; 40]);
    let dense = tiny_llama(&device());
    let refuse = |options: &PerplexityOptions| {
        divergence(&own, &dense, &tokens, options, &mut ()).unwrap_err()
    };
    let error = refuse(&windows_of(8, 0));
    assert_eq!(error, EvalError::Vocabulary { vocab_size: VOCAB, dense: 384 });
    assert_eq!(refuse(&windows_of(8, 7)), EvalError::Skip { skip: 7, seq_len: 8 });
    assert!(matches!(refuse(&windows_of(65, 0)), EvalError::Context { context: 64, .. }));
}

fn source() -> LogitsSource {
    LogitsSource { model: "the dense one".into(), model_digest: "d1".into() }
}

#[test]
fn saved_logits_give_the_same_numbers_up_to_their_rounding() {
    let ((low, dense), tokens) = (decoders(), story_tokens());
    let scratch = tempfile::tempdir().unwrap();
    for skip in [0, 24] {
        let (path, options) = (scratch.path().join(skip.to_string()), story_options(skip));
        let written = save_logits(&path, &dense, &source(), &tokens, &options, &mut ()).unwrap();
        let file = fs::metadata(&path).unwrap().len();
        let expected = saved_bytes(384, &tokens, &options);
        assert!(file >= expected && file < expected + 4096, "{file} for {expected}");

        let saved = SavedLogits::open(&path).unwrap();
        assert_eq!(saved.source(), source());
        let live = divergence(&low, &dense, &tokens, &options, &mut ()).unwrap();
        let got = saved.divergence(&low, &tokens, &options, &mut ()).unwrap();
        assert_near(written.perplexity, live.dense.perplexity, 1e-6);
        assert_near(got.dense.perplexity, live.dense.perplexity, 1e-6);
        assert_near(got.model.perplexity, live.model.perplexity, 1e-6);
        assert_near(got.log_ratio.standard_error, live.log_ratio.standard_error, 1e-4);
        assert!((got.same_top.value - live.same_top.value).abs() < 0.01);
        // What the documentation of `SavedLogits` derives. The bound is concave in the divergence of
        // a token, so that the mean keeps it too.
        let bound = |d: f64| {
            let h = 2.5e-4f64;
            (2.0 * h).exp_m1() * (d + (2.0 * d).sqrt() + 2.0 * h) + 1e-6
        };
        assert!((got.kl.value - live.kl.value).abs() < bound(live.kl.value));
        assert!((got.spread.maximum - live.spread.maximum).abs() < bound(live.spread.maximum));
        let same = saved.divergence(&dense, &tokens, &options, &mut ()).unwrap();
        assert!(same.spread.maximum < bound(0.0) && same.same_top.value > 0.99, "{same:?}");
        // Fewer windows than were saved.
        let fewer = PerplexityOptions { windows: Some(2), ..options };
        let got = saved.divergence(&low, &tokens, &fewer, &mut ()).unwrap();
        let live = divergence(&low, &dense, &tokens, &fewer, &mut ()).unwrap();
        assert!((got.kl.value - live.kl.value).abs() < bound(live.kl.value));
    }
}

#[test]
fn saved_logits_are_only_of_their_text_their_windows_and_their_vocabulary() {
    let (own, dense) = (Table::new(OWN), Table::new(DENSE));
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("logits");
    let options = windows_of(5, 1);
    save_logits(&path, &dense, &source(), &TOKENS, &options, &mut ()).unwrap();
    let saved = SavedLogits::open(&path).unwrap();
    let refuse = |tokens: &[u32], options: &PerplexityOptions, named: &str| {
        let error = saved.divergence(&own, tokens, options, &mut ()).unwrap_err();
        assert!(matches!(error, LogitsError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    saved.divergence(&own, &TOKENS, &options, &mut ()).unwrap();
    let mut other = TOKENS;
    // The rest, which fills no window, does not count.
    other[11] = 0;
    saved.divergence(&own, &other, &options, &mut ()).unwrap();
    other[7] = 2;
    refuse(&other, &options, "another text");
    refuse(&TOKENS, &windows_of(4, 1), "windows of 5 tokens with a skip of 1");
    refuse(&TOKENS, &windows_of(5, 0), "skip of 0");
    refuse(&TOKENS.repeat(2), &options, "2 windows, not of 4 windows");
    let error = saved.check(VOCAB + 1, &TOKENS, &options).unwrap_err();
    assert!(error.to_string().contains("vocabulary of 4 tokens"), "{error}");
    // Nothing is left of a file that could not be finished.
    let broken = Table::new([[f32::NAN; VOCAB]; VOCAB]);
    let unfinished = scratch.path().join("unfinished");
    let error = save_logits(&unfinished, &broken, &source(), &TOKENS, &options, &mut ());
    assert!(matches!(error, Err(LogitsError::Eval(EvalError::NotFinite { window: 0 }))));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

/// Rewrites the tensors of a file of saved logits.
fn rewrite(
    bytes: &[u8],
    edit: impl Fn(&str, &mut Dtype, &mut Vec<usize>, &mut Vec<u8>),
) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let (mut dtype, mut shape, mut data) =
                (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            edit(name, &mut dtype, &mut shape, &mut data);
            (name.to_string(), dtype, shape, data)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// The file with another manifest.
fn with_manifest(bytes: &[u8], edit: impl Fn(&mut Value)) -> Vec<u8> {
    rewrite(bytes, |name, _, shape, data| {
        if name == "saved_logits.manifest" {
            let mut manifest: Value = serde_json::from_slice(data).unwrap();
            edit(&mut manifest);
            *data = manifest.to_string().into_bytes();
            *shape = vec![data.len()];
        }
    })
}

#[test]
fn damaged_files_of_logits_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("logits");
    let dense = Table::new(DENSE);
    save_logits(&path, &dense, &source(), &TOKENS, &windows_of(5, 1), &mut ()).unwrap();
    let whole = fs::read(&path).unwrap();
    let opened = |bytes: &[u8]| {
        let path = scratch.path().join("damaged");
        fs::write(&path, bytes).unwrap();
        SavedLogits::open(&path).map(drop).map_err(|error| error.to_string())
    };
    opened(&whole).unwrap();
    opened(&rewrite(&whole, |_, _, _, _| {})).unwrap();
    let refuse = |bytes: &[u8], named: &str| {
        let error = opened(bytes).unwrap_err();
        assert!(error.contains("damaged") && error.contains(named), "{error}");
    };
    for length in [0, 7, 8, 100, whole.len() - 1] {
        refuse(&whole[..length], "not saved logits");
    }
    let huge = json!(u64::MAX / 2);
    for (field, value, named) in [
        ("format", json!("welore-plan"), "its format is `welore-plan`"),
        ("version", json!(2), "version 2"),
        ("windows", huge.clone(), "another shape"),
        ("windows", json!(0), "nothing"),
        ("windows", json!(3), "another shape"),
        ("vocab_size", huge.clone(), "another shape"),
        ("seq_len", huge.clone(), "another shape"),
        ("skip", huge, "nothing"),
        ("skip", json!(-1), "whole number"),
        ("more", json!(1), "unknown field"),
    ] {
        refuse(&with_manifest(&whole, |manifest| manifest[field] = value.clone()), named);
    }
    let set = |tensor: &str, value: &[u8]| {
        rewrite(&whole, |name, _, _, data| {
            if name == format!("saved_logits.{tensor}") {
                data[..value.len()].copy_from_slice(value);
            }
        })
    };
    refuse(&set("tops", &4u32.to_le_bytes()), "impossible");
    refuse(&set("tokens", &4u32.to_le_bytes()), "impossible");
    refuse(&set("losses", &f64::NAN.to_le_bytes()), "impossible");
    refuse(&set("depths", &(-1.0f32).to_le_bytes()), "impossible");
    refuse(&set("depths", &f32::INFINITY.to_le_bytes()), "impossible");
    let retyped = rewrite(&whole, |name, dtype, _, _| {
        if name == "saved_logits.window.1" {
            *dtype = Dtype::I16;
        }
    });
    refuse(&retyped, "`saved_logits.window.1` is missing or has another shape");

    let missing = SavedLogits::open(Path::new("nowhere/logits")).unwrap_err();
    assert!(matches!(missing, LogitsError::File(FileError::Io { .. })), "{missing}");
}
