//! `train --dry-run`: what a run would be, worked out without writing anything.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::data::TokenRows;
use welore_burn::llama::{Llama, open_llama, read_config};
use welore_burn::plan::RankPlan;
use welore_burn::surgery::check_plan;
use welore_burn::train::{TrainSettings, TrainableCount, check_rows, count_trainable};

use super::place::check_free;
use super::run_file::{Source, check_settings};
use super::start::{Request, described_in, described_model, with_epochs};
use super::{check_context, source};
use crate::args::TrainArgs;
use crate::commands::compress::{Goal, plan_of};
use crate::commands::{describe, in_file};
use crate::devices::{Compute, host};
use crate::format;

/// What a run would be.
struct Preview {
    settings: TrainSettings,
    rows: TokenRows,
    count: TrainableCount,
    plan: Option<RankPlan>,
}

/// Runs the command.
pub fn show(args: &TrainArgs, dir: &Path) -> Result<()> {
    let preview = Preview::of(args, dir)?;
    if args.json {
        return preview.print_json(dir);
    }
    preview.print(args, dir)
}

impl Preview {
    fn of(args: &TrainArgs, dir: &Path) -> Result<Self> {
        let request = Request::check(&args.start, args.compute.dtype.unwrap_or_default())?;
        check_free(dir)?;
        Compute::choose(&args.compute)?;
        let Request { model, data, settings, goal, .. } = request;
        let from: &Path = if args.start.from_scratch { described_in(&model) } else { &model };
        check_context(args, settings.seq_len, &read_config(from)?)?;
        let rows = source::tokenize(&data, from, settings.seq_len)?;
        let settings = with_epochs(&args.start, settings, rows.len());
        let is_task = matches!(data, Source::Task { .. });
        let evaluated = is_task || args.start.eval_text.is_some();
        check_settings(&settings, evaluated, args.start.eval_blocks)?;
        let (skeleton, plan) = skeleton(args, from, goal)?;
        in_file(check_rows(&rows, &settings, skeleton.vocab_size()), data.path())?;
        let count = count_trainable(&skeleton, &settings)?;
        Ok(Self { settings, rows, count, plan })
    }

    fn rows_a_step(&self) -> usize {
        self.settings.batch_size * self.settings.accumulate
    }

    fn epochs(&self) -> f64 {
        self.settings.steps as f64 * self.rows_a_step() as f64 / self.rows.len() as f64
    }

    fn print_json(&self, dir: &Path) -> Result<()> {
        format::print_json(&json!({
            "dry_run": true,
            "output": dir.display().to_string(),
            "settings": self.settings,
            "rows": self.rows.len(),
            "tokens": self.rows.tokens().len(),
            "epochs": self.epochs(),
            "trainable": self.count.trainable,
            "parameters": self.count.total,
            "compressed": self.plan.as_ref().map(|plan| &plan.totals),
        }))
    }

    fn print(&self, args: &TrainArgs, dir: &Path) -> Result<()> {
        let TrainableCount { trainable, total } = self.count;
        let mut rows = Vec::new();
        add_settings("", &serde_json::to_value(&self.settings)?, &mut rows);
        say!("{}\n", format::table(&["setting", "value"], rows));
        if let Some(plan) = &self.plan {
            say!("compressed first: {}\n", describe(plan));
        }
        say!(
            "would train {} of {} parameters ({}) of {}",
            format::count(trainable),
            format::count(total),
            format::percent(trainable as f64 / total as f64),
            args.start.model.as_deref().unwrap_or(dir).display(),
        );
        say!(
            "on {} rows of {} tokens, {} rows a step, {} steps: {:.2} epochs",
            self.rows.len(),
            format::count(self.rows.tokens().len() as u64),
            self.rows_a_step(),
            self.settings.steps,
            self.epochs()
        );
        say!("and write {}", dir.display());
        Ok(())
    }
}

/// The model that would be trained, without its weights, and the plan that would be carried out
/// on it first.
fn skeleton(
    args: &TrainArgs,
    from: &Path,
    goal: Option<Goal>,
) -> Result<(Llama, Option<RankPlan>)> {
    if args.start.from_scratch {
        return Ok((described_model(from)?.0.init(&host()), None));
    }
    let opened = open_llama(from, &host())?;
    let Some(goal) = goal else { return Ok((opened.skeleton().clone(), None)) };
    let is_given = matches!(goal, Goal::Given(_));
    let plan = plan_of(goal, &opened.checkpoint, &args.start.selection)?;
    if is_given {
        check_plan(&opened.checkpoint, &plan)?;
    }
    Ok((opened.skeleton_by(&plan, &host()), Some(plan)))
}

/// One line a setting, by the name of its option.
fn add_settings(option: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let Value::Object(settings) = value else {
        let text = if value.is_null() { "-".into() } else { value.to_string().replace('"', "") };
        rows.push(vec![option.into(), text]);
        return;
    };
    for (key, value) in settings {
        let name = key.replace('_', "-");
        let name = if option.is_empty() { name } else { format!("{option}-{name}") };
        add_settings(&name, value, rows);
    }
}
