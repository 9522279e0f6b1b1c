//! Statistics of a model on a text: for every matrix, the second moment of its inputs and that of
//! the gradients of the loss with respect to its outputs.
//!
//! [`calibrate`] measures a language model, one block at a time, and writes a file. A [`Collector`]
//! measures any Burn module whose layers are [`LowRankLinear`](crate::linear::LowRankLinear). The
//! result is a [`Calibration`]. It defines the norms in which spectra are measured and matrices are
//! factored ([`Norms`](crate::spectrum::Norms)).
//!
//! llama.cpp's importance matrices are calibrations too, and [`write_imatrix`] makes one of a
//! calibration.
//!
//! A [`CalibrationText`] is one text or a mixture of several. One of them can be a text that the
//! model writes itself, with [`own_text`].

mod calibration;
mod collector;
mod content;
mod draw;
mod error;
mod experts;
mod file;
mod hidden;
mod imatrix;
mod labels;
mod options;
mod own_text;
mod pass;
mod probe;
mod resume;
mod room;
mod text;
mod token_rows;
mod writer;
mod writing_time;

pub use calibration::Calibration;
pub use collector::{Collector, Seen};
pub(crate) use collector::{SharedInputs, Watch};
pub use error::CalibrationError;
pub use imatrix::{ImatrixSummary, write_imatrix};
pub use labels::GradientLabels;
pub use options::{CalibrationAmount, CalibrationOptions, CalibrationSummary};
pub use own_text::{OwnText, OwnTextError, OwnTextOptions, own_text};
pub(crate) use pass::survey;
pub use pass::{calibrate, preview_calibration};
pub use room::calibration_room;
pub use text::{CalibrationText, SampledText, TextRecord, share_windows};
pub use token_rows::{is_tied, is_token_matrix};
pub use writing_time::own_text_time;
