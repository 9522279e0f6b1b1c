//! Prepares a run directory: the initial model, the data as tokens, and the options.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::checkpoint::check_companions;
use welore_burn::compress::Compressor;
use welore_burn::data::Texts;
use welore_burn::files::OutputDir;
use welore_burn::spectrum::Norms;
use welore_burn::train::{RunFile, check_method, check_rows, model_digest};

use super::adapter::{adapted_model, with_adapter};
use super::data::{self, EvaluationData, Inputs, absolute_path};
use super::place::NewPlace;
use super::request::{Request, check_evaluations, eval_window, evaluates_text, with_epochs};
use super::scratch::{described_model, random_model};
use super::size::check_training;
use crate::args::{ResourceArgs, TrainArgs, Typed};
use crate::devices::{Compute, host};
use crate::shared::artifacts::{in_file, in_target};
use crate::shared::card::write_card;
use crate::shared::opening::open_known;
use crate::shared::planning::{Goal, warn_of_prospect};
use crate::shared::selecting::of_model;
use crate::shared::text::TextReader;
use crate::terminal::Bar;

/// A run in its new directory.
pub struct Started {
    /// The directory, which is removed again unless it is kept.
    pub place: NewPlace,
    pub run: RunFile,
    pub inputs: Inputs,
}

/// Puts everything that training needs into a new run directory.
pub fn start(args: &TrainArgs, typed: &Typed, dir: &Path, compute: &Compute) -> Result<Started> {
    let request = Request::check(args, typed)?;
    // Checked here because compressing comes first and may take long.
    check_method(&request.config.init(&host()), &request.options)?;
    check_companions(&request.model)?;
    if args.start.from_scratch {
        let (config, _) = described_model(&request.model)?;
        check_training(&config.init(&host()), &request.options, compute)?;
    } else if request.goal.is_none() {
        // As it is stored, it may have nothing that trains.
        let opened = open_known(&request.model, &host())?;
        let skeleton = match &args.start.adapter {
            Some(adapter) => with_adapter(adapter, &opened)?,
            None => opened.into_skeleton(),
        };
        check_method(&skeleton, &request.options)?;
        check_training(&skeleton, &request.options, compute)?;
    }
    let place = NewPlace::create(dir)?;
    let (run, inputs) = prepare(args, typed, request, dir)?;
    Ok(Started { place, run, inputs })
}

/// Puts it into a directory that exists.
pub fn prepare(
    args: &TrainArgs,
    typed: &Typed,
    request: Request,
    dir: &Path,
) -> Result<(RunFile, Inputs)> {
    let template = request.template(&args.start);
    let Request { model, config, source, data, eval_text, watch_text, dtype, options, goal } =
        request;
    let reader = TextReader::open(&model, &config, args.start.bos)?.with_template(template);
    let rows = data.rows(&reader, options.seq_len)?;
    let options = with_epochs(&args.start, options, rows.len());
    check_evaluations(&options, typed)?;
    in_file(check_rows(&rows, &options, config.vocab_size), &data::named(&source))?;
    // The base has the same configuration and tokenizer. Compressing it comes last, since it may take
    // long.
    let base = match args.start.from_scratch {
        true => random_model(&model, options.seed, dir)?,
        false => base_of(args, &model, goal, dir)?,
    };
    data::keep(&rows, dir)?;
    data::keep_template(template, dir)?;
    let (base_digest, source) = (model_digest(&base)?, data::absolute(source)?);
    let mut run = RunFile::new(base, base_digest, source, rows.digest(), options);
    run.eval_text = args.start.eval_text.as_deref().map(absolute_path).transpose()?;
    run.eval_windows = args.start.eval_windows;
    run.watch_text = args.start.watch_text.as_deref().map(absolute_path).transpose()?;
    if run.eval_text.is_some() || run.watch_text.is_some() {
        run.eval_seq_len = Some(eval_window(&args.start, &config));
    }
    let reads_text = data.is_text() || evaluates_text(&args.start);
    run.bos = reader.beginning.bos.filter(|_| reads_text);
    run.dtype = dtype;
    run.track_gradients = args.start.track_gradients;
    run.must_improve = args.must_improve && run.options.evaluates();
    run.check()?;
    let watch_text = watch_text.filter(|_| run.options.eval_every > 0);
    let tokens = |(path, texts): (PathBuf, Texts)| data::tokens_of(&reader, &path, &texts);
    let watched = watch_text.map(tokens).transpose()?;
    let (watched, watch_digest) = watched.unzip();
    run.watch_digest = watch_digest;
    let evaluation = EvaluationData::of(&run, eval_text, data);
    let (evaluation, digest) = evaluation.prepare(&run, reader, &config)?;
    run.eval_digest = digest;
    run.write(dir)?;
    Ok((run, Inputs { rows, evaluation, watched }))
}

/// The model directory that training starts from: the given one, or `RUN/base`, into which the
/// given one is compressed, or written with an adapter added to it.
fn base_of(args: &TrainArgs, model: &Path, goal: Option<Goal>, dir: &Path) -> Result<PathBuf> {
    let opened = open_known(model, &host())?;
    if let Some(adapter) = &args.start.adapter {
        return adapted_model(adapter, &opened, dir);
    }
    let Some(goal) = goal else { return absolute_path(model) };
    let output = OutputDir::create(dir.join("base"), false)?;
    let selected = of_model(&args.start.selection, opened.skeleton())?;
    let resources = ResourceArgs::default();
    let plan = goal.plan(&opened.checkpoint, &selected, Norms::plain(), &resources)?.plan;
    warn_of_prospect(&plan, true);
    let mut bar = Bar::default();
    Compressor::new(&plan).directory(&opened.checkpoint, &output, &mut bar)?;
    bar.finish();
    let name = args.start.model.as_deref().unwrap_or(model).to_string_lossy();
    in_target(write_card(output.path(), model, &name, &plan, None), &output)?;
    output.commit()?;
    absolute_path(&dir.join("base"))
}
