//! `welore-cli`: from a pretrained language model to a compressed one.
//!
//! Arguments become options, and options become calls of `welore-burn`. Only this crate
//! constructs a device, prints, and shows progress. Results go to stdout, everything else to
//! stderr. Exit codes: 0 success, 1 failure, 2 wrong usage or input, 3 a run that improved nothing
//! although it had to.

#![recursion_limit = "256"]

#[macro_use]
mod output;
mod args;
mod cache;
mod commands;
mod demo_model;
mod devices;
mod failure;
mod format;
mod memory;
mod models;
mod settings;
mod shared;
mod terminal;
mod verbosity;
mod verdict;

use std::process::ExitCode;

use anyhow::Result;
use args::Command;

fn main() -> ExitCode {
    devices::settle_environment();
    failure::keep_panics();
    match failure::run(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => verdict::report(&error),
    }
}

fn run() -> Result<()> {
    let (cli, typed) = settings::read(std::env::args_os().collect())?;
    if cli.general.quiet {
        output::be_quiet();
    }
    verbosity::raise(cli.general.verbose);
    if let Some(path) = &cli.general.config {
        tracing::debug!("options that are not given come from {}", path.display());
    }
    terminal::listen_for_interrupts();
    terminal::outlive_file_size_limit();
    terminal::explain_truncated_files();
    match cli.command {
        Command::Analyze(args) => commands::analyze::run(args),
        Command::Calibrate(args) => commands::calibrate::run(args, &typed),
        Command::Imatrix(args) => commands::imatrix::run(args),
        Command::Plan(args) => commands::plan::run(*args, &typed),
        Command::Compress(args) => commands::compress::run(*args, &typed),
        Command::Compare(args) => commands::compare::run(*args, &typed),
        Command::Report(args) => commands::report::run(args),
        Command::Train(args) => commands::train::run(*args, &typed),
        Command::Eval(args) => commands::eval::run(args, &typed),
        Command::Generate(args) => commands::generate::run(args, &typed),
        Command::Chat(args) => commands::chat::run(args, &typed),
        Command::Export(args) => commands::export::run(args, &typed),
        Command::Extract(args) => commands::extract::run(*args, &typed),
        Command::Repair(args) => commands::repair::run(*args, &typed),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Demo(args) => commands::demo::run(args),
        Command::Devices(args) => commands::devices::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Manual(args) => commands::manual::run(args),
        Command::Reference => commands::reference::run(),
    }
}
