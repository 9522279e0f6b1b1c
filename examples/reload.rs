//! What you compressed before, loaded into your own module and adapted: factors and pivots go into a
//! directory with their plan, a new module takes the shapes of the plan and then the weights, and
//! LoRA adapters tune it while everything else stays as it was loaded.
//!
//! ```sh
//! cargo run --release -p welore-burn --example reload
//! ```

use std::path::Path;

use burn::module::{Module, ParamGroup};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use safetensors::Dtype;
use welore_burn::checkpoint::{
    Checkpoint, DEFAULT_SHARD_BYTES, PLAN_FILE, load_module, save_module,
};
use welore_burn::compress::{Compressor, shape_by_plan};
use welore_burn::files::{OutputDir, write_file};
use welore_burn::forms::{Rest, Storage};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::Selection;
use welore_burn::plan::{Energy, PlanOptions, Target, make_plan, read_plan};
use welore_burn::spectrum::{MeasureOptions, measure_module};
use welore_burn::train::{LoraOptions, add_adapters};

#[derive(Module, Debug)]
struct Net {
    hidden: LowRankLinear,
    output: LowRankLinear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            hidden: LowRankLinearConfig::new(32, 64).init(device),
            output: LowRankLinearConfig::new(64, 8).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(x)))
    }
}

/// Compresses the hidden layer, and lets the rest train with its factors.
fn compress(net: Net, dir: &Path) -> Result<Net, Box<dyn std::error::Error>> {
    let selection = Selection::of(["hidden"])?;
    let spectra = measure_module(&net, &selection, &MeasureOptions::default(), &mut ())?;
    let options =
        PlanOptions { storage: Storage::Pivot, ..PlanOptions::to(Target::KeepParams(0.5)) };
    let plan = make_plan(&spectra, &Energy, &options)?;
    // `Rest::Freeze` is the default; `Rest::Keep` leaves the rest as it is.
    let (net, _) = Compressor::new(&plan).with_rest(Rest::Train).module(net, &mut ())?;

    let output = OutputDir::create(dir, false)?;
    save_module(&net, output.path(), |_| Dtype::F32, DEFAULT_SHARD_BYTES, &mut ())?;
    write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
    output.commit()?;
    Ok(net)
}

/// What another process does: it knows the module and the directory.
fn load(dir: &Path, device: &Device) -> Result<Net, Box<dyn std::error::Error>> {
    let plan = read_plan(dir)?.ok_or("the directory has no plan")?;
    let skeleton = shape_by_plan(Net::new(device), &plan)?;
    Ok(load_module(skeleton, &Checkpoint::open(dir)?, |_| FloatDType::F32, &mut ())?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    let home = tempfile::tempdir()?;
    let dir = home.path().join("net");
    let x = Tensor::<2>::random([200, 32], Distribution::Normal(0.0, 1.0), &device);

    let compressed = compress(Net::new(&device), &dir)?;
    let loaded = load(&dir, &device)?;
    let gap = |a: &Net, b: &Net| {
        (a.forward(x.clone()) - b.forward(x.clone())).abs().max().into_scalar::<f64>()
    };
    println!("loaded    {}: differs by {:.1e}", loaded.hidden.form(), gap(&loaded, &compressed));
    assert_eq!(loaded.hidden.form(), compressed.hidden.form());
    assert!(gap(&loaded, &compressed) < 1e-5);

    // Adapters beside the pivots. Only they train: here, towards other answers.
    let options = LoraOptions { rank: 4, alpha: 8.0 };
    let mut net = add_adapters(loaded.train(), &Selection::all(), &options)?;
    let wanted = Net::new(&device).forward(x.clone()).autodiff();
    let learn = x.clone().autodiff();
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..50 {
        let loss = (net.forward(learn.clone()) - wanted.clone()).square().mean();
        losses.push(loss.clone().into_scalar::<f64>());
        let grads = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(5e-3, net, grads);
    }
    println!(
        "adapted   {} parameters: loss {:.4} -> {:.4}",
        net.num_params(),
        losses[0],
        losses[49]
    );
    assert!(losses[49] < losses[0]);

    // The adapters alone, for the directory that they belong to.
    let net = net.valid();
    let record = net.clone().into_record_group(ParamGroup::from_predicate(".lora."));
    let again = add_adapters(load(&dir, &device)?, &Selection::all(), &options)?;
    let again = again.load_record(record.allow_partial(true));
    assert!(gap(&again, &net) < 1e-5);

    // Or merged, for whoever knows no factors.
    let merged = net.clone().materialize();
    println!("merged    {} parameters: differs by {:.1e}", merged.num_params(), gap(&merged, &net));
    assert!(gap(&merged, &net) < 1e-4);
    Ok(())
}
