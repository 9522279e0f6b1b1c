//! What `--jobs`, `--max-memory` and `--no-cache` mean.

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::modules::Selection;
use welore_burn::spectrum::{MeasureOptions, Norms, Spectra, SpectrumError, measure_checkpoint};
use welore_burn::workers::Budget;

use crate::args::ResourceArgs;
use crate::cache::cache_dir;
use crate::terminal::Bar;

/// How many matrices are worked on at once, in how much memory.
pub fn budget(args: &ResourceArgs) -> Budget {
    Budget { jobs: args.jobs, memory: args.max_memory }
}

/// How much of the work an earlier run had done. Told at the end of a command, after warnings,
/// and not when it fails.
#[derive(Debug, Default)]
pub struct Known {
    known: usize,
    all: usize,
}

impl Known {
    /// What a bar saw that is through.
    pub fn of(bar: &Bar, all: usize) -> Self {
        Self { known: bar.known(), all }
    }

    /// Says that so many matrices `were` measured, or compressed, before; nothing if none was.
    pub fn tell(&self, were: &str) {
        let Self { known, all } = self;
        if *known > 0 {
            note!("{known} of {all} matrices were {were} before");
        }
    }
}

/// Measures a checkpoint, and counts what of it was known.
pub fn measure_within(
    checkpoint: &Checkpoint,
    selection: &Selection,
    norms: Norms<'_>,
    args: &ResourceArgs,
) -> Result<(Spectra, Known)> {
    let cache = if args.no_cache { None } else { cache_dir("spectra") };
    let options = MeasureOptions { norms, budget: budget(args), cache };
    let mut bar = Bar::default();
    let measured = measure_checkpoint(checkpoint, selection, &options, &mut bar);
    bar.finish();
    if let Err(SpectrumError::Interrupted(_)) = &measured
        && options.cache.is_some()
    {
        note!("what was measured is kept; the same command continues from there");
    }
    let spectra = measured?;
    let known = Known::of(&bar, spectra.matrices.len());
    Ok((spectra, known))
}
