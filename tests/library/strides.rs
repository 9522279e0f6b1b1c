//! Windows that overlap, or begin with a token of their own.

use welore_burn::eval::{
    EvalError, LogitsError, LogitsSource, PerplexityOptions, SavedLogits, divergence, perplexity,
    save_logits,
};
use welore_burn::model::{Bos, Decoder};

use crate::{device, story_tokens, tiny_llama};

const BOS: u32 = 0;

/// The negative log-likelihood of the last `scored` tokens of a window.
fn nll(model: &Decoder, window: &[u32], scored: usize) -> f64 {
    let (seq_len, skip) = (window.len(), window.len() - 1 - scored);
    let options = PerplexityOptions { seq_len, skip, ..PerplexityOptions::default() };
    perplexity(model, window, &options, &mut ()).unwrap().nll
}

fn assert_near(got: f64, want: f64) {
    assert!((got / want - 1.0).abs() < 1e-5, "{got} for {want}");
}

#[test]
fn with_a_stride_each_token_is_scored_once_in_the_first_window_that_has_it() {
    let (model, tokens) = (tiny_llama(&device()), &story_tokens()[..75]);
    let options = PerplexityOptions { seq_len: 32, stride: Some(20), ..Default::default() };
    let found = perplexity(&model, tokens, &options, &mut ()).unwrap();
    // From 0, 20, 40 and 60; the last one is shorter.
    let want = nll(&model, &tokens[..32], 31)
        + nll(&model, &tokens[20..52], 20)
        + nll(&model, &tokens[40..72], 20)
        + nll(&model, &tokens[60..], 3);
    assert_eq!((found.windows, found.tokens), (4, 74));
    assert_near(found.nll, want);
    assert_near(found.perplexity, (want / 74.0).exp());
    // As many windows as are asked for.
    let options = PerplexityOptions { windows: Some(2), ..options };
    let found = perplexity(&model, tokens, &options, &mut ()).unwrap();
    assert_eq!((found.windows, found.tokens), (2, 51));
}

#[test]
fn windows_that_begin_with_a_token_have_one_less_of_the_text_and_score_all_of_it() {
    let (model, tokens) = (tiny_llama(&device()), &story_tokens()[..75]);
    let after = |tokens: &[u32]| [&[BOS], tokens].concat();
    let options = |bos| PerplexityOptions { seq_len: 32, bos: Some(bos), ..Default::default() };
    let found = perplexity(&model, tokens, &options(Bos::Each(BOS)), &mut ()).unwrap();
    let want = nll(&model, &after(&tokens[..31]), 31) + nll(&model, &after(&tokens[31..62]), 31);
    assert_eq!((found.windows, found.tokens), (2, 62));
    assert_near(found.nll, want);
    let found = perplexity(&model, tokens, &options(Bos::Once(BOS)), &mut ()).unwrap();
    let want = nll(&model, &after(&tokens[..31]), 31) + nll(&model, &tokens[31..63], 31);
    assert_eq!((found.windows, found.tokens), (2, 62));
    assert_near(found.nll, want);
    let strided = PerplexityOptions { stride: Some(25), ..options(Bos::Each(BOS)) };
    let found = perplexity(&model, tokens, &strided, &mut ()).unwrap();
    let want = nll(&model, &after(&tokens[..31]), 31)
        + nll(&model, &after(&tokens[25..56]), 25)
        + nll(&model, &after(&tokens[50..]), 19);
    assert_eq!((found.windows, found.tokens), (3, 75));
    assert_near(found.nll, want);
}

#[test]
fn a_divergence_is_measured_on_windows_that_overlap() {
    let (model, tokens) = (tiny_llama(&device()), &story_tokens()[..75]);
    let options = PerplexityOptions { seq_len: 32, stride: Some(20), ..Default::default() };
    let alone = perplexity(&model, tokens, &options, &mut ()).unwrap();
    let found = divergence(&model, &model, tokens, &options, &mut ()).unwrap();
    assert_eq!((found.kl.value, found.model.tokens), (0.0, alone.tokens));
    assert_near(found.model.nll, alone.nll);
}

#[test]
fn strides_that_make_no_sense_are_refused() {
    let model = tiny_llama(&device());
    let refuse = |stride, skip| {
        let stride = Some(stride);
        let options = PerplexityOptions { seq_len: 8, stride, skip, ..Default::default() };
        perplexity(&model, &[1; 20], &options, &mut ()).unwrap_err()
    };
    assert_eq!(refuse(0, 0), EvalError::Stride { stride: 0, seq_len: 8 });
    assert_eq!(refuse(9, 0), EvalError::Stride { stride: 9, seq_len: 8 });
    assert_eq!(refuse(4, 2), EvalError::StrideAndSkip);
    let options = PerplexityOptions { seq_len: 8, bos: Some(Bos::Each(999)), ..Default::default() };
    let error = perplexity(&model, &[1; 20], &options, &mut ()).unwrap_err();
    assert!(matches!(error, EvalError::UnknownToken { token: 999, .. }));
}

#[test]
fn saved_logits_are_of_windows_that_begin_in_one_way_and_do_not_overlap() {
    let (model, tokens) = (tiny_llama(&device()), &story_tokens()[..75]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits");
    let source = LogitsSource { model: "m".into(), model_digest: "d".into() };
    let options =
        PerplexityOptions { seq_len: 32, bos: Some(Bos::Each(BOS)), ..Default::default() };
    let written = save_logits(&path, &model, &source, tokens, &options, &mut ()).unwrap();
    let saved = SavedLogits::open(&path).unwrap();
    let found = saved.divergence(&model, tokens, &options, &mut ()).unwrap();
    assert_near(found.dense.nll, written.nll);
    for bos in [None, Some(Bos::Once(BOS)), Some(Bos::Each(1))] {
        let other = PerplexityOptions { bos, ..options };
        let error = saved.divergence(&model, tokens, &other, &mut ()).unwrap_err();
        assert!(matches!(error, LogitsError::Foreign { .. }), "{error}");
    }
    // Windows of 32 tokens have 31 of the text, so these follow each other.
    let apart = PerplexityOptions { stride: Some(31), ..options };
    saved.divergence(&model, tokens, &apart, &mut ()).unwrap();
    let strided = PerplexityOptions { stride: Some(20), ..options };
    let error = save_logits(&path, &model, &source, tokens, &strided, &mut ()).unwrap_err();
    assert!(matches!(error, LogitsError::Eval(EvalError::StrideSaved)), "{error}");
    let error = saved.divergence(&model, tokens, &strided, &mut ()).unwrap_err();
    assert!(matches!(error, LogitsError::Eval(EvalError::StrideSaved)), "{error}");
}
