//! `export`: from a model to a directory or a file for other programs.

mod directory;
mod file;

use anyhow::Result;

use crate::args::{ExportArgs, Typed, rule};
use crate::failure::WrongInput;

/// Runs the command.
pub fn run(args: ExportArgs, typed: &Typed) -> Result<()> {
    let to_directory = args.gguf.is_none();
    typed.check([
        rule("dense", to_directory, "only with --output: a GGUF file is always dense"),
        rule("shard-size", to_directory, "only with --output: a GGUF file is not split"),
        rule("force", to_directory, "only with --output: a file is replaced without it"),
    ])?;
    match (&args.gguf, &args.output) {
        (Some(file), _) => file::run(&args, file),
        (None, Some(directory)) => directory::run(&args, directory),
        (None, None) => Err(WrongInput::new("neither --output nor --gguf is given").into()),
    }
}
