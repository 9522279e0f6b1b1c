//! The behavior of the command line: its results, its refusals, and what it leaves on disk.

mod bad_config;
mod bad_model;
mod bad_plan;
mod bad_request;
mod browser;
mod calibrated;
mod cards;
mod devices;
mod earlier;
mod effects;
mod gradients;
mod hub;
mod hub_server;
#[cfg(unix)]
mod killing;
mod manners;
mod messages;
mod odd_files;
mod outputs;
mod own_text;
mod pipeline;
mod printing;
mod resuming;
mod settings;
#[path = "../skipped.rs"]
mod skipped;
#[cfg(unix)]
mod stopping;
mod support;
mod training;
