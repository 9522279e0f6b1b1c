//! Questions with choices: what their log-likelihoods are, and what lm-eval does with them.

use std::fs;
use std::num::NonZeroUsize;
use std::slice::from_ref;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::{Value, json};
use welore_burn::data::{ChoiceQuestion, TextTokenizer};
use welore_burn::eval::{
    ChoiceError, ChoiceScores, ChoiceTokens, Estimate, PerplexityOptions, check_choices,
    perplexity, score_choices,
};
use welore_burn::model::{LanguageModel, ModelMatrix, TokenCache};

use crate::{device, fixture, story_tokens, tiny_llama};

const VOCAB: usize = 4;
const CONTEXT: usize = 5;

/// A model whose logits are the sum of the rows of a table that all tokens so far have, so that
/// nothing before a token can be left out.
#[derive(Module, Debug)]
struct Sums {
    rows: Embedding,
}

impl Sums {
    fn new(rows: [[f32; VOCAB]; VOCAB]) -> Self {
        let device = device();
        let data = TensorData::new(rows.as_flattened().to_vec(), [VOCAB, VOCAB]);
        let mut embedding = EmbeddingConfig::new(VOCAB, VOCAB).init(&device);
        embedding.weight = Param::from_tensor(Tensor::from_data(data, &device));
        Self { rows: embedding }
    }
}

impl LanguageModel for Sums {
    type Pass = ();
    type Cache = TokenCache;

    fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, ()) {
        (self.rows.forward(tokens).cumsum(1), ())
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
        CONTEXT
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

const ROWS: [[f32; VOCAB]; VOCAB] =
    [[0.0, 1.0, 0.5, -1.0], [1.0, 0.25, 0.0, 0.5], [-1.0, 0.5, 0.25, 0.0], [0.75, -0.5, 1.0, 0.0]];

/// The log-likelihood of a choice after a context, term by term.
fn by_hand(context: &[u32], choice: &[u32]) -> f64 {
    let all = [context, choice].concat();
    let term = |at: usize| {
        let logit = |token: usize| {
            all[..at].iter().map(|seen| f64::from(ROWS[*seen as usize][token])).sum::<f64>()
        };
        let sum: f64 = (0..VOCAB).map(|token| logit(token).exp()).sum();
        logit(all[at] as usize) - sum.ln()
    };
    (context.len()..all.len()).map(term).sum()
}

/// A question whose choices are one character long.
fn asked(context: &[u32], choices: &[&[u32]], right: usize) -> ChoiceTokens {
    ChoiceTokens {
        context: context.into(),
        choices: choices.iter().map(|choice| choice.to_vec()).collect(),
        lengths: vec![1; choices.len()],
        right,
    }
}

fn score(questions: &[ChoiceTokens]) -> ChoiceScores {
    score_choices(&Sums::new(ROWS), questions, NonZeroUsize::MIN, &mut ()).unwrap()
}

#[track_caller]
fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    }
}

#[test]
fn the_log_likelihood_of_a_choice_is_the_sum_over_its_tokens() {
    let context = [0, 3, 1];
    let choices: [&[u32]; 4] = [&[2], &[0, 1], &[2, 2, 3], &[3]];
    let expected = choices.map(|choice| by_hand(&context, choice));
    let questions = [asked(&context, &choices, 0), asked(&[2], &[&[1], &[1, 1]], 1)];
    let alone = score(&questions);
    near(&alone.answers[0].log_likelihoods, &expected);
    near(&alone.answers[1].log_likelihoods, &[by_hand(&[2], &[1]), by_hand(&[2], &[1, 1])]);
    assert_eq!(alone.truncated, 0);
    let two = NonZeroUsize::new(2).unwrap();
    assert_eq!(score_choices(&Sums::new(ROWS), &questions, two, &mut ()).unwrap(), alone);
}

#[test]
fn a_question_that_is_too_long_loses_its_beginning() {
    let context = [0, 0, 3, 1, 2, 2];
    let choices: [&[u32]; 3] = [&[3], &[0, 1], &[1, 2, 3, 0, 1]];
    let found = score(&[asked(&context, &choices, 0), asked(&[1, 1, 1, 1, 1], &[&[2], &[0]], 0)]);
    // The last token of a choice is only predicted, so it needs no place in the context of 5.
    let expected = [
        by_hand(&context[1..], choices[0]),
        by_hand(&context[2..], choices[1]),
        by_hand(&context[5..], choices[2]),
    ];
    near(&found.answers[0].log_likelihoods, &expected);
    assert_eq!(found.truncated, 1);
}

#[test]
fn the_first_of_equal_choices_is_taken_and_lengths_decide_by_themselves() {
    let mut question = asked(&[0], &[&[2], &[1], &[1]], 1);
    let expected = [[2], [1], [1]].map(|choice| by_hand(&[0], &choice));
    assert!(expected[1] > expected[0], "token 1 is the likelier one");
    let found = &score(from_ref(&question)).answers[0];
    assert_eq!((found.most_likely, found.most_likely_norm), (1, 1));
    // Twenty characters make the unlikely choice the likelier one for its length.
    question.lengths = vec![20, 1, 2];
    let found = score(&[question]);
    assert_eq!((found.answers[0].most_likely, found.answers[0].most_likely_norm), (1, 0));
    assert_eq!((found.acc.value, found.acc_norm.value, found.right()), (1.0, 0.0, 1));
}

#[test]
fn standard_errors_are_those_of_a_sample() {
    let question = |right| asked(&[0], &[&[2], &[1]], right);
    let found = score(&[question(1), question(1), question(0), question(1)]);
    let Estimate { value, standard_error } = found.acc;
    // The root of 0.75 · 0.25 · 4 / 3, over that of 4.
    assert_eq!((value, standard_error), (0.75, 0.25));
    assert!(score(&[question(1)]).acc.standard_error.is_nan());
}

#[test]
fn what_has_no_likelihood_is_refused() {
    let model = Sums::new(ROWS);
    let good = asked(&[0], &[&[2], &[1]], 0);
    let refused = |question| {
        let questions = [good.clone(), question];
        let checked = check_choices(&model, &questions).unwrap_err();
        let scored = score_choices(&model, &questions, NonZeroUsize::MIN, &mut ()).unwrap_err();
        assert_eq!(checked.to_string(), scored.to_string());
        assert!(checked.to_string().starts_with("question 2: "), "{checked}");
        checked
    };
    let error = refused(asked(&[], &[&[2], &[1]], 0));
    assert!(matches!(error, ChoiceError::NoContext { question: 1 }), "{error}");
    let error = refused(asked(&[0], &[&[2], &[]], 0));
    assert!(matches!(error, ChoiceError::NoTokens { question: 1, choice: 1 }), "{error}");
    let error = refused(asked(&[0], &[&[2], &[1; CONTEXT + 1]], 0));
    assert!(matches!(error, ChoiceError::TooLong { choice: 1, tokens: 6, .. }), "{error}");
    let error = refused(asked(&[0, 4], &[&[2], &[1]], 0));
    assert!(matches!(error, ChoiceError::UnknownToken { token: 4, .. }), "{error}");

    let mut rows = ROWS;
    rows[3][1] = f32::NAN;
    let questions = [good.clone(), asked(&[3], &[&[2], &[1]], 0)];
    let error = score_choices(&Sums::new(rows), &questions, NonZeroUsize::MIN, &mut ());
    assert!(matches!(error, Err(ChoiceError::NotFinite { question: 1, .. })), "{error:?}");
}

#[test]
fn a_decoder_continues_its_cache_and_predicts_as_in_whole_windows() {
    let model = tiny_llama(&device());
    let tokens = story_tokens();
    let (context, rest) = tokens[..40].split_at(33);
    let choices: [&[u32]; 3] = [&rest[..1], rest, &rest[2..5]];
    let found = score_choices(&model, &[asked(context, &choices, 0)], NonZeroUsize::MIN, &mut ());
    let expected = choices.map(|choice| {
        let whole = [context, choice].concat();
        let (seq_len, skip) = (whole.len(), context.len() - 1);
        let options = PerplexityOptions { seq_len, skip, ..PerplexityOptions::default() };
        -perplexity(&model, &whole, &options, &mut ()).unwrap().nll
    });
    let found = &found.unwrap().answers[0].log_likelihoods;
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
}

/// The tokenizer of tiny-llama, which adds no token, or puts `<|endoftext|>` before a text.
fn tokenizer(adds_first: bool) -> TextTokenizer {
    let content = fs::read(fixture("tiny-llama").join("tokenizer.json")).unwrap();
    let mut content: Value = serde_json::from_slice(&content).unwrap();
    if adds_first {
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let first = json!({ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } });
        content["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [first, text("A")],
            "pair": [first, text("A"), first, text("B")],
            "special_tokens": {
                "<|endoftext|>": { "id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"] },
            },
        });
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), content.to_string()).unwrap();
    TextTokenizer::open(dir.path()).unwrap()
}

fn question(context: &str, choices: [&str; 2]) -> ChoiceQuestion {
    ChoiceQuestion { context: context.into(), choices: choices.map(String::from).into(), right: 1 }
}

#[test]
fn choices_are_what_the_whole_text_adds_to_the_question() {
    let tokenizer = tokenizer(false);
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let asked = question("Mia has a", ["red ball", "café"]);
    let found = ChoiceTokens::of(&asked, &tokenizer, true).unwrap();
    assert_eq!(found.context, encode("Mia has a"));
    for (choice, text) in ["Mia has a red ball", "Mia has a café"].iter().enumerate() {
        assert_eq!([found.context.as_slice(), &found.choices[choice]].concat(), encode(text));
    }
    // Characters of the choice, not its bytes, and without the space before it.
    assert_eq!((found.lengths.as_slice(), found.right), (&[8, 4][..], 1));

    // White space at the end of the question belongs to the choices.
    let spaced = ChoiceTokens::of(&question("Mia has a \n", ["red", "x"]), &tokenizer, true);
    let spaced = spaced.unwrap();
    assert_eq!(spaced.context, encode("Mia has a"));
    let whole = [spaced.context.as_slice(), &spaced.choices[0]].concat();
    assert_eq!(whole, encode("Mia has a \n red"));
}

#[test]
fn a_question_begins_with_the_token_that_the_tokenizer_adds() {
    let tokenizer = tokenizer(true);
    let plain = tokenizer.encode("Mia has a").unwrap();
    let begun = [&[0u32][..], plain.as_slice()].concat();
    let context = |text: &str, special: bool| {
        ChoiceTokens::of(&question(text, ["red", "x"]), &tokenizer, special).unwrap().context
    };
    assert_eq!(context("Mia has a", true), begun);
    assert_eq!(context("Mia has a", false), plain);
    // Not twice.
    assert_eq!(context("<|endoftext|>Mia has a", true), begun);
    let choices = |special| {
        ChoiceTokens::of(&question("Mia has a", ["red", "x"]), &tokenizer, special).unwrap().choices
    };
    assert_eq!(choices(true), choices(false));
}
