//! One file a command; what two commands share is here.

pub mod analyze;
pub mod calibrate;
mod card;
pub mod compare;
pub mod completions;
pub mod compress;
pub mod demo;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod plan;
mod recipe;
pub mod reference;
pub mod report;
pub mod resources;
mod task;
pub mod train;
mod writing;

use std::path::Path;

use anyhow::{Context, Result};
use welore_burn::checkpoint::{Checkpoint, CheckpointError};
use welore_burn::llama::open_llama;
use welore_burn::plan::{
    Energy, Loss, PlanOptions, Probed, RankPlan, RankPolicy, Uniform, WeLore, make_plan,
};
use welore_burn::spectrum::{PROJECTIONS, Selection, Spectra};

use crate::args::{Policy, SelectionArgs};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::{format, models};

fn selection(args: &SelectionArgs) -> Result<Selection> {
    Ok(if args.include.is_empty() {
        Selection::new(&PROJECTIONS, &args.exclude)?
    } else {
        Selection::new(&args.include, &args.exclude)?
    })
}

/// Opens a model whose configuration, tensors and plan fit each other; one that does not
/// would be measured, or written, for nothing.
fn open_model(dir: &Path) -> Result<Checkpoint> {
    Ok(open_llama(dir, &host())?.checkpoint)
}

fn plan_for(spectra: &Spectra, policy: Policy, options: &PlanOptions) -> Result<RankPlan> {
    let policy: &dyn RankPolicy = match policy {
        Policy::Welore => &WeLore,
        Policy::Uniform => &Uniform,
        Policy::Energy => &Energy,
        Policy::Loss => &Loss,
        Policy::Probed => &Probed,
    };
    let plan = make_plan(spectra, policy, options)?;
    warn_about(&plan);
    Ok(plan)
}

/// Tells what in a plan its user may not expect.
fn warn_about(plan: &RankPlan) {
    let totals = &plan.totals;
    if totals.growing > 0 {
        tell!(
            "warning: {} of {} LRCs grow, because their rank is above mn/(m+n); --never-grow keeps them dense",
            totals.growing,
            totals.lrcs
        );
    }
    if totals.lrcs == 0 {
        tell!(
            "warning: no matrix is worth it (with the policies welore and uniform: none loses more \
             than min_ratio of its ranks), so nothing is factored"
        );
    }
}

/// Reads a JSON artifact that the user named.
fn read_artifact(path: &Path) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| {
            let message = format!("{}: not a JSON file", path.display());
            WrongInput { message, hint: None }.into()
        }),
        Err(source) => Err(CheckpointError::Io { path: path.into(), source }.into()),
    }
}

/// Checks that an output directory neither is the model nor holds it: it would be replaced
/// while it is read. Nor may it be in the Hub's cache.
fn check_output(output: &Path, model: &Path) -> Result<()> {
    models::check_outside_cache(output)?;
    let holds = |output: &Path, model: &Path| -> Option<bool> {
        Some(model.canonicalize().ok()?.starts_with(output.canonicalize().ok()?))
    };
    // Directories that are no models are refused anyway, with a plainer message.
    if output.join("config.json").is_file() && holds(output, model) == Some(true) {
        let message = format!("{} is or holds the model itself", output.display());
        let hint = Some("give another output directory".into());
        return Err(WrongInput { message, hint }.into());
    }
    Ok(())
}

/// Checks that an artifact can be written where the user wants it, before it costs time.
fn check_artifact(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    models::check_outside_cache(path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let message = if path.is_dir() {
        format!("{} is a directory", path.display())
    } else if parent.is_some_and(|parent| !parent.is_dir()) {
        format!("{}: its directory does not exist", path.display())
    } else {
        return Ok(());
    };
    Err(WrongInput { message, hint: Some("give the path of a file to write".into()) }.into())
}

/// Writes an artifact file and says so.
fn write_artifact(path: &Path, text: &str) -> Result<()> {
    let text = format!("{text}\n");
    welore_burn::checkpoint::write_file(path, text.as_bytes())?;
    note!("wrote {}", path.display());
    Ok(())
}

/// The plan's totals, for people.
fn describe(plan: &RankPlan) -> String {
    let t = &plan.totals;
    let change = |before: u64, after: u64| format::percent(after as f64 / before as f64);
    format!(
        "ERR {} planned, {} applied; {} of {} matrices are LRCs, {} of their parameters kept\n\
         parameters {} -> {} ({})\n\
         bytes      {} -> {} ({})",
        format::percent(t.err),
        format::percent(t.err_applied),
        t.lrcs,
        t.matrices,
        format::percent(t.keep_params),
        format::count(t.parameters_before),
        format::count(t.parameters_after),
        change(t.parameters_before, t.parameters_after),
        format::bytes(t.bytes_before),
        format::bytes(t.bytes_after),
        change(t.bytes_before, t.bytes_after),
    )
}

/// Says which file an error of a pure room is about.
fn in_file<T, E>(result: Result<T, E>, path: &Path) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.with_context(|| path.display().to_string())
}
