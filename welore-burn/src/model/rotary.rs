use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::config::{DecoderConfig, RopeScaling};

/// Rotary position encoding in Hugging Face's rotate-half form: each channel in the first half of
/// a head is rotated with its counterpart in the second half (RoFormer, arXiv 2104.09864).
///
/// Burn's `RotaryEncoding` follows the other convention: it rotates neighbouring channels.
#[derive(Debug, Clone)]
pub struct Rotary {
    inverse_frequencies: Vec<f64>,
}

/// Cosines and sines of consecutive positions, shared by all layers of one forward pass.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// The frequencies `theta^(-2i / head_dim)`, scaled according to the configuration.
    pub fn new(config: &DecoderConfig) -> Self {
        let width = config.head_dim as f64;
        let inverse_frequencies = (0..config.head_dim / 2)
            .map(|i| config.rope_theta.powf(-2.0 * i as f64 / width))
            .map(|frequency| scale(frequency, config.rope_scaling))
            .collect();
        Self { inverse_frequencies }
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
