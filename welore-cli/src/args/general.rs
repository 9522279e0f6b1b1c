//! Arguments that several commands share.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{ArgAction, Args};
use clap_complete::Shell;

/// Arguments that every command has.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "General")]
pub struct GeneralArgs {
    /// Read options not given on the command line from this TOML file, which has a table for each
    /// command, such as `[train]` with `lr = 1e-4`; relative paths in it start from the working
    /// directory
    /// [env: WELORE_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Hide progress and notes on stderr; warnings and errors are still shown
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log what the program does on stderr; -vv logs every detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The HTML page of the results.
#[derive(Args, Debug, Clone, Default)]
pub struct PageArgs {
    /// Also draw the results as an HTML page in this file; see `report`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell to print completions for
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Parses a finite number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) => Ok(number),
        _ => Err("must be a finite number".into()),
    }
}

/// Parses a number of bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().map(|size| size.0);
    size.map_err(|_| {
        "a size is a number of bytes, or has a unit, as in 400MB, 1.5GB or 2GiB".into()
    })
}

/// Parses a number of bytes above 0.
pub(super) fn size_above_0(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("must be more than 0".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in
            [("1234", 1234), ("400MB", 400_000_000), ("1.5 GB", 1_500_000_000), ("2GiB", 2 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "lots", "-3GB", "3XB", "MB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(size_above_0("0kB").is_err() && size_above_0("1kB") == Ok(1000));
    }
}
