//! `burn::train` on a model with low-rank layers: a classifier is trained, its layers are factored,
//! and a second training tunes only the factors.
//!
//! ```sh
//! cargo run --release -p welore-burn --features learner --example learner
//! ```

use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::AdamWConfig;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use welore_burn::compress::compress_module;
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::Selection;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::spectrum::{MeasureOptions, measure_module};

const INPUTS: usize = 16;
const CLASSES: usize = 4;

#[derive(Module, Debug)]
struct Classifier {
    first: LowRankLinear,
    second: LowRankLinear,
    head: LowRankLinear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        let linear = |d_input, d_output| LowRankLinearConfig::new(d_input, d_output).init(device);
        Self { first: linear(INPUTS, 64), second: linear(64, 64), head: linear(64, CLASSES) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = relu(self.first.forward(x));
        self.head.forward(relu(self.second.forward(x)))
    }

    fn classify(&self, batch: Points) -> ClassificationOutput {
        let output = self.forward(batch.x);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.y.clone());
        ClassificationOutput::new(loss, output, batch.y)
    }
}

impl TrainStep for Classifier {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> TrainOutput<ClassificationOutput> {
        let item = self.classify(batch);
        TrainOutput::new(self, item.loss.backward(), item)
    }
}

impl InferenceStep for Classifier {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// A batch of points with their classes.
#[derive(Debug, Clone)]
struct Points {
    x: Tensor<2>,
    y: Tensor<1, Int>,
}

/// A point and its class.
type Point = ([f32; INPUTS], i32);

struct PointBatcher;

impl Batcher<Point, Points> for PointBatcher {
    fn batch(&self, points: Vec<Point>, device: &Device) -> Points {
        let x = points.iter().map(|(x, _)| Tensor::<1>::from_floats(*x, device)).collect();
        let y: Vec<i32> = points.iter().map(|(_, y)| *y).collect();
        Points { x: Tensor::stack(x, 0), y: Tensor::from_ints(y.as_slice(), device) }
    }
}

/// Points of four classes: the class is which of four random directions fits a point best.
fn points(count: usize, directions: &Tensor<2>) -> Arc<dyn DataLoader<Points>> {
    let normal = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<2>::random([count, INPUTS], normal, &directions.device());
    let y = x.clone().matmul(directions.clone()).argmax(1).into_data();
    let x: Vec<f32> = x.into_data().iter::<f32>().collect();
    let (x, _) = x.as_chunks::<INPUTS>();
    let points = x.iter().copied().zip(y.iter::<i32>()).collect();
    DataLoaderBuilder::new(PointBatcher)
        .batch_size(50)
        .set_device(directions.device())
        .build(InMemDataset::new(points))
}

fn train(model: Classifier, learn: &Loader, test: &Loader) -> Classifier {
    let logs = tempfile::tempdir().expect("a temporary directory");
    let learner = Learner::new(model, AdamWConfig::new().init(), ConstantLr::new(3e-3));
    SupervisedTraining::new(logs.path(), learn.clone(), test.clone())
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .num_epochs(8)
        .launch(learner)
        .model
}

type Loader = Arc<dyn DataLoader<Points>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    let normal = Distribution::Normal(0.0, 1.0);
    let directions = Tensor::random([INPUTS, CLASSES], normal, &device);
    let (learn, test) = (points(1000, &directions), points(500, &directions));
    let Some(Ok(all)) = points(500, &directions).iter().next() else { return Ok(()) };
    let show = |name: &str, model: &Classifier| {
        let guess = model.forward(all.x.clone()).argmax(1).flatten::<1>(0, 1);
        let hits = guess.equal(all.y.clone()).int().sum().into_scalar::<i64>();
        let accuracy = hits as f64 / all.y.dims()[0] as f64;
        println!("{name:<9} {:>5} parameters, accuracy {accuracy:.2}", model.num_params());
    };

    let model = train(Classifier::new(&device.clone().autodiff()), &learn, &test);
    show("dense", &model);
    let selection = Selection::of(["first", "second"])?;
    let spectra = measure_module(&model, &selection, &MeasureOptions::default(), &mut ())?;
    let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.75))?;
    let (model, _) = compress_module(model, &plan, &mut ())?;
    show("factored", &model);
    let model = train(model.train(), &learn, &test);
    show("tuned", &model);
    assert!(model.second.rank().is_some(), "training keeps the factors");
    Ok(())
}
