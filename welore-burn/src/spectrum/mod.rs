//! Singular values of every selected matrix, from a live module or from checkpoint files.
//!
//! Reads a few matrices at a time and decides nothing; the [`plan`](crate::plan) room decides.

mod cache;
mod cost;
mod measure;
mod spectra;

pub use crate::checkpoint::{PROJECTIONS, PatternError, Selection};

pub(crate) use cost::{Cost, DECOMPOSITION};
pub(crate) use measure::to_matrix;
pub use measure::{MeasureSettings, SpectrumError, measure_checkpoint, measure_module};
pub use spectra::{MatrixSpectrum, ModelSize, Spectra, SpectraError};
