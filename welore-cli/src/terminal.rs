//! Progress on stderr, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use welore_burn::progress::{Interrupted, Progress};

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
