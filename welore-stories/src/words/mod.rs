//! Words, in tables of forms that belong together.
//!
//! The first line of a table names its columns, and the first column also names the table;
//! `column=form` gives every row the same form. A row is a line, or a part of a line that is split
//! by ` / `. Common words come first, because rows further up are drawn more often. A character
//! needs a column `he`: the other forms of the pronoun follow from it.

mod beings;
mod things;
mod world;

use beings::{ANIMALS, PEOPLE};
use things::{FOOD, THINGS};
use world::{DEEDS, NUMBERS, PLACES, QUALITIES, WEATHER};

/// All tables; in each text they are separated by empty lines.
pub const TABLES: &[&str] =
    &[PEOPLE, ANIMALS, THINGS, FOOD, PLACES, WEATHER, NUMBERS, DEEDS, QUALITIES];
