//! What the command line promises: its results, its refusals, and what it leaves on disk.

mod bad_config;
mod bad_model;
mod bad_plan;
mod bad_request;
mod calibrated;
mod devices;
mod gradients;
mod outputs;
mod pipeline;
mod printing;
mod resuming;
#[cfg(unix)]
mod stopping;
mod support;
mod training;
