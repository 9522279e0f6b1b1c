//! Templates compiled and rendered, within limits: they come from strangers.
//!
//! A template has a budget for its steps and all that it writes (`FUEL`), reads no file, since there is no loader
//! and `include`, `import` and `extends` are not compiled in, and calls itself only so deep. It runs on a thread
//! with a large stack, because values can be nested as deep as the budget allows.

use std::convert::Infallible;
use std::path::Path;
use std::thread::Builder;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
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
    environment: Environment<'static>,
    /// Whether it says what the assistant writes.
    pub has_marks: bool,
}

impl Program {
    /// Compiles a template that is at `path`.
    pub fn compile(path: &Path, source: &str) -> Result<Self, ChatError> {
        let plain = without_tags(source, false);
        let marked = without_tags(source, true);
        let has_marks = marked.is_some();
        let compile = || {
            let mut environment = environment();
            environment.add_template_owned(PLAIN, plain.unwrap_or_else(|| source.into()))?;
            if let Some(marked) = marked {
                environment.add_template_owned(MARKED, marked)?;
            }
            Ok::<_, Error>(environment)
        };
        Ok(Self { environment: on_large_stack(path, compile)?, has_marks })
    }

    /// What it writes for these variables; with marks around what the assistant writes, if that is asked for.
    pub fn run(&self, path: &Path, variables: Value, marked: bool) -> Result<String, ChatError> {
        let name = if marked { MARKED } else { PLAIN };
        on_large_stack(path, || self.environment.get_template(name)?.render(variables))
    }
}

/// As transformers sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL));
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

/// Runs the work of a template on a thread of its own. A panic is an error.
fn on_large_stack<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, ChatError> {
    let failed = |reason: String| ChatError::Failed { path: path.into(), reason };
    let work = || guarded(0, || Ok::<_, Infallible>(work()));
    let done = std::thread::scope(|scope| {
        let thread = Builder::new().stack_size(STACK).spawn_scoped(scope, work)?;
        Ok::<_, std::io::Error>(thread.join())
    });
    match done {
        Err(error) => Err(failed(format!("no thread for it: {error}"))),
        Ok(Err(_)) => Err(failed("it ended a thread".into())),
        Ok(Ok(Err(panic))) => Err(failed(panic)),
        Ok(Ok(Ok(Err(error)))) => Err(what_failed(path, &error)),
        Ok(Ok(Ok(Ok(value)))) => Ok(value),
    }
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
