use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::llama::{described, restored};
use super::{Architecture, ignored_window};
use crate::model::DecoderConfig;

/// As `llama`, with MLPs whose widths differ between layers: the others give all layers the width of
/// the first one.
#[derive(Debug)]
pub(super) struct Deci;

impl Architecture for Deci {
    fn name(&self) -> &'static str {
        "deci"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &[]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        described(config).with_intermediate_sizes(config.intermediate_sizes.clone())
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        restored(stated, json)
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        ignored_window(config)
    }
}
