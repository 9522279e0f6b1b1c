//! From an error to one line, a hint and an exit code.

mod causes;
mod compression;
mod files;
mod ranges;
mod running;

use std::error::Error;
use std::io::ErrorKind;
use std::process::ExitCode;

use welore_burn::progress::Interrupted;
use welore_burn::train::{RunFileError, TrainError};

use self::causes::judge_cause;
use self::ranges::out_of_range;
use crate::args::flag_of;
use crate::failure::{NotImproved, Panic};
use crate::terminal::is_part;

/// What an error means to the caller.
struct Verdict {
    /// Whether the user can fix it by giving something else.
    input: bool,
    hint: Option<String>,
}

impl Verdict {
    fn input(hint: impl Into<Option<&'static str>>) -> Self {
        Self { input: true, hint: hint.into().map(String::from) }
    }

    /// A mistake whose hint depends on it.
    fn input_with(hint: String) -> Self {
        Self { input: true, hint: Some(hint) }
    }

    fn failed(hint: impl Into<Option<&'static str>>) -> Self {
        Self { input: false, hint: hint.into().map(String::from) }
    }
}

/// Prints an error and gives the exit code: 2 for wrong input, 3 for a run that did not improve the
/// model although it had to, 1 for everything else.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // The reader of the result, such as `head`, has seen enough.
        return ExitCode::SUCCESS;
    }
    if is_part() && error.chain().any(|cause| cause.is::<Interrupted>()) {
        // The command that this one is a part of reports it.
        return ExitCode::FAILURE;
    }
    let verdict = judge(error);
    tell!("error: {}{}", if is_bug(error) { "internal error: " } else { "" }, message_of(error));
    if let Some(hint) = verdict.hint {
        tell!("hint: {hint}");
    }
    if let Some(panic) = error.downcast_ref::<Panic>().filter(|_| is_bug(error)) {
        panic.backtrace.lines().for_each(|line| tell!("{line}"));
    }
    match verdict.input {
        true => ExitCode::from(2),
        false if error.is::<NotImproved>() => ExitCode::from(3),
        false => ExitCode::FAILURE,
    }
}

/// The causes of an error on one line, outermost first. Most messages here contain that of their
/// cause, which is then not repeated, and say in plain words what is wrong with JSON; some messages
/// span several lines.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let is_told = !text.is_empty() && cause.is::<serde_json::Error>();
        let cause = words_of(cause).split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            text = cause;
        } else if !is_told && !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    shortened(&text)
}

/// Characters of the longest message. Files from strangers may have names without an end.
const LONGEST: usize = 1000;

/// A message that is too long, without its middle.
fn shortened(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= LONGEST {
        return text.into();
    }
    let (start, end) = (&chars[..LONGEST * 3 / 4], &chars[chars.len() - LONGEST / 4..]);
    start.iter().chain(&[' ', '…', ' ']).chain(end).collect()
}

/// The message of a cause, with the library's options named by their flags.
fn words_of(cause: &(dyn Error + 'static)) -> String {
    if let Some(TrainError::Option { name, reason }) = cause.downcast_ref() {
        return format!("{}: {reason}", flag_of(name));
    }
    if let Some(RunFileError::Option { path, .. }) = cause.downcast_ref() {
        return path.display().to_string();
    }
    cause.to_string()
}

/// The message of an error. Backends report exhausted memory at the end of a long list of what
/// could not be done without it, which is shortened.
fn message_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Panic>() {
        Some(panic) if panic.is_out_of_memory() => "out of memory on the device".into(),
        _ => one_line(error),
    }
}

/// Whether an error is an unforeseen panic.
fn is_bug(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Panic>().is_some_and(|panic| !panic.is_out_of_memory())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
}

/// What an error means: the outermost cause that has a verdict decides.
fn judge(error: &anyhow::Error) -> Verdict {
    let verdict =
        |cause: &(dyn Error + 'static)| out_of_range(cause).or_else(|| judge_cause(cause));
    error.chain().find_map(verdict).unwrap_or(Verdict::failed(None))
}
