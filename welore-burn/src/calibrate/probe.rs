//! What leaving a part of one matrix out really costs, to set estimates straight.

use std::ops::ControlFlow;

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};

use super::collector::Watch;
use super::error::CalibrationError;
use super::file::CalibrationFile;
use super::pass::{Layer, as_tensor};
use crate::language::LanguageModel;
use crate::linalg::{BalancedFactors, Shrinkage, Weighting};
use crate::linear::{FactorParams, Rest, attach_factors};
use crate::progress::Progress;
use crate::workers::Workers;

/// A probed matrix keeps about this share of its degrees of freedom.
const KEEP: f64 = 0.7;

/// Every so many positions of a block are compared: neighbours tell much the same, and the head
/// is a large part of the work.
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

/// Blocks of text on their way through the dense model.
struct Text<M: LanguageModel> {
    pass: M::Pass,
    /// What every block of the model sees.
    hidden: Vec<Vec<Tensor<3>>>,
    /// Log-probabilities that the dense model comes to, `[positions, vocab_size]`.
    dense: Vec<Tensor<2>>,
}

impl<M: LanguageModel> Probing<'_, M> {
    /// For every matrix, the divergence from the dense model when it alone is factored, over what
    /// its singular values in the norm of inputs and gradients promise.
    pub fn run(
        &self,
        text: &[Vec<u32>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<f64>, CalibrationError> {
        let text = self.read(text);
        let matrices: Vec<(usize, &String)> = self
            .layers
            .iter()
            .enumerate()
            .flat_map(|(index, layer)| layer.iter().map(move |(name, _)| (index, name)))
            .collect();
        progress.begin("probing", matrices.len());
        let mut probes = vec![f64::NAN; matrices.len()];
        let mut outcome = Ok(());
        self.workers.spread(
            matrices.len(),
            |place| self.probe(matrices[place].0, matrices[place].1, &text),
            |place, result| {
                let noted = result.and_then(|probe| {
                    probes[place] = probe;
                    Ok(progress.step(matrices[place].1)?)
                });
                if outcome.is_ok() {
                    outcome = noted;
                }
                match outcome {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            },
        );
        outcome.map(|()| probes)
    }

    fn read(&self, text: &[Vec<u32>]) -> Text<M> {
        let begin = |tokens: &Vec<u32>| self.model.begin(as_tensor(tokens, self.device));
        let (_, pass) = begin(&text[0]);
        let mut x: Vec<Tensor<3>> = text.iter().map(|tokens| begin(tokens).0).collect();
        let mut hidden = Vec::new();
        for index in 0..self.model.blocks() {
            hidden.push(x.clone());
            x = x.into_iter().map(|x| self.model.block(index, x, &pass)).collect();
        }
        let dense = x.into_iter().map(|x| log_probabilities(self.model, x)).collect();
        Text { pass, hidden, dense }
    }

    fn probe(&self, layer: usize, name: &str, text: &Text<M>) -> Result<f64, CalibrationError> {
        let failed = |source| CalibrationError::Linalg { name: name.into(), source };
        let (inputs, outputs) = (self.moments.inputs(name)?, self.moments.outputs(name)?);
        let norm = Weighting::new(&inputs, Some(&outputs), Shrinkage::default()).map_err(failed)?;
        let (id, matrix) = self.watch.matrix(name).map_err(failed)?;
        let rank = rank_that_keeps(KEEP, matrix.rows(), matrix.cols());
        let weighted = norm.apply(&matrix).map_err(failed)?;
        let energy: f64 = weighted.data().iter().map(|x| x * x).sum();
        let factors = norm.factors(&matrix, rank).map_err(failed)?;
        let promised = factors.relative_error.powi(2) * energy;
        let factored = attach_factors(
            self.model.clone(),
            |path, _| {
                let here = path.strip_suffix(".weight")? == name;
                here.then(|| self.parameters(&factors, matrix.rows(), matrix.cols(), id))
            },
            Rest::Keep,
        );
        let mut divergence = 0.0;
        for (block, dense) in text.dense.iter().enumerate() {
            let mut x = text.hidden[layer][block].clone();
            for index in layer..self.model.blocks() {
                x = factored.block(index, x, &text.pass);
            }
            let gap = dense.clone() - log_probabilities(&factored, x);
            let per_position = (dense.clone().exp() * gap).sum_dim(1).mean();
            divergence += per_position.into_scalar::<f64>() / text.dense.len() as f64;
        }
        // A matrix that loses nothing has nothing to be set straight.
        Ok(if promised > 0.0 { divergence.max(0.0) / promised } else { 1.0 })
    }

    fn parameters(
        &self,
        factors: &BalancedFactors,
        rows: usize,
        cols: usize,
        id: burn::module::ParamId,
    ) -> FactorParams {
        let rank = factors.rank;
        let matrix = |values: &[f64], shape: [usize; 2]| {
            let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
            Tensor::<2>::from_data(TensorData::new(values, shape), self.device).transpose()
        };
        FactorParams {
            down: Param::initialized(id, matrix(&factors.right, [rank, cols])),
            up: Param::from_tensor(matrix(&factors.left, [rows, rank])),
            order: None,
        }
    }
}

fn log_probabilities<M: LanguageModel>(model: &M, x: Tensor<3>) -> Tensor<2> {
    let [_, positions, width] = x.dims();
    let some = positions / STRIDE * STRIDE;
    let hidden = model.end(x).narrow(1, 0, some);
    // The last of each stride has the most context.
    let hidden = hidden.reshape([some / STRIDE, STRIDE, width]).narrow(1, STRIDE - 1, 1);
    let logits = model.logits(hidden.reshape([1, some / STRIDE, width]));
    log_softmax(logits.squeeze_dim::<2>(0), 1)
}

/// The rank at which a matrix has this share of its degrees of freedom.
fn rank_that_keeps(share: f64, rows: usize, cols: usize) -> usize {
    let most = share * (rows * cols) as f64;
    let full = rows.min(cols);
    (1..=full).rev().find(|rank| (rank * (rows + cols - rank)) as f64 <= most).unwrap_or(1)
}
