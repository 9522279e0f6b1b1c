//! GGUF files, converted once and kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::{FileError, OutputDir};
use welore_burn::gguf::{GGUF_CONVERSION, GgufConversion, convert_gguf, gguf_files};
use welore_burn::progress::Interrupted;

use crate::cache::cache_dir;
use crate::failure::WrongInput;
use crate::terminal::{Bar, must_stop};

/// The model directory that a GGUF file is converted into: `gguf/DIGEST` in `$WELORE_CACHE`, else
/// in `$XDG_CACHE_HOME/welore`, else in `~/.cache/welore`. A file that was converted before is only
/// read through once. Different conversions of a file are different directories; all parts of a model
/// of several files are one.
///
/// # Errors
///
/// [`GgufError`](welore_burn::gguf::GgufError), and others if there is no usable cache.
pub fn directory_of(path: &Path, conversion: GgufConversion) -> Result<PathBuf> {
    let cache = cache_dir("gguf").ok_or_else(|| WrongInput {
        message: format!("{}: there is no cache directory for the converted model", path.display()),
        hint: Some("set WELORE_CACHE to a directory".into()),
    })?;
    let dir = cache.join(digest_of(path, conversion)?);
    if is_model(&dir) {
        return Ok(dir);
    }
    if dir.is_dir() {
        // It was complete when it got its name, and has been damaged since.
        std::fs::remove_dir_all(&dir)
            .map_err(|source| FileError::Io { path: dir.clone(), source })?;
    }
    let mut waits = false;
    let output = loop {
        match OutputDir::resumable(&dir, false) {
            // Another process has just finished it.
            Err(FileError::OutputExists { .. }) => return Ok(dir),
            Err(FileError::OutputBusy { .. }) => wait(path, &mut waits)?,
            output => break output?,
        }
    };
    note!("converting {} into {}, where later commands find it", path.display(), dir.display());
    let mut bar = Bar::default();
    let converted = convert_gguf(path, conversion, &output, &mut bar);
    bar.finish();
    converted?;
    output.commit()?;
    Ok(dir)
}

/// Waits a moment for another process that converts the file.
fn wait(path: &Path, waits: &mut bool) -> Result<(), Interrupted> {
    if !std::mem::replace(waits, true) {
        note!("another process is converting {}; waiting for it", path.display());
    }
    if must_stop() {
        return Err(Interrupted);
    }
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Identifies the content of a file, with all parts of a model of several files, the conversion and its
/// version.
fn digest_of(path: &Path, conversion: GgufConversion) -> Result<String> {
    let files = gguf_files(path)?;
    let mut hasher = blake3::Hasher::new();
    let how = if conversion.packed { " packed" } else { "" };
    hasher.update(format!("welore-gguf {GGUF_CONVERSION}{how}\n").as_bytes());
    for path in &files {
        let io = |source| FileError::Io { path: path.clone(), source };
        let file = File::open(path).map_err(io)?;
        if files.len() > 1 {
            // Where one part ends is part of the content.
            let bytes = file.metadata().map_err(io)?.len();
            hasher.update(format!("part of {bytes}\n").as_bytes());
        }
        hasher.update_reader(file).map_err(io)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether a directory still contains a model.
fn is_model(dir: &Path) -> bool {
    let files = ["config.json", "tokenizer.json"];
    files.iter().all(|name| dir.join(name).is_file()) && Checkpoint::open(dir).is_ok()
}
