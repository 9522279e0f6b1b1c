//! What llama.cpp computes, compared with what a model does.

use crate::model::{DecoderConfig, MixtureConfig, QkNorm, RopeScaling, Scoring};

/// A decoder of the sizes of another, with its rotary positions and the names of its tensors, and otherwise
/// LLaMA without biases.
pub(super) fn plain(config: &DecoderConfig) -> DecoderConfig {
    let mut plain = DecoderConfig::new(
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    .with_names(config.names)
    .with_rms_norm_eps(config.rms_norm_eps)
    .with_rope_theta(config.rope_theta)
    .with_rope_scaling(config.rope_scaling.clone())
    .with_max_position_embeddings(config.max_position_embeddings)
    .with_tie_word_embeddings(config.tie_word_embeddings)
    .with_initializer_range(config.initializer_range);
    plain.bos_token_id = config.bos_token_id;
    plain.eos_token_ids = config.eos_token_ids.clone();
    plain
}

/// Removes the scaling of rotary frequencies that llama.cpp computes from a tensor of divisors.
pub(super) fn without_divisors(mut config: DecoderConfig) -> DecoderConfig {
    if matches!(config.rope_scaling, RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. }) {
        config.rope_scaling = RopeScaling::None;
    }
    config
}

/// Gives heads the width that llama.cpp takes for granted in some architectures.
pub(super) fn with_even_heads(mut config: DecoderConfig) -> DecoderConfig {
    config.head_dim = config.hidden_size / config.num_attention_heads.max(1);
    config
}

/// Adds the sliding windows of a model, which llama.cpp computes in any layers. Without one, where it
/// has them in every model: of this size, and not in the last one of every so many layers.
pub(super) fn with_windows(
    mut computed: DecoderConfig,
    config: &DecoderConfig,
    otherwise: Option<(usize, usize)>,
) -> DecoderConfig {
    computed.sliding_window = config.sliding_window;
    computed.first_window_layer = config.first_window_layer;
    computed.window_layers = config.window_layers.clone();
    if let (None, Some((window, period))) = (config.sliding_window, otherwise) {
        let layers = 1..=config.num_hidden_layers;
        computed.sliding_window = Some(window);
        computed.window_layers = Some(layers.map(|layer| !layer.is_multiple_of(period)).collect());
    }
    computed
}

/// Adds a sliding window that all layers of a model have: llama.cpp ignores it in some architectures, and
/// other readers do not.
pub(super) fn with_ignored_window(
    mut computed: DecoderConfig,
    config: &DecoderConfig,
) -> DecoderConfig {
    if (0..config.num_hidden_layers).all(|layer| config.has_window(layer)) {
        computed.sliding_window = config.sliding_window;
    }
    computed
}

/// Experts as llama.cpp has them in most architectures, as many and as wide as those of a model: on all
/// layers, each token chooses those with the largest probabilities, and none sees all tokens. `rescales`
/// says whether the weights of the chosen ones are divided by their sum.
pub(super) fn experts(config: &DecoderConfig, rescales: bool) -> MixtureConfig {
    let sizes = |own: &MixtureConfig| [own.experts, own.chosen, own.width];
    let [experts, chosen, width] = config.mixture.as_ref().map_or([0; 3], sizes);
    MixtureConfig {
        experts,
        chosen,
        width,
        rescales,
        scoring: Scoring::Softmax,
        groups: None,
        is_corrected: false,
        scale: 1.0,
        shared_width: None,
        has_shared_gate: false,
        layers: None,
        biases: false,
        clamped: None,
    }
}

/// The first thing that llama.cpp does otherwise than the model, as a predicate: `has no …`.
pub(super) fn difference(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    in_structure(model, computed)
        .or_else(|| in_experts(model, computed))
        .or_else(|| in_numbers(model, computed))
        .or_else(|| in_layers(model, computed))
        .or_else(|| in_scaling(model, computed))
        .or_else(|| in_the_rest(model, computed))
}

fn in_structure(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let [a, b] = [model, computed];
    let other = |differs: bool, what: &str| differs.then(|| format!("has {what}"));
    let owns = |model: bool, computed: bool, what: &str| match (model, computed) {
        (true, false) => Some(format!("has no {what}")),
        (false, true) => Some(format!("needs {what}")),
        _ => None,
    };
    let found = [
        owns(a.mixture.is_some(), b.mixture.is_some(), "experts"),
        owns(a.latent.is_some(), b.latent.is_some(), "latent attention"),
        other(a.latent != b.latent, "other short vectors for queries in models of so many layers"),
        owns(a.learned_positions, b.learned_positions, "positions that are learned"),
        owns(a.attention_sinks, b.attention_sinks, "scores beside those of keys"),
        other(a.layout != b.layout, "norms in other places"),
        other(a.norm != b.norm, "norms of another kind"),
        owns(a.qk_norm != QkNorm::None, b.qk_norm != QkNorm::None, "norms of queries and keys"),
        other(a.scales_by_layer != b.scales_by_layer, "one scale of attention for all layers"),
        other(a.qk_norm != b.qk_norm, "other norms of queries and keys"),
        other(a.qkv != b.qkv, "other matrices for queries, keys and values"),
        other(a.mlp != b.mlp, "other matrices in the MLP"),
        other(a.activation != b.activation, "another activation in the MLP"),
        owns(a.qkv_bias, b.qkv_bias, "biases of queries, keys and values"),
        owns(a.output_bias, b.output_bias, "biases of the output of attention"),
        owns(a.mlp_bias, b.mlp_bias, "biases in the MLP"),
        match (a.tie_word_embeddings, b.tie_word_embeddings) {
            (true, false) => Some("needs a head beside the embedding".into()),
            (false, true) => Some("has no head beside the embedding".into()),
            _ => None,
        },
        other(a.head_dim != b.head_dim, "heads that share the hidden size between them"),
        other(a.num_key_value_heads != b.num_key_value_heads, "a head of keys for each of queries"),
        other(a.rotary_width != b.rotary_width, "heads that are rotated as a whole"),
        other(a.rotary_neighbours != b.rotary_neighbours, "other channels rotated with each other"),
        other(
            a.intermediate_sizes.is_some() && b.intermediate_sizes.is_none(),
            "one width for the MLPs of all layers",
        ),
    ];
    found.into_iter().flatten().next()
}

fn in_experts(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let (a, b) = (model.mixture.as_ref()?, computed.mixture.as_ref()?);
    let with = |mixture: &MixtureConfig| -> Vec<bool> {
        (0..model.num_hidden_layers).map(|layer| mixture.is_in(layer)).collect()
    };
    let shared = [a, b].map(|mixture| mixture.shared_width.is_some());
    let found = [
        (with(a) != with(b), "has experts on all layers"),
        (a.rescales && !b.rescales, "does not divide the weights of experts by their sum"),
        (!a.rescales && b.rescales, "divides the weights of experts by their sum"),
        (shared == [true, false], "has no expert that sees all tokens"),
        (shared == [false, true], "needs an expert that sees all tokens"),
        (a.width != b.width, "has experts as wide as other MLPs"),
        ((a.biases, a.clamped) != (b.biases, b.clamped), "computes experts in another way"),
        (a != b, "chooses experts in another way"),
    ];
    let first = found.into_iter().find(|(differs, _)| *differs);
    first.map(|(_, what)| what.into())
}

/// Where a number is in a configuration.
type Get = fn(&DecoderConfig) -> Option<f64>;

fn in_numbers(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let usual = (model.head_dim as f64).powf(-0.5);
    let one = Some(1.0);
    // What it is, where it is, and its value where there is none.
    let numbers: [(&str, Get, Option<f64>); 8] = [
        ("epsilon in norms", |c| Some(c.rms_norm_eps), None),
        ("scale of attention", |c| c.attention_scale, Some(usual)),
        ("cap of the scores of attention", |c| c.attention_cap, None),
        ("limit of queries, keys and values", |c| c.qkv_clip, None),
        ("scale of embeddings", |c| c.embedding_scale, one),
        ("scale of the residual stream", |c| c.residual_scale, one),
        ("scale of logits", |c| c.logit_scale, one),
        ("cap of logits", |c| c.logit_cap, None),
    ];
    numbers.into_iter().find_map(|(what, get, neutral)| {
        let [model, computed] = [model, computed].map(|config| get(config).or(neutral));
        match (model, computed) {
            (Some(a), Some(b)) if (a - b).abs() <= NEAR * b.abs() => None,
            (None, None) => None,
            (Some(a), Some(b)) => Some(format!("has {b} as the {what}, and the model {a}")),
            (None, Some(b)) => Some(format!("has {b} as the {what}, and the model none")),
            (Some(_), None) => Some(format!("has no {what}")),
        }
    })
}

/// Numbers in files have 32 bits.
const NEAR: f64 = 1e-6;

fn in_layers(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let each = |has: &dyn Fn(usize) -> bool| -> Vec<bool> {
        (0..model.num_hidden_layers).map(has).collect()
    };
    let any = |layers: &[bool]| layers.contains(&true);
    let windows = each(&|layer| model.has_window(layer));
    let others = each(&|layer| computed.has_window(layer));
    if windows != others {
        return Some(match (any(&windows), any(&others)) {
            (true, false) if windows.contains(&false) => {
                "has no sliding window on some layers only".into()
            }
            (true, false) => "has no sliding window".into(),
            (false, _) => "has a sliding window, and the model none".into(),
            (true, true) => "has the sliding window on other layers".into(),
        });
    }
    if any(&windows) && model.sliding_window != computed.sliding_window {
        return Some("has a sliding window of another size".into());
    }
    let rotary = each(&|layer| model.has_rotary(layer));
    let others = each(&|layer| computed.has_rotary(layer));
    if rotary != others {
        return Some(match others.contains(&false) {
            false => "has rotary positions in all layers".into(),
            true => "has rotary positions in other layers".into(),
        });
    }
    let local = |config: &DecoderConfig| match &config.window_rope {
        Some(own) => own.clone(),
        None => (config.rope_theta, config.rope_scaling.clone()),
    };
    let differ = any(&windows) && local(model) != local(computed);
    differ.then(|| "has other rotary frequencies in layers with a sliding window".into())
}

fn in_scaling(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let name = match model.rope_scaling {
        RopeScaling::None => "the model",
        RopeScaling::Linear { .. } => "linear",
        RopeScaling::Dynamic { .. } => "dynamic",
        RopeScaling::Llama3 { .. } => "LLaMA 3.1",
        RopeScaling::Yarn { .. } => "yarn",
        RopeScaling::LongRope { .. } => "longrope",
    };
    let differs = model.rope_scaling != computed.rope_scaling;
    differs.then(|| format!("does not scale RoPE as {name} does"))
}

/// What nothing above compares: a field that is new is refused until an architecture has it.
fn in_the_rest(model: &DecoderConfig, computed: &DecoderConfig) -> Option<String> {
    let compared = DecoderConfig {
        head_dim: model.head_dim,
        rms_norm_eps: model.rms_norm_eps,
        rope_scaling: model.rope_scaling.clone(),
        tie_word_embeddings: model.tie_word_embeddings,
        qkv_bias: model.qkv_bias,
        output_bias: model.output_bias,
        mlp_bias: model.mlp_bias,
        layout: model.layout,
        norm: model.norm,
        qk_norm: model.qk_norm,
        qkv: model.qkv,
        mlp: model.mlp,
        activation: model.activation,
        attention_scale: model.attention_scale,
        attention_cap: model.attention_cap,
        qkv_clip: model.qkv_clip,
        embedding_scale: model.embedding_scale,
        residual_scale: model.residual_scale,
        logit_scale: model.logit_scale,
        logit_cap: model.logit_cap,
        rotary_width: model.rotary_width,
        rotary_neighbours: model.rotary_neighbours,
        rotary_layers: model.rotary_layers.clone(),
        window_rope: model.window_rope.clone(),
        sliding_window: model.sliding_window,
        first_window_layer: model.first_window_layer,
        window_layers: model.window_layers.clone(),
        intermediate_sizes: model.intermediate_sizes.clone(),
        ..computed.clone()
    };
    (compared != *model).then(|| "does not have all that the model has".into())
}
