//! Turns the configuration of a model into GGUF metadata.

use super::architectures::{Known, Statement};
use super::keys;
use super::rope::stored_scaling;
use crate::ggml::{TensorType, Value, Values, WrittenType};
use crate::model::DecoderConfig;

/// The version of ggml's quantized types.
const QUANTIZATION: u32 = 2;

/// The metadata of a model, without those of its tokenizer. `most` is the type that most of its
/// entries have.
///
/// # Errors
///
/// What no file can hold, and what llama.cpp does not compute.
pub(super) fn describe(
    config: &DecoderConfig,
    architecture: Known,
    name: Option<&str>,
    most: WrittenType,
) -> Result<Vec<(String, Value)>, String> {
    let text = |text: &str| Value::String(text.into());
    let mut entries: Vec<(String, Value)> = vec![
        (keys::ARCHITECTURE.into(), text(architecture.name())),
        ("general.type".into(), text("model")),
        ("general.file_type".into(), Value::U32(file_type(most))),
        ("general.quantization_version".into(), Value::U32(QUANTIZATION)),
    ];
    entries.extend(name.map(|name| (keys::NAME.into(), text(name))));
    entries.extend(sizes(config, architecture)?);
    let scaling = stored_scaling(&architecture.stated_scaling(config))?;
    entries.extend(scaling.kind.map(|kind| (architecture.key(keys::ROPE_SCALING), text(kind))));
    if let Some(context) = scaling.original_context {
        let key = keys::ROPE_CONTEXT;
        if context.fract() != 0.0 {
            return Err(format!("{key} is {context}, which is not a whole number"));
        }
        let context = Value::U32(in_32_bits(key, context as usize)?);
        entries.push((architecture.key(key), context));
    }
    entries.extend(window_pattern(config, architecture));
    let (epsilon, _) = architecture.epsilon();
    let mut numbers = vec![(epsilon, config.rms_norm_eps), (keys::ROPE_BASE, config.rope_theta)];
    numbers.extend(scaling.numbers);
    for (key, statement) in architecture.statements(config) {
        match statement {
            Statement::Number(number) => numbers.push((key, number)),
            Statement::Size(size) => {
                entries.push((architecture.key(key), Value::U32(in_32_bits(key, size)?)));
            }
            Statement::Flag(flag) => entries.push((architecture.key(key), Value::Bool(flag))),
            Statement::Text(stated) => entries.push((architecture.key(key), text(stated))),
        }
    }
    for (key, number) in numbers {
        let stored = number as f32;
        if !stored.is_finite() || stored <= 0.0 {
            return Err(format!("{key} is {number:e}, which 32 bits cannot hold"));
        }
        entries.push((architecture.key(key), Value::F32(stored)));
    }
    Ok(entries)
}

/// The sizes of a model.
fn sizes(config: &DecoderConfig, architecture: Known) -> Result<Vec<(String, Value)>, String> {
    let sizes = [
        ("vocab_size", Some(config.vocab_size)),
        (keys::CONTEXT, Some(config.max_position_embeddings)),
        (keys::HIDDEN, Some(config.hidden_size)),
        (keys::LAYERS, Some(config.num_hidden_layers)),
        (keys::HEADS, Some(config.num_attention_heads)),
        (keys::KV_HEADS, Some(config.num_key_value_heads)),
        (keys::KEY_WIDTH, Some(config.head_dim)),
        (keys::VALUE_WIDTH, Some(config.latent.map_or(config.head_dim, |latent| latent.values))),
        (keys::ROPE_WIDTH, Some(config.rotary_width.unwrap_or(config.head_dim))),
        (keys::WINDOW, config.sliding_window),
        (keys::EXPERTS, config.mixture.as_ref().map(|mixture| mixture.experts)),
        (keys::CHOSEN_EXPERTS, config.mixture.as_ref().map(|mixture| mixture.chosen)),
    ];
    let mut entries = Vec::new();
    for (key, size) in sizes {
        let Some(size) = size else { continue };
        entries.push((architecture.key(key), Value::U32(in_32_bits(key, size)?)));
    }
    let widths = match &config.intermediate_sizes {
        Some(widths) => {
            let widths = widths.iter().map(|width| in_32_bits(keys::MLP, *width));
            Value::Array(Box::new(Values::U32(widths.collect::<Result<Vec<u32>, String>>()?)))
        }
        None => Value::U32(in_32_bits(keys::MLP, config.intermediate_size)?),
    };
    entries.push((architecture.key(keys::MLP), widths));
    Ok(entries)
}

/// Which layers have the sliding window, unless they are those of which llama.cpp thinks so anyway.
fn window_pattern(config: &DecoderConfig, architecture: Known) -> Option<(String, Value)> {
    let period = architecture.window_period().filter(|_| config.sliding_window.is_some())?;
    let layers = 0..config.num_hidden_layers;
    let windows: Vec<bool> = layers.map(|layer| config.has_window(layer)).collect();
    let is_usual = |(layer, window): (usize, &bool)| *window != (layer + 1).is_multiple_of(period);
    let usual = windows.iter().enumerate().all(is_usual);
    let list = Value::Array(Box::new(Values::Bool(windows)));
    (!usual).then(|| (architecture.key(keys::WINDOW_PATTERN), list))
}

/// What is said of a file that states which layers have the sliding window.
pub(super) fn window_remark(config: &DecoderConfig, architecture: Known) -> Option<String> {
    window_pattern(config, architecture)?;
    Some(
        "the file states which layers have the sliding window; older versions of llama.cpp take \
         others"
            .into(),
    )
}

fn in_32_bits(key: &str, size: usize) -> Result<u32, String> {
    u32::try_from(size).map_err(|_| format!("{key} is {size}, which 32 bits cannot hold"))
}

/// The number of a file most of whose entries are in MXFP4.
const MXFP4_FILE: u32 = 38;

/// What llama.cpp calls a file most of whose entries have a type, `llama_ftype`.
fn file_type(most: WrittenType) -> u32 {
    let Some(most) = most.rounded() else { return MXFP4_FILE };
    match most {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q8_0 => 7,
        TensorType::Q5_0 => 8,
        TensorType::Q5_1 => 9,
        TensorType::Q2K => 10,
        TensorType::Q3K => 12,
        TensorType::Q4K => 15,
        TensorType::Q5K => 17,
        TensorType::Q6K => 18,
        TensorType::Iq4Nl => 25,
        TensorType::Iq4Xs => 30,
        TensorType::Bf16 => 32,
    }
}
