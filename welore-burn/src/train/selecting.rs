//! The parameters of a language model that can train.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::forms::{FormError, LiveMatrix, matrices};
use crate::model::LanguageModel;
use crate::modules::{MatrixName, Place, walk};

/// How much of a model trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainableCount {
    /// Parameters that train.
    pub trainable: u64,
    /// All parameters.
    pub total: u64,
}

/// The parameters of a language model, and which of them belong to its projections, the matrices
/// that can be compressed. Initializes nothing.
#[derive(Debug)]
pub(super) struct Projections {
    matrices: BTreeMap<MatrixName, LiveMatrix>,
    /// The matrices that are compressed, projections or not.
    low_rank: BTreeSet<MatrixName>,
    params: Vec<(Place, u64)>,
    /// A matrix in blocks, which do not train.
    packed: Option<MatrixName>,
}

impl Projections {
    pub fn of(model: &impl LanguageModel) -> Self {
        let names: BTreeSet<MatrixName> =
            model.matrices().into_iter().map(|matrix| matrix.name).collect();
        let all = matrices(model);
        let is_low_rank = |matrix: &&LiveMatrix| matrix.form.rank().is_some();
        let packed = all.iter().find(|matrix| matrix.form.is_packed());
        let packed = packed.map(|matrix| matrix.name.clone());
        let low_rank = all.iter().filter(is_low_rank).map(|matrix| matrix.name.clone()).collect();
        let projections = all.into_iter().filter(|matrix| names.contains(&matrix.name));
        let mut params = Vec::new();
        walk(model, |place, param| {
            if param.is_float() {
                params.push((place.clone(), size(&param.shape())));
            }
        });
        Self {
            matrices: projections.map(|matrix| (matrix.name.clone(), matrix)).collect(),
            low_rank,
            params,
            packed,
        }
    }

    /// Whether a parameter belongs to a projection.
    pub fn contains(&self, place: &Place) -> bool {
        place.matrix().is_some_and(|name| self.matrices.contains_key(&name))
    }

    /// Whether a parameter belongs to a compressed matrix, projection or not.
    pub fn is_low_rank(&self, place: &Place) -> bool {
        place.matrix().is_some_and(|name| self.low_rank.contains(&name))
    }

    /// Refuses a model with matrices in blocks.
    pub fn check_unpacked(&self) -> Result<(), TrainError> {
        match self.packed.clone() {
            Some(name) => Err(TrainError::Form { name, source: FormError::NotDense }),
            None => Ok(()),
        }
    }

    /// Paths of the wanted parameters.
    pub fn paths(&self, wanted: impl Fn(&Place) -> bool) -> BTreeSet<String> {
        let wanted = self.params.iter().filter(|(place, _)| wanted(place));
        wanted.map(|(place, _)| place.path.clone()).collect()
    }

    /// How much of the model would train.
    pub fn count(&self, trains: impl Fn(&Place) -> bool) -> TrainableCount {
        let sum = |wanted: &dyn Fn(&Place) -> bool| {
            let wanted = self.params.iter().filter(|(place, _)| wanted(place));
            wanted.map(|(_, size)| size).sum()
        };
        TrainableCount { trainable: sum(&trains), total: sum(&|_| true) }
    }

    /// Shapes of the projections as dense matrices.
    pub fn dense_shapes(&self) -> impl Iterator<Item = [usize; 2]> {
        self.matrices.values().map(|matrix| matrix.shape)
    }

    /// Number of parameters of the model once its projections are merged.
    pub fn merged_total(&self) -> u64 {
        let stored: u64 = self.matrices.values().map(LiveMatrix::parameters).sum();
        let merged: u64 = self.dense_shapes().map(|shape| size(&shape)).sum();
        self.count(|_| true).total - stored + merged
    }
}

/// Paths of the parameters of a module that train, and how many there are.
pub(super) fn trainable(module: &impl Module) -> (Vec<String>, TrainableCount) {
    let (mut paths, mut count) = (Vec::new(), TrainableCount::default());
    walk(module, |place, param| {
        if !param.is_float() {
            return;
        }
        let parameters = size(&param.shape());
        count.total += parameters;
        if param.trains() {
            count.trainable += parameters;
            paths.push(place.path.clone());
        }
    });
    (paths, count)
}

fn size(shape: &[usize]) -> u64 {
    shape.iter().map(|n| *n as u64).product()
}
