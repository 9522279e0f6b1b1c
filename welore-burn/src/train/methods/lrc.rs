use super::super::selecting::Projections;
use super::TrainingMethod;
use crate::modules::Place;

/// The factors of the low-rank components.
pub(super) struct Lrc;

impl TrainingMethod for Lrc {
    const TRAINED: &'static str = "its LRCs";

    fn trains(place: &Place, projections: &Projections) -> bool {
        projections.is_low_rank(place)
    }
}
