//! `compare`: several ways to compress, side by side.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::data::{TextTokenizer, join_documents, read_documents};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::llama::{Llama, load_llama};
use welore_burn::plan::{PlanOptions, Storage, Target};
use welore_burn::spectrum::Selection;
use welore_burn::surgery::apply_plan_in;

use super::calibrate::calibrate_on;
use super::compress::fitted;
use super::recipe::{Recipe, check_fit};
use super::report::{check_page, models, write_page};
use super::resources::measure_within;
use super::{open_model, plan_for};
use crate::args::{CompareArgs, MethodArg, Policy, ResourceArgs, StorageArg};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::terminal::Bar;
use crate::{format, memory, models};

/// A compressed model, measured.
#[derive(Debug, Serialize)]
struct Row {
    /// Share of the parameters of the matrices that may be kept; 1 is the dense model.
    keep: f64,
    method: String,
    policy: String,
    storage: String,
    /// On the first text.
    perplexity: f64,
    /// On every text, in their order.
    perplexities: Vec<f64>,
    parameters: u64,
    bytes: u64,
    /// Share of the parameters of the matrices that is kept.
    kept: f64,
    lrcs: usize,
    /// Of planning and factoring.
    seconds: f64,
}

/// A text as tokens.
struct Text {
    path: PathBuf,
    tokens: Vec<u32>,
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    /// The model's directory.
    model: PathBuf,
    checkpoint: Checkpoint,
    calibration: Calibration,
    compute: Compute,
    texts: Vec<Text>,
    context: usize,
}

/// Runs the command.
pub fn run(args: CompareArgs) -> Result<()> {
    memory::keep_pages();
    check_fit(&args.fit)?;
    check_page(&args.page, None)?;
    let recipes = args.methods.iter().map(|text| recipe(text)).collect::<Result<Vec<_>>>()?;
    for keep in &args.keep_params {
        PlanOptions::to(Target::KeepParams(*keep)).check()?;
    }
    let model = models::directory_of(&args.model)?;
    let checkpoint = open_model(&model)?;
    let compute = Compute::choose(&args.compute)?;
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let started = Instant::now();
    let calibration = match (&args.calibrate, &args.calibration) {
        (Some(text), _) => {
            let file = scratch.path().join("calibration");
            calibrate_on(&model, text, &args.amount, &compute, &file)?;
            Calibration::open(file)?
        }
        (None, Some(file)) => Calibration::open(file)?,
        (None, None) => unreachable!("clap asks for one of --calibrate and --calibration"),
    };
    let calibration_seconds = started.elapsed().as_secs_f64();
    let loaded = load_llama(&model, &compute.device, compute.dtype, &mut Bar::default())?;
    let tokenizer = TextTokenizer::open(&model)?;
    let end = loaded.config.eos_token_ids.first().copied();
    let texts = args
        .text
        .iter()
        .map(|path| {
            let tokens = join_documents(&read_documents(path)?, &tokenizer, end)?;
            Ok(Text { path: path.clone(), tokens })
        })
        .collect::<Result<Vec<_>>>()?;
    let context = loaded.config.max_position_embeddings;
    let comparison =
        Comparison { args: &args, model, checkpoint, calibration, compute, texts, context };
    let mut rows = vec![comparison.dense(&loaded.model)?];
    drop(loaded);
    for recipe in &recipes {
        rows.extend(comparison.rows(recipe)?);
    }
    rows.sort_by(|a, b| b.keep.total_cmp(&a.keep));
    print(&comparison, &rows, calibration_seconds)
}

/// `METHOD`, `METHOD/POLICY` or `METHOD/POLICY/STORAGE`.
fn recipe(text: &str) -> Result<Recipe> {
    let mut parts = text.split('/');
    let method = named::<MethodArg>(parts.next().unwrap_or_default())?;
    let mut recipe = Recipe::of(method);
    if let Some(policy) = parts.next() {
        recipe.policy = named::<Policy>(policy)?;
    }
    if let Some(storage) = parts.next() {
        recipe.storage = named::<StorageArg>(storage)?.into();
    }
    match parts.next() {
        None => Ok(recipe),
        Some(rest) => Err(unknown(rest, "nothing")),
    }
}

fn named<T: ValueEnum>(text: &str) -> Result<T> {
    T::from_str(text, true).map_err(|_| {
        let names = T::value_variants().iter().filter_map(|value| value.to_possible_value());
        let names: Vec<_> = names.map(|value| value.get_name().to_string()).collect();
        unknown(text, &names.join(", "))
    })
}

fn unknown(text: &str, names: &str) -> anyhow::Error {
    let message = format!("--methods: `{text}` is not one of {names}");
    let hint = Some("such as two-sided, or svd/energy/factors".into());
    WrongInput { message, hint }.into()
}

fn name_of<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

impl Comparison<'_> {
    fn dense(&self, model: &Llama) -> Result<Row> {
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
            measure_within(&self.checkpoint, &Selection::projections(), norms, &resources)?;
        let measuring = started.elapsed().as_secs_f64();
        let mut rows = Vec::new();
        for keep in &self.args.keep_params {
            let started = Instant::now();
            let options = PlanOptions {
                storage: recipe.storage,
                min_ratio: 0.0,
                ..PlanOptions::to(Target::KeepParams(*keep))
            };
            let plan = plan_for(&spectra, recipe.policy, &options)?;
            let mut bar = Bar::default();
            let model = match recipe.fit(&self.args.fit, &self.compute) {
                Some(options) => {
                    let (model, compute) = (&self.model, &self.compute);
                    let fit = fitted(model, compute, &plan, &self.calibration, &options, &mut bar);
                    fit?.0.valid()
                }
                None => {
                    let Compute { device, dtype, .. } = &self.compute;
                    let loaded = load_llama(&self.model, device, *dtype, &mut bar)?;
                    apply_plan_in(loaded.model, &plan, norms, &mut bar)?.0
                }
            };
            bar.finish();
            let seconds = measuring + started.elapsed().as_secs_f64();
            let perplexities = self.perplexities(&model)?;
            let storage = match recipe.storage {
                Storage::Factors => "factors",
                Storage::Pivot => "pivot",
            };
            let row = Row {
                keep: *keep,
                method: name_of(recipe.method),
                policy: name_of(recipe.policy),
                storage: storage.into(),
                perplexity: perplexities[0],
                perplexities,
                parameters: plan.totals.parameters_after,
                bytes: plan.totals.bytes_after,
                kept: plan.totals.keep_params,
                lrcs: plan.totals.lrcs,
                seconds,
            };
            note!(
                "{} at {keep}: perplexity {}, {}",
                row.method,
                format::perplexity(row.perplexity),
                format::time(seconds)
            );
            rows.push(row);
        }
        Ok(rows)
    }

    fn perplexities(&self, model: &Llama) -> Result<Vec<f64>> {
        let options = PerplexityOptions {
            seq_len: self.args.seq_len,
            blocks: Some(self.args.blocks),
            at_once: self.compute.at_once(),
        };
        let device = &self.compute.device;
        let measure = |text: &Text| {
            let mut bar = Bar::default();
            perplexity(model, &text.tokens, self.context, &options, device, &mut bar)
                .map(|measured| measured.perplexity)
                .with_context(|| text.path.display().to_string())
        };
        self.texts.iter().map(measure).collect()
    }
}

fn print(comparison: &Comparison<'_>, rows: &[Row], calibration_seconds: f64) -> Result<()> {
    let names: Vec<String> =
        comparison.texts.iter().map(|text| text.path.display().to_string()).collect();
    let result = json!({
        "texts": names,
        "calibration_seconds": calibration_seconds,
        "rows": rows,
    });
    let title = format!("Ways to compress {}", comparison.args.model.display());
    write_page(&comparison.args.page, &title, |page| {
        page.models(&models(&result).context("the rows are those of `compare`")?);
        Ok(())
    })?;
    if comparison.args.json {
        return format::print_json(&result);
    }
    let mut header = vec!["keep", "method", "policy", "storage", "perplexity"];
    let others: Vec<String> = names[1..]
        .iter()
        .map(|name| PathBuf::from(name).file_name().unwrap_or_default().display().to_string())
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
    say!("{}", format::table(&header, cells));
    Ok(())
}
