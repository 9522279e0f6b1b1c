//! The model card of a model with fewer channels.

use super::base_model::{licence_of, metadata_of, name_of, where_stated};
use super::card::{HEADER, MEASURED, MEASURED_TITLE};
use crate::channels::{ChannelPlan, Widths};
use crate::escape::{markdown, markdown_code};

/// What the card of a model with fewer channels is made from.
#[derive(Debug, Clone, Copy)]
pub struct ChannelCard<'a> {
    /// The model that it was made from, by a name for people.
    pub base: &'a str,
    /// The model card of that model, if it has one. Its licence applies.
    pub base_card: Option<&'a str>,
    /// The channels that are kept.
    pub plan: &'a ChannelPlan,
    /// The estimated rise of the loss in nats per token, from what is stored.
    pub loss: f64,
    /// The program that made it.
    pub made_by: &'a str,
}

impl ChannelCard<'_> {
    /// The card in Markdown, with the metadata that model hubs read.
    pub fn to_markdown(&self) -> String {
        let Self { base, base_card, plan, loss, made_by } = *self;
        let used = match plan.widths {
            Widths::One => {
                "The model is dense and of the architecture of its base, so what loads the base \
                 loads it: `AutoModelForCausalLM.from_pretrained(DIR)` in transformers. So does \
                 welore: `welore-cli generate DIR --prompt TEXT`."
            }
            Widths::Each => {
                "The widths of its MLPs differ, which `config.json` states as a list. welore reads \
                 that (`welore-cli generate DIR --prompt TEXT`), transformers does not. \
                 `welore-cli export DIR --gguf FILE` writes a file for llama.cpp."
            }
        };
        format!(
            "---\n{}tags:\n- welore\n---\n\n\
             # {}, fewer channels\n\n\
             This is {} with fewer channels in its MLPs, made by {}. The down projections were \
             fitted again to the channels that are kept.\n\n\
             | | before | after |\n|---|---|---|\n\
             | parameters | {} | {} |\n\
             | bytes | {} | {} |\n\n\
             - Target: {}.\n\
             - Channels: {} in each MLP, chosen by what leaving them out costs on a calibration \
             text.\n\
             - The loss is expected to rise by {loss:.3} nats per token.\n\
             - `welore_channels.json` lists the channels that are kept.\n\n\
             {MEASURED_TITLE}\n\n\
             `welore-cli eval DIR --text FILE --record` adds a row.\n\n\
             {HEADER}\n{MEASURED}\n\n\
             ## Use\n\n{used}\n\n\
             ## Licence\n\n\
             A compressed model is a work derived from its base model, whose licence applies{}.\n",
            metadata_of(base, base_card),
            markdown(name_of(base)),
            markdown_code(base),
            markdown(made_by),
            plan.parameters_before,
            plan.parameters_after,
            plan.bytes_before,
            plan.bytes_after,
            plan.target,
            plan.describe_widths(),
            where_stated(&licence_of(base_card)),
        )
    }
}
