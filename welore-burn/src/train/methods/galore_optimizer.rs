use burn::config::Config;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor, TensorData};

use crate::linalg::{LinalgError, Matrix, leading_left_vectors};

/// [`GaLore`] Configuration.
#[derive(Config, Debug)]
pub struct GaLoreConfig {
    /// Rank that gradients of matrices are projected to. Parameters that are not matrices, or whose
    /// smaller dimension is at most this, are optimized by plain AdamW.
    pub rank: usize,
    /// Steps between new projections.
    #[config(default = 200)]
    pub refresh: usize,
    /// Scale of the updates that are projected back.
    #[config(default = 0.25)]
    pub scale: f64,
    /// Decay of the first moment.
    #[config(default = 0.9)]
    pub beta_1: f32,
    /// Decay of the second moment.
    #[config(default = 0.999)]
    pub beta_2: f32,
    /// A value required for numerical stability.
    #[config(default = 1e-8)]
    pub epsilon: f32,
    /// Decoupled weight decay.
    #[config(default = 0.0)]
    pub weight_decay: f32,
}

impl GaLoreConfig {
    /// Build a [`GaLore`] from the config, for
    /// [`ModuleOptimizer::with_group`](burn::optim::ModuleOptimizer::with_group).
    ///
    /// # Panics
    ///
    /// Panics if the rank or the refresh interval is 0.
    pub fn build(&self) -> GaLore {
        assert!(self.rank > 0 && self.refresh > 0, "rank and refresh are at least 1");
        GaLore { config: self.clone() }
    }

    /// Initialize a GaLore optimizer for a whole module.
    ///
    /// # Panics
    ///
    /// Panics if the rank or the refresh interval is 0.
    pub fn init(&self) -> ModuleOptimizer {
        self.build().into()
    }
}

/// GaLore optimizer: AdamW whose moments live in a low-rank projection of the gradient.
///
/// Every `refresh` steps, the columns of `P` become the `rank` leading singular vectors of the
/// gradient on its smaller side. In every step the gradient is projected, `Pᵀ G` or `G P`, AdamW
/// computes its update there, and the update is projected back and scaled. Moments are kept when
/// the projection changes, as in the authors' code.
///
/// See: [GaLore, Zhao et al., 2024](https://arxiv.org/abs/2403.03507).
///
/// Configured by [`GaLoreConfig`].
#[derive(Debug, Clone)]
pub struct GaLore {
    config: GaLoreConfig,
}

/// GaLore state.
#[derive(Debug, Clone)]
pub struct GaLoreState<const D: usize> {
    /// Steps taken.
    time: usize,
    /// Orthonormal columns, `[smaller side, rank]`; `None` where nothing is projected.
    projection: Option<Tensor<2>>,
    /// First moment of the projected gradient.
    moment_1: Tensor<D>,
    /// Second moment of the projected gradient.
    moment_2: Tensor<D>,
}

impl Optimizer for GaLore {
    type State<const D: usize> = GaLoreState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let config = &self.config;
        let (time, old, moments) = match state {
            Some(state) => (state.time, state.projection, Some((state.moment_1, state.moment_2))),
            None => (0, None, None),
        };
        let Ok(projection) = self.projection(time, &grad, old) else {
            // A gradient that is not finite has no directions to follow; training detects it by the
            // norm.
            return (tensor, None);
        };
        let grad = match &projection {
            Some(projection) => project(grad, projection),
            None => grad,
        };
        let square = grad.clone().square();
        let (beta_1, beta_2) = (config.beta_1, config.beta_2);
        let (moment_1, moment_2) = match moments {
            Some((first, second)) => (
                first.mul_scalar(beta_1) + grad.mul_scalar(1.0 - beta_1),
                second.mul_scalar(beta_2) + square.mul_scalar(1.0 - beta_2),
            ),
            None => (grad.mul_scalar(1.0 - beta_1), square.mul_scalar(1.0 - beta_2)),
        };
        let time = time + 1;
        let corrected = |beta: f32| 1.0 - f64::from(beta).powf(time as f64);
        let update = moment_1.clone().div_scalar(corrected(beta_1))
            / (moment_2.clone().div_scalar(corrected(beta_2)).sqrt().add_scalar(config.epsilon));
        let update = match &projection {
            Some(projection) => {
                project_back(update, projection, tensor.dims()).mul_scalar(config.scale)
            }
            None => update,
        };
        let kept = 1.0 - lr * f64::from(config.weight_decay);
        let tensor = tensor.mul_scalar(kept) - update.mul_scalar(lr);
        (tensor, Some(GaLoreState { time, projection, moment_1, moment_2 }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        GaLoreState {
            time: state.time,
            projection: state.projection.map(|projection| projection.to_device(device)),
            moment_1: state.moment_1.to_device(device),
            moment_2: state.moment_2.to_device(device),
        }
    }
}

impl GaLore {
    /// The projection of this step: the old one, or a new one when it is due.
    fn projection<const D: usize>(
        &self,
        time: usize,
        grad: &Tensor<D>,
        old: Option<Tensor<2>>,
    ) -> Result<Option<Tensor<2>>, LinalgError> {
        let dims = grad.dims();
        let &[rows, cols] = &dims[..] else { return Ok(None) };
        let rank = self.config.rank;
        if rows.min(cols) <= rank {
            return Ok(None);
        }
        if old.is_some() && !time.is_multiple_of(self.config.refresh) {
            return Ok(old);
        }
        let smaller_first = if rows <= cols { grad.clone() } else { grad.clone().transpose() };
        let side = rows.min(cols);
        let entries = smaller_first.into_data().iter::<f64>().collect();
        let vectors = Matrix::new(side, rows.max(cols), entries)
            .and_then(|matrix| leading_left_vectors(&matrix, rank));
        match (vectors, old) {
            (Ok(vectors), _) => {
                let data = TensorData::new(vectors.into_data(), [side, rank]);
                let data = data.convert_dtype(grad.dtype());
                Ok(Some(Tensor::from_data(data, &grad.device())))
            }
            (Err(_), Some(old)) => Ok(Some(old)),
            (Err(error), None) => Err(error),
        }
    }
}

/// `Pᵀ G` where `G` is wide, `G P` where it is tall.
fn project<const D: usize>(grad: Tensor<D>, projection: &Tensor<2>) -> Tensor<D> {
    let dims = grad.dims();
    let (rows, cols) = (dims[0], dims[1]);
    let grad: Tensor<2> = grad.reshape([rows, cols]);
    let [_, rank] = projection.dims();
    let (projected, shape) = if rows <= cols {
        (projection.clone().transpose().matmul(grad), [rank, cols])
    } else {
        (grad.matmul(projection.clone()), [rows, rank])
    };
    projected.reshape(shape_of(shape))
}

/// Projects an update back to a matrix of shape `dims`; see [`project`].
fn project_back<const D: usize>(
    update: Tensor<D>,
    projection: &Tensor<2>,
    dims: [usize; D],
) -> Tensor<D> {
    let shape = update.dims();
    let update: Tensor<2> = update.reshape([shape[0], shape[1]]);
    let whole = if dims[0] <= dims[1] {
        projection.clone().matmul(update)
    } else {
        update.matmul(projection.clone().transpose())
    };
    whole.reshape(dims)
}

/// The shape of a matrix, where the compiler does not know that `D` is 2.
fn shape_of<const D: usize>(shape: [usize; 2]) -> [usize; D] {
    std::array::from_fn(|axis| shape[axis])
}

// Written by hand, because the derive works only inside Burn.
impl<const D: usize> RecordState for GaLoreState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "time", self.time.into());
        if let Some(projection) = &self.projection {
            out.push_tensor(prefix, "projection", projection.to_data());
        }
        out.push_tensor(prefix, "moment_1", self.moment_1.to_data());
        out.push_tensor(prefix, "moment_2", self.moment_2.to_data());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let time = usize::try_from(src.take_scalar(prefix, "time")?).ok()?;
        let projection = src.take_tensor(prefix, "projection");
        let (moment_1, moment_2) =
            (src.take_tensor(prefix, "moment_1")?, src.take_tensor(prefix, "moment_2")?);
        Some(Self {
            time,
            projection: projection.map(|data| Tensor::from_data(data, device)),
            moment_1: Tensor::from_data(moment_1, device),
            moment_2: Tensor::from_data(moment_2, device),
        })
    }
}
