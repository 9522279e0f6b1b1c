use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::{AdapterError, LoraProblem};
use crate::linalg::Matrix;
use crate::modules::MatrixName;

/// What an adapter adds to a matrix: `scale · B A`.
///
/// # Shapes
///
/// - a: `[rank, in]`
/// - b: `[out, rank]`
#[derive(Debug, Clone, PartialEq)]
pub struct LoraMatrix {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    shape: [usize; 2],
    scale: f64,
}

impl LoraMatrix {
    /// An adapter of a matrix `[out, in]`, from the entries of its two matrices, row after row.
    ///
    /// # Errors
    ///
    /// [`LoraProblem::NotMatrix`] if the rank or a side is 0, [`LoraProblem::Length`],
    /// [`LoraProblem::NotFinite`], [`LoraProblem::Scale`].
    pub fn new(
        shape: [usize; 2],
        rank: usize,
        a: Vec<f32>,
        b: Vec<f32>,
        scale: f64,
    ) -> Result<Self, LoraProblem> {
        let [outputs, inputs] = shape;
        for (tensor, values, shape) in [(A, &a, [rank, inputs]), (B, &b, [outputs, rank])] {
            if shape.contains(&0) {
                return Err(LoraProblem::NotMatrix { tensor, shape: shape.to_vec() });
            }
            if shape[0].checked_mul(shape[1]) != Some(values.len()) {
                return Err(LoraProblem::Length { entries: values.len(), shape });
            }
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let value = f64::from(values[index]);
                return Err(LoraProblem::NotFinite { tensor, index, value });
            }
        }
        if !scale.is_finite() {
            return Err(LoraProblem::Scale(scale));
        }
        Ok(Self { a, b, rank, shape, scale })
    }

    /// An adapter that adds the product of two factors, `left [out, rank]` and `right [rank, in]`, each
    /// rounded to f32. Its scale is 1.
    ///
    /// # Errors
    ///
    /// [`LoraProblem::Rank`] if they do not fit each other, [`LoraProblem::NotFinite`] for an entry
    /// beyond f32.
    pub fn of_factors(left: &Matrix, right: &Matrix) -> Result<Self, LoraProblem> {
        if left.cols() != right.rows() {
            return Err(LoraProblem::Rank { a: right.rows(), b: left.cols() });
        }
        let rounded = |matrix: &Matrix| matrix.data().iter().map(|x| *x as f32).collect();
        let shape = [left.rows(), right.cols()];
        Self::new(shape, left.cols(), rounded(right), rounded(left), 1.0)
    }

    /// `[out, in]` of the matrix that it is for.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The rank of the product.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The entries of `A [rank, in]`, row after row.
    pub fn a(&self) -> &[f32] {
        &self.a
    }

    /// The entries of `B [out, rank]`, row after row.
    pub fn b(&self) -> &[f32] {
        &self.b
    }

    /// What the product is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.a.len() as u64 + self.b.len() as u64
    }

    /// The entries of `B` for another scale, so that the product stays what it is, to f32.
    ///
    /// # Errors
    ///
    /// [`LoraProblem::NotFinite`] for an entry beyond f32.
    pub(crate) fn b_at(&self, scale: f64) -> Result<Cow<'_, [f32]>, LoraProblem> {
        if scale == self.scale {
            return Ok(Cow::Borrowed(self.b.as_slice()));
        }
        let factor = self.scale / scale;
        let values: Vec<f32> = self.b.iter().map(|x| (f64::from(*x) * factor) as f32).collect();
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let value = f64::from(self.b[index]) * factor;
                Err(LoraProblem::NotFinite { tensor: B, index, value })
            }
            None => Ok(Cow::Owned(values)),
        }
    }

    /// What it adds, `[out, in]`, in f64.
    ///
    /// # Errors
    ///
    /// [`LoraProblem::Product`] if the product overflows.
    pub fn delta(&self) -> Result<Matrix, LoraProblem> {
        let [outputs, inputs] = self.shape;
        let scaled = self.b.iter().map(|x| f64::from(*x) * self.scale).collect();
        let left = Matrix::new(outputs, self.rank, scaled)?;
        let right = self.a.iter().map(|x| f64::from(*x)).collect();
        Ok(left.product(&Matrix::new(self.rank, inputs, right)?)?)
    }

    /// The sum of a matrix `[out, in]` and what it adds, in f64.
    ///
    /// # Errors
    ///
    /// [`LoraProblem::Product`] if the sum overflows.
    ///
    /// # Panics
    ///
    /// Panics if the matrix has another shape.
    pub fn added_to(&self, matrix: Matrix) -> Result<Matrix, LoraProblem> {
        let [rows, cols] = self.shape;
        assert_eq!([matrix.rows(), matrix.cols()], [rows, cols], "the adapter was checked");
        let delta = self.delta()?.into_data();
        let sum = matrix.into_data().into_iter().zip(delta).map(|(x, more)| x + more).collect();
        Ok(Matrix::new(rows, cols, sum)?)
    }
}

/// What PEFT calls the matrix that multiplies inputs.
pub(super) const A: &str = "lora_A";

/// What PEFT calls the matrix that makes outputs.
pub(super) const B: &str = "lora_B";

/// A LoRA adapter: what is added to some matrices of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoraAdapter {
    /// The model that it belongs to, as a path or a name of the Hub; PEFT loads it if it is not told
    /// which one to use. `None` if that is not known.
    pub base: Option<String>,
    /// The revision of a base on the Hub; `None` for the latest one, and for a path.
    pub revision: Option<String>,
    /// Whether the base has its layers as `[in, out]` in files, as GPT-2 does. The matrices here have the
    /// same shapes in either case.
    pub turned: bool,
    /// By the name of the matrix, such as `model.layers.0.self_attn.q_proj`.
    pub matrices: BTreeMap<MatrixName, LoraMatrix>,
}

impl LoraAdapter {
    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.matrices.values().map(LoraMatrix::parameters).sum()
    }

    /// The largest rank; 0 without matrices.
    pub fn rank(&self) -> usize {
        self.matrices.values().map(LoraMatrix::rank).max().unwrap_or(0)
    }

    /// The one `alpha` with which `alpha / rank` is the scale of most matrices: programs that know no
    /// other scale, such as llama.cpp, compute the same once [`b_at`](LoraMatrix::b_at) that scale is
    /// what they read.
    pub(crate) fn alpha(&self) -> f64 {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for matrix in self.matrices.values() {
            let alpha = matrix.scale * matrix.rank as f64;
            // Any other scale is folded into the matrices.
            if alpha > 0.0 && alpha.is_finite() {
                *counts.entry(alpha.to_bits()).or_default() += 1;
            }
        }
        // Of equally frequent ones the largest: positive numbers are ordered as their bits are.
        let most = counts.into_iter().max_by_key(|(bits, count)| (*count, *bits));
        most.map_or(1.0, |(bits, _)| f64::from_bits(bits))
    }

    /// Checks that every matrix of the adapter is one of a model, and has its size. `shape_of` gives
    /// `[out, in]` of the model's matrices, and `names` is all of them.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Unknown`], [`AdapterError::Shape`].
    pub fn check_shapes<'a>(
        &self,
        shape_of: impl Fn(&MatrixName) -> Option<[usize; 2]>,
        names: impl Iterator<Item = &'a MatrixName>,
    ) -> Result<(), AdapterError> {
        for (name, matrix) in &self.matrices {
            match shape_of(name) {
                Some(shape) if shape == matrix.shape => {}
                Some(shape) => {
                    let (matrix, adapted) = (name.clone(), matrix.shape);
                    return Err(AdapterError::Shape { matrix, adapted, shape });
                }
                None => {
                    let likeness = |other: &&MatrixName| {
                        (1000.0 * strsim::jaro(other.as_str(), name.as_str())) as u32
                    };
                    let similar = names.max_by_key(likeness).cloned();
                    return Err(AdapterError::Unknown { matrix: name.clone(), similar });
                }
            }
        }
        Ok(())
    }
}
