//! Plots: what happens in a story, step by step.
//!
//! A plot consists of its cast and its beats, separated by empty lines. A line of the cast draws
//! characters (`hero friend: girl boy | boy girl`), a number (`have: 5..9`) or a sum
//! (`left: have - give`). A beat is a list of ways to tell one thing; `? ` makes it optional.
//! `either`, `or` and `end` fork the plot. `grammar` explains the syntax of a line.

mod adventures;
mod efforts;
mod fears;
mod friends;
mod home;

use adventures::{LOST, TREASURE, TRIP, WISH};
use efforts::{BAND, BUILDING, CONTEST, GARDEN, NEIGHBOR, SKILL};
use fears::{NOISE, STORM};
use friends::{FAVOR, FRIEND, SECRET, SHARING, SICK, STRAY};
use home::{BIRTHDAY, BROKEN, COOKING, MARKET, TRADE};

/// All plots.
pub const PLOTS: &[&str] = &[
    FRIEND, SHARING, SECRET, SICK, STRAY, FAVOR, LOST, TRIP, STORM, NOISE, WISH, TREASURE, SKILL,
    CONTEST, NEIGHBOR, GARDEN, BUILDING, BAND, BIRTHDAY, BROKEN, COOKING, MARKET, TRADE,
];
