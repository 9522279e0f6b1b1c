use super::super::selecting::Projections;
use super::TrainingMethod;
use crate::modules::Place;

/// The factors of the low-rank components, and those that are added to blocks.
pub(super) struct Lrc;

impl TrainingMethod for Lrc {
    const TRAINED: &'static str = "its LRCs";
    const PACKED: bool = true;
    const UNPACKS: bool = true;

    fn trains(place: &Place, projections: &Projections) -> bool {
        projections.is_factor(place)
    }
}
