//! Matrices that have one type because they are one tensor of a file: the same one of all experts of a
//! layer.

use std::collections::BTreeMap;

use super::budget::stored_bytes;
use super::costs::{TensorCosts, TypeCost};
use super::type_plan::TypeChoice;
use crate::ggml::{ALIGNMENT, TensorType, stack_of_matrix};
use crate::modules::MatrixName;

/// Matrices that are one tensor; most tensors are of one.
#[derive(Debug)]
pub(super) struct Stack {
    /// Their numbers among all matrices, rising.
    members: Vec<usize>,
    /// `[out, in]`, with the rows of all of them.
    pub shape: [usize; 2],
}

/// The tensors that these matrices are, in the order of the first matrix of each.
pub(super) fn stacks<'m>(matrices: impl Iterator<Item = (&'m str, [usize; 2])>) -> Vec<Stack> {
    let mut places: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let mut stacks: Vec<Stack> = Vec::new();
    for (number, (tensor, shape)) in matrices.enumerate() {
        let [rows, columns] = shape;
        let stack = MatrixName::of_weight(tensor).and_then(|name| stack_of_matrix(name.as_str()));
        let place = match stack {
            Some((stack, _)) => *places.entry((stack, columns)).or_insert(stacks.len()),
            None => stacks.len(),
        };
        match stacks.get_mut(place) {
            Some(stack) => {
                stack.members.push(number);
                stack.shape[0] += rows;
            }
            None => stacks.push(Stack { members: vec![number], shape }),
        }
    }
    stacks
}

impl Stack {
    /// The number of its first matrix.
    pub fn first(&self) -> usize {
        self.members[0]
    }

    /// What it costs in each type that all of its matrices can have: losses are added.
    pub fn costs(&self, all: &[TensorCosts]) -> TensorCosts {
        let first = all[self.first()].clone();
        if self.members.len() == 1 {
            return first;
        }
        let together = |tensor_type: TensorType| {
            let loss = self.members.iter().map(|member| loss_in(&all[*member], tensor_type));
            let bytes = stored_bytes(tensor_type, self.shape).next_multiple_of(ALIGNMENT as u64);
            Some(TypeCost { tensor_type, bytes, loss: loss.sum::<Option<f64>>()? })
        };
        let candidates = first.candidates.iter().filter_map(|cost| together(cost.tensor_type));
        TensorCosts { candidates: candidates.collect(), shape: self.shape, ..first }
    }

    /// The choice of a type for each of its matrices, with their numbers. What the whole takes more
    /// bytes than they do is behind the last one.
    pub fn choices(&self, all: &[TensorCosts], chosen: TypeCost) -> Vec<(usize, TypeChoice)> {
        let TypeCost { tensor_type, bytes: mut left, .. } = chosen;
        let last = self.members.last();
        let choice = |member: &usize| {
            let TensorCosts { tensor, shape, digest, .. } = all[*member].clone();
            let own = stored_bytes(tensor_type, shape);
            let bytes = if Some(member) == last { left } else { own };
            left = left.saturating_sub(own);
            let loss = loss_in(&all[*member], tensor_type).unwrap_or(chosen.loss);
            (*member, TypeChoice { tensor, shape, digest, tensor_type, bytes, loss })
        };
        self.members.iter().map(choice).collect()
    }
}

/// What a matrix loses in a type, if it can have it.
fn loss_in(costs: &TensorCosts, tensor_type: TensorType) -> Option<f64> {
    let found = costs.candidates.iter().find(|cost| cost.tensor_type == tensor_type);
    found.map(|cost| cost.loss)
}
