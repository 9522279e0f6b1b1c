use std::sync::Arc;

use super::roots::{Key, Roots};
use super::spectra::SpectrumUnit;
use crate::calibrate::{Calibration, CalibrationError, is_token_matrix};
use crate::linalg::{Cost, Root, SecondMoment, Shrink, Shrinkage, Weighting};
use crate::modules::MatrixName;
use crate::named::named;

/// The norm in which errors of matrices are measured, and in which their factors are optimal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// The norm of the weights: the truncated singular value decomposition, as in the paper.
    #[default]
    Svd,
    /// The error of the outputs on the inputs of a calibration (SVD-LLM, arXiv 2403.07378).
    Whitened,
    /// The same, weighted by the gradients of the outputs: errors in units of the loss.
    TwoSided,
}

named!(Method {
    Svd => "svd", "the truncated singular value decomposition of the weights, as in the paper";
    Whitened => "whitened", "the smallest error on the inputs of a calibration";
    TwoSided => "two-sided", "the smallest error on the inputs of a calibration, weighted by its gradients";
});

impl Method {
    /// The unit of singular values in this norm.
    pub fn unit(self) -> SpectrumUnit {
        match self {
            Self::Svd => SpectrumUnit::Weights,
            Self::Whitened => SpectrumUnit::Inputs,
            Self::TwoSided => SpectrumUnit::Loss,
        }
    }

    /// The method whose singular values have this unit.
    pub fn of_unit(unit: SpectrumUnit) -> Self {
        match unit {
            SpectrumUnit::Weights => Self::Svd,
            SpectrumUnit::Inputs => Self::Whitened,
            SpectrumUnit::Loss => Self::TwoSided,
        }
    }
}

/// A norm for every matrix of a model. Clones share the roots of second moments that have been
/// computed.
#[derive(Debug, Clone)]
pub struct Norms<'a> {
    calibration: Option<&'a Calibration>,
    method: Method,
    shrink: Shrinkage,
    /// Whether the head of the model is its embedding.
    is_tied: bool,
    roots: Arc<Roots>,
}

impl Default for Norms<'_> {
    /// The norm of the weights.
    fn default() -> Self {
        Self::plain()
    }
}

impl<'a> Norms<'a> {
    /// The norm of the weights.
    pub fn plain() -> Self {
        let (calibration, method, shrink) = (None, Method::Svd, Shrinkage::default());
        Self { calibration, method, shrink, is_tied: false, roots: Arc::default() }
    }

    /// The norms of a calibration.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NoGradients`] or [`CalibrationError::ImatrixGradients`] if the method needs
    /// gradients and there are none; [`CalibrationError::NoSpread`] if second moments are to be shrunk by
    /// the data, and it does not say how much its tokens differ.
    pub fn new(
        calibration: &'a Calibration,
        method: Method,
        shrink: Shrinkage,
    ) -> Result<Self, CalibrationError> {
        if method == Method::TwoSided && !calibration.has_gradients() {
            return Err(calibration.without_gradients());
        }
        let by_data = match method {
            Method::Svd => false,
            Method::Whitened => shrink.input == Shrink::Data,
            Method::TwoSided => [shrink.input, shrink.output].contains(&Shrink::Data),
        };
        if by_data && !calibration.knows_spread() {
            return Err(CalibrationError::NoSpread);
        }
        let calibration = (method != Method::Svd).then_some(calibration);
        Ok(Self { calibration, method, shrink, is_tied: false, roots: Arc::default() })
    }

    /// Keeps at most this many bytes of roots that are not in use, and a few recent ones.
    pub fn keeping(mut self, bytes: u64) -> Self {
        self.roots = Arc::new(Roots::keeping(bytes));
        self
    }

    /// For a model whose head is its embedding, or has weights of its own.
    pub fn for_tied(mut self, is_tied: bool) -> Self {
        self.is_tied = is_tied;
        self
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// How second moments are shrunk.
    pub fn shrink(&self) -> Shrinkage {
        self.shrink
    }

    /// The calibration, unless the norm is that of the weights.
    pub fn calibration(&self) -> Option<&'a Calibration> {
        self.calibration
    }

    /// The norm of a matrix. That of embedding and head is the one of their rows; it is the plain norm
    /// if the calibration knows nothing about them.
    ///
    /// # Errors
    ///
    /// [`CalibrationError`].
    pub fn of(&self, name: &MatrixName) -> Result<Weighting, CalibrationError> {
        let Some(calibration) = self.calibration else { return Ok(Weighting::plain()) };
        let tensor = name.weight();
        if is_token_matrix(&tensor) && !calibration.knows(name) {
            let Some(moment) = calibration.token_rows(&tensor, self.is_tied)? else {
                return Ok(Weighting::plain());
            };
            let shrink = match moment.mean_fourth() {
                Some(_) => self.shrink.input,
                // Sums of two second moments do not say it.
                None if self.shrink.input == Shrink::Data => Shrinkage::default().input,
                None => self.shrink.input,
            };
            let root = self.root(Key::Rows(name.clone()), name, shrink, || Ok(moment))?;
            return Ok(Weighting::new(Some(root), None));
        }
        let shared = calibration.inputs_of(name)?;
        let input = self.root(Key::Inputs(shared.clone()), name, self.shrink.input, || {
            Ok(calibration.inputs(shared)?.into_owned())
        })?;
        Ok(Weighting::new(Some(input), self.output_root(name)?))
    }

    /// The root of the second moment of the output gradients of a matrix, if the method uses them.
    ///
    /// # Errors
    ///
    /// [`CalibrationError`].
    pub(crate) fn output_root(
        &self,
        name: &MatrixName,
    ) -> Result<Option<Arc<Root>>, CalibrationError> {
        let (Some(calibration), Method::TwoSided) = (self.calibration, self.method) else {
            return Ok(None);
        };
        let root = self.root(Key::Outputs(name.clone()), name, self.shrink.output, || {
            Ok(calibration.outputs(name)?.into_owned())
        });
        root.map(Some)
    }

    fn root(
        &self,
        key: Key,
        name: &MatrixName,
        shrink: Shrink,
        moment: impl FnOnce() -> Result<SecondMoment, CalibrationError>,
    ) -> Result<Arc<Root>, CalibrationError> {
        let root = self.roots.get(key, || {
            let failed = |source| CalibrationError::Linalg { name: name.clone(), source };
            moment()?.root(shrink).map_err(failed)
        });
        root.map_err(CalibrationError::Shared)
    }

    /// Whether half of a squared error of a matrix in its norm is a rise of the loss in nats per token.
    pub(crate) fn is_of_loss(&self, name: &MatrixName) -> bool {
        self.method == Method::TwoSided && !is_token_matrix(&name.weight())
    }

    /// The cost of computing the norm of a matrix of this shape, without the decomposition.
    pub(crate) fn cost(&self, name: &MatrixName, shape: [usize; 2]) -> Cost {
        match self.method {
            Method::TwoSided if is_token_matrix(&name.weight()) => Cost::of_root(shape[1]),
            Method::Svd => Cost::default(),
            // A diagonal costs next to nothing.
            Method::Whitened if self.calibration.is_some_and(Calibration::is_diagonal) => {
                Cost::default()
            }
            Method::Whitened => Cost::of_root(shape[1]),
            Method::TwoSided => Cost::of_root(shape[1]) + Cost::of_root(shape[0]),
        }
    }

    /// Identifies these norms in caches and journals; `None` for the norm of the weights.
    pub fn identity(&self) -> Option<String> {
        let digest = self.calibration?.digest();
        let Shrinkage { input, output } = self.shrink;
        // In the mean that shares are of, no entry counts as more than ten medians.
        Some(format!("{:?} {input} {output} of 10 medians {digest}", self.method))
    }
}
