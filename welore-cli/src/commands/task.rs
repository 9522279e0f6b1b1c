//! Answers to a task, which `eval` and `train` score.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use welore_burn::data::{TaskExample, TextTokenizer};
use welore_burn::eval::{Accuracy, accuracy};
use welore_burn::llama::{GenerateOptions, Llama, LlamaConfig, Sampler, generate};
use welore_burn::progress::Interrupted;

use crate::devices::Compute;
use crate::terminal::{Bar, interrupted};

/// Tokens that an answer may be longer than the one looked for.
const SPARE: usize = 16;

/// What turns prompts into answers, but for the weights.
#[derive(Debug)]
pub struct Speaker {
    tokenizer: TextTokenizer,
    max_context: usize,
    stop: Vec<u32>,
}

impl Speaker {
    /// The tokenizer and the limits of a model directory.
    pub fn open(dir: &Path, config: &LlamaConfig) -> Result<Self> {
        Ok(Self {
            tokenizer: TextTokenizer::open(dir)?,
            max_context: config.max_position_embeddings,
            stop: config.eos_token_ids.clone(),
        })
    }

    /// How well `model` answers, greedily.
    pub fn score(
        &self,
        model: &Llama,
        examples: &[TaskExample],
        compute: &Compute,
    ) -> Result<Accuracy> {
        let answer = |example: &TaskExample| self.answer(model, example, &compute.device);
        accuracy(examples, compute.at_once(), answer, &mut Bar::default())
    }

    fn answer(&self, model: &Llama, example: &TaskExample, device: &Device) -> Result<String> {
        let mut prompt = self.tokenizer.encode_prompt(&example.prompt)?;
        let max_new_tokens = self.tokenizer.encode(&example.response)?.len() + SPARE;
        // As in training, what does not fit is lost at the beginning.
        let most = self.max_context.saturating_sub(max_new_tokens).max(1);
        prompt.drain(..prompt.len().saturating_sub(most));
        let options = GenerateOptions {
            max_new_tokens,
            max_context: self.max_context,
            stop: self.stop.clone(),
        };
        let go_on = |_| match interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut sampler = Sampler::greedy();
        let tokens = generate(model, &prompt, &mut sampler, &options, device, go_on)?;
        if interrupted() {
            return Err(Interrupted.into());
        }
        Ok(self.tokenizer.decode(&tokens)?)
    }
}
