//! Progress on stderr, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use welore_burn::progress::{Interrupted, Progress};
use welore_burn::train::{Score, TrainingEvent};

use crate::format;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes the first Ctrl-C stop the work after the step in hand, so that temporary files are
/// removed, and the second one end the process at once.
pub fn listen_for_interrupts() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C still ends the process; only the tidying is lost.
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("warning: Ctrl-C cannot be handled: {error}");
    }
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The steps of a training run on stderr: a bar on a terminal, lines elsewhere.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
    total: usize,
}

impl Steps {
    /// A run of `total` steps of which `done` are done.
    pub fn new(total: usize, done: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} left {eta} {wide_msg}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let bar = ProgressBar::new(total as u64).with_style(style).with_position(done as u64);
        bar.reset_eta();
        Self { bar, total }
    }

    /// Shows what happened.
    pub fn show(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step(step) => {
                let text = format!("loss {:.4}  {:.0} tokens/s", step.loss, step.tokens_per_second);
                self.bar.set_position(step.step as u64);
                // A hundred lines tell enough of a long run.
                let worth_a_line = step.step.is_multiple_of((self.total / 100).max(1));
                if self.bar.is_hidden() && worth_a_line {
                    eprintln!("step {}/{}  {text}", step.step, self.total);
                }
                self.bar.set_message(text);
            }
            TrainingEvent::Evaluation { step, score } => {
                let text = match score {
                    Score::Perplexity(value) => {
                        format!("step {step}: perplexity {}", format::perplexity(value))
                    }
                    Score::Accuracy(value) => {
                        format!("step {step}: accuracy {}", format::percent(value))
                    }
                };
                self.bar.suspend(|| eprintln!("{text}"));
            }
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar on stderr; hidden where stderr is not a terminal.
#[derive(Debug, Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
    started: bool,
}

impl Progress for Bar {
    fn begin(&mut self, what: &str, total: usize) {
        self.finish();
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len} {elapsed} left {eta} {wide_msg}",
        )
        .expect("the template is valid")
        .progress_chars("=> ");
        let bar = ProgressBar::new(total as u64).with_style(style);
        bar.set_prefix(what.to_string());
        self.bar = Some(bar);
        self.started = false;
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        if interrupted() {
            return Err(Interrupted);
        }
        if let Some(bar) = &self.bar {
            // A step is counted when the next one begins.
            if std::mem::replace(&mut self.started, true) {
                bar.inc(1);
            }
            bar.set_message(item.to_string());
        }
        Ok(())
    }
}

impl Bar {
    /// Takes the bar off the screen.
    pub fn finish(&mut self) {
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
