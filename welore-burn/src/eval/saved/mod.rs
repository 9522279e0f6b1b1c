//! A dense model's predictions of a text, kept in a file, so that others can be compared with them
//! without the model.

mod file;
mod rounded;

use std::path::{Path, PathBuf};

use self::file::{LogitsFile, LogitsWriter, Manifest};
use self::rounded::{Rounded, round};
use super::divergence::{Dense, Divergence, Known, Piece, compare, host_logits};
use super::perplexity::Perplexity;
use super::windows::{
    EvalError, LOGITS_AT_ONCE, PerplexityOptions, Window, check_saved, check_text, each_window,
};
use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::model::{Bos, LanguageModel, rows_at_once};
use crate::progress::{Interrupted, Progress};
use crate::words::number_of;

/// Why logits cannot be saved, or saved ones cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogitsError {
    /// The tensors of the file cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The text cannot be measured.
    #[error("{0}")]
    Eval(#[from] EvalError),
    /// The file does not hold saved logits.
    #[error("{path}: not saved logits: {reason}", path = path.display())]
    NotLogits {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by another version.
    #[error("{path}: version {version} of saved logits is not supported", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The logits are of another text, or of other windows of it, or of a model with another
    /// vocabulary.
    #[error("{path}: the saved logits are of {has}, not of {wanted}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it has, in words.
        has: String,
        /// What was asked for, in words.
        wanted: String,
    },
}

impl From<Interrupted> for LogitsError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Eval(EvalError::Interrupted(interrupted))
    }
}

/// The model whose logits are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogitsSource {
    /// Its name, as a note.
    pub model: String,
    /// A digest of the files that define it.
    pub model_digest: String,
}

/// Measures the perplexity of a dense model like [`perplexity`](fn@super::perplexity), and writes
/// what its logits say to a file, from which [`SavedLogits::divergence`] compares other models with
/// it. The file appears when it is complete. It has 2 bytes for each scored token and entry of the
/// vocabulary; [`saved_bytes`] says how many these are.
///
/// A scored token has its exact negative log-likelihood, the exact most likely token, and the
/// logits as 16-bit steps below the largest one. What is more than 32 below it, less than 10⁻¹³ as
/// likely, counts as 32 below. [`SavedLogits`] says what rounding costs.
///
/// # Errors
///
/// [`LogitsError`].
pub fn save_logits<M: LanguageModel>(
    path: &Path,
    model: &M,
    source: &LogitsSource,
    tokens: &[u32],
    options: &PerplexityOptions,
    progress: &mut dyn Progress,
) -> Result<Perplexity, LogitsError> {
    check_text(model, tokens, options)?;
    check_saved(options)?;
    let windows = options.cut(tokens);
    let manifest = Manifest::new(source, model.vocab_size(), windows.len(), options);
    let cut: Vec<u32> = windows.iter().flat_map(|window| window.tokens).collect();
    let writer = LogitsWriter::new(path, &manifest, &cut)?;
    progress.begin("logits", windows.len());
    let files = writer.files()?;
    let work = |index: usize, window: &Window| {
        let mut rounded = Rounded::default();
        for logits in host_logits(model, window, LOGITS_AT_ONCE) {
            let targets = &window.targets()[rounded.rows.len()..];
            round(&logits, targets, model.vocab_size(), &mut rounded);
        }
        if !rounded.rows.iter().all(|row| row.nll.is_finite()) {
            return Err(LogitsError::from(EvalError::NotFinite { window: index }));
        }
        files.write(&file::window_name(index), &rounded.steps)?;
        Ok(rounded.rows)
    };
    let rows = each_window(&windows, options.at_once, work, progress);
    let rows = rows.map_err(|error| writer.named(error))?.concat();
    writer.finish(&rows)?;
    let nll = rows.iter().map(|row| row.nll).sum();
    Ok(Perplexity::of(nll, rows.len(), windows.len()))
}

/// Bytes of the tensors of a file of saved logits.
///
/// # Panics
///
/// Panics if `seq_len` is below 2.
pub fn saved_bytes(vocab_size: usize, tokens: &[u32], options: &PerplexityOptions) -> u64 {
    let windows = options.windows_of(tokens);
    let source = LogitsSource { model: String::new(), model_digest: String::new() };
    Manifest::new(&source, vocab_size, windows, options).bytes()
}

/// Logits that [`save_logits`] wrote, mapped into memory.
///
/// Their rounding is part of the divergence that is measured from them. A logit is off by at most
/// `h`, a 131070th of the distance between the largest and the smallest of its token, which counts
/// up to 32: 2.5 · 10⁻⁴ at most. Where the exact divergence of a token is `d`, the one that is
/// measured differs by less than `(e²ʰ − 1) (d + √(2d) + 2h)`: less than 8 · 10⁻⁴ for a `d` of 0.5,
/// 8 · 10⁻⁵ for 0.01, and 3 · 10⁻⁷ for 0. Errors of both signs cancel, so a mean differs by less.
/// Perplexities, their ratio, the probability of the right token and the dense model's most likely
/// token are exact.
#[derive(Debug)]
pub struct SavedLogits {
    file: LogitsFile,
}

impl SavedLogits {
    /// Opens a file of saved logits. Sizes in it are checked before anything is allocated.
    ///
    /// # Errors
    ///
    /// [`LogitsError`].
    pub fn open(path: &Path) -> Result<Self, LogitsError> {
        Ok(Self { file: LogitsFile::open(path)? })
    }

    /// The model that the logits are of.
    pub fn source(&self) -> LogitsSource {
        self.file.manifest().source()
    }

    /// Checks that the logits are those of a model with this vocabulary on this text, and that they
    /// are there for all windows that the options ask for.
    ///
    /// # Errors
    ///
    /// [`LogitsError::Foreign`], and [`EvalError::StrideSaved`] for windows that overlap.
    pub fn check(
        &self,
        vocab_size: usize,
        tokens: &[u32],
        options: &PerplexityOptions,
    ) -> Result<(), LogitsError> {
        check_saved(options)?;
        let manifest = self.file.manifest();
        let differs = |has: String, wanted: String| {
            Err(LogitsError::Foreign { path: self.file.path().into(), has, wanted })
        };
        if manifest.vocab_size != vocab_size {
            let of = |size: usize| format!("a vocabulary of {size} tokens");
            return differs(of(manifest.vocab_size), of(vocab_size));
        }
        if (manifest.seq_len, manifest.skip) != (options.seq_len, options.skip) {
            let of = |seq_len: usize, skip: usize| {
                format!("windows of {seq_len} tokens with a skip of {skip}")
            };
            return differs(of(manifest.seq_len, manifest.skip), of(options.seq_len, options.skip));
        }
        if manifest.bos != options.bos {
            let of = |bos: Option<Bos>| match bos {
                None => "windows of text alone".into(),
                Some(Bos::Each(token)) => format!("windows that each begin with token {token}"),
                Some(Bos::Once(token)) => format!("a text that begins with token {token}"),
            };
            return differs(of(manifest.bos), of(options.bos));
        }
        let windows = options.cut(tokens);
        if manifest.windows < windows.len() {
            let of = |windows: usize| number_of(windows, "window");
            return differs(of(manifest.windows), of(windows.len()));
        }
        let own = self.file.tokens().chunks_exact(manifest.seq_len);
        match own.zip(windows.iter()).position(|(own, window)| own != window.tokens) {
            Some(window) => {
                differs("another text".into(), format!("this one, from window {window} on"))
            }
            None => Ok(()),
        }
    }

    /// Compares a model with the saved logits; see [`divergence`](fn@super::divergence).
    ///
    /// # Errors
    ///
    /// [`LogitsError`].
    pub fn divergence<M: LanguageModel>(
        &self,
        model: &M,
        tokens: &[u32],
        options: &PerplexityOptions,
        progress: &mut dyn Progress,
    ) -> Result<Divergence, LogitsError> {
        check_text(model, tokens, options)?;
        self.check(model.vocab_size(), tokens, options)?;
        let measured = compare(model, &self.file, tokens, options, LOGITS_AT_ONCE, progress)?;
        self.file.check_unchanged()?;
        Ok(measured)
    }
}

impl Dense for LogitsFile {
    fn pieces(
        &self,
        index: usize,
        window: &Window,
        logits_at_once: usize,
    ) -> impl Iterator<Item = Piece> {
        let (vocab_size, scored) = (self.manifest().vocab_size, window.targets().len());
        let most = rows_at_once(vocab_size, logits_at_once);
        let (rows, steps) = self.window(index);
        (0..scored).step_by(most).map(move |start| {
            let end = (start + most).min(scored);
            let known = |row: &rounded::Row| Known { nll: row.nll, top: row.top as usize };
            Piece {
                logits: rounded::logits(
                    &rows[start..end],
                    vocab_size,
                    &steps[2 * start * vocab_size..],
                ),
                known: rows[start..end].iter().map(known).collect(),
            }
        })
    }

    fn release(&self, index: usize) {
        self.release_window(index);
    }
}
