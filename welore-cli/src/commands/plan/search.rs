//! Plans that are searched for on the model.

use std::path::Path;

use anyhow::Result;
use welore_burn::eval::{EvalError, PerplexityOptions, check_text, saved_bytes};
use welore_burn::model::{Bos, DecoderConfig, LanguageModel};
use welore_burn::plan::PlanOptions;
use welore_burn::search::{SearchJob, SearchOptions, check_journal, search};

use super::{Made, Subject};
use crate::args::PlanArgs;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::models::{Artifact, Wanted, check_kind};
use crate::shared::artifacts::{check_artifact, claim};
use crate::shared::inputs::place_of;
use crate::shared::measuring::budget;
use crate::shared::opening::{open_known, to_run};
use crate::shared::planning::{note_calibration, warn_about};
use crate::shared::recipe::Recipe;
use crate::shared::scratch::Scratch;
use crate::shared::text::{TextReader, window_of};
use crate::terminal::Bar;

/// Checks that the journal, if any, can be written, and replaces nothing else of this command.
pub(super) fn check_place<'a>(
    args: &'a PlanArgs,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let Some(journal) = &args.search.journal else { return Ok(()) };
    let others = [(&args.output, "the output"), (&args.page.report, "the --report page")];
    for (other, what) in others {
        if other.as_ref().is_some_and(|other| place_of(other) == place_of(journal)) {
            let message = format!("{}: both the --journal and {what}", journal.display());
            return Err(WrongInput::with_hint(message, "give the journal another name").into());
        }
    }
    check_artifact(Some(journal), Artifact::Search, inputs)?;
    Ok(check_journal(journal)?)
}

/// Measures plans on the model, and returns the best.
pub(super) fn searched(args: &PlanArgs, recipe: &Recipe, options: &PlanOptions) -> Result<Made> {
    let search_args = &args.search;
    check_amount(args)?;
    let _claim = claim(search_args.journal.as_deref())?;
    let compute = Compute::choose(args.compute.choice())?;
    let subject = Subject::open(args, options)?;
    let norms = recipe.norms(subject.calibration.as_ref())?;
    let model = to_run(&subject.found, "a search", "--policy energy needs the weights alone")?;
    let (tokens, seq_len, bos) = text_of(args, &subject, &model.config)?;
    let measuring = PerplexityOptions {
        seq_len,
        windows: Some(search_args.search_windows),
        bos,
        at_once: compute.at_once(),
        ..PerplexityOptions::default()
    };
    let skeleton = model.skeleton();
    match (check_text(skeleton, &tokens, &measuring), &search_args.search_text) {
        (Err(error @ EvalError::TooShort { .. }), Some(path)) => {
            let message = format!("{}: {error}", path.display());
            return Err(WrongInput::with_hint(message, "give a longer --search-text").into());
        }
        (other, _) => other?,
    }
    let scratch = Scratch::new(true)?;
    scratch.check_room(saved_bytes(skeleton.vocab_size(), &tokens, &measuring))?;
    let how = SearchOptions {
        evaluations: search_args.evaluations,
        seed: search_args.search_seed,
        measuring,
        budget: budget(&args.resources),
        memory: args.resources.max_memory.unwrap_or(SearchOptions::default().memory),
        scratch: scratch.path().into(),
        journal: search_args.journal.clone(),
    };
    how.check()?;
    let (spectra, known) = subject.measure(norms.clone(), &args.resources)?;
    let opened = open_known(&subject.dir, &compute.device)?;
    let loaded = opened.load(compute.dtype, |_| false, &mut Bar::default())?;
    let model = &loaded.model;
    let job = SearchJob { model, spectra: &spectra, norms, options, tokens: &tokens };
    let mut bar = Bar::default();
    let found = search(&job, recipe.policy, &how, &mut bar);
    bar.finish();
    if found.as_ref().is_err_and(|error| error.is_interruption()) && how.journal.is_some() {
        note!("the plans measured so far are kept; run the same command again to continue");
    }
    let found = found?;
    if found.known > 0 {
        let were = if found.known == 1 { "was" } else { "were" };
        note!("{} of {} plans {were} measured before", found.known, found.evaluations.len());
    }
    let mut plan = found.plan;
    note_calibration(&mut plan, subject.calibration.as_ref());
    warn_about(&plan);
    Ok(Made { plan, spectra, known, runs: true })
}

/// Checks how much is asked for, before the model is opened.
fn check_amount(args: &PlanArgs) -> Result<()> {
    if args.search.search_windows == 0 {
        return Err(WrongInput::new("--search-windows: must be at least 1").into());
    }
    match &args.search.search_text {
        Some(path) => Ok(check_kind(path, Wanted::Text)?),
        None if args.method.calibration.is_some() => Ok(()),
        None => Err(no_text()),
    }
}

fn no_text() -> anyhow::Error {
    let message = "there is no text to measure plans on";
    let hint = "give --search-text FILE, or a --calibration FILE from `welore-cli calibrate`";
    WrongInput::with_hint(message, hint).into()
}

/// The text to measure plans on, the number of tokens in a window of it, and what begins these unless
/// they are windows of a calibration, which are whole.
fn text_of(
    args: &PlanArgs,
    subject: &Subject,
    config: &DecoderConfig,
) -> Result<(Vec<u32>, usize, Option<Bos>)> {
    if let Some(path) = &args.search.search_text {
        let reader = TextReader::open(&subject.dir, config, args.amount.bos)?;
        return Ok((reader.read(path)?, window_of(None, config), reader.beginning.bos));
    }
    let windows = subject.calibration.as_ref().map(|calibration| calibration.windows());
    let mut windows = windows.transpose()?.unwrap_or_default();
    let windows = windows.split_off(windows.len().saturating_sub(args.search.search_windows));
    match windows.first().map(Vec::len) {
        Some(seq_len) => Ok((windows.concat(), seq_len, None)),
        None => Err(no_text()),
    }
}
