//! Progress on stderr, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use welore_burn::escape;
use welore_burn::progress::{Interrupted, Part, Progress};
use welore_burn::train::{Score, TrainingEvent};

use crate::failure::is_spoiled;
use crate::output::is_quiet;
use crate::{format, verbosity};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the current work consists of training steps.
static STEPPING: AtomicBool = AtomicBool::new(false);

/// A bar on stderr, hidden if `--quiet` or `--verbose` is given.
fn bar_of(total: u64) -> ProgressBar {
    let target = match is_quiet() || verbosity::level() > 0 {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    ProgressBar::with_draw_target(Some(total), target)
}

/// Set for the commands that `demo` runs. Ctrl-C reaches both them and `demo`, and only `demo`
/// reports it.
const PART: &str = "WELORE_DEMO_PART";

/// Marks a command as a part of this one, so that only this one reports Ctrl-C.
pub fn make_part(command: &mut std::process::Command) {
    command.env(PART, "1");
}

/// Whether this command is a part of another.
pub fn is_part() -> bool {
    std::env::var_os(PART).is_some()
}

/// Turns a file that exceeds the size limit of the process (`ulimit -f`) into an error like that of
/// a full disk. By default a signal ends the process without a message or cleanup.
pub fn outlive_file_size_limit() {
    #[cfg(unix)]
    {
        use nix::sys::signal::{SigHandler, Signal, signal};
        // SAFETY: no function becomes a handler, so none has to be async-signal-safe. If the call
        // fails, only the cleanup is lost.
        let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    }
}

/// Gives a reason if a file is truncated while it is mapped into memory. By default a signal ends the
/// process without a message. What is unfinished then stays, as after a kill.
pub fn explain_truncated_files() {
    #[cfg(target_os = "linux")]
    {
        use nix::libc;
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

        extern "C" fn explain(_signal: libc::c_int) {
            const MESSAGE: &[u8] = b"error: a file was truncated while it was read\n";
            // SAFETY: both calls are async-signal-safe, and the message is a constant.
            unsafe {
                let _ = libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
                libc::_exit(1);
            }
        }
        let handler = SigHandler::Handler(explain);
        let action = SigAction::new(handler, SaFlags::SA_ONSTACK, SigSet::empty());
        // SAFETY: the handler only makes calls that are async-signal-safe. If this one fails, only
        // the message is lost.
        let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
    }
}

/// Makes the first Ctrl-C stop the work after the current step, so that temporary files are
/// removed, and the second one end the process immediately.
pub fn listen_for_interrupts() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        if !is_part() {
            let when = if STEPPING.load(Ordering::SeqCst) { " after this step" } else { "" };
            // After the `^C` of the terminal.
            tell!("");
            tell!("stopping{when}; press Ctrl-C again to stop immediately");
        }
    };
    // Without a handler Ctrl-C still ends the process; only the cleanup is lost.
    if let Err(error) = ctrlc::set_handler(handler) {
        tell!("warning: Ctrl-C cannot be handled: {error}");
    }
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Whether work has to stop: Ctrl-C was pressed, or a thread failed that it depends on.
pub fn must_stop() -> bool {
    interrupted() || is_spoiled()
}

/// The steps of a training run on stderr: a bar on a terminal, otherwise lines.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
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
        STEPPING.store(true, Ordering::SeqCst);
        Self { bar, total }
    }

    /// Shows what happened.
    pub fn show(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step(step) => {
                let text = format!("loss {:.4}  {:.0} tokens/s", step.loss, step.tokens_per_second);
                self.bar.set_position(step.step as u64);
                // A hundred lines are enough for a long run.
                let worth_a_line = step.step.is_multiple_of((self.total / 100).max(1));
                if self.bar.is_hidden() && worth_a_line {
                    note!("step {}/{}  {text}", step.step, self.total);
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
                self.bar.suspend(|| note!("{text}"));
            }
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&mut self) {
        STEPPING.store(false, Ordering::SeqCst);
        self.bar.finish_and_clear();
    }
}

/// The progress of a transfer in bytes, on stderr; hidden if stderr is not a terminal.
#[derive(Debug)]
pub struct Bytes {
    bar: ProgressBar,
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
        Self { bar }
    }

    /// Names an item that begins after `done` bytes.
    pub fn begin(&self, item: &str, done: u64) {
        self.bar.set_message(escape::terminal(item).into_owned());
        self.bar.set_position(done);
        // Bytes that an earlier command fetched would make the rest look fast.
        self.bar.reset_eta();
    }

    /// `done` bytes have arrived.
    pub fn at(&self, done: u64) {
        self.bar.set_position(done);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar on stderr; hidden if stderr is not a terminal.
#[derive(Debug, Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
    started: bool,
    parts: Parts,
}

/// The progress of work whose steps differ in size.
#[derive(Debug, Default)]
struct Parts {
    what: String,
    total: usize,
    done: usize,
    known: usize,
}

impl Progress for Bar {
    fn begin_work(&mut self, what: &str, total: usize, operations: u64) {
        self.begin(what, total);
        self.parts = Parts { what: what.into(), total, ..Parts::default() };
        // The bar measures operations, for a good estimate of the time left, but shows steps.
        let style =
            ProgressStyle::with_template("{prefix} [{bar:30}] {elapsed} left {eta} {wide_msg}")
                .expect("the template is a constant that is valid")
                .progress_chars("=> ");
        if let Some(bar) = &self.bar {
            bar.set_style(style);
            bar.set_length(operations);
            bar.set_prefix(format!("{what} 0/{total}"));
        }
    }

    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        self.parts.done += part.steps;
        if part.known {
            self.parts.known += part.steps;
        }
        let Parts { what, total, done, .. } = &self.parts;
        if let Some(bar) = &self.bar {
            match part.known {
                // Steps that cost nothing would make the rest look fast.
                true => bar.dec_length(part.operations),
                false => bar.inc(part.operations),
            }
            bar.set_prefix(format!("{what} {done}/{total}"));
            bar.set_message(escape::terminal(part.item).into_owned());
        }
        self.check()
    }

    fn begin(&mut self, what: &str, total: usize) {
        self.finish();
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len} {elapsed} left {eta} {wide_msg}",
        )
        .expect("the template is a constant that is valid")
        .progress_chars("=> ");
        let bar = bar_of(total as u64).with_style(style);
        bar.set_prefix(what.to_string());
        self.bar = Some(bar);
        self.started = false;
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        if must_stop() { Err(Interrupted) } else { Ok(()) }
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        self.check()?;
        if let Some(bar) = &self.bar {
            // A step counts as done when the next one begins.
            if std::mem::replace(&mut self.started, true) {
                bar.inc(1);
            }
            bar.set_message(escape::terminal(item).into_owned());
        }
        Ok(())
    }
}

impl Bar {
    /// The number of steps that cost nothing, because an earlier command had done them.
    pub fn known(&self) -> usize {
        self.parts.known
    }

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
