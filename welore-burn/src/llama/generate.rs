use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::cache::KvCache;
use super::model::Llama;
use super::sampling::Sampler;

/// When generation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Longest context of the model; generation ends there.
    pub max_context: usize,
    /// Tokens that end the text; the one met is not returned.
    pub stop: Vec<u32>,
}

/// A prompt that cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// No token to start from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// More tokens than the model can see.
    #[error("the prompt has {tokens} tokens, the model's context is {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// A token the model does not know.
    #[error("token {token} is not in the model's vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The model computed something that is not a number.
    #[error("the model's logits are not finite after {generated} generated tokens")]
    NotFinite {
        /// Tokens generated before.
        generated: usize,
    },
}

/// Continues a prompt token by token, with a key-value cache.
///
/// `on_token` sees every new token as it comes and may end the text. Returns the new tokens.
///
/// # Errors
///
/// [`GenerateError`].
pub fn generate(
    model: &Llama,
    prompt: &[u32],
    sampler: &mut Sampler,
    options: &GenerateOptions,
    device: &Device,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, GenerateError> {
    check_prompt(model, prompt, options)?;
    let mut cache = KvCache::new();
    let mut generated = Vec::new();
    let mut input = prompt.to_vec();
    while generated.len() < options.max_new_tokens && cache.len() < options.max_context {
        let logits = last_logits(model, &input, &mut cache, device);
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

fn check_prompt(
    model: &Llama,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<(), GenerateError> {
    let (tokens, context) = (prompt.len(), options.max_context);
    let vocab_size = model.vocab_size();
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

/// Logits of the last position. The head is applied to that position only.
fn last_logits(model: &Llama, tokens: &[u32], cache: &mut KvCache, device: &Device) -> Vec<f32> {
    let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let count = ids.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, count]), device);
    let hidden = model.model.forward(tokens, Some(cache));
    let logits = model.logits(hidden.narrow(1, count - 1, 1));
    logits.into_data().iter::<f32>().collect()
}
