//! GPT-2, whose files have the weights of layers as `[in, out]`: they are read as `[out, in]`, and
//! written as they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::FloatDType;
use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype, SafeTensors};
use tempfile::tempdir;
use welore_burn::checkpoint::{Checkpoint, Remark, copy_companions, save_module};
use welore_burn::compress::{
    Compressor, Conversion, WriteOptions, changes_tensors, convert_directory, merge_directory,
};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, Precision};
use welore_burn::model::{load_model, open_model, projections};
use welore_burn::plan::{MatrixPlan, RankPlan};
use welore_burn::spectrum::{MeasureOptions, Spectra, measure_checkpoint};

use crate::found::model;
use crate::{checkpoint, compress_into, device, fixture};

const MODEL: &str = "tiny-gpt2";

/// Shapes and bytes of the tensors of a file, as the file has them.
pub fn stored(dir: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let content = |view: TensorView<'_>| (view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, content(view))).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn spectra(checkpoint: &Checkpoint) -> Spectra {
    let selection = projections(open_model(fixture(MODEL), &device()).unwrap().skeleton());
    measure_checkpoint(checkpoint, &selection, &MeasureOptions::default(), &mut ()).unwrap()
}

/// A plan that factors the matrices with two different sides at full rank.
fn full_ranks(spectra: Spectra) -> RankPlan {
    let oblong = spectra.matrices.iter().filter(|matrix| matrix.shape[0] != matrix.shape[1]);
    let matrices = oblong.map(|matrix| {
        let form = Form::factors(matrix.full_rank());
        MatrixPlan::new(matrix.name.clone(), matrix.shape, form, matrix.dtype)
    });
    RankPlan::new("full ranks", spectra.model, matrices.collect()).unwrap()
}

#[test]
fn matrices_are_those_of_linear_layers_and_go_back_as_they_came() {
    let (files, checkpoint) = (stored(&fixture(MODEL)), checkpoint(MODEL));
    let name = "transformer.h.1.attn.c_attn.weight";
    let (shape, bytes) = &files[name];
    assert_eq!(shape, &[32, 96]);
    assert_eq!(checkpoint.meta(name).unwrap().shape, [96, 32]);
    let (matrix, found) = (checkpoint.read_matrix(name).unwrap(), numbers(bytes));
    for (row, col) in [(0, 0), (1, 2), (40, 31), (95, 0)] {
        assert_eq!(matrix.data()[32 * row + col], f64::from(found[96 * col + row]));
    }

    let dir = tempdir().unwrap();
    let model = load_model(fixture(MODEL), &device(), FloatDType::F32, &mut ()).unwrap().model;
    save_module(&model, dir.path(), |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
    assert_eq!(stored(dir.path()), files);
}

/// Where all oblong matrices are factored, no bias tells how the square ones are stored.
#[test]
fn factors_are_those_of_linear_layers_and_what_is_exported_has_the_layout_of_its_base() {
    let (scratch, base) = (tempdir().unwrap(), stored(&fixture(MODEL)));
    let source = checkpoint(MODEL);
    let plan = full_ranks(spectra(&source));
    let [low, dense] = ["low", "dense"].map(|name| scratch.path().join(name));
    compress_into(&low, &source, &Compressor::new(&plan));
    let factored = stored(&low);
    assert_eq!(factored["transformer.h.0.mlp.c_proj.V.weight"].0, [32, 40]);
    assert_eq!(factored["transformer.h.0.attn.c_attn.U.weight"].0, [96, 32]);
    let square = "transformer.h.0.attn.c_proj.weight";
    assert_eq!(factored[square], base[square]);

    let output = OutputDir::create(&dense, false).unwrap();
    let files = Checkpoint::open(&low).unwrap();
    merge_directory(&files, &output, &WriteOptions::default(), &mut ()).unwrap();
    output.commit().unwrap();
    let exported = stored(&dense);
    assert!(exported.keys().eq(base.keys()));
    for (name, (shape, bytes)) in &base {
        let (found, entries) = &exported[name];
        assert_eq!(found, shape, "{name}");
        let pairs = numbers(bytes).into_iter().zip(numbers(entries));
        let gap = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap < 1e-5, "{name}: {gap}");
    }
}

#[test]
fn another_type_is_written_in_the_same_layout() {
    let scratch = tempdir().unwrap();
    let source = checkpoint(MODEL);
    let to = |precision| Conversion { dense: false, precision };
    assert!(!changes_tensors(&source, to(Some(Precision::F32))).unwrap());
    let output = OutputDir::create(scratch.path().join("half"), false).unwrap();
    let halves = to(Some(Precision::Bf16));
    convert_directory(&source, halves, &output, &WriteOptions::default(), &mut ()).unwrap();
    output.commit().unwrap();
    let (half, base) = (stored(&scratch.path().join("half")), stored(&fixture(MODEL)));
    for (name, (shape, bytes)) in &base {
        let (found, entries) = &half[name];
        assert_eq!(found, shape, "{name}");
        let halves =
            entries.chunks(2).map(|x| f32::from_bits(u32::from_le_bytes([0, 0, x[0], x[1]])));
        for (a, b) in numbers(bytes).into_iter().zip(halves) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{name}: {b} for {a}");
        }
    }
}

/// The first files have neither a prefix nor a head, and the masks of attention.
#[test]
fn published_files_are_read_with_the_names_of_the_family() {
    let (scratch, mut tensors) = (tempdir().unwrap(), BTreeMap::new());
    for (name, content) in stored(&fixture(MODEL)) {
        tensors.insert(name.strip_prefix("transformer.").unwrap().to_string(), content);
    }
    tensors.insert("h.0.attn.bias".into(), (vec![1, 1, 80, 80], vec![0; 4 * 80 * 80]));
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let dir = scratch.path().join("published");
    fs::create_dir(&dir).unwrap();
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    copy_companions(&fixture(MODEL), &dir).unwrap();

    let opened = open_model(&dir, &device()).unwrap();
    let remarks = [
        Remark::Renamed { from: String::new(), to: "transformer.".into() },
        Remark::Ignored { tensors: 1, first: "transformer.h.0.attn.bias".into() },
    ];
    assert_eq!(opened.checkpoint.remarks(), remarks);
    let plan = full_ranks(spectra(&opened.checkpoint));
    let low = scratch.path().join("low");
    compress_into(&low, &opened.checkpoint, &Compressor::new(&plan));
    let square = "transformer.h.1.attn.c_proj.weight";
    assert_eq!(stored(&low)[square], stored(&fixture(MODEL))[square]);
    let found = open_model(&low, &device()).unwrap().checkpoint.read_f32(square).unwrap();
    assert_eq!(found, checkpoint(MODEL).read_f32(square).unwrap());
}

#[test]
fn weights_alone_tell_how_they_are_stored() {
    let gpt2 = Some(r#"{ "model_type": "gpt2" }"#);
    let part = Some(r#"{ "model_type": "pair", "decoder": { "model_type": "gpt2" } }"#);
    type Case<'a> = (&'a [usize], usize, Option<&'a str>, [usize; 2]);
    let cases: [Case<'_>; 7] = [
        (&[4, 12], 12, None, [12, 4]),
        (&[12, 4], 12, None, [12, 4]),
        (&[12, 4], 12, gpt2, [12, 4]),
        // No bias, or one that tells nothing.
        (&[4, 12], 0, None, [4, 12]),
        (&[4, 12], 0, gpt2, [12, 4]),
        (&[4, 12], 0, part, [12, 4]),
        (&[4, 12], 5, gpt2, [4, 12]),
    ];
    for (shape, bias, config, read) in cases {
        let bias = [bias];
        let mut tensors: Vec<(&str, Dtype, &[usize])> = vec![
            ("a.h.0.attn.c_attn.weight", Dtype::F32, shape),
            ("a.h.0.attn.c_attn.bias", Dtype::F32, &bias[..]),
            // A tower of linear layers of such names beside it.
            ("b.h.0.mlp.c_fc.weight", Dtype::F32, &[8, 6][..]),
            ("b.h.0.mlp.c_fc.bias", Dtype::F32, &[8][..]),
        ];
        if bias == [0] {
            tensors.remove(1);
        }
        let found = Checkpoint::open(model(&tensors, config).path()).unwrap();
        let shape_of = |name: &str| found.meta(name).unwrap().shape.clone();
        let case = format!("{shape:?} with {bias:?} and {config:?}");
        assert_eq!(shape_of("a.h.0.attn.c_attn.weight"), read, "{case}");
        assert_eq!(shape_of("b.h.0.mlp.c_fc.weight"), [8, 6], "{case}");
    }
}
