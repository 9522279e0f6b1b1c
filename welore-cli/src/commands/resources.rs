//! What `--jobs`, `--max-memory` and `--no-cache` mean.

use std::env::var_os;
use std::path::PathBuf;

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::spectrum::{
    MeasureSettings, Norms, Selection, Spectra, SpectrumError, measure_checkpoint,
};
use welore_burn::workers::Budget;

use crate::args::ResourceArgs;
use crate::terminal::Bar;

/// How many matrices are in flight at once, in how much memory.
pub fn budget(args: &ResourceArgs) -> Budget {
    Budget { jobs: args.jobs, memory: args.max_memory }
}

/// How much of the work an earlier run had done. Told at the end of a command, after warnings
/// and in no error's way.
#[derive(Debug, Default)]
pub struct Known {
    known: usize,
    all: usize,
}

impl Known {
    /// Says that so many matrices `were` measured, or factored, before; nothing if none was.
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
    let settings = MeasureSettings { norms, budget: budget(args), cache };
    let mut bar = Bar::default();
    let measured = measure_checkpoint(checkpoint, selection, &settings, &mut bar);
    bar.finish();
    if let Err(SpectrumError::Interrupted(_)) = &measured
        && settings.cache.is_some()
    {
        note!("what is measured is kept; the same command goes on from there");
    }
    let spectra = measured?;
    let known = known_of(&bar, spectra.matrices.len());
    Ok((spectra, known))
}

/// What a bar that is through saw.
pub fn known_of(bar: &Bar, all: usize) -> Known {
    Known { known: bar.known(), all }
}

/// Where one kind of results is kept, as far as the environment tells.
pub fn cache_dir(kind: &str) -> Option<PathBuf> {
    let named = |name: &str| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("WELORE_CACHE")
        // A relative path is to be ignored, says the XDG specification.
        .or_else(|| Some(named("XDG_CACHE_HOME").filter(|dir| dir.is_absolute())?.join("welore")))
        .or_else(|| Some(named("HOME")?.join(".cache").join("welore")))?;
    Some(cache.join(kind))
}
