//! Rows of a card that say what was measured.

use std::fmt::Write;

use super::card::MEASURED;
use crate::escape::markdown;

/// A measured score of a model.
#[derive(Debug, Clone, Copy)]
pub struct Measurement<'a> {
    /// What is measured: `perplexity`, `accuracy`.
    pub score: &'a str,
    /// Its value, in the unit of the score.
    pub value: f64,
    /// What it was measured on: the text or task, and how much of it.
    pub of: &'a str,
    /// The program that measured.
    pub made_by: &'a str,
}

impl Measurement<'_> {
    /// The card with this measurement in its table, in place of an earlier one of the same score on
    /// the same text or task. `None` if the card has no such table.
    pub fn add_to(&self, card: &str) -> Option<String> {
        let key = format!("| {} | ", markdown(self.score));
        let of = format!(" | {} | ", markdown(self.of));
        let (before, after) = card.split_once(&format!("{MEASURED}\n"))?;
        let kept = before.lines().filter(|line| !(line.starts_with(&key) && line.contains(&of)));
        let mut card = kept.fold(String::new(), |text, line| text + line + "\n");
        let value = format!("{:.4}", self.value);
        let _ = writeln!(card, "{key}{value}{of}{} |", markdown(self.made_by));
        Some(card + MEASURED + "\n" + after)
    }
}
