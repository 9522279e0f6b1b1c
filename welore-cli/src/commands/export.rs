//! `export --dense`: a factored model directory to a plain one.

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES};
use welore_burn::surgery::merge_directory;

use super::{open_model, output_dir};
use crate::args::ExportArgs;
use crate::format;
use crate::terminal::Bar;

/// Runs the command.
pub fn run(args: ExportArgs) -> Result<()> {
    let factored = open_model(&args.model)?;
    let output = output_dir(&args.output, args.force, &args.model)?;
    let mut bar = Bar::default();
    merge_directory(&factored, &output, DEFAULT_SHARD_BYTES, &mut bar)?;
    output.commit()?;
    bar.finish();
    let dense = Checkpoint::open(&args.output)?;
    if args.json {
        return format::print_json(&json!({
            "output": args.output.display().to_string(),
            "parameters": dense.parameters(),
            "bytes": dense.bytes(),
        }));
    }
    say!(
        "wrote {}: {} parameters, {}",
        args.output.display(),
        format::count(dense.parameters()),
        format::bytes(dense.bytes())
    );
    Ok(())
}
