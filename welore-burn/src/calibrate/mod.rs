//! What a model's matrices see and do on a text: second moments of the inputs of every matrix,
//! and of the gradients of its outputs.
//!
//! [`calibrate`] measures a language model, one of its blocks at a time, and writes a file;
//! a [`Collector`] measures them on any Burn module whose layers are
//! [`LowRankLinear`](crate::linear::LowRankLinear). A [`Calibration`] is what was measured; the
//! norms in which spectra are measured and matrices are factored
//! ([`Norms`](crate::spectrum::Norms)) are made of it.

mod calibration;
mod collector;
mod error;
mod file;
mod pass;
mod probe;

pub use calibration::Calibration;
pub use collector::{Collector, Seen};
pub(crate) use collector::{SharedInputs, Watch};
pub use error::CalibrationError;
pub use pass::{CalibrationOptions, CalibrationSummary, calibrate, preview_calibration};
