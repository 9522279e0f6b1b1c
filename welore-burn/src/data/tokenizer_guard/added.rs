//! Tokens that are found in a text before it is split.

use serde_json::Value;
use tokenizers::AddedToken;

use super::{Fault, GuardedTokenizer, guarded, read_as};

const PART: &str = "list of added tokens";

const MAX_TOKENS: usize = 1 << 18;
const MAX_TOKEN: usize = 4096;

/// The most bytes in all of them: the automaton that finds them has a state for each.
const MAX_TOTAL: usize = 4 << 20;

/// Reads the list.
///
/// # Errors
///
/// [`Fault`].
pub(super) fn read(value: Value) -> Result<Vec<AddedToken>, Fault> {
    let Value::Array(list) = value else {
        return Err(Fault::of(PART, "it is not a list"));
    };
    if list.len() > MAX_TOKENS {
        return Err(Fault::of(PART, format!("it has more than {MAX_TOKENS} tokens")));
    }
    let mut tokens = Vec::with_capacity(list.len());
    let mut total = 0;
    for entry in list {
        let id = entry.get("id").and_then(Value::as_u64);
        if id.is_none_or(|id| u32::try_from(id).is_err()) {
            return Err(Fault::of(PART, "a token has no number"));
        }
        let token: AddedToken = read_as(PART, entry)?;
        total += token.content.len();
        if token.content.len() > MAX_TOKEN || total > MAX_TOTAL {
            return Err(Fault::of(PART, "its tokens are too long"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Adds the tokens.
///
/// # Errors
///
/// [`Fault`].
pub(super) fn add(tokenizer: &mut GuardedTokenizer, tokens: Vec<AddedToken>) -> Result<(), Fault> {
    // Those that are normalized may grow, but not by more than what all may have.
    let bytes = tokens.iter().map(|token| token.content.len()).sum::<usize>();
    guarded(bytes.min(MAX_TOTAL / 16), || tokenizer.add_tokens(tokens))
        .map_err(|reason| Fault::of(PART, reason))?;
    for (id, token) in tokenizer.get_added_tokens_decoder() {
        let found = tokenizer.id_to_token(id).unwrap_or_default();
        if found.is_empty() {
            return Err(Fault::of(PART, "a token is empty once it is normalized"));
        }
        // A run of spaces would be copied again at each space in it.
        if token.rstrip && found.starts_with(char::is_whitespace) {
            return Err(Fault::of(PART, "a token begins with a space and strips those after it"));
        }
    }
    Ok(())
}
