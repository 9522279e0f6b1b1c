//! The matrices of a block in stages: those that see the same inputs, in the order of their use.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;

use crate::calibrate::{Seen, SharedInputs};
use crate::linalg::{CrossMoment, SecondMoment};
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, RankPlan};

/// Matrices of a block that see the same inputs, such as the query, key and value projections; or
/// matrices of experts that follow one another, for whom inputs are not measured.
pub(super) type Stage = Vec<SharedInputs>;

/// The matrices of a block, given in the order of their use, by stages. A matrix that is used again is
/// where it is used first.
pub(super) fn stages_of(layer: Vec<SharedInputs>) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut known = BTreeSet::new();
    for matrix in layer {
        if !known.insert(matrix.name.clone()) {
            continue;
        }
        let joins = |last: &SharedInputs| {
            let is_alike = matrix.is_routed || matrix.inputs_of == last.inputs_of;
            matrix.is_routed == last.is_routed && is_alike
        };
        match stages.last_mut().filter(|stage| stage.last().is_some_and(joins)) {
            Some(stage) => stage.push(matrix),
            None => stages.push(vec![matrix]),
        }
    }
    stages
}

/// Of the stages of a block, what is planned.
pub(super) fn of_planned(
    stages: Vec<Stage>,
    is_planned: impl Fn(&MatrixName) -> bool,
) -> Vec<Stage> {
    let planned = stages.into_iter().map(|mut stage| {
        stage.retain(|matrix| is_planned(&matrix.name));
        stage
    });
    planned.filter(|stage| !stage.is_empty()).collect()
}

/// The same matrices in one stage, unless there are none.
pub(super) fn in_one_stage(stages: Vec<Stage>) -> Vec<Stage> {
    let all = stages.concat();
    if all.is_empty() { Vec::new() } else { vec![all] }
}

/// The matrices that a plan keeps dense and that can make up for what is lost before them: those that
/// are used after a compressed one, in the same block or an earlier one, and are not those of experts.
pub(super) fn adapted<'p>(
    layers: &[Vec<Stage>],
    plan: &'p RankPlan,
) -> BTreeMap<MatrixName, &'p MatrixPlan> {
    let planned: BTreeMap<&MatrixName, &'p MatrixPlan> =
        plan.matrices.iter().map(|matrix| (&matrix.name, matrix)).collect();
    let (mut adapted, mut is_changed) = (BTreeMap::new(), false);
    for stage in layers.iter().flatten() {
        let mut compresses = false;
        for SharedInputs { name, is_routed, .. } in stage {
            match planned.get(name) {
                Some(plan) if !plan.is_dense() => compresses = true,
                Some(plan) if is_changed && !is_routed => {
                    adapted.insert(name.clone(), *plan);
                }
                _ => {}
            }
        }
        is_changed |= compresses;
    }
    adapted
}

/// The inputs of the next block in the dense and in the compressed model, by window.
pub(super) struct Signal {
    pub dense: Vec<Tensor<3>>,
    pub compressed: Vec<Tensor<3>>,
    /// Whether anything before this block is compressed.
    pub changed: bool,
}

/// Statistics of the inputs of the matrices of a stage.
pub(super) struct Inputs {
    /// Of those that they see.
    pub seen: SecondMoment,
    /// Of those that they should see, as in the dense model, together with those that they see.
    pub cross: CrossMoment,
}

impl Inputs {
    /// Of no inputs, which have `size` entries.
    pub fn none(size: usize) -> Self {
        Self { seen: SecondMoment::new(size), cross: CrossMoment::new(size) }
    }

    /// Of the inputs of one matrix in a pass of the dense model, and in one of the compressed model.
    pub fn of(size: usize, should: &Seen, does: &Seen) -> Self {
        let mut inputs = Self::none(size);
        for ((_, _, x), (_, _, y)) in should.inputs.iter().zip(&does.inputs) {
            inputs.seen.add(y);
            inputs.cross.add(x, y);
        }
        inputs
    }

    pub fn add(&mut self, other: &Self) {
        self.seen.merge(&other.seen);
        self.cross.merge(&other.cross);
    }

    pub fn are_finite(&self) -> bool {
        self.seen.is_finite() && self.cross.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::forms::Form;
    use crate::spectrum::ModelSize;

    fn layer(of: &[(&str, &str, bool)]) -> Vec<SharedInputs> {
        let shared = |&(name, inputs_of, is_routed): &(&str, &str, bool)| SharedInputs {
            name: name.into(),
            inputs_of: inputs_of.into(),
            is_routed,
        };
        of.iter().map(shared).collect()
    }

    fn names(stages: &[Stage]) -> Vec<Vec<&str>> {
        let stages = stages.iter().map(|stage| stage.iter().map(|matrix| matrix.name.as_str()));
        stages.map(Iterator::collect).collect()
    }

    fn block() -> Vec<Stage> {
        stages_of(layer(&[
            ("q", "q", false),
            ("k", "q", false),
            ("o", "o", false),
            ("router", "router", false),
            ("e0.up", "router", true),
            ("e0.down", "e0.down", true),
            ("e1.up", "router", true),
            ("shared", "router", false),
            ("q", "q", false),
        ]))
    }

    #[test]
    fn matrices_with_the_same_inputs_are_a_stage_and_experts_are_one() {
        let stages = block();
        let expected = [
            vec!["q", "k"],
            vec!["o"],
            vec!["router"],
            vec!["e0.up", "e0.down", "e1.up"],
            vec!["shared"],
        ];
        assert_eq!(names(&stages), expected);
        let planned = of_planned(stages, |name| name.as_str() != "o" && name.as_str() != "k");
        assert_eq!(names(&planned)[..2], [vec!["q"], vec!["router"]]);
        assert_eq!(names(&in_one_stage(planned))[0].len(), 6);
        assert!(in_one_stage(Vec::new()).is_empty());
    }

    #[test]
    fn dense_matrices_after_a_compressed_one_are_adapted() {
        let matrix = |name: &str, form| MatrixPlan::new(name, [4, 4], form, Dtype::F32);
        let dense = |name| matrix(name, Form::dense());
        let matrices = vec![
            dense("q"),
            matrix("k", Form::factors(1)),
            dense("o"),
            dense("e0.up"),
            dense("shared"),
        ];
        let size = ModelSize { parameters: 1000, bytes: 4000 };
        let plan = RankPlan::new("by hand", size, matrices).unwrap();
        let adapts = |layers: &[Vec<Stage>]| -> Vec<String> {
            adapted(layers, &plan).into_keys().map(|name| name.as_str().to_string()).collect()
        };
        // The router is not in the plan.
        assert_eq!(adapts(&[block()]), ["o", "shared"]);
        let before = stages_of(layer(&[("o", "o", false)]));
        let after = stages_of(layer(&[("k", "k", false)]));
        assert!(adapts(&[before.clone(), after.clone()]).is_empty());
        assert_eq!(adapts(&[after, before]), ["o"]);
    }
}
