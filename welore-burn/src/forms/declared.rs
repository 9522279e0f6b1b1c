//! The form that a plan states for a matrix.

use serde_json::{Map, Value, json};

use super::form::Form;
use super::storage::Storage;
use crate::artifact::in_words;
use crate::named::Named;

/// The form that a matrix entry states, in a plan of any version.
pub(crate) fn declared_form(entry: &mut Map<String, Value>) -> Result<Form, String> {
    update_entry(entry);
    let form = serde_json::from_value(entry["form"].clone());
    let form: Form = form.map_err(|error| in_words(&error))?;
    let rank = entry.get("rank").and_then(Value::as_u64);
    match rank_problem(rank.and_then(|rank| usize::try_from(rank).ok()).unwrap_or(0), form) {
        Some(problem) => Err(problem),
        None => Ok(form),
    }
}

/// Why a rank does not fit a form, which states the rank as well. `None` if it fits.
pub(crate) fn rank_problem(rank: usize, form: Form) -> Option<String> {
    let differs = form.rank().is_some_and(|of_form| of_form != rank);
    differs.then(|| format!("its rank is {rank}, but its form is {form}"))
}

/// Updates the entry of a matrix in a plan. Before version 3, `low_rank`, `storage` and `rank`
/// together stated the form of a matrix; now `form` does.
pub(crate) fn update_entry(entry: &mut Map<String, Value>) {
    if entry.contains_key("form") {
        return;
    }
    let (low_rank, storage) = (entry.remove("low_rank"), entry.remove("storage"));
    let form = match low_rank {
        Some(Value::Bool(true)) => {
            let storage = storage.as_ref().and_then(Value::as_str).and_then(Storage::named);
            let rank = entry.get("rank").and_then(Value::as_u64).unwrap_or(0);
            storage.unwrap_or_default().at_rank(usize::try_from(rank).unwrap_or(0))
        }
        _ => Form::dense(),
    };
    entry.insert("form".into(), json!(form));
}
