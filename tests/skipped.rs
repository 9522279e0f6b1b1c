//! How a test says that it cannot run here.

use std::fs::File;
use std::io::Write;

/// Says that the current test, or the rest of it, is skipped: in a line on stderr, past the capture
/// of the test harness, and in the file that `WELORE_SKIPPED` names. `.ci/run` counts the lines in
/// that file by their reasons.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    // The harness names the thread of a test after it, unless tests run one at a time.
    let line = format!("SKIPPED: {}: {why}\n", thread.name().unwrap_or("main"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(path) = std::env::var_os("WELORE_SKIPPED") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
