//! The weights of modules in their forms, and how they are read from and written to files.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::error::FormError;
use super::form::Form;
use super::low_rank::{Rest, attach_factors};
use super::order::pivots_of_order;
use super::part::{Part, PartKind};
use crate::linalg::{LinalgError, Matrix, transpose};
use crate::modules::{Change, MatrixName, Place, map_floats, walk};

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

/// Where a parameter of a weight is in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveSlot {
    /// The path of the parameter within the weight; empty for the base.
    pub param: &'static str,
    /// Index of the tensor among those of the form.
    pub tensor: usize,
    /// How one is converted into the other.
    pub codec: Codec,
}

/// How the content of a tensor and a parameter are converted into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// They are the same.
    AsIs,
    /// The parameter is the transpose of the tensor.
    Transposed,
    /// The tensor holds pivots, the parameter an order.
    Order,
}

impl Codec {
    /// The shape of a parameter in a file.
    fn stored_shape(self, mut shape: Vec<usize>) -> Vec<usize> {
        if self == Self::Transposed {
            shape.reverse();
        }
        shape
    }

    /// The parameter for a floating point tensor that has this shape in a file.
    pub fn load(self, values: Vec<f32>, shape: &[usize]) -> TensorData {
        match (self, shape) {
            (Self::Transposed, [rows, cols]) => {
                TensorData::new(transpose(&values, *rows, *cols), [*cols, *rows])
            }
            _ => TensorData::new(values, shape.to_vec()),
        }
    }

    /// A parameter as the content of its tensor. `rank` is the number of pivots of an order.
    fn store(self, data: TensorData, rank: usize) -> Result<Part, LinalgError> {
        let shape = data.shape().to_vec();
        match (self, &shape[..]) {
            (Self::Order, _) => {
                let order: Vec<i32> = data.iter::<i32>().collect();
                Ok(Part::Indices(pivots_of_order(&order, rank)))
            }
            (codec, [rows, cols]) => {
                let matrix = Matrix::new(*rows, *cols, data.iter::<f64>().collect())?;
                let turned = codec == Self::Transposed;
                Ok(Part::Numbers(if turned { matrix.transposed() } else { matrix }))
            }
            (_, other) => {
                let rows = other.iter().product();
                Ok(Part::Numbers(Matrix::new(rows, 1, data.iter::<f64>().collect())?))
            }
        }
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

/// A weight matrix of a module.
#[derive(Debug, Clone)]
pub struct LiveMatrix {
    /// Its name: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Its form.
    pub form: Form,
    /// `[out, in]`: the weight of a linear layer as PyTorch stores it.
    pub shape: [usize; 2],
    /// The base of its weight, a parameter that every form has: the dense weight
    /// `[d_input, d_output]`, or the down factor.
    pub base: Param<Tensor<2>>,
    /// Whether it is the weight of a linear layer.
    pub of_linear: bool,
    /// Shapes of its parameters, by their paths within the weight. The base has an empty path.
    pub(crate) params: BTreeMap<String, Vec<usize>>,
}

impl LiveMatrix {
    /// Number of parameters of the matrix, without indices and without an adapter.
    pub fn parameters(&self) -> u64 {
        self.form.parameters(self.shape)
    }

    /// The dense weight as a matrix `[out, in]` on the host.
    ///
    /// # Errors
    ///
    /// [`FormError::NotDense`], [`FormError::Layout`], [`FormError::Quantized`], and
    /// [`FormError::Linalg`] for a weight that is not finite.
    pub fn to_matrix(&self) -> Result<Matrix, FormError> {
        self.check_dense()?;
        to_matrix(self.base.base())
    }

    /// Checks that the weight can be factored. Initializes nothing.
    ///
    /// # Errors
    ///
    /// [`FormError::NotDense`], [`FormError::Layout`].
    pub fn check_dense(&self) -> Result<(), FormError> {
        if self.params.len() > 1 || self.form != Form::dense() {
            return Err(FormError::NotDense);
        }
        if is_transposed_layout(&self.base) {
            return Err(FormError::Layout);
        }
        Ok(())
    }
}

/// The weight matrices of a module, in Burn's order: all two-dimensional parameters called
/// `weight`. Initializes nothing.
pub fn matrices(module: &impl Module) -> Vec<LiveMatrix> {
    struct Weight {
        place: Place,
        base: Option<Param<Tensor<2>>>,
        params: BTreeMap<String, Vec<usize>>,
    }
    let mut found: Vec<Weight> = Vec::new();
    walk(module, |place, param| {
        if place.matrix().is_none() {
            return;
        }
        if place.part.is_empty() {
            let (place, base) = (place.clone(), param.matrix().cloned());
            found.push(Weight { place, base, params: BTreeMap::new() });
        }
        if let Some(weight) = found.last_mut()
            && weight.place.owner == place.owner
        {
            weight.params.insert(place.part.clone(), param.shape());
        }
    });
    let matrix = |Weight { place, base, params }| {
        let shape_of = |part: &str| params.get(part).cloned();
        let (form, shape) = Form::live(&shape_of)?;
        let (name, of_linear) = (place.matrix()?, place.is_linear());
        Some(LiveMatrix { name, form, shape, base: base?, of_linear, params })
    };
    found.into_iter().filter_map(matrix).collect()
}

/// A weight `[d_input, d_output]` as the PyTorch-oriented matrix `[d_output, d_input]`, f64, on
/// the host.
///
/// # Errors
///
/// [`FormError::Quantized`], and [`FormError::Linalg`] for a weight that is not finite.
pub(crate) fn to_matrix(weight: Tensor<2>) -> Result<Matrix, FormError> {
    if matches!(weight.dtype(), DType::QFloat(_)) {
        return Err(FormError::Quantized);
    }
    let [d_input, d_output] = weight.dims();
    let values = weight.without_autodiff().transpose().into_data().iter::<f64>().collect();
    Ok(Matrix::new(d_output, d_input, values)?)
}

/// Whether a weight is stored with `LinearLayout::Col`, whose records are the transpose of
/// what the layer multiplies by. Such weights can be neither loaded from `[out, in]` files
/// nor factored; callers refuse them.
pub fn is_transposed_layout(param: &Param<Tensor<2>>) -> bool {
    // Burn keeps the layout only as mappers, so this loads a probe of known shape. Loading into
    // a clone initializes nothing.
    let probe = Tensor::<2>::zeros([1, 2], &param.lazy_device());
    param.clone().transform_for_load(probe, param.id).base().dims() != [1, 2]
}

/// Puts matrices in their forms into a module: those for which `choose` gives a form and its
/// parts. `rest` decides about all other parameters. An attached weight trains, and keeps the id,
/// the type and the device of the dense weight.
///
/// # Panics
///
/// Panics if the parts do not belong to the form.
pub(crate) fn attach<M: Module>(
    module: M,
    mut choose: impl FnMut(&MatrixName) -> Option<(Form, Vec<Part>)>,
    rest: Rest,
) -> M {
    attach_factors(
        module,
        |path, weight| {
            let (form, parts) = choose(&MatrixName::of_weight(path)?)?;
            let value = weight.base();
            let (device, dtype) = (value.device(), value.dtype());
            let [d_input, d_output] = value.dims();
            drop(value);
            params_of(form, [d_input, d_output], parts, weight.id, dtype, &device)
                .expect("the parts are those of the form")
        },
        rest,
    )
}

/// The parameters of a weight `[d_input, d_output]` of a linear layer, with the content of `parts`.
pub(crate) fn params_of(
    form: Form,
    shape: [usize; 2],
    parts: Vec<Part>,
    id: ParamId,
    dtype: DType,
    device: &Device,
) -> Result<Option<FactorParams>, FormError> {
    let indices: Vec<Vec<i32>> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Indices(indices) => Some(indices.clone()),
            Part::Numbers(_) => None,
        })
        .collect();
    let Some(mut params) = form.skeleton(shape, &indices, device)? else { return Ok(None) };
    let slots = form.slots(true).ok_or(FormError::Parts(form_name(form)))?;
    for slot in slots {
        let Some(Part::Numbers(matrix)) = parts.get(slot.tensor) else { continue };
        let turned = slot.codec == Codec::Transposed;
        let matrix = if turned { matrix.transposed() } else { matrix.clone() };
        let shape = [matrix.rows(), matrix.cols()];
        let data = TensorData::new(matrix.into_data(), shape).convert_dtype(dtype);
        let value = Tensor::from_data(data, (device, dtype));
        match slot.param {
            "" => params.down = Param::initialized(id, value).set_require_grad(true),
            _ => params.up = Param::from_tensor(value),
        }
    }
    Ok(Some(params))
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
    let mut failed = None;
    let module = attach_factors(
        module,
        |path, weight| {
            let name = MatrixName::of_weight(path)?;
            let (form, indices) = form_of(&name)?;
            let shape = weight.lazy_shape();
            match form.skeleton([shape[0], shape[1]], &indices, &weight.lazy_device()) {
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

/// Where a parameter of a module is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Path of the parameter.
    pub path: String,
    /// Name of the tensor.
    pub tensor: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
    pub kind: PartKind,
    pub codec: Codec,
    /// The number of pivots, if the parameter is an order.
    rank: usize,
}

impl Slot {
    /// The content of the tensor for the value of the parameter.
    pub fn store(&self, values: TensorData) -> Result<Part, LinalgError> {
        self.codec.store(values, self.rank)
    }
}

/// Where each parameter of a module is in a checkpoint, in Burn's order, without parameters that
/// do not belong there. Norms have their PyTorch names. Initializes nothing.
///
/// # Errors
///
/// The name of a weight whose layout is transposed in records, or whose form such a module cannot
/// have.
pub(crate) fn slots(module: &impl Module) -> Result<Vec<Slot>, (MatrixName, FormError)> {
    let matrices: BTreeMap<String, LiveMatrix> =
        matrices(module).into_iter().map(|matrix| (matrix.name.weight(), matrix)).collect();
    for matrix in matrices.values() {
        if is_transposed_layout(&matrix.base) {
            return Err((matrix.name.clone(), FormError::Layout));
        }
    }
    let mut slots = Vec::new();
    let mut failed = None;
    walk(module, |place, param| {
        let slot = match matrices.get(&place.owner) {
            Some(matrix) => match matrix_slot(matrix, place, param.shape()) {
                Ok(slot) => slot,
                Err(error) => {
                    failed.get_or_insert((matrix.name.clone(), error));
                    None
                }
            },
            None if param.is_float() => Some(Slot {
                path: place.path.clone(),
                tensor: other_tensor(place),
                shape: param.shape(),
                kind: PartKind::Numbers,
                codec: Codec::AsIs,
                rank: 0,
            }),
            None => None,
        };
        slots.extend(slot);
    });
    failed.map_or(Ok(slots), Err)
}

fn matrix_slot(
    matrix: &LiveMatrix,
    place: &Place,
    shape: Vec<usize>,
) -> Result<Option<Slot>, FormError> {
    let slots = matrix.form.slots(matrix.of_linear);
    let slots = slots.ok_or_else(|| {
        FormError::Impossible("only weights of linear layers can be stored with pivots".into())
    })?;
    let Some(slot) = slots.iter().find(|slot| slot.param == place.part) else {
        // An adapter, for example, does not belong in a checkpoint of the model.
        return Ok(None);
    };
    let part = &matrix.form.parts(matrix.shape)[slot.tensor];
    let shape = match slot.codec {
        Codec::Order => part.shape.clone(),
        codec => codec.stored_shape(shape),
    };
    Ok(Some(Slot {
        path: place.path.clone(),
        tensor: matrix.name.part(part.suffix),
        shape,
        kind: part.kind,
        codec: slot.codec,
        rank: matrix.form.rank().unwrap_or(0),
    }))
}

/// The tensor of a parameter that belongs to no matrix. Burn names the parameters of norms
/// differently from PyTorch.
fn other_tensor(place: &Place) -> String {
    let renamed = |from: &str, to: &str| {
        let owner = place.path.strip_suffix(from)?;
        place.is_norm().then(|| format!("{owner}{to}"))
    };
    renamed(".gamma", ".weight")
        .or_else(|| renamed(".beta", ".bias"))
        .unwrap_or_else(|| place.path.clone())
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
/// Forms and indices stay as they are.
pub(crate) fn fill<M: Module>(module: M, parts: &BTreeMap<MatrixName, Vec<Part>>) -> M {
    let found: BTreeMap<MatrixName, LiveMatrix> =
        matrices(&module).into_iter().map(|matrix| (matrix.name.clone(), matrix)).collect();
    map_floats(module, |place, param| {
        let content = || {
            let name = place.matrix()?;
            let matrix = found.get(&name)?;
            let slots = matrix.form.slots(matrix.of_linear)?;
            let slot = slots.iter().find(|slot| slot.param == place.part)?;
            let Part::Numbers(numbers) = parts.get(&name)?.get(slot.tensor)? else { return None };
            let turned = slot.codec == Codec::Transposed;
            let numbers = if turned { numbers.transposed() } else { numbers.clone() };
            let shape = [numbers.rows(), numbers.cols()];
            Some(TensorData::new(numbers.into_data(), shape))
        };
        match content() {
            Some(data) => {
                let dtype = param.dtype();
                Change::Load(data.convert_dtype(dtype), dtype)
            }
            None => Change::Keep,
        }
    })
}
