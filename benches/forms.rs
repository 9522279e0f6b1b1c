//! What matrices of a model lose in blocks by rows and by columns, and with factors in blocks added
//! or alone, at how many bits a weight: in nats per token, from a calibration with gradients.
//!
//! ```sh
//! cargo bench -p welore-burn --bench forms -- MODEL_DIR CALIBRATION layers.3.mlp.up_proj ...
//! cargo bench -p welore-burn --bench forms -- MODEL_DIR CALIBRATION layers.3.mlp.up_proj --ranks 8,64
//! ```
//!
//! Matrices whose names end with one of the arguments are measured. `--ranks` has the ranks of factors
//! on each base.

use std::time::Instant;

use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::forms::{Blocks, Form};
use welore_burn::ggml::TensorType;
use welore_burn::linalg::{Shrinkage, loss_of_error};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named as _;
use welore_burn::spectrum::{Method, Norms};

/// Bases with more bits than this get no factors.
const MOST_BITS: f64 = 4.6;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let ranks = args.iter().position(|arg| arg == "--ranks");
    let ranks: Vec<usize> = match ranks {
        None => vec![8, 16, 32, 64],
        Some(at) => {
            let ranks = args.remove(at + 1);
            args.remove(at);
            ranks.split(',').map(|rank| rank.parse().expect("ranks are numbers")).collect()
        }
    };
    let [model, calibration, names @ ..] = &args[..] else {
        println!("nothing to measure: give a model directory, a calibration, and matrices");
        return;
    };
    let checkpoint = Checkpoint::open(model).expect("a model directory");
    let calibration = Calibration::open(calibration).expect("a calibration");
    let shrink = Shrinkage { input: 0.01.into(), output: 0.1.into() };
    let norms = Norms::new(&calibration, Method::TwoSided, shrink).expect("gradients");
    let is_chosen = |name: &&MatrixName| names.iter().any(|end| name.as_str().ends_with(end));
    for name in calibration.names().filter(is_chosen) {
        measure(&checkpoint, &calibration, &norms, name, &ranks);
    }
}

fn measure(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    norms: &Norms<'_>,
    name: &MatrixName,
    ranks: &[usize],
) {
    let dense = checkpoint.read_matrix(&name.weight()).expect("a dense matrix");
    let shape = [dense.rows(), dense.cols()];
    let inputs = calibration.inputs(name).expect("inputs");
    let outputs = calibration.outputs(name).expect("gradients");
    println!("{name} {shape:?}");
    let norm = norms.of(name).expect("a norm");
    for form in forms(shape, ranks) {
        let started = Instant::now();
        let made = form.make(&dense, &norm).expect("finite entries");
        let seconds = started.elapsed().as_secs_f64();
        let stored = form.merge(shape, made.parts).expect("its own parts");
        let pairs = stored.data().iter().zip(dense.data());
        let error: Vec<f32> = pairs.map(|(new, old)| (new - old) as f32).collect();
        let loss = loss_of_error(&error, &inputs, Some(&outputs)).expect("fitting moments");
        let bytes = form.bytes(shape, safetensors::Dtype::F32);
        let bits = 8.0 * bytes as f64 / (shape[0] * shape[1]) as f64;
        println!("  {bits:6.3} bits  {loss:.3e}  {seconds:5.2} s  {form}");
    }
}

fn forms(shape: [usize; 2], ranks: &[usize]) -> Vec<Form> {
    let fits = |form: &Form| form.problem(shape).is_none();
    let full = shape[0].min(shape[1]);
    let mut forms = Vec::new();
    for of in TensorType::all().iter().copied() {
        let bits = 8.0 * of.block_bytes() as f64 / of.block_len() as f64;
        for base in [false, true].map(|turned| Blocks { tensor_type: of, turned }) {
            if !fits(&Form::Blocks(base)) || bits > 9.0 {
                continue;
            }
            forms.push(Form::Blocks(base));
            if bits <= MOST_BITS {
                let add = |rank: &usize| Form::packed_factors(*rank, TensorType::Q8_0, Some(base));
                forms.extend(ranks.iter().map(add).filter(fits));
            }
        }
    }
    let alone = [16, 8, 4, 2].map(|share| full / share);
    let factors = [TensorType::Q8_0, TensorType::Q4_0];
    forms.extend(alone.into_iter().flat_map(|rank| {
        factors.map(|of| Form::packed_factors(rank, of, None)).into_iter().filter(fits)
    }));
    forms
}
