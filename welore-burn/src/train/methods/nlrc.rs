use super::super::selecting::Projections;
use super::TrainingMethod;
use crate::modules::Place;

/// The projections that stayed dense.
pub(super) struct Nlrc;

impl TrainingMethod for Nlrc {
    const TRAINED: &'static str = "its dense projections";
    const PACKED: bool = true;

    fn trains(place: &Place, projections: &Projections) -> bool {
        projections.contains(place) && !projections.is_compressed(place)
    }
}
