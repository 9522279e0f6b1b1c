//! `inspect`: what a model directory holds. Reads headers only.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::checkpoint::{Checkpoint, FactorNames};
use welore_burn::llama::{OpenedLlama, open_llama};

use crate::args::InspectArgs;
use crate::devices::host;
use crate::{format, models};

/// A factored matrix as stored.
struct Factored {
    name: String,
    shape: [usize; 2],
    rank: usize,
}

/// Runs the command.
pub fn run(args: InspectArgs) -> Result<()> {
    let model = models::directory_of(&args.model)?;
    let OpenedLlama { config, checkpoint, plan, .. } = open_llama(&model, &host())?;
    let factored = factored_matrices(&checkpoint)?;
    let dtypes = dtypes(&checkpoint);
    if args.json {
        let factored: Vec<Value> = factored
            .iter()
            .map(|m| json!({ "name": m.name, "shape": m.shape, "rank": m.rank }))
            .collect();
        return format::print_json(&json!({
            "config": config,
            "parameters": checkpoint.parameters(),
            "bytes": checkpoint.bytes(),
            "tensors": checkpoint.names().count(),
            "dtypes": dtypes,
            "factored": factored,
            "plan": plan.map(|plan| json!({
                "policy": plan.policy,
                "target": plan.target,
                "min_ratio": plan.min_ratio,
                "totals": plan.totals,
            })),
        }));
    }
    say!(
        "{}: {} layers, width {}, MLP {}, {} heads ({} kv) of {}, {} tokens, {} head",
        args.model.display(),
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        if config.tie_word_embeddings { "tied" } else { "own" },
    );
    let dtypes: Vec<_> = dtypes.iter().map(|(dtype, n)| format!("{n} {dtype}")).collect();
    say!(
        "{} parameters, {}, tensors: {}",
        format::count(checkpoint.parameters()),
        format::bytes(checkpoint.bytes()),
        dtypes.join(", ")
    );
    match (factored.len(), plan) {
        (0, _) => say!("dense: no matrix is factored"),
        (n, None) => say!("{n} matrices are factored"),
        (n, Some(plan)) => {
            say!("{n} matrices are factored, by {} for {}", plan.policy, plan.target)
        }
    }
    if !factored.is_empty() {
        let rows = factored
            .iter()
            .map(|m| {
                let [out, inputs] = m.shape;
                vec![m.name.clone(), format!("{out}x{inputs}"), m.rank.to_string()]
            })
            .collect();
        say!("{}", format::table(&["matrix", "shape", "rank"], rows));
    }
    Ok(())
}

fn factored_matrices(checkpoint: &Checkpoint) -> Result<Vec<Factored>> {
    checkpoint
        .names()
        .filter_map(FactorNames::matrix_of_v)
        .map(|name| {
            let names = FactorNames::of(name);
            let [rank, inputs] = checkpoint.matrix_shape(&names.v)?;
            let out = match checkpoint.meta(&names.pivots) {
                Some(_) => checkpoint.matrix_shape(&names.c)?[0] + rank,
                None => checkpoint.matrix_shape(&names.u)?[0],
            };
            Ok(Factored { name: name.into(), shape: [out, inputs], rank })
        })
        .collect()
}

/// How many tensors there are of each stored type.
fn dtypes(checkpoint: &Checkpoint) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for meta in checkpoint.names().filter_map(|name| checkpoint.meta(name)) {
        *counts.entry(meta.dtype.to_string()).or_default() += 1;
    }
    counts
}
