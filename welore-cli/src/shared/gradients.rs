//! The gradients of a run, summed up from `RUN/gradients.jsonl` in `RUN/gradients.json`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::{FileError, replace_file};
use welore_burn::modules::{MatrixName, Selection};
use welore_burn::spectrum::Norms;
use welore_burn::train::{GRADIENTS_FILE, GradientDynamics, GradientRecord, read_gradients};

use super::artifacts::{in_file, read_artifact};
use super::measuring::measure_within;
use crate::args::ResourceArgs;

/// The summary of a finished run.
const SUMMARY_FILE: &str = "gradients.json";

/// Writes the summary of a finished run's gradients, with the ranks of its final weights, which are
/// measured with these limits. An existing summary stays.
pub fn sum_up(dir: &Path, model: &Path, resources: &ResourceArgs) -> Result<()> {
    let target = dir.join(SUMMARY_FILE);
    if target.exists() {
        return Ok(());
    }
    let mut dynamics = GradientDynamics::of(&read_records(dir)?);
    let checkpoint = Checkpoint::open(model)?;
    let all = dynamics.matrices.iter().map(|matrix| &matrix.name);
    let names: Vec<&MatrixName> =
        all.filter(|name| checkpoint.meta(&name.weight()).is_some()).collect();
    if !names.is_empty() {
        // Under these names factors are measured separately, as their gradients were.
        let selection = Selection::of(names)?;
        let (spectra, _) = measure_within(&checkpoint, &selection, Norms::plain(), resources)?;
        dynamics.set_weights(|name| {
            let mut matrices = spectra.matrices.iter();
            matrices.find(|matrix| matrix.name == *name).map(|m| m.singular_values.as_slice())
        });
    }
    Ok(replace_file(&target, dynamics.to_json().as_bytes())?)
}

/// Removes the summary of a run that is going to take more steps.
pub fn forget_summary(dir: &Path) -> Result<()> {
    let target = dir.join(SUMMARY_FILE);
    match fs::remove_file(&target) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FileError::io(&target)(error).into())
        }
        _ => Ok(()),
    }
}

/// The records of a run's gradients and their summary, if they were tracked. The summary of an
/// unfinished run lacks the ranks of the weights.
pub fn read(dir: &Path) -> Result<Option<(Vec<GradientRecord>, GradientDynamics)>> {
    if !dir.join(GRADIENTS_FILE).exists() {
        return Ok(None);
    }
    let (records, summary) = (read_records(dir)?, dir.join(SUMMARY_FILE));
    let dynamics = match summary.exists() {
        true => in_file(GradientDynamics::from_json(&read_artifact(&summary)?), &summary)?,
        false => GradientDynamics::of(&records),
    };
    Ok(Some((records, dynamics)))
}

fn read_records(dir: &Path) -> Result<Vec<GradientRecord>> {
    Ok(read_gradients(&read_artifact(&dir.join(GRADIENTS_FILE))?))
}
