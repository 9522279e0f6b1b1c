//! Singular values of every selected matrix, from a live module or from checkpoint files.
//!
//! Reads a few matrices at a time and makes no decisions: the [`plan`](crate::plan) room does.

mod cache;
mod measure;
mod norms;
mod roots;
mod spectra;

pub use measure::{
    MeasureOptions, SpectrumError, flat_spectra, measure_checkpoint, measure_module,
    selected_matrices,
};
pub(crate) use measure::{select_matrices, stored_dtype};
pub use norms::{Method, Norms};
pub use spectra::{MatrixSpectrum, ModelSize, PROBE, Spectra, SpectraError, SpectrumUnit};
