//! Code that several commands share.

pub mod adapting;
pub mod artifacts;
pub mod calibrating;
pub mod card;
pub mod compressing;
pub mod differing;
pub mod distilling;
pub mod effects;
pub mod forecast;
pub mod gradients;
pub mod identity;
pub mod inputs;
pub mod labels;
pub mod measuring;
pub mod opening;
pub mod page;
pub mod planning;
pub mod recipe;
pub mod scratch;
pub mod selecting;
pub mod task;
pub mod text;
pub mod typing;
pub mod writing;
