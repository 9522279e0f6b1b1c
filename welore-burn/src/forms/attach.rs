//! Puts matrices in their forms into modules, and takes them out again.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor};

use super::error::FormError;
use super::form::Form;
use super::live::{LiveMatrix, matrices};
use super::low_rank::{Rest, attach_factors};
use super::packed::{AttachPacked, NewPacked};
use super::part::Part;
use super::slots::slots;
use crate::modules::{MatrixName, load_values, walk};

/// The parameters that replace a dense weight.
#[derive(Debug)]
pub struct FactorParams {
    /// The down factor, `[d_input, rank]`; becomes the base of the parameter.
    pub down: Param<Tensor<2>>,
    /// The up factor, `[rank, d_output]`, or `[rank, d_output - rank]` with an order.
    pub up: Param<Tensor<2>>,
    /// The order for pivoted storage, `[d_output]`; see [`LowRank`](super::LowRank).
    pub order: Option<Tensor<1, Int>>,
}

/// The parameters that replace a dense weight, whatever its form.
#[derive(Debug)]
pub(crate) enum NewParams {
    /// Factors, in either form.
    Factors(FactorParams),
    /// Blocks.
    Packed(NewPacked),
}

/// [`attach_factors`] for all forms.
pub(crate) fn attach_params<M: Module>(
    module: M,
    mut choose: impl FnMut(&str, &Param<Tensor<2>>) -> Option<NewParams>,
    rest: Rest,
) -> M {
    // Burn attaches one kind of reparameterization at a time.
    let mut packed = BTreeMap::new();
    let module = attach_factors(
        module,
        |path, weight| match choose(path, weight)? {
            NewParams::Factors(params) => Some(params),
            NewParams::Packed(params) => {
                packed.insert(path.to_string(), params);
                None
            }
        },
        rest,
    );
    match packed.is_empty() {
        true => module,
        false => module.apply_reparameterization(AttachPacked(packed)),
    }
}

/// A parameter that allocates nothing until a weight is loaded into it. If read before that, it is
/// zero.
pub(super) fn empty_param(shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, _| Tensor::zeros(shape, device),
        device.clone(),
        true,
        shape.into(),
    )
}

/// Puts matrices in their forms into a module: those for which `choose` gives a form and its
/// parts. `rest` decides about all other parameters. An attached weight trains, unless it is packed, and
/// keeps the id, the type and the device of the dense weight.
///
/// # Errors
///
/// [`FormError`] for parts that do not belong to the form, with the name of the matrix.
pub(crate) fn attach<M: Module>(
    module: M,
    mut choose: impl FnMut(&MatrixName) -> Option<(Form, Vec<Part>)>,
    rest: Rest,
) -> Result<M, (MatrixName, FormError)> {
    let mut failed = None;
    let module = attach_params(
        module,
        |path, weight| {
            let name = MatrixName::of_weight(path)?;
            let (form, parts) = choose(&name)?;
            let value = weight.base();
            let (device, dtype) = (value.device(), value.dtype());
            let [d_input, d_output] = value.dims();
            drop(value);
            let params = params_of(form, [d_input, d_output], parts, weight.id, dtype, &device);
            params.unwrap_or_else(|error| {
                failed.get_or_insert((name, error));
                None
            })
        },
        rest,
    );
    failed.map_or(Ok(module), Err)
}

/// The parameters of a weight `[d_input, d_output]` of a linear layer, with the content of `parts`.
pub(crate) fn params_of(
    form: Form,
    shape: [usize; 2],
    parts: Vec<Part>,
    id: ParamId,
    dtype: DType,
    device: &Device,
) -> Result<Option<NewParams>, FormError> {
    let indices: Vec<Vec<i32>> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Indices(indices) => Some(indices.clone()),
            Part::Numbers(_) | Part::Blocks(_) => None,
        })
        .collect();
    let mut params = match form.skeleton(shape, true, &indices, device)? {
        None => return Ok(None),
        Some(NewParams::Packed(params)) => {
            return Ok(Some(NewParams::Packed(params.filled(&parts, id, dtype)?)));
        }
        Some(NewParams::Factors(params)) => params,
    };
    let slots = form.slots(true).ok_or(FormError::Parts(form_name(form)))?;
    for slot in slots {
        let part = parts.get(slot.tensor);
        let Some(data) = part.and_then(|part| slot.codec.value(part)) else { continue };
        let value = Tensor::from_data(data.convert_dtype(dtype), (device, dtype));
        match slot.param {
            "" => params.down = Param::initialized(id, value).set_require_grad(true),
            _ => params.up = Param::from_tensor(value),
        }
    }
    Ok(Some(NewParams::Factors(params)))
}

fn form_name(form: Form) -> &'static str {
    match form.rank() {
        Some(_) => "low-rank",
        None => "dense",
    }
}

/// A module whose matrices have the forms and indices that `form_of` gives, ready for a checkpoint
/// to be loaded into. Allocates only the indices.
///
/// # Errors
///
/// [`FormError`] for invalid indices.
pub(crate) fn skeleton<M: Module>(
    module: M,
    form_of: impl Fn(&MatrixName) -> Option<(Form, Vec<Vec<i32>>)>,
) -> Result<M, (MatrixName, FormError)> {
    let linear: BTreeSet<MatrixName> = matrices(&module)
        .into_iter()
        .filter(|matrix| matrix.of_linear)
        .map(|matrix| matrix.name)
        .collect();
    let mut failed = None;
    let module = attach_params(
        module,
        |path, weight| {
            let name = MatrixName::of_weight(path)?;
            let (form, indices) = form_of(&name)?;
            let ([first, second], of_linear) = (weight.lazy_shape().dims(), linear.contains(&name));
            let device = weight.lazy_device();
            match form.skeleton([first, second], of_linear, &indices, &device) {
                Ok(params) => params,
                Err(error) => {
                    failed.get_or_insert((name, error));
                    None
                }
            }
        },
        Rest::Keep,
    );
    failed.map_or(Ok(module), Err)
}

/// The content of the tensors of some matrices of a module, by matrix name.
///
/// # Errors
///
/// [`FormError`] for weights that are not finite, with the name of the matrix.
pub(crate) fn read_matrices(
    module: &impl Module,
    wanted: impl Fn(&MatrixName) -> bool,
) -> Result<BTreeMap<MatrixName, Vec<Part>>, (MatrixName, FormError)> {
    let slots = slots(module)?;
    let matrices: BTreeMap<MatrixName, LiveMatrix> = matrices(module)
        .into_iter()
        .filter(|matrix| wanted(&matrix.name))
        .map(|matrix| (matrix.name.clone(), matrix))
        .collect();
    let mut parts: BTreeMap<MatrixName, BTreeMap<usize, Part>> = BTreeMap::new();
    let mut failed = None;
    walk(module, |place, param| {
        let slot = slots.iter().find(|slot| slot.path == place.path);
        let (Some(slot), Some(name)) = (slot, place.matrix()) else { return };
        let Some(matrix) = matrices.get(&name) else { return };
        let specs = matrix.form.parts(matrix.shape);
        let place = specs.iter().position(|spec| name.part(spec.suffix) == slot.tensor);
        match (slot.store(param.values()), place) {
            (Ok(part), Some(place)) => {
                parts.entry(name).or_default().insert(place, part);
            }
            (Err(error), _) => drop(failed.get_or_insert((name, error.into()))),
            (Ok(_), None) => {}
        }
    });
    if let Some(failed) = failed {
        return Err(failed);
    }
    let parts = parts.into_iter().map(|(name, parts)| (name, parts.into_values().collect()));
    Ok(parts.collect())
}

/// Replaces the numbers of some matrices of a module with the content of tensors, by matrix name.
/// Forms, indices and blocks stay as they are.
pub(crate) fn fill<M: Module>(module: M, parts: &BTreeMap<MatrixName, Vec<Part>>) -> M {
    let found: BTreeMap<MatrixName, LiveMatrix> =
        matrices(&module).into_iter().map(|matrix| (matrix.name.clone(), matrix)).collect();
    load_values(module, |place, param| {
        let name = place.matrix()?;
        let matrix = found.get(&name)?;
        let slots = matrix.form.slots(matrix.of_linear)?;
        let slot = slots.iter().find(|slot| slot.param == place.part)?;
        let data = slot.codec.value(parts.get(&name)?.get(slot.tensor)?)?;
        let dtype = param.dtype();
        Some((data.convert_dtype(dtype), dtype))
    })
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;

    use super::*;
    use crate::linalg::Matrix;

    #[test]
    fn parts_that_cannot_belong_to_a_form_are_an_error_and_name_the_matrix() {
        let matrix = |rows| Part::Numbers(Matrix::new(rows, 4, vec![1.0; 4 * rows]).unwrap());
        // An unfinished output on disk may hold any indices.
        for pivots in [vec![1, 1], vec![0, 4], vec![-1, 2], vec![0, 1, 2, 3, 4]] {
            let layer = LinearConfig::new(4, 4).init(&Device::default());
            let parts = vec![matrix(2), matrix(2), Part::Indices(pivots.clone())];
            let chosen = |_: &MatrixName| Some((Form::pivot(2), parts.clone()));
            let (name, error) = attach(layer, chosen, Rest::Keep).unwrap_err();
            assert!(matches!(error, FormError::Pivots { .. }), "{pivots:?}: {error}");
            assert_eq!(name.weight(), "weight");
        }
    }
}
