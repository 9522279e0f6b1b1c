//! Answers to a task, which `eval` and `train` score.

use std::ops::ControlFlow;

use anyhow::Result;
use welore_burn::data::{TaskExample, TextTokenizer};
use welore_burn::eval::{Accuracy, accuracy};
use welore_burn::model::{DecoderConfig, GenerateOptions, LanguageModel, Sampler, generate};
use welore_burn::progress::Interrupted;

use crate::devices::Compute;
use crate::terminal::{Bar, must_stop};

/// How many tokens longer than the expected answer an answer may be.
const SPARE: usize = 16;

/// Turns prompts into answers, with any model of the same tokenizer.
#[derive(Debug)]
pub struct Speaker {
    tokenizer: TextTokenizer,
    stop: Vec<u32>,
}

impl Speaker {
    /// With the tokenizer of a model, and the tokens that end its texts.
    pub fn new(tokenizer: TextTokenizer, config: &DecoderConfig) -> Self {
        Self { tokenizer, stop: config.eos_token_ids.clone() }
    }

    /// How well `model` answers, greedily.
    pub fn score<M: LanguageModel>(
        &self,
        model: &M,
        examples: &[TaskExample],
        compute: &Compute,
    ) -> Result<Accuracy> {
        let answer = |example: &TaskExample| self.answer(model, example);
        accuracy(examples, compute.at_once(), answer, &mut Bar::default())
    }

    fn answer<M: LanguageModel>(&self, model: &M, example: &TaskExample) -> Result<String> {
        let mut prompt = self.tokenizer.encode_prompt(&example.prompt)?;
        let max_new_tokens = self.tokenizer.encode(&example.response)?.len() + SPARE;
        // As in training, a prompt that is too long loses its beginning.
        let most = model.context().saturating_sub(max_new_tokens).max(1);
        prompt.drain(..prompt.len().saturating_sub(most));
        let options = GenerateOptions { max_new_tokens, stop: self.stop.clone() };
        let go_on = |_| match must_stop() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut sampler = Sampler::greedy();
        let tokens = generate(model, &prompt, &mut sampler, &options, go_on)?;
        if must_stop() {
            return Err(Interrupted.into());
        }
        Ok(self.tokenizer.decode(&tokens)?)
    }
}
