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
        // It is not known of a single token.
        let error = match standard_error.is_finite() {
            true => format!(" ± {standard_error:.0e}"),
            false => String::new(),
        };
        say!("measured   all of them together diverge by {value:.2e}{error} nats per token");
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
    note!("llama-quantize {}", words(arguments(told, &file, input, output)));
}

/// The arguments of `llama-quantize` that go with a file of lines: of `input`, a GGUF file in floats,
/// it makes `output`.
fn arguments(told: &LlamaQuantize, file: &str, input: &str, output: &str) -> Vec<String> {
    let mut arguments = vec!["--tensor-type-file".to_string(), file.into()];
    let options = [("--token-embedding-type", told.embedding), ("--output-tensor-type", told.head)];
    for (option, tensor_type) in options {
        if let Some(tensor_type) = tensor_type {
            arguments.extend([option.into(), tensor_type.ggml_name()]);
        }
    }
    arguments.extend([input.into(), output.into(), told.base.clone()]);
    arguments
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
    fn types_of_embedding_and_head_are_options_and_the_files_come_last() {
        let (embedding, base) = (Some(TensorType::Q8_0), "Q4_0".to_string());
        let told = LlamaQuantize { lines: Vec::new(), embedding, head: None, base };
        assert_eq!(
            arguments(&told, "types.txt", "in.gguf", "out.gguf").join(" "),
            "--tensor-type-file types.txt --token-embedding-type q8_0 in.gguf out.gguf Q4_0"
        );
    }

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
