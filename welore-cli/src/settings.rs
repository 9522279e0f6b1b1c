//! The command line, completed by options from a file of settings.
//!
//! Options from the file are inserted among the typed words and read by the same parser, so the
//! file can do exactly what options can do, and is refused for the same reasons.

use std::any::TypeId;
use std::env::var_os;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser};
use toml::{Table, Value};
use welore_burn::files::{LARGEST_CONFIG, read_input};

use crate::args::{Cli, Typed};
use crate::failure::WrongInput;

/// The variable that names the file if `--config` does not.
pub const VARIABLE: &str = "WELORE_CONFIG";

/// The file that was read.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// The file of settings that this command has read, if any: one of its inputs.
pub fn file() -> Option<&'static Path> {
    FILE.get().map(PathBuf::as_path)
}

/// Reads the words of a command line, and the file of settings that they name. Also returns which
/// options were typed. If the words themselves are wrong, or ask for help, clap ends the process.
///
/// # Errors
///
/// [`WrongInput`] for a mistake in the file and for a prompt without its option,
/// [`FileError`](welore_burn::files::FileError) if the file cannot be read.
pub fn read(mut words: Vec<OsString>) -> Result<(Cli, Typed)> {
    let typed = Cli::try_parse_from(&words);
    if let Err(error) = &typed
        && error.kind() != ErrorKind::MissingRequiredArgument
    {
        // Help is a result like others, which `exit` would lose silently if it cannot be written.
        if !error.use_stderr() {
            error.print().context("standard output")?;
            std::process::exit(0);
        }
        let mistake = stray_prompt(&words, error).or_else(|| wrong_variable(&words, error));
        if let Some(mistake) = mistake {
            return Err(mistake.into());
        }
        error.exit();
    }
    // A missing option may be in the file, so the words are parsed once more without requiring it.
    let seen = Cli::command().ignore_errors(true).try_get_matches_from(&words).ok();
    let command = seen.as_ref().and_then(ArgMatches::subcommand);
    let options = command.map(|(_, given)| Typed::of(given)).unwrap_or_default();
    let seen = seen.as_ref().and_then(|seen| Some((file_of(seen)?, command?)));
    let Some((path, (name, given))) = seen else {
        return Ok((typed.unwrap_or_else(|error| error.exit()), options));
    };
    let path = FILE.get_or_init(|| path);
    let cli = Cli::command();
    let tables = tables(path, &cli)?;
    if let (Some(Value::Table(table)), Some(command)) =
        (tables.get(name), cli.find_subcommand(name))
    {
        let added = words_of(command, table, given);
        let at = (place_of_command(&words, &cli) + 1).min(words.len());
        drop(words.splice(at..at, added));
    }
    match Cli::try_parse_from(&words) {
        Ok(cli) => Ok((cli, options)),
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => error.exit(),
        Err(error) => Err(complaint(path, name, &error)),
    }
}

/// The mistake of a prompt that is given to `generate` without its option. In the parser's own words
/// it would be an unexpected argument.
fn stray_prompt(words: &[OsString], error: &clap::Error) -> Option<WrongInput> {
    let command = words.get(place_of_command(words, &Cli::command()))?;
    let Some(ContextValue::String(text)) = error.get(ContextKind::InvalidArg) else { return None };
    let is_unexpected = error.kind() == ErrorKind::UnknownArgument && !text.starts_with('-');
    (is_unexpected && command == "generate").then(|| {
        WrongInput::with_hint(
            format!("`{text}` is neither MODEL nor an option; the text to continue needs --prompt"),
            "welore-cli generate MODEL --prompt \"TEXT\", in quotes if it has several words",
        )
    })
}

/// The mistake of a variable whose value its option cannot have. The parser would name the option,
/// which was not typed.
fn wrong_variable(words: &[OsString], error: &clap::Error) -> Option<WrongInput> {
    let (Some(ContextValue::String(option)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let cli = Cli::command();
    let command = cli.find_subcommand(words.get(place_of_command(words, &cli))?)?;
    let name = option.split([' ', '=']).next()?.strip_prefix("--")?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    let variable = arg.get_env()?;
    let typed = format!("--{name}");
    let is_typed = words.iter().any(|word| word.to_string_lossy().starts_with(&typed));
    if is_typed || var_os(variable).is_none_or(|set| set.to_string_lossy() != *value) {
        return None;
    }
    let message = format!("{}={value}: not a value of {typed}", variable.to_string_lossy());
    let hint = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => Some(format!("give one of {}", values.join(", "))),
        _ => None,
    };
    Some(WrongInput { message, hint })
}

/// The file to read, if any.
fn file_of(matches: &ArgMatches) -> Option<PathBuf> {
    let named = matches.get_one::<PathBuf>("config").cloned();
    named.or_else(|| var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from))
}

/// The tables of a file, after checking every key and the type of every value, including those of
/// other commands.
fn tables(path: &Path, cli: &Command) -> Result<Table> {
    let bytes = read_input(path, LARGEST_CONFIG)?;
    let Ok(text) = String::from_utf8(bytes) else {
        return refuse(path, "not UTF-8 text", None);
    };
    let tables: Table = match toml::from_str(&text) {
        Ok(tables) => tables,
        Err(error) => {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count();
            return refuse(path, &format!("line {line}: {}", error.message()), None);
        }
    };
    let commands = || cli.get_subcommands().filter(|command| !command.is_hide_set());
    for (name, value) in &tables {
        let Value::Table(table) = value else {
            let hint = "options belong in the table of a command, such as `[train]`".into();
            return refuse(path, &format!("`{name}` is not in a table"), Some(hint));
        };
        let Some(command) = commands().find(|command| command.get_name() == name) else {
            let hint = similar(name, commands().map(Command::get_name));
            return refuse(path, &format!("[{name}]: no such command"), hint);
        };
        for (key, value) in table {
            let Some(option) = option(command, key) else {
                let hint = similar(key, command.get_arguments().filter_map(Arg::get_long));
                let hint =
                    hint.unwrap_or_else(|| format!("`welore-cli {name} --help` lists the options"));
                return refuse(path, &format!("[{name}] {key}: no such option"), Some(hint));
            };
            if values_of(option, value).is_none() {
                let (found, takes) = (value.type_str(), what_it_takes(option));
                let message = format!("[{name}] {key}: found type {found}, expected {takes}");
                return refuse(path, &message, None);
            }
            if holds_nul(value) {
                return refuse(path, &format!("[{name}] {key}: holds a NUL character"), None);
            }
        }
    }
    Ok(tables)
}

/// The option that a key names: by its long name or an alias, with hyphens or underscores.
fn option<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let key = key.replace('_', "-");
    command.get_arguments().find(|arg| {
        let mut aliases = arg.get_all_aliases().into_iter().flatten();
        arg.get_long() == Some(key.as_str()) || aliases.any(|alias| alias == key)
    })
}

/// A hint at the name that was probably meant.
fn similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.replace('_', "-");
    names
        .map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// The options that a file may set for a resumed run.
const WITH_RESUME: [&str; 5] = ["backend", "device", "json", "must_improve", "report"];

/// A table as words of a command line, without the options that given ones overrule.
fn words_of(command: &Command, table: &Table, given: &ArgMatches) -> Vec<OsString> {
    let mut words = Vec::new();
    for (key, value) in table {
        let Some(option) = option(command, key) else { continue };
        // A resumed run keeps its own settings; the file must not change them.
        let goes_on = given.try_contains_id("resume").unwrap_or(false)
            && given.value_source("resume").is_some();
        if goes_on && !WITH_RESUME.contains(&option.get_id().as_str()) {
            continue;
        }
        if is_overruled(command, option, given) {
            continue;
        }
        let Some(long) = option.get_long() else { continue };
        // Values of another type were refused before.
        let values = values_of(option, value).unwrap_or_default();
        words.extend(values.into_iter().map(|value| match value {
            Some(value) => OsString::from(format!("--{long}={value}")),
            None => OsString::from(format!("--{long}")),
        }));
    }
    words
}

/// Whether an option, or another that conflicts with it, was given on the command line or in the
/// environment.
fn is_overruled(command: &Command, option: &Arg, given: &ArgMatches) -> bool {
    let is_given = |arg: &Arg| {
        let source = given.value_source(arg.get_id().as_str());
        source.is_some_and(|source| source != ValueSource::DefaultValue)
    };
    let excludes = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|arg| arg.get_id() == other.get_id())
    };
    let compete = |one: &Arg, other: &Arg| {
        command.get_groups().any(|group| {
            let members = || group.get_args();
            // The method takes `&mut self` and changes nothing.
            !group.clone().is_multiple()
                && members().any(|id| id == one.get_id())
                && members().any(|id| id == other.get_id())
        })
    };
    is_given(option)
        || command.get_arguments().filter(|other| is_given(other)).any(|other| {
            excludes(option, other) || excludes(other, option) || compete(option, other)
        })
}

/// The values that follow an option, one for each time it has to be given; a switch has a `None`
/// for its value. The result is `None` if the option does not take the value.
fn values_of(option: &Arg, value: &Value) -> Option<Vec<Option<String>>> {
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Some(vec![None]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Some(Vec::new()),
        (ArgAction::SetTrue, _) => None,
        (ArgAction::Append, Value::Array(values)) => {
            values.iter().map(|value| scalar(option, value).map(Some)).collect()
        }
        _ => Some(vec![Some(scalar(option, value)?)]),
    }
}

/// Whether a value is text that the words of a command line cannot hold.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        _ => false,
    }
}

fn scalar(option: &Arg, value: &Value) -> Option<String> {
    match value {
        // Sizes are numbers with a unit.
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) if is_number(option) => Some(number.to_string()),
        Value::Float(number) if is_number(option) => Some(number.to_string()),
        _ => None,
    }
}

fn is_number(option: &Arg) -> bool {
    let of = option.get_value_parser().type_id();
    let numbers = [
        TypeId::of::<f64>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroUsize>(),
    ];
    numbers.iter().any(|number| of == *number)
}

fn what_it_takes(option: &Arg) -> &'static str {
    match option.get_action() {
        ArgAction::SetTrue => "true or false",
        ArgAction::Append if is_number(option) => "a number, or a list of numbers",
        ArgAction::Append => "text in quotes, or a list of texts",
        _ if is_number(option) => "a number",
        _ => "text in quotes",
    }
}

/// The index of the command's name among the words.
fn place_of_command(words: &[OsString], cli: &Command) -> usize {
    let takes_value = |word: &str| {
        let long = word.strip_prefix("--");
        let mut options = cli.get_arguments().filter(|arg| arg.get_action().takes_values());
        options.any(|arg| long.is_some() && arg.get_long() == long)
    };
    let mut place = 1;
    while let Some(word) = words.get(place).map(|word| word.to_string_lossy()) {
        if !word.starts_with('-') {
            break;
        }
        place += if takes_value(&word) { 2 } else { 1 };
    }
    place
}

/// Clap's complaint about options from the file, in the form of this program's errors.
fn complaint(path: &Path, command: &str, error: &clap::Error) -> anyhow::Error {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let what = first.trim_start_matches("error: ");
    let hint = text.lines().find_map(|line| line.trim_start().strip_prefix("tip: "));
    let message = format!("{}: [{command}] {what}", path.display());
    WrongInput { message, hint: hint.map(String::from) }.into()
}

fn refuse<T>(path: &Path, what: &str, hint: Option<String>) -> Result<T> {
    let message = format!("{}: {what}", path.display());
    Err(WrongInput { message, hint }.into())
}
