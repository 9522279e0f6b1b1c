//! `inspect`: what a model directory contains. Reads only the headers of weights.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::checkpoint::{Checkpoint, StoredMatrix};
use welore_burn::model::{DecoderConfig, FoundModel, UnfamiliarModel};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{RankPlan, read_plan};

use crate::args::InspectArgs;
use crate::shared::opening::open_any;
use crate::shared::selecting::left_out;
use crate::{format, models, output};

/// Runs the command.
pub fn run(args: InspectArgs) -> Result<()> {
    let model = models::directory_to_show(&args.model)?;
    let found = open_any(&model)?;
    let (checkpoint, compressed) = (found.checkpoint(), found.compressed());
    let config = found.familiar().map(|model| &model.config);
    let plan = read_plan(&model)?;
    let (dtypes, bytes) = (dtypes(checkpoint), models::bytes_on_disk(&args.model, checkpoint));
    if args.json {
        let compressed: Vec<Value> = compressed
            .iter()
            .map(|m| json!({ "name": m.name, "shape": m.shape, "rank": m.form.rank(), "form": m.form }))
            .collect();
        return output::print_json(&json!({
            "config": config,
            "cannot_run": found.unfamiliar().map(|model| model.why.to_string()),
            "parameters": checkpoint.parameters(),
            "bytes": bytes,
            "tensors": checkpoint.names().count(),
            "dtypes": dtypes,
            "factored": compressed,
            "plan": plan.map(|plan| json!({
                "policy": plan.policy,
                "target": plan.target,
                "min_ratio": plan.min_ratio,
                "totals": plan.totals,
                "adapted": adapted_of(&plan),
            })),
        }));
    }
    match &found {
        FoundModel::Familiar(model) => say_config(&args, &model.config)?,
        FoundModel::Unfamiliar(model) => say_layers(&args, model)?,
    }
    let dtypes: Vec<_> = dtypes.iter().map(|(dtype, n)| format!("{n} {dtype}")).collect();
    say!(
        "{} parameters, {}, tensors: {}",
        format::count(checkpoint.parameters()),
        format::bytes(bytes),
        dtypes.join(", ")
    );
    match (compressed.len(), &plan) {
        (0, _) => say!("dense: no matrix is compressed"),
        (n, None) if compressed.iter().all(|m| m.form.rank().is_none()) => {
            say!("in types of llama.cpp: {}", format::matrices(n));
        }
        (n, None) => say!("compressed: {}", format::matrices(n)),
        (n, Some(plan)) => {
            let target = plan.target.map(|target| format!(" for {target}")).unwrap_or_default();
            say!("compressed: {}, by policy {}{target}", format::matrices(n), plan.policy);
        }
    }
    let adapted = plan.as_ref().map_or(0, |plan| adapted_of(plan).len());
    if adapted > 0 {
        say!("dense with other entries, which correct errors: {}", format::matrices(adapted));
    }
    print_matrices(compressed)
}

/// The dense matrices that are not those of the model that was compressed.
fn adapted_of(plan: &RankPlan) -> Vec<&MatrixName> {
    let adapted = plan.matrices.iter().filter(|matrix| matrix.adapted);
    adapted.map(|matrix| &matrix.name).collect()
}

fn say_config(args: &InspectArgs, config: &DecoderConfig) -> Result<()> {
    say!(
        "{}: {}, hidden size {}, MLP size {}, {} ({} KV) of size {}, vocabulary {}, {} head",
        args.model.display(),
        format::number_of(config.num_hidden_layers, "layer"),
        config.hidden_size,
        mlp_widths(config),
        format::number_of(config.num_attention_heads, "head"),
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        if config.tie_word_embeddings { "tied" } else { "untied" },
    );
    Ok(())
}

/// What is known of a model by its weights alone.
fn say_layers(args: &InspectArgs, model: &UnfamiliarModel) -> Result<()> {
    let (why, layers) = (&model.why, model.linear_layers());
    let linear = format::number_of(layers.names.len(), "linear layer");
    say!("{}: {why}; by name and shape it has {linear}", args.model.display());
    if !layers.left_out.is_empty() {
        say!("not linear layers: {}", left_out(&layers.left_out));
    }
    say!(
        "what needs weights only works: analyze, plan, compress with --err or --no-calibration, \
         export to a directory"
    );
    Ok(())
}

fn print_matrices(compressed: &[StoredMatrix]) -> Result<()> {
    if compressed.is_empty() {
        return Ok(());
    }
    let rows = compressed
        .iter()
        .map(|m| {
            let [out, inputs] = m.shape;
            vec![m.name.to_string(), format!("{out}x{inputs}"), m.form.to_string()]
        })
        .collect();
    output::print_block(&format::table(&["matrix", "shape", "form"], rows))
}

/// `160`, or `96 to 160` where layers differ, or `160 (8 experts, 2 for each token)`.
fn mlp_widths(config: &DecoderConfig) -> String {
    if let Some(mixture) = &config.mixture {
        let experts = format::number_of(mixture.experts, "expert");
        return format!("{} ({experts}, {} for each token)", mixture.width, mixture.chosen);
    }
    match config.intermediate_sizes.iter().flatten().min() {
        Some(least) => format!("{least} to {}", config.intermediate_size),
        None => config.intermediate_size.to_string(),
    }
}

/// The number of tensors of each stored type.
fn dtypes(checkpoint: &Checkpoint) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for meta in checkpoint.names().filter_map(|name| checkpoint.meta(name)) {
        *counts.entry(meta.dtype.to_string()).or_default() += 1;
    }
    counts
}
