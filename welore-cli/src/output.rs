//! Printing: results on stdout, everything else on stderr.
//!
//! Everything goes through here, because names and paths may hold characters that a terminal acts
//! on: a line escapes all of its text, line breaks too, and a table each of its cells.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Serialize;
use welore_burn::escape;
use welore_burn::progress::check_sound;

/// Whether only errors and warnings are printed on stderr.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Silences progress and notes.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether progress and notes are silenced.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a line of a result on stdout, and returns from the function if that fails. `println!`
/// would panic when the reader has gone or the disk is full.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::output::print_line(format_args!($($text)*))?
    };
}

/// Prints a note on stderr, unless `--quiet` is given. Warnings and errors are not notes.
macro_rules! note {
    ($($text:tt)*) => {
        if !$crate::output::is_quiet() {
            tell!($($text)*);
        }
    };
}

/// Prints a line on stderr. If that fails, the program continues; `eprintln!` would panic.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::output::tell_line(format_args!($($text)*))
    };
}

/// Prints a line on stdout, unless what it says may be wrong.
pub fn print_line(text: Arguments<'_>) -> anyhow::Result<()> {
    print_block(&escape::terminal(&text.to_string()))
}

/// Prints a line on stderr, if that is possible.
pub fn tell_line(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{}", escape::terminal(&text.to_string()));
}

/// Prints lines on stdout that hold no text from elsewhere, or only escaped text, unless what they
/// say may be wrong.
pub fn print_block(lines: &str) -> anyhow::Result<()> {
    check_sound()?;
    writeln!(std::io::stdout().lock(), "{lines}").context("standard output")
}

/// Prints a result as JSON on stdout.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print_block(&escape::json(&serde_json::to_string_pretty(value)?))
}

/// Prints the next piece of a text that a model generates. A file or a pipe gets it as it is.
pub fn print_piece(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => stdout.write_all(escape::prose(text).as_bytes()),
        false => stdout.write_all(text.as_bytes()),
    };
    written.and_then(|()| stdout.flush()).context("standard output")
}
