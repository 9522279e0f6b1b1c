use std::collections::BTreeMap;
use std::sync::LazyLock;

use burn::tensor::Device;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::based_factors::{self, BasedFactors};
use super::blocks::{self, Blocks};
use super::dense::{self, Dense};
use super::error::FormError;
use super::factors::{self, Factors};
use super::matrix_form::{Made, MatrixForm};
use super::packed_factors::{self, PackedFactors};
use super::part::{Part, PartSpec, TensorSpec};
use super::pivot::{self, Pivot};
use super::slots::LiveSlot;
use super::work::Work;
use crate::ggml::TensorType;
use crate::linalg::{Cost, Matrix, Weighting};
use crate::modules::MatrixName;

// A form is one variant, a line in each of the two tables below, and a file that implements
// `MatrixForm`; no other code depends on which form it is.
/// How a weight matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Form {
    /// All entries.
    Dense(Dense),
    /// Two factors.
    Factors(Factors),
    /// Some of the rows, and coefficients that rebuild the others.
    Pivot(Pivot),
    /// Blocks of one of llama.cpp's types.
    Blocks(Blocks),
    /// Two factors in blocks, alone or added to a matrix in blocks.
    #[serde(rename = "packed_factors")]
    PackedFactors(PackedFactors),
    /// Two factors, added to a matrix in blocks.
    #[serde(rename = "based_factors")]
    BasedFactors(BasedFactors),
}

impl Form {
    fn as_form(&self) -> &dyn MatrixForm {
        match self {
            Self::Dense(form) => form,
            Self::Factors(form) => form,
            Self::Pivot(form) => form,
            Self::Blocks(form) => form,
            Self::PackedFactors(form) => form,
            Self::BasedFactors(form) => form,
        }
    }
}

/// How matrices are recognized. If several forms match, the first one applies.
static KINDS: [Kind; 6] = [
    dense::KIND,
    factors::KIND,
    pivot::KIND,
    based_factors::KIND,
    packed_factors::KIND,
    blocks::KIND,
];

/// All sets of suffixes, in the same order.
static SETS: LazyLock<Vec<Vec<&'static str>>> =
    LazyLock::new(|| KINDS.iter().flat_map(|kind| (kind.sets)()).collect());

/// What may begin with a tensor of one suffix.
pub(crate) struct Lead {
    kinds: Vec<&'static Kind>,
    sets: Vec<Vec<&'static str>>,
}

/// All suffixes of leading tensors.
static LEADS: LazyLock<BTreeMap<&'static str, Lead>> = LazyLock::new(|| {
    let mut leads: BTreeMap<&'static str, Lead> = BTreeMap::new();
    for kind in &KINDS {
        for set in (kind.sets)() {
            let empty = || Lead { kinds: Vec::new(), sets: Vec::new() };
            let lead = leads.entry(set[0]).or_insert_with(empty);
            lead.sets.push(set);
            if !lead.kinds.iter().any(|known| std::ptr::eq(*known, kind)) {
                lead.kinds.push(kind);
            }
        }
    }
    leads
});

/// How a form is recognized.
pub(super) struct Kind {
    /// The form and shape of a matrix, from its tensors in a checkpoint. The function gives the
    /// shape of the tensor with a suffix. `None` if the matrix has another form.
    pub stored: fn(&Shapes<'_>) -> Option<FormAndShape>,
    /// The same for a weight of a module. The function gives the shape of a parameter that belongs
    /// to it, such as `low_rank.up`; an empty name stands for the base. The weight is that of a
    /// linear layer, or of another module, such as an embedding.
    pub live: fn(&Shapes<'_>, bool) -> Option<FormAndShape>,
    /// The suffixes of its tensors, in each way that it has tensors. Every matrix has a tensor with
    /// the first suffix of its set.
    pub sets: fn() -> Vec<Vec<&'static str>>,
}

/// A form, and the shape `[out, in]` of a matrix in it.
pub(super) type FormAndShape = (Form, [usize; 2]);

/// Shapes by name.
pub(super) type Shapes<'a> = dyn Fn(&str) -> Option<Vec<usize>> + 'a;

impl Form {
    /// All entries of a matrix.
    pub const fn dense() -> Self {
        Self::Dense(Dense {})
    }

    /// Two factors at a rank, as in the paper.
    pub const fn factors(rank: usize) -> Self {
        Self::Factors(Factors { rank })
    }

    /// As many rows as the rank, and the coefficients that rebuild the other rows.
    pub const fn pivot(rank: usize) -> Self {
        Self::Pivot(Pivot { rank })
    }

    /// The other way to store a matrix of low rank, by its rank: pivots for two factors, and two factors
    /// for pivots.
    pub(crate) fn in_other_storage(&self) -> Option<fn(usize) -> Self> {
        match self {
            Self::Factors(_) => Some(Self::pivot),
            Self::Pivot(_) => Some(Self::factors),
            _ => None,
        }
    }

    /// The blocks of one of llama.cpp's types, by rows, as llama.cpp has them.
    pub const fn blocks(tensor_type: TensorType) -> Self {
        Self::Blocks(Blocks { tensor_type, turned: false })
    }

    /// The blocks of one of llama.cpp's types, by columns: for matrices whose rows do not fill
    /// blocks, but whose columns do.
    pub const fn turned_blocks(tensor_type: TensorType) -> Self {
        Self::Blocks(Blocks { tensor_type, turned: true })
    }

    /// Two factors in blocks of a type, added to a matrix in blocks if there is one.
    pub const fn packed_factors(
        rank: usize,
        tensor_type: TensorType,
        base: Option<Blocks>,
    ) -> Self {
        Self::PackedFactors(PackedFactors { rank, tensor_type, base })
    }

    /// Two factors, added to a matrix in blocks.
    pub const fn based_factors(rank: usize, base: Blocks) -> Self {
        Self::BasedFactors(BasedFactors { rank, base: Some(base) })
    }

    /// The form that it has once its factors train, which in blocks they do not.
    pub(crate) fn with_factors_unpacked(self) -> Self {
        match self {
            Self::PackedFactors(PackedFactors { rank, base: None, .. }) => Self::factors(rank),
            Self::PackedFactors(PackedFactors { rank, base: Some(base), .. }) => {
                Self::based_factors(rank, base)
            }
            other => other,
        }
    }

    /// Whether it has factors, which train once they are no blocks.
    pub(crate) fn has_factors(&self) -> bool {
        match self {
            Self::Factors(_) | Self::Pivot(_) => true,
            Self::PackedFactors(_) | Self::BasedFactors(_) => true,
            Self::Dense(_) | Self::Blocks(_) => false,
        }
    }

    /// The rank of its factors, if these are in blocks.
    pub(crate) fn packed_rank(&self) -> Option<usize> {
        match self {
            Self::PackedFactors(form) => Some(form.rank),
            _ => None,
        }
    }

    /// Number of the parameters of a matrix of shape `[out, in]` that are in blocks.
    pub(crate) fn packed_parameters(&self, shape: [usize; 2]) -> u64 {
        match self {
            Self::Dense(_) | Self::Factors(_) | Self::Pivot(_) => 0,
            Self::Blocks(_) | Self::PackedFactors(_) => self.parameters(shape),
            Self::BasedFactors(form) => form.base.map_or(0, |base| base.parameters(shape)),
        }
    }

    /// Its blocks, if these have all of its entries.
    pub fn as_blocks(&self) -> Option<Blocks> {
        match self {
            Self::Blocks(blocks) => Some(*blocks),
            _ => None,
        }
    }

    /// Whether it has blocks, which do not train.
    pub fn is_packed(&self) -> bool {
        match self {
            Self::Blocks(_) | Self::PackedFactors(_) | Self::BasedFactors(_) => true,
            Self::Dense(_) | Self::Factors(_) | Self::Pivot(_) => false,
        }
    }

    /// The rank, if the form limits it: then the matrix is a low-rank component (LRC).
    pub fn rank(&self) -> Option<usize> {
        self.as_form().rank()
    }

    /// What matrices of this form are called in the configuration of the code that runs them in transformers,
    /// `factors` or `pivots`. `None` if it has no layer for them.
    pub(crate) fn in_transformers(&self) -> Option<&'static str> {
        self.as_form().in_transformers()
    }

    /// Why a matrix of shape `[out, in]` cannot have this form. `None` if it can.
    pub fn problem(&self, shape: [usize; 2]) -> Option<String> {
        self.as_form().problem(shape)
    }

    /// Number of parameters of a matrix of shape `[out, in]`. Indices do not count.
    pub fn parameters(&self, shape: [usize; 2]) -> u64 {
        self.as_form().parameters(shape)
    }

    /// Bytes of a matrix of shape `[out, in]` whose numbers are of type `dtype`, indices included.
    pub fn bytes(&self, shape: [usize; 2], dtype: Dtype) -> u64 {
        let tensors = self.as_form().tensors(shape).into_iter();
        tensors.map(|part| part.spec("", dtype).bytes()).fold(0, u64::saturating_add)
    }

    /// The parts that a matrix of shape `[out, in]` is stored in.
    pub fn parts(&self, shape: [usize; 2]) -> Vec<PartSpec> {
        self.as_form().tensors(shape)
    }

    /// The tensors that a matrix of shape `[out, in]` is stored in, whose numbers are of type
    /// `dtype`.
    pub fn tensors(&self, name: &MatrixName, shape: [usize; 2], dtype: Dtype) -> Vec<TensorSpec> {
        let parts = self.as_form().tensors(shape).into_iter();
        parts.map(|part| part.spec(name.part(part.suffix), dtype)).collect()
    }

    /// The matrix in this form, with the smallest error in a norm that the form allows.
    ///
    /// # Errors
    ///
    /// [`FormError`].
    pub fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        self.as_form().make(matrix, norm)
    }

    /// See [`MatrixForm::make_to_round`].
    pub(super) fn make_to_round(
        &self,
        matrix: &Matrix,
        norm: &Weighting,
    ) -> Result<Made, FormError> {
        self.as_form().make_to_round(matrix, norm)
    }

    /// See [`MatrixForm::fitted`].
    pub(super) fn fitted(
        &self,
        parts: &[Part],
        best: &Matrix,
        norm: &Weighting,
        dtype: Dtype,
    ) -> Result<Option<Vec<Part>>, FormError> {
        self.as_form().fitted(parts, best, norm, dtype)
    }

    /// The cost of [`make`](Form::make), without its norm.
    pub(crate) fn cost_to_make(&self, shape: [usize; 2]) -> Cost {
        self.as_form().cost_to_make(shape)
    }

    /// The cost of [`make_stored`](Form::make_stored), without its norm.
    pub(crate) fn cost_to_store(&self, shape: [usize; 2], dtype: Dtype) -> Cost {
        let cost = self.cost_to_make(shape);
        match self.is_rounded_in(shape, dtype) {
            true => cost.then(Cost::of_rounding(shape, self.rank().unwrap_or(0))),
            false => cost,
        }
    }

    /// The dense matrix `[out, in]`, merged from its parts.
    ///
    /// # Errors
    ///
    /// [`FormError`] for parts that do not belong to the form.
    pub fn merge(&self, shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        self.as_form().merge(shape, parts)
    }

    /// The cost of [`merge`](Form::merge).
    pub(crate) fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        self.as_form().cost_to_merge(shape)
    }

    /// What it takes to multiply one vector by a weight of shape `[out, in]` in this form.
    pub fn work(&self, shape: [usize; 2]) -> Work {
        self.as_form().work(shape, self.parameters(shape))
    }

    /// See [`MatrixForm::slots`].
    pub(super) fn slots(&self, of_linear: bool) -> Option<&'static [LiveSlot]> {
        self.as_form().slots(of_linear)
    }

    /// See [`MatrixForm::skeleton`].
    pub(super) fn skeleton(
        &self,
        shape: [usize; 2],
        of_linear: bool,
        indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        self.as_form().skeleton(shape, of_linear, indices, device)
    }

    /// Indices that a matrix in this form could have, in order: for modules that are only counted,
    /// not computed with.
    pub(crate) fn any_indices(&self) -> Vec<Vec<i32>> {
        self.as_form().any_indices()
    }

    /// The form of the matrix `name` in a checkpoint, and its shape `[out, in]`. `shape_of` gives
    /// the shape of a tensor.
    pub(crate) fn stored(
        name: &MatrixName,
        shape_of: impl Fn(&str) -> Option<Vec<usize>>,
    ) -> Option<(Self, [usize; 2])> {
        let shape_of = |suffix: &str| shape_of(&name.part(suffix));
        KINDS.iter().find_map(|kind| (kind.stored)(&shape_of))
    }

    /// The same, for a matrix that has the tensor with this leading suffix: other forms are not looked
    /// for, because a file can have many names.
    pub(crate) fn stored_with(
        lead: &Lead,
        name: &MatrixName,
        shape_of: impl Fn(&str) -> Option<Vec<usize>>,
    ) -> Option<(Self, [usize; 2])> {
        let shape_of = |suffix: &str| shape_of(&name.part(suffix));
        lead.kinds.iter().find_map(|kind| (kind.stored)(&shape_of))
    }

    /// A missing tensor of a matrix that has some of its tensors, among them the leading one, for the
    /// form that most of them belong to. `None` if none is missing, whatever the shapes.
    pub(crate) fn missing_part(
        lead: &Lead,
        name: &MatrixName,
        is_there: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let there = |suffix: &&str| is_there(&name.part(suffix));
        let found = |set: &&Vec<&str>| set.iter().filter(|suffix| there(suffix)).count();
        // `rev`, because `max_by_key` returns the last of several: the first form should win.
        let set = lead.sets.iter().rev().max_by_key(found)?;
        let missing = set.iter().find(|suffix| !there(suffix))?;
        Some(name.part(missing))
    }

    /// The form of a weight of a module, and its shape `[out, in]`. The weight is that of a linear
    /// layer, or of another module, such as an embedding.
    pub(super) fn live(shape_of: &Shapes<'_>, of_linear: bool) -> Option<(Self, [usize; 2])> {
        KINDS.iter().find_map(|kind| (kind.live)(shape_of, of_linear))
    }

    /// The matrices whose leading tensor a tensor of a checkpoint may be. A matrix can have several
    /// such tensors.
    pub(crate) fn led_by(tensor: &str) -> impl Iterator<Item = (MatrixName, &'static Lead)> + '_ {
        LEADS.iter().filter_map(|(suffix, lead)| {
            let name = tensor.strip_suffix(suffix)?;
            let name = match name.strip_suffix('.') {
                Some(name) => name.into(),
                None => name.is_empty().then(|| "".into())?,
            };
            Some((name, lead))
        })
    }
}

/// Whether the last part of a name is that of a factor, such as `q_proj.V`: where factors are
/// treated one by one, they are named like matrices.
pub(crate) fn is_factor(name: &str) -> bool {
    let suffixes = SETS.iter().flatten();
    let mut factors = suffixes.filter_map(|suffix| suffix.strip_suffix(".weight"));
    let last = name.rsplit('.').next();
    factors.any(|factor| last == Some(factor))
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_form().fmt_for_people(f)
    }
}
