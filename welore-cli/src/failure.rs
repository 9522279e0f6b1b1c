//! The user's mistakes and libraries' panics, as errors.
//!
//! GPU backends panic on threads of their own, log that, and go on with whatever is in memory. So a
//! panic on a thread that nobody joins stops the work: progress reports say so, nothing is written,
//! and the panic is the error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread, ThreadId};

use welore_burn::data::is_guarded;
use welore_burn::progress::{Interrupted, Unsound, doubt_if};

/// A mistake in the user's input that only this crate can detect.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WrongInput {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl WrongInput {
    /// A mistake that needs no hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// A mistake, and what to do about it.
    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// A run whose model never scored better than the one that it began with, where that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the model never scored better than at the start, {score}")]
pub struct NotImproved {
    /// The score at the start, with its name.
    pub score: String,
}

/// A panic of a library. GPU backends report a missing driver or exhausted memory in no other way.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Panic {
    /// Its message.
    pub message: String,
    /// The line of code that panicked.
    pub place: String,
    /// The calls that led there; empty unless `RUST_BACKTRACE` asks for them.
    pub backtrace: String,
    /// Whether it was a thread that computes for a device.
    pub is_of_device: bool,
}

impl Panic {
    fn of(info: &PanicHookInfo<'_>) -> Self {
        let message = info.payload_as_str().unwrap_or("unknown").trim().to_string();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => backtrace.to_string(),
            _ => String::new(),
        };
        Self { message, place, backtrace, is_of_device: is_of_device(&thread::current()) }
    }

    /// Whether the device ran out of memory.
    pub fn is_out_of_memory(&self) -> bool {
        let message = self.message.to_lowercase();
        ["out of memory", "outofmemory", "out_of_memory", "oom", "buffertoobig", "allocate buffer"]
            .iter()
            .any(|sign| message.contains(sign))
    }
}

/// What has panicked since the current work began.
#[derive(Debug, Default)]
struct Seen {
    /// The thread that does the work. Its panics reach [`watch`], unless something catches them on
    /// purpose and reports them.
    worker: Option<ThreadId>,
    /// The first panic of any thread: later ones result from it.
    first: Option<Panic>,
    /// The first panic of another thread. If that thread is joined, the work panics as well. If
    /// nobody joins it, only this tells that something is missing from the results.
    stray: Option<Panic>,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen { worker: None, first: None, stray: None });

/// Whether [`SEEN`] has a stray panic.
static SPOILED: AtomicBool = AtomicBool::new(false);

fn seen() -> MutexGuard<'static, Seen> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the panics of all threads instead of printing them. After one that nobody handles,
/// nothing is written any more.
pub fn keep_panics() {
    set_hook(Box::new(keep));
    doubt_if(is_spoiled);
}

fn keep(info: &PanicHookInfo<'_>) {
    if is_guarded() {
        return;
    }
    let (panic, here) = (Panic::of(info), thread::current());
    let mut seen = seen();
    if seen.worker != Some(here.id()) && seen.stray.is_none() && !is_reported(&here) {
        seen.stray = Some(panic.clone());
        SPOILED.store(true, Ordering::SeqCst);
    }
    seen.first.get_or_insert(panic);
}

/// Whether another thread panicked since the work began: what it should have computed is missing,
/// so the work has to stop.
pub fn is_spoiled() -> bool {
    SPOILED.load(Ordering::SeqCst)
}

/// Whether a thread computes for a device of CubeCL 0.11, which catches panics there and only logs
/// them.
fn is_of_device(thread: &Thread) -> bool {
    thread.name().is_some_and(|name| ["DSU-", "DSD-"].iter().any(|start| name.starts_with(start)))
}

/// Whether CubeCL turns the current panic into an error. It does so if a kernel cannot be expanded,
/// by which autotuning rejects variants. Without symbols this is not known, and the panic counts.
fn is_reported(thread: &Thread) -> bool {
    is_of_device(thread) && Backtrace::force_capture().to_string().contains("define_kernel")
}

/// Does work, and tells what panicked meanwhile. Not for several threads at once.
fn watch<T>(work: impl FnOnce() -> T) -> (thread::Result<T>, Seen) {
    let begun = Seen { worker: Some(thread::current().id()), ..Seen::default() };
    let outer = replace(begun);
    let result = catch_unwind(AssertUnwindSafe(work));
    (result, replace(outer))
}

fn replace(by: Seen) -> Seen {
    let mut seen = seen();
    SPOILED.store(by.stray.is_some(), Ordering::SeqCst);
    std::mem::replace(&mut *seen, by)
}

/// Runs work in which a library may panic, such as trying out a device.
///
/// # Errors
///
/// The panic, also one of another thread that did not keep the work from ending.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    let (result, seen) = watch(work);
    match (result, seen.stray) {
        (Ok(value), None) => Ok(value),
        (Ok(_), Some(stray)) => Err(stray),
        (Err(_), _) => Err(seen.first.unwrap_or_default()),
    }
}

/// Runs a command.
///
/// # Errors
///
/// Its error, or the panic that explains it: what a lost device computes may look like any other
/// failure.
pub fn run(command: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (result, seen) = watch(command);
    let Ok(result) = result else {
        return Err(seen.first.unwrap_or_default().into());
    };
    match (result, seen.stray) {
        (Ok(()), Some(stray)) => Err(stray.into()),
        (Err(error), Some(stray)) if stray.is_of_device || is_stop(&error) => Err(stray.into()),
        (result, _) => result,
    }
}

/// Whether an error only says that the work was stopped.
fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>() || cause.is::<Unsound>())
}

#[cfg(test)]
mod tests {
    use std::panic::take_hook;
    use std::sync::Once;
    use std::thread::{Builder, scope, spawn};

    use anyhow::anyhow;

    use super::*;

    /// What has panicked is the process's, so tests take turns.
    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let shown = take_hook();
            set_hook(Box::new(move |info| {
                keep(info);
                shown(info);
            }));
        });
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        replace(Seen::default());
        turn
    }

    const DEVICE: &str = "DSD-0-0";
    const LOST: &str = "the device is lost";

    /// A thread of this name, whose panic nobody sees.
    fn lose(name: &str) {
        let thread = Builder::new().name(name.into());
        let _ = thread.spawn(|| panic!("the device is lost")).unwrap().join();
    }

    fn words<T>(result: Result<T, Panic>) -> String {
        result.err().expect("a panic").message
    }

    #[test]
    fn panic_of_the_work_is_its_error() {
        let _turn = turn();
        assert_eq!(words(guarded(|| -> u8 { panic!("no {}", "driver") })), "no driver");
        assert_eq!(guarded(|| 7), Ok(7));
    }

    #[test]
    fn threads_that_are_joined_have_the_first_word() {
        let _turn = turn();
        let work = || {
            scope(|scope| {
                scope.spawn(|| panic!("worker"));
            });
        };
        assert_eq!(words(guarded(work)), "worker");
    }

    #[test]
    fn panic_that_nobody_sees_is_an_error_although_the_work_ended_well() {
        let _turn = turn();
        for name in [DEVICE, "poll"] {
            let work = || {
                assert!(!is_spoiled());
                lose(name);
                assert!(is_spoiled());
            };
            assert_eq!(words(guarded(work)), LOST);
            assert!(!is_spoiled(), "it was reported");
        }
    }

    #[test]
    fn panic_that_is_caught_on_purpose_is_none() {
        let _turn = turn();
        let work = || {
            let caught = catch_unwind(|| -> u8 { panic!("of a tokenizer") });
            caught.is_err() && !is_spoiled()
        };
        assert_eq!(guarded(work), Ok(true));
    }

    #[test]
    fn what_is_tried_out_does_not_spoil_what_comes_after() {
        let _turn = turn();
        let work = || {
            assert_eq!(words(guarded(|| lose(DEVICE))), LOST);
            !is_spoiled()
        };
        assert_eq!(guarded(work), Ok(true));
        // Nor does it hide what came before.
        let work = || {
            lose(DEVICE);
            assert_eq!(guarded(|| 7), Ok(7));
            assert!(is_spoiled());
        };
        assert_eq!(words(guarded(work)), LOST);
    }

    #[test]
    fn command_fails_with_the_panic_that_explains_it() {
        let _turn = turn();
        let error = |name: &'static str, result: fn() -> anyhow::Result<()>| {
            let command = || {
                lose(name);
                result()
            };
            run(command).unwrap_err().to_string()
        };
        for name in [DEVICE, "poll"] {
            assert_eq!(error(name, || Ok(())), LOST);
            assert_eq!(error(name, || Err(Interrupted.into())), LOST);
            assert_eq!(error(name, || Err(anyhow!(Unsound).context("out"))), LOST);
        }
        // A lost device may compute a loss that is not finite. Other threads may be those of a
        // library that reports their panics.
        assert_eq!(error(DEVICE, || Err(anyhow!("not finite"))), LOST);
        assert_eq!(error("poll", || Err(anyhow!("bad tokenizer"))), "bad tokenizer");
        assert!(run(|| Ok(())).is_ok());
    }

    #[test]
    fn what_panicked_before_does_not_concern_new_work() {
        let _turn = turn();
        let _ = spawn(|| panic!("early")).join();
        assert_eq!(guarded(|| 7), Ok(7));
    }
}
