use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::error::FormError;
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::packed::{BASE, RIGHT};
use super::part::{Part, PartKind, PartSpec};
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::linalg::{Cost, Matrix, Weighting};

/// All entries of a matrix, in `X.weight [out, in]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dense {}

pub(super) const KIND: Kind = Kind { stored, live, sets: || vec![vec![WEIGHT]] };

const WEIGHT: &str = "weight";

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    let shape = shape_of(WEIGHT)?.try_into().ok()?;
    Some((Form::dense(), shape))
}

fn live(shape_of: &Shapes<'_>, _of_linear: bool) -> Option<FormAndShape> {
    let is_other = |param: &str| shape_of(param).is_some();
    if ["low_rank.up", BASE, RIGHT].into_iter().any(is_other) {
        return None;
    }
    let [d_input, d_output] = shape_of("")?.try_into().ok()?;
    Some((Form::dense(), [d_output, d_input]))
}

impl MatrixForm for Dense {
    fn rank(&self) -> Option<usize> {
        None
    }

    fn problem(&self, _shape: [usize; 2]) -> Option<String> {
        None
    }

    fn tensors(&self, shape: [usize; 2]) -> Vec<PartSpec> {
        vec![PartSpec { suffix: WEIGHT, shape: shape.into(), kind: PartKind::Numbers }]
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let size = norm.apply(matrix)?.norm();
        Ok(Made { parts: vec![Part::Numbers(norm.best(matrix)?)], relative_error: 0.0, size })
    }

    fn cost_to_make(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, 0)
    }

    fn merge(&self, shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        match <[Part; 1]>::try_from(parts) {
            Ok([Part::Numbers(matrix)]) if [matrix.rows(), matrix.cols()] == shape => Ok(matrix),
            _ => Err(FormError::Parts("dense")),
        }
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, 0)
    }

    fn work(&self, _shape: [usize; 2], parameters: u64) -> Work {
        Work::of(parameters, 1, 0)
    }

    fn slots(&self, of_linear: bool) -> Option<&'static [LiveSlot]> {
        const LINEAR: [LiveSlot; 1] = [LiveSlot { param: "", tensor: 0, codec: Codec::Transposed }];
        const OTHER: [LiveSlot; 1] = [LiveSlot { param: "", tensor: 0, codec: Codec::AsIs }];
        Some(if of_linear { &LINEAR } else { &OTHER })
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dense")
    }

    fn skeleton(
        &self,
        _shape: [usize; 2],
        _of_linear: bool,
        _indices: &[Vec<i32>],
        _device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        Ok(None)
    }
}
