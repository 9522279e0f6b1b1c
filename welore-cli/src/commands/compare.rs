//! `compare`: several ways to compress, side by side.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use serde::Serialize;
use serde_json::json;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::eval::{PerplexityOptions, check_text, perplexity};
use welore_burn::forms::Storage;
use welore_burn::model::{
    Decoder, LanguageModel, OpenedModel, load_model, open_model, projections,
};
use welore_burn::modules::Selection;
use welore_burn::named::Named;
use welore_burn::plan::{PlanOptions, RankPlan, RankPolicy, Target};
use welore_burn::spectrum::Norms;

use crate::args::{CompareArgs, ResourceArgs, TextArg, Typed, Way, names, rule};
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::calibrating::CalibrationWork;
use crate::shared::compressing::{compressor, load_for_blocks};
use crate::shared::effects::{check_blocks, check_calibrating, of_amount};
use crate::shared::measuring::measure_within;
use crate::shared::page::{check_page, compared_models, write_page};
use crate::shared::planning::{check_limits, plan_for};
use crate::shared::recipe::Recipe;
use crate::shared::scratch::Scratch;
use crate::shared::text::TextReader;
use crate::terminal::Bar;
use crate::{format, memory, models, output};

/// The measurements of a model.
#[derive(Debug, Serialize)]
struct Row {
    /// Share of the matrices' parameters that may be kept; 1 for the dense model.
    keep: f64,
    method: String,
    policy: String,
    storage: String,
    /// On the first text.
    perplexity: f64,
    /// On every text, in the order of the command line.
    perplexities: Vec<f64>,
    parameters: u64,
    bytes: u64,
    /// Share of the matrices' parameters that is kept.
    kept: f64,
    lrcs: usize,
    /// Duration of measuring, planning and compressing.
    seconds: f64,
}

/// A text as tokens.
struct Text {
    path: PathBuf,
    tokens: Vec<u32>,
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    /// The dense model.
    checkpoint: Checkpoint,
    selection: Selection,
    calibration: Calibration,
    compute: Compute,
    texts: Vec<Text>,
}

/// Runs the command.
pub fn run(args: CompareArgs, typed: &Typed) -> Result<()> {
    memory::keep_pages();
    let calibrates_on = args.calibrate.iter().filter_map(TextArg::file);
    let files = [&args.model].into_iter().chain(&args.text).chain(&args.calibration);
    check_page(&args.page, None, files.map(|path| path.as_path()).chain(calibrates_on))?;
    let recipes = args.methods.iter().map(|text| recipe(text)).collect::<Result<Vec<_>>>()?;
    let is_sequential = recipes.iter().any(|recipe| recipe.way.is_sequential);
    check_blocks(&args.blockwise, is_sequential, typed)?;
    typed.check(of_amount(&args.calibrate))?;
    let in_f32 = is_sequential || args.blockwise.refine > 0;
    typed.check([rule("dtype", !in_f32, "blocks are compressed and measured in f32")])?;
    if !args.calibrate.is_empty() {
        check_calibrating(&args.calibrate, &args.amount, &recipes, typed)?;
    }
    let goals: Vec<PlanOptions> = args.keep_params.iter().map(|keep| goal(&args, *keep)).collect();
    goals.iter().try_for_each(PlanOptions::check)?;
    let scratch = Scratch::new(!args.calibrate.is_empty())?;
    let model = models::directory_of(&args.model)?;
    let compute = Compute::choose(args.compute.choice())?;
    let opened = open_model(&model, &host())?;
    let selection = projections(opened.skeleton());
    goals.iter().try_for_each(|goal| check_limits(goal, &opened.checkpoint, &selection))?;
    let texts = texts(&args, &model, &opened, compute.at_once())?;
    let started = Instant::now();
    let calibration = calibration(&args, &model, &compute, scratch.path())?;
    let calibration_seconds = started.elapsed().as_secs_f64();
    let loaded = load_model(&model, &compute.device, compute.dtype, &mut Bar::default())?;
    let (dense, checkpoint) = (loaded.model, loaded.checkpoint);
    let comparison = Comparison { args: &args, checkpoint, selection, calibration, compute, texts };
    let mut rows = vec![comparison.dense(&dense)?];
    drop(dense);
    for recipe in &recipes {
        rows.extend(comparison.rows(recipe)?);
    }
    rows.sort_by(|a, b| b.keep.total_cmp(&a.keep));
    print(&comparison, &rows, calibration_seconds)
}

/// How a share of the parameters is kept; the storage is that of a recipe.
fn goal(args: &CompareArgs, keep: f64) -> PlanOptions {
    let options = PlanOptions::to(Target::KeepParams(keep));
    PlanOptions { min_ratio: 0.0, ..args.limits.over(options) }
}

/// The texts to measure perplexity on, after checking that this will work.
fn texts(
    args: &CompareArgs,
    model: &Path,
    opened: &OpenedModel,
    at_once: NonZeroUsize,
) -> Result<Vec<Text>> {
    let reader = TextReader::open(model, &opened.config)?;
    let read = |path: &PathBuf| {
        let tokens = reader.read(path)?;
        in_file(check_text(opened.skeleton(), &tokens, &measuring(args, at_once)), path)?;
        Ok(Text { path: path.clone(), tokens })
    };
    args.text.iter().map(read).collect()
}

/// How perplexity is measured.
fn measuring(args: &CompareArgs, at_once: NonZeroUsize) -> PerplexityOptions {
    PerplexityOptions { seq_len: args.seq_len, windows: Some(args.windows), at_once }
}

fn calibration(
    args: &CompareArgs,
    model: &Path,
    compute: &Compute,
    scratch: &Path,
) -> Result<Calibration> {
    if let Some(file) = &args.calibration {
        return Ok(Calibration::open(file)?);
    }
    let file = scratch.join("calibration");
    let opened = open_model(model, &compute.device.clone().autodiff())?;
    let work = CalibrationWork::new(opened, &args.calibrate, &args.amount, compute)?;
    work.run(compute, &file)?;
    Ok(Calibration::open(file)?)
}

/// `METHOD`, `METHOD/POLICY` or `METHOD/POLICY/STORAGE`.
fn recipe(text: &str) -> Result<Recipe> {
    let mut parts = text.split('/');
    let mut recipe = Recipe::of(named::<&Way>(parts.next().unwrap_or_default())?);
    if let Some(policy) = parts.next() {
        recipe.policy = named::<&dyn RankPolicy>(policy)?;
    }
    if let Some(storage) = parts.next() {
        recipe.storage = named::<Storage>(storage)?;
    }
    match parts.next() {
        None => recipe.check_policy(true).map(|()| recipe),
        Some(rest) => Err(unknown(rest, "the parts METHOD/POLICY/STORAGE")),
    }
}

fn named<T: Named>(text: &str) -> Result<T> {
    T::named(&text.to_lowercase()).ok_or_else(|| unknown(text, &names::<T>()))
}

fn unknown(text: &str, names: &str) -> anyhow::Error {
    let message = format!("--methods: `{text}` is not one of {names}");
    WrongInput::with_hint(message, "give methods such as two-sided, or svd/energy/factors").into()
}

impl Comparison<'_> {
    fn dense(&self, model: &impl LanguageModel) -> Result<Row> {
        let perplexities = self.perplexities(model)?;
        Ok(Row {
            keep: 1.0,
            method: "dense".into(),
            policy: String::new(),
            storage: String::new(),
            perplexity: perplexities[0],
            perplexities,
            parameters: model.num_params() as u64,
            bytes: self.checkpoint.bytes(),
            kept: 1.0,
            lrcs: 0,
            seconds: 0.0,
        })
    }

    fn rows(&self, recipe: &Recipe) -> Result<Vec<Row>> {
        let norms = recipe.norms(Some(&self.calibration))?;
        let resources = ResourceArgs::default();
        let started = Instant::now();
        let (spectra, _) =
            measure_within(&self.checkpoint, &self.selection, norms.clone(), &resources)?;
        let measuring = started.elapsed().as_secs_f64();
        let row = |keep: &f64| {
            let started = Instant::now();
            let options = PlanOptions { storage: recipe.storage, ..goal(self.args, *keep) };
            let plan = plan_for(&spectra, recipe.policy, &options)?;
            let model = self.compressed(recipe, &plan, norms.clone())?;
            let seconds = measuring + started.elapsed().as_secs_f64();
            let row = self.row(*keep, recipe, &plan, &model, seconds)?;
            note!(
                "{} at {keep}: perplexity {}, {}",
                row.method,
                format::perplexity(row.perplexity),
                format::time(seconds)
            );
            Ok(row)
        };
        self.args.keep_params.iter().map(row).collect()
    }

    /// The model, compressed in memory.
    fn compressed(&self, recipe: &Recipe, plan: &RankPlan, norms: Norms<'_>) -> Result<Decoder> {
        let (dir, mut bar) = (self.checkpoint.dir(), Bar::default());
        let Compute { device, dtype, .. } = &self.compute;
        let calibration = Some(&self.calibration);
        let blockwise = recipe.blockwise(&self.args.blockwise, calibration, &self.compute);
        let by_blocks = blockwise.is_some();
        let compressor = compressor(plan, norms, blockwise);
        let model = if by_blocks {
            let model = load_for_blocks(dir, &self.compute, &mut bar)?;
            compressor.model(model, &mut bar)?.0.valid()
        } else {
            let model = load_model(dir, device, *dtype, &mut bar)?.model;
            compressor.module(model, &mut bar)?.0
        };
        bar.finish();
        Ok(model)
    }

    fn row(
        &self,
        keep: f64,
        recipe: &Recipe,
        plan: &RankPlan,
        model: &impl LanguageModel,
        seconds: f64,
    ) -> Result<Row> {
        let perplexities = self.perplexities(model)?;
        Ok(Row {
            keep,
            method: recipe.way.name.into(),
            policy: recipe.policy.name().into(),
            storage: recipe.storage.name().into(),
            perplexity: perplexities[0],
            perplexities,
            parameters: plan.totals.parameters_after,
            bytes: plan.totals.bytes_after,
            kept: plan.totals.keep_params,
            lrcs: plan.totals.lrcs,
            seconds,
        })
    }

    fn perplexities(&self, model: &impl LanguageModel) -> Result<Vec<f64>> {
        let options = measuring(self.args, self.compute.at_once());
        let measure = |text: &Text| {
            perplexity(model, &text.tokens, &options, &mut Bar::default())
                .map(|measured| measured.perplexity)
                .with_context(|| text.path.display().to_string())
        };
        self.texts.iter().map(measure).collect()
    }
}

fn print(comparison: &Comparison<'_>, rows: &[Row], calibration_seconds: f64) -> Result<()> {
    let args = comparison.args;
    let texts: Vec<String> =
        comparison.texts.iter().map(|text| text.path.display().to_string()).collect();
    let result = json!({
        "texts": texts,
        "calibration_seconds": calibration_seconds,
        "rows": rows,
    });
    write_page(&args.page, &format!("Ways to compress {}", args.model.display()), |page| {
        page.models(&compared_models(&result).context("the rows are those of `compare`")?);
        Ok(())
    })?;
    if args.json { output::print_json(&result) } else { print_table(comparison, rows) }
}

fn print_table(comparison: &Comparison<'_>, rows: &[Row]) -> Result<()> {
    let mut header = vec!["keep", "method", "policy", "storage", "perplexity"];
    let others: Vec<String> = comparison.texts[1..]
        .iter()
        .map(|text| text.path.file_name().unwrap_or_default().display().to_string())
        .collect();
    header.extend(others.iter().map(String::as_str));
    header.extend(["parameters", "size", "LRCs", "seconds"]);
    let cells = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                format::percent(row.keep),
                row.method.clone(),
                row.policy.clone(),
                row.storage.clone(),
            ];
            cells.extend(row.perplexities.iter().map(|value| format::perplexity(*value)));
            cells.extend([
                format::count(row.parameters),
                format::bytes(row.bytes),
                row.lrcs.to_string(),
                format!("{:.0}", row.seconds),
            ]);
            cells
        })
        .collect();
    output::print_block(&format::table(&header, cells))
}
