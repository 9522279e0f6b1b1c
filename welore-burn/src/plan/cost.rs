//! How fast a model is expected to be after a plan was carried out.

use serde::{Deserialize, Serialize};

use super::matrix_plan::MatrixPlan;
use crate::forms::{Form, Work};

/// The expected speed of a compressed model on a CPU, as a multiple of that of the dense model:
/// below 1 it is slower.
///
/// It is computed from the shapes and forms of a plan and from constants that were measured; see
/// `benches/layers.rs`. The matrices that are not planned count as one multiplication a parameter.
/// Attention, which compression does not change, is left out, so with long contexts the real speed
/// is nearer to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpectedSpeed {
    /// With many tokens at a time: a prompt, perplexity, calibration, training.
    pub many_tokens: f64,
    /// With one token at a time, as a single text is generated.
    pub one_token: f64,
}

/// What a product costs beside its multiplications. The unit is the time of one multiplication, in
/// a product with as many tokens, for each token.
#[derive(Debug, Clone, Copy)]
struct Overhead {
    /// For each product.
    product: f64,
    /// For each value that is written and read again.
    value: f64,
}

// Set by the speed of whole models on 2 cores: a SmolLM2-135M of which every matrix keeps 80% is
// expected at 0.88 with two factors and 0.81 with pivots, and has 0.91 and 0.83. The pair for one
// token is an estimate. `cargo bench -p welore-burn --bench layers` fits both pairs to single layers
// of a machine.
/// With 512 tokens at a time.
const MANY_TOKENS: Overhead = Overhead { product: 200_000.0, value: 55.0 };
/// With one token, where weights are read from memory for each multiplication.
const ONE_TOKEN: Overhead = Overhead { product: 20_000.0, value: 10.0 };

impl Overhead {
    /// The time for a token.
    fn time(self, work: Work) -> f64 {
        let Work { multiplications, products, moved } = work;
        multiplications as f64 + self.product * products as f64 + self.value * moved as f64
    }

    /// The time of these matrices, each in its form, with `rest` other parameters.
    fn time_of(
        self,
        matrices: &[MatrixPlan],
        form: impl Fn(&MatrixPlan) -> Form,
        rest: u64,
    ) -> f64 {
        let times = matrices.iter().map(|matrix| self.time(form(matrix).work(matrix.shape)));
        rest as f64 + times.sum::<f64>()
    }

    /// The time with the dense matrices `before` over that with those `after` in their forms; `rest`
    /// is the number of other parameters.
    fn speed(self, before: &[MatrixPlan], after: &[MatrixPlan], rest: u64) -> f64 {
        let dense = self.time_of(before, |_| Form::dense(), rest);
        dense / self.time_of(after, |matrix| matrix.form, rest)
    }
}

impl ExpectedSpeed {
    /// The speed with these matrices, of which there is at least one, in a model with `rest` other
    /// parameters.
    pub(super) fn of(matrices: &[MatrixPlan], rest: u64) -> Self {
        Self::between(matrices, matrices, rest)
    }

    /// The speed of a model with the matrices `after` in their forms, as a multiple of that with the
    /// matrices `before`, all dense: their shapes may differ. There is at least one, and `rest` other
    /// parameters.
    pub(crate) fn between(before: &[MatrixPlan], after: &[MatrixPlan], rest: u64) -> Self {
        Self {
            many_tokens: MANY_TOKENS.speed(before, after, rest),
            one_token: ONE_TOKEN.speed(before, after, rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    fn speed(form: Form, rest: u64) -> ExpectedSpeed {
        ExpectedSpeed::of(&[MatrixPlan::new("a", [1536, 576], form, Dtype::F32)], rest)
    }

    #[test]
    fn dense_matrices_are_as_fast_as_they_were() {
        for rest in [0, 1, u64::MAX] {
            let same = ExpectedSpeed { many_tokens: 1.0, one_token: 1.0 };
            assert_eq!(speed(Form::dense(), rest), same);
        }
    }

    #[test]
    fn less_rank_is_faster_and_what_is_not_planned_dampens_it() {
        for form in [Form::factors, Form::pivot] {
            let [low, high] = [8, 400].map(|rank| speed(form(rank), 0));
            assert!(low.many_tokens > high.many_tokens && low.one_token > high.one_token);
            assert!(low.many_tokens > 1.0 && high.many_tokens < 1.0, "{low:?} {high:?}");
            let dampened = speed(form(8), 1 << 24);
            assert!((1.0..low.many_tokens).contains(&dampened.many_tokens), "{dampened:?}");
        }
    }

    #[test]
    fn products_and_moved_values_have_a_cost() {
        let overhead = Overhead { product: 100.0, value: 2.0 };
        let work = Work { multiplications: 1000, products: 2, moved: 5 };
        assert_eq!(overhead.time(work), 1210.0);
    }
}
