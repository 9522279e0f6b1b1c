//! A model of another framework: import an ONNX file with `burn-onnx`, factor its linear layers,
//! see how its outputs change, and merge the factors again.
//!
//! ```sh
//! cargo run --release -p welore-example-onnx
//! ```
//!
//! `build.rs` turns `model.onnx` into Rust code and weights. `make_model.py` made that file, and
//! `expected.json` with the outputs that ONNX computes.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use serde::Deserialize;
use welore_burn::compress::compress_module;
use welore_burn::modules::Selection;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::spectrum::{MeasureOptions, Spectra, measure_module};

use imported::Model;

/// The code that `burn-onnx` generated: `Model`, with one field for each layer, and `forward`.
#[allow(clippy::all, missing_docs, unused)]
mod imported {
    include!(concat!(env!("OUT_DIR"), "/imported/model.rs"));
}

/// Rows of inputs, and the outputs of ONNX's reference implementation for them.
#[derive(Deserialize)]
struct Expected {
    input: Vec<Vec<f32>>,
    output: Vec<Vec<f32>>,
}

fn rows(rows: &[Vec<f32>], device: &Device) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// `‖a - b‖ / ‖b‖`.
fn difference(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    let norm = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f64>();
    norm(a.clone() - b.clone()) / norm(b.clone())
}

/// The share of rows whose largest output is the same.
fn agreement(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    let same = a.clone().argmax(1).equal(b.clone().argmax(1)).int().sum();
    same.into_scalar::<i64>() as f64 / a.dims()[0] as f64
}

/// The names and shapes of all matrices.
fn layers(spectra: &Spectra) -> Vec<(&str, [usize; 2])> {
    spectra.matrices.iter().map(|matrix| (matrix.name.as_str(), matrix.shape)).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    let model = Model::from_embedded(&device);
    let expected: Expected = serde_json::from_str(include_str!("../expected.json"))?;
    let computed = model.forward(rows(&expected.input, &device));
    let off = difference(&computed, &rows(&expected.output, &device));
    assert!(off < 1e-5, "the imported model is another one than the exported: {off}");

    let (all, options) = (Selection::all(), MeasureOptions::default());
    let spectra = measure_module(&model, &all, &options, &mut ())?;
    println!(
        "imported: {} linear layers, {} parameters, outputs within {off:.1e} of ONNX",
        spectra.matrices.len(),
        model.num_params()
    );
    for (name, [d_output, d_input]) in layers(&spectra) {
        println!("  {name}: {d_input} to {d_output}");
    }

    let width = expected.input[0].len();
    let x = Tensor::<2>::random([1000, width], Distribution::Normal(0.0, 1.0), &device);
    let dense = model.forward(x.clone());
    for err in [0.3, 0.5, 0.7] {
        let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(err))?;
        let (factored, report) = compress_module(model.clone(), &plan, &mut ())?;
        let output = factored.forward(x.clone());
        println!("factored at ERR {err}: {} parameters", factored.num_params());
        for matrix in &report.compressed {
            println!(
                "  {} at rank {}: error {:.3}",
                matrix.name, matrix.rank, matrix.relative_error
            );
        }
        println!(
            "  outputs change by {:.3}, {:.1}% of the classes stay",
            difference(&output, &dense),
            100.0 * agreement(&output, &dense)
        );
        assert!(!report.compressed.is_empty());
        assert_eq!(factored.num_params() as u64, plan.totals.parameters_after);

        // Factored matrices would be refused here, so these are dense again.
        let merged = factored.materialize();
        let again = measure_module(&merged, &all, &options, &mut ())?;
        assert_eq!(layers(&again), layers(&spectra));
        assert_eq!(merged.num_params(), model.num_params());
        let off = difference(&merged.forward(x.clone()), &output);
        assert!(off < 1e-5, "merging changed the outputs: {off}");
        println!(
            "  merged: {} parameters, outputs within {off:.1e} of the factored model",
            merged.num_params()
        );
    }
    Ok(())
}
