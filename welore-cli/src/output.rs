//! Printing: results on stdout, everything else on stderr.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Serialize;
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
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Prints a line on stdout, unless what it says may be wrong.
pub fn print_line(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    check_sound()?;
    writeln!(std::io::stdout().lock(), "{text}").context("standard output")
}

/// Prints a result as JSON on stdout.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print_line(format_args!("{}", serde_json::to_string_pretty(value)?))?;
    Ok(())
}
