//! The cards of models that were changed after they were compressed, or converted instead.

use std::borrow::Cow;

use super::base_model::{licence_of, metadata_of, name_of, where_stated};
use super::card::{BYTES, HEADER, MEASURED, MEASURED_TITLE, bytes_row};
use super::loading::CODE;
use crate::escape::{markdown, markdown_code};
use crate::forms::Precision;
use crate::plan::RankPlan;

/// What the card of a dense model is made from that was written in another type or another format.
#[derive(Debug, Clone, Copy)]
pub struct ConvertedCard<'a> {
    /// The model that was converted, by a name for people.
    pub base: &'a str,
    /// The model card of that model, if it has one. Its licence applies.
    pub base_card: Option<&'a str>,
    /// The type that all numbers now have, if they were converted to one.
    pub precision: Option<Precision>,
    /// The program that converted it.
    pub made_by: &'a str,
}

impl ConvertedCard<'_> {
    /// The card in Markdown, with the metadata that model hubs read.
    pub fn to_markdown(&self) -> String {
        let Self { base, base_card, precision, made_by } = *self;
        let numbers = match precision {
            Some(precision) => format!(" with all numbers stored as {}", precision.dtype()),
            None => String::new(),
        };
        format!(
            "---\n{}tags:\n- welore\n---\n\n\
             # {}\n\n\
             This is {} in safetensors{numbers}, converted by {}.\n\n\
             ## Licence\n\n\
             A converted model is a work derived from its base model, whose licence applies{}.\n",
            metadata_of(base, base_card),
            markdown(name_of(base)),
            markdown_code(base),
            markdown(made_by),
            where_stated(&licence_of(base_card)),
        )
    }
}

/// The card of a model after fine-tuning: it states `how`, and what was measured before is removed.
/// `None` if `card` is not a card made here.
pub fn tuned_card(card: &str, how: &str) -> Option<String> {
    let card = with_present_code(card);
    let (before, after) = around_scores(&card)?;
    Some(format!("{before}Fine-tuned after compression: {}.\n\n{after}", markdown(how)))
}

/// The card of a compressed model whose numbers were converted to another type: it states the type
/// and the new sizes in `plan`, and what was measured before is removed. `None` if `card` is not a
/// card made here.
pub fn converted_card(card: &str, plan: &RankPlan, precision: Precision) -> Option<String> {
    const STORED: &str = "All numbers are stored as ";
    let card = with_present_code(card);
    let (before, after) = around_scores(&card)?;
    let mut text = String::new();
    let mut lines = before.lines();
    while let Some(line) = lines.next() {
        if line.starts_with(STORED) {
            // With the empty line after it.
            lines.next();
            continue;
        }
        match line.starts_with(BYTES) {
            true => text += &bytes_row(plan.totals.bytes_before, plan.totals.bytes_after),
            false => text += line,
        }
        text.push('\n');
    }
    Some(format!("{text}{STORED}{}.\n\n{after}", precision.dtype()))
}

/// A card with the present lines for transformers, where it has the longer code that earlier versions
/// pasted, which does not load what is written now.
fn with_present_code(card: &str) -> Cow<'_, str> {
    const BEGINNING: &str = "that any tool for this architecture loads.\n\n\
                             With PyTorch, from within this directory:\n\n```python\n";
    const END: &str = "\n```";
    let parts = card.split_once(BEGINNING);
    match parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1))) {
        Some((before, after)) => Cow::Owned(format!("{before}{CODE}{after}")),
        None => Cow::Borrowed(card),
    }
}

/// The parts of a card before and after a line that is added above its scores, which are removed.
/// `None` if it is not a card made here.
fn around_scores(card: &str) -> Option<(&str, String)> {
    let (before, rest) = card.split_once(&format!("{MEASURED_TITLE}\n"))?;
    let (asked, rows) = rest.split_once(HEADER)?;
    let (_, after) = rows.split_once(&format!("{MEASURED}\n"))?;
    Some((before, format!("{MEASURED_TITLE}\n{asked}{HEADER}\n{MEASURED}\n{after}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_of_a_converted_dense_model_has_its_licence() {
        let base_card = Some("---\nlicense: mit\n---\nBest model.\n");
        let card = |base, base_card, precision| {
            ConvertedCard { base, base_card, precision, made_by: "test 1" }.to_markdown()
        };
        let text = card("org/name", base_card, Some(Precision::F16));
        assert!(text.starts_with("---\nlicense: mit\nbase_model: org/name\ntags:\n"), "{text}");
        assert!(text.contains("# name\n\n") && text.contains("stored as F16"), "{text}");
        let text = card("a.gguf", None, None);
        assert!(text.contains("`a.gguf` in safetensors, converted by test 1"), "{text}");
        assert!(text.contains("not stated"), "{text}");
    }
}
