//! The tokens that the loss takes for the right ones where its gradients are measured.

use burn::tensor::Tensor;
use rand::Rng;

use super::draw::{drawn, stream};
use crate::named::named;

/// Which tokens the loss takes for the right ones where its gradients are measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GradientLabels {
    /// Those of the text. The second moments are those of the empirical Fisher information.
    #[default]
    Text,
    /// One for each position, drawn from what the model expects there. The second moments are those
    /// of the Fisher information itself.
    Model,
}

named!(GradientLabels {
    Text => "text", "the tokens that follow in the text";
    Model => "model", "tokens drawn from what the model expects there, as in the Fisher information";
});

/// Streams of random numbers from here on are for labels. Those before are for samples of the
/// model's own text: with the same numbers, its labels would be its tokens.
const FIRST_STREAM: u64 = 1 << 63;

/// Labels of the positions of window number `window`, drawn from their logits
/// `[positions, vocab_size]`. Where those are not finite, the loss is not either, whatever the
/// labels; then they are those of the text.
pub(super) fn labels_of_model(
    logits: Tensor<2>,
    of_text: &[u32],
    seed: u64,
    window: usize,
) -> Vec<u32> {
    let mut random = stream(seed, FIRST_STREAM | window as u64);
    let places: Vec<f64> = of_text.iter().map(|_| random.random()).collect();
    drawn(logits, &places, 1.0).unwrap_or_else(|| of_text.to_vec())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, TensorData};

    use super::*;
    use crate::model::cross_entropy;

    fn logits(rows: &[f32], vocab_size: usize) -> Tensor<2> {
        let shape = [rows.len() / vocab_size, vocab_size];
        Tensor::from_data(TensorData::new(rows.to_vec(), shape), &Device::default())
    }

    /// The gradients of the losses of rows with these labels.
    fn gradients(logits: &Tensor<2>, labels: &[u32]) -> Vec<f32> {
        let labels: Vec<i32> = labels.iter().map(|label| *label as i32).collect();
        let labels = TensorData::new(labels.clone(), [labels.len(), 1]);
        let labels = Tensor::<2, Int>::from_data(labels, &Device::default());
        let (_, gradient) = cross_entropy(logits.clone(), labels, 1.0);
        gradient.into_data().try_into_vec::<f32>().unwrap()
    }

    #[test]
    fn a_model_that_is_certain_of_the_text_has_the_labels_of_the_text() {
        let text = [2, 0, 3];
        let rows = [
            [-200.0, -200.0, 0.0, -200.0],
            [5.0, -900.0, -900.0, f32::NEG_INFINITY],
            [f32::MIN, f32::MIN, f32::MIN, 1.0],
        ];
        let certain = logits(rows.as_flattened(), 4);
        for seed in 0..20 {
            let labels = labels_of_model(certain.clone(), &text, seed, 0);
            assert_eq!(labels, text, "so the gradients are the same, too");
        }
        let broken = logits(&[0.0, f32::NAN, 1.0, 0.0], 2);
        assert_eq!(labels_of_model(broken, &[1, 0], 0, 0), [1, 0]);
    }

    #[test]
    fn seeds_and_windows_have_labels_of_their_own() {
        let even = logits(&[0.0; 64 * 8], 8);
        let text = [0; 64];
        let drawn = |seed, window| labels_of_model(even.clone(), &text, seed, window);
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2), drawn(2, 2));
        assert_ne!(drawn(1, 2), drawn(1, 3));
        // Sample 2 of the model's own text has other numbers.
        let mut random = stream(1, 2);
        let places: Vec<f64> = text.iter().map(|_| random.random()).collect();
        assert_ne!(super::drawn(even.clone(), &places, 1.0).unwrap(), drawn(1, 2));
    }

    #[test]
    fn the_mean_second_moment_over_many_draws_is_the_fisher_information() {
        const SIZE: usize = 4;
        const DRAWS: usize = 40_000;
        let row = [0.5f32, -1.0, 1.5, 0.0];
        let weights = row.map(|x| f64::from(x).exp());
        let total: f64 = weights.iter().sum();
        let p = weights.map(|weight| weight / total);
        let repeated = logits(&row.repeat(DRAWS), SIZE);
        let labels = labels_of_model(repeated.clone(), &[0; DRAWS], 7, 0);
        let gradients = gradients(&repeated, &labels);
        for i in 0..SIZE {
            for j in 0..SIZE {
                let products = gradients.chunks(SIZE).map(|g| f64::from(g[i]) * f64::from(g[j]));
                let mean = products.sum::<f64>() / DRAWS as f64;
                let exact = if i == j { p[i] - p[i] * p[i] } else { -p[i] * p[j] };
                // Products are within ±1, so five standard deviations are at most this.
                let slack = 5.0 / (DRAWS as f64).sqrt();
                assert!((mean - exact).abs() < slack, "{i} {j}: {mean} for {exact}");
            }
        }
    }
}
