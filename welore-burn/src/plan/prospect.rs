//! What a plan is expected to do to the model, before it is carried out.

use std::fmt::{self, Display, Formatter};

use super::matrix_plan::MatrixPlan;
use super::plan_file::{PlanTotals, RankPlan};
use crate::spectrum::{MatrixSpectrum, SpectrumUnit};

// Measured on SmolLM2-135M, with perplexity on WikiText-2's test text. Calibrated on its own text,
// 90%, 80% and 70% of the parameters have an expected loss of 0.041, 0.156 and 0.354, and perplexity
// rises by a factor of 1.05, 1.27 and 1.90. Plans from the weights alone that cut 0.03%, 0.6%, 0.8%,
// 1.8%, 3.9% and 9.0% of the squared norm, if the parameters that are not planned count as kept,
// raise it by a factor of 1.00, 1.07, 2.0, 2.1, 10.9 and 640.

/// Rise of the loss, in nats per token, from which a plan is said to make the model worse.
const NOTICEABLE_LOSS: f64 = 0.3;

/// Rise of the loss, in nats per token, from which a plan is said to ruin the model.
const RUINOUS_LOSS: f64 = 1.0;

/// Share of the squared norm of the weights from which a cut made without a calibration is said to
/// make the model worse.
const NOTICEABLE_CUT: f64 = 0.007;

/// Share of the squared norm of the weights from which a cut made without a calibration is said to
/// ruin the model.
const RUINOUS_CUT: f64 = 0.03;

/// What a plan is expected to do to a model that is not tuned afterwards, if it is worth a warning.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Prospect {
    /// The model becomes noticeably worse.
    Worse {
        /// The factor by which perplexity is expected to rise.
        perplexity: f64,
    },
    /// The model becomes useless, by an estimate in units of the loss.
    Ruined {
        /// The factor by which perplexity is expected to rise.
        perplexity: f64,
    },
    /// The model becomes noticeably worse, because some is cut without a calibration.
    WorseUncalibrated {
        /// Share of the squared Frobenius norm of all planned matrices that is cut.
        cut: f64,
    },
    /// The model becomes useless, because much is cut without a calibration.
    RuinedUncalibrated {
        /// Share of the squared Frobenius norm of all planned matrices that is cut.
        cut: f64,
    },
}

impl Display for Prospect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (does, cut) = match *self {
            Self::Worse { perplexity } => {
                return write!(
                    f,
                    "is expected to raise perplexity by a factor of {perplexity:.2} or more"
                );
            }
            Self::Ruined { perplexity } => {
                let factor = perplexity.min(1000.0);
                return write!(
                    f,
                    "is expected to ruin the model: perplexity rises by a factor of {factor:.1} \
                     or more"
                );
            }
            Self::WorseUncalibrated { cut } => ("make the model noticeably worse", cut),
            Self::RuinedUncalibrated { cut } => ("ruin the model", cut),
        };
        let percent = 100.0 * cut;
        write!(
            f,
            "is expected to {does}: it cuts {percent:.1}% of the squared norm of the planned \
             matrices, without a calibration"
        )
    }
}

impl RankPlan {
    /// What the plan is expected to do to the model, if that is worth a warning. `None` also if
    /// nothing is known about it, as for plans made by hand.
    pub fn prospect(&self) -> Option<Prospect> {
        if let Some(loss) = self.totals.expected_loss {
            let perplexity = loss.exp();
            return match loss {
                loss if loss > RUINOUS_LOSS => Some(Prospect::Ruined { perplexity }),
                loss if loss > NOTICEABLE_LOSS => Some(Prospect::Worse { perplexity }),
                _ => None,
            };
        }
        let cut = self.totals.energy_lost?;
        // A small part of a model may lose more.
        let planned = self.matrices.iter().fold(0.0, |sum, m| sum + m.parameters_before as f64);
        match cut * (planned / self.totals.parameters_before.max(1) as f64).min(1.0) {
            of_all if of_all > RUINOUS_CUT => Some(Prospect::RuinedUncalibrated { cut }),
            of_all if of_all > NOTICEABLE_CUT => Some(Prospect::WorseUncalibrated { cut }),
            _ => None,
        }
    }
}

impl PlanTotals {
    /// The totals with estimates from the spectra that the matrices were planned for, in the same
    /// order.
    pub(super) fn estimated(
        self,
        spectra: &[MatrixSpectrum],
        unit: SpectrumUnit,
        matrices: &[MatrixPlan],
    ) -> Self {
        // From the smallest up, so that small tails are accurate.
        let squares = |values: &[f64]| values.iter().rev().fold(0.0_f64, |sum, s| sum + s * s);
        let pairs = spectra.iter().zip(matrices).filter(|(_, matrix)| matrix.is_low_rank());
        let cut = pairs.fold(0.0_f64, |sum, (spectrum, matrix)| {
            sum + squares(spectrum.singular_values.get(matrix.rank..).unwrap_or_default())
        });
        let (expected_loss, energy_lost) = match unit {
            SpectrumUnit::Weights => {
                let all = spectra.iter().fold(0.0_f64, |sum, m| sum + squares(&m.singular_values));
                (None, Some(cut / all))
            }
            SpectrumUnit::Inputs => (None, None),
            SpectrumUnit::Loss => (Some(0.5 * cut), None),
        };
        Self { expected_loss, energy_lost, ..self }.with_possible_estimates()
    }

    /// The totals with the estimates that were stated for the same ranks. Those for other ranks,
    /// which a user may have edited, say nothing about these.
    pub(super) fn keeping_estimates_of(self, stated: &Self) -> Self {
        let is_same = (self.lrcs, self.parameters_after) == (stated.lrcs, stated.parameters_after);
        match is_same {
            true => {
                let &Self { expected_loss, stored_loss, energy_lost, .. } = stated;
                Self { expected_loss, stored_loss, energy_lost, ..self }.with_possible_estimates()
            }
            false => self,
        }
    }

    /// Without estimates that cannot be, of huge weights and of files.
    fn with_possible_estimates(self) -> Self {
        let possible = |value: Option<f64>, most: f64| value.filter(|v| (0.0..=most).contains(v));
        Self {
            expected_loss: possible(self.expected_loss, f64::MAX),
            stored_loss: possible(self.stored_loss, f64::MAX),
            energy_lost: possible(self.energy_lost, 1.0),
            ..self
        }
    }
}
