//! `completions`: what shells need to complete options.

use anyhow::Result;
use clap::{Command, CommandFactory};

use crate::args::{Cli, CompletionsArgs};

/// Runs the command.
pub fn run(args: CompletionsArgs) -> Result<()> {
    // What is hidden is not offered.
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = Command::new("welore-cli").args(whole.get_arguments()).subcommands(shown);
    let mut script = Vec::new();
    // Not straight to stdout: the generators panic where it cannot be written.
    clap_complete::generate(args.shell, &mut shown, "welore-cli", &mut script);
    let script = String::from_utf8_lossy(&script);
    // clap_complete 4.6 takes the hyphen of our name for the beginning of a subcommand in one of
    // two places in bash, so that nothing after the first word would be completed.
    let script = script.replace("welore__subcmd__cli", "welore__cli");
    say!("{}", script.trim_end());
    Ok(())
}
