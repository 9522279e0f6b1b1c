//! What it costs to leave channels out.

use super::error::ChannelsError;
use super::mlp::Mlp;
use crate::calibrate::Calibration;
use crate::checkpoint::Checkpoint;
use crate::linalg::{ChannelOrder, Shrinkage};
use crate::progress::{Part, Progress};
use crate::workers::Budget;

/// The channels of an MLP in the order in which they are left out, with what that costs.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelCurve {
    /// The MLP.
    pub mlp: Mlp,
    /// The order of its channels.
    pub order: ChannelOrder,
    /// [`CurveOptions::shrink_gradients`] of the costs.
    pub shrink_gradients: f64,
}

/// How the costs of channels are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurveOptions {
    /// Share by which the second moments of channels are shrunk
    /// ([`Shrink::Share`](crate::linalg::Shrink::Share)).
    pub shrink_inputs: f64,
    /// The same for the second moments of the gradients of outputs. Beside ranks it has to be that of
    /// the norm in which these are weighed, or costs would not compare.
    pub shrink_gradients: f64,
    /// How many MLPs may be in flight at once, and in how much memory.
    pub budget: Budget,
}

impl Default for CurveOptions {
    /// One MLP per core, with the shrinkage of inputs that compression has, and gradients as they were
    /// measured.
    fn default() -> Self {
        let shrink_inputs = Shrinkage::INPUT;
        Self { shrink_inputs, shrink_gradients: 0.0, budget: Budget::default() }
    }
}

/// Finds for each MLP in which order channels are worth leaving out, and what that costs, from the
/// second moments of the inputs of its down projection and of the gradients of the outputs.
///
/// # Errors
///
/// [`ChannelsError`]; [`CalibrationError::NoGradients`](crate::calibrate::CalibrationError) for a
/// calibration of inputs alone.
pub fn measure_channels(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    mlps: &[Mlp],
    options: &CurveOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<ChannelCurve>, ChannelsError> {
    check_measurable(calibration, mlps, &options.budget)?;
    let shapes: Vec<[usize; 2]> = mlps.iter().map(Mlp::down_shape).collect();
    let needs: Vec<u64> = shapes.iter().map(|shape| memory(*shape)).collect();
    let operations: Vec<u64> = shapes.iter().map(|shape| ChannelOrder::work(*shape)).collect();
    progress.begin_work("costs of channels", mlps.len(), operations.iter().sum());
    progress.count_in("MLPs");
    let damping = [options.shrink_inputs, options.shrink_gradients];
    let mut found: Vec<Option<ChannelOrder>> = mlps.iter().map(|_| None).collect();
    options.budget.workers().try_spread_within(
        options.budget.memory,
        &needs,
        |index| order_of(checkpoint, calibration, &mlps[index], damping),
        |index, order| -> Result<(), ChannelsError> {
            found[index] = Some(order);
            let (item, operations) = (mlps[index].down.as_str(), operations[index]);
            Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
        },
    )?;
    checkpoint.check_unchanged()?;
    let curves = mlps.iter().zip(found.into_iter().flatten());
    let shrink_gradients = options.shrink_gradients;
    let curve = |(mlp, order): (&Mlp, ChannelOrder)| {
        let mlp = mlp.clone();
        ChannelCurve { mlp, order, shrink_gradients }
    };
    Ok(curves.map(curve).collect())
}

/// Refuses a calibration without gradients or of other shapes, and MLPs that do not fit the memory
/// limit, before anything is read.
fn check_measurable(
    calibration: &Calibration,
    mlps: &[Mlp],
    budget: &Budget,
) -> Result<(), ChannelsError> {
    if !calibration.has_gradients() {
        return Err(calibration.without_gradients().into());
    }
    mlps.iter().try_for_each(|mlp| calibration.check_shape(&mlp.down, mlp.down_shape()))?;
    Ok(budget.check(mlps.iter().map(|mlp| (mlp.down.as_str(), memory(mlp.down_shape()))))?)
}

/// Bytes that an MLP needs while its channels are put in order or fitted again: both second moments,
/// the matrix, and what is made of them.
pub(super) fn memory([width, channels]: [usize; 2]) -> u64 {
    let matrix = (width as u64).saturating_mul(channels as u64);
    ChannelOrder::memory([width, channels]).saturating_add(matrix.saturating_mul(24))
}

fn order_of(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    mlp: &Mlp,
    damping: [f64; 2],
) -> Result<ChannelOrder, ChannelsError> {
    let tensor = mlp.in_columns();
    calibration.check(&mlp.down, &checkpoint.digest(&tensor)?)?;
    let weight = checkpoint.read_matrix(&tensor)?;
    checkpoint.release(&tensor);
    let (inputs, outputs) = (calibration.inputs(&mlp.down)?, calibration.outputs(&mlp.down)?);
    ChannelOrder::new(&weight, &inputs, &outputs, damping)
        .map_err(ChannelsError::of_linalg(&mlp.down))
}
