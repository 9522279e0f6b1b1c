//! `reference`, a hidden command: prints `docs/cli.md` from the parser's own definitions.

use std::fmt::{Result as Written, Write};

use anyhow::Result;
use clap::{Arg, Command, CommandFactory};

use crate::args::Cli;
use crate::output;

/// Runs the command.
pub fn run() -> Result<()> {
    let mut cli = Cli::command();
    // Sets the names in usage lines.
    cli.build();
    let mut page = String::new();
    write_page(&mut page, &cli)?;
    output::print_block(page.trim_end())
}

fn write_page(page: &mut String, cli: &Command) -> Written {
    writeln!(page, "# The command line\n")?;
    writeln!(page, "The `--help` of every command of `welore-cli`. This page is generated:\n")?;
    writeln!(page, "```sh\nwelore-cli reference > docs/cli.md\n```\n")?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in cli.get_subcommands().filter(shown) {
        let name = command.get_name();
        writeln!(page, "- [`{name}`](#{name}): {}", text(command.get_about()))?;
    }
    writeln!(page, "\n## Options of every command\n")?;
    for arg in cli.get_arguments().filter(|arg| arg.is_global_set()) {
        write_arg(page, arg)?;
    }
    for command in cli.get_subcommands().filter(shown) {
        write_command(page, command)?;
    }
    Ok(())
}

fn write_command(page: &mut String, command: &Command) -> Written {
    writeln!(page, "\n## {}\n", command.get_name())?;
    writeln!(page, "{}.\n", text(command.get_about()))?;
    let usage = command.clone().render_usage().to_string();
    writeln!(page, "```\n{}\n```", usage.trim_start_matches("Usage: "))?;
    let own = |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help" && !arg.is_hide_set();
    let mut headings: Vec<&str> = Vec::new();
    for arg in command.get_arguments().filter(own) {
        let heading = heading_of(arg);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        writeln!(page, "\n**{heading}**\n")?;
        let args = command.get_arguments().filter(own);
        for arg in args.filter(|arg| heading_of(arg) == heading) {
            write_arg(page, arg)?;
        }
    }
    if let Some(examples) = command.get_after_long_help() {
        let examples = examples.to_string();
        let lines = examples.lines().filter_map(|line| line.strip_prefix("  "));
        let lines: Vec<&str> = lines.collect();
        writeln!(page, "\n```sh\n{}\n```", lines.join("\n"))?;
    }
    Ok(())
}

fn heading_of(arg: &Arg) -> &str {
    let otherwise = if arg.is_positional() { "Arguments" } else { "Options" };
    arg.get_help_heading().unwrap_or(otherwise)
}

fn write_arg(page: &mut String, arg: &Arg) -> Written {
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    write!(page, "- {short}`{arg}`: {}", text(arg.get_long_help().or(arg.get_help())))?;
    if arg.get_action().takes_values() && !arg.get_default_values().is_empty() {
        let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        write!(page, " [default: {}]", values.collect::<Vec<_>>().join(", "))?;
    }
    if let Some(variable) = arg.get_env() {
        write!(page, " [env: {}]", variable.to_string_lossy())?;
    }
    writeln!(page)?;
    for value in arg.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
        match value.get_help() {
            Some(help) => writeln!(page, "  - `{}`: {help}", value.get_name())?,
            None => writeln!(page, "  - `{}`", value.get_name())?,
        }
    }
    Ok(())
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default()
}
