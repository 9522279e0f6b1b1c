//! Scaling of rotary frequencies, from a GGUF file to a `config.json` and back.
//!
//! llama.cpp stores linear scaling and YaRN as metadata, and the scaling of LLaMA 3.1 as a tensor of
//! divisors, one for each frequency. The parameters of the latter are recovered from the divisors.
//! LongRoPE is two such tensors; llama.cpp chooses between them by the context that it is started
//! with, and not by the length of the text. It has no dynamic scaling.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::architectures::Known;
use super::error::GgufError;
use super::keys;
use super::tensors::read_factors;
use crate::ggml::GgufFile;
use crate::model::{DecoderConfig, RopeScaling};

/// The tensor of divisors.
const FACTORS: &str = "rope_freqs.weight";
/// The tensors of LongRoPE's divisors.
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// The tensors that are about rotary frequencies.
pub(super) const TENSORS: [&str; 3] = [FACTORS, LONG, SHORT];

/// Divisors are f32; recovered parameters must give them within this relative error.
const TOLERANCE: f64 = 1e-5;

/// The turns within the original context between which YaRN's ramp is in llama.cpp, whatever a file
/// of the architectures here states.
const TURNS: (f64, f64) = (32.0, 1.0);

/// What a file states about the positions of a model whose frequencies are scaled.
pub(super) struct Frequencies {
    /// Their base.
    pub theta: f64,
    /// How many channels of a head are rotated.
    pub width: usize,
    /// The model's context, in tokens.
    pub context: u64,
}

/// The `rope_scaling` of a file; `None` if there is no scaling.
pub(super) fn rope_scaling(
    file: &GgufFile,
    architecture: Known,
    frequencies: &Frequencies,
) -> Result<Option<Value>, GgufError> {
    let key = architecture.key(keys::ROPE_SCALING);
    let others =
        |tensors: &[&str]| match tensors.iter().find(|name| file.tensors().contains_key(**name)) {
            Some(name) => {
                let reason = format!("does not belong to the scaling that `{key}` states");
                Err(file.wrong_tensor::<GgufError>(name, reason))
            }
            None => Ok(()),
        };
    match file.text(&key)? {
        None if architecture.implies_longrope() && file.tensors().contains_key(LONG) => {
            others(&[FACTORS])?;
            longrope(file, architecture, frequencies).map(Some)
        }
        Some("none") => {
            others(&[LONG, SHORT])?;
            by_divisors(file, None, frequencies)
        }
        None | Some("linear") => {
            others(&[LONG, SHORT])?;
            by_divisors(file, linear_factor(file, architecture)?, frequencies)
        }
        Some("yarn") => {
            others(&TENSORS)?;
            yarn(file, architecture, frequencies).map(Some)
        }
        Some("longrope") => {
            others(&[FACTORS])?;
            longrope(file, architecture, frequencies).map(Some)
        }
        Some(other) => {
            let known = "none, linear, yarn and longrope are";
            Err(file.wrong(&key, format!("is `{other}`, which is not supported; {known}")))
        }
    }
}

/// Scaling by the divisor of all frequencies that the metadata state, or by a tensor of divisors.
fn by_divisors(
    file: &GgufFile,
    linear: Option<f64>,
    frequencies: &Frequencies,
) -> Result<Option<Value>, GgufError> {
    let linear_alone =
        || Ok(linear.map(|factor| json!({ "rope_type": "linear", "factor": factor })));
    if !file.tensors().contains_key(FACTORS) {
        return linear_alone();
    }
    let factors = read_factors(file, FACTORS, frequencies.width / 2)?;
    let wrong = |reason: &str| file.wrong_tensor(FACTORS, reason.into());
    if !factors.iter().all(|factor| factor.is_finite() && *factor >= 1.0 - TOLERANCE) {
        return Err(wrong("holds divisors that are below 1 or not finite"));
    }
    if factors.iter().all(|factor| (factor - 1.0).abs() < TOLERANCE) {
        return linear_alone();
    }
    if linear.is_some() {
        return Err(wrong("scales frequencies that the metadata scales as well"));
    }
    match Llama3::of(frequencies.theta, &factors) {
        Some(scaling) => Ok(Some(scaling.to_json())),
        None => Err(wrong("scales frequencies unlike LLaMA 3.1, which is not supported")),
    }
}

/// The divisor of all frequencies; `None` if it is 1.
fn linear_factor(file: &GgufFile, architecture: Known) -> Result<Option<f64>, GgufError> {
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

/// The context of the first training; llama.cpp reads 0 as the whole context.
fn first_context(
    file: &GgufFile,
    architecture: Known,
    frequencies: &Frequencies,
) -> Result<u64, GgufError> {
    let stated = file.integer(&architecture.key(keys::ROPE_CONTEXT))?;
    Ok(stated.filter(|context| *context > 0).unwrap_or(frequencies.context))
}

/// YaRN. llama.cpp's converter writes more settings than llama.cpp reads; they are the model's.
fn yarn(
    file: &GgufFile,
    architecture: Known,
    frequencies: &Frequencies,
) -> Result<Value, GgufError> {
    let number = |key: &str| file.number(&architecture.key(key));
    let factor = linear_factor(file, architecture)?.unwrap_or(1.0);
    let mut scaling = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": first_context(file, architecture, frequencies)?,
    });
    let attention = match number(keys::ROPE_ATTENTION)? {
        Some(own) => Some(own * sharpness(factor)),
        None => number(keys::YARN_ATTENTION)?,
    };
    let settings = [
        ("attention_factor", attention),
        ("beta_fast", number(keys::YARN_FAST)?),
        ("beta_slow", number(keys::YARN_SLOW)?),
    ];
    for (field, value) in settings {
        if let Some(value) = value {
            scaling[field] = value.into();
        }
    }
    Ok(scaling)
}

fn longrope(
    file: &GgufFile,
    architecture: Known,
    frequencies: &Frequencies,
) -> Result<Value, GgufError> {
    if let Some(factor) = linear_factor(file, architecture)? {
        let key = architecture.key(keys::ROPE_FACTOR);
        return Err(file.wrong(&key, format!("is {factor}, which longrope does not have")));
    }
    let factors = |name| read_factors(file, name, frequencies.width / 2);
    let attention = file.number(&architecture.key(keys::ROPE_ATTENTION))?;
    Ok(json!({
        "rope_type": "longrope",
        "short_factor": factors(SHORT)?,
        "long_factor": factors(LONG)?,
        "original_max_position_embeddings": first_context(file, architecture, frequencies)?,
        "attention_factor": attention.unwrap_or(1.0),
    }))
}

/// What llama.cpp multiplies cosines and sines by where YaRN divides low frequencies by `factor`.
fn sharpness(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

/// How a file states a scaling in its metadata.
#[derive(Debug, Default, PartialEq)]
pub(super) struct StoredScaling {
    /// The type; `None` if no metadata state it.
    pub kind: Option<&'static str>,
    /// Numbers by their keys.
    pub numbers: Vec<(&'static str, f64)>,
    /// The context of the first training, in tokens.
    pub original_context: Option<f64>,
}

/// The metadata of a scaling.
///
/// # Errors
///
/// What llama.cpp does not compute.
pub(super) fn stored_scaling(scaling: &RopeScaling) -> Result<StoredScaling, String> {
    match *scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } => Ok(StoredScaling::default()),
        RopeScaling::Linear { factor } => {
            let (kind, numbers) = (Some("linear"), vec![(keys::ROPE_FACTOR, factor)]);
            Ok(StoredScaling { kind, numbers, original_context: None })
        }
        RopeScaling::Dynamic { .. } => {
            Err("llama.cpp does not scale RoPE by the length of the text, as `dynamic` does".into())
        }
        RopeScaling::Yarn { truncate, beta_fast, beta_slow, .. }
            if !truncate || (beta_fast, beta_slow) != TURNS =>
        {
            let (fast, slow) = TURNS;
            Err(format!(
                "llama.cpp has YaRN with beta_fast {fast} and beta_slow {slow}, truncated, alone"
            ))
        }
        RopeScaling::Yarn { factor, original_context, attention_factor, .. } => {
            let mut numbers = vec![(keys::ROPE_FACTOR, factor)];
            let own = attention_factor / sharpness(factor);
            if (own - 1.0).abs() > 1e-9 {
                numbers.push((keys::ROPE_ATTENTION, own));
            }
            Ok(StoredScaling {
                kind: Some("yarn"),
                numbers,
                original_context: Some(original_context),
            })
        }
        RopeScaling::LongRope { original_context, attention_factor, .. } => Ok(StoredScaling {
            kind: Some("longrope"),
            numbers: vec![(keys::ROPE_ATTENTION, attention_factor)],
            original_context: Some(original_context),
        }),
    }
}

/// The tensors of divisors that a file stores for a model, by their names, each with one divisor for
/// each frequency.
///
/// # Errors
///
/// A divisor that f32 cannot hold.
pub(super) fn stored_divisors(
    config: &DecoderConfig,
) -> Result<Vec<(&'static str, Vec<f32>)>, String> {
    let tensors: Vec<(&'static str, Vec<f64>)> = match &config.rope_scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let scaling = Llama3 {
                factor: *factor,
                high_freq_factor: high_freq_factor / low_freq_factor,
                original_context: original_context / low_freq_factor,
            };
            let count = config.rotary_width.unwrap_or(config.head_dim) / 2;
            let frequency = |i: usize| config.rope_theta.powf(-(i as f64) / count as f64);
            vec![(FACTORS, (0..count).map(|i| scaling.divisor(frequency(i))).collect())]
        }
        RopeScaling::LongRope { short_factors, long_factors, .. } => {
            vec![(LONG, long_factors.clone()), (SHORT, short_factors.clone())]
        }
        _ => Vec::new(),
    };
    let stored = |(name, divisors): (&'static str, Vec<f64>)| {
        let stored: Vec<f32> = divisors.iter().map(|divisor| *divisor as f32).collect();
        match stored.iter().position(|divisor| !divisor.is_finite() || *divisor <= 0.0) {
            Some(i) => Err(format!("{name} would hold {:e}, which 32 bits cannot", divisors[i])),
            None => Ok((name, stored)),
        }
    };
    tensors.into_iter().map(stored).collect()
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

    fn yarn_with(attention_factor: f64, beta_fast: f64, truncate: bool) -> RopeScaling {
        let (factor, original_context, beta_slow) = (4.0, 64.0, 1.0);
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        }
    }

    #[test]
    fn yarn_is_stored_if_llama_cpp_computes_it() {
        let usual = 0.1 * 4f64.ln() + 1.0;
        let stored = stored_scaling(&yarn_with(usual, 32.0, true)).unwrap();
        assert_eq!(stored.numbers, [(keys::ROPE_FACTOR, 4.0)]);
        assert_eq!((stored.kind, stored.original_context), (Some("yarn"), Some(64.0)));
        // llama.cpp multiplies by the usual one all the same.
        let stored = stored_scaling(&yarn_with(2.0 * usual, 32.0, true)).unwrap();
        assert_eq!(stored.numbers[1], (keys::ROPE_ATTENTION, 2.0));
        for other in [yarn_with(usual, 16.0, true), yarn_with(usual, 32.0, false)] {
            assert!(stored_scaling(&other).unwrap_err().contains("beta_fast 32"));
        }
    }

    #[test]
    fn other_divisors_are_none_of_llama_3() {
        assert_eq!(Llama3::of(10_000.0, &[1.0, 2.0, 1.0, 4.0]), None);
        assert_eq!(Llama3::of(10_000.0, &[1.0, 1.1, 1.7, 2.0, 2.5, 3.0, 3.1, 4.0]), None);
        assert_eq!(Llama3::of(10_000.0, &[]), None);
    }
}
