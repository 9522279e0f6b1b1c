//! Convolutions are compressed by the matrices of their weights, and written as convolutions.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::{Checkpoint, NotLinear, Remark};
use welore_burn::compress::{CompressError, Compressor, WriteOptions, check_plan, merge_directory};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, FormError};
use welore_burn::model::{FoundModel, open_found};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{MatrixPlan, RankPlan};
use welore_burn::progress::{Interrupted, Progress};
use welore_burn::spectrum::ModelSize;

use crate::{compress_into, device, found};

const OUTPUTS: usize = 6;
const INPUTS: usize = 4;
const SIDE: usize = 3;
const COLUMNS: usize = INPUTS * SIDE * SIDE;
const CONV: &str = "features.0";

/// Any numbers.
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|n| ((n * n % 97) as f32 * 0.37).sin()).collect()
}

/// A directory with a model that has a convolution and a linear layer in `model`.
fn model() -> TempDir {
    let dir = tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    let tensors = [
        ("features.0.weight", vec![OUTPUTS, INPUTS, SIDE, SIDE]),
        ("features.0.bias", vec![OUTPUTS]),
        ("features.1.weight", vec![8, 1, 3, 3]),
        ("fc.weight", vec![5, 7]),
    ];
    let data = tensors.each_ref().map(|(_, shape)| {
        let numbers = numbers(shape.iter().product());
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()
    });
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (name.to_string(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model/model.safetensors")).unwrap();
    dir
}

/// Shapes of tensors as the file in a directory has them.
fn shape_in_file(dir: &Path, tensor: &str) -> Vec<usize> {
    let file = Checkpoint::open_file(dir.join("model.safetensors")).unwrap();
    file.meta(tensor).unwrap().shape.clone()
}

fn plan(checkpoint: &Checkpoint, form: Form) -> RankPlan {
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    let conv = MatrixPlan::new(CONV, [OUTPUTS, COLUMNS], form, Dtype::F32);
    RankPlan::new("test", size, vec![conv]).unwrap()
}

#[test]
fn convolutions_are_matrices_where_that_is_asked_for() {
    let tensors: [(&str, Dtype, &[usize]); 6] = [
        ("conv.weight", Dtype::F32, &[8, 4, 3]),
        ("depthwise.weight", Dtype::F32, &[8, 1, 3, 3]),
        ("vision.embeddings.patch_embedding.weight", Dtype::F32, &[8, 3, 2, 2]),
        ("moe.input_linear.weight", Dtype::F32, &[2, 8, 130]),
        ("position_embedding.weight", Dtype::F32, &[16, 8]),
        ("fc.weight", Dtype::F32, &[8, 4]),
    ];
    let dir = found::model(&tensors, None);
    let plain = open_found(dir.path(), &device()).unwrap();
    let names = |of: &FoundModel| {
        let layers = of.unfamiliar().unwrap().linear_layers().clone();
        let names: Vec<String> = layers.names.iter().map(MatrixName::to_string).collect();
        (names, layers.left_out)
    };
    let (selected, left_out) = names(&plain);
    assert_eq!(selected, ["fc"]);
    assert!(left_out.contains(&("conv".into(), NotLinear::Dimensions)), "{left_out:?}");

    let asked = plain.with_convolutions(|_| true);
    let (selected, left_out) = names(&asked);
    assert_eq!(selected, ["conv", "fc", "vision.embeddings.patch_embedding"]);
    for (name, why) in [
        ("depthwise", NotLinear::Depthwise),
        ("moe.input_linear", NotLinear::Dimensions),
        ("position_embedding", NotLinear::Embedding),
    ] {
        assert!(left_out.contains(&(name.into(), why)), "{name}: {left_out:?}");
    }
    let checkpoint = asked.checkpoint();
    assert_eq!(checkpoint.matrix_shape("conv.weight").unwrap(), [8, 12]);
    assert_eq!(checkpoint.remarks(), [Remark::Convolutions { tensors: 2 }]);
    assert!(checkpoint.remarks()[0].to_string().contains("without groups"));
}

/// The outputs of a convolution `[out, in, 3, 3]` or `[out, in, 1, 1]` of inputs `[in, 5, 5]`, where
/// the kernel is inside.
fn convolved(weight: &[f32], side: usize, input: &[f32], from: usize) -> Vec<f32> {
    let (inputs, to) = (input.len() / (from * from), from - side + 1);
    let outputs = weight.len() / (inputs * side * side);
    let mut made = Vec::new();
    for output in 0..outputs {
        for (row, col) in (0..to).flat_map(|row| (0..to).map(move |col| (row, col))) {
            let mut sum = 0.0;
            for at in 0..inputs * side * side {
                let (channel, down, across) = (at / (side * side), at / side % side, at % side);
                let place = (channel * from + row + down) * from + col + across;
                sum += weight[output * inputs * side * side + at] * input[place];
            }
            made.push(sum);
        }
    }
    made
}

#[test]
fn two_factors_are_two_convolutions_one_after_the_other() {
    let dir = model();
    let source = Checkpoint::open(dir.path().join("model")).unwrap().with_convolutions(|_| true);
    let low = dir.path().join("low");
    compress_into(&low, &source, &Compressor::new(&plan(&source, Form::factors(OUTPUTS))));
    assert_eq!(shape_in_file(&low, "features.0.V.weight"), [OUTPUTS, INPUTS, SIDE, SIDE]);
    assert_eq!(shape_in_file(&low, "features.0.U.weight"), [OUTPUTS, OUTPUTS, 1, 1]);
    // What is copied has its own shape.
    assert_eq!(shape_in_file(&low, "features.1.weight"), [8, 1, 3, 3]);

    // The rank is full, so nothing is lost.
    let file = Checkpoint::open_file(low.join("model.safetensors")).unwrap();
    let [first, second] =
        ["V", "U"].map(|factor| file.read_f32(&format!("features.0.{factor}.weight")).unwrap());
    let input = numbers(INPUTS * 25);
    let want = convolved(&source.read_f32("features.0.weight").unwrap(), SIDE, &input, 5);
    let between = convolved(&first, SIDE, &input, 5);
    let got = convolved(&second, 1, &between, 3);
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-4), "{got:?} {want:?}");
}

#[test]
fn a_compressed_directory_is_known_again_and_merged_into_the_shape_that_it_had() {
    let dir = model();
    let source = Checkpoint::open(dir.path().join("model")).unwrap().with_convolutions(|_| true);
    let [low, dense] = ["low", "dense"].map(|name| dir.path().join(name));
    compress_into(&low, &source, &Compressor::new(&plan(&source, Form::factors(2))));
    let compressed = Checkpoint::open(&low).unwrap();
    let matrices = compressed.compressed_matrices().unwrap();
    assert_eq!(matrices.len(), 1);
    assert_eq!((matrices[0].form, matrices[0].shape), (Form::factors(2), [OUTPUTS, COLUMNS]));
    assert!(compressed.remarks().is_empty(), "nobody asked for what was written here");
    let output = OutputDir::create(&dense, false).unwrap();
    merge_directory(&compressed, &output, &WriteOptions::default(), &mut ()).unwrap();
    output.commit().unwrap();
    assert_eq!(shape_in_file(&dense, "features.0.weight"), [OUTPUTS, INPUTS, SIDE, SIDE]);
    let [got, want] = [&Checkpoint::open(&dense).unwrap(), &source]
        .map(|files| files.read_f32("features.0.weight").unwrap());
    let product = compressed.read_merged(&matrices[0]).unwrap();
    for (got, merged) in got.iter().zip(product.data()) {
        assert!((f64::from(*got) - merged).abs() < 1e-6);
    }
    assert_ne!(got, want, "rank 2 of 6 loses something");
}

/// Allows no work.
struct Nothing;

impl Progress for Nothing {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        Err(Interrupted)
    }
}

#[test]
fn convolutions_are_stored_in_two_factors_alone() {
    let dir = model();
    let source = Checkpoint::open(dir.path().join("model")).unwrap().with_convolutions(|_| true);
    check_plan(&source, &plan(&source, Form::factors(2))).unwrap();
    let refused = check_plan(&source, &plan(&source, Form::pivot(2))).unwrap_err();
    let is_impossible = matches!(
        &refused,
        CompressError::Form { source: FormError::Impossible(reason), .. }
            if reason.contains("two factors alone")
    );
    assert!(is_impossible, "{refused}");
    // Where the storage is chosen, that of a convolution is not.
    let size = ModelSize { parameters: source.parameters(), bytes: source.bytes() };
    let narrow = MatrixPlan::new(CONV, [OUTPUTS, COLUMNS], Form::factors(2), Dtype::BF16);
    let narrow = RankPlan::new("test", size, vec![narrow]).unwrap();
    let compressor = Compressor::new(&narrow);
    assert_eq!(compressor.storages_to_choose(&source), 0);
    let chosen = compressor.choose_storage(&source, &mut Nothing).unwrap();
    assert_eq!(chosen.matrices[0].form, Form::factors(2));
    // Without asking, the plan is not for this shape.
    let plain = Checkpoint::open(dir.path().join("model")).unwrap();
    assert!(check_plan(&plain, &plan(&source, Form::factors(2))).is_err());
}
