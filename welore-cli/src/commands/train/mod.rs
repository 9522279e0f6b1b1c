//! `train`: fine-tune a model on a text or a task, by default only its low-rank components.

mod adapter;
mod changes;
mod data;
mod extend;
mod finish;
mod log;
mod place;
mod preview;
mod request;
mod resume;
mod scratch;
mod size;
mod start;
mod trial;

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::eval::{EvalError, PerplexityOptions, check_text, perplexity};
use welore_burn::model::LanguageModel;
use welore_burn::named::Named;
use welore_burn::plan::read_plan;
use welore_burn::progress::Interrupted;
use welore_burn::train::{
    Evaluated, RunFile, RunPlace, Score, TrainError, Training, TrainingEvent, trainable_paths,
};

use crate::args::{ResourceArgs, TrainArgs, TrainStartArgs, Typed};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::beginning::Beginning;
use crate::shared::gradients::sum_up;
use crate::shared::opening::open_known;
use crate::shared::page::{add_run, check_page, write_page};
use crate::terminal::{Bar, Steps, is_part, must_stop};
use crate::{format, memory};
use data::{Evaluation, Inputs, row_name};

/// Runs the command.
pub fn run(args: TrainArgs, typed: &Typed) -> Result<()> {
    memory::keep_pages();
    let TrainStartArgs { model, adapter, text, data, plan, eval_text, watch_text, output, .. } =
        &args.start;
    let inputs = [model, adapter, data, plan, eval_text, watch_text, &args.resume];
    let inputs = inputs.into_iter().flatten().chain(text).map(PathBuf::as_path);
    let inputs = inputs.chain(args.start.template.file());
    check_page(&args.page, output.as_deref(), inputs)?;
    match (&args.resume, &args.start.output) {
        (_, Some(dir)) if args.dry_run => preview::show(&args, typed, dir),
        (Some(dir), _) if args.dry_run => resume::show(&args, typed, dir),
        (Some(dir), _) => resume::resume(&args, typed, dir),
        (None, Some(dir)) => begin(&args, typed, dir),
        (None, None) => unreachable!("clap asks for one of --resume and --output"),
    }
}

fn begin(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<()> {
    let compute = Compute::choose(args.compute.choice())?;
    let start::Started { place, run, inputs } = start::start(args, typed, dir, &compute)?;
    let run = Run { args, dir, run, compute, extension: None, has_begun: false };
    let (training, inputs) = run.open(inputs)?;
    let _place = place.keep();
    if let Some(adapter) = &args.start.adapter {
        let base = dir.join("base");
        note!(
            "{} is added to the model: training starts from {}",
            adapter.display(),
            base.display()
        );
    }
    run.train(training, inputs)
}

/// A run in its directory.
struct Run<'a> {
    args: &'a TrainArgs,
    dir: &'a Path,
    run: RunFile,
    compute: Compute,
    /// What to say about its extension, if it is extended now.
    extension: Option<String>,
    /// Whether the directory holds a run that goes on.
    has_begun: bool,
}

impl Run<'_> {
    /// Loads the model, and checks that everything fits together.
    fn open(&self, inputs: Inputs) -> Result<(Training<impl LanguageModel + use<>>, Inputs)> {
        let Self { dir, run, compute, .. } = self;
        let opened = open_known(&run.base, &compute.device.clone().autodiff())?;
        size::check_training(opened.skeleton(), &run.options, compute)?;
        let masters = trainable_paths(opened.skeleton(), run.options.trainable);
        let is_master = |path: &str| masters.contains(path);
        let model = opened.load(compute.dtype, is_master, &mut Bar::default())?.model;
        if let (Evaluation::Text(tokens), Some(path)) = (&inputs.evaluation, &run.eval_text) {
            self.check_text(&model, tokens, path)?;
        }
        if let (Some(tokens), Some(path)) = (&inputs.watched, &run.watch_text) {
            self.check_text(&model, tokens, path)?;
        }
        let identity = run.identity();
        let place = RunPlace { dir, origin: &identity, resume: self.has_begun };
        let mut training = Training::open(model, run.options.clone(), place)?;
        if let Some(every) = run.track_gradients {
            training.track_gradients(dir, every)?;
        }
        in_file(training.check_rows(&inputs.rows), &data::named(&run.data))?;
        training.check_position(&inputs.rows)?;
        Ok((training, inputs))
    }

    /// Checks that a text can be evaluated.
    fn check_text(&self, model: &impl LanguageModel, tokens: &[u32], path: &Path) -> Result<()> {
        let checked = check_text(model, tokens, &self.perplexity_options());
        if let Err(error @ EvalError::TooShort { .. }) = checked {
            let message = format!("{}: {error}", path.display());
            let hint = match self.args.resume.is_some() {
                true => "start a new run, with a longer text or a smaller --eval-seq-len",
                false => "use a longer text or a smaller --eval-seq-len",
            };
            return Err(WrongInput::with_hint(message, hint).into());
        }
        in_file(checked, path)
    }

    fn perplexity_options(&self) -> PerplexityOptions {
        PerplexityOptions {
            seq_len: self.run.eval_window(),
            windows: self.run.eval_windows,
            bos: self.run.bos,
            at_once: self.compute.at_once(),
            ..PerplexityOptions::default()
        }
    }

    /// How the texts of the run begin, if it trains on one.
    fn beginning(&self) -> Option<Beginning> {
        (!self.run.data.is_task()).then(|| finish::beginning(self.args, &self.run))
    }

    /// Trains to the end, and writes the model.
    fn train<M: LanguageModel>(&self, mut training: Training<M>, inputs: Inputs) -> Result<()> {
        let Self { args, dir, run, .. } = self;
        let _log = log::open(dir)?;
        self.tell(&training, inputs.rows.len())?;
        let model = finish::model_of(dir);
        let was_done = training.is_done();
        let finished = was_done && finish::is_written(dir, run)?;
        self.take_steps(&mut training, &inputs)?;
        if !finished {
            // The first check may be hours ago.
            finish::check_model(dir, run, was_done && run.is_extended())?;
            finish::write(&training, run, dir)?;
            adapter::tell_base(run)?;
            tracing::info!("done at step {}", training.position().step);
        }
        if run.track_gradients.is_some() {
            sum_up(dir, &model, &ResourceArgs::default())?;
        }
        write_page(&args.page, &format!("Training {}", run.base.display()), |page| {
            if let Some(plan) = read_plan(&run.base)? {
                page.plan(&plan);
            }
            add_run(page, dir)
        })?;
        finish::report(args, run, &training, &model)
    }

    fn take_steps<M: LanguageModel>(
        &self,
        training: &mut Training<M>,
        inputs: &Inputs,
    ) -> Result<()> {
        let mut steps = Steps::new(self.run.options.steps, training.position().step);
        let observe = |event: TrainingEvent| {
            log::note(&event);
            steps.show(event);
            if must_stop() { Err(Interrupted) } else { Ok(()) }
        };
        let evaluate = |model: &M| self.evaluate(model, inputs);
        let outcome = training.run(&inputs.rows, self.compute.execution(), evaluate, observe);
        steps.finish();
        match &outcome {
            Ok(()) if training.is_out_of_patience() => {
                let step = training.position().step;
                note!("stopped early at step {step}: the score no longer improved");
            }
            Ok(()) => {}
            Err(error) => tracing::warn!("{error}"),
        }
        if let (Err(TrainError::Interrupted(_)), false) = (&outcome, is_part()) {
            note!("saved; `welore-cli train --resume {}` resumes the run", self.dir.display());
        }
        Ok(outcome?)
    }

    fn evaluate<M: LanguageModel>(
        &self,
        model: &M,
        inputs: &Inputs,
    ) -> Result<Evaluated, TrainError> {
        let score = self.score(model, &inputs.evaluation)?;
        let watched = inputs.watched.as_ref().map(|tokens| self.perplexity(model, tokens));
        // JSON has no infinity, and this number decides nothing.
        let watched = watched.transpose()?.filter(|perplexity| perplexity.is_finite());
        Ok(Evaluated { score, watched })
    }

    fn perplexity<M: LanguageModel>(&self, model: &M, tokens: &[u32]) -> Result<f64, EvalError> {
        let options = self.perplexity_options();
        Ok(perplexity(model, tokens, &options, &mut Bar::default())?.perplexity)
    }

    fn score<M: LanguageModel>(
        &self,
        model: &M,
        evaluation: &Evaluation,
    ) -> Result<Score, TrainError> {
        match evaluation {
            Evaluation::Nothing => unreachable!("checked before the run began"),
            Evaluation::Text(tokens) => Ok(Score::Perplexity(self.perplexity(model, tokens)?)),
            Evaluation::Task(speaker, examples) => {
                let score = speaker.score(model, examples, &self.compute);
                let score = score.map_err(|error| match error.downcast::<Interrupted>() {
                    Ok(interrupted) => TrainError::Interrupted(interrupted),
                    Err(error) => TrainError::Evaluation(error.into()),
                })?;
                Ok(Score::Accuracy(score.accuracy))
            }
        }
    }

    /// Reports what is trained, and what may be unexpected in this run.
    fn tell<M: LanguageModel>(&self, training: &Training<M>, rows: usize) -> Result<()> {
        let (count, step) = (training.count(), training.position().step);
        let trained = format!(
            "training {} of {} parameters ({}) on {} of up to {} tokens{}",
            format::count(count.trainable),
            format::count(count.total),
            format::percent(count.trainable as f64 / count.total as f64),
            format::number_of(rows, row_name(self.run.data.is_task())),
            self.run.options.seq_len,
            self.beginning().map(|beginning| beginning.clause_with_reason()).unwrap_or_default(),
        );
        note!("{trained}");
        tracing::info!("{trained}, from step {step}");
        if let Some(extension) = &self.extension {
            note!("{extension}");
            tracing::info!("{extension}");
        }
        match step {
            _ if self.args.resume.is_none() => {}
            0 => note!("there is no checkpoint yet: starting from the beginning"),
            _ => note!("resuming from step {step}"),
        }
        let missing = training.missing_metrics();
        if missing > 0 {
            let file = self.dir.join("metrics.jsonl");
            let steps = format::number_of(step, "step");
            tell!("warning: {} lacks {missing} of {steps}", file.display());
        }
        let trainable = self.run.options.trainable;
        if trainable.merges() && read_plan(&self.run.base)?.is_some() {
            note!(
                "note: --trainable {} multiplies the factors of a compressed model together, so \
                 the resulting model is dense",
                trainable.name()
            );
        }
        Ok(())
    }
}
