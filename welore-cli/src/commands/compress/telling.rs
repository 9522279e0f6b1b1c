//! What `compress` says of the matrices that it has factored.

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::compress::CompressReport;
use welore_burn::distill::Distilled;

use super::distilling::tell_step;
use crate::args::CompressArgs;
use crate::shared::page::write_page;
use crate::shared::planning::{Planned, describe};
use crate::{format, output};

/// Reports what was written.
pub(super) fn tell(
    args: &CompressArgs,
    planned: &Planned,
    report: &CompressReport,
    step: Option<&Distilled>,
    seconds: f64,
) -> Result<()> {
    let Planned { plan, spectra, .. } = planned;
    write_page(&args.page, &format!("{}, compressed", args.model.display()), |page| {
        spectra.iter().for_each(|spectra| page.spectra(spectra));
        page.plan(plan);
        Ok(())
    })?;
    if !args.json {
        output::print_block(&describe(plan))?;
        if let Some(line) = of_errors(report, step) {
            say!("{line}");
        }
        if let Some(step) = step {
            tell_step(step)?;
        }
        say!("wrote {} in {}", args.output.display(), format::time(seconds));
        return Ok(());
    }
    let (errors, losses) = (report.relative_errors(), report.losses());
    let are_known = report.outdated.is_empty();
    output::print_json(&json!({
        "output": args.output.display().to_string(),
        "policy": plan.policy,
        "target": plan.target,
        "min_ratio": plan.min_ratio,
        "totals": plan.totals,
        "calibrated_on": plan.calibrated_on,
        "sequential": report.sequential,
        "factored": factored(report),
        "adapted": report.adapted,
        "relative_error": errors.map(|[computed, _]| computed),
        "stored_error": errors.filter(|_| are_known).map(|[_, stored]| stored),
        "loss": losses.map(|[computed, _]| computed),
        "stored_loss": losses.filter(|_| are_known).map(|[_, stored]| stored),
        "distilled": step.map(|step| json!({
            "length": step.length,
            "before": step.before,
            "after": step.after(),
            "tried": step.tried,
        })),
        "seconds": seconds,
    }))
}

/// The factored matrices with their errors, as computed and as stored.
pub(super) fn factored(report: &CompressReport) -> Vec<Value> {
    let factored = report.compressed.iter().map(|matrix| {
        let losses = matrix.losses();
        let is_known = !report.outdated.contains(&matrix.name);
        json!({
            "name": matrix.name,
            "rank": matrix.rank,
            "relative_error": matrix.relative_error,
            "stored_error": is_known.then_some(matrix.stored_error),
            "loss": losses.map(|[computed, _]| computed),
            "stored_loss": losses.filter(|_| is_known).map(|[_, stored]| stored),
        })
    });
    factored.collect()
}

/// How far the factored matrices are from the dense ones, as computed and as stored, as a line.
pub(super) fn of_errors(report: &CompressReport, step: Option<&Distilled>) -> Option<String> {
    let when = match step {
        Some(_) if !report.outdated.is_empty() => " before the step",
        Some(step) if step.length > 0.0 => " after the step",
        _ => "",
    };
    let [computed, stored] = report.relative_errors()?;
    let (computed, stored) = (100.0 * computed, 100.0 * stored);
    let loss = report.losses().map(|[computed, stored]| {
        format!(
            "; by themselves they raise the loss by {computed:.4e} nats per token, as stored by \
             {stored:.4e}"
        )
    });
    Some(format!(
        "error      {computed:.3}% of the factored matrices, {stored:.3}% as stored{when}{}",
        loss.unwrap_or_default()
    ))
}
