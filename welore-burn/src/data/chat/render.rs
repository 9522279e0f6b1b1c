//! Templates compiled and rendered, within limits: they come from strangers.
//!
//! A template has a budget for its steps and all that it writes (`FUEL`), reads no file, since there is no loader
//! and `include`, `import` and `extends` are not compiled in, and calls itself only so deep. It runs on a thread
//! with a large stack, because values can be nested as deep as the budget allows. What the budget does not see,
//! such as the text of a list that holds the same list many times, ends with the time that a template has
//! (`LOOKS`); its thread is then left alone, and may take memory until the program ends.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::super::tokenizer_guard::guarded;
use super::error::ChatError;
use super::json::tojson;
use super::tags::without_tags;
use super::time::strftime_now;

/// Steps that a template may take; each 64 bytes that it makes count as one. A real one takes some hundred for a
/// message.
const FUEL: u64 = 500_000;

/// Bytes of stack, of which a real template needs a thousandth.
const STACK: usize = 256 << 20;

/// How long a template may take, which real ones do in a thousandth of it: so many looks, with so much time between
/// them. A process that is stopped and continued meanwhile misses one look.
const LOOKS: usize = 60;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How a template is called in the messages of its errors.
const PLAIN: &str = "template";
const MARKED: &str = "template with marks";

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A compiled template.
#[derive(Debug)]
pub(super) struct Program {
    environment: Arc<Environment<'static>>,
    /// Whether it says what the assistant writes.
    pub has_marks: bool,
}

impl Program {
    /// Compiles a template that is at `path`.
    pub fn compile(path: &Path, source: &str) -> Result<Self, ChatError> {
        let plain = without_tags(source, false).unwrap_or_else(|| source.into());
        let marked = without_tags(source, true);
        let has_marks = marked.is_some();
        let compile = move || {
            let mut environment = environment();
            environment.add_template_owned(PLAIN, plain)?;
            if let Some(marked) = marked {
                environment.add_template_owned(MARKED, marked)?;
            }
            Ok::<_, Error>(environment)
        };
        Ok(Self { environment: Arc::new(on_large_stack(path, compile)?), has_marks })
    }

    /// What it writes for these variables; with marks around what the assistant writes, if that is asked for.
    pub fn run(&self, path: &Path, variables: Value, marked: bool) -> Result<String, ChatError> {
        let name = if marked { MARKED } else { PLAIN };
        let environment = self.environment.clone();
        on_large_stack(path, move || environment.get_template(name)?.render(variables))
    }
}

/// As transformers sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(show);
    environment.add_filter("string", string);
    environment.add_filter("tojson", tojson);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("raise_exception", raise_exception);
    environment
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let message = message.to_string();
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// Writes a value, which is paid for before: it may hold the same part many times.
fn show(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    charge(state, value)?;
    escape_formatter(out, state, value)
}

/// The filter `string`, paid for before.
fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    charge(state, value)?;
    filters::string(state, value)
}

/// Takes a step for each part of a value.
fn charge(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(());
    }
    let Ok(items) = value.try_iter() else { return Ok(()) };
    for item in items {
        state.consume_fuel(1)?;
        match is_map {
            true => charge(state, &value.get_item(&item)?)?,
            false => charge(state, &item)?,
        }
    }
    Ok(())
}

/// Runs the work of a template on a thread of its own. A panic is an error.
fn on_large_stack<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, ChatError> {
    let failed = |reason: String| ChatError::Failed { path: path.into(), reason };
    let (sender, receiver) = channel();
    let work = move || {
        // Nobody waits for what takes too long.
        let _ = sender.send(guarded(0, || Ok::<_, Infallible>(work())));
    };
    let thread = Builder::new().stack_size(STACK).spawn(work);
    thread.map_err(|error| failed(format!("there is no thread for it: {error}")))?;
    for _ in 0..LOOKS {
        match receiver.recv_timeout(BETWEEN_LOOKS) {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(error))) => return Err(what_failed(path, &error)),
            Ok(Err(panic)) => return Err(failed(panic)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed("its thread has ended".into()));
            }
        }
    }
    Err(ChatError::TooMuch { path: path.into() })
}

/// What the error of a template means. Errors in macros have those of the template as their sources.
fn what_failed(path: &Path, error: &Error) -> ChatError {
    let path = path.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(Raised(message)) = found.downcast_ref() {
            return ChatError::Refused { path, message: message.clone() };
        }
        if found.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return ChatError::TooMuch { path };
        }
        cause = found.source();
    }
    ChatError::Failed { path, reason: error.to_string() }
}
