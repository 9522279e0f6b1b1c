use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use super::error::CheckpointError;
use super::reader::Checkpoint;
use crate::artifact::in_words;
use crate::files::{LARGEST_PLAN, read_existing};
use crate::forms::{Form, FormError, Lead, Part, PartKind, PartSpec, TensorSpec, declared_form};
use crate::linalg::Matrix;
use crate::modules::MatrixName;

/// File name of the plan in a compressed model directory.
pub const PLAN_FILE: &str = "welore_plan.json";

/// A weight matrix of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMatrix {
    /// Its name.
    pub name: MatrixName,
    /// Its form.
    pub form: Form,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Type of its numbers; F32 for blocks, which have none until they are unpacked.
    pub dtype: Dtype,
}

impl StoredMatrix {
    /// The tensors that it is stored in.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.form.tensors(&self.name, self.shape, self.dtype)
    }
}

impl Checkpoint {
    /// The matrix of this name, in the form that its tensors have; `None` if there is none.
    pub fn stored_matrix(&self, name: &MatrixName) -> Option<StoredMatrix> {
        let shape_of = |tensor: &str| Some(self.meta(tensor)?.shape.clone());
        self.with_dtype(name, Form::stored(name, shape_of)?)
    }

    /// A matrix of this form and shape, with the type of its numbers.
    fn with_dtype(
        &self,
        name: &MatrixName,
        (form, shape): (Form, [usize; 2]),
    ) -> Option<StoredMatrix> {
        let mut parts = form.parts(shape).into_iter();
        let dtype = match parts.find(|part| part.kind == PartKind::Numbers) {
            Some(first) => self.meta(&name.part(first.suffix))?.dtype,
            None => Dtype::F32,
        };
        Some(StoredMatrix { name: name.clone(), form, shape, dtype })
    }

    /// The matrices that are not dense, in the model's order, found by the names of their tensors.
    /// If the directory has a plan, it must agree.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`] for a matrix that has only some of its tensors,
    /// [`CheckpointError::Form`] for factors of rank 0, [`CheckpointError::Plan`] for a plan that
    /// cannot be read, and [`CheckpointError::PlanDisagrees`] if the tensors do not have the forms in
    /// the plan.
    pub fn compressed_matrices(&self) -> Result<Vec<StoredMatrix>, CheckpointError> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let shape_of = |tensor: &str| Some(self.meta(tensor)?.shape.clone());
        for (name, lead) in self.names().flat_map(Form::led_by) {
            if seen.contains(&name) {
                continue;
            }
            match Form::stored_with(lead, &name, shape_of) {
                Some((form, _)) if form == Form::dense() => {}
                Some(form) => {
                    found.extend(self.with_dtype(&name, form));
                    seen.insert(name);
                }
                None => self.check_complete(&name, lead)?,
            }
        }
        // A factor in blocks has a name like that of a matrix in blocks.
        let parts: BTreeSet<String> = found
            .iter()
            .map(StoredMatrix::tensors)
            .filter(|tensors| tensors.len() > 1)
            .flat_map(|tensors| tensors.into_iter().map(|tensor| tensor.name))
            .collect();
        found.retain(|matrix| match &matrix.tensors()[..] {
            [only] => !parts.contains(&only.name),
            _ => true,
        });
        if let Some(matrix) = found.iter().find(|matrix| matrix.form.rank() == Some(0)) {
            let reason = "it has factors of rank 0, which no matrix is stored in".into();
            return Err(self.form_error(&matrix.name)(FormError::Impossible(reason)));
        }
        let path = self.dir().join(PLAN_FILE);
        let Some(planned) = planned_forms(&path)? else { return Ok(found) };
        let forms: BTreeMap<&MatrixName, Form> =
            found.iter().map(|matrix| (&matrix.name, matrix.form)).collect();
        for (name, planned) in planned {
            let Some(name) = self.present_name(name) else { continue };
            let stored = forms.get(&name).copied().unwrap_or(Form::dense());
            if planned != stored {
                return Err(CheckpointError::PlanDisagrees { path, name, planned, stored });
            }
        }
        Ok(found)
    }

    /// The name that a matrix has here, given that in the plan beside the files. `None` for a matrix
    /// of a part that was left out.
    pub(crate) fn present_name(&self, name: MatrixName) -> Option<MatrixName> {
        let Some((from, to)) = &self.beginnings else { return Some(name) };
        if self.stored_matrix(&name).is_some() {
            return Some(name);
        }
        let rest = name.as_str().strip_prefix(from)?;
        let new = MatrixName::new(format!("{to}{rest}"));
        self.stored_matrix(&new).map(|_| new)
    }

    /// Refuses a matrix that has only some of its tensors.
    fn check_complete(&self, name: &MatrixName, lead: &Lead) -> Result<(), CheckpointError> {
        let missing = Form::missing_part(lead, name, |tensor| self.meta(tensor).is_some());
        // It may be another matrix's: a dense one can have a tensor beside it that is called like a factor.
        match missing.filter(|_| self.stored_matrix(name).is_none()) {
            Some(tensor) => Err(CheckpointError::TensorMissing { dir: self.dir().into(), tensor }),
            None => Ok(()),
        }
    }

    /// The content of the tensors of a matrix.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] for tensors that are missing, of another type or shape, or not finite.
    pub fn read_parts(&self, matrix: &StoredMatrix) -> Result<Vec<Part>, CheckpointError> {
        let parts = matrix.form.parts(matrix.shape).into_iter().zip(matrix.tensors());
        parts
            .map(|(part, tensor)| match part.kind {
                PartKind::Numbers => Ok(Part::Numbers(self.read_matrix(&tensor.name)?)),
                _ => self.read_part(matrix, &part, &tensor),
            })
            .collect()
    }

    /// The indices among the tensors of a matrix. A module needs them before its parameters are
    /// loaded.
    ///
    /// # Errors
    ///
    /// As [`read_parts`](Checkpoint::read_parts).
    pub fn read_all_indices(
        &self,
        matrix: &StoredMatrix,
    ) -> Result<Vec<Vec<i32>>, CheckpointError> {
        let parts = matrix.form.parts(matrix.shape).into_iter().zip(matrix.tensors());
        let indices = parts.filter(|(part, _)| part.kind == PartKind::Indices);
        indices
            .filter_map(|(part, tensor)| match self.read_part(matrix, &part, &tensor) {
                Ok(Part::Indices(indices)) => Some(Ok(indices)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    /// The content of a tensor whose type does not depend on that of the matrix.
    fn read_part(
        &self,
        matrix: &StoredMatrix,
        part: &PartSpec,
        tensor: &TensorSpec,
    ) -> Result<Part, CheckpointError> {
        let bytes = self.expected_bytes(tensor)?;
        Part::decode(part, tensor.dtype, bytes).map_err(self.form_error(&matrix.name))
    }

    /// A matrix `[out, in]` with all its entries, whatever its form.
    ///
    /// # Errors
    ///
    /// As [`read_parts`](Checkpoint::read_parts), and [`CheckpointError::Form`].
    pub fn read_merged(&self, matrix: &StoredMatrix) -> Result<Matrix, CheckpointError> {
        let parts = self.read_parts(matrix)?;
        matrix.form.merge(matrix.shape, parts).map_err(self.form_error(&matrix.name))
    }
}

/// The form of every matrix in a plan; `None` if there is no plan. The [`plan`](crate::plan) room
/// reads the rest of it.
fn planned_forms(path: &Path) -> Result<Option<Vec<(MatrixName, Form)>>, CheckpointError> {
    let Some(text) = read_existing(path, LARGEST_PLAN)? else { return Ok(None) };
    let broken = |reason: String| CheckpointError::Plan { path: path.into(), reason };
    let mut plan: Value =
        serde_json::from_slice(&text).map_err(|error| broken(in_words(&error)))?;
    let matrices = plan.get_mut("matrices").and_then(Value::as_array_mut);
    let matrices = matrices.ok_or_else(|| broken("it has no list of matrices".into()))?;
    let form = |value: &mut Value| -> Result<(MatrixName, Form), CheckpointError> {
        let entry =
            value.as_object_mut().ok_or_else(|| broken("matrices must be objects".into()))?;
        let name = entry.get("name").and_then(Value::as_str);
        let name = MatrixName::from(name.ok_or_else(|| broken("a matrix has no name".into()))?);
        let form =
            declared_form(entry).map_err(|problem| broken(format!("`{name}`: {problem}")))?;
        Ok((name, form))
    };
    matrices.iter_mut().map(form).collect::<Result<_, _>>().map(Some)
}
