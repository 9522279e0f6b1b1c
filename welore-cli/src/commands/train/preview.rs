//! `train --dry-run`: shows what a run would do, and what that is expected to take, without writing
//! anything but temporary files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::checkpoint::check_companions;
use welore_burn::compress::check_plan;
use welore_burn::data::TokenRows;
use welore_burn::forms::Precision;
use welore_burn::model::{Decoder, DecoderConfig, LanguageModel, OpenedModel};
use welore_burn::named::Named;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::Norms;
use welore_burn::train::{
    ScheduleKind, TrainOptions, Trainable, TrainableCount, check_method, check_rows, check_run,
};

use super::adapter::with_adapter;
use super::data::{named, row_name};
use super::place::check_free;
use super::request::{Request, check_evaluations, eval_window, evaluates_text, with_epochs};
use super::scratch::described_model;
use super::size::check_training;
use super::trial::try_out;
use crate::args::{ResourceArgs, TrainArgs, Typed};
use crate::cache::cache_dir;
use crate::devices::{Compute, host};
use crate::shared::artifacts::in_file;
use crate::shared::beginning::Beginning;
use crate::shared::forecast::Forecast;
use crate::shared::opening::open_known;
use crate::shared::planning::{Goal, Planned, describe};
use crate::shared::selecting::of_model;
use crate::shared::text::TextReader;
use crate::{format, output};

/// What a run would do.
struct Preview {
    options: TrainOptions,
    /// How it would be evaluated, by the names of the options; null if it would not be.
    evaluation: Value,
    dtype: Precision,
    rows: TokenRows,
    /// How texts begin, if there are any.
    beginning: Option<Beginning>,
    count: TrainableCount,
    plan: Option<RankPlan>,
    /// Duration of making the plan.
    planning: Duration,
}

/// Runs the command.
pub fn show(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<()> {
    let (preview, request, compute) = Preview::of(args, typed, dir)?;
    if args.json {
        let expected = preview.expect(try_out(args, typed, request, compute)?);
        return preview.print_json(dir, &expected);
    }
    preview.print(args, dir)?;
    say!("{}", preview.expect(try_out(args, typed, request, compute)?).line());
    Ok(())
}

impl Preview {
    /// The preview of a request, which then has the plan that was made for it, and the device.
    fn of(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<(Self, Request, Compute)> {
        let mut request = Request::check(args, typed)?;
        check_free(dir)?;
        let goal = request.goal.take();
        let Request { model, config, source, data, options, .. } = &request;
        let (compute, dtype) = (Compute::choose(args.compute.choice())?, request.dtype);
        check_companions(model)?;
        let reader = TextReader::open(model, config, args.start.bos)?;
        let reader = reader.with_template(request.template(&args.start));
        let rows = data.rows(&reader, options.seq_len)?;
        let options = with_epochs(&args.start, options.clone(), rows.len());
        check_evaluations(&options, typed)?;
        let evaluated = source.is_task() || args.start.eval_text.is_some();
        check_run(&options, evaluated, args.start.eval_windows)?;
        let began = Instant::now();
        let (skeleton, plan) = skeleton(args, model, goal)?;
        let planning = began.elapsed();
        check_method(&skeleton, &options)?;
        let count = check_training(&skeleton, &options, &compute)?;
        in_file(check_rows(&rows, &options, skeleton.vocab_size()), &named(source))?;
        let evaluation = evaluation(args, &options, config);
        let reads_text = data.is_text() || evaluates_text(&args.start);
        let beginning = reads_text.then_some(reader.beginning);
        request.goal = plan.clone().map(|plan| Goal::Given(Box::new(plan)));
        let preview = Self { options, evaluation, dtype, rows, beginning, count, plan, planning };
        Ok((preview, request, compute))
    }

    /// What the run takes, of which a part was tried with the plan that was made here. The run makes
    /// it again, and measures for it unless the singular values are in the cache now.
    fn expect(&self, tried: Forecast) -> Forecast {
        let again = match cache_dir("spectra") {
            Some(_) => Duration::ZERO,
            None => self.planning,
        };
        Forecast { seconds: tried.seconds + again.as_secs_f64(), ..tried }
    }

    fn epochs(&self) -> f64 {
        self.options.steps as f64 * self.options.rows_a_step() as f64 / self.rows.len() as f64
    }

    fn print_json(&self, dir: &Path, expected: &Forecast) -> Result<()> {
        let mut all = json!({
            "dry_run": true,
            "output": dir.display().to_string(),
            "settings": self.options,
            "evaluation": self.evaluation,
            "dtype": self.dtype,
            "rows": self.rows.len(),
            "tokens": self.rows.tokens().len(),
            "epochs": self.epochs(),
            "trainable": self.count.trainable,
            "parameters": self.count.total,
            "compressed": self.plan.as_ref().map(|plan| &plan.totals),
            "expected_seconds": expected.seconds,
            "expected_peak_bytes": expected.peak_bytes,
            "expected_peak_of": expected.peak_of(),
            "tried": expected.tried,
        });
        if let Some(beginning) = self.beginning {
            beginning.add_to(&mut all);
        }
        output::print_json(&all)
    }

    /// One line for each option that the run would use.
    fn lines(&self, args: &TrainArgs) -> Result<Vec<Vec<String>>> {
        let (mut rows, idle) = (Vec::new(), idle(&self.options, args.start.from_scratch));
        add_options("", &serde_json::to_value(&self.options)?, &idle, &mut rows);
        add_options("", &self.evaluation, &idle, &mut rows);
        let tracked = args.start.track_gradients;
        let others = json!({ "dtype": self.dtype.name(), "track_gradients": tracked });
        add_options("", &others, &idle, &mut rows);
        Ok(rows)
    }

    fn print(&self, args: &TrainArgs, dir: &Path) -> Result<()> {
        let TrainableCount { trainable, total, .. } = self.count;
        let rows = self.lines(args)?;
        output::print_block(&(format::table(&["option", "value"], rows) + "\n"))?;
        if let Some(plan) = &self.plan {
            output::print_block(&format!("compressed first: {}\n", describe(plan)))?;
        }
        say!(
            "would train {} of {} parameters ({}) of {}",
            format::count(trainable),
            format::count(total),
            format::percent(trainable as f64 / total as f64),
            args.start.model.as_deref().unwrap_or(dir).display(),
        );
        let row = row_name(args.start.task.is_some());
        say!(
            "on {}{} with {} tokens in total, {} per step, {}: {:.2} epochs",
            format::number_of(self.rows.len(), row),
            self.beginning.map(|beginning| beginning.clause()).unwrap_or_default(),
            format::count(self.rows.tokens().len() as u64),
            format::number_of(self.options.rows_a_step(), row),
            format::number_of(self.options.steps, "step"),
            self.epochs()
        );
        say!("and write {}", dir.display());
        Ok(())
    }
}

/// The model that would be trained, without its weights, and the plan by which it would be
/// compressed first.
fn skeleton(
    args: &TrainArgs,
    from: &Path,
    goal: Option<Goal>,
) -> Result<(Decoder, Option<RankPlan>)> {
    if args.start.from_scratch {
        return Ok((described_model(from)?.0.init(&host()), None));
    }
    let opened = open_known(from, &host())?;
    if let Some(adapter) = &args.start.adapter {
        return Ok((with_adapter(adapter, &opened)?, None));
    }
    let Some(goal) = goal else { return Ok((opened.into_skeleton(), None)) };
    let plan = planned(args, &opened, goal)?;
    let form_of = |name: &_| plan.find_compressed(name).map(|matrix| matrix.form);
    Ok((opened.skeleton_in(form_of)?, Some(plan)))
}

fn planned(args: &TrainArgs, opened: &OpenedModel, goal: Goal) -> Result<RankPlan> {
    let selected = of_model(&args.start.selection, opened.skeleton())?;
    let resources = ResourceArgs::default();
    let Planned { plan, spectra, .. } =
        goal.plan(&opened.checkpoint, &selected, Norms::plain(), &resources)?;
    if spectra.is_none() {
        check_plan(&opened.checkpoint, &plan)?;
    }
    Ok(plan)
}

/// How a run with these options would be evaluated; null if it would not be.
fn evaluation(args: &TrainArgs, options: &TrainOptions, config: &DecoderConfig) -> Value {
    if !options.evaluates() {
        return Value::Null;
    }
    let start = &args.start;
    let shown = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
    let reads_text = start.eval_text.is_some() || start.watch_text.is_some();
    json!({
        "eval_text": shown(start.eval_text.as_ref()),
        "watch_text": shown(start.watch_text.as_ref()),
        "eval_seq_len": reads_text.then(|| eval_window(start, config)),
        "eval_windows": start.eval_windows,
        "must_improve": args.must_improve,
    })
}

/// The options that a run does not read, as the command line names them: those of other methods, and
/// those that others of its options turn off.
fn idle(options: &TrainOptions, from_scratch: bool) -> Vec<String> {
    let own = options.trainable.options();
    let others = Trainable::all().iter().flat_map(|method| method.options());
    let mut idle: Vec<&str> = others.copied().filter(|name| !own.contains(name)).collect();
    if options.schedule == ScheduleKind::Constant {
        idle.push("lr_floor");
    }
    if !(options.shuffle || from_scratch || options.trainable.is_random()) {
        idle.push("seed");
    }
    idle.into_iter().map(|name| name.replace(['.', '_'], "-")).collect()
}

/// Adds one line for each option that has a value and is not `idle`, by its name.
fn add_options(name: &str, value: &Value, idle: &[String], rows: &mut Vec<Vec<String>>) {
    let Value::Object(options) = value else {
        if !value.is_null() && !idle.iter().any(|idle| idle == name) {
            let text = value.as_str().map_or_else(|| value.to_string(), String::from);
            rows.push(vec![name.into(), text]);
        }
        return;
    };
    for (key, value) in options {
        let key = key.replace('_', "-");
        let name = if name.is_empty() { key } else { format!("{name}-{key}") };
        add_options(&name, value, idle, rows);
    }
}
