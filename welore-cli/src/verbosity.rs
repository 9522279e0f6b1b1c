//! `--verbose`: log lines on stderr.

use std::io::{Stderr, Write, stderr};
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::Subscriber;
use tracing::subscriber::{DefaultGuard, set_default, set_global_default};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, fmt};
use welore_burn::escape;

static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// The crates whose events are shown.
const OURS: [&str; 2] = ["welore_burn", "welore_cli"];

/// Shows events from now on: none for 0, down to the debug level for 1, all for more.
pub fn raise(to: u8) {
    VERBOSITY.store(to, Ordering::Relaxed);
    if let Some(layer) = layer::<Registry>() {
        // This fails only if there is a global subscriber, and nothing else here sets one.
        let _ = set_global_default(tracing_subscriber::registry().with(layer));
    }
}

/// Sets a subscriber for this thread until the guard is dropped. It replaces the subscriber that
/// shows events, so they are shown by a layer of its own.
pub fn set_beside<S>(subscriber: S) -> DefaultGuard
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    match layer::<S>() {
        Some(layer) => set_default(subscriber.with(layer)),
        None => set_default(subscriber),
    }
}

/// How many times `--verbose` was given.
pub fn level() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// The layer that shows events, if they are shown.
fn layer<S>() -> Option<impl Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let level = match level() {
        0 => return None,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let ours = Targets::new().with_targets(OURS.map(|name| (name, level)));
    Some(fmt::layer().with_ansi(false).without_time().with_writer(lines).with_filter(ours))
}

/// Standard error, on which an event is one line, whatever it quotes.
struct Lines(Stderr);

fn lines() -> Lines {
    Lines(stderr())
}

impl Write for Lines {
    /// Writes an event, which the layer passes as a whole.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        writeln!(self.0, "{}", escape::terminal(text.trim_end_matches('\n')))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
