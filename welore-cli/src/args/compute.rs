//! Where numbers are computed.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use welore_burn::forms::Precision;
use welore_burn::named::Named;

use super::choices::named;
use crate::devices::{Backend, Choice};

/// Where numbers are computed, and in which type.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Compute")]
pub struct ComputeArgs {
    /// Backend to compute with; auto uses a GPU if there is one, otherwise the CPU
    #[arg(long, value_parser = backend(), env = "WELORE_BACKEND", default_value = AUTO)]
    pub backend: BackendArg,
    /// Device number, as listed by `welore-cli devices` [default: 0]
    #[arg(long, value_name = "N")]
    pub device: Option<usize>,
    /// Type to compute in, not to store in, which `export --dtype` changes; `train` also keeps what
    /// it trains in f32 [default: f32]
    #[arg(long, value_parser = named::<Precision>())]
    pub dtype: Option<Precision>,
}

/// A backend, or `None` for the best one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendArg(pub Option<Backend>);

const AUTO: &str = "auto";

fn backend() -> impl TypedValueParser<Value = BackendArg> {
    let auto = PossibleValue::new(AUTO).help("the best one available");
    let backends = Backend::all().iter();
    let named = backends.map(|backend| PossibleValue::new(backend.name()).help(backend.about()));
    PossibleValuesParser::new([auto].into_iter().chain(named))
        .map(|name| BackendArg(Backend::named(&name)))
}

impl ComputeArgs {
    /// The requested device and type.
    pub fn choice(&self) -> Choice {
        let Self { backend: BackendArg(backend), device, dtype } = *self;
        Choice { backend, device, dtype: dtype.unwrap_or_default() }
    }
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
