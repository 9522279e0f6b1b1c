//! Progress on stderr, as a bar on a terminal and as lines elsewhere, and Ctrl-C.

mod bars;
mod lines;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::failure::is_spoiled;

pub use bars::{Bar, Bytes, Steps};
pub use lines::{Task, Unit};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the current work consists of training steps.
static STEPPING: AtomicBool = AtomicBool::new(false);

/// Whether the user is asked for the next message of a conversation.
static WAITING: AtomicBool = AtomicBool::new(false);

/// Whether the current work is an answer in a conversation that goes on.
static ANSWERING: AtomicBool = AtomicBool::new(false);

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

        static IS_TOLD: AtomicBool = AtomicBool::new(false);

        extern "C" fn explain(_signal: libc::c_int) {
            const MESSAGE: &[u8] = b"error: a file was truncated while it was read\n";
            while IS_TOLD.swap(true, Ordering::SeqCst) {
                // Another thread read it too, and ends the process.
                // SAFETY: the call is async-signal-safe.
                unsafe { libc::pause() };
            }
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

/// A signal that follows another one sooner is the same wish: `timeout` and supervisors signal a
/// process and its group.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Makes the first Ctrl-C stop the work after the current step, so that temporary files are
/// removed, and the second one end the process immediately.
pub fn listen_for_interrupts() {
    let mut first = None;
    let handler = move || {
        let now = Instant::now();
        if WAITING.load(Ordering::SeqCst) {
            if first.is_some_and(|first| now - first < SAME_WISH) {
                return;
            }
            // After the `^C` of the terminal.
            tell!("");
            tell!("error: interrupted");
            std::process::exit(1);
        }
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            if first.is_some_and(|first| now - first < SAME_WISH) {
                return;
            }
            std::process::exit(1);
        }
        first = Some(now);
        if ANSWERING.load(Ordering::SeqCst) {
            tell!("");
            tell!("the answer ends here; press Ctrl-C again to leave");
        } else if !is_part() {
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

/// Waits for what the user types. Nothing has to be cleaned up meanwhile, so Ctrl-C ends the process.
pub fn wait_for_user<T>(read: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::SeqCst);
    let result = read();
    WAITING.store(false, Ordering::SeqCst);
    result
}

/// Makes an answer, which the first Ctrl-C ends; the second one ends the process. With `goes_on`, the conversation
/// goes on after the first.
pub fn answer<T>(goes_on: bool, work: impl FnOnce() -> T) -> T {
    ANSWERING.store(goes_on, Ordering::SeqCst);
    let result = work();
    ANSWERING.store(false, Ordering::SeqCst);
    result
}

/// Forgets that Ctrl-C was pressed, because it only ended an answer. `false` if work has to stop for another reason.
pub fn forgive_interrupt() -> bool {
    INTERRUPTED.store(false, Ordering::SeqCst);
    !is_spoiled()
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Whether work has to stop: Ctrl-C was pressed, or a thread failed that it depends on.
pub fn must_stop() -> bool {
    interrupted() || is_spoiled()
}
