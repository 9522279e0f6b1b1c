use std::fs;
use std::path::Path;

use crate::files::{FileError, write_file};

/// Beginnings of the names of files that a derived model keeps: configuration, tokenizer and
/// licence.
const COMPANIONS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template",
    "licen",
    "notice",
    "copying",
    "use_policy",
];

/// Copies configuration, tokenizer and licence from one model directory to another, if they
/// exist.
///
/// # Errors
///
/// [`FileError::Io`].
pub fn copy_companions(from: &Path, to: &Path) -> Result<(), FileError> {
    let io = || FileError::io(from);
    for entry in fs::read_dir(from).map_err(io())? {
        let entry = entry.map_err(io())?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let source = entry.path();
        if source.is_file() && COMPANIONS.iter().any(|start| name.starts_with(start)) {
            let content = fs::read(&source).map_err(FileError::io(&source))?;
            write_file(to.join(entry.file_name()), &content)?;
        }
    }
    Ok(())
}
