use std::num::NonZeroUsize;

use crate::calibrate::Calibration;
use crate::checkpoint::DEFAULT_SHARD_BYTES;
use crate::plan::RankPlan;
use crate::spectrum::Norms;
use crate::workers::Budget;

/// Carries out a plan.
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
}

impl<'a> Compressor<'a> {
    /// Carries out a plan in the norm of the weights, each matrix by itself, with all cores.
    pub fn new(plan: &'a RankPlan) -> Self {
        let (norms, write, blockwise) = (Norms::plain(), WriteOptions::default(), None);
        Self { plan, norms, write, blockwise }
    }

    /// In these norms.
    pub fn with_norms(mut self, norms: Norms<'a>) -> Self {
        self.norms = norms;
        self
    }

    /// With so many matrices in flight at once, in so much memory.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.write.budget = budget;
        self
    }

    /// With files of weights that are closed at about so many bytes.
    pub fn with_shard_bytes(mut self, bytes: u64) -> Self {
        self.write.shard_bytes = bytes;
        self
    }

    /// Block after block of a language model.
    pub fn with_blockwise(mut self, options: BlockwiseOptions<'a>) -> Self {
        self.blockwise = Some(options);
        self
    }
}

/// How a model directory is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// How many matrices are in flight at once, in how much memory.
    pub budget: Budget,
    /// A file of weights is closed at about so many bytes.
    pub shard_bytes: u64,
}

impl Default for WriteOptions {
    /// As many matrices in flight as there are cores, and files as large as on the Hub.
    fn default() -> Self {
        Self { budget: Budget::default(), shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

/// How a language model is compressed block after block, on the text of a calibration.
#[derive(Debug, Clone, Copy)]
pub struct BlockwiseOptions<'a> {
    /// The calibration whose text the model reads.
    pub calibration: &'a Calibration,
    /// How far a compressed matrix follows what the dense model computes: its target is what the
    /// dense matrix answers, this share of it to the inputs of the dense model, the rest to those
    /// that the compressed model has. In [0, 1]; at 0 nothing has to be measured for it.
    pub follow: f64,
    /// Most windows of text to fit to; `None` is all that the calibration has.
    pub windows: Option<usize>,
    /// Whether and how each block is refined.
    pub refine: Option<RefineOptions>,
    /// Windows computed at once, each by a thread of its own.
    pub at_once: NonZeroUsize,
}

impl<'a> BlockwiseOptions<'a> {
    /// Sequential targets half way between the dense and the compressed model, on all of the text,
    /// without refinement, one window at a time.
    pub fn new(calibration: &'a Calibration) -> Self {
        let at_once = NonZeroUsize::MIN;
        Self { calibration, follow: 0.5, windows: None, refine: None, at_once }
    }
}

/// How a compressed block is trained to answer as the dense one does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineOptions {
    /// How often the text is read.
    pub epochs: usize,
    /// Largest learning rate of AdamW; it falls along a half cosine to a tenth.
    pub lr: f64,
    /// Windows of text in a step.
    pub batch: usize,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self { epochs: 1, lr: 3e-5, batch: 2 }
    }
}
