//! What matrices cost in forms that only this library computes with: blocks by columns, and factors
//! in blocks, alone or on a base in blocks.

use burn::module::Module;

use super::cache::CostCache;
use super::costs::{
    CostOptions, TensorCosts, divergence_on_first, key_alone, measure_alone, with_values,
};
use super::error::TypesError;
use crate::calibrate::{Calibration, CalibrationError, is_tied, is_token_matrix};
use crate::checkpoint::Checkpoint;
use crate::forms::{Blocks, Form, FormError};
use crate::ggml::{QuantizeError, TensorType};
use crate::linalg::{Matrix, SecondMoment, Shrinkage, Weighting, loss_of_error};
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::plan::{Candidate, Point, lower_hull};
use crate::progress::{Part, Progress};
use crate::spectrum::{Method, Norms};

/// The type of factors.
const OF_FACTORS: TensorType = TensorType::Q8_0;

/// Ranks of factors on a base.
const ON_BASE: [usize; 2] = [8, 32];

/// Ranks of factors alone, as shares of the full rank: below what blocks of the fewest bits take.
const ALONE: [usize; 3] = [16, 8, 4];

/// Types with no more bits than this may be the base of factors: with more, another type is cheaper
/// than factors.
const MOST_BITS_OF_BASE: f64 = 4.6;

/// What a matrix costs in a form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FormCost {
    /// The form.
    pub form: Form,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Estimated rise of the loss, in nats per token.
    pub loss: f64,
}

/// What a matrix costs in each form that it may have.
#[derive(Debug, Clone, PartialEq)]
pub struct FormCosts {
    /// Hugging Face name of its tensor.
    pub tensor: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// BLAKE3 digest of its type, shape and bytes in the model.
    pub digest: String,
    /// Its forms, in any order.
    pub candidates: Vec<FormCost>,
}

impl FormCosts {
    /// With all losses times a scale, such as that of [`measure_scale`](super::measure_scale).
    pub fn scaled(mut self, scale: f64) -> Self {
        self.candidates.iter_mut().for_each(|cost| cost.loss *= scale);
        self
    }

    /// Of blocks by rows, as their types cost.
    fn of_types(costs: TensorCosts) -> Self {
        let TensorCosts { tensor, shape, digest, candidates } = costs;
        let cost = |cost: &super::TypeCost| {
            let form = Form::blocks(cost.tensor_type);
            (form.problem(shape).is_none()).then(|| FormCost::of(form, shape, cost.loss))
        };
        let candidates = candidates.iter().filter_map(cost).collect();
        Self { tensor, shape, digest, candidates }
    }
}

impl FormCost {
    fn of(form: Form, shape: [usize; 2], loss: f64) -> Self {
        // Blocks have the same bytes whatever the type of the other numbers is.
        Self { form, bytes: form.bytes(shape, safetensors::Dtype::F32), loss }
    }
}

/// The forms of blocks by columns that a matrix `[out, in]` can have.
pub fn by_columns(shape: [usize; 2], types: &[TensorType]) -> Vec<Form> {
    // Floats are the same by columns.
    let of_blocks = types.iter().filter(|of| of.block_len() > 1);
    let turned = of_blocks.map(|of| Form::turned_blocks(*of));
    turned.filter(|form| form.problem(shape).is_none()).collect()
}

/// The forms of factors in blocks that a matrix `[out, in]` can have: alone, and on these bases.
fn factors_on(shape: [usize; 2], bases: &[Blocks]) -> Vec<Form> {
    let full = shape[0].min(shape[1]);
    let alone = ALONE.iter().map(|share| Form::packed_factors(full / share, OF_FACTORS, None));
    let based = bases
        .iter()
        .flat_map(|base| ON_BASE.map(|rank| Form::packed_factors(rank, OF_FACTORS, Some(*base))));
    alone.chain(based).filter(|form| form.problem(shape).is_none()).collect()
}

/// The smallest number of bytes of a matrix `[out, in]` in forms of these kinds; `None` if it can have
/// none of them.
pub fn least_bytes(
    shape: [usize; 2],
    of_tokens: bool,
    kinds: &[Candidate],
    types: &[TensorType],
) -> Option<u64> {
    let mut forms = Vec::new();
    // Embedding and head have blocks whatever else may be used.
    if of_tokens || kinds.contains(&Candidate::Blocks) {
        forms.extend(types.iter().map(|of| Form::blocks(*of)));
        forms.extend(by_columns(shape, types));
    }
    if !of_tokens && kinds.contains(&Candidate::Factors) {
        forms.extend(factors_on(shape, &[]));
    }
    let possible = forms.into_iter().filter(|form| form.problem(shape).is_none());
    possible.map(|form| FormCost::of(form, shape, 0.0).bytes).min()
}

/// The costs of matrices in forms of these kinds. `of_types` are their costs in blocks by rows
/// ([`measure_types`](super::measure_types)); blocks by columns are measured, and factors: alone, and
/// on the bases of few bits that are on the lower convex hull.
///
/// # Errors
///
/// [`TypesError`]; [`CalibrationError::NoGradients`](crate::calibrate::CalibrationError) for a
/// calibration of inputs alone.
pub fn measure_forms(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    of_types: Vec<TensorCosts>,
    kinds: &[Candidate],
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<FormCosts>, TypesError> {
    let norms = norms(checkpoint, calibration, options)?;
    let found: Vec<FormCosts> = of_types.into_iter().map(FormCosts::of_types).collect();
    let needs: Vec<u64> = found.iter().map(|of| memory(of.shape)).collect();
    let items = found.iter().map(|of| of.tensor.as_str()).zip(needs.iter().copied());
    options.budget.check(items)?;
    let operations: Vec<u64> = found.iter().map(|of| Form::dense().parameters(of.shape)).collect();
    progress.begin_work("costs of forms", found.len(), operations.iter().sum());
    let mut costs: Vec<Vec<FormCost>> = vec![Vec::new(); found.len()];
    options.budget.workers().try_spread_within(
        options.budget.memory,
        &needs,
        |index| Subject::new(checkpoint, &norms, &found[index], options).costs(kinds),
        |index, (of_one, known)| -> Result<(), TypesError> {
            costs[index] = of_one;
            let (item, operations) = (found[index].tensor.as_str(), operations[index]);
            Ok(progress.part(Part { item, steps: 1, operations, known })?)
        },
    )?;
    checkpoint.check_unchanged()?;
    let with = |(of, candidates)| FormCosts { candidates, ..of };
    Ok(found.into_iter().zip(costs).map(with).collect())
}

/// The norms that matrices are rounded in, and in which their factors are best. Of the way to round,
/// these have the shrinkage: in them columns and rows always make up for each other.
///
/// # Errors
///
/// [`CalibrationError::NoGradients`](crate::calibrate::CalibrationError).
pub fn norms<'a>(
    checkpoint: &Checkpoint,
    calibration: &'a Calibration,
    options: &CostOptions,
) -> Result<Norms<'a>, TypesError> {
    let (input, output) = (options.rounding.shrink, options.rounding.shrink_outputs);
    let output = output.unwrap_or(Shrinkage::OUTPUT);
    let shrink = Shrinkage { input: input.into(), output: output.into() };
    let norms = Norms::new(calibration, Method::TwoSided, shrink)?;
    Ok(norms.for_tied(is_tied(checkpoint)))
}

/// Bytes that a matrix needs while it is in flight: several copies of it in f64, and both second
/// moments with their roots.
fn memory([rows, columns]: [usize; 2]) -> u64 {
    let [m, n] = [rows as u64, columns as u64];
    m.saturating_mul(n).saturating_mul(80).saturating_add(32 * (m * m + n * n))
}

/// A matrix whose costs are measured.
struct Subject<'s> {
    checkpoint: &'s Checkpoint,
    norms: &'s Norms<'s>,
    of: &'s FormCosts,
    options: &'s CostOptions,
    /// What costs are measured with, once something is measured.
    material: Option<Material>,
}

struct Material {
    dense: Matrix,
    norm: Weighting,
    inputs: SecondMoment,
    outputs: SecondMoment,
}

impl<'s> Subject<'s> {
    fn new(
        checkpoint: &'s Checkpoint,
        norms: &'s Norms<'s>,
        of: &'s FormCosts,
        options: &'s CostOptions,
    ) -> Self {
        Self { checkpoint, norms, of, options, material: None }
    }

    /// The costs in all forms of these kinds, and whether they were known before.
    fn costs(mut self, kinds: &[Candidate]) -> Result<(Vec<FormCost>, bool), TypesError> {
        let (mut costs, mut all_known) = (Vec::new(), true);
        if kinds.contains(&Candidate::Blocks) {
            let forms = by_columns(self.of.shape, &self.options.types);
            let (turned, known) = self.costs_in("by columns", &forms)?;
            costs.extend(self.of.candidates.iter().copied().chain(turned));
            all_known &= known;
        }
        if kinds.contains(&Candidate::Factors) {
            let forms = factors_on(self.of.shape, &bases(&costs));
            let (factors, known) = self.costs_in("factors", &forms)?;
            costs.extend(factors);
            all_known &= known;
        }
        Ok((costs, all_known))
    }

    fn costs_in(
        &mut self,
        what: &str,
        forms: &[Form],
    ) -> Result<(Vec<FormCost>, bool), TypesError> {
        let (tensor, shape) = (&self.of.tensor, self.of.shape);
        let norms = self.norms.identity().unwrap_or_default();
        let key = format!("{} {tensor} {what} {norms}", self.of.digest);
        let cache = self.options.cache.as_deref().map(CostCache::new);
        if let Some(known) = known(cache.as_ref(), &key, shape, forms) {
            return Ok((known, true));
        }
        let material = match self.material.take() {
            Some(material) => material,
            None => self.material()?,
        };
        let mut costs = Vec::new();
        for form in forms {
            let Some(stored) = stored(form, &material.dense, &material.norm)
                .map_err(|source| TypesError::Form { tensor: tensor.clone(), source })?
            else {
                continue;
            };
            let pairs = stored.data().iter().zip(material.dense.data());
            let error: Vec<f32> = pairs.map(|(new, old)| (new - old) as f32).collect();
            let loss = loss_of_error(&error, &material.inputs, Some(&material.outputs))
                .map_err(|source| TypesError::Linalg { tensor: tensor.clone(), source })?;
            costs.push(FormCost::of(*form, shape, loss));
        }
        self.material = Some(material);
        if let Some(cache) = cache {
            cache.keep(&key, named(&costs));
        }
        Ok((costs, false))
    }

    fn material(&self) -> Result<Material, TypesError> {
        let FormCosts { tensor, digest, .. } = self.of;
        let name = MatrixName::of_weight(tensor).unwrap_or_else(|| tensor.as_str().into());
        let calibration = self.norms.calibration().ok_or(CalibrationError::NoGradients)?;
        calibration.check(&name, digest)?;
        let dense = self.checkpoint.read_matrix(tensor)?;
        self.checkpoint.release(tensor);
        let inputs = calibration.inputs(&name)?.into_owned();
        let outputs = calibration.outputs(&name)?.into_owned();
        Ok(Material { dense, norm: self.norms.of(&name)?, inputs, outputs })
    }
}

/// The blocks of few bits that are on the lower convex hull of these costs.
fn bases(costs: &[FormCost]) -> Vec<Blocks> {
    let costs = by_size(costs.to_vec());
    let points: Vec<Point> =
        costs.iter().map(|cost| Point { cost: cost.bytes, loss: cost.loss }).collect();
    let hull = if points.is_empty() { Vec::new() } else { lower_hull(&points) };
    let blocks = hull.into_iter().filter_map(|at| costs[at].form.as_blocks());
    blocks.filter(|blocks| bits_of(blocks.tensor_type) <= MOST_BITS_OF_BASE).collect()
}

fn bits_of(tensor_type: TensorType) -> f64 {
    8.0 * tensor_type.block_bytes() as f64 / tensor_type.block_len() as f64
}

/// Costs in order of increasing size; of several of one size, the best.
pub(super) fn by_size(mut costs: Vec<FormCost>) -> Vec<FormCost> {
    costs.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    costs.dedup_by_key(|cost| cost.bytes);
    costs
}

/// What a form stores in place of a matrix; `None` if its entries are too large for it.
fn stored(form: &Form, matrix: &Matrix, norm: &Weighting) -> Result<Option<Matrix>, FormError> {
    match form.make(matrix, norm) {
        Ok(made) => form.merge([matrix.rows(), matrix.cols()], made.parts).map(Some),
        Err(FormError::Blocks(QuantizeError::Overflow { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of a form in the cache.
fn name_of(form: &Form) -> String {
    form.to_string()
}

fn named(costs: &[FormCost]) -> Vec<(String, f64)> {
    costs.iter().map(|cost| (name_of(&cost.form), cost.loss)).collect()
}

/// The costs that a cache has for all of these forms.
fn known(
    cache: Option<&CostCache>,
    key: &str,
    shape: [usize; 2],
    forms: &[Form],
) -> Option<Vec<FormCost>> {
    let names: Vec<String> = forms.iter().map(name_of).collect();
    let losses = cache?.find(key, &names)?;
    Some(forms.iter().zip(losses).map(|(form, loss)| FormCost::of(*form, shape, loss)).collect())
}

/// The costs of embedding or head in blocks, by rows and by columns, measured: the mean KL divergence
/// from the model on the text of a calibration, with that tensor alone in each form.
///
/// # Errors
///
/// [`TypesError`].
pub fn measure_token_forms<M: LanguageModel + Module + Clone>(
    model: &M,
    checkpoint: &Checkpoint,
    tensor: &str,
    calibration: &Calibration,
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<FormCosts, TypesError> {
    debug_assert!(is_token_matrix(tensor));
    let of_types = measure_alone(model, checkpoint, tensor, calibration, options, progress)?;
    let mut costs = FormCosts::of_types(of_types);
    let forms = by_columns(costs.shape, &options.types);
    let key = format!("{} forms", key_alone(&costs.digest, tensor, calibration, options));
    let cache = options.cache.as_deref().map(CostCache::new);
    if let Some(known) = known(cache.as_ref(), &key, costs.shape, &forms) {
        costs.candidates.extend(known);
        return Ok(costs);
    }
    let Some(name) = MatrixName::of_weight(tensor) else { return Ok(costs) };
    let norm = norms(checkpoint, calibration, options)?.of(&name)?;
    let dense = checkpoint.read_matrix(tensor)?;
    let mut found = Vec::new();
    for form in forms {
        let Some(stored) = stored(&form, &dense, &norm)
            .map_err(|source| TypesError::Form { tensor: tensor.into(), source })?
        else {
            continue;
        };
        let values = stored.into_data().into_iter().map(|x| x as f32).collect();
        let changed = with_values(model.clone(), tensor, values, costs.shape);
        let loss = divergence_on_first(&changed, model, calibration, options, progress)?;
        found.push(FormCost::of(form, costs.shape, loss));
    }
    if let Some(cache) = cache {
        cache.keep(&key, named(&found));
    }
    costs.candidates.extend(found);
    Ok(costs)
}
