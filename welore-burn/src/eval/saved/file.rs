//! The file of saved logits: safetensors with a manifest, the tokens, what is known of each
//! prediction, and the rounded logits of each window.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::rounded::Row;
use super::{LogitsError, LogitsSource};
use crate::artifact::{Header, in_words};
use crate::checkpoint::{Checkpoint, CheckpointError, ShardLayout, ShardWriter};
use crate::eval::PerplexityOptions;
use crate::files::{StagedFile, check_input};
use crate::forms::TensorSpec;
use crate::model::Bos;

const FORMAT: &str = "welore-logits";
const VERSION: u32 = 1;

const MANIFEST: &str = "saved_logits.manifest";
const TOKENS: &str = "saved_logits.tokens";
/// Of the largest type, so its name is the first in the file, which tells what the file is.
const LOSSES: &str = "saved_logits.losses";
const TOPS: &str = "saved_logits.tops";
const DEPTHS: &str = "saved_logits.depths";

/// The name of the tensor with the rounded logits of a window.
pub fn window_name(index: usize) -> String {
    format!("saved_logits.window.{index}")
}

/// What a file of saved logits holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// The name of the model, as a note.
    model: String,
    model_digest: String,
    pub vocab_size: usize,
    pub windows: usize,
    pub seq_len: usize,
    pub skip: usize,
    /// What begins with the token that begins texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<Bos>,
}

impl Manifest {
    pub fn new(
        source: &LogitsSource,
        vocab_size: usize,
        windows: usize,
        options: &PerplexityOptions,
    ) -> Self {
        let LogitsSource { model, model_digest } = source.clone();
        let PerplexityOptions { seq_len, skip, bos, .. } = *options;
        let (format, version) = (FORMAT.into(), VERSION);
        Self { format, version, model, model_digest, vocab_size, windows, seq_len, skip, bos }
    }

    pub fn source(&self) -> LogitsSource {
        LogitsSource { model: self.model.clone(), model_digest: self.model_digest.clone() }
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings always serialize")
    }

    /// The scored predictions of a window.
    fn scored(&self) -> usize {
        self.seq_len.saturating_sub(1).saturating_sub(self.skip)
    }

    /// The tensors besides the manifest and those of windows.
    fn tables(&self) -> [TensorSpec; 4] {
        let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
        let rows = || vec![self.windows, self.scored()];
        [
            spec(LOSSES, Dtype::F64, rows()),
            spec(DEPTHS, Dtype::F32, rows()),
            spec(TOPS, Dtype::U32, rows()),
            spec(TOKENS, Dtype::U32, vec![self.windows, self.seq_len]),
        ]
    }

    fn window(&self, index: usize) -> TensorSpec {
        let shape = vec![self.scored(), self.vocab_size];
        TensorSpec { name: window_name(index), dtype: Dtype::U16, shape }
    }

    /// Bytes of all tensors but the manifest.
    pub fn bytes(&self) -> u64 {
        let tables: u64 = self.tables().iter().map(TensorSpec::bytes).sum();
        tables.saturating_add(self.window(0).bytes().saturating_mul(self.windows as u64))
    }
}

/// The only file of the layout.
const FILE: &str = "model.safetensors";

/// A file of saved logits that is written window by window, in any order.
#[derive(Debug)]
pub struct LogitsWriter {
    staged: StagedFile,
    layout: ShardLayout,
}

impl LogitsWriter {
    /// Begins a file.
    /// `tokens` are those of all windows, one after the other.
    pub fn new(path: &Path, manifest: &Manifest, tokens: &[u32]) -> Result<Self, LogitsError> {
        let text = manifest.to_text();
        let (name, shape) = (MANIFEST.into(), vec![text.len()]);
        let mut tensors = vec![TensorSpec { name, dtype: Dtype::U8, shape }];
        tensors.extend(manifest.tables());
        tensors.extend((0..manifest.windows).map(|index| manifest.window(index)));
        let layout = ShardLayout::new(&tensors, u64::MAX)?;
        let writer = Self { staged: StagedFile::create(path)?, layout };
        let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let begin = || -> Result<(), LogitsError> {
            let files = writer.files()?;
            files.write(MANIFEST, text.as_bytes())?;
            Ok(files.write(TOKENS, &tokens)?)
        };
        begin().map_err(|error| writer.named(error))?;
        Ok(writer)
    }

    /// The file as it grows. Errors are [`named`](Self::named) where they are handed on.
    pub fn files(&self) -> Result<ShardWriter<'_>, LogitsError> {
        Ok(ShardWriter::new(self.staged.dir(), &self.layout)?)
    }

    /// Names the path that the file will have.
    pub fn named(&self, error: LogitsError) -> LogitsError {
        match error {
            LogitsError::Checkpoint(error) => {
                error.map_file(|error| self.staged.name_target(error)).into()
            }
            other => other,
        }
    }

    /// Writes what is known of all predictions, and moves the finished file to its path.
    pub fn finish(self, rows: &[Row]) -> Result<(), LogitsError> {
        let losses: Vec<u8> = rows.iter().flat_map(|row| row.nll.to_le_bytes()).collect();
        let depths: Vec<u8> = rows.iter().flat_map(|row| row.depth.to_le_bytes()).collect();
        let tops: Vec<u8> = rows.iter().flat_map(|row| row.top.to_le_bytes()).collect();
        let end = || -> Result<(), LogitsError> {
            let files = self.files()?;
            for (name, data) in [(LOSSES, &losses), (DEPTHS, &depths), (TOPS, &tops)] {
                files.write(name, data)?;
            }
            Ok(files.finish()?)
        };
        end().map_err(|error| self.named(error))?;
        Ok(self.staged.commit(FILE)?)
    }
}

/// A file of saved logits that was opened.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    tensors: Checkpoint,
    manifest: Manifest,
    tokens: Vec<u32>,
    rows: Vec<Row>,
}

impl LogitsFile {
    pub fn open(path: &Path) -> Result<Self, LogitsError> {
        let not = |reason: String| LogitsError::NotLogits { path: path.into(), reason };
        check_input(path, u64::MAX)?;
        let tensors = Checkpoint::open_file(path).map_err(|error| match error {
            CheckpointError::Header { reason, .. } => not(reason),
            other => other.into(),
        })?;
        let (_, text) = tensors.raw(MANIFEST).map_err(|_| not("it has no manifest".into()))?;
        let text = std::str::from_utf8(text).map_err(|_| not("it is not UTF-8 text".into()))?;
        let header = Header::of(text).map_err(|error| not(in_words(&error)))?;
        if header.format != FORMAT {
            return Err(not(format!("its format is `{}`", header.format)));
        }
        if header.version != VERSION {
            return Err(LogitsError::Version { path: path.into(), version: header.version });
        }
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| not(in_words(&error)))?;
        let is_there = |spec: &TensorSpec| {
            let found = tensors.meta(&spec.name);
            found.is_some_and(|meta| meta.dtype == spec.dtype && meta.shape == spec.shape)
        };
        if manifest.windows == 0 || manifest.scored() == 0 || manifest.vocab_size == 0 {
            return Err(not("it has nothing".into()));
        }
        // Each is looked for in the header, and the first that is missing ends the loop.
        let tables = manifest.tables().into_iter();
        let windows = (0..manifest.windows).map(|index| manifest.window(index));
        let missing = tables.chain(windows).find(|spec| !is_there(spec));
        if let Some(spec) = missing {
            return Err(not(format!("`{}` is missing or has another shape", spec.name)));
        }
        let tokens = numbers(&tensors, TOKENS, u32::from_le_bytes)?;
        let rows = rows(&tensors)?;
        let in_range = |token: &u32| (*token as usize) < manifest.vocab_size;
        if !tokens.iter().all(in_range)
            || !rows.iter().all(|row| row.is_possible(manifest.vocab_size))
        {
            return Err(not("it has impossible numbers".into()));
        }
        let path = path.into();
        Ok(Self { path, tensors, manifest, tokens, rows })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tokens of all windows, one after the other.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The predictions of a window, and the steps of its logits.
    ///
    /// # Panics
    ///
    /// Panics if there is no such window.
    pub fn window(&self, index: usize) -> (&[Row], &[u8]) {
        let (_, steps) = self.tensors.raw(&window_name(index)).expect("it was there when opened");
        let scored = self.manifest.scored();
        (&self.rows[index * scored..][..scored], steps)
    }

    /// Releases the memory of a window that was read.
    pub fn release_window(&self, index: usize) {
        self.tensors.release(&window_name(index));
    }

    /// Checks that nobody has written to the file since it was opened.
    pub fn check_unchanged(&self) -> Result<(), LogitsError> {
        Ok(self.tensors.check_unchanged()?)
    }
}

/// What is known of all predictions.
fn rows(tensors: &Checkpoint) -> Result<Vec<Row>, CheckpointError> {
    let losses = numbers(tensors, LOSSES, f64::from_le_bytes)?;
    let depths = numbers(tensors, DEPTHS, f32::from_le_bytes)?;
    let tops = numbers(tensors, TOPS, u32::from_le_bytes)?;
    let rows = losses.into_iter().zip(depths).zip(tops);
    Ok(rows.map(|((nll, depth), top)| Row { nll, top, depth }).collect())
}

fn numbers<T, const N: usize>(
    tensors: &Checkpoint,
    name: &str,
    number: fn([u8; N]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    let (_, bytes) = tensors.raw(name)?;
    let (entries, _) = bytes.as_chunks::<N>();
    Ok(entries.iter().map(|entry| number(*entry)).collect())
}
