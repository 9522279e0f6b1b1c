//! Experts of gpt-oss in MXFP4: read as numbers, and written into files as they are.

use std::fs;
use std::path::PathBuf;

use half::bf16;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::ggml::{TensorType, WrittenType};
use welore_burn::gguf::GgufOptions;
use welore_burn::model::open_weights;

use super::convert;
use super::export::export;
use super::families::{Weights, changed, holds};

const EXPERTS: usize = 4;
const HIDDEN: usize = 32;
const WIDTH: usize = 64;

/// Any codes.
fn codes(rows: usize, cols: usize) -> Vec<u8> {
    (0..EXPERTS * rows * cols / 2).map(|n| (n * 167 % 251) as u8).collect()
}

/// Exponents of numbers around 1.
fn exponents(rows: usize, cols: usize) -> Vec<u8> {
    (0..EXPERTS * rows * cols / 32).map(|n| 120 + (n % 9) as u8).collect()
}

/// Makes experts wider, and puts them in MXFP4.
fn in_mxfp4(weights: &mut Weights) {
    weights.retain(|name, _| !name.contains(".experts."));
    for layer in 0..2 {
        let mut add = |name: &str, dtype, shape: &[usize], bytes: Vec<u8>| {
            let name = format!("model.layers.{layer}.mlp.experts.{name}");
            weights.insert(name, (dtype, shape.to_vec(), bytes));
        };
        for (name, rows, cols) in
            [("gate_up_proj", 2 * WIDTH, HIDDEN), ("down_proj", HIDDEN, WIDTH)]
        {
            let blocks = [EXPERTS, rows, cols / 32, 16];
            add(&format!("{name}_blocks"), Dtype::U8, &blocks, codes(rows, cols));
            add(&format!("{name}_scales"), Dtype::U8, &blocks[..3], exponents(rows, cols));
            let bias = vec![0; 4 * EXPERTS * rows];
            add(&format!("{name}_bias"), Dtype::F32, &[EXPERTS, rows], bias);
        }
    }
}

fn model(dir: &TempDir) -> PathBuf {
    let config = |config: &mut Value| {
        config["swiglu_limit"] = 7.0.into();
        config["intermediate_size"] = WIDTH.into();
    };
    changed("tiny-gpt-oss", dir, config, in_mxfp4)
}

/// Codes of a row, in order.
fn codes_of_row(row: usize, cols: usize, all: &[u8]) -> Vec<u8> {
    let bytes = &all[row * cols / 2..][..cols / 2];
    bytes.iter().flat_map(|both| [both & 15, both >> 4]).collect()
}

#[test]
fn numbers_of_4_bits_count_with_their_exponents() {
    let dir = tempdir().unwrap();
    let checkpoint = open_weights(model(&dir)).unwrap();
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    let (meta, content) = checkpoint.content(name).unwrap();
    assert_eq!((meta.dtype, &meta.shape[..]), (Dtype::BF16, &[WIDTH, HIDDEN][..]));
    // Every other row is one of the gate.
    let row = 2 * WIDTH * 2 + 2 * 5 + 1;
    let exponent = exponents(2 * WIDTH, HIDDEN)[row];
    let numbers = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let codes = codes_of_row(row, HIDDEN, &codes(2 * WIDTH, HIDDEN));
    for (code, got) in codes.into_iter().zip(content.as_chunks::<2>().0[5 * HIDDEN..].iter()) {
        let size = numbers[usize::from(code & 7)] * 2f32.powi(i32::from(exponent) - 127);
        let want = if code & 8 == 0 { size } else { -size };
        assert_eq!(bf16::from_le_bytes(*got).to_f32(), want);
    }
    // All that is in the file, but what is before the tensors.
    let file = dir.path().join("tiny-gpt-oss/model.safetensors");
    let file = fs::read(file).unwrap();
    let header = u64::from_le_bytes(*file.first_chunk::<8>().unwrap());
    assert_eq!(checkpoint.stored_bytes(), file.len() as u64 - 8 - header);
}

#[test]
fn blocks_are_written_as_they_are_unless_a_type_is_asked_for() {
    let dir = tempdir().unwrap();
    let model = model(&dir);
    let path = dir.path().join("model.gguf");
    let written = export(&model, &path, &GgufOptions::default()).unwrap();
    assert_eq!(written.types[&WrittenType::Mxfp4], 2 * 3);
    let file = fs::read(&path).unwrap();
    // The first row of the up projection of the first expert as ggml has it.
    let codes = codes_of_row(1, HIDDEN, &codes(2 * WIDTH, HIDDEN));
    let pairs = (0..16).map(|at| codes[at] | (codes[at + 16] << 4));
    let row: Vec<u8> = [exponents(2 * WIDTH, HIDDEN)[1]].into_iter().chain(pairs).collect();
    assert!(holds(&file, &row));

    // What is read back are the same numbers.
    convert(&file, dir.path()).unwrap();
    let back = Checkpoint::open(dir.path().join("model")).unwrap();
    let source = open_weights(&model).unwrap();
    for expert in 0..EXPERTS {
        for matrix in ["gate_proj", "up_proj", "down_proj"] {
            let name = format!("model.layers.0.mlp.experts.{expert}.{matrix}.weight");
            let [got, want] = [&back, &source].map(|from| from.read_f32(&name).unwrap());
            assert!(got == want, "{name}");
        }
    }

    let options = GgufOptions { projections: Some(TensorType::Bf16), ..GgufOptions::default() };
    let wide = export(&model, &path, &options).unwrap();
    assert!(!wide.types.contains_key(&WrittenType::Mxfp4));
    assert!(wide.bytes > written.bytes);
}
