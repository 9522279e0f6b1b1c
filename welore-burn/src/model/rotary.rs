use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::config::DecoderConfig;
use super::rope::RopeScaling;

/// Rotary position encoding in Hugging Face's rotate-half form: each channel in the first half of
/// a head is rotated with its counterpart in the second half (RoFormer, arXiv 2104.09864).
///
/// Burn's `RotaryEncoding` follows the other convention: it rotates neighbouring channels.
#[derive(Debug, Clone)]
pub struct Rotary {
    theta: f64,
    width: usize,
    scaling: RopeScaling,
}

/// Cosines and sines of consecutive positions, shared by all layers of one forward pass.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// The positions of a model.
    pub fn new(config: &DecoderConfig) -> Self {
        Self::with(config.rope_theta, config.head_dim, config.rope_scaling.clone())
    }

    /// Positions with the frequencies `theta^(-2i / width)`, scaled, where `width` channels of a
    /// head are rotated.
    pub fn with(theta: f64, width: usize, scaling: RopeScaling) -> Self {
        Self { theta, width, scaling }
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
        RotaryTable { cos: angles(f64::cos), sin: angles(f64::sin) }
    }
}

impl RotaryTable {
    /// Rotates queries or keys, in f32 whatever their type.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, heads, head_dim]`
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, width] = x.dims();
        let dtype = FloatDType::from(x.dtype());
        let x = x.cast(FloatDType::F32);
        let half = width / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        Tensor::cat(
            vec![
                first.clone() * cos.clone() - second.clone() * sin.clone(),
                second * cos + first * sin,
            ],
            3,
        )
        .cast(dtype)
    }
}
