//! `analyze`: singular values, and the ranks that result from them.

use anyhow::Result;
use serde_json::json;
use welore_burn::model::FoundModel;
use welore_burn::plan::{PlanOptions, RankPlan, WeLore, make_plan};
use welore_burn::spectrum::{Norms, Spectra};

use crate::args::AnalyzeArgs;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, claim, write_artifact};
use crate::shared::measuring::measure_within;
use crate::shared::opening::open_asked;
use crate::shared::page::{check_page, write_page};
use crate::shared::selecting::{check_patterns, of_found, tell_selected};
use crate::{format, models, output};

/// Effective rank reductions that the table shows.
const COMMON_ERRS: [f64; 4] = [0.1, 0.3, 0.5, 0.7];

/// Runs the command.
pub fn run(args: AnalyzeArgs) -> Result<()> {
    check_artifact(args.output.as_deref(), Artifact::Spectra, [args.model.as_path()])?;
    check_page(&args.page, args.output.as_deref(), [args.model.as_path()])?;
    check_patterns(&args.selection)?;
    let _claim = claim(args.output.as_deref())?;
    let found = open_asked(&models::directory_of(&args.model)?, args.convolutions)?;
    let selected = of_found(&args.selection, &found)?;
    let (spectra, known) =
        measure_within(found.checkpoint(), &selected, Norms::plain(), &args.resources)?;
    if let Some(path) = &args.output {
        write_artifact(path, &spectra.to_json())?;
    }
    write_page(&args.page, &format!("Singular values of {}", args.model.display()), |page| {
        page.spectra(&spectra);
        Ok(())
    })?;
    let plans = common_plans(&spectra);
    if args.json {
        print_json(&spectra, &plans, &found)?;
    } else {
        print_table(&spectra, &plans)?;
    }
    tell_selected(&args.selection, &found);
    known.tell("measured");
    Ok(())
}

/// WeLore plans at the common targets that the model can reach; tiny models may not reach all.
fn common_plans(spectra: &Spectra) -> Vec<(f64, RankPlan)> {
    COMMON_ERRS
        .iter()
        .filter_map(|err| Some((*err, make_plan(spectra, &WeLore, &PlanOptions::new(*err)).ok()?)))
        .collect()
}

fn print_json(spectra: &Spectra, plans: &[(f64, RankPlan)], found: &FoundModel) -> Result<()> {
    let matrices: Vec<_> = spectra
        .matrices
        .iter()
        .enumerate()
        .map(|(i, matrix)| {
            let ranks: Vec<_> = plans
                .iter()
                .map(|(err, plan)| {
                    let m = &plan.matrices[i];
                    json!({ "err": err, "rank": m.rank, "low_rank": m.is_low_rank() })
                })
                .collect();
            let values = &matrix.singular_values;
            json!({
                "name": matrix.name,
                "shape": matrix.shape,
                "full_rank": matrix.full_rank(),
                "largest": values.first(),
                "smallest": values.last(),
                "ranks": ranks,
            })
        })
        .collect();
    let mut told = json!({
        "source": spectra.source,
        "parameters": spectra.model.parameters,
        "bytes": spectra.model.bytes,
        "matrices": matrices,
    });
    if let Some(model) = found.unfamiliar() {
        let left_out = model.linear_layers().left_out.iter();
        let left_out: Vec<_> =
            left_out.map(|(name, why)| json!({ "name": name, "why": why.to_string() })).collect();
        told["left_out"] = left_out.into();
    }
    output::print_json(&told)
}

fn print_table(spectra: &Spectra, plans: &[(f64, RankPlan)]) -> Result<()> {
    let mut header = vec!["matrix".to_string(), "shape".into(), "full".into()];
    header.extend(plans.iter().map(|(err, _)| format!("ERR {err}")));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = spectra
        .matrices
        .iter()
        .enumerate()
        .map(|(i, matrix)| {
            let [out, inputs] = matrix.shape;
            let mut row = vec![
                matrix.name.to_string(),
                format!("{out}x{inputs}"),
                matrix.full_rank().to_string(),
            ];
            row.extend(plans.iter().map(|(_, plan)| {
                let m = &plan.matrices[i];
                format!("{}{}", if m.is_low_rank() { "LRC " } else { "" }, m.rank)
            }));
            row
        })
        .collect();
    output::print_block(&format::table(&header, rows))?;
    for (err, plan) in plans {
        let t = &plan.totals;
        say!(
            "ERR {}: {} (min_ratio {}), parameters {} -> {}",
            err,
            format::some_matrices(t.lrcs, t.matrices, ["is an LRC", "are LRCs"]),
            plan.min_ratio,
            format::count(t.parameters_before),
            format::count(t.parameters_after),
        );
    }
    Ok(())
}
