//! Progress bars, and the tasks that show the same progress as lines where there is no terminal.

use std::sync::atomic::Ordering;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use welore_burn::escape;
use welore_burn::progress::{Interrupted, Part, Progress};
use welore_burn::train::TrainingEvent;

use super::lines::{Task, Unit};
use super::{STEPPING, must_stop};
use crate::output::is_quiet;
use crate::{format, verbosity};

/// A bar on stderr, hidden if `--quiet` or `--verbose` is given.
fn bar_of(total: u64) -> ProgressBar {
    let target = match is_quiet() || verbosity::level() > 0 {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    ProgressBar::with_draw_target(Some(total), target)
}

/// The steps of a training run on stderr: a bar on a terminal, otherwise lines.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
    task: Task,
    total: usize,
}

impl Steps {
    /// A run of `total` steps, `done` of them finished.
    pub fn new(total: usize, done: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} left {eta} {wide_msg}")
            .expect("the template is a constant that is valid")
            .progress_chars("=> ");
        let bar = bar_of(total as u64).with_style(style).with_position(done as u64);
        bar.reset_eta();
        let task = Task::begin("training", Unit::STEPS, total as u64);
        task.resume_at(done as u64);
        STEPPING.store(true, Ordering::SeqCst);
        Self { bar, task, total }
    }

    /// Shows what happened.
    pub fn show(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step(step) => {
                let text = format!("loss {:.4}  {:.0} tokens/s", step.loss, step.tokens_per_second);
                self.bar.set_position(step.step as u64);
                self.task.at(step.step as u64);
                // A hundred lines are enough for a long run.
                let worth_a_line = step.step.is_multiple_of((self.total / 100).max(1));
                if self.bar.is_hidden() && worth_a_line {
                    note!("step {}/{}  {text}", step.step, self.total);
                }
                self.bar.set_message(text);
            }
            TrainingEvent::Evaluation { step, score, watched } => {
                let watched = watched.map(|value| {
                    format!("; watched text: perplexity {}", format::perplexity(value))
                });
                let (score, watched) = (format::score(score), watched.unwrap_or_default());
                self.bar.suspend(|| note!("step {step}: {score}{watched}"));
            }
        }
    }

    /// Takes the bar off the screen, and ends the lines.
    pub fn finish(&mut self) {
        STEPPING.store(false, Ordering::SeqCst);
        self.task.end();
        self.bar.finish_and_clear();
    }
}

/// The progress of a transfer in bytes, on stderr: a bar on a terminal, otherwise lines.
#[derive(Debug)]
pub struct Bytes {
    bar: ProgressBar,
    task: Task,
}

impl Bytes {
    /// A transfer of `total` bytes.
    pub fn new(what: &str, total: u64) -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} \
             {decimal_bytes_per_sec} left {eta} {wide_msg}",
        )
        .expect("the template is a constant that is valid")
        .progress_chars("=> ");
        let bar = bar_of(total).with_style(style);
        bar.set_prefix(escape::terminal(what).into_owned());
        Self { bar, task: Task::begin(what, Unit::Bytes, total) }
    }

    /// Names an item that begins after `done` bytes.
    pub fn begin(&self, item: &str, done: u64) {
        self.bar.set_message(escape::terminal(item).into_owned());
        self.bar.set_position(done);
        // Bytes that an earlier command fetched would make the rest look fast.
        self.bar.reset_eta();
        self.task.on(item);
        self.task.resume_at(done);
    }

    /// `done` bytes have arrived.
    pub fn at(&self, done: u64) {
        self.bar.set_position(done);
        self.task.at(done);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Progress on stderr: a bar on a terminal, otherwise lines.
#[derive(Debug, Default)]
pub struct Bar {
    /// What the work is for.
    subject: Option<String>,
    bar: Option<ProgressBar>,
    task: Task,
    started: bool,
    /// What is counted.
    unit: &'static str,
    /// The parts of the current work, if its steps differ in size, else of the last such work.
    parts: Parts,
    in_parts: bool,
}

/// The progress of work whose steps differ in size.
#[derive(Debug, Default)]
struct Parts {
    what: String,
    total: usize,
    done: usize,
    known: usize,
}

/// The style of a bar of steps that are called `unit`, which has no braces.
fn counting(unit: &str) -> ProgressStyle {
    let template = format!(
        "{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {unit} {{elapsed}} left {{eta}} {{wide_msg}}"
    );
    ProgressStyle::with_template(&template).expect("units have no braces").progress_chars("=> ")
}

impl Progress for Bar {
    fn begin_work(&mut self, what: &str, total: usize, operations: u64) {
        self.begin(what, total);
        let what = self.naming(what);
        self.parts = Parts { what, total, ..Parts::default() };
        // The bar measures operations, for a good estimate of the time left, but shows steps.
        let style =
            ProgressStyle::with_template("{prefix} [{bar:30}] {elapsed} left {eta} {wide_msg}")
                .expect("the template is a constant that is valid")
                .progress_chars("=> ");
        self.in_parts = true;
        if let Some(bar) = &self.bar {
            bar.set_style(style);
            bar.set_length(operations);
        }
        self.show_parts();
        self.task.measure_in(operations);
    }

    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        self.parts.done += part.steps;
        if part.known {
            self.parts.known += part.steps;
        }
        if let Some(bar) = &self.bar {
            match part.known {
                // Steps that cost nothing would make the rest look fast.
                true => bar.dec_length(part.operations),
                false => bar.inc(part.operations),
            }
            bar.set_message(escape::terminal(part.item).into_owned());
        }
        self.show_parts();
        self.task.part(&part);
        self.check()
    }

    fn begin(&mut self, what: &str, total: usize) {
        self.finish();
        let what = self.naming(what);
        (self.unit, self.in_parts) = ("steps", false);
        let bar = bar_of(total as u64).with_style(counting(self.unit));
        self.task = Task::begin(&what, Unit::STEPS, total as u64);
        bar.set_prefix(what);
        self.bar = Some(bar);
        self.started = false;
    }

    fn count_in(&mut self, unit: &'static str) {
        self.unit = unit;
        self.task.count_in(Unit::Things(unit));
        match &self.bar {
            Some(bar) if !self.in_parts => bar.set_style(counting(unit)),
            _ => self.show_parts(),
        }
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        if must_stop() { Err(Interrupted) } else { Ok(()) }
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        self.check()?;
        // A step counts as done when the next one begins.
        if std::mem::replace(&mut self.started, true) {
            self.bar.iter().for_each(|bar| bar.inc(1));
            self.task.step();
        }
        if let Some(bar) = &self.bar {
            bar.set_message(escape::terminal(item).into_owned());
        }
        self.task.on(item);
        Ok(())
    }
}

impl Bar {
    /// A bar that names what its work is for, where a command works for several things in turn.
    pub fn for_subject(subject: &str) -> Self {
        Self {
            subject: Some(escape::terminal(subject).into_owned()),
            bar: None,
            task: Task::default(),
            started: false,
            unit: "steps",
            parts: Parts::default(),
            in_parts: false,
        }
    }

    /// Shows how many of the parts are done.
    fn show_parts(&self) {
        let Parts { what, total, done, .. } = &self.parts;
        if let Some(bar) = self.bar.as_ref().filter(|_| self.in_parts) {
            bar.set_prefix(format!("{what} {done}/{total} {}", self.unit));
        }
    }

    /// What is done, and for what.
    fn naming(&self, what: &str) -> String {
        match &self.subject {
            Some(subject) => format!("{subject}: {what}"),
            None => what.into(),
        }
    }

    /// The number of steps that cost nothing, because an earlier command had done them.
    pub fn known(&self) -> usize {
        self.parts.known
    }

    /// Takes the bar off the screen, and ends the lines.
    pub fn finish(&mut self) {
        self.task.end();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}
