//! Singular values of every selected matrix, from a live module or from checkpoint files.
//!
//! Reads a few matrices at a time and decides nothing; the [`plan`](crate::plan) room decides.

mod cache;
mod cost;
mod measure;
mod norms;
mod spectra;

pub use crate::checkpoint::{PROJECTIONS, PatternError, Selection};

pub(crate) use cost::{Cost, DECOMPOSITION};
pub use measure::{
    MeasureSettings, SpectrumError, measure_checkpoint, measure_module, measure_module_in,
};
pub use norms::{Method, Norms};
pub use spectra::{MatrixSpectrum, ModelSize, Spectra, SpectraError, SpectrumUnit};
