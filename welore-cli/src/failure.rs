//! The user's mistakes and libraries' panics, as errors.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

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
        Self { message, place, backtrace }
    }

    /// Whether the device ran out of memory.
    pub fn is_out_of_memory(&self) -> bool {
        let message = self.message.to_lowercase();
        ["out of memory", "outofmemory", "out_of_memory", "oom", "buffertoobig", "allocate buffer"]
            .iter()
            .any(|sign| message.contains(sign))
    }
}

/// The first panic since the last [`guarded`] call began: later ones result from it.
static FIRST_PANIC: Mutex<Option<Panic>> = Mutex::new(None);

/// Keeps the panics of all threads instead of printing them.
pub fn keep_panics() {
    set_hook(Box::new(|info| {
        let mut first = FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Panic::of(info));
    }));
}

/// Runs work in which a library may panic.
///
/// # Errors
///
/// The panic.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    let first = || FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    first().take();
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| first().take().unwrap_or_default())
}
