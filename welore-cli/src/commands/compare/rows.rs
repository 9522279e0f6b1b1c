//! Measuring one row after the other. What two rows share is done once.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::KeptMatrices;
use welore_burn::eval::{Perplexity, divergence, perplexity};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, parameters};
use welore_burn::model::{Decoder, LanguageModel, load_model};
use welore_burn::modules::{MatrixName, Selection};
use welore_burn::named::Named;
use welore_burn::plan::{RankPlan, Target, make_plan};
use welore_burn::spectrum::{Method, Norms, Spectra};

use super::given::GivenModel;
use super::requests::{Request, RowGoal};
use super::{Text, measuring};
use crate::args::CompareArgs;
use crate::devices::Compute;
use crate::format;
use crate::shared::artifacts::in_target;
use crate::shared::compressing::{compressor, load_for_blocks};
use crate::shared::measuring::{Known, budget, measure_within};
use crate::shared::planning::{Oddity, guesses, oddities, warn_about_all};
use crate::shared::recipe::Recipe;
use crate::terminal::Bar;

/// The measurements of a model.
#[derive(Debug, Serialize)]
pub struct Row {
    /// How far the model is compressed, in a few words.
    #[serde(skip)]
    pub label: String,
    /// Share of the matrices' parameters that may be kept, if that is the target; 1 for the dense
    /// model.
    pub keep: Option<f64>,
    /// The target, as plans state it; null for the dense model.
    pub target: Value,
    /// The file of the plan, if one was given.
    pub plan: Option<String>,
    /// The model, if it existed already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The series of models that it is of, if it was given with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    pub method: String,
    /// The norm in which matrices are approximated: weights, inputs or loss.
    pub norm: String,
    pub policy: String,
    /// How low-rank matrices are stored; null for a plan that was given, which states it for each.
    pub storage: Option<String>,
    /// On the first text.
    pub perplexity: f64,
    /// On every text, in the order of the command line.
    pub perplexities: Vec<f64>,
    /// Mean KL divergence from the dense model on the first text, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The same on every text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kls: Vec<f64>,
    /// Number of windows of every text.
    pub windows: Vec<usize>,
    pub parameters: u64,
    pub bytes: u64,
    /// Share of the matrices' parameters that is kept.
    pub kept: f64,
    pub lrcs: usize,
    /// Duration of measuring, planning and compressing, without matrices that an earlier row
    /// compressed.
    pub seconds: f64,
}

/// The comparison of a model with what is made of it.
pub struct Comparison<'a> {
    args: &'a CompareArgs,
    /// The dense model.
    checkpoint: Checkpoint,
    /// Its weights, where other models are compared with its predictions.
    dense: Option<Decoder>,
    selection: Selection,
    calibration: Option<&'a Calibration>,
    compute: &'a Compute,
    texts: &'a [Text],
    /// Where compressed models are written, one at a time.
    scratch: &'a Path,
    /// What has been measured, by norm.
    measured: Vec<Measured<'a>>,
    /// The models that have been made.
    made: Vec<Made>,
    /// What may be unexpected about the plans, with the labels of their rows.
    odd: Vec<(Oddity, String)>,
    /// Matrices that have been compressed, for rows that compress them in the same way.
    kept: KeptMatrices,
}

/// Singular values in a norm.
struct Measured<'a> {
    norms: Norms<'a>,
    spectra: Spectra,
    seconds: f64,
}

/// A model that was made and measured. It depends on nothing but this, for a given command line.
struct Made {
    method: Method,
    is_sequential: bool,
    forms: Vec<(MatrixName, Form)>,
    quality: Quality,
    seconds: f64,
}

/// How good a model is on every text.
#[derive(Debug, Clone)]
struct Quality {
    perplexities: Vec<f64>,
    /// Mean KL divergences from the dense model; none unless they were asked for.
    kls: Vec<f64>,
    windows: Vec<usize>,
}

impl<'a> Comparison<'a> {
    /// A comparison that has yet to begin.
    pub fn new(
        args: &'a CompareArgs,
        checkpoint: Checkpoint,
        selection: Selection,
        calibration: Option<&'a Calibration>,
        compute: &'a Compute,
        texts: &'a [Text],
        scratch: &'a Path,
    ) -> Result<Self> {
        let (measured, made, odd) = (Vec::new(), Vec::new(), Vec::new());
        let kept = KeptMatrices::create(scratch.join("matrices"), checkpoint.bytes())?;
        Ok(Self {
            args,
            checkpoint,
            dense: None,
            selection,
            calibration,
            compute,
            texts,
            scratch,
            measured,
            made,
            odd,
            kept,
        })
    }

    /// The row of the dense model, which is kept if others are compared with its predictions.
    pub fn dense(&mut self, model: Decoder) -> Result<Row> {
        let Quality { perplexities, windows, .. } = self.quality(&model, "dense")?;
        let parameters = parameters(&model);
        self.dense = self.args.kl.then_some(model);
        let kls = if self.args.kl { vec![0.0; perplexities.len()] } else { Vec::new() };
        Ok(Row {
            label: String::new(),
            keep: Some(1.0),
            target: Value::Null,
            plan: None,
            model: None,
            series: None,
            method: "dense".into(),
            norm: String::new(),
            policy: String::new(),
            storage: None,
            perplexity: perplexities[0],
            perplexities,
            kl: kls.first().copied(),
            kls,
            windows,
            parameters,
            bytes: self.checkpoint.bytes(),
            kept: 1.0,
            lrcs: 0,
            seconds: 0.0,
        })
    }

    /// The row of a compressed model.
    pub fn row(&mut self, request: &Request) -> Result<Row> {
        let label = request.label();
        let (plan, norms, planning) = match &request.goal {
            RowGoal::Given(given) => {
                ((*given.plan).clone(), request.recipe.norms(self.calibration)?, 0.0)
            }
            RowGoal::Target(options) => {
                let place = self.measure(&request.recipe)?;
                let Measured { norms, spectra, seconds } = &self.measured[place];
                let started = Instant::now();
                let plan = make_plan(spectra, request.recipe.policy, options)?;
                let guesses = guesses(spectra, request.recipe.policy);
                self.odd.extend(guesses.map(|oddity| (oddity, label.clone())));
                (plan, norms.clone(), seconds + started.elapsed().as_secs_f64())
            }
        };
        self.odd.extend(oddities(&plan).map(|oddity| (oddity, label.clone())));
        let (quality, compressing) = self.make(&request.recipe, &plan, norms, &label)?;
        let row = row_of(request, &plan, quality, planning + compressing);
        let (found, time) = (format::perplexity(row.perplexity), format::time(row.seconds));
        note!("{label}: perplexity {found}, {time}");
        Ok(row)
    }

    /// The row of a model that exists already.
    pub fn given(&mut self, given: &GivenModel) -> Result<Row> {
        let label = given.path.display().to_string();
        let mut bar = Bar::for_subject(&label);
        let model = given.load(self.compute, &mut bar)?;
        bar.finish();
        let Quality { perplexities, kls, windows } = self.quality(&model, &label)?;
        note!("{label}: perplexity {}", format::perplexity(perplexities[0]));
        Ok(Row {
            label: label.clone(),
            keep: None,
            target: Value::Null,
            plan: None,
            model: Some(label),
            series: given.series.clone(),
            method: "as given".into(),
            norm: String::new(),
            policy: String::new(),
            storage: None,
            perplexity: perplexities[0],
            perplexities,
            kl: kls.first().copied(),
            kls,
            windows,
            parameters: parameters(&model),
            bytes: given.bytes,
            kept: given.kept,
            lrcs: given.lrcs,
            seconds: 0.0,
        })
    }

    /// Warns about the plans of all rows.
    pub fn warn(&self) {
        warn_about_all(&self.odd);
    }

    /// The place of the singular values in the norm of a recipe, measured unless they are known.
    fn measure(&mut self, recipe: &Recipe) -> Result<usize> {
        let method = recipe.way.method;
        let is_known = |measured: &Measured<'_>| measured.norms.method() == method;
        if let Some(place) = self.measured.iter().position(is_known) {
            return Ok(place);
        }
        let norms = recipe.norms(self.calibration)?;
        let (checkpoint, selection) = (&self.checkpoint, &self.selection);
        let started = Instant::now();
        let (spectra, _) =
            measure_within(checkpoint, selection, norms.clone(), &self.args.resources)?;
        let seconds = started.elapsed().as_secs_f64();
        self.measured.push(Measured { norms, spectra, seconds });
        Ok(self.measured.len() - 1)
    }

    /// How good the model of a plan is, and how long compressing it took. A model that was made for
    /// another row is not made again.
    fn make(
        &mut self,
        recipe: &Recipe,
        plan: &RankPlan,
        norms: Norms<'_>,
        label: &str,
    ) -> Result<(Quality, f64)> {
        let (method, is_sequential) = (recipe.way.method, recipe.way.is_sequential);
        let forms: Vec<(MatrixName, Form)> =
            plan.compressed().map(|matrix| (matrix.name.clone(), matrix.form)).collect();
        let is_same = |made: &&Made| {
            made.method == method && made.is_sequential == is_sequential && made.forms == forms
        };
        if let Some(made) = self.made.iter().find(is_same) {
            return Ok((made.quality.clone(), made.seconds));
        }
        let (model, seconds) = self.compressed(recipe, plan, norms, label)?;
        let quality = self.quality(&model, label)?;
        self.made.push(Made { method, is_sequential, forms, quality: quality.clone(), seconds });
        Ok((quality, seconds))
    }

    /// The model as `compress` writes it and as `eval` reads it, and how long compressing it took.
    fn compressed(
        &self,
        recipe: &Recipe,
        plan: &RankPlan,
        norms: Norms<'_>,
        label: &str,
    ) -> Result<(Decoder, f64)> {
        let started = Instant::now();
        let mut bar = Bar::for_subject(label);
        let blockwise = recipe.blockwise(&self.args.blockwise, self.calibration, self.compute);
        let compressor = compressor(plan, norms, blockwise)
            .with_budget(budget(&self.args.resources))
            .with_kept(&self.kept);
        let output = OutputDir::create(self.scratch.join("model"), true)?;
        let checkpoint = &self.checkpoint;
        let written = if blockwise.is_some() {
            let model = load_for_blocks(checkpoint.dir(), self.compute, &mut bar)?;
            compressor.directory_with(model, checkpoint, &output, &mut bar)
        } else {
            compressor.directory(checkpoint, &output, &mut bar)
        };
        let report = in_target(written.map_err(anyhow::Error::from), &output)?;
        let seconds = started.elapsed().as_secs_f64();
        let Compute { device, dtype, .. } = self.compute;
        let model = load_model(output.path(), device, *dtype, &mut bar)?.model;
        bar.finish();
        let all = report.compressed.len() + report.adapted.len();
        Known::of(&bar, all).tell("compressed");
        Ok((model, seconds))
    }

    fn quality(&self, model: &impl LanguageModel, label: &str) -> Result<Quality> {
        let measure = |text: &Text| {
            let options = measuring(self.args, text, self.compute.at_once());
            let mut bar = Bar::for_subject(label);
            let measured = match &self.dense {
                Some(dense) => divergence(model, dense, &text.tokens, &options, &mut bar)
                    .map(|found| (found.model, Some(found.kl.value))),
                None => {
                    perplexity(model, &text.tokens, &options, &mut bar).map(|found| (found, None))
                }
            };
            measured.with_context(|| text.path.display().to_string())
        };
        let measured = self.texts.iter().map(measure);
        let measured = measured.collect::<Result<Vec<(Perplexity, Option<f64>)>>>()?;
        Ok(Quality {
            perplexities: measured.iter().map(|(found, _)| found.perplexity).collect(),
            kls: measured.iter().filter_map(|(_, kl)| *kl).collect(),
            windows: measured.iter().map(|(found, _)| found.windows).collect(),
        })
    }
}

fn row_of(request: &Request, plan: &RankPlan, quality: Quality, seconds: f64) -> Row {
    let Quality { perplexities, kls, windows } = quality;
    let (recipe, totals) = (&request.recipe, &plan.totals);
    let (given, storage) = match &request.goal {
        RowGoal::Target(_) => (None, Some(recipe.storage.name().into())),
        RowGoal::Given(given) => (Some(given.path.display().to_string()), None),
    };
    let keep = match plan.target {
        Some(Target::KeepParams(share)) if given.is_none() => Some(share),
        _ => None,
    };
    Row {
        label: request.target(),
        keep,
        target: serde_json::to_value(plan.target).expect("targets serialize"),
        plan: given,
        model: None,
        series: None,
        method: recipe.way.name.into(),
        norm: request.norm().into(),
        policy: plan.policy.clone(),
        storage,
        perplexity: perplexities[0],
        perplexities,
        kl: kls.first().copied(),
        kls,
        windows,
        parameters: totals.parameters_after,
        bytes: totals.bytes_after,
        kept: totals.keep_params,
        lrcs: totals.lrcs,
        seconds,
    }
}
