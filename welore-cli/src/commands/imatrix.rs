//! `imatrix`: from a calibration to an importance matrix of llama.cpp.

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::{Calibration, write_imatrix};
use welore_burn::files::check_staged;

use crate::args::ImatrixArgs;
use crate::models::{Artifact, Wanted, check_kind};
use crate::shared::artifacts::check_artifact;
use crate::{format, output};

/// Runs the command.
pub fn run(args: ImatrixArgs) -> Result<()> {
    check_artifact(Some(&args.output), Artifact::Imatrix, [args.calibration.as_path()])?;
    check_staged(&args.output)?;
    check_kind(&args.calibration, Wanted::Calibration)?;
    let summary = write_imatrix(&Calibration::open(&args.calibration)?, &args.output)?;
    if args.json {
        return output::print_json(&json!({
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "bytes": summary.bytes,
        }));
    }
    say!(
        "wrote {}: the squared inputs of {}, {}",
        args.output.display(),
        format::matrices(summary.matrices),
        format::bytes(summary.bytes)
    );
    Ok(())
}
