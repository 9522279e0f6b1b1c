//! What a way to store a weight matrix has to tell.

use std::fmt::Debug;

use burn::tensor::Device;
use safetensors::Dtype;

use super::attach::NewParams;
use super::error::FormError;
use super::part::{Part, PartKind, PartSpec};
use super::slots::LiveSlot;
use super::work::Work;
use crate::linalg::{Cost, Matrix, Weighting};

/// Everything that other code needs to know about one way to store a weight matrix.
///
/// Shapes are `[out, in]`, as PyTorch stores a weight. The tensors of a form have an order, which
/// [`tensors`](MatrixForm::tensors) and lists of [`Part`]s follow.
pub(super) trait MatrixForm: Debug {
    /// The rank, if the form limits it.
    fn rank(&self) -> Option<usize>;

    /// What matrices of this form are called in the configuration of the code that runs them in transformers.
    /// `None` if it has no layer for them.
    fn in_transformers(&self) -> Option<&'static str> {
        None
    }

    /// Why a matrix of this shape cannot have this form. `None` if it can.
    fn problem(&self, shape: [usize; 2]) -> Option<String>;

    /// Number of parameters of a matrix of this shape: its numbers. Indices do not count.
    fn parameters(&self, shape: [usize; 2]) -> u64 {
        let tensors = self.tensors(shape).into_iter();
        let counted = tensors.filter(|part| part.kind == PartKind::Numbers);
        counted.map(|part| part.entries()).fold(0, u64::saturating_add)
    }

    /// The tensors that a matrix of this shape is stored in.
    fn tensors(&self, shape: [usize; 2]) -> Vec<PartSpec>;

    /// The matrix in this form, with the smallest error in a norm.
    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError>;

    /// The same, of several ways the one that loses least where its numbers are rounded.
    fn make_to_round(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        self.make(matrix, norm)
    }

    /// What [`make_to_round`](MatrixForm::make_to_round) gave, in a type of 16 bits, so that numbers
    /// make up for what the rounding of others loses. `best` has no error in the norm. `None` if each
    /// number is rounded by itself.
    fn fitted(
        &self,
        _parts: &[Part],
        _best: &Matrix,
        _norm: &Weighting,
        _dtype: Dtype,
    ) -> Result<Option<Vec<Part>>, FormError> {
        Ok(None)
    }

    /// The cost of `make`, without its norm.
    fn cost_to_make(&self, shape: [usize; 2]) -> Cost;

    /// The dense matrix, merged from its parts.
    fn merge(&self, shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError>;

    /// The cost of `merge`.
    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost;

    /// What it takes to multiply one vector by a weight of this shape in this form, which has
    /// `parameters`.
    fn work(&self, shape: [usize; 2], parameters: u64) -> Work;

    /// The parameters of a weight in this form, and where each is in a checkpoint. The weight is
    /// that of a linear layer, which holds transposes, or of another module, such as an embedding.
    /// `None` if such a module cannot have this form.
    fn slots(&self, of_linear: bool) -> Option<&'static [LiveSlot]>;

    /// The parameters of a weight of this shape in this form, without their values. The weight of a
    /// linear layer is `[in, out]`. `None` if the dense parameter is used.
    fn skeleton(
        &self,
        shape: [usize; 2],
        of_linear: bool,
        indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError>;

    /// Describes the form for people, such as `dense` or `two factors of rank 12`.
    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result;

    /// Indices that a matrix in this form could have, in order.
    fn any_indices(&self) -> Vec<Vec<i32>> {
        Vec::new()
    }
}

/// A matrix in a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The content of its tensors.
    pub parts: Vec<Part>,
    /// `‖W - W'‖ / ‖W‖` in the norm in which it was made, before anything is rounded to a stored
    /// type.
    pub relative_error: f64,
    /// `‖W‖` in this norm.
    pub size: f64,
}
