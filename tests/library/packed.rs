//! Weights in llama.cpp's block types stay as they are in modules, in directories, and from GGUF files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Distribution, FloatDType, Int, Tensor, TensorData, Tolerance};
use safetensors::Dtype;
use tempfile::tempdir;
use welore_burn::checkpoint::{Checkpoint, ShardLayout, ShardWriter, copy_companions, save_module};
use welore_burn::compress::{WriteOptions, merge_directory};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Blocks, Form, FormError, TensorSpec, matrices, parameters};
use welore_burn::ggml::TensorType;
use welore_burn::gguf::{GgufConversion, convert_gguf};
use welore_burn::linalg::{Matrix, SecondMoment, Weighting};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::model::{Decoder, load_model};
use welore_burn::modules::{MatrixName, Selection};
use welore_burn::spectrum::{MeasureOptions, SpectrumError, measure_checkpoint};
use welore_burn::train::{
    LoraOptions, TrainError, TrainOptions, Trainable, add_adapters, check_method,
};

use crate::gguf::writer::of_fixture;
use crate::{checkpoint, device, expected, ids};

/// Types with blocks of 32, which fill the rows of tiny models.
const TYPES: [TensorType; 5] =
    [TensorType::Q8_0, TensorType::Q5_1, TensorType::Iq4Nl, TensorType::F16, TensorType::Q4_0];

pub fn write(from: &Checkpoint, to: &Path, tensors: Vec<(TensorSpec, Vec<u8>)>) {
    fs::create_dir(to).unwrap();
    copy_companions(from.dir(), to).unwrap();
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let layout = ShardLayout::new(&specs, u64::MAX).unwrap();
    let writer = ShardWriter::new(to, &layout).unwrap();
    for (spec, bytes) in &tensors {
        writer.write(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Writes a fixture as `packed`, each matrix in one type after the other, and as `dense`, with the
/// numbers that are in these blocks.
fn write_both(name: &str, dir: &Path) {
    let original = checkpoint(name);
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    let mut types = TYPES.iter().cycle();
    for name in original.names() {
        let (meta, bytes) = original.raw(name).unwrap();
        let values = original.read_f32(name).unwrap();
        let [rows, columns] = meta.shape[..] else {
            let (dtype, shape) = (meta.dtype, meta.shape.clone());
            let spec = TensorSpec { name: name.into(), dtype, shape };
            packed.push((spec.clone(), bytes.to_vec()));
            dense.push((spec, bytes.to_vec()));
            continue;
        };
        let shape = [rows, columns];
        let kept = *types.next().unwrap();
        // Some rows are too short for blocks.
        let fits = columns.is_multiple_of(kept.block_len());
        let kept = if fits { kept } else { TensorType::Bf16 };
        let matrix = MatrixName::of_weight(name).unwrap();
        let blocks = kept.quantize(&values, columns, None).unwrap();
        let numbers = kept.dequantize_rows(&blocks, columns).unwrap();
        let specs = [Form::blocks(kept), Form::dense()]
            .map(|form| form.tensors(&matrix, shape, Dtype::F32).remove(0));
        let [of_blocks, of_numbers] = specs;
        packed.push((of_blocks, blocks));
        dense.push((of_numbers, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }
    write(&original, &dir.join("packed"), packed);
    write(&original, &dir.join("dense"), dense);
}

fn load(dir: &Path) -> Decoder {
    load_model(dir, &device(), FloatDType::F32, &mut ()).unwrap().model
}

fn logits(model: &Decoder, tokens: &[u32]) -> Vec<f64> {
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let len = tokens.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, len]), &device());
    model.forward(tokens).into_data().iter::<f64>().collect()
}

fn assert_alike(one: &Decoder, other: &Decoder, tokens: &[u32]) {
    // All tokens at once, and few: two ways to multiply.
    for tokens in [tokens, &tokens[..2]] {
        let (found, wanted) = (logits(one, tokens), logits(other, tokens));
        let gap = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let scale = wanted.iter().map(|x| x.abs()).fold(0.0, f64::max);
        assert!(gap < 1e-4 * scale, "{gap} of {scale}");
    }
}

/// Bytes of all integers of a module.
fn integer_bytes(module: &impl Module) -> usize {
    struct Sum(usize);
    impl ModuleVisitor for Sum {
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.0 += param.val().into_data().as_bytes().len();
        }
    }
    let mut sum = Sum(0);
    module.visit(&mut sum);
    sum.0
}

#[test]
fn a_packed_model_computes_what_its_numbers_do_and_stays_as_it_is() {
    for name in ["tiny-llama", "tiny-mistral"] {
        let dir = tempdir().unwrap();
        write_both(name, dir.path());
        let [packed, dense] = ["packed", "dense"].map(|name| load(&dir.path().join(name)));
        let tokens = ids(&expected(name)["input"]);
        assert_alike(&packed, &dense, &tokens);
        assert_alike(&packed.clone().materialize(), &dense, &tokens);
        assert_alike(&packed.clone().train().valid(), &dense, &tokens);

        let stored = Checkpoint::open(dir.path().join("packed")).unwrap();
        let blocks = stored.names().filter(|name| stored.meta(name).unwrap().dtype == Dtype::U8);
        let blocks: Vec<&str> = blocks.collect();
        let bytes: u64 = blocks.iter().map(|name| stored.meta(name).unwrap().bytes()).sum();
        assert_eq!(integer_bytes(&packed) as u64, bytes);
        let all = checkpoint(name).parameters();
        assert_eq!((parameters(&packed), stored.parameters()), (all, all));
        assert_eq!(parameters(&dense), all);

        let again = dir.path().join("again");
        fs::create_dir(&again).unwrap();
        save_module(&packed, &again, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
        let saved = Checkpoint::open(&again).unwrap();
        assert!(saved.names().eq(stored.names()));
        for name in blocks {
            assert!(saved.raw(name).unwrap().1 == stored.raw(name).unwrap().1, "{name}");
        }
    }
}

#[test]
fn a_matrix_in_blocks_has_the_shape_of_the_dense_one() {
    let dir = tempdir().unwrap();
    write_both("tiny-llama", dir.path());
    let shapes = |name: &str| -> BTreeMap<MatrixName, [usize; 2]> {
        let found = matrices(&load(&dir.path().join(name)));
        found.into_iter().map(|matrix| (matrix.name, matrix.shape)).collect()
    };
    let (packed, dense) = (shapes("packed"), shapes("dense"));
    assert_eq!(packed, dense);
    // `[out, in]`: a token goes in, and a hidden state comes out.
    assert_eq!(packed["model.embed_tokens"], [64, 384]);
}

#[test]
fn what_needs_dense_weights_refuses_a_packed_model_and_merging_helps() {
    let dir = tempdir().unwrap();
    write_both("tiny-llama", dir.path());
    let (packed, dense) = (dir.path().join("packed"), dir.path().join("dense"));
    let stored = Checkpoint::open(&packed).unwrap();
    let options = MeasureOptions::default();
    let error = measure_checkpoint(&stored, &Selection::all(), &options, &mut ()).unwrap_err();
    assert!(matches!(error, SpectrumError::Form { source: FormError::NotDense, .. }), "{error}");
    let model = load(&packed);
    // What is to train all matrices.
    let full = TrainOptions { trainable: Trainable::Full, ..TrainOptions::default() };
    for error in [
        check_method(&model, &full).unwrap_err(),
        add_adapters(model, &Selection::all(), &LoraOptions { rank: 2, ..LoraOptions::default() })
            .unwrap_err(),
    ] {
        assert!(matches!(error, TrainError::Form { source: FormError::NotDense, .. }), "{error}");
    }

    let original = Checkpoint::open(&dense).unwrap();
    for matrix in stored.compressed_matrices().unwrap() {
        let merged = stored.read_merged(&matrix).unwrap();
        assert_eq!(merged, original.read_matrix(&matrix.name.weight()).unwrap(), "{}", matrix.name);
    }
}

#[test]
fn damaged_blocks_are_refused_with_the_name_of_their_matrix() {
    let dir = tempdir().unwrap();
    write_both("tiny-llama", dir.path());
    let (packed, damaged) = (dir.path().join("packed"), dir.path().join("damaged"));
    let stored = Checkpoint::open(&packed).unwrap();
    let tensors = stored.names().map(|name| {
        let (meta, bytes) = stored.raw(name).unwrap();
        let spec = TensorSpec { name: name.into(), dtype: meta.dtype, shape: meta.shape.clone() };
        let mut bytes = bytes.to_vec();
        if name == "model.embed_tokens.weight.q8_0" {
            // The scale of the second block is not a number.
            bytes[34..36].copy_from_slice(&[0xff, 0x7f]);
        }
        (spec, bytes)
    });
    write(&stored, &damaged, tensors.collect());
    let loaded = load_model(&damaged, &device(), FloatDType::F32, &mut ()).unwrap_err().to_string();
    let output = OutputDir::create(dir.path().join("merged"), false).unwrap();
    let options = WriteOptions::default();
    let merged = merge_directory(&Checkpoint::open(&damaged).unwrap(), &output, &options, &mut ());
    for error in [loaded, merged.unwrap_err().to_string()] {
        assert!(error.contains("`model.embed_tokens`: a scale of block 1"), "{error}");
    }
}

#[test]
fn a_gguf_file_is_run_in_its_blocks_as_it_is_unpacked() {
    let mut gguf = of_fixture("tiny-llama");
    for (tensor, kept) in gguf.tensors.iter_mut().zip([8, 2].into_iter().cycle()) {
        let (rows, columns) = match tensor.shape[..] {
            [rows, columns] => (rows, columns),
            _ => continue,
        };
        let dtype = if kept == 8 { TensorType::Q8_0 } else { TensorType::Q4_0 };
        let numbers = TensorType::Bf16.dequantize_rows(&tensor.data, columns).unwrap();
        assert_eq!(numbers.len(), rows * columns, "the fixture is in bf16");
        (tensor.kind, tensor.data) = (kept, dtype.quantize(&numbers, columns, None).unwrap());
    }
    let dir = tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    fs::write(&file, gguf.bytes()).unwrap();
    let [packed, dense] = [true, false].map(|packed| {
        let path = dir.path().join(format!("packed-{packed}"));
        let output = OutputDir::create(&path, false).unwrap();
        let conversion = GgufConversion { packed };
        let summary = convert_gguf(&file, conversion, &output, &mut ()).unwrap();
        output.commit().unwrap();
        let stored = Checkpoint::open(&path).unwrap();
        assert_eq!(
            (summary.parameters, summary.bytes),
            (checkpoint("tiny-llama").parameters(), stored.bytes())
        );
        (load(&path), summary.bytes)
    });
    assert!(3 * packed.1 < dense.1, "{} of {}", packed.1, dense.1);
    assert_alike(&packed.0, &dense.0, &ids(&expected("tiny-llama")["input"]));
}

fn layer(kept: TensorType) -> LowRankLinear {
    let layer = LowRankLinearConfig::new(256, 10).init(&device().autodiff());
    layer.to_form(Form::blocks(kept)).unwrap()
}

#[test]
fn layers_in_blocks_have_the_outputs_and_input_gradients_of_their_numbers() {
    for kept in [TensorType::Q4K, TensorType::Q8_0, TensorType::Bf16] {
        let packed = layer(kept);
        let dense = packed.clone().materialize();
        assert_eq!((packed.form(), dense.form()), (Form::blocks(kept), Form::dense()));
        assert_eq!((packed.d_input(), packed.d_output(), packed.rank()), (256, 10, None));
        assert_eq!(packed.num_params(), 10, "the bias alone");
        let run = |layer: &LowRankLinear, x: &Tensor<2>| {
            let x = x.clone().require_grad();
            let output = layer.forward(x.clone());
            let gradients = output.clone().square().sum().backward();
            (output.into_data(), x.grad(&gradients).unwrap().into_data())
        };
        let x = Tensor::<2>::random([3, 256], Distribution::Normal(0.0, 1.0), &device().autodiff());
        let (found, wanted) = (run(&packed, &x), run(&dense, &x));
        let close = Tolerance::rel_abs(1e-4, 1e-4);
        found.0.assert_approx_eq::<f32>(&wanted.0, close);
        found.1.assert_approx_eq::<f32>(&wanted.1, close);
        // Without gradients the blocks themselves are multiplied by.
        let output = packed.valid().forward(x.clone().inner()).into_data();
        output.assert_approx_eq::<f32>(&wanted.0, close);

        // Records keep blocks, and do not mistake one type for another.
        let record = packed.clone().into_record();
        let loaded = layer(kept).load_record(record);
        assert_eq!(run(&loaded, &x).0, found.0);
    }
    let refused = layer(TensorType::Q8_0).to_form(Form::factors(2)).unwrap_err();
    assert!(matches!(refused, FormError::NotDense), "{refused}");
    let plain = LowRankLinearConfig::new(250, 10).init(&device());
    let refused = plain.to_form(Form::blocks(TensorType::Q4K)).unwrap_err();
    assert!(matches!(refused, FormError::Impossible(_)), "{refused}");
}

/// Forms of a matrix `[64, 96]` that are not plain blocks.
fn other_forms() -> Vec<Form> {
    let base = |tensor_type, turned| Some(Blocks { tensor_type, turned });
    vec![
        Form::turned_blocks(TensorType::Q5_1),
        Form::turned_blocks(TensorType::Bf16),
        Form::packed_factors(5, TensorType::Q8_0, None),
        Form::packed_factors(3, TensorType::Q8_0, base(TensorType::Q4_0, false)),
        Form::packed_factors(3, TensorType::F16, base(TensorType::Iq4Nl, true)),
    ]
}

#[test]
fn layers_in_all_packed_forms_have_the_outputs_of_their_numbers() {
    let close = Tolerance::rel_abs(1e-4, 1e-4);
    for form in other_forms() {
        let layer = || LowRankLinearConfig::new(96, 64).init(&device());
        let packed = layer().to_form(form).unwrap();
        let dense = packed.clone().materialize();
        assert_eq!((packed.form(), dense.form()), (form, Form::dense()));
        assert_eq!((packed.d_input(), packed.d_output()), (96, 64));
        // One row, few, and many: three ways to multiply.
        for rows in [1, 3, 20] {
            let x = Tensor::<2>::random([rows, 96], Distribution::Normal(0.0, 1.0), &device());
            let (found, wanted) = (packed.forward(x.clone()), dense.forward(x));
            found.into_data().assert_approx_eq::<f32>(&wanted.into_data(), close);
        }
        let x = Tensor::<2>::random([2, 96], Distribution::Normal(0.0, 1.0), &device());
        let loaded = layer().to_form(form).unwrap().load_record(packed.clone().into_record());
        assert_eq!(loaded.forward(x.clone()).into_data(), packed.forward(x).into_data());
    }
}

#[test]
fn directories_keep_all_packed_forms_and_name_what_is_missing() {
    let original = checkpoint("tiny-llama");
    let dir = tempdir().unwrap();
    let mut forms: BTreeMap<String, Form> = BTreeMap::new();
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    let mut choices = other_forms().into_iter().cycle();
    for name in original.names() {
        let (meta, bytes) = original.raw(name).unwrap();
        let spec = TensorSpec { name: name.into(), dtype: meta.dtype, shape: meta.shape.clone() };
        let [rows, columns] = meta.shape[..] else {
            packed.push((spec.clone(), bytes.to_vec()));
            dense.push((spec, bytes.to_vec()));
            continue;
        };
        let (form, shape) = (choices.next().unwrap(), [rows, columns]);
        assert_eq!(form.problem(shape), None, "{name}");
        let matrix = MatrixName::of_weight(name).unwrap();
        let made = form.make(&original.read_matrix(name).unwrap(), &Weighting::plain()).unwrap();
        let parts = form.tensors(&matrix, shape, Dtype::F32).into_iter().zip(&made.parts);
        packed.extend(parts.map(|(spec, part)| (spec, part.encode(Dtype::F32).unwrap())));
        let merged = form.merge(shape, made.parts).unwrap();
        let numbers = merged.data().iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        dense.push((TensorSpec { dtype: Dtype::F32, ..spec }, numbers));
        forms.insert(matrix.to_string(), form);
    }
    write(&original, &dir.path().join("packed"), packed.clone());
    write(&original, &dir.path().join("dense"), dense);
    let stored = Checkpoint::open(dir.path().join("packed")).unwrap();
    let found = stored.compressed_matrices().unwrap();
    assert_eq!(found.len(), forms.len(), "each matrix once");
    for matrix in &found {
        assert_eq!(matrix.form, forms[matrix.name.as_str()], "{}", matrix.name);
    }
    let [model, unpacked] = ["packed", "dense"].map(|name| load(&dir.path().join(name)));
    assert_alike(&model, &unpacked, &ids(&expected("tiny-llama")["input"]));

    // A layer that is called like a factor is none beside a dense matrix.
    let mut beside: Vec<(TensorSpec, Vec<u8>)> =
        packed.iter().filter(|(spec, _)| spec.dtype != Dtype::U8).cloned().collect();
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![2, 2] };
    beside.extend(["x.weight", "x.V.weight"].map(|name| (spec(name), vec![0; 16])));
    write(&original, &dir.path().join("beside"), beside);
    let found = Checkpoint::open(dir.path().join("beside")).unwrap().compressed_matrices();
    assert!(found.unwrap().is_empty());

    // A matrix without one of its factors is neither the other factor nor its base.
    for lost in ["U.weight_t.", "V.weight."] {
        let name = packed.iter().rev().find(|(spec, _)| spec.name.contains(lost)).unwrap();
        let lost = name.0.name.clone();
        let rest = packed.iter().filter(|(spec, _)| spec.name != lost).cloned().collect();
        let damaged = dir.path().join(&lost);
        write(&original, &damaged, rest);
        let error = Checkpoint::open(&damaged).unwrap().compressed_matrices();
        assert!(error.unwrap_err().to_string().contains(&lost), "{lost}");
    }
}

#[test]
fn a_base_with_factors_is_closer_than_the_base_in_the_norm_that_it_is_made_in() {
    let root = |size: usize, phase: f32| {
        let mut moment = SecondMoment::new(size);
        let row = |i: usize| ((i * i) as f32 * 0.37 + phase).sin() * (1.0 + (i % size) as f32);
        moment.add(&(0..8 * size * size).map(row).collect::<Vec<f32>>());
        Arc::new(moment.root(1e-2).unwrap())
    };
    let norm = Weighting::new(Some(root(96, 1.0)), Some(root(64, 2.0)));
    let entries = (0..64 * 96).map(|i| f64::from((i * i % 1009) as u32).sin()).collect();
    let matrix = Matrix::new(64, 96, entries).unwrap();
    let error = |form: Form, norm: &Weighting| form.make(&matrix, norm).unwrap().relative_error;
    for turned in [false, true] {
        let base = Blocks { tensor_type: TensorType::Q4_0, turned };
        let alone = error(Form::Blocks(base), &norm);
        let mut last = alone;
        for rank in [1, 4, 16] {
            let both = error(Form::packed_factors(rank, TensorType::Q8_0, Some(base)), &norm);
            assert!(both < last, "{both} after {last} at rank {rank}");
            last = both;
        }
        // What is rounded in a norm has a smaller error in it than what is not.
        let made = Form::Blocks(base).make(&matrix, &Weighting::plain()).unwrap();
        let plain = Form::Blocks(base).merge([64, 96], made.parts).unwrap();
        let gaps = plain.data().iter().zip(matrix.data()).map(|(a, b)| a - b).collect();
        let gap = norm.apply(&Matrix::new(64, 96, gaps).unwrap()).unwrap().norm();
        let plain = gap / norm.apply(&matrix).unwrap().norm();
        assert!(alone < plain, "{alone} of {plain}");
    }
    // Factors alone come closer with every rank.
    let errors = [8, 16, 32, 64]
        .map(|rank| error(Form::packed_factors(rank, TensorType::Q8_0, None), &norm));
    assert!(errors.is_sorted_by(|a, b| b < a) && errors[3] < 0.1, "{errors:?}");
}

#[test]
fn plans_name_the_types_of_factors_and_bases() {
    let base = Some(Blocks { tensor_type: TensorType::Q3K, turned: true });
    let form = Form::packed_factors(8, TensorType::Q8_0, base);
    let text = serde_json::to_string(&form).unwrap();
    let wanted =
        r#"{"kind":"packed_factors","rank":8,"type":"q8_0","base":{"type":"q3_k","turned":true}}"#;
    assert_eq!(text, wanted);
    assert_eq!(serde_json::from_str::<Form>(&text).unwrap(), form);
    assert_eq!(form.to_string(), "blocks of q3_k, by columns and two factors of rank 8 in q8_0");
    assert_eq!((form.rank(), form.parameters([256, 64])), (None, 256 * 64 + 8 * (256 + 64)));
    let bytes = 64 * 110 + 8 * (34 * 8 + 34 * 2);
    assert_eq!(form.bytes([256, 64], Dtype::F32), bytes);
    assert!(form.problem([100, 64]).is_some() && form.problem([256, 60]).is_some());
    let alone = Form::packed_factors(8, TensorType::Q8_0, None);
    assert_eq!((alone.rank(), alone.problem([32, 64])), (Some(8), None));
    assert!(alone.problem([4, 64]).is_some());
}

#[test]
fn plans_name_the_type_of_blocks() {
    let form = Form::blocks(TensorType::Q4K);
    let text = serde_json::to_string(&form).unwrap();
    assert_eq!(text, r#"{"kind":"blocks","type":"q4_k"}"#);
    assert_eq!(serde_json::from_str::<Form>(&text).unwrap(), form);
    assert_eq!(form.to_string(), "blocks of q4_k");
    assert_eq!((form.parameters([3, 256]), form.bytes([3, 256], Dtype::F32)), (768, 3 * 144));
    assert!(form.problem([3, 100]).is_some());
}
