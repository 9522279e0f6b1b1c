//! Special tokens that take the spaces after them, as those of Phi-3 do. No file states that of a
//! token: llama.cpp knows it by the name of the model.

/// In the name of a model these tell llama.cpp, in any case of letters, that it is Phi-3.
const NAMES: [&str; 2] = ["phi-3", "phi3"];

/// The tokens that do not take the spaces after them there, of those that are found in a text before
/// it is split.
const PLAIN: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Another one that llama.cpp needs there.
const END: &str = "</s>";

/// Whether llama.cpp takes a model of this name for Phi-3.
pub(super) fn is_name(name: &str) -> bool {
    let name = name.to_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// Whether a token takes the spaces after it in Phi-3.
pub(super) fn takes_spaces(token: &str) -> bool {
    !PLAIN.contains(&token)
}

/// Whether tokens take the spaces after them where those of Phi-3 do: `tokens` are those that are
/// found in a text before it is split, and whether each of them does.
pub(super) fn are_tokens<'a>(tokens: impl Iterator<Item = (&'a str, bool)> + Clone) -> bool {
    let has = |needed: &str| tokens.clone().any(|(token, _)| token == needed);
    tokens.clone().all(|(token, takes)| takes == takes_spaces(token))
        && PLAIN.into_iter().chain([END]).all(has)
}

/// The name that a file has, so that llama.cpp treats spaces as the tokenizer does. `is_phi3` says
/// whether tokens take the spaces after them.
pub(in super::super) fn file_name(name: Option<&str>, is_phi3: bool) -> Option<String> {
    match name {
        None => is_phi3.then(|| "Phi-3".into()),
        Some(name) if is_name(name) == is_phi3 => Some(name.into()),
        Some(name) => is_phi3.then(|| format!("{name} (Phi-3)")),
    }
}
