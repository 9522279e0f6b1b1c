//! Models with matrices in blocks train: their factors do, and the blocks stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Distribution, FloatDType, Tensor, Tolerance};
use safetensors::Dtype;
use tempfile::tempdir;
use welore_burn::checkpoint::{Checkpoint, copy_companions, save_module};
use welore_burn::forms::{Blocks, Form, FormError, Packed, TensorSpec};
use welore_burn::ggml::TensorType;
use welore_burn::linalg::Weighting;
use welore_burn::linear::LowRankLinearConfig;
use welore_burn::model::{Decoder, load_model};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{MatrixPlan, RankPlan};
use welore_burn::spectrum::ModelSize;
use welore_burn::train::{
    Batch, MemoryOptions, TrainError, TrainOptions, Trainable, Training, count_trainable,
    loss_and_gradients,
};

use crate::packed::write;
use crate::train::{
    assert_same_parameters, assert_same_steps, by_definition, chosen, difference, norm, options,
    place, rows, run, some_tokens, start,
};
use crate::{checkpoint, device};

fn base(tensor_type: TensorType, turned: bool) -> Option<Blocks> {
    Some(Blocks { tensor_type, turned })
}

/// Forms of the matrices of tiny-llama, with blocks in all of them.
fn forms() -> Vec<Form> {
    vec![
        Form::turned_blocks(TensorType::Q5_1),
        Form::packed_factors(4, TensorType::Q8_0, None),
        Form::packed_factors(3, TensorType::Q8_0, base(TensorType::Q4_0, false)),
        Form::packed_factors(3, TensorType::F16, base(TensorType::Iq4Nl, true)),
    ]
}

/// What training makes of a form.
fn trained(form: Form) -> Form {
    match form {
        Form::PackedFactors(of) => match of.base {
            Some(base) => Form::based_factors(of.rank, base),
            None => Form::factors(of.rank),
        },
        other => other,
    }
}

/// Writes tiny-llama with its matrices in these forms, one after the other.
fn write_in(forms: Vec<Form>, dir: &Path) -> Checkpoint {
    let original = checkpoint("tiny-llama");
    let mut forms = forms.into_iter().cycle();
    let mut tensors = Vec::new();
    for name in original.names() {
        let (meta, bytes) = original.raw(name).unwrap();
        let [rows, columns] = meta.shape[..] else {
            let (dtype, shape) = (meta.dtype, meta.shape.clone());
            tensors.push((TensorSpec { name: name.into(), dtype, shape }, bytes.to_vec()));
            continue;
        };
        let (form, matrix) = (forms.next().unwrap(), MatrixName::of_weight(name).unwrap());
        let made = form.make(&original.read_matrix(name).unwrap(), &Weighting::plain()).unwrap();
        let specs = form.tensors(&matrix, [rows, columns], Dtype::F32).into_iter();
        let parts = made.parts.iter().map(|part| part.encode(Dtype::F32).unwrap());
        tensors.extend(specs.zip(parts));
    }
    write(&original, dir, tensors);
    Checkpoint::open(dir).unwrap()
}

fn load(dir: &Path) -> Decoder {
    load_model(dir, &device().autodiff(), FloatDType::F32, &mut ()).unwrap().model
}

#[test]
fn gradients_through_blocks_are_those_through_the_dense_weight() {
    let close = Tolerance::rel_abs(1e-3, 1e-3);
    let more = [
        Form::blocks(TensorType::Q8_0),
        Form::based_factors(3, Blocks { tensor_type: TensorType::Q4_0, turned: false }),
    ];
    for form in forms().into_iter().chain(more) {
        let device = device().autodiff();
        let packed = LowRankLinearConfig::new(96, 64).init(&device).to_form(form).unwrap();
        let mut dense = packed.clone().materialize();
        assert_eq!((packed.form(), dense.form()), (form, Form::dense()));
        dense.weight = dense.weight.set_require_grad(true);
        // Few rows, and many: two ways to multiply.
        for rows in [3, 40] {
            let plain = crate::device();
            let x = Tensor::<2>::random([rows, 96], Distribution::Normal(0.0, 1.0), &plain);
            let [x, y] = [x.clone(), x].map(|x| Tensor::from_inner(x).require_grad());
            let found = packed.forward(x.clone()).square().sum().backward();
            let wanted = dense.forward(y.clone()).square().sum().backward();
            let [of_x, of_y] = [x.grad(&found).unwrap(), y.grad(&wanted).unwrap()];
            of_x.into_data().assert_approx_eq::<f32>(&of_y.into_data(), close);
            // W = base + down up.
            let of_weight = dense.weight.val().grad(&wanted).unwrap();
            let state = packed.weight.reparameterization::<Packed>().unwrap();
            let factors = state.down.as_ref().zip(state.up.as_ref());
            if let Some((down, up)) = factors.filter(|(down, _)| down.lazy_shape()[1] > 0) {
                let (of_down, of_up) =
                    (down.val().grad(&found).unwrap(), up.val().grad(&found).unwrap());
                let (down, up) = (down.val().inner(), up.val().inner());
                let wanted = of_weight.clone().matmul(up.transpose());
                of_down.into_data().assert_approx_eq::<f32>(&wanted.into_data(), close);
                let wanted = down.transpose().matmul(of_weight);
                of_up.into_data().assert_approx_eq::<f32>(&wanted.into_data(), close);
            }
        }
    }
}

#[test]
fn a_model_in_blocks_has_the_same_gradients_recomputed_as_stored() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("packed");
    write_in(forms(), &path);
    let model = chosen(load(&path), Trainable::Lrc);
    let tokens = some_tokens();
    let rows = rows(&tokens);
    let (expected, reference) = by_definition(&model, &rows, 0.03);
    // Unpacking factors changed nothing that is computed.
    let (before, _) = by_definition(&load(&path).materialize(), &rows, 0.03);
    assert!((before / expected - 1.0).abs() < 1e-4, "{before} and {expected}");
    let batch = Batch::new(&rows, &device().autodiff());
    for recompute in [false, true] {
        let memory = MemoryOptions { recompute, logits_at_once: 4000 };
        let (loss, gradients) = loss_and_gradients(&model, &batch, 0.03, memory);
        assert!((loss.into_scalar::<f64>() - expected).abs() < 1e-5);
        assert_eq!(gradients.len(), reference.len());
        let (gap, norm) = (difference(&model, &gradients, &reference), norm(&model, &reference));
        assert!(gap < 1e-4 * norm, "{recompute}: {gap} of {norm}");
    }
}

#[test]
fn factors_train_and_are_written_as_numbers_beside_blocks_as_they_were() {
    let dir = tempdir().unwrap();
    let [path, written] = ["packed", "written"].map(|name| dir.path().join(name));
    let stored = write_in(forms(), &path);
    let options = TrainOptions { steps: 30, lr: 3e-3, ..options() };
    let expected = count_trainable(&load(&path), &options).unwrap();
    let mut training = start(load(&path), options, dir.path());
    assert_eq!(training.count(), expected);
    assert_eq!(expected.total, stored.parameters());
    assert!(expected.packed + expected.trainable < expected.total && expected.trainable > 0);
    let losses: Vec<f64> =
        run(&mut training, usize::MAX).unwrap().iter().map(|report| report.loss).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[25..]) < 0.9 * mean(&losses[..5]), "{losses:?}");

    let result = training.result().unwrap();
    fs::create_dir(&written).unwrap();
    save_module(&result, &written, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
    copy_companions(&path, &written).unwrap();
    let again = Checkpoint::open(&written).unwrap();
    let found: BTreeMap<MatrixName, Form> =
        again.compressed_matrices().unwrap().into_iter().map(|of| (of.name, of.form)).collect();
    for matrix in stored.compressed_matrices().unwrap() {
        assert_eq!(found[&matrix.name], trained(matrix.form), "{}", matrix.name);
    }
    let is_block = |name: &&str| again.meta(name).unwrap().dtype == Dtype::U8;
    let blocks: Vec<&str> = again.names().filter(is_block).collect();
    assert!(!blocks.is_empty() && blocks.iter().all(|name| !name.contains(".V.")), "{blocks:?}");
    for name in blocks {
        assert!(again.raw(name).unwrap().1 == stored.raw(name).unwrap().1, "{name}");
    }
    assert_eq!(again.parameters(), stored.parameters());

    // What was written is the model, and trains on.
    let (tokens, model) = (some_tokens(), load(&written));
    let rows = rows(&tokens);
    let [one, other] = [&model, training.model()].map(|model| by_definition(model, &rows, 1.0).0);
    assert!((one / other - 1.0).abs() < 1e-5, "{one} and {other}");
    assert_eq!(count_trainable(&model, &TrainOptions::default()).unwrap(), expected);
}

#[test]
fn a_resumed_run_of_a_model_in_blocks_takes_the_steps_of_one_never_stopped() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("packed");
    write_in(forms(), &path);
    let options = TrainOptions { recompute: true, ..options() };
    let [whole_dir, stopped_dir] = ["whole", "stopped"].map(|name| dir.path().join(name));
    let open = |dir: &Path, resume| {
        fs::create_dir_all(dir).unwrap();
        Training::open(load(&path), options.clone(), place(dir, resume)).unwrap()
    };
    let mut whole = open(&whole_dir, false);
    let reports = run(&mut whole, usize::MAX).unwrap();
    let mut first = open(&stopped_dir, false);
    assert!(matches!(run(&mut first, 3), Err(TrainError::Interrupted(_))));
    let mut second = open(&stopped_dir, true);
    assert_eq!(second.position().step, 3);
    let rest = run(&mut second, usize::MAX).unwrap();
    assert_same_steps(&reports[3..], &rest);
    assert_same_parameters(whole.model(), second.model());
}

#[test]
fn a_model_with_nothing_but_blocks_has_nothing_to_train() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("packed");
    write_in(vec![Form::turned_blocks(TensorType::Q8_0)], &path);
    let model = load(&path);
    for trainable in [Trainable::Lrc, Trainable::Nlrc] {
        let options = TrainOptions { trainable, ..options() };
        let error = count_trainable(&model, &options).unwrap_err();
        assert!(matches!(error, TrainError::OnlyBlocks(_)), "{error}");
    }
    for trainable in [Trainable::Full, Trainable::Galore, Trainable::Lora] {
        let options = TrainOptions { trainable, ..options() };
        let error = count_trainable(&model, &options).unwrap_err();
        let is_form = matches!(error, TrainError::Form { source: FormError::NotDense, .. });
        assert!(is_form, "{error}");
    }
}

#[test]
fn plans_state_the_forms_that_training_makes() {
    let matrix = |name: &str, form| MatrixPlan::new(name, [64, 64], form, Dtype::BF16);
    let of_base = Blocks { tensor_type: TensorType::Q4_0, turned: false };
    let packed = |base| Form::packed_factors(8, TensorType::Q8_0, base);
    let matrices = vec![
        matrix("a", packed(None)),
        matrix("b", packed(Some(of_base))),
        matrix("c", Form::Blocks(of_base)),
    ];
    let size = ModelSize { parameters: 3 * 4096, bytes: 3 * 8192 };
    let plan = RankPlan::new("by hand", size, matrices).unwrap().with_factors_unpacked();
    let forms: Vec<Form> = plan.matrices.iter().map(|matrix| matrix.form).collect();
    let based = Form::based_factors(8, of_base);
    assert_eq!(forms, [Form::factors(8), based, Form::Blocks(of_base)]);
    let blocks = 4096 / 32 * 18;
    let factors = 2 * 8 * 128;
    assert_eq!(plan.totals.bytes_after, 2 * factors + 2 * blocks);
    assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    let text = serde_json::to_string(&based).unwrap();
    assert_eq!(text, r#"{"kind":"based_factors","rank":8,"base":{"type":"q4_0"}}"#);
    assert_eq!(based.to_string(), "blocks of q4_0 and two factors of rank 8");
    assert!(based.problem([64, 60]).is_some() && based.problem([4, 64]).is_some());
}
