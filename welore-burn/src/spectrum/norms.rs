use serde::{Deserialize, Serialize};

use super::cost::Cost;
use super::spectra::SpectrumUnit;
use crate::calibrate::{Calibration, CalibrationError};
use crate::linalg::{Shrinkage, Weighting};

/// The norm in which errors of matrices are measured, and so what their factors are best in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// That of the weights: the truncated singular value decomposition, as in the paper.
    #[default]
    Svd,
    /// What inputs of a calibration see of an error (SVD-LLM, arXiv 2403.07378).
    Whitened,
    /// The same, and what the gradients of the outputs make of it: errors in units of the loss.
    TwoSided,
}

impl Method {
    /// What singular values in this norm measure.
    pub fn unit(self) -> SpectrumUnit {
        match self {
            Self::Svd => SpectrumUnit::Weights,
            Self::Whitened => SpectrumUnit::Inputs,
            Self::TwoSided => SpectrumUnit::Loss,
        }
    }
}

/// A norm for every matrix of a model.
#[derive(Debug, Clone, Copy)]
pub struct Norms<'a> {
    calibration: Option<&'a Calibration>,
    method: Method,
    shrink: Shrinkage,
}

impl Default for Norms<'_> {
    fn default() -> Self {
        Self::plain()
    }
}

impl<'a> Norms<'a> {
    /// The norm of the weights.
    pub fn plain() -> Self {
        Self { calibration: None, method: Method::Svd, shrink: Shrinkage::default() }
    }

    /// Those of a calibration.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NoGradients`] for a method that needs them.
    pub fn new(
        calibration: &'a Calibration,
        method: Method,
        shrink: Shrinkage,
    ) -> Result<Self, CalibrationError> {
        if method == Method::TwoSided && !calibration.has_gradients() {
            return Err(CalibrationError::NoGradients);
        }
        let calibration = (method != Method::Svd).then_some(calibration);
        Ok(Self { calibration, method, shrink })
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The calibration, unless the norm is that of the weights.
    pub fn calibration(&self) -> Option<&'a Calibration> {
        self.calibration
    }

    /// The norm of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError`].
    pub fn of(&self, name: &str) -> Result<Weighting, CalibrationError> {
        let Some(calibration) = self.calibration else { return Ok(Weighting::plain()) };
        let outputs = match self.method {
            Method::TwoSided => Some(calibration.outputs(name)?),
            _ => None,
        };
        Weighting::new(&*calibration.inputs(name)?, outputs.as_deref(), self.shrink)
            .map_err(|source| CalibrationError::Linalg { name: name.into(), source })
    }

    /// What making a norm takes, beside the decomposition.
    pub(crate) fn cost(&self, shape: [usize; 2]) -> Cost {
        match self.method {
            Method::Svd => Cost::default(),
            Method::Whitened => Cost::of_root(shape[1]),
            Method::TwoSided => Cost::of_root(shape[1]) + Cost::of_root(shape[0]),
        }
    }

    /// Identifies norms that are not the plain one, for caches and journals.
    pub fn identity(&self) -> Option<String> {
        let digest = self.calibration?.digest()?;
        let Shrinkage { input, output } = self.shrink;
        Some(format!("{:?} {input} {output} {digest}", self.method))
    }
}
