//! Options that have no effect are refused if they were typed.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::failure::WrongInput;

/// The options that were typed, by their long names. Defaults, the environment and a file of
/// settings are for many commands, so they may state what one of them does not need.
#[derive(Debug, Default)]
pub struct Typed(BTreeSet<String>);

/// When an option has an effect.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    option: &'static str,
    works: bool,
    why: &'static str,
    hint: Option<&'static str>,
}

/// The option has an effect if it `works`; otherwise the error says `why` it has none.
pub const fn rule(option: &'static str, works: bool, why: &'static str) -> Rule {
    Rule { option, works, why, hint: None }
}

impl Rule {
    /// The same rule, whose error also says what to do instead.
    pub const fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

impl Typed {
    /// The options of a command's matches.
    pub fn of(matches: &ArgMatches) -> Self {
        let typed =
            |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        let long = |id: &clap::Id| id.as_str().replace('_', "-");
        Self(matches.ids().filter(typed).map(long).collect())
    }

    /// Whether an option was typed.
    pub fn has(&self, option: &str) -> bool {
        self.0.contains(option)
    }

    /// Refuses typed options that have no effect.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] that names the first of them, and those that lack the same.
    pub fn check(&self, rules: impl IntoIterator<Item = Rule>) -> Result<()> {
        let idle = |rule: &Rule| !rule.works && self.has(rule.option);
        let idle: Vec<Rule> = rules.into_iter().filter(idle).collect();
        let Some(first) = idle.first() else { return Ok(()) };
        let same: Vec<&Rule> = idle.iter().filter(|rule| rule.why == first.why).collect();
        let options: Vec<String> = same.iter().map(|rule| format!("--{}", rule.option)).collect();
        let message = format!("{}: {}", options.join(", "), first.why);
        let hint = same.iter().find_map(|rule| rule.hint).map(String::from);
        Err(WrongInput { message, hint }.into())
    }
}
