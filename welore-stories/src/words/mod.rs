//! Words, in tables of forms that belong together.
//!
//! The first line of a table names its columns, and the name of the first column is the
//! table's; `column=form` gives every row one form. A row is a line, or what is between two
//! ` / ` of a line. Common words come first, since rows further up are drawn more often.
//! A character needs a column `he`: the other forms of the pronoun follow from it.

mod beings;
mod things;
mod world;

use beings::{ANIMALS, PEOPLE};
use things::{FOOD, THINGS};
use world::{DEEDS, NUMBERS, PLACES, QUALITIES, WEATHER};

/// All tables; in each text they are separated by empty lines.
pub const TABLES: &[&str] =
    &[PEOPLE, ANIMALS, THINGS, FOOD, PLACES, WEATHER, NUMBERS, DEEDS, QUALITIES];
