use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, TensorData};

use super::error::{AdapterError, LoraProblem};
use super::lora::{A, B, LoraAdapter, LoraMatrix};
use crate::checkpoint::{Checkpoint, StoredMatrix};
use crate::forms::{Form, LiveMatrix, add_to_factors, is_transposed_layout, matrices, to_matrix};
use crate::linalg::transpose;
use crate::modules::{MatrixName, load_values, walk};

impl LoraAdapter {
    /// The adapter by the names that matrices have in an opened directory, where these begin otherwise
    /// than in its files.
    ///
    /// # Errors
    ///
    /// Those of [`stored_in`](LoraAdapter::stored_in), and [`AdapterError::Twice`].
    pub fn for_checkpoint(self, checkpoint: &Checkpoint) -> Result<Self, AdapterError> {
        let mut matrices = BTreeMap::new();
        for (name, matrix) in self.matrices {
            let name = checkpoint.present_name(name.clone()).unwrap_or(name);
            if matrices.insert(name.clone(), matrix).is_some() {
                return Err(AdapterError::Twice { matrix: name });
            }
        }
        let adapter = Self { matrices, ..self };
        adapter.stored_in(checkpoint)?;
        Ok(adapter)
    }

    /// The same adapter for a base model of this name or path, which has these weights.
    pub fn with_base(self, base: Option<String>, checkpoint: &Checkpoint) -> Self {
        let turned = self.matrices.keys().any(|name| checkpoint.turns(&name.weight()));
        Self { base, turned, ..self }
    }

    /// The matrices of a directory that it changes.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Unknown`] and [`AdapterError::Shape`] for a matrix that the directory does not
    /// have; [`AdapterError::Packed`].
    pub fn stored_in(&self, checkpoint: &Checkpoint) -> Result<Vec<StoredMatrix>, AdapterError> {
        let names: Vec<MatrixName> = checkpoint.names().filter_map(MatrixName::of_weight).collect();
        let shape_of = |name: &MatrixName| Some(checkpoint.stored_matrix(name)?.shape);
        self.check_shapes(shape_of, names.iter())?;
        let found = self.matrices.keys().filter_map(|name| checkpoint.stored_matrix(name));
        let found: Vec<StoredMatrix> = found.collect();
        match found.iter().find(|matrix| matrix.form.is_packed()) {
            Some(matrix) => Err(AdapterError::Packed { matrix: matrix.name.clone() }),
            None => Ok(found),
        }
    }

    /// Checks that [`apply`](LoraAdapter::apply) can add the adapter to a module. Initializes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`apply`](LoraAdapter::apply), except [`AdapterError::Overflow`].
    pub fn check_module(&self, module: &impl Module) -> Result<(), AdapterError> {
        self.matrices_of(module).map(drop)
    }

    /// Adds the adapter to a module that has its weights. Dense matrices are replaced by the sum, which
    /// is computed in f64. A factored one keeps its factors, and gets the adapter beside them:
    /// [`LowRankLinear`](crate::linear::LowRankLinear) multiplies by both.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Unknown`] and [`AdapterError::Shape`] for a matrix that is no linear layer of the
    /// module; [`AdapterError::Packed`]; [`AdapterError::NotPlain`]; [`AdapterError::Overflow`] and
    /// [`AdapterError::Sum`] for a sum that is no longer finite.
    pub fn apply<M: Module>(&self, module: M) -> Result<M, AdapterError> {
        let found = self.matrices_of(&module)?;
        let (dense, factored): (Vec<LiveMatrix>, Vec<LiveMatrix>) =
            found.into_iter().partition(|matrix| matrix.form == Form::dense());
        // Taken out one by one: a weight that was replaced is not kept.
        let mut dense: BTreeMap<MatrixName, LiveMatrix> =
            dense.into_iter().map(|matrix| (matrix.name.clone(), matrix)).collect();
        let mut failed = None;
        let module = load_values(module, |place, _| {
            let name = place.matrix().filter(|_| place.part.is_empty() && failed.is_none())?;
            match self.sum(&dense.remove(&name)?) {
                Ok(value) => Some(value),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        failed.map_or(Ok(()), Err)?;
        let added = factored.iter().filter_map(|matrix| {
            let more = self.matrices.get(&matrix.name)?;
            let ([outputs, inputs], rank) = (more.shape(), more.rank());
            let a = TensorData::new(transpose(more.a(), rank, inputs), [inputs, rank]);
            let b = TensorData::new(transpose(more.b(), outputs, rank), [rank, outputs]);
            Some((matrix, a, b, more.scale()))
        });
        Ok(add_to_factors(module, added))
    }

    /// The adapters of a module, which all have this scale, such as those that were trained. `None` if
    /// it has none. Its base is not known here.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Sum`] for entries that are not finite.
    pub(crate) fn of_module(
        module: &impl Module,
        scale: f64,
    ) -> Result<Option<Self>, AdapterError> {
        let mut found: BTreeMap<MatrixName, [Option<TensorData>; 2]> = BTreeMap::new();
        walk(module, |place, param| {
            let Some(name) = place.matrix() else { return };
            let parts = [".lora.a", ".lora.b"];
            let part = format!(".{}", place.part);
            if let Some(at) = parts.iter().position(|end| part.ends_with(end)) {
                found.entry(name).or_default()[at] = Some(param.values());
            }
        });
        let mut matrices = BTreeMap::new();
        for (name, pair) in found {
            let [Some(a), Some(b)] = pair else { continue };
            let matrix = of_params(a, b, scale)
                .map_err(|problem| AdapterError::Sum { matrix: name.clone(), problem })?;
            matrices.insert(name, matrix);
        }
        Ok((!matrices.is_empty()).then(|| Self { matrices, ..Self::default() }))
    }

    /// The matrices of a module that it changes.
    fn matrices_of(&self, module: &impl Module) -> Result<Vec<LiveMatrix>, AdapterError> {
        let all = matrices(module).into_iter().filter(|matrix| matrix.of_linear);
        let mut all: BTreeMap<MatrixName, LiveMatrix> =
            all.map(|matrix| (matrix.name.clone(), matrix)).collect();
        self.check_shapes(|name| Some(all.get(name)?.shape), all.keys())?;
        let found = self.matrices.keys().filter_map(|name| all.remove(name));
        let found: Vec<LiveMatrix> = found.collect();
        for matrix in &found {
            if matrix.form.is_packed() {
                return Err(AdapterError::Packed { matrix: matrix.name.clone() });
            }
            if matrix.has_adapter() || is_transposed_layout(&matrix.base) {
                return Err(AdapterError::NotPlain { matrix: matrix.name.clone() });
            }
        }
        Ok(found)
    }

    /// The sum of a dense weight and what the adapter adds, as the value of its parameter.
    fn sum(&self, matrix: &LiveMatrix) -> Result<(TensorData, DType), AdapterError> {
        let name = || matrix.name.clone();
        let base = matrix.base.base();
        let dtype = base.dtype();
        let weight = to_matrix(base).map_err(|_| AdapterError::NotPlain { matrix: name() })?;
        let Some(more) = self.matrices.get(&matrix.name) else {
            return Err(AdapterError::Unknown { matrix: name(), similar: None });
        };
        let sum = more.added_to(weight);
        let sum = sum.map_err(|problem| AdapterError::Sum { matrix: name(), problem })?;
        let sum = sum.transposed();
        let shape = [sum.rows(), sum.cols()];
        let data = TensorData::new(sum.into_data(), shape).convert_dtype(dtype);
        let is_finite = data.iter::<f64>().all(f64::is_finite);
        match is_finite {
            true => Ok((data, dtype)),
            false => Err(AdapterError::Overflow { matrix: name() }),
        }
    }
}

/// An adapter from its parameters, `a [d_input, rank]` and `b [rank, d_output]`.
fn of_params(a: TensorData, b: TensorData, scale: f64) -> Result<LoraMatrix, LoraProblem> {
    let sides = |data: &TensorData, tensor| match data.shape().to_vec()[..] {
        [rows, cols] => Ok([rows, cols]),
        ref shape => Err(LoraProblem::NotMatrix { tensor, shape: shape.to_vec() }),
    };
    let ([inputs, rank], [rows, outputs]) = (sides(&a, A)?, sides(&b, B)?);
    if rank != rows {
        return Err(LoraProblem::Rank { a: rank, b: rows });
    }
    let values = |data: TensorData| data.iter::<f32>().collect::<Vec<f32>>();
    let (a, b) = (transpose(&values(a), inputs, rank), transpose(&values(b), rank, outputs));
    LoraMatrix::new([outputs, inputs], rank, a, b, scale)
}
