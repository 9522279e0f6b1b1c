//! `train --dry-run` tries the run in a directory for temporary files: its start, a few steps, a part
//! of an evaluation, a checkpoint, the resulting model and the summary of gradients. What all of it takes follows from that.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::data::TokenRows;
use welore_burn::files::FileError;
use welore_burn::model::LanguageModel;
use welore_burn::progress::{Interrupted, Progress};
use welore_burn::train::{
    Evaluated, RunFile, TrainError, TrainOptions, Trainable, Training, TrainingEvent,
};

use super::data::{Evaluation, Inputs, row_name};
use super::request::Request;
use super::{Run, finish, start};
use crate::args::{ResourceArgs, TrainArgs, Typed};
use crate::devices::Compute;
use crate::format;
use crate::shared::forecast::{Forecast, peak_with};
use crate::shared::gradients::sum_up;
use crate::shared::scratch::Scratch;
use crate::terminal::Bar;

/// The fewest steps that are tried: the first one does more than others.
const FEWEST: usize = 3;

/// The fewest where gradients are tracked, in every second step.
const FEWEST_TRACKED: usize = 5;

/// The most steps that are tried.
const MOST: usize = 10;

/// The most bytes of a parameter of a model with random weights.
const PARAMETER: u128 = size_of::<f32>() as u128;

/// No more steps are tried after this time.
const ENOUGH: Duration = Duration::from_secs(3);

/// Tries the run that was asked for, and says what it is expected to take.
pub fn try_out(
    args: &TrainArgs,
    typed: &Typed,
    request: Request,
    compute: Compute,
) -> Result<Forecast> {
    let (began, scratch) = (Instant::now(), Scratch::new(true)?);
    scratch.check_room(room(args, &request)?)?;
    let dir = &new_dir(&scratch)?;
    let (run, inputs) = start::prepare(args, typed, request, dir)?;
    Trial { args, dir, began, done: 0 }.forecast(run, inputs, compute)
}

/// Tries what is left of a run after its first `done` steps, and says what that is expected to take.
/// The steps that are tried are those at its beginning, which are alike.
pub fn try_rest(
    args: &TrainArgs,
    mut run: RunFile,
    done: usize,
    inputs: Inputs,
    compute: Compute,
) -> Result<Forecast> {
    let (began, scratch) = (Instant::now(), Scratch::new(true)?);
    scratch.check_room(Checkpoint::open(&run.base)?.bytes())?;
    let dir = &new_dir(&scratch)?;
    run.extended_from.clear();
    Trial { args, dir, began, done }.forecast(run, inputs, compute)
}

/// The directory of the run that is tried.
fn new_dir(scratch: &Scratch) -> Result<PathBuf> {
    let dir = scratch.path().join("run");
    fs::create_dir(&dir).map_err(FileError::io(&dir))?;
    Ok(dir)
}

/// A trial in a directory for temporary files.
struct Trial<'a> {
    args: &'a TrainArgs,
    dir: &'a Path,
    /// When everything began that the run does as well.
    began: Instant,
    /// Steps of the run that were taken before.
    done: usize,
}

impl Trial<'_> {
    /// Tries the run.
    fn forecast(self, mut run: RunFile, mut inputs: Inputs, compute: Compute) -> Result<Forecast> {
        let Self { args, dir, began, done } = self;
        let (options, tracked) = (run.options.clone(), run.track_gradients);
        run.options = few_of(&options, options.steps - done);
        run.track_gradients = tracked.and(NonZeroUsize::new(2));
        let few = 2 * compute.at_once().get();
        let amounts = amounts(&inputs, run.eval_window(), run.eval_windows);
        let evaluated: usize = amounts.iter().sum();
        let tried_of_it: usize = amounts.iter().map(|amount| few.min(*amount)).sum();
        run.eval_windows = Some(few);
        if let Evaluation::Task(_, examples) = &mut inputs.evaluation {
            examples.truncate(few);
        }
        let run = Run { args, dir, run, compute, extension: None, has_begun: false };
        let (mut training, inputs) = run.open(inputs)?;
        let steps = take_steps(&run, &mut training, &inputs.rows)?;
        let evaluation = match evaluated {
            0 => Duration::ZERO,
            _ => evaluate(&run, &training, &inputs)?,
        };
        finish::write(&training, &run.run, dir)?;
        if tracked.is_some() {
            // Nobody needs the singular values of a model that was tried.
            let resources = ResourceArgs { no_cache: true, ..ResourceArgs::default() };
            sum_up(dir, &finish::model_of(dir), &resources)?;
        }
        let tried = Tried {
            rest: began.elapsed().saturating_sub(steps.all + evaluation * 2),
            evaluation: evaluation.as_secs_f64() * evaluated as f64 / tried_of_it.max(1) as f64,
            scale: scale(&inputs.rows, &options, done, steps.seconds.len()),
            steps: steps.seconds,
            saving: steps.saving.as_secs_f64(),
        };
        let mut what = format::number_of(tried.steps.len(), "step");
        if evaluated > 0 {
            let row = row_name(matches!(inputs.evaluation, Evaluation::Task(..)));
            what += &format!(" and {}", format::number_of(tried_of_it, row));
        }
        Ok(Forecast {
            seconds: tried.seconds_of(&options, done, tracked.map(NonZeroUsize::get)),
            peak_bytes: peak_with(0),
            tried: what,
            is_host: run.compute.is_host(),
        })
    }
}

/// Bytes of the models that a trial writes: its result, and the model to start from if that is made
/// first, which is not larger than the given one.
fn room(args: &TrainArgs, request: &Request) -> Result<u64> {
    if args.start.from_scratch {
        let bytes = request.config.parameters().saturating_mul(2 * PARAMETER);
        return Ok(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
    let bytes = Checkpoint::open(&request.model)?.bytes();
    Ok(if request.goal.is_some() || args.start.adapter.is_some() {
        bytes.saturating_mul(2)
    } else {
        bytes
    })
}

/// The options of a run of a few steps without evaluations, which are the same steps. `left` are at
/// least one.
fn few_of(options: &TrainOptions, left: usize) -> TrainOptions {
    let steps = left.min(MOST);
    let warmup = options.warmup.min(steps);
    TrainOptions { steps, warmup, eval_every: 0, patience: None, save_every: 0, ..options.clone() }
}

/// The numbers of windows or examples in an evaluation: of the text or task that decides, and of the
/// text that is watched. 0 for what there is not.
fn amounts(inputs: &Inputs, window: usize, most: Option<usize>) -> [usize; 2] {
    let decides = match &inputs.evaluation {
        Evaluation::Nothing => 0,
        Evaluation::Text(tokens) => tokens.len() / window,
        Evaluation::Task(_, examples) => examples.len(),
    };
    let watched = inputs.watched.as_ref().map_or(0, |tokens| tokens.len() / window);
    [decides, watched].map(|all| all.min(most.unwrap_or(usize::MAX)))
}

/// Steps that were taken.
struct Steps {
    /// Seconds that each of them took.
    seconds: Vec<f64>,
    /// The time of a checkpoint.
    saving: Duration,
    /// The time of everything.
    all: Duration,
}

/// Takes a few steps, and saves a checkpoint.
fn take_steps<M: LanguageModel>(
    run: &Run<'_>,
    training: &mut Training<M>,
    rows: &TokenRows,
) -> Result<Steps> {
    let fewest = if run.run.track_gradients.is_some() { FEWEST_TRACKED } else { FEWEST };
    let mut bar = Bar::default();
    bar.begin("trying", run.run.options.steps);
    let (mut times, mut is_enough) = (vec![Instant::now()], false);
    let observe = |event: TrainingEvent| -> Result<(), Interrupted> {
        let TrainingEvent::Step(report) = event else { return Ok(()) };
        times.push(Instant::now());
        bar.step(&format!("step {}", report.step))?;
        is_enough = report.step >= fewest && times[0].elapsed() >= ENOUGH;
        if is_enough { Err(Interrupted) } else { Ok(()) }
    };
    let no_score = |_: &M| -> Result<Evaluated, TrainError> {
        unreachable!("a run without evaluations makes none")
    };
    match training.run(rows, run.compute.execution(), no_score, observe) {
        Err(TrainError::Interrupted(_)) if is_enough => {}
        outcome => outcome?,
    }
    let [first, .., last] = times[..] else { unreachable!("a run has at least one step") };
    let seconds = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    Ok(Steps { seconds, saving: last.elapsed(), all: first.elapsed() })
}

/// The time of an evaluation, made twice: the first time is slower.
fn evaluate<M: LanguageModel>(
    run: &Run<'_>,
    training: &Training<M>,
    inputs: &Inputs,
) -> Result<Duration> {
    let model = training.model().valid();
    run.evaluate(&model, inputs)?;
    let began = Instant::now();
    run.evaluate(&model, inputs)?;
    Ok(began.elapsed())
}

/// How many tokens a step of the run has on average after the first `done`, as a multiple of those of
/// its first `tried` steps.
fn scale(rows: &TokenRows, options: &TrainOptions, done: usize, tried: usize) -> f64 {
    let seed = options.shuffle.then_some(options.seed);
    let before = |step: usize| {
        let tokens = rows.tokens_before(step.saturating_mul(options.rows_a_step()), seed);
        tokens as f64
    };
    let mean = |from: usize, to: usize| (before(to) - before(from)) / (to - from).max(1) as f64;
    mean(done, options.steps) / mean(0, tried).max(1.0)
}

/// What a trial took, in seconds except for the first.
struct Tried {
    /// Everything but steps, checkpoints and evaluations.
    rest: Duration,
    /// Each step.
    steps: Vec<f64>,
    /// How much longer the steps of the run are.
    scale: f64,
    /// A checkpoint.
    saving: f64,
    /// A whole evaluation.
    evaluation: f64,
}

impl Tried {
    /// The seconds of a run with these options after the first `done` steps, which tracks gradients
    /// in every `tracked`-th step. In the trial it was every second one.
    fn seconds_of(&self, options: &TrainOptions, done: usize, tracked: Option<usize>) -> f64 {
        let Self { rest, steps, scale, saving, evaluation } = self;
        let mean = |odd: bool, even: bool| {
            // The first step is not like the others.
            let numbered = (1..).zip(steps).skip(1);
            let chosen: Vec<f64> = numbered
                .filter(|(number, _)| if number % 2 == 1 { odd } else { even })
                .map(|(_, seconds)| *seconds)
                .collect();
            match chosen.len() {
                0 => steps.iter().sum::<f64>() / steps.len() as f64,
                count => chosen.iter().sum::<f64>() / count as f64,
            }
        };
        let (plain, watched) = match tracked {
            None => (mean(true, true), 0.0),
            Some(_) => (mean(true, false), mean(false, true)),
        };
        let every = tracked.unwrap_or(usize::MAX);
        let watching = options.steps / every - done / every;
        // The first step, and those that look for new projections as it did.
        let slow = match options.trainable {
            Trainable::Galore => {
                let looks = |steps: usize| steps.div_ceil(options.galore.refresh);
                (looks(options.steps) - looks(done)).max(1)
            }
            _ => 1,
        };
        let extra = (steps[0] - plain).max(0.0) * slow as f64;
        let watching = (watched - plain).max(0.0) * watching as f64;
        let all = (plain * (options.steps - done) as f64 + extra + watching) * scale;
        // With a patience there may be fewer, and fewer steps.
        let evaluations = evaluations(options, done);
        let saved = saving * checkpoints(options, done) as f64;
        rest.as_secs_f64() + all + saved + evaluation * evaluations as f64
    }
}

/// The number of evaluations of a run after its first `done` steps; that of its start counts if none
/// was taken.
fn evaluations(options: &TrainOptions, done: usize) -> usize {
    let until = |steps: usize| steps.checked_div(options.eval_every).unwrap_or(0);
    match until(options.steps) {
        0 => 0,
        count => count - until(done) + usize::from(done == 0),
    }
}

/// The number of checkpoints of a run after its first `done` steps, if every evaluation is the best
/// one.
fn checkpoints(options: &TrainOptions, done: usize) -> usize {
    let TrainOptions { steps, save_every, eval_every, .. } = *options;
    let until = |steps: usize, count: usize| steps.checked_div(count).unwrap_or(0);
    let every = |count: usize| until(steps, count) - until(done, count);
    let both = match (save_every, eval_every) {
        (0, _) | (_, 0) => 0,
        (a, b) => every((a / greatest_divisor(a, b)).saturating_mul(b)),
    };
    let is_due = |count: usize| count > 0 && steps.is_multiple_of(count);
    let at_end = usize::from(!is_due(save_every) && !is_due(eval_every));
    let at_start = usize::from(done == 0 && options.evaluates());
    at_start + every(save_every) + every(eval_every) - both + at_end
}

fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried() -> Tried {
        let rest = Duration::from_secs(7);
        Tried {
            rest,
            steps: vec![5.0, 2.0, 2.0, 2.0, 2.0],
            scale: 1.0,
            saving: 0.5,
            evaluation: 10.0,
        }
    }

    fn options(steps: usize) -> TrainOptions {
        TrainOptions { steps, eval_every: 50, save_every: 20, ..TrainOptions::default() }
    }

    #[test]
    fn everything_that_repeats_is_counted_as_often_as_it_does() {
        // The start; 100 steps, the first of which is slower; 3 evaluations; checkpoints at steps 0,
        // 20, 40, 50, 60, 80 and 100.
        let seconds = tried().seconds_of(&options(100), 0, None);
        assert_eq!(seconds, 7.0 + 203.0 + 30.0 + 3.5);
        let longer = Tried { scale: 2.0, ..tried() }.seconds_of(&options(100), 0, None);
        assert_eq!(longer, seconds + 203.0);
    }

    #[test]
    fn one_step_is_all_that_is_known_of_a_run_of_one() {
        let one = Tried { steps: vec![5.0], ..tried() };
        let none = TrainOptions { eval_every: 0, save_every: 0, ..options(1) };
        assert_eq!(one.seconds_of(&none, 0, None), 7.0 + 5.0 + 0.5);
    }

    #[test]
    fn steps_that_do_more_are_counted_by_themselves() {
        let none = TrainOptions { eval_every: 0, save_every: 0, ..options(100) };
        let watched = Tried { steps: vec![5.0, 4.0, 2.0, 4.0, 2.0], ..tried() };
        // Every tenth of the 100 steps takes 2 seconds more.
        assert_eq!(watched.seconds_of(&none, 0, Some(10)), 7.0 + 203.0 + 20.0 + 0.5);
        let mut galore = TrainOptions { trainable: Trainable::Galore, ..none };
        galore.galore.refresh = 30;
        // As slow as the first: steps 1, 31, 61 and 91.
        assert_eq!(tried().seconds_of(&galore, 0, None), 7.0 + 212.0 + 0.5);
    }

    #[test]
    fn steps_that_were_taken_are_not_counted() {
        // Of a run of 100 steps, after 40: 60 steps, the first of them slower again; evaluations at
        // steps 50 and 100; checkpoints at steps 50, 60, 80 and 100.
        let seconds = tried().seconds_of(&options(100), 40, None);
        assert_eq!(seconds, 7.0 + 123.0 + 20.0 + 2.0);
        let mut galore = TrainOptions { trainable: Trainable::Galore, ..options(100) };
        galore.galore.refresh = 30;
        // Steps 61 and 91.
        assert_eq!(tried().seconds_of(&galore, 40, None), seconds + 3.0);
        // The start was evaluated before the first step.
        assert_eq!([0, 1, 50, 99].map(|done| evaluations(&options(100), done)), [3, 2, 1, 1]);
    }

    #[test]
    fn checkpoints_at_the_same_step_are_one() {
        let count = |steps, save_every, eval_every| {
            let options = TrainOptions { steps, save_every, eval_every, ..Default::default() };
            checkpoints(&options, 0)
        };
        assert_eq!(count(100, 20, 50), 7);
        assert_eq!(count(105, 20, 50), 8);
        assert_eq!([count(100, 0, 0), count(100, 0, 100), count(9, 10, 10)], [1, 2, 1]);
        assert_eq!(count(100, 10, 10), 11);
    }
}
