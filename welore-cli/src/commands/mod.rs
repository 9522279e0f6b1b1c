//! One file for each command. Code that several commands use is in `shared`.

pub mod analyze;
pub mod calibrate;
pub mod chat;
pub mod compare;
pub mod completions;
pub mod compress;
pub mod demo;
pub mod devices;
pub mod eval;
pub mod export;
pub mod extract;
pub mod generate;
pub mod imatrix;
pub mod inspect;
pub mod manual;
pub mod plan;
pub mod reference;
pub mod repair;
pub mod report;
pub mod train;
