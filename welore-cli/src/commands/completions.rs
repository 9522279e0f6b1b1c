//! `completions`: scripts that complete commands and options in a shell.

use anyhow::Result;
use clap::{Command, CommandFactory};

use crate::args::{Cli, CompletionsArgs};
use crate::output;

/// Runs the command.
pub fn run(args: CompletionsArgs) -> Result<()> {
    // Hidden commands are not completed.
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = Command::new("welore-cli").args(whole.get_arguments()).subcommands(shown);
    let mut script = Vec::new();
    // Not directly to stdout: the generators panic if it cannot be written.
    clap_complete::generate(args.shell, &mut shown, "welore-cli", &mut script);
    let script = String::from_utf8_lossy(&script);
    // In one of two places in bash, clap_complete 4.6 takes the hyphen of our name for the start of
    // a subcommand, and nothing after the first word would be completed.
    let script = script.replace("welore__subcmd__cli", "welore__cli");
    output::print_block(script.trim_end())
}
