//! Burn modules from outside: one walk over their parameters, the names of their matrices, which
//! of these are meant, and taps on what goes through their layers.

mod names;
mod selection;
mod tap;
mod walk;

pub use names::{MatrixName, natural_order};
pub use selection::{PatternError, Selection};
pub use tap::{Tap, tapped};
pub(crate) use tap::{see_input, see_output};
pub(crate) use walk::{Change, Factor, Trained, map_floats, walk};
pub use walk::{Place, initialize};
