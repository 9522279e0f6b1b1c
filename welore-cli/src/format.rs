//! Numbers and tables for people, JSON for programs.

use std::io::Write;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// `112616064` as `112.6 M`.
pub fn count(value: u64) -> String {
    scaled(value, &["", " k", " M", " G", " T"])
}

/// `538060032` as `538.1 MB`.
pub fn bytes(value: u64) -> String {
    scaled(value, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(value: u64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 999.95 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value}{}", units[0]),
        _ => format!("{scaled:.1}{}", units[unit]),
    }
}

/// `0.8372` as `83.7%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Perplexity with four significant digits or so, also when it is astronomical.
pub fn perplexity(value: f64) -> String {
    match value {
        v if v < 1000.0 => format!("{v:.3}"),
        v if v < 1e6 => format!("{v:.0}"),
        v => format!("{v:.3e}"),
    }
}

/// A table with plain rules; all columns but the first to the right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// Prints a line of a result on stdout, and returns from the function if that fails: unlike
/// `println!`, which panics when the reader has gone or the disk is full.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::format::print_line(format_args!($($text)*))?
    };
}

/// Prints a line on stdout.
pub fn print_line(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("standard output")
}

/// Prints a result as JSON on stdout.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print_line(format_args!("{}", serde_json::to_string_pretty(value)?))?;
    Ok(())
}
