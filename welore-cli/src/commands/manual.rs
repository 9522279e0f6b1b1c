//! `manual`, a hidden command for packages: writes manual pages from the parser's own definitions.

use std::io::Write;

use anyhow::Result;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use welore_burn::files::{OutputDir, write_file};

use crate::args::{Cli, ManualArgs};
use crate::shared::artifacts::{check_place, in_target};

/// Runs the command.
pub fn run(args: ManualArgs) -> Result<()> {
    check_place(&args.output)?;
    let output = OutputDir::create(&args.output, false)?;
    in_target(write_pages(&output), &output)?;
    output.commit()?;
    say!("wrote {}", args.output.display());
    Ok(())
}

/// Writes the page of the program and that of each command.
fn write_pages(output: &OutputDir) -> Result<()> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    // Gives commands their whole names, and the options that all of them have.
    cli.build();
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let commands: Vec<Command> = [cli.clone()].into_iter().chain(shown).collect();
    for command in commands {
        let (name, page) = page_of(command)?;
        write_file(output.path().join(name), &page)?;
    }
    Ok(())
}

/// Where the title of a page has its date. An empty one would be left out, and the next field would
/// be the date.
const NO_DATE: &str = " ";

/// The name of a command's page, and the page. It has no date, so that it is the same in every build.
fn page_of(command: Command) -> Result<(String, Vec<u8>)> {
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.after_long_help(None::<&'static str>))
        .date(NO_DATE)
        .source(concat!("welore-cli ", env!("CARGO_PKG_VERSION")))
        .manual("welore-cli");
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.write_all(end_of(&help).as_bytes())?;
    Ok((man.get_filename(), page))
}

/// What stands at the end of a command's help as sections of its page. Examples stay line by line: a
/// paragraph would run them together.
fn end_of(help: &str) -> String {
    let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let mut sections = Roff::new();
    if !examples.is_empty() {
        sections.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples {
            sections.text([roman(line)]);
        }
        sections.control("fi", []);
    }
    if let Some(codes) = help.lines().find_map(|line| line.strip_prefix("Exit codes: ")) {
        sections.control("SH", ["EXIT STATUS"]).text([roman(codes)]);
    }
    sections.render()
}
