//! What a choice of types is, for people and for programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};
use welore_burn::eval::Estimate;
use welore_burn::ggml::TensorType;
use welore_burn::named::Named;
use welore_burn::types::{LlamaQuantize, TypeBudget, TypePlan};

use crate::format;

/// The choice as fields of a JSON object.
pub fn summary(plan: &TypePlan, measured: Option<Estimate>) -> Map<String, Value> {
    let types: Map<String, Value> =
        counts(plan).into_iter().map(|(t, count)| (t.name().into(), count.into())).collect();
    let fields = json!({
        "target": plan.target,
        "bytes": plan.bytes,
        "bits": plan.bits(),
        "expected_loss": plan.expected_loss,
        "measured": measured,
        "calibration": plan.calibration,
        "types": types,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Prints the choice, all but the file, and returns that in words: its bytes, and what they are of.
pub fn say_choice(plan: &TypePlan, measured: Option<Estimate>) -> Result<String> {
    let named =
        |(t, count): (TensorType, usize)| format!("{} in {}", format::matrices(count), t.name());
    let types: Vec<String> = counts(plan).into_iter().map(named).collect();
    let bits = plan.bits();
    say!("types      {}", types.join(", "));
    say!("projections have {bits:.2} bits a weight, scales included");
    say!("expected   the loss rises by {:.2e} nats per token", plan.expected_loss);
    if let Some(Estimate { value, standard_error }) = measured {
        say!(
            "measured   all of them together diverge by {value:.2e} ± {standard_error:.0e} nats per \
             token"
        );
    }
    let bytes = format::bytes(plan.bytes);
    Ok(match plan.target {
        TypeBudget::MaxBytes(most) => format!("{bytes} of {}", format::bytes(most)),
        TypeBudget::Bits(most) => format!("{bytes}, {bits:.4} of {most} bits"),
    })
}

/// Says how `llama-quantize` gives matrices the types of a plan, of which a file of lines was
/// written.
pub fn say_llama_quantize(told: &LlamaQuantize, file: &Path, model: &Path) {
    let file = file.display().to_string();
    let (input, output) = ("floats.gguf", "quantized.gguf");
    let words =
        |words: Vec<String>| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let model = quoted(&model.display().to_string());
    note!("`welore-cli export {model} --gguf {input}` writes what llama-quantize reads; then");
    note!("llama-quantize {}", words(told.arguments(&file, input, output)));
}

/// A word as shells read it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn counts(plan: &TypePlan) -> BTreeMap<TensorType, usize> {
    let mut counts = BTreeMap::new();
    for matrix in &plan.matrices {
        *counts.entry(matrix.tensor_type).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_or_change_them() {
        for (word, shown) in [
            ("types.txt", "types.txt"),
            ("my types.txt", "'my types.txt'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }
}
