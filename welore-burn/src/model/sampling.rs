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
        let mut candidates = Candidates::new(logits);
        if self.temperature == 0.0 {
            return candidates.first() as u32;
        }
        let largest = f64::from(logits[candidates.first()]);
        let temperature = self.temperature;
        let weight = |token: usize| ((f64::from(logits[token]) - largest) / temperature).exp();
        let most = self.top_k.map_or(logits.len(), |top_k| top_k.min(logits.len()));
        let all = match most < logits.len() {
            true => candidates.sorted(most).iter().map(|token| weight(*token)).sum(),
            false => (0..logits.len()).map(weight).sum::<f64>(),
        };
        // What is drawn is among the first ones that have this much.
        let (kept, sum) = match self.top_p {
            Some(top_p) => {
                let (mut kept, mut sum) = (0, 0.0);
                while kept < most && (kept == 0 || sum < top_p * all) {
                    sum += weight(candidates.at(kept));
                    kept += 1;
                }
                (kept, sum)
            }
            None => (most, all),
        };
        let mut left = self.random.random::<f64>() * sum;
        for place in 0..kept {
            let token = candidates.at(place);
            left -= weight(token);
            if left < 0.0 {
                return token as u32;
            }
        }
        // Rounding can leave a small remainder.
        candidates.at(kept - 1) as u32
    }
}

/// Tokens by falling logits, sorted as far as they are looked at: a vocabulary is large, and what is drawn
/// is mostly among the first few.
struct Candidates<'a> {
    logits: &'a [f32],
    order: Vec<usize>,
    /// The number of those in order.
    sorted: usize,
}

impl<'a> Candidates<'a> {
    /// How many are put in order at first, and then as many again, and so on.
    const FIRST: usize = 64;

    fn new(logits: &'a [f32]) -> Self {
        Self { logits, order: Vec::new(), sorted: 0 }
    }

    /// The largest logit; the smaller id where there are several.
    fn first(&self) -> usize {
        let by_logit = |a: &usize, b: &usize| compare(self.logits, *a, *b);
        (0..self.logits.len()).min_by(by_logit).expect("there are logits")
    }

    fn at(&mut self, place: usize) -> usize {
        if place >= self.sorted {
            self.sorted((2 * self.sorted).max(Self::FIRST).max(place + 1));
        }
        self.order[place]
    }

    /// The first ones, at most as many as there are.
    fn sorted(&mut self, wanted: usize) -> &[usize] {
        let (logits, wanted) = (self.logits, wanted.min(self.logits.len()));
        if self.order.is_empty() {
            self.order = (0..logits.len()).collect();
        }
        if wanted > self.sorted {
            let rest = &mut self.order[self.sorted..];
            let more = wanted - self.sorted;
            if more < rest.len() {
                rest.select_nth_unstable_by(more, |a, b| compare(logits, *a, *b));
            }
            rest[..more].sort_unstable_by(|a, b| compare(logits, *a, *b));
            self.sorted = wanted;
        }
        &self.order[..wanted]
    }
}

/// Falling logits, and rising ids where they are the same.
fn compare(logits: &[f32], a: usize, b: usize) -> std::cmp::Ordering {
    logits[b].total_cmp(&logits[a]).then(a.cmp(&b))
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
    fn large_vocabularies_are_sampled_as_if_they_were_sorted() {
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let logits: Vec<f32> = (0..5000).map(|_| rng.random_range(-2.0f32..2.0).round()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| compare(&logits, *a, *b));
        for (top_k, top_p) in
            [(None, None), (Some(300), None), (None, Some(0.7)), (Some(999), Some(0.5))]
        {
            let kept = &order[..top_k.unwrap_or(order.len())];
            let weights: Vec<f64> =
                kept.iter().map(|token| f64::from(logits[*token]).exp()).collect();
            let all = weights.iter().sum::<f64>() * top_p.unwrap_or(1.0);
            let mut sampler = Sampler::new(1.0, top_k, top_p, 3).unwrap();
            let mut random = ChaCha12Rng::seed_from_u64(3);
            for _ in 0..20 {
                let mut sum = 0.0;
                let weights = weights.iter().take_while(|weight| {
                    let more = top_p.is_none() || sum < all;
                    sum += *weight;
                    more
                });
                let weights: Vec<f64> = weights.copied().collect();
                let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
                let drawn = weights.iter().position(|weight| {
                    left -= weight;
                    left < 0.0
                });
                assert_eq!(
                    sampler.next(&logits) as usize,
                    kept[drawn.unwrap()],
                    "{top_k:?}, {top_p:?}"
                );
            }
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        assert_eq!(Sampler::new(-1.0, None, None, 0).unwrap_err(), SamplerError::Temperature(-1.0));
        assert_eq!(Sampler::new(1.0, Some(0), None, 0).unwrap_err(), SamplerError::TopK);
        assert_eq!(Sampler::new(1.0, None, Some(1.5), 0).unwrap_err(), SamplerError::TopP(1.5));
        assert!(Sampler::new(f64::NAN, None, None, 0).is_err());
    }
}
