//! Files of llama.cpp.

use std::fs;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use tempfile::TempDir;
use welore_burn::data::TextTokenizer;
use welore_burn::files::OutputDir;
use welore_burn::forms::parameters;
use welore_burn::gguf::{GgufConversion, convert_gguf};
use welore_burn::model::{OpenedModel, open_model};

use super::directory;

/// The names of the two parts of a model, and the parts of one.
const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
const PARTS: [&[u8]; 2] = [
    include_bytes!("../../tests/fixtures/split/tiny-00001-of-00002.gguf"),
    include_bytes!("../../tests/fixtures/split/tiny-00002-of-00002.gguf"),
];

/// A GGUF file becomes a model that can be opened, or nothing is left of it.
pub fn gguf(data: &[u8]) -> bool {
    converted(&[("model.gguf", data)], "model.gguf", GgufConversion::default()).is_some()
}

/// A part of a GGUF model of two files becomes a model with the other part, or nothing is left of it:
/// as the first part and as the second one.
pub fn gguf_part(data: &[u8]) -> bool {
    let [first, second] = PARTS;
    let conversion = GgufConversion::default();
    let whole = |parts: [&[u8]; 2], given: &str| {
        converted(&[(NAMES[0], parts[0]), (NAMES[1], parts[1])], given, conversion).is_some()
    };
    whole([data, second], NAMES[0]) | whole([first, data], NAMES[1])
}

/// A GGUF file whose matrices stay in their blocks becomes a model that can be loaded and run. Its
/// blocks are as large as in the file, and have finite entries.
pub fn packed_gguf(data: &[u8]) -> bool {
    let conversion = GgufConversion { packed: true };
    let files = [("model.gguf", data)];
    let Some((_dir, opened)) = converted(&files, "model.gguf", conversion) else { return false };
    let blocks = check_blocks(&opened);
    assert!(blocks <= data.len(), "{blocks} bytes of blocks in a file of {}", data.len());
    let (count, vocab_size) = (opened.checkpoint.parameters(), opened.config.vocab_size);
    let loaded = opened.load(FloatDType::F32, |_| false, &mut ());
    let model = loaded.expect("what is written can be loaded").model;
    assert_eq!(parameters(&model), count);
    assert_eq!(integer_bytes(&model), blocks, "blocks are not unpacked to be loaded");
    let first = Tensor::<2, Int>::from_data(TensorData::new(vec![0i32], [1, 1]), &Device::flex());
    assert_eq!(model.forward(first).dims(), [1, 1, vocab_size]);
    true
}

/// The model directory of one of these files, and where it is. `None` if they are refused.
fn converted(
    files: &[(&str, &[u8])],
    given: &str,
    conversion: GgufConversion,
) -> Option<(TempDir, OpenedModel)> {
    let dir = directory(files);
    let model = dir.path().join("model");
    let output = OutputDir::create(&model, false).expect("the place is free");
    let Ok(summary) = convert_gguf(dir.path().join(given), conversion, &output, &mut ()) else {
        drop(output);
        let left = fs::read_dir(dir.path()).expect("the directory is there").count();
        assert_eq!(left, files.len(), "a file that is refused leaves nothing");
        return None;
    };
    output.commit().expect("the place is free");
    let opened = open_model(&model, &Device::flex()).expect("what is written can be opened");
    assert_eq!(opened.checkpoint.parameters(), summary.parameters);
    assert_eq!(opened.checkpoint.bytes(), summary.bytes);
    TextTokenizer::open(&model).expect("what is written can be opened");
    Some((dir, opened))
}

/// Checks the matrices in blocks, and returns how many bytes these have.
fn check_blocks(opened: &OpenedModel) -> usize {
    let mut bytes = 0;
    for matrix in &opened.compressed {
        assert!(matrix.form.is_packed(), "{matrix:?}");
        for tensor in matrix.tensors() {
            let (_, blocks) = opened.checkpoint.raw(&tensor.name).expect("it is listed");
            bytes += blocks.len();
        }
        let merged = opened.checkpoint.read_merged(matrix).expect("its entries are finite");
        assert_eq!([merged.rows(), merged.cols()], matrix.shape, "{matrix:?}");
    }
    bytes
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
