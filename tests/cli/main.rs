//! The behavior of the command line: its results, its refusals, and what it leaves on disk.

mod adapters;
mod against;
mod bad_config;
mod bad_model;
mod bad_plan;
mod bad_request;
mod browser;
mod calibrated;
mod cards;
mod changes;
mod channels;
mod chatting;
mod choosing;
mod comparing;
mod converting;
mod defaults;
mod devices;
mod distilling;
mod earlier;
mod effects;
mod effort;
mod extracting;
mod families;
mod found;
#[allow(dead_code)]
#[path = "../library/gguf/writer.rs"]
mod gguf;
mod gradients;
mod hub;
mod hub_server;
mod imatrix;
mod installing;
mod interop;
#[cfg(unix)]
mod killing;
mod limits;
mod llama_cpp;
mod manners;
mod messages;
mod mixed;
mod odd_files;
mod outputs;
mod own_text;
mod pipeline;
mod places;
mod printing;
mod remote_code;
mod reporting;
mod resuming;
mod searching;
mod settings;
#[path = "../skipped.rs"]
mod skipped;
#[cfg(unix)]
mod stopping;
mod support;
mod texts;
mod training;
mod tuning;

use std::path::{Path, PathBuf};

/// A file or a directory of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}
