use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::config::{DecoderConfig, RopeScaling};

/// Rotary position encoding (RoFormer, arXiv 2104.09864), mostly in Hugging Face's rotate-half form:
/// each channel in the first half of a head is rotated with its counterpart in the second half. A
/// few families rotate neighbouring channels, as Burn's `RotaryEncoding` does.
#[derive(Debug, Clone)]
pub struct Rotary {
    inverse_frequencies: Vec<f64>,
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
    /// The frequencies `theta^(-2i / width)` for the channels of a head that are rotated, scaled according to the configuration.
    pub fn new(config: &DecoderConfig) -> Self {
        let width = config.rotary_width.unwrap_or(config.head_dim);
        let inverse_frequencies = (0..width / 2)
            .map(|i| config.rope_theta.powf(-2.0 * i as f64 / width as f64))
            .map(|frequency| scale(frequency, config.rope_scaling))
            .collect();
        Self { inverse_frequencies, neighbours: config.rotary_neighbours }
    }

    /// The table of `len` positions, beginning at `start`. Angles are computed in f64: in f32 they
    /// lose precision at long contexts.
    pub fn table(&self, start: usize, len: usize, device: &Device) -> RotaryTable {
        let half = self.inverse_frequencies.len();
        let angles = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (start..start + len)
                .flat_map(|position| {
                    self.inverse_frequencies.iter().map(move |w| f(position as f64 * w) as f32)
                })
                .collect();
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
        let [_, _, _, width] = x.dims();
        let dtype = FloatDType::from(x.dtype());
        let x = x.cast(FloatDType::F32);
        let rotated = 2 * self.cos.dims()[3];
        if rotated == width {
            return Tensor::cat(self.rotated(x), 3).cast(dtype);
        }
        let mut parts = self.rotated(x.clone().narrow(3, 0, rotated));
        parts.push(x.narrow(3, rotated, width - rotated));
        Tensor::cat(parts, 3).cast(dtype)
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

fn scale(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let wavelength = std::f64::consts::TAU / frequency;
            let smooth = (original_context / wavelength - low_freq_factor)
                / (high_freq_factor - low_freq_factor);
            // 0 for low frequencies and 1 for high ones.
            let smooth = smooth.clamp(0.0, 1.0);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}
