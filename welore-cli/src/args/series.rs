//! Models of one kind, as one series.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

/// Models that exist, and the name of the series that they are, if they have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesArg {
    /// The name.
    pub name: Option<String>,
    /// The models, at least one.
    pub models: Vec<PathBuf>,
}

/// Parses `MODEL,...` and `NAME=MODEL,...`.
pub(super) fn series() -> impl TypedValueParser<Value = SeriesArg> {
    OsStringValueParser::new().try_map(|value| match value.into_string() {
        Ok(text) => parse(&text),
        // A name that is not Unicode is that of one model.
        Err(value) => Ok(SeriesArg { name: None, models: vec![value.into()] }),
    })
}

fn parse(text: &str) -> Result<SeriesArg, String> {
    let (name, list) = match name_of(text) {
        Some(("", _)) => return Err("a series needs a name before `=`".into()),
        Some((name, list)) => (Some(name.to_string()), list),
        None => (None, text),
    };
    let models: Vec<&str> = list.split(',').collect();
    if models.iter().any(|model| model.is_empty()) {
        return Err("a model is missing".into());
    }
    if let Some(other) = models.iter().find(|model| name_of(model).is_some()) {
        return Err(format!(
            "only one series for each --models: give `{other}` to another one, or write `./{other}` \
             if it is a path"
        ));
    }
    Ok(SeriesArg { name, models: models.into_iter().map(PathBuf::from).collect() })
}

/// The name that a text begins with, and what follows: `NAME=` without a comma or a part of a path.
fn name_of(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.contains([',', '/', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_a_series_if_a_name_is_before_them() {
        let read = |text: &str| {
            let SeriesArg { name, models } = parse(text).unwrap();
            let models: Vec<String> = models.iter().map(|m| m.display().to_string()).collect();
            (name, models.join(" "))
        };
        assert_eq!(read("a,b/c=d,./e=f"), (None, "a b/c=d ./e=f".into()));
        assert_eq!(read("llama.cpp=a,b"), (Some("llama.cpp".into()), "a b".into()));
        assert_eq!(read("./llama.cpp=a,b"), (None, "./llama.cpp=a b".into()));
        assert_eq!(read("of x=a/y=z"), (Some("of x".into()), "a/y=z".into()));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, said) in [
            ("a=b,c=d", "give `c=d` to another one"),
            ("a,c=d", "write `./c=d`"),
            ("a=b=c", "give `b=c`"),
            ("=a", "needs a name"),
            ("a=", "a model is missing"),
            ("a,,b", "a model is missing"),
            ("", "a model is missing"),
        ] {
            assert!(parse(text).unwrap_err().contains(said), "{text}");
        }
    }
}
