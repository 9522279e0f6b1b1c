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
mod gradients;
mod hub;
mod hub_server;
mod manners;
mod messages;
mod outputs;
mod pipeline;
mod printing;
mod resuming;
mod settings;
#[cfg(unix)]
mod stopping;
mod support;
mod training;
