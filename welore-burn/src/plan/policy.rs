use crate::spectrum::MatrixSpectrum;

/// Says how much each rank of a matrix is worth, so that ranks can be compared across the
/// whole model.
pub trait RankPolicy: std::fmt::Debug {
    /// Name written into the plan.
    fn name(&self) -> &'static str;

    /// One score a rank, in the order of the singular values (largest first), never
    /// increasing. Ranks are removed lowest score first, over all matrices.
    fn scores(&self, spectrum: &MatrixSpectrum) -> Vec<f64>;

    /// Whether the lowest kept score is a threshold worth reporting.
    fn has_threshold(&self) -> bool {
        true
    }
}

/// The paper's policy: min-max normalized singular values, `(s - min) / (max - min)` in each
/// matrix, cut at one threshold for the whole model (WeLore, arXiv 2407.11239, section 3.2).
///
/// A matrix whose singular values are all equal has no tail: all its ranks score 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct WeLore;

impl RankPolicy for WeLore {
    fn name(&self) -> &'static str {
        "welore"
    }

    fn scores(&self, spectrum: &MatrixSpectrum) -> Vec<f64> {
        let values = &spectrum.singular_values;
        let (max, min) = (values[0], values[values.len() - 1]);
        if max == min {
            return vec![1.0; values.len()];
        }
        values.iter().map(|s| (s - min) / (max - min)).collect()
    }
}

/// The baseline: every matrix loses the same share of its ranks, whatever its spectrum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uniform;

impl RankPolicy for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    /// The share of the ranks that is left when this one goes.
    fn scores(&self, spectrum: &MatrixSpectrum) -> Vec<f64> {
        let full = spectrum.full_rank();
        (0..full).map(|i| 1.0 - (i as f64 + 0.5) / full as f64).collect()
    }

    fn has_threshold(&self) -> bool {
        false
    }
}
