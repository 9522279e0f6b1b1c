//! Every family through all that can be done with a model: it is calibrated, compressed, exported,
//! measured, narrowed, trained, stopped and resumed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::calibrate::{Calibration, CalibrationOptions, Collector, calibrate};
use welore_burn::channels::{
    ChannelGoal, ChannelPlan, ChannelsError, CurveOptions, Widths, measure_channels, mlps,
    write_channels,
};
use welore_burn::checkpoint::{Checkpoint, save_module};
use welore_burn::compress::{BlockwiseOptions, Compressor, WriteOptions, merge_directory};
use welore_burn::data::{TokenRow, TokenRows};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::files::OutputDir;
use welore_burn::linalg::Shrinkage;
use welore_burn::model::{
    Decoder, LanguageModel, TokenScales, device_of, load_model, open_model, open_weights,
    projections,
};
use welore_burn::plan::{Loss, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};
use welore_burn::train::{
    Batch, MemoryOptions, ScheduleKind, StepReport, TrainOptions, Trainable, Training,
    TrainingEvent, loss_and_gradients,
};

use crate::calibrate::gap;
use crate::train::{
    assert_same_parameters, assert_same_steps, by_definition, chosen, difference, norm, one_worker,
    parameters, place, start,
};
use crate::{compress_into, decoder, device, fixture};

/// Longer than the sliding windows of the fixtures.
const SEQ_LEN: usize = 24;
const WINDOWS: usize = 4;

/// Makes a test for each fixture.
macro_rules! families {
    ($($test:ident $fixture:literal)*) => {
        const FIXTURES: &[&str] = &[$($fixture),*];

        $(
            #[test]
            fn $test() {
                lives($fixture);
            }
        )*
    };
}

families! {
    qwen2 "tiny-qwen2"
    mistral "tiny-mistral"
    qwen3 "tiny-qwen3"
    smollm3 "tiny-smollm3"
    granite "tiny-granite"
    olmo2 "tiny-olmo2"
    olmo3 "tiny-olmo3"
    gemma "tiny-gemma"
    gemma2 "tiny-gemma2"
    gemma3 "tiny-gemma3"
    phi3 "tiny-phi3"
    stablelm "tiny-stablelm"
    stablelm_parallel "tiny-stablelm-parallel"
    starcoder2 "tiny-starcoder2"
    olmo "tiny-olmo"
    cohere "tiny-cohere"
    glm "tiny-glm"
    glm4 "tiny-glm4"
    helium "tiny-helium"
    seed_oss "tiny-seed-oss"
    arcee "tiny-arcee"
    ernie "tiny-ernie"
    ministral "tiny-ministral"
    neox "tiny-neox"
    cohere2 "tiny-cohere2"
    exaone4 "tiny-exaone4"
    gpt2 "tiny-gpt2"
    falcon "tiny-falcon"
    cohere_plus "tiny-cohere-plus"
    stablelm_heads "tiny-stablelm-heads"
    falcon_two_norms "tiny-falcon-two-norms"
    opt "tiny-opt"
    mixtral "tiny-mixtral"
    qwen2_moe "tiny-qwen2-moe"
    qwen3_moe "tiny-qwen3-moe"
    olmoe "tiny-olmoe"
    gpt_oss "tiny-gpt-oss"
    deepseek_v2 "tiny-deepseek-v2"
    deepseek_v3 "tiny-deepseek-v3"
}

/// Those of LLaMA, which are stored in 16 bits, are in the other tests.
#[test]
fn no_family_is_left_out() {
    assert_eq!(FIXTURES, &decoder::FAMILIES[2..]);
}

fn lives(name: &'static str) {
    let case = Case::new(name);
    case.check_calibration();
    let plan = case.plan();
    let low = case.compressed(&plan);
    case.check_directories(&low, &plan);
    case.check_sequential(&plan);
    case.check_channels();
    case.check_gradients(&low);
    case.check_runs(&low);
    case.check_half_precision();
}

/// The fixture of a family with its calibration.
struct Case {
    name: &'static str,
    checkpoint: Checkpoint,
    calibration: Calibration,
    scratch: TempDir,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let scratch = tempdir().unwrap();
        let calibration = calibrated(&fixture(name), &scratch.path().join("calibration"));
        Self { name, checkpoint: open_weights(fixture(name)).unwrap(), calibration, scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn norms(&self) -> Norms<'_> {
        Norms::new(&self.calibration, Method::TwoSided, Shrinkage::default()).unwrap()
    }

    /// A calibration goes through one block at a time; a collector sees whole passes.
    fn check_calibration(&self) {
        let device = device().autodiff();
        let model = load(&fixture(self.name), &device).no_grad();
        let mut collector = Collector::new(&model, &projections(&model)).unwrap();
        for window in text(WINDOWS * SEQ_LEN).chunks(SEQ_LEN) {
            let (tokens, count) = (as_tensor(window, &device), SEQ_LEN - 1);
            let (loss, seen) = collector.observe(|| {
                let logits = model.forward(tokens.clone()).narrow(1, 0, count).squeeze_dim::<2>(0);
                let targets = tokens.clone().narrow(1, 1, count).reshape([count, 1]);
                log_softmax(logits, 1).gather(1, targets).sum().neg()
            });
            collector.collect(seen, Some(&mut loss.backward()));
        }
        let whole = collector.finish().unwrap();
        for matrix in model.matrices() {
            let name = matrix.name;
            // Those of experts that see few tokens are filled up with others.
            if name.as_str().contains(".experts.") {
                continue;
            }
            let of_inputs =
                gap(&self.calibration.inputs(&name).unwrap(), &whole.inputs(&name).unwrap());
            assert!(of_inputs < 1e-4, "inputs of {name} in {}: {of_inputs}", self.name);
            let of_outputs =
                gap(&self.calibration.outputs(&name).unwrap(), &whole.outputs(&name).unwrap());
            assert!(of_outputs < 2e-3, "gradients of {name} in {}: {of_outputs}", self.name);
        }
    }

    /// 60 % of the parameters, in the norm of the loss.
    fn plan(&self) -> RankPlan {
        let opened = open_model(fixture(self.name), &device()).unwrap();
        let measuring = MeasureOptions { norms: self.norms(), ..MeasureOptions::default() };
        let selection = projections(opened.skeleton());
        let spectra = measure_checkpoint(&self.checkpoint, &selection, &measuring, &mut ());
        let plan = make_plan(&spectra.unwrap(), &Loss, &PlanOptions::to(Target::KeepParams(0.6)));
        plan.unwrap()
    }

    fn compressed(&self, plan: &RankPlan) -> PathBuf {
        let dir = self.path("low");
        let compressor = Compressor::new(plan).with_norms(self.norms());
        let report = compress_into(&dir, &self.checkpoint, &compressor);
        assert_eq!(report.compressed.len(), plan.totals.lrcs, "{}", self.name);
        dir
    }

    /// What is exported is a plain model that computes what the compressed one does.
    fn check_directories(&self, low: &Path, plan: &RankPlan) {
        let name = self.name;
        let dense = self.path("dense");
        let output = OutputDir::create(&dense, false).unwrap();
        let files = Checkpoint::open(low).unwrap();
        merge_directory(&files, &output, &WriteOptions::default(), &mut ()).unwrap();
        output.commit().unwrap();
        let exported = Checkpoint::open(&dense).unwrap();
        let names = |files: &Checkpoint| -> BTreeSet<String> {
            files.names().map(str::to_string).collect()
        };
        assert_eq!(names(&exported), names(&crate::checkpoint(name)), "{name}");

        let [low, dense] = [low, dense.as_path()].map(|dir| load(dir, &device()));
        assert_eq!(low.num_params() as u64, plan.totals.parameters_after, "{name}");
        let [found, expected] = [&low, &dense].map(logits);
        let difference = relative(&found, &expected);
        assert!(difference < 1e-4, "{name}: {difference}");
        for model in [&low, &dense, &load(&fixture(name), &device())] {
            let (measured, exact) = (measured(model), exact_nats(model).exp());
            assert!((measured / exact - 1.0).abs() < 1e-4, "{name}: {measured} for {exact}");
        }
        assert!((measured(&low) / measured(&dense) - 1.0).abs() < 1e-4, "{name}");
        self.check_cache(&low);
    }

    /// With the cache a model computes what it does without, also beyond its sliding window.
    fn check_cache(&self, model: &Decoder) {
        let tokens = as_tensor(&text(SEQ_LEN), &device());
        let whole = model.forward(tokens.clone());
        let (mut cache, mut seen) = (model.cache(), 0);
        for count in [10, 1, 1, 6, 1, 5] {
            let hidden = model.extend(tokens.clone().narrow(1, seen, count), &mut cache);
            let gap = model.logits(hidden) - whole.clone().narrow(1, seen, count);
            let gap = gap.abs().max().into_scalar::<f64>();
            assert!(gap < 1e-3, "{}: {gap} at {seen}", self.name);
            seen += count;
        }
        assert_eq!(seen, SEQ_LEN);
    }

    fn check_sequential(&self, plan: &RankPlan) {
        let model = load(&fixture(self.name), &device().autodiff());
        let blockwise = BlockwiseOptions::new(&self.calibration);
        let compressor = Compressor::new(plan).with_norms(self.norms()).with_blockwise(blockwise);
        let (model, report) = compressor.model(model, &mut ()).unwrap();
        assert_eq!(report.compressed.len(), plan.totals.lrcs, "{}", self.name);
        assert_eq!(model.num_params() as u64, plan.totals.parameters_after, "{}", self.name);
        assert!(measured(&model.valid()).is_finite(), "{}", self.name);
    }

    /// MLPs lose channels where a gate is a matrix of its own. Others are refused.
    fn check_channels(&self) {
        let opened = open_model(fixture(self.name), &device()).unwrap();
        let has_gate = opened.skeleton().model.layers[0].mlp.gate_proj.is_some();
        let mlps = match mlps(&opened) {
            Ok(mlps) => mlps,
            Err(error) => {
                let is_told = match error {
                    ChannelsError::NoMlp { .. } => !has_gate,
                    ChannelsError::Experts { .. } => opened.config.mixture.is_some(),
                    _ => false,
                };
                assert!(is_told, "{}: {error}", self.name);
                return;
            }
        };
        assert!(has_gate, "{}", self.name);
        let (options, dense) = (CurveOptions::default(), &opened.checkpoint);
        let curves = measure_channels(dense, &self.calibration, &mlps, &options, &mut ()).unwrap();
        let goal = ChannelGoal {
            target: Target::KeepParams(0.9),
            selection: projections(opened.skeleton()),
            multiple: 1,
            widths: Widths::One,
        };
        let digest = self.calibration.digest();
        let shrink = options.shrink_inputs;
        let plan = ChannelPlan::new("here", digest, dense, &curves, shrink, &goal).unwrap();
        let dir = self.path("narrow");
        let output = OutputDir::create(&dir, false).unwrap();
        let writing = WriteOptions::default();
        write_channels(&opened, &plan, &self.calibration, &output, &writing, &mut ()).unwrap();
        output.commit().unwrap();
        let narrow = load(&dir, &device());
        assert_eq!(narrow.num_params() as u64, plan.parameters_after, "{}", self.name);
        assert!(plan.parameters_after < dense.parameters(), "{}", self.name);
        assert!(measured(&narrow).is_finite(), "{}", self.name);
    }

    /// The loss in pieces and recomputed blocks give the gradients of one pass.
    fn check_gradients(&self, low: &Path) {
        let device = device().autodiff();
        let model = chosen(load(low, &device), Trainable::Full);
        let tokens = text(41);
        let rows = [
            TokenRow { tokens: &tokens[..24], given: 1, skipped: &[] },
            TokenRow { tokens: &tokens[24..], given: 9, skipped: &[] },
        ];
        let (expected, reference) = by_definition(&model, &rows, 0.03);
        let batch = Batch::new(&rows, &device);
        for recompute in [false, true] {
            // Ten tokens at a time.
            let memory = MemoryOptions { recompute, logits_at_once: 640 };
            let (loss, gradients) = loss_and_gradients(&model, &batch, 0.03, memory);
            let loss = loss.into_scalar::<f64>();
            assert!((loss - expected).abs() < 1e-4, "{}: {loss} for {expected}", self.name);
            assert_eq!(gradients.len(), reference.len(), "{}", self.name);
            let gap = difference(&model, &gradients, &reference) / norm(&model, &reference);
            assert!(gap < 1e-4, "{}, recomputed: {recompute}: {gap}", self.name);
        }
    }

    /// Training lowers the loss and moves factors alone, and a run that was stopped goes on as if it
    /// had not been.
    fn check_runs(&self, low: &Path) {
        let model = || load(low, &device().autodiff());
        let [whole, stopped] = ["whole", "stopped"].map(|dir| {
            let dir = self.path(dir);
            fs::create_dir(&dir).unwrap();
            dir
        });
        let mut training = start(model(), options(), &whole);
        let before = parameters(training.model());
        let reports = run(&mut training, usize::MAX);
        // A step's loss is the one before it.
        assert!(reports[2].loss < reports[0].loss, "{}: {reports:?}", self.name);
        let paths: BTreeSet<&str> = before.iter().map(|(path, _)| path.as_str()).collect();
        for ((path, old), (_, new)) in before.iter().zip(&parameters(training.model())) {
            let is_factor = path.ends_with("low_rank.up")
                || paths.contains(format!("{path}.low_rank.up").as_str());
            assert_eq!(old != new, is_factor, "{}: {path}", self.name);
        }

        run(&mut start(model(), options(), &stopped), 2);
        let mut resumed = Training::open(model(), options(), place(&stopped, true)).unwrap();
        let rest = run(&mut resumed, usize::MAX);
        assert_same_steps(&reports[2..], &rest);
        assert_same_parameters(training.model(), resumed.model());
    }

    fn check_half_precision(&self) {
        let dense = logits(&load(&fixture(self.name), &device()));
        for (dtype, unit) in [(FloatDType::BF16, 2f64.powi(-8)), (FloatDType::F16, 2f64.powi(-11))]
        {
            if !device().supports_dtype(dtype) {
                continue;
            }
            let half = load_model(fixture(self.name), &device(), dtype, &mut ()).unwrap().model;
            let difference = relative(&logits(&half), &dense);
            // A model rounds about twenty times in a row, and latent attention twice as often.
            let roundings =
                if half.model.layers[0].self_attn.kv_b_proj.is_some() { 50.0 } else { 25.0 };
            assert!(difference < roundings * unit, "{} in {dtype:?}: {difference}", self.name);
        }
    }
}

fn load(dir: &Path, device: &Device) -> Decoder {
    load_model(dir, device, FloatDType::F32, &mut ()).unwrap().model
}

/// Tokens below 64, the same ones each time.
fn text(len: usize) -> Vec<u32> {
    let mut state = 11u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 58) as u32
    };
    (0..len).map(next).collect()
}

fn as_tensor(tokens: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), device)
}

fn calibrated(dir: &Path, path: &Path) -> Calibration {
    let options = CalibrationOptions {
        seq_len: SEQ_LEN,
        windows: None,
        gradient_windows: WINDOWS,
        allow_deficient: true,
        ..CalibrationOptions::default()
    };
    let (checkpoint, model) = (open_weights(dir).unwrap(), load(dir, &device().autodiff()));
    let text = text(WINDOWS * SEQ_LEN).into();
    calibrate(&model, Some(&checkpoint), &text, &options, path, &mut ()).unwrap();
    Calibration::open(path).unwrap()
}

fn logits(model: &Decoder) -> Vec<f64> {
    let tokens = as_tensor(&text(SEQ_LEN), &device_of(model));
    model.forward(tokens).into_data().iter::<f64>().collect()
}

/// The norm of the difference, relative to that of `expected`.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let gap: f64 = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| x * x).sum();
    (gap / size).sqrt()
}

fn measured(model: &Decoder) -> f64 {
    let options = PerplexityOptions { seq_len: SEQ_LEN, ..PerplexityOptions::default() };
    perplexity(model, &text(WINDOWS * SEQ_LEN), &options, &mut ()).unwrap().perplexity
}

/// The mean negative log-likelihood by its definition, from all logits.
fn exact_nats(model: &Decoder) -> f64 {
    let mut nats = 0.0;
    for window in text(WINDOWS * SEQ_LEN).chunks(SEQ_LEN) {
        let logits = model.forward(as_tensor(window, &device_of(model)));
        let [_, _, vocab_size] = logits.dims();
        let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
        for (row, next) in logits.chunks(vocab_size).zip(&window[1..]) {
            nats += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*next as usize];
        }
    }
    nats / (WINDOWS * (SEQ_LEN - 1)) as f64
}

fn options() -> TrainOptions {
    TrainOptions {
        seq_len: SEQ_LEN,
        batch_size: 2,
        steps: 3,
        lr: 1e-3,
        schedule: ScheduleKind::Constant,
        warmup: 0,
        save_every: 2,
        ..TrainOptions::default()
    }
}

/// Takes up to `stop_after` steps, each on the same two rows.
fn run(training: &mut Training<Decoder>, stop_after: usize) -> Vec<StepReport> {
    let rows = TokenRows::windows(text(2 * SEQ_LEN), SEQ_LEN);
    let mut reports = Vec::new();
    let observe = |event| {
        if let TrainingEvent::Step(report) = event {
            reports.push(report);
        }
        if reports.len() == stop_after { Err(Interrupted) } else { Ok(()) }
    };
    let evaluate = |_: &Decoder| unreachable!("no evaluation");
    let outcome = training.run(&rows, one_worker(), evaluate, observe);
    assert_eq!(outcome.is_err(), reports.len() == stop_after);
    reports
}

/// A model whose ends are scaled is one with larger weights there, so errors of the smaller ones count
/// as much more.
#[test]
fn scales_of_embedding_and_logits_are_in_the_moments_of_both_ends() {
    let scratch = tempdir().unwrap();
    let folded = scratch.path().join("folded");
    fs::create_dir(&folded).unwrap();
    let mut model = load(&fixture("tiny-granite"), &device());
    let TokenScales { embedding, head } = model.token_scales();
    assert!(embedding != 1.0 && head != 1.0, "{embedding} and {head}");
    let table = model.model.embed_tokens.weight.clone();
    model.model.embed_tokens.weight = table.map(|weight| weight.mul_scalar(embedding));
    let own = model.lm_head.as_mut().unwrap();
    own.weight = own.weight.clone().map(|weight| weight.mul_scalar(head));
    save_module(&model, &folded, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
    let text = fs::read_to_string(fixture("tiny-granite/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["embedding_multiplier"] = json!(1.0);
    config["logits_scaling"] = json!(1.0);
    fs::write(folded.join("config.json"), config.to_string()).unwrap();

    let scaled = calibrated(&fixture("tiny-granite"), &scratch.path().join("scaled"));
    let plain = calibrated(&folded, &scratch.path().join("plain"));
    let ends = |calibration: &Calibration| {
        let [head, embedding] = [calibration.head_inputs(), calibration.embedding_outputs()];
        [head, embedding].map(|moment| moment.unwrap().unwrap().packed())
    };
    for ((scaled, plain), scale) in ends(&scaled).iter().zip(ends(&plain)).zip([head, embedding]) {
        let expected: Vec<f64> = plain.iter().map(|x| f64::from(*x) * scale * scale).collect();
        let found: Vec<f64> = scaled.iter().map(|x| f64::from(*x)).collect();
        let difference = relative(&found, &expected);
        assert!(difference < 1e-4, "{scale}: {difference}");
    }
}
