//! The parameters of a language model that can train.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::forms::{Form, FormError, LiveMatrix, is_unpacked_factor, matrices, packed_parameters};
use crate::model::LanguageModel;
use crate::modules::{MatrixName, Place, walk};

/// How much of a model trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainableCount {
    /// Parameters that train.
    pub trainable: u64,
    /// All parameters.
    pub total: u64,
    /// Parameters that stay in blocks.
    #[serde(default)]
    pub packed: u64,
}

/// The parameters of a language model, and which of them belong to its projections, the matrices
/// that can be compressed. Initializes nothing.
#[derive(Debug)]
pub(super) struct Projections {
    matrices: BTreeMap<MatrixName, LiveMatrix>,
    /// The matrices that have factors, projections or not.
    factored: BTreeSet<MatrixName>,
    /// The matrices that have blocks, which do not train.
    packed: BTreeSet<MatrixName>,
    /// Places and sizes. Factors in blocks are as large as they will be when they train.
    params: Vec<(Place, u64)>,
    /// Number of parameters that stay in blocks.
    in_blocks: u64,
}

impl Projections {
    pub fn of(model: &impl LanguageModel) -> Self {
        let names: BTreeSet<MatrixName> =
            model.matrices().into_iter().map(|matrix| matrix.name).collect();
        let all = matrices(model);
        let those = |wanted: fn(&Form) -> bool| -> BTreeSet<MatrixName> {
            let wanted = all.iter().filter(|matrix| wanted(&matrix.form));
            wanted.map(|matrix| matrix.name.clone()).collect()
        };
        let (factored, packed) = (those(Form::has_factors), those(Form::is_packed));
        let ranks: BTreeMap<&MatrixName, usize> = all
            .iter()
            .filter_map(|matrix| Some((&matrix.name, matrix.form.packed_rank()?)))
            .collect();
        let mut params = Vec::new();
        walk(model, |place, param| {
            if param.is_float() {
                let shape = param.shape();
                let rank = place.matrix().and_then(|name| ranks.get(&name).copied());
                params.push((place.clone(), size(&shape_with(rank, place, shape))));
            }
        });
        let unpacked = |matrix: &LiveMatrix| {
            let form = matrix.form.with_factors_unpacked();
            form.packed_parameters(matrix.shape)
        };
        let in_blocks = all.iter().map(unpacked).sum();
        let projections = all.iter().filter(|matrix| names.contains(&matrix.name));
        let matrices = projections.map(|matrix| (matrix.name.clone(), matrix.clone())).collect();
        Self { matrices, factored, packed, params, in_blocks }
    }

    /// Whether a parameter belongs to a projection.
    pub fn contains(&self, place: &Place) -> bool {
        place.matrix().is_some_and(|name| self.matrices.contains_key(&name))
    }

    /// Whether a parameter is a factor of a matrix, projection or not.
    pub fn is_factor(&self, place: &Place) -> bool {
        let Some(name) = place.matrix() else { return false };
        let is_packed = self.packed.contains(&name);
        self.factored.contains(&name) && (!is_packed || is_unpacked_factor(&place.part))
    }

    /// Whether a parameter belongs to a matrix with factors or with blocks, projection or not.
    pub fn is_compressed(&self, place: &Place) -> bool {
        let known = |name: MatrixName| self.factored.contains(&name) || self.packed.contains(&name);
        place.matrix().is_some_and(known)
    }

    /// Refuses a model with matrices in blocks.
    pub fn check_unpacked(&self) -> Result<(), TrainError> {
        match self.packed.first().cloned() {
            Some(name) => Err(TrainError::Form { name, source: FormError::NotDense }),
            None => Ok(()),
        }
    }

    /// Whether there are matrices in blocks.
    pub fn has_blocks(&self) -> bool {
        !self.packed.is_empty()
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
        let total = sum(&|_| true) + self.in_blocks;
        TrainableCount { trainable: sum(&trains), total, packed: self.in_blocks }
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
    let packed = packed_parameters(module);
    let mut count = TrainableCount { trainable: 0, total: packed, packed };
    let mut paths = Vec::new();
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

/// The shape of a parameter, or of what it becomes when factors of this rank are unpacked.
fn shape_with(rank: Option<usize>, place: &Place, shape: Vec<usize>) -> Vec<usize> {
    match (rank, is_unpacked_factor(&place.part)) {
        // An axis of an empty factor has no entries: that of its rank.
        (Some(rank), true) => {
            shape.into_iter().map(|side| if side == 0 { rank } else { side }).collect()
        }
        _ => shape,
    }
}

fn size(shape: &[usize]) -> u64 {
    shape.iter().map(|n| *n as u64).product()
}
