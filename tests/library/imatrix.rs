//! llama.cpp's importance matrices, in both formats, written here from their descriptions.

use std::path::Path;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tempfile::tempdir;
use welore_burn::calibrate::{
    Calibration, CalibrationError, CalibrationOptions, Collector, GradientLabels, calibrate,
    write_imatrix,
};
use welore_burn::linalg::{Matrix, SecondMoment, Shrinkage, Weighting, packed_len};
use welore_burn::model::{Decoder, LanguageModel, load_model, open_model, projections};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{Energy, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, Spectra, measure_checkpoint};

use crate::gguf::writer::{Gguf, Meta};
use crate::{checkpoint, device, fixture, story_tokens, tiny_llama, tiny_projections};

/// Windows, and tokens in them.
const WINDOWS: usize = 3;
const TOKENS: usize = 64;
const COUNT: f32 = (WINDOWS * TOKENS) as f32;

/// The matrices of tiny-llama with llama.cpp's names of their weights, and their numbers of inputs.
fn matrices() -> Vec<(String, MatrixName, usize)> {
    let checkpoint = checkpoint("tiny-llama");
    let opened = open_model(fixture("tiny-llama"), &device()).unwrap();
    let names = opened.skeleton().matrices().into_iter().map(|matrix| matrix.name);
    let with_sizes = names.map(|name| {
        let [_, inputs] = checkpoint.matrix_shape(&name.weight()).unwrap();
        (tensor_of(name.as_str()), name, inputs)
    });
    with_sizes.collect()
}

fn tensor_of(matrix: &str) -> String {
    let words = [
        ("model.layers", "blk"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    let name = words.iter().fold(matrix.to_string(), |name, (from, to)| name.replace(from, to));
    format!("{name}.weight")
}

/// Mean squares of the inputs of matrix number `number`; whole numbers, which sums hold exactly.
fn squares(number: usize, inputs: usize) -> Vec<f32> {
    (0..inputs).map(|i| ((i * 7 + number * 3) % 11) as f32).collect()
}

fn gguf() -> Gguf {
    let mut file = Gguf::default();
    file.set("general.type", Meta::Text("imatrix".into()));
    file.set("imatrix.datasets", Meta::Texts(vec!["texts/wiki.txt".into()]));
    file.set("imatrix.chunk_count", Meta::U32(WINDOWS as u32));
    file.set("imatrix.chunk_size", Meta::U32(TOKENS as u32));
    for (number, (tensor, _, inputs)) in matrices().iter().enumerate() {
        let sums: Vec<f32> = squares(number, *inputs).iter().map(|x| x * COUNT).collect();
        file.add_f32(&format!("{tensor}.in_sum2"), &[1, *inputs], &sums);
        file.add_f32(&format!("{tensor}.counts"), &[1, 1], &[COUNT]);
        // Newer versions also have plain sums, which say nothing about squares.
        file.add_f32(&format!("{tensor}.in_sum"), &[1, *inputs], &vec![-1.0; *inputs]);
    }
    // Measured with `--process-output`; it is not compressed.
    file.add_f32("output.weight.in_sum2", &[64], &[COUNT; 64]);
    file.add_f32("output.weight.counts", &[1], &[COUNT]);
    file
}

/// The format before GGUF.
fn legacy() -> Vec<u8> {
    let number = |n: usize| (n as i32).to_le_bytes();
    let mut file = number(matrices().len()).to_vec();
    for (place, (tensor, _, inputs)) in matrices().iter().enumerate() {
        file.extend(number(tensor.len()));
        file.extend(tensor.as_bytes());
        file.extend(number(WINDOWS));
        file.extend(number(*inputs));
        // Mean squares times the number of windows.
        let values = squares(place, *inputs).into_iter().map(|x| x * WINDOWS as f32);
        file.extend(values.flat_map(f32::to_le_bytes));
    }
    file.extend(number(WINDOWS));
    let text = b"texts/wiki.txt";
    file.extend(number(text.len()));
    file.extend(text);
    file
}

fn open(dir: &Path, bytes: &[u8]) -> Result<Calibration, CalibrationError> {
    let path = dir.join("imatrix");
    std::fs::write(&path, bytes).unwrap();
    Calibration::open(path)
}

#[test]
fn both_formats_say_how_large_inputs_are() {
    let dir = tempdir().unwrap();
    let model = open_model(fixture("tiny-llama"), &device()).unwrap();
    for (bytes, count) in [(gguf().bytes(), COUNT as u64), (legacy(), WINDOWS as u64)] {
        let calibration = open(dir.path(), &bytes).unwrap();
        assert!(calibration.is_diagonal() && !calibration.has_gradients());
        assert_eq!(calibration.names().count(), 28);
        for (number, (_, name, inputs)) in matrices().iter().enumerate() {
            let found = calibration.inputs(name).unwrap();
            assert_eq!((found.size(), found.count()), (*inputs, count), "{name}");
            for (found, square) in found.squares().iter().zip(squares(number, *inputs)) {
                assert!((found - f64::from(square)).abs() < 1e-9, "{name}: {found} for {square}");
            }
            assert!(calibration.outputs(name).is_err());
        }
        let text = &calibration.texts()[0];
        assert_eq!((text.name.as_str(), text.windows), ("texts/wiki.txt", WINDOWS));
        calibration.check_model(model.skeleton()).unwrap();
        let error = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap_err();
        assert!(matches!(error, CalibrationError::ImatrixGradients { .. }), "{error}");
    }
}

/// A calibration of tiny-llama.
fn measured(path: &Path) -> Calibration {
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let options = CalibrationOptions {
        seq_len: TOKENS,
        windows: Some(WINDOWS),
        gradient_windows: 0,
        ..CalibrationOptions::default()
    };
    calibrate(&model, Some(&checkpoint), &story_tokens().into(), &options, path, &mut ()).unwrap();
    Calibration::open(path).unwrap()
}

#[test]
fn what_is_written_is_the_diagonal_of_what_was_measured() {
    let dir = tempdir().unwrap();
    let calibration = measured(&dir.path().join("calibration"));
    let [first, second] = ["first.gguf", "second.gguf"].map(|name| dir.path().join(name));
    let summary = write_imatrix(&calibration, &first).unwrap();
    let bytes = std::fs::read(&first).unwrap();
    assert_eq!((summary.matrices, summary.bytes), (28, bytes.len() as u64));
    let read = Calibration::open(&first).unwrap();
    for (_, name, _) in matrices() {
        let (full, found) = (calibration.inputs(&name).unwrap(), read.inputs(&name).unwrap());
        assert_eq!(found.count(), full.count());
        assert_eq!(calibration.input_squares(&name).unwrap().squares(), full.squares(), "{name}");
        for (found, square) in found.squares().iter().zip(full.squares()) {
            assert!((found - square).abs() <= 1e-6 * square, "{name}: {found} for {square}");
        }
    }
    // `llama-quantize` reads the first name without looking whether there is one.
    assert_eq!(read.texts()[0].name, "unnamed");
    write_imatrix(&read, &second).unwrap();
    assert!(std::fs::read(&second).unwrap() == bytes, "what was read is written as it was");
    // The earlier format becomes the newer one.
    let old = open(dir.path(), &legacy()).unwrap();
    write_imatrix(&old, &second).unwrap();
    let read = Calibration::open(&second).unwrap();
    assert_eq!(read.texts(), old.texts());
    let (_, name, _) = &matrices()[0];
    assert_eq!(read.inputs(name).unwrap().squares(), old.inputs(name).unwrap().squares());
}

#[test]
fn a_diagonal_has_the_root_and_the_factors_of_the_matrix_that_it_stands_for() {
    let (rows, cols, rank) = (6, 9, 3);
    let entries = (0..rows * cols).map(|i| ((i * i) as f64 * 0.37).sin()).collect();
    let matrix = Matrix::new(rows, cols, entries).unwrap();
    // With a zero, which a root raises, and without.
    for least in [0.0, 0.25] {
        let [inputs, outputs] = [cols, rows].map(|size| {
            let squares: Vec<f64> = (0..size).map(|i| least + (i % 4) as f64).collect();
            let mut packed = vec![0.0; packed_len(size)];
            for (i, square) in squares.iter().enumerate() {
                packed[packed_len(i + 1) - 1] = *square as f32;
            }
            let diagonal = SecondMoment::from_squares(&squares, 10).unwrap();
            let full = SecondMoment::from_packed(size, &packed, 10).unwrap();
            assert!(diagonal.is_diagonal() && !full.is_diagonal());
            assert_eq!(diagonal.packed(), full.packed());
            [diagonal, full]
        });
        for shrink in [0.0, 0.1] {
            let factors = [0, 1].map(|kind| {
                let root = |of: &[SecondMoment; 2]| Some(of[kind].root(shrink).unwrap().into());
                let norm = Weighting::new(root(&inputs), root(&outputs));
                let values = norm.singular_values(&matrix).unwrap();
                let factors = norm.factors(&matrix, rank).unwrap();
                (values, factors.left.product(&factors.right).unwrap(), factors.relative_error)
            });
            let [(values, product, error), (expected, of_full, error_of_full)] = factors;
            for (found, expected) in values.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6 * expected.max(1.0), "{values:?}");
            }
            assert!((error - error_of_full).abs() < 1e-6, "{error} for {error_of_full}");
            // A raised zero divides by something tiny, which magnifies rounding.
            if least > 0.0 || shrink > 0.0 {
                for (found, expected) in product.data().iter().zip(of_full.data()) {
                    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn sums_of_diagonals_add_up() {
    let rows = [1.0, 2.0, -3.0, 0.5, 4.0, 1.0];
    let mut full = SecondMoment::new(3);
    full.add(&rows);
    let mut diagonal = SecondMoment::from_squares(&[0.0; 3], 0).unwrap();
    diagonal.add(&rows[..3]);
    let mut other = SecondMoment::new(3);
    other.add(&rows[3..]);
    diagonal.merge(&other);
    assert_eq!((diagonal.squares(), diagonal.count()), (full.squares(), 2));
    other.merge(&SecondMoment::from_squares(&[1.0, 4.0, 9.0], 1).unwrap());
    assert_eq!((other.squares(), other.is_diagonal()), (full.squares(), false));
    for wrong in [f64::NAN, f64::INFINITY] {
        assert!(SecondMoment::from_squares(&[1.0, wrong], 1).is_err());
    }
}

/// A copy of a calibration file without the products of different inputs.
fn without_products(from: &Path, to: &Path) -> Calibration {
    let bytes = std::fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let mut data = view.data().to_vec();
        if name.ends_with(".inputs") {
            let (mut place, mut row) = (0, 0);
            while place < data.len() / 4 {
                data[4 * place..4 * (place + row)].fill(0);
                place += row + 1;
                row += 1;
            }
        }
        (name.to_string(), view.dtype(), view.shape().to_vec(), data)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
    Calibration::open(to).unwrap()
}

fn whitened(calibration: &Calibration) -> Spectra {
    let norms = Norms::new(calibration, Method::Whitened, Shrinkage::default()).unwrap();
    let options = MeasureOptions { norms, ..MeasureOptions::default() };
    measure_checkpoint(&checkpoint("tiny-llama"), &tiny_projections(), &options, &mut ()).unwrap()
}

#[test]
fn an_importance_matrix_plans_as_a_calibration_of_the_same_diagonals() {
    let dir = tempdir().unwrap();
    let [file, plain, imatrix] = ["file", "plain", "imatrix"].map(|name| dir.path().join(name));
    let measured = measured(&file);
    let full = without_products(&file, &plain);
    write_imatrix(&measured, &imatrix).unwrap();
    let diagonal = Calibration::open(&imatrix).unwrap();
    let [spectra, expected] = [&diagonal, &full].map(whitened);
    let of_products = whitened(&measured);
    let mut differs = false;
    for ((found, expected), other) in
        spectra.matrices.iter().zip(&expected.matrices).zip(&of_products.matrices)
    {
        for (place, value) in expected.singular_values.iter().enumerate() {
            let gap = (found.singular_values[place] / value - 1.0).abs();
            assert!(gap < 1e-4, "{} {place}: {gap}", found.name);
            differs |= (other.singular_values[place] / value - 1.0).abs() > 1e-2;
        }
    }
    assert!(differs, "products of different inputs do change values");
    let options = PlanOptions::to(Target::KeepParams(0.7));
    let [plan, expected] =
        [&spectra, &expected].map(|spectra| make_plan(spectra, &Energy, &options).unwrap());
    let ranks = |plan: &RankPlan| -> Vec<usize> {
        plan.matrices.iter().map(|matrix| matrix.rank).collect()
    };
    assert_eq!(ranks(&plan), ranks(&expected));
    assert_eq!(plan.calibration.as_deref(), Some(diagonal.digest()));
}

#[test]
fn damaged_and_foreign_files_are_refused_by_what_is_wrong() {
    let dir = tempdir().unwrap();
    let refused = |edit: &dyn Fn(&mut Gguf)| {
        let mut file = gguf();
        edit(&mut file);
        open(dir.path(), &file.bytes()).unwrap_err().to_string()
    };
    let (sums, counts) = ("blk.2.attn_v.weight.in_sum2", "blk.2.attn_v.weight.counts");
    let set = |file: &mut Gguf, tensor: &str, place: usize, value: f32| {
        file.tensor(tensor).data[4 * place..][..4].copy_from_slice(&value.to_le_bytes());
    };
    let rename = |file: &mut Gguf, tensor: &str| {
        file.tensor(sums).name = format!("{tensor}.in_sum2");
        file.tensor(counts).name = format!("{tensor}.counts");
    };
    let cases: [(&str, String); 14] = [
        ("general.type", refused(&|file| file.unset("general.type"))),
        ("`model`", refused(&|file| file.set("general.type", Meta::Text("model".into())))),
        ("datasets", refused(&|file| file.set("imatrix.datasets", Meta::U32(1)))),
        ("no `.counts`", refused(&|file| file.tensors.retain(|tensor| tensor.name != counts))),
        ("no sums", refused(&|file| file.tensors.retain(|tensor| tensor.name != sums))),
        ("0 tokens", refused(&|file| set(file, counts, 0, 0.0))),
        ("NaN tokens", refused(&|file| set(file, counts, 0, f32::NAN))),
        ("inf tokens", refused(&|file| set(file, counts, 0, f32::INFINITY))),
        ("-1 for a sum", refused(&|file| set(file, sums, 5, -1.0))),
        ("NaN for a sum", refused(&|file| set(file, sums, 5, f32::NAN))),
        (
            "experts",
            refused(&|file| {
                let tensor = file.tensor(counts);
                (tensor.shape, tensor.data) = (vec![2, 1], 1f32.to_le_bytes().repeat(2));
            }),
        ),
        ("architectures", refused(&|file| rename(file, "blk.2.ssm_in.weight"))),
        (
            "not F32",
            refused(&|file| {
                let tensor = file.tensor(sums);
                (tensor.kind, tensor.data) = (1, tensor.data[..128].to_vec());
            }),
        ),
        (
            "no matrix of a layer",
            refused(&|file| file.tensors.retain(|tensor| tensor.name.starts_with("output"))),
        ),
    ];
    for (named, error) in cases {
        assert!(error.contains(named), "{named}: {error}");
    }
}

/// A calibration of a model on some tokens.
fn collected(name: &str) -> (Calibration, Decoder) {
    let model = load_model(fixture(name), &device(), FloatDType::F32, &mut ()).unwrap().model;
    let mut collector = Collector::new(&model, &projections(&model)).unwrap();
    let tokens: Vec<i32> = (0..24).map(|n| n * 7 % 64).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, 24]), &device());
    let (_, seen) = collector.observe(|| model.forward(tokens));
    collector.collect(seen, None);
    (collector.finish().unwrap(), model)
}

#[test]
fn families_with_other_names_have_those_of_llama_cpp_there_and_back() {
    for (name, tensors) in [
        ("tiny-neox", ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]),
        ("tiny-gpt2", ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]),
        ("tiny-falcon", ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]),
        ("tiny-phi3", ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]),
        ("tiny-starcoder2", ["attn_q", "attn_output", "ffn_up", "ffn_down"]),
    ] {
        let dir = tempdir().unwrap();
        let [first, second] = ["first.gguf", "second.gguf"].map(|name| dir.path().join(name));
        let (calibration, model) = collected(name);
        write_imatrix(&calibration, &first).unwrap();
        let bytes = std::fs::read(&first).unwrap();
        for tensor in tensors {
            let sums = format!("blk.0.{tensor}.weight.in_sum2");
            let is_there = bytes.windows(sums.len()).any(|found| found == sums.as_bytes());
            assert!(is_there, "{name}: {sums}");
        }
        let read = Calibration::open(&first).unwrap();
        read.check_model(&model).unwrap();
        for matrix in calibration.names() {
            let (got, want) = (read.inputs(matrix).unwrap(), calibration.inputs(matrix).unwrap());
            for (got, want) in got.squares().iter().zip(want.squares()) {
                assert!((got - want).abs() <= 1e-6 * want, "{name}: {matrix}");
            }
        }
        write_imatrix(&read, &second).unwrap();
        assert!(std::fs::read(&second).unwrap() == bytes, "{name}");
    }
}

#[test]
fn files_of_another_model_are_refused_where_the_model_is_known() {
    let dir = tempdir().unwrap();
    let sums = "blk.2.attn_v.weight.in_sum2";
    let model = open_model(fixture("tiny-llama"), &device()).unwrap();
    let mut file = gguf();
    for end in ["in_sum2", "counts"] {
        file.tensor(&format!("blk.2.attn_v.weight.{end}")).name =
            format!("blk.4.attn_v.weight.{end}");
    }
    let other = open(dir.path(), &file.bytes()).unwrap();
    let error = other.check_model(model.skeleton()).unwrap_err().to_string();
    assert!(error.contains("model.layers.4.self_attn.v_proj"), "{error}");
    let name = MatrixName::new("model.layers.2.self_attn.v_proj");
    assert!(matches!(other.inputs(&name), Err(CalibrationError::Foreign { .. })));
    assert!(matches!(other.check_shape(&name, [32, 64]), Err(CalibrationError::Foreign { .. })));
    let mut file = gguf();
    let tensor = file.tensor(sums);
    (tensor.shape, tensor.data) = (vec![60], tensor.data[..240].to_vec());
    let narrow = open(dir.path(), &file.bytes()).unwrap();
    assert!(matches!(narrow.check_shape(&name, [32, 64]), Err(CalibrationError::Foreign { .. })));
}

#[test]
fn files_of_the_earlier_format_are_whole_or_refused() {
    let dir = tempdir().unwrap();
    let whole = legacy();
    let trailer = 4 + 4 + b"texts/wiki.txt".len();
    for len in (8..whole.len()).step_by(23).chain(whole.len() - trailer + 1..whole.len()) {
        // Earlier versions end behind the entries, or behind the number of windows.
        let is_end = len == whole.len() - trailer || len == whole.len() - trailer + 4;
        assert_eq!(open(dir.path(), &whole[..len]).is_ok(), is_end, "{len} bytes");
    }
    assert!(open(dir.path(), &whole[..whole.len() - trailer]).unwrap().texts().is_empty());
    let changed = |at: usize, n: i32| {
        let mut file = whole.clone();
        file[at..at + 4].copy_from_slice(&n.to_le_bytes());
        open(dir.path(), &file).unwrap_err().to_string()
    };
    let name = "blk.0.attn_q.weight".len();
    for (at, n, named) in [
        // As many entries and values as no memory holds.
        (0, i32::MAX, "too early"),
        (4 + 4 + name + 8 + 256, 0, "an impossible length"),
        (8 + name, 0, "0 windows"),
        (8 + name, -3, "-3 windows"),
        (12 + name, i32::MAX, "too early"),
        (12 + name, -1, "-1 inputs"),
        (12 + name, 0, "0 inputs"),
        (16 + name, f32::NAN.to_bits() as i32, "NaN for a sum"),
        (whole.len() - trailer + 4, i32::MAX, "too early"),
        (whole.len() - trailer + 4, 3, "behind its end"),
    ] {
        let error = changed(at, n);
        assert!(error.contains(named), "{at} {n}: {error}");
    }
    let twice = [&2i32.to_le_bytes()[..], &whole[4..16 + name + 256].repeat(2)[..]].concat();
    let error = open(dir.path(), &twice).unwrap_err().to_string();
    assert!(error.contains("there twice"), "{error}");
}

#[test]
fn labels_of_the_model_are_seeded_and_stated() {
    let dir = tempdir().unwrap();
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let gradients = |gradient_labels: GradientLabels, label_seed: u64| {
        let path = dir.path().join("calibration");
        let options = CalibrationOptions {
            seq_len: TOKENS,
            windows: Some(WINDOWS),
            gradient_windows: 1,
            gradient_labels,
            label_seed,
            ..CalibrationOptions::default()
        };
        let text = story_tokens().into();
        calibrate(&model, Some(&checkpoint), &text, &options, &path, &mut ()).unwrap();
        let calibration = Calibration::open(&path).unwrap();
        let name = MatrixName::new("model.layers.3.mlp.down_proj");
        let outputs = calibration.outputs(&name).unwrap().packed();
        (calibration.gradient_labels(), outputs)
    };
    let (labels, of_text) = gradients(GradientLabels::Text, 5);
    assert_eq!(labels, Some((GradientLabels::Text, None)));
    let (labels, drawn) = gradients(GradientLabels::Model, 5);
    assert_eq!(labels, Some((GradientLabels::Model, Some(5))));
    // Not bit by bit: some devices sum in an order of their own.
    let gap = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
    };
    assert!(gap(&gradients(GradientLabels::Model, 5).1, &drawn) < 1e-3);
    for other in [of_text, gradients(GradientLabels::Model, 6).1] {
        assert!(gap(&other, &drawn) > 1e-2);
    }
}
