//! A PEFT adapter of any kind, as lines at the top of a page. Of its tensors, only their sizes are told,
//! and that all numbers are finite.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::escape::shortened;
use welore_burn::files::{LARGEST_CONFIG, read_file};
use welore_burn::report::{Fact, FactUnit, Topic};

use super::labels;
use crate::failure::WrongInput;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// How many of the modules that an adapter changes are named.
const NAMED: usize = 8;

/// The most characters of a name or an expression.
const LONGEST: usize = 80;

/// What an adapter says.
pub fn facts_of_adapter(dir: &Path) -> Result<Vec<Fact>> {
    let config = dir.join(CONFIG);
    if !config.is_file() {
        let message = format!("{}: not a PEFT adapter, it has no {CONFIG}", dir.display());
        let hint = "give the directory that PEFT or `train --trainable lora` wrote";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    let bytes = read_file(&config, LARGEST_CONFIG)?;
    let config: Value = serde_json::from_slice(&bytes)
        .map_err(|error| WrongInput::new(format!("{}: {error}", config.display())))?;
    let weights = dir.join(WEIGHTS);
    if !weights.is_file() {
        let message = format!("{}: there is no {WEIGHTS}", dir.display());
        let hint = "in Python, `model.save_pretrained(DIR)` of PEFT writes safetensors";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    let tensors = Checkpoint::open_file(&weights)?;
    let mut ranks = Vec::new();
    for name in tensors.names() {
        tensors.check_finite(name)?;
        if name.contains(".lora_A.")
            && let Some(meta) = tensors.meta(name)
        {
            ranks.extend(meta.shape.first().copied());
        }
    }
    let (parameters, bytes) = (tensors.parameters() as f64, tensors.bytes() as f64);
    let label = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
    // These are not the size of the model.
    let size = |what: &str, value: f64, unit: FactUnit| {
        let what = format!("{what} of the adapter {label}");
        Fact::change(Topic::Size, what, None, value, unit).expected()
    };
    Ok(vec![
        size("parameters", parameters, FactUnit::Count),
        size("bytes", bytes, FactUnit::Bytes),
        Fact::text(Topic::Work, format!("adapter {label}"), in_words(&config, &ranks)),
    ])
}

fn in_words(config: &Value, ranks: &[usize]) -> String {
    let kind = config["peft_type"].as_str().unwrap_or("adapter");
    let mut said = kind.to_string();
    match (ranks.iter().min(), ranks.iter().max()) {
        (Some(least), Some(most)) if least == most => said += &format!(" of rank {least}"),
        (Some(least), Some(most)) => said += &format!(" of ranks {least} to {most}"),
        _ => {}
    }
    if let Some(alpha) = config["lora_alpha"].as_f64() {
        said += &format!(", alpha {alpha}");
    }
    match &config["target_modules"] {
        Value::String(pattern) => said += &format!(", on {}", shortened(pattern, LONGEST)),
        Value::Array(names) => {
            let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            // PEFT writes a set, in no order.
            names.sort_unstable();
            let more = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            let names: Vec<_> = names.iter().map(|name| shortened(name, LONGEST)).collect();
            said += &format!(", on {}", names.join(", "));
            if more > 0 {
                said += &format!(" and {more} more");
            }
        }
        _ => {}
    }
    if let Some(base) = config["base_model_name_or_path"].as_str().filter(|base| !base.is_empty()) {
        said += &format!(", for {}", labels::of_model(base));
    }
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn adapter_is_told_by_its_ranks_and_what_it_changes() {
        let config = json!({
            "peft_type": "LORA", "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"],
            "base_model_name_or_path": "org/name",
        });
        let said = "LORA of ranks 4 to 8, alpha 16, on q_proj, v_proj, for org/name";
        assert_eq!(in_words(&config, &[8, 4]), said);
        let many: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
        let said = in_words(&json!({ "target_modules": many }), &[2, 2]);
        assert!(said.starts_with("adapter of rank 2, on m0, ") && said.ends_with(" and 2 more"));
        for long in [json!("x".repeat(999)), json!(["x".repeat(999)])] {
            let said = in_words(&json!({ "target_modules": long }), &[]);
            assert!(said.chars().count() < 100 && said.ends_with("x…"), "{said}");
        }
    }
}
