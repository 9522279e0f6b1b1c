//! Choices that are typed by their names.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use welore_burn::named::Named;

/// Reads the name of one of the choices of a type, and lists them in the help.
pub fn named<T: Named + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let choices = T::all().iter();
    let names = choices.map(|choice| PossibleValue::new(choice.name()).help(choice.about()));
    PossibleValuesParser::new(names)
        .map(|name| T::named(&name).expect("the parser lets only these names pass"))
}

/// The names of all choices of a type, for a message.
pub fn names<T: Named>() -> String {
    let names: Vec<&str> = T::all().iter().map(Named::name).collect();
    names.join(", ")
}
