//! How a model is calibrated, and what that measures.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::error::CalibrationError;
use super::labels::GradientLabels;

/// How a language model is calibrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// Number of tokens in a window of the text; at least 2.
    pub seq_len: usize,
    /// Maximum number of windows whose inputs are measured; `None` for all windows of the text.
    pub windows: Option<usize>,
    /// Maximum number of windows whose gradients are also measured; 0 for none.
    pub gradient_windows: usize,
    /// Which tokens the loss takes for the right ones where its gradients are measured.
    pub gradient_labels: GradientLabels,
    /// The seed with which the model's own labels are drawn: each window has a stream of random
    /// numbers of its own.
    pub label_seed: u64,
    /// Maximum number of windows on which every matrix is probed, which takes a pass through part
    /// of the model per matrix and window; 0 for none. Without gradients nothing is probed.
    pub probe_windows: usize,
    /// Whether to accept fewer tokens than a matrix has inputs, which leaves its second moment
    /// rank-deficient. Second moments are shrunk where they are used.
    pub allow_deficient: bool,
    /// Whether a process that stops leaves what it has measured in a hidden directory beside the file, so
    /// that the same call continues from there. The hidden states of all windows are then also in files,
    /// and those of windows with gradients at every block only there. Without a checkpoint, which says
    /// whether the model is the same, nothing is left.
    pub resumable: bool,
    /// Number of windows computed at once, each by its own worker; see
    /// [`PerplexityOptions`](crate::eval::PerplexityOptions).
    pub at_once: NonZeroUsize,
}

impl Default for CalibrationOptions {
    /// 64 windows of 512 tokens, with gradients for 16 of them with the labels of the text, one window
    /// at a time.
    fn default() -> Self {
        Self {
            seq_len: 512,
            windows: Some(64),
            gradient_windows: 16,
            gradient_labels: GradientLabels::Text,
            label_seed: 0,
            probe_windows: 0,
            allow_deficient: false,
            resumable: false,
            at_once: NonZeroUsize::MIN,
        }
    }
}

impl CalibrationOptions {
    /// Checks what needs neither the model nor the text.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::SeqLen`], [`CalibrationError::NoWindows`].
    pub fn check(&self) -> Result<(), CalibrationError> {
        if self.seq_len < 2 {
            return Err(CalibrationError::SeqLen(self.seq_len));
        }
        if self.windows == Some(0) {
            return Err(CalibrationError::NoWindows);
        }
        Ok(())
    }
}

/// How much text a calibration was measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationAmount {
    /// Number of windows whose inputs were measured.
    pub windows: usize,
    /// Number of windows whose gradients were measured.
    pub gradient_windows: usize,
    /// Number of tokens in a window.
    pub seq_len: usize,
}

/// What a calibration measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct CalibrationSummary {
    /// Number of matrices.
    pub matrices: usize,
    /// Number of windows whose inputs are measured.
    pub windows: usize,
    /// Number of windows whose gradients are measured.
    pub gradient_windows: usize,
    /// Number of tokens in a window.
    pub seq_len: usize,
    /// Number of experts that saw fewer tokens than twice the inputs of one of their matrices. The
    /// second moments of these are mixed with those that all tokens would give; see [`calibrate`](super::calibrate).
    /// Known when it is done: 0 in a preview.
    pub mixed_experts: usize,
    /// Number of outputs of the matrix that has the most. Gradients of fewer tokens say nothing about
    /// some directions, which only shrinkage makes up for.
    pub most_outputs: usize,
    /// Number of second moments that few long rows decide: they are as certain as those of fewer rows of
    /// one length than a row has entries. Known when it is done: 0 in a preview.
    pub uneven: usize,
}
