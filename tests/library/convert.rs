//! Model directories in another type.

use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use welore_burn::checkpoint::{Checkpoint, ShardLayout, ShardWriter};
use welore_burn::compress::{
    CompressError, Compressor, Conversion, WriteOptions, changes_tensors, convert_directory,
    converted_size,
};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Precision, TensorSpec};
use welore_burn::plan::{PlanOptions, RankPlan, WeLore, make_plan, read_plan};

use crate::{checkpoint, compress_into, tiny_spectra};

const BF16: Conversion = Conversion { dense: false, precision: Some(Precision::Bf16) };

/// Writes tensors into one file.
fn write(dir: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Checkpoint {
    let spec = |(name, dtype, shape, _): &(&str, Dtype, &[usize], Vec<u8>)| TensorSpec {
        name: name.to_string(),
        dtype: *dtype,
        shape: shape.to_vec(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let layout = ShardLayout::new(&specs, u64::MAX).unwrap();
    let writer = ShardWriter::new(dir, &layout).unwrap();
    tensors.iter().for_each(|(name, _, _, data)| writer.write(name, data).unwrap());
    writer.finish().unwrap();
    Checkpoint::open(dir).unwrap()
}

fn convert(checkpoint: &Checkpoint, conversion: Conversion, to: &Path) -> Option<RankPlan> {
    let output = OutputDir::create(to, false).unwrap();
    let options = WriteOptions::default();
    let plan = convert_directory(checkpoint, conversion, &output, &options, &mut ()).unwrap();
    output.commit().unwrap();
    plan
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The numbers of a bf16 tensor.
fn numbers(checkpoint: &Checkpoint, tensor: &str) -> Vec<f32> {
    let (meta, bytes) = checkpoint.raw(tensor).unwrap();
    assert_eq!(meta.dtype, Dtype::BF16);
    bytes.as_chunks::<2>().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32()).collect()
}

#[test]
fn numbers_are_converted_and_integers_stay() {
    let scratch = tempfile::tempdir().unwrap();
    let ids: Vec<u8> = [3i64, -1, i64::MAX].iter().flat_map(|x| x.to_le_bytes()).collect();
    let norm: Vec<u8> = [0.5f64, 1e-300].iter().flat_map(|x| x.to_le_bytes()).collect();
    let source = write(
        scratch.path(),
        &[
            ("ids", Dtype::I64, &[3], ids.clone()),
            ("norm", Dtype::F64, &[2], norm),
            ("x.weight", Dtype::F32, &[1, 3], f32s(&[1.0 + 2f32.powi(-8), -2.0, 3e38])),
        ],
    );
    let predicted = converted_size(&source, BF16).unwrap();
    let out = scratch.path().join("out");
    assert_eq!(convert(&source, BF16, &out), None);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.raw("ids").unwrap().1, ids);
    assert_eq!(numbers(&written, "norm"), [0.5, 0.0]);
    // A tie goes to the even number.
    assert_eq!(numbers(&written, "x.weight")[..2], [1.0, -2.0]);
    assert_eq!((predicted.parameters, predicted.bytes), (written.parameters(), written.bytes()));
    assert!(changes_tensors(&source, BF16).unwrap() && !changes_tensors(&written, BF16).unwrap());

    let too_large = Conversion { precision: Some(Precision::F16), ..BF16 };
    let output = OutputDir::create(scratch.path().join("half"), false).unwrap();
    let options = WriteOptions::default();
    let error = convert_directory(&source, too_large, &output, &options, &mut ()).unwrap_err();
    assert!(matches!(&error, CompressError::Checkpoint(_)), "{error}");
    assert!(error.to_string().starts_with("tensor `x.weight`: 3.0"), "{error}");
}

#[test]
fn products_are_rounded_once() {
    let scratch = tempfile::tempdir().unwrap();
    // The product is above the tie between 1 and the next bf16 by less than an f32 can tell.
    let (up, down) = (1.0 + 2f32.powi(-23), 1.0 + 2f32.powi(-8));
    let source = write(
        scratch.path(),
        &[
            ("x.U.weight", Dtype::F32, &[2, 1], f32s(&[up, 1.0])),
            ("x.V.weight", Dtype::F32, &[1, 2], f32s(&[down, 0.0])),
        ],
    );
    let out = scratch.path().join("out");
    convert(&source, Conversion { dense: true, ..BF16 }, &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(numbers(&written, "x.weight"), [1.0 + 2f32.powi(-7), 0.0, 1.0, 0.0]);
}

#[test]
fn the_plan_of_the_result_counts_what_is_stored() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.5)).unwrap();
    let low = scratch.path().join("low");
    compress_into(&low, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    let wide = scratch.path().join("wide");
    let conversion = Conversion { dense: false, precision: Some(Precision::F32) };
    let told = convert(&Checkpoint::open(&low).unwrap(), conversion, &wide).unwrap();
    // What follows from ranks and forms is counted again when a plan is read.
    assert_eq!(read_plan(&wide).unwrap().as_ref(), Some(&told));
    assert_eq!(told.totals.bytes_after, Checkpoint::open(&wide).unwrap().bytes());
    assert_eq!(told.totals.bytes_before, 2 * plan.totals.bytes_before);
    assert_eq!(told.totals.parameters_after, plan.totals.parameters_after);
    assert!(told.matrices.iter().all(|matrix| matrix.dtype == Dtype::F32));
}
