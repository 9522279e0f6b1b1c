use std::num::NonZeroUsize;

use super::kept::KeptMatrices;
use crate::calibrate::Calibration;
use crate::checkpoint::DEFAULT_SHARD_BYTES;
use crate::forms::{Rest, Rounding};
use crate::plan::RankPlan;
use crate::spectrum::Norms;
use crate::workers::Budget;

/// Carries out a plan.
///
/// # Examples
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
/// use welore_burn::compress::Compressor;
/// use welore_burn::linear::LowRankLinear;
/// use welore_burn::modules::Selection;
/// use welore_burn::plan::{PlanOptions, WeLore, make_plan};
/// use welore_burn::spectrum::{MeasureOptions, measure_module};
///
/// let layer = LowRankLinear::from(LinearConfig::new(16, 32).init(&Device::flex()));
/// let options = MeasureOptions::default();
/// let spectra = measure_module(&layer, &Selection::all(), &options, &mut ())?;
/// let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.7))?;
/// let (layer, report) = Compressor::new(&plan).module(layer, &mut ())?;
/// assert_eq!(layer.rank(), Some(report.compressed[0].rank));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compressor<'a> {
    pub(super) plan: &'a RankPlan,
    pub(super) norms: Norms<'a>,
    pub(super) write: WriteOptions,
    pub(super) blockwise: Option<BlockwiseOptions<'a>>,
    pub(super) rest: Rest,
    pub(super) rounding: Rounding,
    pub(super) kept: Option<&'a KeptMatrices>,
}

impl<'a> Compressor<'a> {
    /// Carries out a plan in the norm of the weights, each matrix independently, with all cores.
    pub fn new(plan: &'a RankPlan) -> Self {
        let (norms, write, blockwise) = (Norms::plain(), WriteOptions::default(), None);
        let (rest, rounding) = (Rest::Freeze, Rounding::default());
        Self { plan, norms, write, blockwise, rest, rounding, kept: None }
    }

    /// Rounds numbers in this way where they are stored in types of 16 bits.
    pub fn with_rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = rounding;
        self
    }

    /// Uses these norms.
    pub fn with_norms(mut self, norms: Norms<'a>) -> Self {
        self.norms = norms;
        self
    }

    /// Limits the matrices in flight and their memory.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.write.budget = budget;
        self
    }

    /// Closes each file of weights at about this many bytes.
    pub fn with_shard_bytes(mut self, bytes: u64) -> Self {
        self.write.shard_bytes = bytes;
        self
    }

    /// Decides about the parameters of a module that are not compressed: whether they train
    /// afterwards, are frozen, or are left as they are. By default they are frozen, which is how
    /// WeLore fine-tunes. Nothing changes in what is written to files.
    ///
    /// # Examples
    ///
    /// ```
    /// use burn::module::Module;
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::tensor::Device;
    /// use safetensors::Dtype;
    /// use welore_burn::compress::Compressor;
    /// use welore_burn::forms::{Form, Rest};
    /// use welore_burn::modules::initialize;
    /// use welore_burn::plan::{MatrixPlan, RankPlan};
    /// use welore_burn::spectrum::ModelSize;
    ///
    /// #[derive(Module, Debug)]
    /// struct Net {
    ///     hidden: Linear,
    ///     output: Linear,
    /// }
    ///
    /// let device = Device::flex().autodiff();
    /// let layer = || LinearConfig::new(16, 16).init(&device);
    /// let net = Net { hidden: layer(), output: layer().no_grad() };
    /// initialize(&net, 0);
    /// let matrix = MatrixPlan::new("hidden", [16, 16], Form::factors(4), Dtype::F32);
    /// let size = ModelSize { parameters: 544, bytes: 4 * 544 };
    /// let plan = RankPlan::new("by hand", size, vec![matrix])?;
    /// for (rest, trains) in [(Rest::Freeze, false), (Rest::Keep, false), (Rest::Train, true)] {
    ///     let (net, _) = Compressor::new(&plan).with_rest(rest).module(net.clone(), &mut ())?;
    ///     assert!(net.hidden.weight.is_require_grad());
    ///     assert_eq!(net.output.weight.is_require_grad(), trains);
    ///     let bias = net.hidden.bias.unwrap();
    ///     assert_eq!(bias.is_require_grad(), rest != Rest::Freeze);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_rest(mut self, rest: Rest) -> Self {
        self.rest = rest;
        self
    }

    /// Takes matrices over that another compressor made the same way, of the same weights, in the
    /// same form and norm, and keeps the others for later ones. For directories whose matrices are
    /// compressed independently; progress reports what was taken over as known.
    pub fn with_kept(mut self, kept: &'a KeptMatrices) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Compresses a language model block by block.
    pub fn with_blockwise(mut self, options: BlockwiseOptions<'a>) -> Self {
        self.blockwise = Some(options);
        self
    }
}

/// How a model directory is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// How many matrices may be in flight at once, and in how much memory.
    pub budget: Budget,
    /// A file of weights is closed at about this many bytes.
    pub shard_bytes: u64,
}

impl Default for WriteOptions {
    /// One matrix in flight per core, and files as large as on the Hub.
    fn default() -> Self {
        Self { budget: Budget::default(), shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

/// How a language model is compressed block by block, on the text of a calibration.
#[derive(Debug, Clone, Copy)]
pub struct BlockwiseOptions<'a> {
    /// The calibration whose text the model reads.
    pub calibration: &'a Calibration,
    /// How far a compressed matrix follows the dense model, in [0, 1]. Its target is the output of
    /// the dense matrix for `follow · x + (1 - follow) · y`, where `x` are its inputs in the dense
    /// model and `y` those in the compressed model, in which the matrices used before it are what they
    /// became, also those of its own block. At 0 no inputs are measured, and matrices are made for
    /// those of the dense model.
    pub follow: f64,
    /// Whether matrices that the plan keeps dense follow the dense model as well, if a compressed one is
    /// used before them: with other entries, in the same place, type and shape. Their inputs
    /// have changed as much as those of compressed matrices, and following costs no parameters. They
    /// train afterwards only if they would have otherwise. Matrices that are not in the plan, and those of
    /// experts, stay as they are, and so do all at a `follow` of 0.
    pub adapt_dense: bool,
    /// Maximum number of windows of text to use; `None` for all windows of the calibration.
    pub windows: Option<usize>,
    /// Whether and how each block is refined.
    pub refine: Option<RefineOptions>,
    /// Number of windows computed at once, each by its own worker.
    pub at_once: NonZeroUsize,
}

impl<'a> BlockwiseOptions<'a> {
    /// Sequential, with the outputs of the dense model as targets, also for dense matrices, on all of the
    /// text, without refinement, one window at a time.
    pub fn new(calibration: &'a Calibration) -> Self {
        let at_once = NonZeroUsize::MIN;
        let (follow, adapt_dense) = (1.0, true);
        Self { calibration, follow, adapt_dense, windows: None, refine: None, at_once }
    }

    /// Whether matrices are made for the inputs that they have in the compressed model.
    pub(super) fn follows(&self) -> bool {
        self.follow > 0.0
    }
}

/// How a compressed block is trained to reproduce the outputs of the dense block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineOptions {
    /// Number of passes over the text.
    pub epochs: usize,
    /// Initial learning rate of AdamW; it falls along a half cosine to a tenth.
    pub lr: f64,
    /// Number of windows of text in a step.
    pub batch: usize,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self { epochs: 1, lr: 3e-5, batch: 2 }
    }
}
