//! A GGUF file for llama.cpp.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};
use welore_burn::files::check_staged;
use welore_burn::ggml::TensorType;
use welore_burn::gguf::{CheckpointSource, GgufExport, GgufOptions, GgufWritten};

use crate::args::ExportArgs;
use crate::devices::host;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, check_space, tell_gguf_name};
use crate::shared::card::name_of;
use crate::shared::opening::open_known;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Writes the file `target`.
pub fn run(args: &ExportArgs, target: &Path) -> Result<()> {
    check_artifact(Some(target), Artifact::Gguf, [args.model.as_path()])?;
    check_staged(target)?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &host())?;
    let dtype = args.dtype.map(TensorType::from);
    let options = GgufOptions {
        name: Some(name_of(&args.model.to_string_lossy())),
        projections: dtype,
        embedding: dtype,
        ..GgufOptions::default()
    };
    let export = GgufExport::new(&opened, &options)?;
    let summary = export.summary();
    check_space(target, summary.bytes)?;
    if !args.dry_run {
        let mut bar = Bar::default();
        export.write(target, &CheckpointSource::new(&opened), &mut bar)?;
        bar.finish();
    }
    tell_gguf_name(target);
    tell(args, target, &summary)
}

/// Reports what was written, or would be.
pub(super) fn tell(args: &ExportArgs, target: &Path, summary: &GgufWritten) -> Result<()> {
    let types = summary.types.iter().map(|(dtype, count)| (dtype.name(), *count));
    if args.json {
        let types: Map<String, Value> =
            types.map(|(name, count)| (name.to_string(), count.into())).collect();
        let mut told = json!({
            "output": target.display().to_string(),
            "architecture": summary.architecture,
            "parameters": summary.parameters,
            "bytes": summary.bytes,
            "types": types,
        });
        if !summary.remarks.is_empty() {
            told["remarks"] = summary.remarks.clone().into();
        }
        if args.dry_run {
            told["dry_run"] = true.into();
        }
        return output::print_json(&told);
    }
    let types: Vec<String> = types
        .map(|(name, count)| format!("{} in {name}", format::number_of(count, "tensor")))
        .collect();
    say!(
        "{} {}: {} parameters, {} ({})",
        if args.dry_run { "would write" } else { "wrote" },
        target.display(),
        format::count(summary.parameters),
        format::bytes(summary.bytes),
        types.join(", ")
    );
    for remark in &summary.remarks {
        note!("{remark}");
    }
    Ok(())
}
