//! `export --dense`: a factored model directory to a plain one.

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::{Checkpoint, OutputDir};
use welore_burn::surgery::{WriteSettings, merge_directory, merged_size};

use super::{check_output, open_model};
use crate::args::ExportArgs;
use crate::terminal::Bar;
use crate::{format, models};

/// Runs the command.
pub fn run(args: ExportArgs) -> Result<()> {
    let model = models::directory_of(&args.model)?;
    let factored = open_model(&model)?;
    check_output(&args.output, &model)?;
    if args.dry_run {
        return preview(&args, &factored);
    }
    let output = OutputDir::create(&args.output, args.force)?;
    let mut bar = Bar::default();
    let settings =
        WriteSettings { shard_bytes: args.shards.shard_size, ..WriteSettings::default() };
    merge_directory(&factored, &output, &settings, &mut bar)?;
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

/// Tells what would be written.
fn preview(args: &ExportArgs, factored: &Checkpoint) -> Result<()> {
    OutputDir::check_free(&args.output, args.force)?;
    let size = merged_size(factored)?;
    if args.json {
        return format::print_json(&json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "parameters": size.parameters,
            "bytes": size.bytes,
        }));
    }
    say!(
        "would write {}: {} parameters, {}",
        args.output.display(),
        format::count(size.parameters),
        format::bytes(size.bytes)
    );
    Ok(())
}
