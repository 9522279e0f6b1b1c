//! A LoRA adapter as a GGUF file for llama.cpp.

use std::path::Path;

use anyhow::Result;
use welore_burn::files::check_staged;
use welore_burn::gguf::{adapter_summary, export_adapter};

use super::file::tell;
use crate::args::ExportArgs;
use crate::devices::host;
use crate::models;
use crate::models::Artifact;
use crate::shared::adapting::open_adapter;
use crate::shared::artifacts::{check_artifact, check_space, tell_gguf_name};
use crate::shared::opening::open_known;

/// Writes the adapter in a directory to the file `target`.
pub fn run(args: &ExportArgs, adapter: &Path, target: &Path) -> Result<()> {
    check_artifact(Some(target), Artifact::GgufAdapter, [args.model.as_path(), adapter])?;
    check_staged(target)?;
    let opened = open_known(models::directory_of(&args.model)?, &host())?;
    let adapter = open_adapter(adapter, &opened)?;
    let summary = adapter_summary(&opened, &adapter)?;
    check_space(target, summary.bytes)?;
    if !args.dry_run {
        export_adapter(&opened, &adapter, target)?;
    }
    tell_gguf_name(target);
    tell(args, target, &summary)
}
