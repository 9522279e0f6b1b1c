//! Arguments that several commands share.

use std::any::TypeId;
use std::num::{IntErrorKind, NonZeroUsize, ParseIntError};
use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;
use clap::{Arg, ArgAction, Args, Command};
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

/// Makes the options of a command that take a count or a finite number refuse other values in plain
/// words, negative ones included. Those that take a share also take a percentage.
pub(super) fn numbers_in_words(command: Command) -> Command {
    command.mut_args(|arg: Arg| {
        let of = arg.get_value_parser().type_id();
        if of == TypeId::of::<usize>() {
            arg.value_parser(whole::<usize>).allow_negative_numbers(true)
        } else if of == TypeId::of::<NonZeroUsize>() {
            arg.value_parser(whole_above_0).allow_negative_numbers(true)
        } else if of == TypeId::of::<f64>() {
            let arg = arg.allow_negative_numbers(true);
            if is_share(&arg) { arg.value_parser(share) } else { arg.value_parser(number) }
        } else {
            arg
        }
    })
}

/// Parses a whole number.
pub(super) fn whole<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "this number is too large".into(),
        _ if text.starts_with('-') => "must be a whole number of at least 0".into(),
        _ => "must be a whole number".into(),
    })
}

fn whole_above_0(text: &str) -> Result<NonZeroUsize, String> {
    NonZeroUsize::new(whole(text)?).ok_or_else(|| "must be at least 1".into())
}

/// Parses a finite number.
fn number(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) => Ok(number),
        _ => Err("must be a finite number".into()),
    }
}

/// The names of values that are shares.
const SHARES: [&str; 3] = ["SHARE", "SHARES", "ERR"];

/// Whether the value of an option is a share of something.
fn is_share(arg: &Arg) -> bool {
    let mut names = arg.get_value_names().into_iter().flatten();
    names.any(|name| SHARES.contains(&name.as_str()))
}

/// Parses a share: a finite number such as `0.8`, or a percentage such as `80%`.
fn share(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_suffix('%') {
        // Divided in decimals: `55%` is the same number as `0.55`.
        Some(percent) => number(&format!("{}e-2", percent.trim_end())),
        None => number(text),
    };
    parsed.map_err(|reason| format!("{reason}, or a percentage such as 80%"))
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
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn numbers_that_cannot_be_read_are_refused_in_plain_words() {
        assert_eq!(
            (whole::<usize>("0"), whole::<u64>("18446744073709551615")),
            (Ok(0), Ok(u64::MAX))
        );
        for (text, said) in [
            ("", "a whole number"),
            ("many", "a whole number"),
            ("1.5", "a whole number"),
            ("-1", "at least 0"),
            ("99999999999999999999", "too large"),
        ] {
            assert!(whole::<usize>(text).unwrap_err().contains(said), "{text}");
            assert!(whole_above_0(text).unwrap_err().contains(said), "{text}");
        }
        assert_eq!(whole_above_0("0"), Err("must be at least 1".into()));
        assert_eq!(whole_above_0("3"), Ok(NonZeroUsize::new(3).unwrap()));
        for text in ["x", "", "nan", "-inf"] {
            assert_eq!(number(text), Err("must be a finite number".into()));
        }
        assert_eq!(number("-5e-5"), Ok(-5e-5));
    }

    #[test]
    fn shares_are_numbers_or_percentages() {
        for (text, value) in [
            ("0.8", 0.8),
            ("80%", 0.8),
            ("55 %", 0.55),
            ("33.3%", 0.333),
            ("80", 80.0),
            ("-5%", -0.05),
        ] {
            assert_eq!(share(text), Ok(value), "{text}");
        }
        for text in ["%", "x%", "80%%", "nan%", "inf%", "1e1%", ""] {
            assert!(share(text).unwrap_err().contains("such as 80%"), "{text}");
        }
        assert!(number("80%").is_err());
        let share_of = |line: &str| {
            let words = ["welore-cli"].into_iter().chain(line.split(' '));
            let matches = Cli::command().try_get_matches_from(words).unwrap();
            let (_, given) = matches.subcommand().unwrap();
            given.get_many::<f64>("keep_params").unwrap().copied().collect::<Vec<_>>()
        };
        assert_eq!(share_of("plan m --keep-params 80%"), [0.8]);
        assert_eq!(share_of("compare m --text t --calibrate t --keep-params 90%,0.8"), [0.9, 0.8]);
    }

    #[test]
    fn no_option_answers_a_wrong_value_in_the_words_of_a_parser() {
        let mut seen = 0;
        for command in Cli::command().get_subcommands() {
            let options = command.get_arguments().filter(|arg| arg.get_action().takes_values());
            for option in options.filter_map(Arg::get_long) {
                let flag = format!("--{option}");
                for value in ["words", "-1", "0", "1.5", "99999999999999999999999"] {
                    let words = ["welore-cli", command.get_name(), &flag, value];
                    let Err(error) = Cli::command().try_get_matches_from(words) else { continue };
                    let error = error.to_string();
                    for raw in ["digit", "literal", "non-zero type", "target type", "not in"] {
                        assert!(!error.contains(raw), "--{option} {value}: {error}");
                    }
                    seen += usize::from(error.contains("must be") || error.contains("too large"));
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

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
