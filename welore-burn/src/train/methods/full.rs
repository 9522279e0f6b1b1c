use super::super::selecting::Projections;
use super::TrainingMethod;
use crate::modules::Place;

/// Every parameter.
pub(super) struct Full;

impl TrainingMethod for Full {
    const TRAINED: &'static str = "all parameters";

    fn trains(_place: &Place, _projections: &Projections) -> bool {
        true
    }
}
