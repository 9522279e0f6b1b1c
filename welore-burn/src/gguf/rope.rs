//! Scaling of rotary frequencies, from a GGUF file to a `config.json` and back.
//!
//! llama.cpp stores linear scaling as metadata, and the scaling of LLaMA 3.1 as a tensor of
//! divisors, one for each frequency. Its parameters are recovered from the divisors.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::architecture::Architecture;
use super::error::GgufError;
use super::keys;
use super::tensors::read_factors;
use crate::ggml::GgufFile;
use crate::model::{DecoderConfig, RopeScaling};

/// The tensor of divisors.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// Divisors are f32; recovered parameters must give them within this relative error.
const TOLERANCE: f64 = 1e-5;

/// The `rope_scaling` of a file whose rotary base is `theta` and whose heads are `width` wide;
/// `None` if there is no scaling.
pub(super) fn rope_scaling(
    file: &GgufFile,
    architecture: Architecture,
    theta: f64,
    width: usize,
) -> Result<Option<Value>, GgufError> {
    let linear = linear_factor(file, architecture)?;
    if !file.tensors().contains_key(FACTORS) {
        return Ok(linear.map(|factor| json!({ "rope_type": "linear", "factor": factor })));
    }
    let factors = read_factors(file, FACTORS, width / 2)?;
    let wrong = |reason: &str| file.wrong_tensor(FACTORS, reason.into());
    if !factors.iter().all(|factor| factor.is_finite() && *factor >= 1.0 - TOLERANCE) {
        return Err(wrong("holds divisors that are below 1 or not finite"));
    }
    if factors.iter().all(|factor| (factor - 1.0).abs() < TOLERANCE) {
        return Ok(linear.map(|factor| json!({ "rope_type": "linear", "factor": factor })));
    }
    if linear.is_some() {
        return Err(wrong("scales frequencies that the metadata scales as well"));
    }
    match Llama3::of(theta, &factors) {
        Some(scaling) => Ok(Some(scaling.to_json())),
        None => Err(wrong("scales frequencies unlike LLaMA 3.1, which is not supported")),
    }
}

/// The divisors that a file stores for a model whose frequencies are scaled like those of LLaMA
/// 3.1, one for each frequency; `None` for other models.
pub(super) fn stored_divisors(config: &DecoderConfig) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
        config.rope_scaling
    else {
        return None;
    };
    let scaling = Llama3 {
        factor,
        high_freq_factor: high_freq_factor / low_freq_factor,
        original_context: original_context / low_freq_factor,
    };
    let count = config.head_dim / 2;
    let frequency = |i: usize| config.rope_theta.powf(-(i as f64) / count as f64);
    Some((0..count).map(|i| scaling.divisor(frequency(i)) as f32).collect())
}

/// The divisor of all frequencies; `None` if it is 1.
fn linear_factor(file: &GgufFile, architecture: Architecture) -> Result<Option<f64>, GgufError> {
    let key = architecture.key(keys::ROPE_SCALING);
    match file.text(&key)? {
        Some("none") => return Ok(None),
        None | Some("linear") => {}
        Some(other) => {
            let reason = format!("is `{other}`, which is not supported; none and linear are");
            return Err(file.wrong(&key, reason));
        }
    }
    let mut key = architecture.key(keys::ROPE_FACTOR);
    let mut factor = file.number(&key)?;
    if factor.is_none() {
        // Its name in older files.
        key = architecture.key("rope.scale_linear");
        factor = file.number(&key)?;
    }
    match factor {
        Some(factor) if factor < 0.0 => Err(file.wrong(&key, format!("is {factor}"))),
        // llama.cpp reads 0 as no scaling.
        factor => Ok(factor.filter(|factor| *factor != 0.0 && *factor != 1.0)),
    }
}

/// The scaling of LLaMA 3.1 with a `low_freq_factor` of 1: multiplying the context and both
/// frequency factors by one number gives the same scaling, and LLaMA's own has 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Llama3 {
    factor: f64,
    high_freq_factor: f64,
    original_context: f64,
}

impl Llama3 {
    /// The scaling that divides the frequencies `theta^(-i / n)` by `factors[i]`, if one does.
    fn of(theta: f64, factors: &[f64]) -> Option<Self> {
        let count = factors.len() as f64;
        let frequency = |i: usize| theta.powf(-(i as f64) / count);
        let factor = *factors.last()?;
        if factor <= 1.0 {
            return None;
        }
        // How far a frequency is kept: at 0 it is divided by the whole `factor`, at 1 not at all.
        // In between, this is linear in the frequency.
        let kept: Vec<f64> =
            factors.iter().map(|f| (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)).collect();
        let point = |i: usize| (frequency(i), kept[i].clamp(0.0, 1.0));
        let between = |i: &usize| kept[*i] > 1e-4 && kept[*i] < 1.0 - 1e-4;
        let first = (0..kept.len()).find(between);
        let last = (0..kept.len()).rev().find(between);
        let (slope, start) = match (first, last) {
            (Some(first), Some(last)) if first < last => line(point(first), point(last)),
            _ => {
                // One or none is in between: any line that reaches 0 and 1 in time will do.
                let high = (0..kept.len()).rev().find(|i| kept[*i] >= 1.0 - 1e-4).map(point)?;
                let low = (0..kept.len()).find(|i| kept[*i] <= 1e-4).map(point)?;
                match first.map(point) {
                    None => line(low, high),
                    Some(middle) => {
                        let (above, below) = (line(middle, high), line(low, middle));
                        if above.0 > below.0 { above } else { below }
                    }
                }
            }
        };
        // `kept` is `(context · frequency / 2π - 1) / (high - 1)`.
        let spread = -1.0 / start;
        let found =
            Self { factor, high_freq_factor: 1.0 + spread, original_context: TAU * slope * spread };
        // The parameters are whole numbers, up to the rounding of the divisors.
        let round = Self {
            factor: factor.round(),
            high_freq_factor: found.high_freq_factor.round(),
            original_context: found.original_context.round(),
        };
        [round, found].into_iter().find(|scaling| {
            scaling.is_possible()
                && factors.iter().enumerate().all(|(i, factor)| {
                    (scaling.divisor(frequency(i)) / factor - 1.0).abs() < TOLERANCE
                })
        })
    }

    fn is_possible(&self) -> bool {
        let Self { factor, high_freq_factor, original_context } = *self;
        let finite = [factor, high_freq_factor, original_context].iter().all(|x| x.is_finite());
        finite && factor > 0.0 && high_freq_factor > 1.0 && original_context > 0.0
    }

    fn divisor(&self, frequency: f64) -> f64 {
        let turns = self.original_context * frequency / TAU;
        let kept = ((turns - 1.0) / (self.high_freq_factor - 1.0)).clamp(0.0, 1.0);
        1.0 / ((1.0 - kept) / self.factor + kept)
    }

    fn to_json(self) -> Value {
        let context = self.original_context;
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings":
                if context.fract() == 0.0 { json!(context as u64) } else { json!(context) },
        })
    }
}

/// Slope and value at 0 of the line through two points.
fn line(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let slope = (b.1 - a.1) / (b.0 - a.0);
    (slope, a.1 - slope * a.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(scaling: Llama3, theta: f64, count: usize) -> Vec<f64> {
        let frequency = |i: usize| theta.powf(-(i as f64) / count as f64);
        // As a file stores them.
        (0..count).map(|i| f64::from(scaling.divisor(frequency(i)) as f32)).collect()
    }

    #[test]
    fn the_parameters_of_llama_3_come_back() {
        for (factor, count) in [(8.0, 64), (32.0, 32), (32.0, 64)] {
            let llama3 = Llama3 { factor, high_freq_factor: 4.0, original_context: 8192.0 };
            let factors = divisors(llama3, 500_000.0, count);
            assert_eq!(Llama3::of(500_000.0, &factors), Some(llama3));
        }
    }

    #[test]
    fn other_parameters_are_found_that_divide_alike() {
        // In the first case one frequency is in between, in the second none.
        for (count, context) in [(8, 64.0), (4, 1000.0)] {
            let scaling = Llama3 { factor: 8.0, high_freq_factor: 4.0, original_context: context };
            let factors = divisors(scaling, 500_000.0, count);
            let found = Llama3::of(500_000.0, &factors).unwrap();
            for (a, b) in divisors(found, 500_000.0, count).iter().zip(&factors) {
                assert!((a / b - 1.0).abs() < 2e-5, "{a} for {b}");
            }
        }
    }

    #[test]
    fn other_divisors_are_none_of_llama_3() {
        assert_eq!(Llama3::of(10_000.0, &[1.0, 2.0, 1.0, 4.0]), None);
        assert_eq!(Llama3::of(10_000.0, &[1.0, 1.1, 1.7, 2.0, 2.5, 3.0, 3.1, 4.0]), None);
        assert_eq!(Llama3::of(10_000.0, &[]), None);
    }
}
