//! Your own module, compressed and fine-tuned: train a small classifier, factor its layers, and
//! train only the factors.
//!
//! ```sh
//! cargo run --release -p welore-burn --example classifier
//! ```

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use welore_burn::compress::compress_module;
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::Selection;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::spectrum::{MeasureOptions, measure_module};

/// A classifier whose layers are `LowRankLinear` in place of `nn::Linear`.
#[derive(Module, Debug)]
struct Classifier {
    first: LowRankLinear,
    second: LowRankLinear,
    head: LowRankLinear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        let linear = |d_input, d_output| LowRankLinearConfig::new(d_input, d_output).init(device);
        Self { first: linear(32, 128), second: linear(128, 128), head: linear(128, 4) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = relu(self.first.forward(x));
        self.head.forward(relu(self.second.forward(x)))
    }
}

/// Points of four classes: the class is which of four random directions fits a point best.
struct Data {
    x: Tensor<2>,
    y: Tensor<1, Int>,
}

impl Data {
    fn new(points: usize, directions: &Tensor<2>) -> Self {
        let device = directions.device();
        let x = Tensor::random([points, 32], Distribution::Normal(0.0, 1.0), &device);
        let y = x.clone().matmul(directions.clone()).argmax(1).flatten(0, 1);
        Self { x, y }
    }

    fn accuracy(&self, model: &Classifier) -> f64 {
        let guess = model.forward(self.x.clone()).argmax(1).flatten::<1>(0, 1);
        let hits = guess.equal(self.y.clone()).int().sum().into_scalar::<i64>();
        hits as f64 / self.y.dims()[0] as f64
    }
}

fn train(mut model: Classifier, data: &Data, steps: usize) -> Classifier {
    let loss = CrossEntropyLossConfig::new().init(&data.x.device());
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..steps {
        let error = loss.forward(model.forward(data.x.clone()), data.y.clone());
        let grads = GradientsParams::from_grads(error.backward(), &model);
        model = optimizer.step(3e-3, model, grads);
    }
    model
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    let autodiff = device.clone().autodiff();
    let directions = Tensor::random([32, 4], Distribution::Normal(0.0, 1.0), &device);
    let test = Data::new(2000, &directions);
    let learn = Data::new(1000, &directions.autodiff());

    let model = train(Classifier::new(&autodiff), &learn, 150).valid();
    let show = |name: &str, model: &Classifier| {
        println!(
            "{name:<9} {:>6} parameters, accuracy {:.3}",
            model.num_params(),
            test.accuracy(model)
        );
    };
    show("dense", &model);

    let selection = Selection::of(["first", "second"])?;
    let spectra = measure_module(&model, &selection, &MeasureOptions::default(), &mut ())?;
    let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.75))?;
    let (model, report) = compress_module(model, &plan, &mut ())?;
    for matrix in &report.compressed {
        println!("  {} at rank {}: error {:.3}", matrix.name, matrix.rank, matrix.relative_error);
    }
    show("factored", &model);

    let model = train(model.train(), &learn, 150).valid();
    show("tuned", &model);
    Ok(())
}
