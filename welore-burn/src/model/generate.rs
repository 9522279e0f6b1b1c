use std::ops::ControlFlow;

use burn::tensor::Device;

use super::language::{LanguageModel, as_tensor, device_of};
use super::sampling::Sampler;
use crate::host;
use crate::words::number_of;

/// When generation stops. It always stops at the end of the model's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Maximum number of tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end the text; they are not returned.
    pub stop: Vec<u32>,
}

impl Default for GenerateOptions {
    /// At most 64 tokens, and no token ends the text.
    fn default() -> Self {
        Self { max_new_tokens: 64, stop: Vec::new() }
    }
}

/// A prompt that cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// No token to start from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt is longer than the model's context.
    #[error("the prompt has {}, but the model's context is {context}", number_of(*tokens, "token"))]
    TooLong {
        /// Number of tokens in the prompt.
        tokens: usize,
        /// The model's context, in tokens.
        context: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is not in the model's vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The model computed logits that are infinite or not a number.
    #[error("the model's logits are not finite after {}", number_of(*generated, "generated token"))]
    NotFinite {
        /// Number of tokens generated before.
        generated: usize,
    },
}

/// Continues a prompt token by token, using the model's cache.
///
/// `on_token` receives each new token immediately and may stop generation. Returns the new tokens.
///
/// # Errors
///
/// [`GenerateError`].
pub fn generate<M: LanguageModel>(
    model: &M,
    prompt: &[u32],
    sampler: &mut Sampler,
    options: &GenerateOptions,
    on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, GenerateError> {
    Generator::new(model).generate(prompt, sampler, options, on_token)
}

/// Continues one prompt after the other, and computes again only what a prompt does not share with the text before
/// it, such as the last message of a conversation.
pub struct Generator<'m, M: LanguageModel> {
    model: &'m M,
    device: Device,
    cache: M::Cache,
    /// The tokens in the cache.
    seen: Vec<u32>,
}

impl<'m, M: LanguageModel> Generator<'m, M> {
    /// With an empty cache.
    pub fn new(model: &'m M) -> Self {
        Self { model, device: device_of(model), cache: model.cache(), seen: Vec::new() }
    }

    /// Continues a prompt, as [`generate`] does.
    ///
    /// # Errors
    ///
    /// [`GenerateError`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampler: &mut Sampler,
        options: &GenerateOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>, GenerateError> {
        check_prompt(self.model, prompt)?;
        let most = options.max_new_tokens.min(most_new_tokens(self.model, prompt));
        let mut generated = Vec::new();
        let mut input = prompt[self.keep(prompt)..].to_vec();
        while generated.len() < most {
            let logits = self.last_logits(&input);
            if logits.iter().any(|x| !x.is_finite()) {
                return Err(GenerateError::NotFinite { generated: generated.len() });
            }
            let token = sampler.next(&logits);
            if options.stop.contains(&token) {
                break;
            }
            generated.push(token);
            if on_token(token).is_break() {
                break;
            }
            input = vec![token];
        }
        Ok(generated)
    }

    /// Keeps what the cache shares with a prompt, and forgets the rest of it. Returns the number of tokens that are
    /// kept, which is less than that of the prompt.
    fn keep(&mut self, prompt: &[u32]) -> usize {
        let same = self.seen.iter().zip(prompt).take_while(|(one, other)| one == other).count();
        let same = same.min(prompt.len().saturating_sub(1));
        let is_kept = same == self.seen.len() || self.model.shorten_cache(&mut self.cache, same);
        if !is_kept {
            self.cache = self.model.cache();
        }
        self.seen.truncate(if is_kept { same } else { 0 });
        self.seen.len()
    }

    /// Logits of the last position. The head is applied only there.
    fn last_logits(&mut self, tokens: &[u32]) -> Vec<f32> {
        let Self { model, device, cache, seen } = self;
        seen.extend(tokens);
        on_threads_of(device, || {
            let hidden = model.extend(as_tensor(tokens, device), cache);
            let logits = model.logits(hidden.narrow(1, tokens.len() - 1, 1));
            logits.into_data().iter::<f32>().collect()
        })
    }
}

/// Number of tokens that fit in the model's context after a prompt. The last of them is predicted
/// from a full context, and need not fit in it itself.
pub fn most_new_tokens(model: &impl LanguageModel, prompt: &[u32]) -> usize {
    model.context().saturating_add(1).saturating_sub(prompt.len())
}

/// Checks that a model can continue a prompt, before its weights are loaded.
///
/// # Errors
///
/// [`GenerateError`], as [`generate`] would return it.
pub fn check_prompt(model: &impl LanguageModel, prompt: &[u32]) -> Result<(), GenerateError> {
    let (tokens, context, vocab_size) = (prompt.len(), model.context(), model.vocab_size());
    if tokens == 0 {
        return Err(GenerateError::EmptyPrompt);
    }
    if tokens > context {
        return Err(GenerateError::TooLong { tokens, context });
    }
    match prompt.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(GenerateError::UnknownToken { token: *token, vocab_size }),
        None => Ok(()),
    }
}

/// Computes on one of the threads that a CPU's operations are spread over, with the others awake, where a
/// device has such threads.
fn on_threads_of<T: Send>(device: &Device, compute: impl FnOnce() -> T + Send) -> T {
    match host::is_host(device) {
        true => host::with_ready_threads(compute),
        false => compute(),
    }
}
