//! What matrices cost in forms that only this library computes with: blocks by columns, and factors
//! in blocks, alone or on a base in blocks.

use burn::module::Module;

use super::cache::CostCache;
use super::costs::{
    CostOptions, TensorCosts, is_tied, key_alone, measure_alone, measure_types, with_values,
};
use super::error::TypesError;
use crate::calibrate::{Calibration, is_token_matrix};
use crate::checkpoint::Checkpoint;
use crate::eval::{PerplexityOptions, divergence};
use crate::forms::{Blocks, Form, FormError};
use crate::ggml::{QuantizeError, TensorType};
use crate::linalg::{LinalgError, Matrix, Shrinkage, Weighting, loss_of_error};
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::plan::Candidate;
use crate::progress::{Part, Progress};
use crate::spectrum::{Method, Norms};

/// The type of factors.
const OF_FACTORS: TensorType = TensorType::Q8_0;

/// Ranks of factors on a base. What they add is lost in few directions, so more pay rarely.
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

/// The forms of blocks that a matrix `[out, in]` of a model can have, beside blocks by rows: blocks by
/// columns where rows do not fill blocks, and, for the matrices of layers, factors, if these are among
/// the `kinds` that may be used.
pub fn own_forms(
    shape: [usize; 2],
    of_tokens: bool,
    kinds: &[Candidate],
    types: &[TensorType],
) -> Vec<Form> {
    let is_possible = |form: &Form| form.problem(shape).is_none();
    // Types as small as these take no f16 by columns: all of them have blocks of several entries.
    let by_columns = |of: &TensorType| {
        let turned = Form::turned_blocks(*of);
        (!is_possible(&Form::blocks(*of)) && is_possible(&turned)).then_some(turned)
    };
    let mut forms = Vec::new();
    if kinds.contains(&Candidate::Blocks) {
        forms.extend(types.iter().filter_map(by_columns));
    }
    let full = shape[0].min(shape[1]);
    if kinds.contains(&Candidate::Factors) && !of_tokens {
        let alone = ALONE.iter().map(|share| Form::packed_factors(full / share, OF_FACTORS, None));
        forms.extend(alone.filter(is_possible));
    }
    if kinds.contains(&Candidate::Factors) && kinds.contains(&Candidate::Blocks) && !of_tokens {
        let bases = types.iter().filter(|of| bits_of(**of) <= MOST_BITS_OF_BASE);
        let based = bases.flat_map(|of| {
            let turned = !is_possible(&Form::blocks(*of));
            let base = Blocks { tensor_type: *of, turned };
            ON_BASE.map(|rank| Form::packed_factors(rank, OF_FACTORS, Some(base)))
        });
        forms.extend(based.filter(is_possible));
    }
    forms
}

fn bits_of(tensor_type: TensorType) -> f64 {
    8.0 * tensor_type.block_bytes() as f64 / tensor_type.block_len() as f64
}

/// The costs of matrices in blocks by rows ([`measure_types`]) and in [`own_forms`].
///
/// # Errors
///
/// Those of [`measure_types`].
pub fn measure_forms(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    names: &[MatrixName],
    kinds: &[Candidate],
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<FormCosts>, TypesError> {
    let mut found: Vec<FormCosts> = match kinds.contains(&Candidate::Blocks) {
        true => measure_types(checkpoint, calibration, names, options, progress)?
            .into_iter()
            .map(FormCosts::of_types)
            .collect(),
        false => names
            .iter()
            .map(|name| {
                let tensor = name.weight();
                let shape = checkpoint.matrix_shape(&tensor)?;
                let digest = checkpoint.digest(&tensor)?;
                Ok(FormCosts { tensor, shape, digest, candidates: Vec::new() })
            })
            .collect::<Result<_, TypesError>>()?,
    };
    let norms = norms(checkpoint, calibration, options)?;
    let forms: Vec<Vec<Form>> =
        found.iter().map(|of| own_forms(of.shape, false, kinds, &options.types)).collect();
    let needs: Vec<u64> = found.iter().map(|of| memory(of.shape)).collect();
    let items = names.iter().map(MatrixName::as_str).zip(needs.iter().copied());
    options.budget.check(items)?;
    let operations: Vec<u64> = found
        .iter()
        .zip(&forms)
        .map(|(of, forms)| forms.iter().map(|form| form.cost_to_make(of.shape).operations).sum())
        .collect();
    progress.begin_work("costs of forms", names.len(), operations.iter().sum());
    let mut costs: Vec<Vec<FormCost>> = vec![Vec::new(); names.len()];
    options.budget.workers().try_spread_within(
        options.budget.memory,
        &needs,
        |index| costs_of(checkpoint, &norms, &found[index], &forms[index], options),
        |index, (of_one, known)| -> Result<(), TypesError> {
            costs[index] = of_one;
            let (item, operations) = (names[index].as_str(), operations[index]);
            Ok(progress.part(Part { item, steps: 1, operations, known })?)
        },
    )?;
    checkpoint.check_unchanged()?;
    found.iter_mut().zip(costs).for_each(|(found, costs)| found.candidates.extend(costs));
    Ok(found)
}

/// The norms that matrices are rounded in, and in which their factors are best.
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
    let shrink = Shrinkage { input, output: output.unwrap_or(Shrinkage::default().output) };
    let norms = Norms::new(calibration, Method::TwoSided, shrink)?;
    Ok(norms.for_tied(is_tied(checkpoint)))
}

/// Bytes that a matrix needs while it is in flight: several copies of it in f64, and both second
/// moments with their roots.
fn memory([rows, columns]: [usize; 2]) -> u64 {
    let [m, n] = [rows as u64, columns as u64];
    m.saturating_mul(n).saturating_mul(80).saturating_add(32 * (m * m + n * n))
}

/// The costs of a matrix in these forms, and whether they were known before.
fn costs_of(
    checkpoint: &Checkpoint,
    norms: &Norms<'_>,
    of: &FormCosts,
    forms: &[Form],
    options: &CostOptions,
) -> Result<(Vec<FormCost>, bool), TypesError> {
    let FormCosts { tensor, shape, digest, .. } = of;
    let Some(name) = MatrixName::of_weight(tensor) else { return Ok((Vec::new(), true)) };
    let Some(calibration) = norms.calibration() else { return Ok((Vec::new(), true)) };
    calibration.check(&name, digest)?;
    let key = format!("{digest} {name} forms {}", norms.identity().unwrap_or_default());
    let cache = options.cache.as_deref().map(CostCache::new);
    if let Some(known) = known(cache.as_ref(), &key, *shape, forms) {
        return Ok((known, true));
    }
    let about = |source: LinalgError| TypesError::Linalg { tensor: tensor.clone(), source };
    let dense = checkpoint.read_matrix(tensor)?;
    checkpoint.release(tensor);
    let (inputs, outputs) = (calibration.inputs(&name)?, calibration.outputs(&name)?);
    let norm = norms.of(&name)?;
    let mut costs = Vec::new();
    for form in forms {
        let Some(stored) = stored(form, &dense, &norm)
            .map_err(|source| TypesError::Form { tensor: tensor.clone(), source })?
        else {
            continue;
        };
        let pairs = stored.data().iter().zip(dense.data());
        let error: Vec<f32> = pairs.map(|(new, old)| (new - old) as f32).collect();
        let loss = loss_of_error(&error, &inputs, Some(&outputs)).map_err(about)?;
        costs.push(FormCost::of(*form, *shape, loss));
    }
    if let Some(cache) = cache {
        cache.keep(&key, named(&costs));
    }
    Ok((costs, false))
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
    let forms = own_forms(costs.shape, true, &[Candidate::Blocks], &options.types);
    let key = format!("{} forms", key_alone(&costs.digest, tensor, calibration, options));
    let cache = options.cache.as_deref().map(CostCache::new);
    if let Some(known) = known(cache.as_ref(), &key, costs.shape, &forms) {
        costs.candidates.extend(known);
        return Ok(costs);
    }
    let Some(name) = MatrixName::of_weight(tensor) else { return Ok(costs) };
    let norm = norms(checkpoint, calibration, options)?.of(&name)?;
    let text: Vec<Vec<u32>> = calibration.windows()?.into_iter().take(options.windows).collect();
    let seq_len = text.first().map_or(0, Vec::len);
    let at_once = options.at_once;
    let measuring = PerplexityOptions { seq_len, at_once, ..PerplexityOptions::default() };
    let (text, dense) = (text.concat(), checkpoint.read_matrix(tensor)?);
    let mut found = Vec::new();
    for form in forms {
        let Some(stored) = stored(&form, &dense, &norm)
            .map_err(|source| TypesError::Form { tensor: tensor.into(), source })?
        else {
            continue;
        };
        let values = stored.into_data().into_iter().map(|x| x as f32).collect();
        let changed = with_values(model.clone(), tensor, values, costs.shape);
        let loss = divergence(&changed, model, &text, &measuring, progress)?.kl.value;
        found.push(FormCost::of(form, costs.shape, loss));
    }
    if let Some(cache) = cache {
        cache.keep(&key, named(&found));
    }
    costs.candidates.extend(found);
    Ok(costs)
}
