//! A language model of your own, of no family in this library, goes all the way: it generates, is
//! calibrated, compressed in every way, trained, and measured.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use welore_burn::calibrate::{
    Calibration, CalibrationError, CalibrationOptions, OwnTextOptions, calibrate, own_text,
};
use welore_burn::checkpoint::{Checkpoint, as_stored, load_module, save_module};
use welore_burn::compress::{BlockwiseOptions, CompressReport, Compressor, RefineOptions};
use welore_burn::data::TokenRows;
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::forms::{Form, Storage};
use welore_burn::linalg::Shrinkage;
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::model::{
    GenerateOptions, LanguageModel, ModelMatrix, Sampler, TokenCache, generate, projections,
};
use welore_burn::modules::initialize;
use welore_burn::named::Named;
use welore_burn::plan::{Energy, Loss, MatrixPlan, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::spectrum::{
    MeasureOptions, Method, ModelSize, Norms, measure_checkpoint, measure_module,
};
use welore_burn::train::{
    ExecutionOptions, RunPlace, Score, TrainOptions, Trainable, Training, TrainingEvent,
};

use crate::{compress_into, device, trainable};

const WIDTH: usize = 24;
const VOCAB: usize = 50;
const CONTEXT: usize = 32;

/// Learned positions, running means in place of attention, LayerNorm and GELU.
#[derive(Module, Debug)]
struct Averager {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<AveragerBlock>,
    norm: LayerNorm,
    head: LowRankLinear,
}

#[derive(Module, Debug)]
struct AveragerBlock {
    norm: LayerNorm,
    mix: LowRankLinear,
    widen: LowRankLinear,
    narrow: LowRankLinear,
}

impl Averager {
    fn new(device: &Device) -> Self {
        let linear =
            |from, to| LowRankLinearConfig::new(from, to).with_bias(from != VOCAB).init(device);
        let norm = || LayerNormConfig::new(WIDTH).init(device);
        let block = |_| AveragerBlock {
            norm: norm(),
            mix: linear(WIDTH, WIDTH),
            widen: linear(WIDTH, 3 * WIDTH),
            narrow: linear(3 * WIDTH, WIDTH),
        };
        Self {
            tokens: EmbeddingConfig::new(VOCAB, WIDTH).init(device),
            positions: EmbeddingConfig::new(CONTEXT, WIDTH).init(device),
            blocks: (0..2).map(block).collect(),
            norm: norm(),
            head: linear(WIDTH, VOCAB),
        }
    }

    /// With random weights from a fixed seed.
    fn seeded(device: &Device) -> Self {
        let model = Self::new(device);
        initialize(&model, 3);
        model
    }
}

impl LanguageModel for Averager {
    /// Row `i` takes the mean of the first `i + 1` positions.
    type Pass = Tensor<2>;
    type Cache = TokenCache;

    fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Self::Pass) {
        let [_, count] = tokens.dims();
        let device = tokens.device();
        let mean =
            |k: usize| if k % count <= k / count { 1.0 / (k / count + 1) as f32 } else { 0.0 };
        let means: Vec<f32> = (0..count * count).map(mean).collect();
        let means = Tensor::from_data(TensorData::new(means, [count, count]), &device);
        let places = Tensor::<1, Int>::arange(0..count as i64, &device).unsqueeze();
        (self.tokens.forward(tokens) + self.positions.forward(places), means)
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, index: usize, x: Tensor<3>, means: &Self::Pass) -> Tensor<3> {
        let AveragerBlock { norm, mix, widen, narrow } = &self.blocks[index];
        let seen = means.clone().unsqueeze().matmul(norm.forward(x.clone()));
        let x = x + mix.forward(seen);
        x.clone() + narrow.forward(gelu(widen.forward(x)))
    }

    fn end(&self, x: Tensor<3>) -> Tensor<3> {
        self.norm.forward(x)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.head.forward(hidden)
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context(&self) -> usize {
        CONTEXT
    }

    fn matrices(&self) -> Vec<ModelMatrix> {
        let parts = [("mix", true), ("widen", false), ("narrow", true)];
        (0..self.blocks.len())
            .flat_map(|block| {
                parts.map(|(part, writes_residual)| ModelMatrix {
                    name: format!("blocks.{block}.{part}").into(),
                    block,
                    writes_residual,
                })
            })
            .collect()
    }

    fn cache(&self) -> TokenCache {
        TokenCache::new()
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut TokenCache) -> Tensor<3> {
        cache.extend(self, tokens)
    }
}

/// Something to predict: a walk with a drift.
fn text(len: usize) -> Vec<u32> {
    let mut state = 7u64;
    let mut token = 0;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            token = (token + 3 + (state >> 61) as u32) % VOCAB as u32;
            token
        })
        .collect()
}

fn measured(model: &Averager) -> f64 {
    let options = PerplexityOptions { seq_len: 16, ..PerplexityOptions::default() };
    perplexity(model, &text(160), &options, &mut ()).unwrap().perplexity
}

fn calibrated(model: &Averager, path: &std::path::Path) -> Calibration {
    let options = CalibrationOptions {
        seq_len: 16,
        windows: None,
        gradient_windows: 8,
        ..CalibrationOptions::default()
    };
    calibrate(model, None, &text(400).into(), &options, path, &mut ()).unwrap();
    Calibration::open(path).unwrap()
}

fn planned(model: &Averager, norms: &Norms<'_>) -> RankPlan {
    let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
    let spectra = measure_module(model, &projections(model), &measuring, &mut ()).unwrap();
    assert_eq!(spectra.matrices.len(), 6);
    let options =
        PlanOptions { storage: Storage::Pivot, ..PlanOptions::to(Target::KeepParams(0.6)) };
    make_plan(&spectra, &Loss, &options).unwrap()
}

#[test]
fn it_generates_what_whole_passes_give() {
    let model = Averager::seeded(&device());
    let prompt = &text(9)[..];
    let options = GenerateOptions { max_new_tokens: 40, stop: Vec::new() };
    let go_on = |_| ControlFlow::Continue(());
    let generated = generate(&model, prompt, &mut Sampler::greedy(), &options, go_on).unwrap();
    // The last position of the context still has a row of logits.
    assert_eq!(generated.len(), CONTEXT - prompt.len() + 1);
    let mut tokens = prompt.to_vec();
    for token in &generated[..10] {
        let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let ids = TensorData::new(ids, [1, tokens.len()]);
        let hidden = model.hidden(Tensor::from_data(ids, &device()));
        let last = model.logits(hidden).narrow(1, tokens.len() - 1, 1);
        let best = last.argmax(2).into_scalar::<i64>();
        assert_eq!(i64::from(*token), best);
        tokens.push(*token);
    }
}

#[test]
fn it_is_calibrated_on_a_text_that_it_writes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("calibration");
    let model = Averager::seeded(&device().autodiff());
    let own = OwnTextOptions {
        samples: 9,
        length: CONTEXT,
        start: Some(3),
        at_once: NonZeroUsize::new(4).unwrap(),
        ..OwnTextOptions::default()
    };
    let samples = own_text(&model, &own, &mut ()).unwrap().samples;
    assert!(samples.iter().all(|sample| sample.len() == CONTEXT && sample[0] == 3));
    let options = CalibrationOptions { seq_len: 16, windows: None, ..Default::default() };
    calibrate(&model, None, &samples.concat().into(), &options, &path, &mut ()).unwrap();
    assert_eq!(Calibration::open(&path).unwrap().windows().unwrap().len(), 18);
}

#[test]
fn it_is_compressed_in_every_way_in_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, tracked) = (device(), device().autodiff());
    let dense = measured(&Averager::seeded(&plain));
    let calibration = calibrated(&Averager::seeded(&tracked), &scratch.path().join("calibration"));
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let plan = planned(&Averager::seeded(&plain), &norms);
    let compressor = Compressor::new(&plan).with_norms(norms);
    let check = |model: &Averager, report: &CompressReport| {
        assert_eq!(report.compressed.len(), plan.totals.lrcs);
        assert_eq!(model.num_params() as u64, plan.totals.parameters_after);
        let perplexity = measured(model);
        assert!(perplexity.is_finite() && (perplexity / dense - 1.0).abs() < 0.5, "{perplexity}");
    };
    let (alone, report) = compressor.module(Averager::seeded(&plain), &mut ()).unwrap();
    check(&alone, &report);
    let trains = trainable(&alone.train());
    assert_eq!(trains.len(), 2 * plan.totals.lrcs, "both factors of each low-rank component");
    for refine in [None, Some(RefineOptions { epochs: 1, ..RefineOptions::default() })] {
        let blockwise = BlockwiseOptions { refine, ..BlockwiseOptions::new(&calibration) };
        let compressor = compressor.clone().with_blockwise(blockwise);
        let (model, report) = compressor.model(Averager::seeded(&tracked), &mut ()).unwrap();
        check(&model.valid(), &report);
        assert_eq!(trainable(&model), trains, "refined: {}", refine.is_some());
    }
}

#[test]
fn it_is_compressed_from_files_to_files_and_loaded_again() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("dense");
    std::fs::create_dir(&dir).unwrap();
    let model = Averager::seeded(&device());
    save_module(&model, &dir, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let options = MeasureOptions::default();
    let spectra = measure_checkpoint(&checkpoint, &projections(&model), &options, &mut ()).unwrap();
    let goal = PlanOptions::to(Target::KeepParams(0.5));
    let plan = make_plan(&spectra, &Energy, &goal).unwrap();
    let compressed = scratch.path().join("compressed");
    compress_into(&compressed, &checkpoint, &Compressor::new(&plan));

    let stored = Checkpoint::open(&compressed).unwrap();
    let loaded = as_stored(Averager::new(&device()), &stored).unwrap();
    let loaded = load_module(loaded, &stored, |_| FloatDType::F32, &mut ()).unwrap();
    assert_eq!(loaded.num_params() as u64, plan.totals.parameters_after);
    let (in_memory, _) = Compressor::new(&plan).module(model, &mut ()).unwrap();
    assert!((measured(&loaded) / measured(&in_memory) - 1.0).abs() < 1e-5);
}

#[test]
fn it_is_trained_in_every_way() {
    let plan = by_hand();
    for &trainable in Trainable::all() {
        let scratch = tempfile::tempdir().unwrap();
        let model = Averager::seeded(&device().autodiff());
        let (model, _) = Compressor::new(&plan).module(model, &mut ()).unwrap();
        let mut options = TrainOptions {
            trainable,
            seq_len: 16,
            batch_size: 4,
            steps: 4,
            warmup: 1,
            lr: 1e-2,
            eval_every: 2,
            recompute: trainable == Trainable::Full,
            ..TrainOptions::default()
        };
        (options.lora.rank, options.galore.rank) = (4, 4);
        let place = RunPlace { dir: scratch.path(), origin: "averager", resume: false };
        let mut training = Training::open(model, options, place).unwrap();
        let execution =
            ExecutionOptions { workers: NonZeroUsize::new(2).unwrap(), ..Default::default() };
        let evaluate = |model: &Averager| Ok(Score::Perplexity(measured(model)).into());
        let mut losses = Vec::new();
        let observe = |event| {
            if let TrainingEvent::Step(step) = event {
                losses.push(step.loss);
            }
            Ok(())
        };
        let rows = TokenRows::windows(text(200), 16);
        training.run(&rows, execution, evaluate, observe).unwrap();
        assert!(losses[3] < losses[0], "{trainable:?}: {losses:?}");
        let best = training.position().best.unwrap().value();
        let result = measured(&training.result().unwrap());
        assert!((result / best - 1.0).abs() < 1e-4, "{trainable:?}: {result} for {best}");
    }
}

/// A plan made by hand: everything but the mixing is factored.
fn by_hand() -> RankPlan {
    let size = ModelSize { parameters: 1 << 20, bytes: 4 << 20 };
    let matrix = |name: String, shape, form| MatrixPlan::new(name, shape, form, Dtype::F32);
    let matrices = (0..2).flat_map(|block| {
        [
            matrix(format!("blocks.{block}.mix"), [WIDTH, WIDTH], Form::dense()),
            matrix(format!("blocks.{block}.widen"), [3 * WIDTH, WIDTH], Form::factors(10)),
            matrix(format!("blocks.{block}.narrow"), [WIDTH, 3 * WIDTH], Form::pivot(12)),
        ]
    });
    RankPlan::new("by hand", size, matrices.collect()).unwrap()
}

#[test]
fn a_matrix_that_it_does_not_have_is_told() {
    /// Claims to have a matrix that it lacks.
    #[derive(Module, Debug)]
    struct Liar {
        model: Averager,
    }
    impl LanguageModel for Liar {
        type Pass = Tensor<2>;
        type Cache = TokenCache;
        fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Self::Pass) {
            self.model.begin(tokens)
        }
        fn blocks(&self) -> usize {
            self.model.blocks()
        }
        fn block(&self, index: usize, x: Tensor<3>, pass: &Self::Pass) -> Tensor<3> {
            self.model.block(index, x, pass)
        }
        fn end(&self, x: Tensor<3>) -> Tensor<3> {
            self.model.end(x)
        }
        fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
            self.model.logits(hidden)
        }
        fn vocab_size(&self) -> usize {
            VOCAB
        }
        fn context(&self) -> usize {
            CONTEXT
        }
        fn matrices(&self) -> Vec<ModelMatrix> {
            let matrix =
                |name: &str| ModelMatrix { name: name.into(), block: 0, writes_residual: false };
            vec![matrix("model.blocks.0.mix"), matrix("model.blocks.0.gate")]
        }
        fn cache(&self) -> TokenCache {
            TokenCache::new()
        }
        fn extend(&self, tokens: Tensor<2, Int>, cache: &mut TokenCache) -> Tensor<3> {
            cache.extend(self, tokens)
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let model = Liar { model: Averager::seeded(&device().autodiff()) };
    let options = CalibrationOptions { seq_len: 16, ..CalibrationOptions::default() };
    let path = scratch.path().join("calibration");
    let error = calibrate(&model, None, &text(2000).into(), &options, &path, &mut ()).unwrap_err();
    assert!(
        matches!(&error, CalibrationError::NotUsed(name) if *name == "model.blocks.0.gate"),
        "{error}"
    );
}
