//! Options whose values are the names of choices.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use welore_burn::named::Named;

/// Parses the name of a choice of a type; the help lists all of them.
pub fn named<T: Named + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let choices = T::all().iter();
    let names = choices.map(|choice| PossibleValue::new(choice.name()).help(choice.about()));
    PossibleValuesParser::new(names)
        .map(|name| T::named(&name).expect("the parser accepts only these names"))
}

/// The names of all choices of a type, for a message.
pub fn names<T: Named>() -> String {
    let names: Vec<&str> = T::all().iter().map(Named::name).collect();
    names.join(", ")
}
