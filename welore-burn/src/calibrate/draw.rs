//! Tokens drawn from what a model expects.

use burn::tensor::{FloatDType, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;

/// A stream of the random numbers of a seed: a fixed algorithm, so that a seed means the same in
/// every version.
pub(super) fn stream(seed: u64, number: u64) -> ChaCha12Rng {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    random.set_stream(number);
    random
}

/// A token for every row of logits, `[rows, vocab_size]`, at its place in [0, 1); `None` if logits
/// are not finite.
pub(super) fn drawn(logits: Tensor<2>, places: &[f64], temperature: f64) -> Option<Vec<u32>> {
    let [_, vocab_size] = logits.dims();
    let logits = logits.cast(FloatDType::F32).into_data();
    let logits = logits.try_into_vec::<f32>().expect("it was cast");
    logits
        .par_chunks(vocab_size)
        .zip(places.par_iter())
        .map(|(logits, place)| token_at(*place, logits, temperature))
        .collect()
}

/// The token at a place in [0, 1) where all tokens lie one after the other, each as long as its
/// probability; `None` if logits are not finite. Unlike [`Sampler`](crate::model::Sampler), which
/// can cut the tail, this sorts nothing: sorting would take longer than the model.
fn token_at(place: f64, logits: &[f32], temperature: f64) -> Option<u32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // In f64, because the quotient may leave the range of f32.
    let share = |logit: &f32| (f64::from(logit - largest) / temperature) as f32;
    let shares: Vec<f32> = logits.iter().map(|logit| share(logit).exp()).collect();
    let total: f64 = shares.iter().copied().map(f64::from).sum();
    if !total.is_finite() {
        return None;
    }
    let mut left = place * total;
    let passes = |share: &f32| {
        left -= f64::from(*share);
        left < 0.0
    };
    // Rounding can leave a small remainder, which goes to the last token that is possible.
    let found = shares.iter().position(passes);
    found.or_else(|| shares.iter().rposition(|share| *share > 0.0)).map(|token| token as u32)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn tokens_are_as_frequent_as_they_are_probable() {
        let logits = [0.0, 3.0, 1.0, 3.0, -2.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights = logits.map(|logit: f32| (f64::from(logit) / temperature).exp());
            let (draws, total) = (20_000u32, weights.iter().sum::<f64>());
            let mut random = stream(5, 0);
            let mut counts = [0u32; 5];
            for _ in 0..draws {
                counts[token_at(random.random(), &logits, temperature).unwrap() as usize] += 1;
            }
            for (count, weight) in counts.iter().zip(weights) {
                let p = weight / total;
                // Five standard deviations of a binomial.
                let slack = 5.0 * (p * (1.0 - p) / f64::from(draws)).sqrt();
                assert!((f64::from(*count) / f64::from(draws) - p).abs() < slack, "{counts:?}");
            }
        }
    }

    #[test]
    fn extremes_have_a_token_and_what_is_not_finite_has_none() {
        let logits = [f32::NEG_INFINITY, 2.0, f32::MIN, f32::NEG_INFINITY];
        for place in [0.0, 0.5, 1.0 - f64::EPSILON, 1.0] {
            for temperature in [f64::MIN_POSITIVE, 1.0, f64::MAX] {
                let token = token_at(place, &logits, temperature).unwrap();
                assert!(token == 1 || token == 2, "{place} {temperature}: {token}");
            }
            assert_eq!(token_at(place, &logits, 1.0), Some(1));
        }
        for wrong in [f32::NAN, f32::INFINITY] {
            assert_eq!(token_at(0.5, &[1.0, wrong, 0.0], 1.0), None);
        }
        assert_eq!(token_at(0.5, &[f32::NEG_INFINITY; 3], 1.0), None);
    }

    #[test]
    fn streams_are_the_same_in_every_version() {
        let first = |seed, number| stream(seed, number).random::<f64>();
        assert_eq!(first(3, 1), first(3, 1));
        let all = [first(3, 0), first(3, 1), first(3, 2), first(4, 0)];
        let distinct = |a: usize| (0..a).all(|b| all[a] != all[b]);
        assert!((0..all.len()).all(distinct), "{all:?}");
        // Stream 0 is what `generate` draws from.
        assert_eq!(first(3, 0), ChaCha12Rng::seed_from_u64(3).random::<f64>());
    }
}
