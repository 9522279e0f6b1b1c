//! Questions with choices, answered by the log-likelihood of each choice, as lm-eval does it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use super::estimate::Estimate;
use super::windows::LOGITS_AT_ONCE;
use crate::data::{ChoiceQuestion, DataError, TextTokenizer};
use crate::model::{LanguageModel, as_tensor, device_of, token_losses};
use crate::progress::{Interrupted, Progress};
use crate::workers::Workers;

/// Why questions with choices cannot be asked, or have no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// A text cannot be tokenized.
    #[error("{0}")]
    Data(#[from] DataError),
    /// There is nothing that a choice could follow.
    #[error("question {}: no token precedes its choices", question + 1)]
    NoContext {
        /// Number of the question, from 0.
        question: usize,
    },
    /// A choice adds no token to the question, so it has no likelihood.
    #[error("question {}: choice {} adds no token to it", question + 1, choice + 1)]
    NoTokens {
        /// Number of the question, from 0.
        question: usize,
        /// Number of the choice, from 0.
        choice: usize,
    },
    /// A choice does not fit in the model's context.
    #[error(
        "question {}: choice {} has {tokens} tokens, more than the model's context of {context}",
        question + 1, choice + 1
    )]
    TooLong {
        /// Number of the question, from 0.
        question: usize,
        /// Number of the choice, from 0.
        choice: usize,
        /// Tokens of the choice.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// A token is not in the model's vocabulary.
    #[error(
        "question {}: token {token} is not in the model's vocabulary of {vocab_size}; does the tokenizer belong to another model?",
        question + 1
    )]
    UnknownToken {
        /// Number of the question, from 0.
        question: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A log-likelihood is infinite or not a number.
    #[error("question {}: the log-likelihood of choice {} is not finite", question + 1, choice + 1)]
    NotFinite {
        /// Number of the question, from 0.
        question: usize,
        /// Number of the choice, from 0.
        choice: usize,
    },
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

/// A question with choices as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceTokens {
    /// What precedes every choice.
    pub context: Vec<u32>,
    /// What each choice adds.
    pub choices: Vec<Vec<u32>>,
    /// Characters of each choice, by which its log-likelihood is divided for
    /// [`ChoiceScores::acc_norm`].
    pub lengths: Vec<usize>,
    /// The number of the right choice, from 0.
    pub right: usize,
}

impl ChoiceTokens {
    /// The tokens of a question, as lm-eval encodes it: spaces at the end of the context belong to
    /// the choices, and a choice has those tokens of the whole text that follow as many as the
    /// context alone has. With `special_tokens` a text has the special tokens that the tokenizer
    /// adds, such as a BOS token, unless the context already begins with the first of them.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn of(
        question: &ChoiceQuestion,
        tokenizer: &TextTokenizer,
        special_tokens: bool,
    ) -> Result<Self, DataError> {
        let context = question.context.trim_end_matches(is_space);
        let spaces = &question.context[context.len()..];
        let adds = special_tokens && !begins_specially(context, tokenizer)?;
        let encode = |text: &str| match adds {
            true => tokenizer.encode_prompt(text),
            false => tokenizer.encode(text),
        };
        let before = encode(context)?;
        let added = |choice: usize| -> Result<Vec<u32>, DataError> {
            let text = format!("{context}{spaces}{}", question.continuation(choice));
            Ok(encode(&text)?.into_iter().skip(before.len()).collect())
        };
        let choices = (0..question.choices.len()).map(added).collect::<Result<_, _>>()?;
        let lengths = question.choices.iter().map(|choice| choice.chars().count()).collect();
        Ok(Self { context: before, choices, lengths, right: question.right })
    }

    /// The longest input of the model for this question, if nothing is cut off.
    fn longest(&self) -> usize {
        let choice = self.choices.iter().map(Vec::len).max().unwrap_or(1);
        self.context.len() + choice.max(1) - 1
    }

    /// How many tokens of the context are left out before a choice, which is scored in the last
    /// `context` tokens.
    fn cut(&self, choice: &[u32], context: usize) -> usize {
        (self.context.len() + choice.len()).saturating_sub(context.saturating_add(1))
    }
}

/// White space as Python strips it.
fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

/// Whether a text begins with the text of the first special token that the tokenizer would add.
fn begins_specially(text: &str, tokenizer: &TextTokenizer) -> Result<bool, DataError> {
    match tokenizer.encode_prompt("")?.first() {
        Some(first) => Ok(tokenizer.encode(text)?.first() == Some(first)),
        None => Ok(false),
    }
}

/// How a model answered a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChoiceAnswer {
    /// The natural logarithm of the probability of each choice after the question.
    pub log_likelihoods: Vec<f64>,
    /// The most likely choice, the first of several.
    pub most_likely: usize,
    /// The choice that is most likely for its length, the first of several.
    pub most_likely_norm: usize,
    /// The right choice.
    pub right: usize,
}

impl ChoiceAnswer {
    fn of(log_likelihoods: Vec<f64>, question: &ChoiceTokens) -> Self {
        let by_length =
            log_likelihoods.iter().zip(&question.lengths).map(|(sum, length)| sum / *length as f64);
        Self {
            most_likely: first_highest(log_likelihoods.iter().copied()),
            most_likely_norm: first_highest(by_length),
            log_likelihoods,
            right: question.right,
        }
    }
}

/// The place of the highest value, the first of several.
fn first_highest(values: impl Iterator<Item = f64>) -> usize {
    let better = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    values.enumerate().fold((0, f64::NEG_INFINITY), better).0
}

/// How well a model answers questions with choices.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceScores {
    /// Share of the questions whose most likely choice is right, lm-eval's `acc`.
    pub acc: Estimate,
    /// The same with the log-likelihood of each choice divided by its characters, lm-eval's
    /// `acc_norm`.
    pub acc_norm: Estimate,
    /// The answers, in the order of the questions.
    pub answers: Vec<ChoiceAnswer>,
    /// Questions that were too long for the model's context and lost their beginning.
    pub truncated: usize,
}

impl ChoiceScores {
    /// Number of questions whose most likely choice is right.
    pub fn right(&self) -> usize {
        self.answers.iter().filter(|answer| answer.most_likely == answer.right).count()
    }
}

/// Checks that questions can be asked, before weights are loaded.
///
/// # Errors
///
/// [`ChoiceError`], as [`score_choices`] would return it.
pub fn check_choices(
    model: &impl LanguageModel,
    questions: &[ChoiceTokens],
) -> Result<(), ChoiceError> {
    let (context, vocab_size) = (model.context(), model.vocab_size());
    for (question, asked) in questions.iter().enumerate() {
        if asked.context.is_empty() {
            return Err(ChoiceError::NoContext { question });
        }
        for (choice, added) in asked.choices.iter().enumerate() {
            let tokens = added.len();
            if tokens == 0 {
                return Err(ChoiceError::NoTokens { question, choice });
            }
            if tokens > context {
                return Err(ChoiceError::TooLong { question, choice, tokens, context });
            }
        }
        let mut tokens = asked.choices.iter().flatten().chain(&asked.context);
        if let Some(&token) = tokens.find(|token| **token as usize >= vocab_size) {
            return Err(ChoiceError::UnknownToken { question, token, vocab_size });
        }
    }
    Ok(())
}

/// Answers questions by the log-likelihoods of their choices: the sum of the log-probabilities of the
/// tokens that a choice adds. `at_once` questions are computed at the same time.
///
/// A question is computed once for all its choices, which then continue it. Where a question and a
/// choice do not fit in the model's context, the question loses its beginning.
///
/// Logits and their log-sum-exp are f32 as the model computes them; sums are f64.
///
/// # Errors
///
/// [`ChoiceError`].
///
/// # Panics
///
/// Panics if `questions` is empty, or if a question has not as many lengths as choices.
pub fn score_choices<M>(
    model: &M,
    questions: &[ChoiceTokens],
    at_once: NonZeroUsize,
    progress: &mut dyn Progress,
) -> Result<ChoiceScores, ChoiceError>
where
    M: LanguageModel<Cache: Clone>,
{
    assert!(!questions.is_empty(), "there must be a question");
    let matches = |asked: &ChoiceTokens| asked.lengths.len() == asked.choices.len();
    assert!(questions.iter().all(matches), "every choice has a length");
    check_choices(model, questions)?;
    progress.begin("choices", questions.len());
    progress.count_in("questions");
    let mut answers: Vec<Option<ChoiceAnswer>> = vec![None; questions.len()];
    Workers::new(at_once).try_spread(
        questions.len(),
        |index| answer(model, &questions[index], index),
        |index, answer| {
            answers[index] = Some(answer);
            Ok(progress.step(&format!("question {}", index + 1))?)
        },
    )?;
    let answers: Vec<ChoiceAnswer> = answers.into_iter().flatten().collect();
    let share = |of: fn(&ChoiceAnswer) -> usize| {
        Estimate::mean(answers.iter().map(|answer| f64::from(of(answer) == answer.right)))
    };
    let too_long = |asked: &&ChoiceTokens| asked.longest() > model.context();
    Ok(ChoiceScores {
        acc: share(|answer| answer.most_likely),
        acc_norm: share(|answer| answer.most_likely_norm),
        truncated: questions.iter().filter(too_long).count(),
        answers,
    })
}

/// The answer to question number `question`.
fn answer<M>(model: &M, asked: &ChoiceTokens, question: usize) -> Result<ChoiceAnswer, ChoiceError>
where
    M: LanguageModel<Cache: Clone>,
{
    // Choices that leave the same part of the question share the work on it.
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, choice) in asked.choices.iter().enumerate() {
        groups.entry(asked.cut(choice, model.context())).or_default().push(number);
    }
    let mut found = vec![0.0; asked.choices.len()];
    for (cut, numbers) in groups {
        let choices: Vec<&[u32]> = numbers.iter().map(|n| asked.choices[*n].as_slice()).collect();
        let sums = log_likelihoods(model, &asked.context[cut..], &choices);
        for (number, sum) in numbers.into_iter().zip(sums) {
            found[number] = sum;
        }
    }
    match found.iter().position(|sum| !sum.is_finite()) {
        Some(choice) => Err(ChoiceError::NotFinite { question, choice }),
        None => Ok(ChoiceAnswer::of(found, asked)),
    }
}

/// The log-likelihood of each choice after the same tokens.
fn log_likelihoods<M>(model: &M, context: &[u32], choices: &[&[u32]]) -> Vec<f64>
where
    M: LanguageModel<Cache: Clone>,
{
    let device = device_of(model);
    let mut cache = model.cache();
    let hidden = model.extend(as_tensor(context, &device), &mut cache);
    // The first token of every choice is predicted from the end of the question.
    let last = hidden.narrow(1, context.len() - 1, 1);
    let states = choices.iter().map(|choice| match choice {
        [] | [_] => last.clone(),
        [before @ .., _] => {
            let more = model.extend(as_tensor(before, &device), &mut cache.clone());
            Tensor::cat(vec![last.clone(), more], 1)
        }
    });
    let hidden = Tensor::cat(states.collect(), 1).squeeze_dim::<2>(0);
    let tokens: Vec<i32> = choices.concat().iter().map(|token| *token as i32).collect();
    let count = tokens.len();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(tokens, [count, 1]), &device);
    let losses: Vec<f64> = token_losses(model, hidden, targets, LOGITS_AT_ONCE)
        .flat_map(|losses| losses.into_data().iter::<f64>().collect::<Vec<_>>())
        .collect();
    let mut rest = losses.as_slice();
    let sum_of = |choice: &&[u32]| {
        let (own, others) = rest.split_at(choice.len());
        rest = others;
        -own.iter().sum::<f64>()
    };
    choices.iter().map(sum_of).collect()
}
