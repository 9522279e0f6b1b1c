//! Measuring with `--jobs`, `--max-memory` and `--no-cache`.

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::modules::Selection;
use welore_burn::spectrum::{
    MeasureOptions, Method, Norms, Spectra, SpectrumError, measure_checkpoint,
};
use welore_burn::workers::Budget;

use super::labels::of_norm;
use crate::args::ResourceArgs;
use crate::cache::cache_dir;
use crate::format::some_matrices;
use crate::terminal::Bar;

/// How many matrices are processed at once, and in how much memory.
pub fn budget(args: &ResourceArgs) -> Budget {
    Budget { jobs: args.jobs, memory: args.max_memory }
}

/// How much of the work an earlier command had done. Reported at the end of a command that
/// succeeds, after warnings.
#[derive(Debug, Default)]
pub struct Known {
    known: usize,
    all: usize,
}

impl Known {
    /// Taken from a bar whose work is finished.
    pub fn of(bar: &Bar, all: usize) -> Self {
        Self { known: bar.known(), all }
    }

    /// Reports how many matrices were `done` before, such as measured, unless none were.
    pub fn tell(&self, done: &str) {
        if self.known > 0 {
            let known = some_matrices(self.known, self.all, ["was", "were"]);
            note!("{known} {done} before");
        }
    }
}

/// Measures a checkpoint, and counts the matrices whose results were known.
pub fn measure_within(
    checkpoint: &Checkpoint,
    selection: &Selection,
    norms: Norms<'_>,
    args: &ResourceArgs,
) -> Result<(Spectra, Known)> {
    let cache = if args.no_cache { None } else { cache_dir("spectra") };
    let mut bar = match norms.method() {
        Method::Svd => Bar::default(),
        method => Bar::for_subject(&format!("norm of the {}", of_norm(method))),
    };
    let options = MeasureOptions { norms, budget: budget(args), cache };
    let measured = measure_checkpoint(checkpoint, selection, &options, &mut bar);
    bar.finish();
    if let Err(SpectrumError::Interrupted(_)) = &measured
        && options.cache.is_some()
    {
        note!("the measurements so far are kept; run the same command again to continue");
    }
    let spectra = measured?;
    let known = Known::of(&bar, spectra.matrices.len());
    Ok((spectra, known))
}
