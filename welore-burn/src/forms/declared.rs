//! What a plan says of the form of a matrix.

use serde_json::{Map, Value, json};

use super::form::Form;
use super::storage::Storage;
use crate::named::Named;

/// Brings the entry of a matrix in a plan up to date. Before version 3, `low_rank`, `storage` and
/// `rank` said together which form a matrix has; now `form` does.
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
