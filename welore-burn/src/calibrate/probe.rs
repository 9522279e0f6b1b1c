//! Measures what factoring one matrix really costs, to correct the estimates.

use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};

use super::collector::Watch;
use super::error::CalibrationError;
use super::file::CalibrationFile;
use super::pass::Layer;
use crate::forms::{Form, Made, Rest, attach};
use crate::linalg::{Shrinkage, Weighting};
use crate::model::{LanguageModel, as_tensor};
use crate::modules::MatrixName;
use crate::progress::{Interrupted, Progress};
use crate::workers::Workers;

/// A probed matrix keeps about this share of its degrees of freedom.
const KEEP: f64 = 0.7;

/// One position in this many is compared, or one of a shorter window: neighbours carry similar
/// information, and the head is a large part of the work.
const STRIDE: usize = 4;

/// Probes every matrix of a dense model, one at a time.
pub(super) struct Probing<'a, M> {
    /// On its plain device.
    pub model: &'a M,
    pub watch: &'a Watch,
    pub layers: &'a [Layer],
    pub moments: &'a CalibrationFile,
    pub workers: &'a Workers,
    pub device: &'a Device,
}

/// Windows of text, as the dense model computes them.
struct Text<M: LanguageModel> {
    pass: M::Pass,
    /// Inputs of every block, by block and window.
    hidden: Vec<Vec<Tensor<3>>>,
    /// Log-probabilities of every window, `[positions, vocab_size]`, at the compared positions.
    dense: Vec<Tensor<2>>,
}

impl<M: LanguageModel> Probing<'_, M> {
    /// For every matrix, the divergence from the dense model when only that matrix is factored,
    /// over the squared error of its factors in the norm of inputs and gradients. NaN where nothing
    /// changes.
    pub fn run(
        &self,
        text: &[Vec<u32>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<f64>, CalibrationError> {
        let text = self.read(text, progress)?;
        let matrices: Vec<(usize, &MatrixName)> = self
            .layers
            .iter()
            .enumerate()
            .flat_map(|(index, layer)| layer.iter().map(move |matrix| (index, &matrix.name)))
            .collect();
        progress.begin("probing", matrices.len());
        progress.count_in("matrices");
        let mut probes = vec![f64::NAN; matrices.len()];
        self.workers.try_spread(
            matrices.len(),
            |place| self.probe(matrices[place].0, matrices[place].1, &text),
            |place, probe| -> Result<(), CalibrationError> {
                probes[place] = probe;
                Ok(progress.step(matrices[place].1.as_str())?)
            },
        )?;
        Ok(probes)
    }

    fn read(&self, text: &[Vec<u32>], progress: &mut dyn Progress) -> Result<Text<M>, Interrupted> {
        let begin = |tokens: &Vec<u32>| self.model.begin(as_tensor(tokens, self.device));
        let (_, pass) = begin(&text[0]);
        let mut x: Vec<Tensor<3>> = text.iter().map(|tokens| begin(tokens).0).collect();
        let mut hidden = Vec::new();
        for index in 0..self.model.blocks() {
            hidden.push(x.clone());
            for x in &mut x {
                progress.check()?;
                *x = self.model.block(index, x.clone(), &pass);
            }
        }
        let mut dense = Vec::with_capacity(x.len());
        for x in x {
            progress.check()?;
            dense.push(log_probabilities(self.model, x));
        }
        Ok(Text { pass, hidden, dense })
    }

    fn probe(
        &self,
        layer: usize,
        name: &MatrixName,
        text: &Text<M>,
    ) -> Result<f64, CalibrationError> {
        let failed = |source| CalibrationError::Linalg { name: name.clone(), source };
        // A calibration is used with any shrinkage later, so it has none of its own.
        let shrink = Shrinkage::default();
        let input = self.moments.inputs(name)?.root(shrink.input).map_err(failed)?;
        let output = self.moments.outputs(name)?.root(shrink.output).map_err(failed)?;
        let norm = Weighting::new(Some(Arc::new(input)), Some(Arc::new(output)));
        let about = |source| CalibrationError::Form { name: name.clone(), source };
        let matrix = self.watch.matrix(name).map_err(about)?;
        let form = Form::factors(rank_that_keeps(KEEP, matrix.rows(), matrix.cols()));
        let Made { parts, relative_error, size } = form.make(&matrix, &norm).map_err(about)?;
        let promised = (relative_error * size).powi(2);
        let mut parts = Some(parts);
        let factored = attach(
            self.model.clone(),
            |other| (other == name).then(|| parts.take().map(|parts| (form, parts)))?,
            Rest::Keep,
        )
        .map_err(|(_, source)| about(source))?;
        let mut divergence = 0.0;
        for (window, dense) in text.dense.iter().enumerate() {
            let mut x = text.hidden[layer][window].clone();
            for index in layer..self.model.blocks() {
                x = factored.block(index, x, &text.pass);
            }
            let gap = dense.clone() - log_probabilities(&factored, x);
            let per_position = (dense.clone().exp() * gap).sum_dim(1).mean();
            divergence += per_position.into_scalar::<f64>() / text.dense.len() as f64;
        }
        if divergence == 0.0 {
            // An expert that sees none of the text.
            return Ok(f64::NAN);
        }
        correction(divergence, promised)
            .ok_or_else(|| CalibrationError::NotFinite { what: "probes", name: name.clone() })
    }
}

/// The measured divergence over the promised one. `None` if that is not a finite number: `max`
/// would take what is not a number for a matrix that costs nothing.
fn correction(divergence: f64, promised: f64) -> Option<f64> {
    if !(divergence.is_finite() && promised.is_finite()) {
        return None;
    }
    // A matrix that loses nothing needs no correction.
    let correction = if promised > 0.0 { divergence.max(0.0) / promised } else { 1.0 };
    Some(correction).filter(|correction| correction.is_finite())
}

fn log_probabilities<M: LanguageModel>(model: &M, x: Tensor<3>) -> Tensor<2> {
    let [_, positions, width] = x.dims();
    let stride = STRIDE.min(positions);
    let compared = positions / stride;
    let hidden = model.end(x).narrow(1, 0, compared * stride);
    // The last position of each stride has the most context.
    let hidden = hidden.reshape([compared, stride, width]).narrow(1, stride - 1, 1);
    let logits = model.logits(hidden.reshape([1, compared, width]));
    log_softmax(logits.squeeze_dim::<2>(0), 1)
}

/// The largest rank at which a matrix has at most this share of its degrees of freedom.
fn rank_that_keeps(share: f64, rows: usize, cols: usize) -> usize {
    let most = share * (rows * cols) as f64;
    let full = rows.min(cols);
    (1..=full).rev().find(|rank| (rank * (rows + cols - rank)) as f64 <= most).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_not_taken_for_a_cost_of_nothing() {
        assert_eq!(correction(3.0, 2.0), Some(1.5));
        // Rounding may make a divergence negative.
        assert_eq!(correction(-1e-9, 2.0), Some(0.0));
        assert_eq!(correction(0.0, 0.0), Some(1.0));
        for (divergence, promised) in [
            (f64::NAN, 2.0),
            (f64::INFINITY, 2.0),
            (1.0, f64::NAN),
            (1.0, f64::INFINITY),
            (1e300, 1e-300),
        ] {
            assert_eq!(correction(divergence, promised), None, "{divergence} {promised}");
        }
    }
}
