//! `export --dense`: from a compressed model directory to a plain one.

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{WriteOptions, merge_directory, merged_size};
use welore_burn::files::OutputDir;
use welore_burn::model::open_model;
use welore_burn::spectrum::ModelSize;

use crate::args::ExportArgs;
use crate::devices::host;
use crate::shared::artifacts::{check_output, check_space};
use crate::terminal::Bar;
use crate::{format, models, output};

/// Runs the command.
pub fn run(args: ExportArgs) -> Result<()> {
    let model = models::directory_of(&args.model)?;
    let compressed = open_model(&model, &host())?.checkpoint;
    check_output(&args.output, &model)?;
    let output = match args.dry_run {
        true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
        false => Some(OutputDir::create(&args.output, args.force)?),
    };
    OutputDir::check_outside(&args.output, &[&args.model])?;
    let size = merged_size(&compressed)?;
    check_space(&args.output, size.bytes)?;
    let Some(output) = output else {
        return preview(&args, size);
    };
    let mut bar = Bar::default();
    let options = WriteOptions { shard_bytes: args.shards.shard_size, ..WriteOptions::default() };
    merge_directory(&compressed, &output, &options, &mut bar)?;
    output.commit()?;
    bar.finish();
    let dense = Checkpoint::open(&args.output)?;
    if args.json {
        return output::print_json(&json!({
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

/// Shows what would be written.
fn preview(args: &ExportArgs, size: ModelSize) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
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
