//! Access to any Burn module: one walk over its parameters, the names of its matrices, selections
//! of them, and taps on the inputs and outputs of its layers.

mod names;
mod selection;
mod tap;
mod walk;

pub(crate) use names::natural_key;
pub use names::{MatrixName, natural_order};
pub use selection::{PatternError, Selection};
pub use tap::{Tap, tapped};
pub(crate) use tap::{see_input, see_output, wants_all_rows};
pub(crate) use walk::{Change, Factor, TURNED_LINEAR, Trained, load_values, map_floats, walk};
pub use walk::{Place, initialize};
