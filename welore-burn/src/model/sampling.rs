use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::words::number;

/// Chooses the next token from logits: greedily at temperature 0, otherwise by seeded sampling
/// from the `top_k` most likely tokens, cut to the fewest that have `top_p` of their probability.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    /// A fixed algorithm, so that a seed means the same in every version.
    random: ChaCha12Rng,
}

/// A sampling option out of range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// Negative or not finite.
    #[error("temperature {} is not a finite number of at least 0", number(*.0))]
    Temperature(f64),
    /// Zero.
    #[error("top_k must be at least 1")]
    TopK,
    /// Not a share greater than 0.
    #[error("top_p {} is not in (0, 1]", number(*.0))]
    TopP(f64),
}

impl Sampler {
    /// Always chooses the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, random: ChaCha12Rng::seed_from_u64(0) }
    }

    /// Samples with a seed; the same seed gives the same tokens.
    ///
    /// # Errors
    ///
    /// [`SamplerError`] for an option out of range.
    pub fn new(
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
        seed: u64,
    ) -> Result<Self, SamplerError> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(SamplerError::Temperature(temperature));
        }
        if top_k == Some(0) {
            return Err(SamplerError::TopK);
        }
        if let Some(top_p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(SamplerError::TopP(top_p));
        }
        let random = ChaCha12Rng::seed_from_u64(seed);
        Ok(Self { temperature, top_k, top_p, random })
    }

    /// The next token. Ties go to the smaller id.
    ///
    /// # Panics
    ///
    /// Panics if `logits` is empty.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if self.temperature == 0.0 {
            return *order.iter().min_by(|a, b| by_logit(a, b)).expect("there are logits") as u32;
        }
        order.sort_by(by_logit);
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let largest = f64::from(logits[order[0]]);
        let weights: Vec<f64> = order
            .iter()
            .map(|i| ((f64::from(logits[*i]) - largest) / self.temperature).exp())
            .collect();
        let kept = self.nucleus(&weights);
        let mut left = self.random.random::<f64>() * weights[..kept].iter().sum::<f64>();
        for (token, weight) in order[..kept].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return *token as u32;
            }
        }
        // Rounding can leave a small remainder.
        order[kept - 1] as u32
    }

    /// How many of the sorted weights are needed to reach `top_p` of their sum; at least one.
    fn nucleus(&self, weights: &[f64]) -> usize {
        let Some(top_p) = self.top_p else { return weights.len() };
        let wanted = top_p * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let before = weights.iter().take_while(|weight| {
            let more = sum < wanted;
            sum += *weight;
            more
        });
        before.count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 1.0, 3.0, -2.0];

    fn histogram(mut sampler: Sampler, draws: usize) -> [usize; 5] {
        let mut counts = [0; 5];
        for _ in 0..draws {
            counts[sampler.next(&LOGITS) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampler::greedy().next(&LOGITS), 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let draws = 20_000;
        let counts = histogram(Sampler::new(1.0, None, None, 7).unwrap(), draws);
        let total: f64 = LOGITS.iter().map(|x| f64::from(*x).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let p = f64::from(logit).exp() / total;
            // Five standard deviations of a binomial.
            let slack = 5.0 * (p * (1.0 - p) / draws as f64).sqrt();
            assert!((*count as f64 / draws as f64 - p).abs() < slack, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let top_k = histogram(Sampler::new(1.0, Some(2), None, 1).unwrap(), 500);
        assert_eq!((top_k[0], top_k[2], top_k[4]), (0, 0, 0));
        // Tokens 1 and 3 have 0.46 each, so the first one alone reaches 0.4.
        let top_p = histogram(Sampler::new(1.0, None, Some(0.4), 1).unwrap(), 500);
        assert_eq!(top_p, [0, 500, 0, 0, 0]);
        let both = histogram(Sampler::new(1.0, None, Some(0.9), 1).unwrap(), 500);
        assert_eq!((both[0], both[2], both[4]), (0, 0, 0));
    }

    #[test]
    fn same_seed_same_tokens() {
        let draw = |seed| {
            let mut sampler = Sampler::new(1.5, None, None, seed).unwrap();
            (0..50).map(|_| sampler.next(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        // In every version.
        assert_eq!(draw(3)[..16], [1, 1, 1, 3, 1, 1, 1, 3, 3, 0, 3, 3, 0, 2, 1, 3]);
        assert_eq!(draw(0)[..16], [3, 3, 1, 3, 1, 3, 1, 3, 3, 0, 4, 1, 1, 0, 1, 3]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        assert_eq!(Sampler::new(-1.0, None, None, 0).unwrap_err(), SamplerError::Temperature(-1.0));
        assert_eq!(Sampler::new(1.0, Some(0), None, 0).unwrap_err(), SamplerError::TopK);
        assert_eq!(Sampler::new(1.0, None, Some(1.5), 0).unwrap_err(), SamplerError::TopP(1.5));
        assert!(Sampler::new(f64::NAN, None, None, 0).is_err());
    }
}
