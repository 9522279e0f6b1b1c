//! `export`: from a model to a directory or a file for other programs.

mod adapter;
mod changes;
mod directory;
mod file;

use anyhow::Result;

use crate::args::{ExportArgs, Typed, rule};
use crate::failure::WrongInput;

/// Runs the command.
pub fn run(args: ExportArgs, typed: &Typed) -> Result<()> {
    let to_directory = args.output.is_some();
    let takes_adapter = args.gguf_lora.is_some() || (to_directory && args.dense);
    let is_whole = args.changes_of.is_none();
    let as_they_are = ["dense", "dtype", "adapter", "changes", "shard-size"].map(|option| {
        rule(option, is_whole, "not with --changes-of, which writes tensors as they are")
    });
    typed.check(as_they_are.into_iter().chain([
        rule("dense", to_directory, "only with --output: a GGUF file is always dense"),
        rule("shard-size", to_directory, "only with --output: a GGUF file is not split"),
        rule("adapter", takes_adapter, "only with --dense and --output, or with --gguf-lora"),
        rule("changes", to_directory, "only with --output"),
        rule("changes-of", to_directory, "only with --output"),
        rule("dtype", args.gguf_lora.is_none(), "not with --gguf-lora, which is in f32"),
        rule("force", to_directory, "only with --output: a file is replaced without it"),
    ]))?;
    if let (Some(base), Some(directory)) = (&args.changes_of, &args.output) {
        return changes::run(&args, base, directory);
    }
    match (&args.gguf, &args.output, &args.gguf_lora, &args.adapter) {
        (_, _, Some(file), Some(adapter)) => adapter::run(&args, adapter, file),
        (Some(file), ..) => file::run(&args, file),
        (None, Some(directory), ..) => directory::run(&args, directory),
        _ => Err(WrongInput::new("none of --output, --gguf and --gguf-lora is given").into()),
    }
}
