use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::config::DecoderConfig;
use super::rope::RopeScaling;
use crate::host;

/// Rotary position encoding (RoFormer, arXiv 2104.09864), mostly in Hugging Face's rotate-half form:
/// each channel in the first half of a head is rotated with its counterpart in the second half. A
/// few families rotate neighbouring channels, as Burn's `RotaryEncoding` does.
#[derive(Debug, Clone)]
pub struct Rotary {
    theta: f64,
    width: usize,
    scaling: RopeScaling,
    /// Whether neighbouring channels are rotated with each other.
    neighbours: bool,
}

/// Cosines and sines of consecutive positions, shared by all layers of one forward pass.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor<4>,
    sin: Tensor<4>,
    neighbours: bool,
}

impl Rotary {
    /// The positions of a model.
    pub fn new(config: &DecoderConfig) -> Self {
        Self::of(config, config.rope_theta, &config.rope_scaling)
    }

    /// The positions of layers with the sliding window, if they have their own.
    pub fn of_windows(config: &DecoderConfig) -> Option<Self> {
        let (theta, scaling) = config.window_rope.as_ref()?;
        Some(Self::of(config, *theta, scaling))
    }

    fn of(config: &DecoderConfig, theta: f64, scaling: &RopeScaling) -> Self {
        let width = config.rotary_width.unwrap_or(config.head_dim);
        let all = Self::with(theta, width, scaling.clone());
        Self { neighbours: config.rotary_neighbours, ..all }
    }

    /// Positions with the frequencies `theta^(-2i / width)`, scaled, where `width` channels of a
    /// head are rotated.
    pub fn with(theta: f64, width: usize, scaling: RopeScaling) -> Self {
        Self { theta, width, scaling, neighbours: false }
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub fn depends_on_length(&self) -> bool {
        self.scaling.depends_on_length()
    }

    /// Whether sequences of these two lengths have the same frequencies. If not, nothing that was
    /// computed for one of them holds for the other.
    pub fn is_same(&self, a: usize, b: usize) -> bool {
        self.scaling.is_same(a, b)
    }

    /// The table of the last `len` positions of a sequence, of which the first is number `start`;
    /// the frequencies are those of the whole sequence. Angles are computed in f64: in f32 they
    /// lose precision at long contexts.
    pub fn table(&self, start: usize, len: usize, device: &Device) -> RotaryTable {
        let frequencies = self.scaling.frequencies(self.theta, self.width, start + len);
        let (half, factor) = (frequencies.len(), self.scaling.attention_factor());
        let angles = |f: fn(f64) -> f64| {
            let at = |position: usize| {
                frequencies.iter().map(move |w| (factor * f(position as f64 * w)) as f32)
            };
            let values: Vec<f32> = (start..start + len).flat_map(at).collect();
            Tensor::from_data(TensorData::new(values, [1, len, 1, half]), device)
        };
        let neighbours = self.neighbours;
        RotaryTable { cos: angles(f64::cos), sin: angles(f64::sin), neighbours }
    }
}

impl RotaryTable {
    /// Rotates the first channels of queries or keys, as many as there are angles for, in f32 whatever
    /// their type. The other channels stay as they are.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, heads, head_dim]`
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = FloatDType::from(x.dtype());
        let x = x.cast(FloatDType::F32);
        let rotated = host::rotated(&x, &self.cos, &self.sin, self.neighbours);
        rotated.unwrap_or_else(|| self.in_parts(x)).cast(dtype)
    }

    /// The same in Burn's operations.
    fn in_parts(&self, x: Tensor<4>) -> Tensor<4> {
        let ([_, _, _, width], rotated) = (x.dims(), 2 * self.cos.dims()[3]);
        if rotated == width {
            return Tensor::cat(self.rotated(x), 3);
        }
        let mut parts = self.rotated(x.clone().narrow(3, 0, rotated));
        parts.push(x.narrow(3, rotated, width - rotated));
        Tensor::cat(parts, 3)
    }

    /// Parts of the rotated channels, in their order.
    fn rotated(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let [batch, positions, heads, width] = x.dims();
        let half = width / 2;
        let (first, second) = match self.neighbours {
            true => {
                let pairs = x.reshape([batch, positions, heads, half, 2]);
                let side = |side| pairs.clone().narrow(4, side, 1).squeeze_dim::<4>(4);
                (side(0), side(1))
            }
            false => (x.clone().narrow(3, 0, half), x.narrow(3, half, half)),
        };
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let parts = vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ];
        match self.neighbours {
            true => {
                let pairs = Tensor::stack::<5>(parts, 4);
                vec![pairs.reshape([batch, positions, heads, width])]
            }
            false => parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn one_pass_rotates_as_operations_do_and_so_do_its_gradients() {
        let plain = Device::default();
        let random = || {
            // Heads whose positions are not in order.
            let shape = [2, 3, 7, 12];
            let all = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
            all.swap_dims(1, 2)
        };
        for (width, neighbours) in [(12, false), (12, true), (8, false), (8, true)] {
            let rotary = Rotary::with(100.0, width, RopeScaling::None);
            let rotary = Rotary { neighbours, ..rotary };
            let (x, weights) = (random(), Tensor::from_inner(random()));
            let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
            let table = rotary.table(5, 7, &plain);
            let expected = table.in_parts(x.clone()).into_data();
            table.rotate(x.clone()).into_data().assert_approx_eq::<f32>(&expected, tolerance);

            let table = rotary.table(5, 7, &plain.clone().autodiff());
            let gradient = |rotate: &dyn Fn(Tensor<4>) -> Tensor<4>| {
                let leaf = Tensor::from_inner(x.clone()).require_grad();
                let found = (rotate(leaf.clone()) * weights.clone()).sum().backward();
                leaf.grad(&found).unwrap().into_data()
            };
            let expected = gradient(&|x| table.in_parts(x));
            gradient(&|x| table.rotate(x)).assert_approx_eq::<f32>(&expected, tolerance);
        }
    }
}
