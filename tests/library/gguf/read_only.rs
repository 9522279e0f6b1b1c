//! Types of blocks that are read, and neither written nor computed with.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::OutputDir;
use welore_burn::ggml::{ContainerError, TensorType};
use welore_burn::gguf::{GgufConversion, GgufError, convert_gguf};
use welore_burn::named::Named;

use super::writer::{Gguf, tiny};
use super::{bits, convert, entries, figures, hex};

/// A matrix of one row.
const MATRIX: &str = "blk.0.ffn_up.weight";
const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";

/// A model that has the row of a type in `gguf.json` as a matrix, and what that row is.
fn with_row(name: &str) -> (Gguf, Vec<f32>) {
    let figures = figures();
    let row = &figures["types"][name];
    let mut gguf = tiny(1, 256);
    let tensor = gguf.tensor(MATRIX);
    tensor.kind = row["type"].as_u64().unwrap() as u32;
    tensor.data = hex(&row["bytes"]);
    (gguf, entries(row))
}

fn weight(dir: &Path) -> Vec<f32> {
    Checkpoint::open(dir.join("model")).unwrap().read_f32(WEIGHT).unwrap()
}

#[test]
fn matrices_stay_in_the_blocks_that_are_computed_with_and_are_unpacked_from_others() {
    for name in figures()["types"].as_object().unwrap().keys() {
        let (gguf, want) = with_row(name);
        let dir = tempdir().unwrap();
        fs::write(dir.path().join("model.gguf"), gguf.bytes()).unwrap();
        let output = OutputDir::create(dir.path().join("model"), false).unwrap();
        let packed = GgufConversion { packed: true };
        convert_gguf(dir.path().join("model.gguf"), packed, &output, &mut ()).unwrap();
        output.commit().unwrap();
        let checkpoint = Checkpoint::open(dir.path().join("model")).unwrap();
        let kept = TensorType::named(&name.to_lowercase()).filter(|kept| *kept != TensorType::F32);
        match kept {
            Some(kept) => {
                let (_, blocks) = checkpoint.raw(&format!("{WEIGHT}.{}", kept.name())).unwrap();
                let unpacked = kept.dequantize_rows(blocks, 256).unwrap();
                assert_eq!(bits(&unpacked), bits(&want), "{name}");
            }
            None => {
                assert_eq!(bits(&checkpoint.read_f32(WEIGHT).unwrap()), bits(&want), "{name}");
            }
        }
    }
}

#[test]
fn nvfp4_is_multiplied_by_the_number_beside_it() {
    let (mut gguf, want) = with_row("NVFP4");
    gguf.add_f32("blk.0.ffn_up.scale", &[1], &[0.3]);
    gguf.add_f32("blk.0.ffn_up.input_scale", &[1], &[7.0]);
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let want: Vec<f32> = want.iter().map(|x| x * 0.3).collect();
    assert_eq!(bits(&weight(dir.path())), bits(&want));

    let refused = |change: fn(&mut Gguf)| {
        let (mut gguf, _) = with_row("NVFP4");
        change(&mut gguf);
        convert(&gguf.bytes(), dir.path()).unwrap_err()
    };
    let wide = refused(|g| g.add_f32("blk.0.ffn_up.scale", &[2], &[1.0; 2])).to_string();
    assert!(wide.contains("`blk.0.ffn_up.scale` is F32 [2], not F32 [1]"), "{wide}");
    let infinite = refused(|g| g.add_f32("blk.0.ffn_up.scale", &[1], &[f32::INFINITY]));
    assert!(matches!(infinite, GgufError::NotFinite { .. }), "{infinite}");
    // No other type has one.
    let other = refused(|g| g.add_f32("blk.0.ffn_down.scale", &[1], &[1.0])).to_string();
    assert!(other.contains("`blk.0.ffn_down.scale` does not belong"), "{other}");
}

#[test]
fn type_that_nobody_knows_is_refused_by_number() {
    let (mut gguf, _) = with_row("F32");
    // Q4_0 for ARM processors, which llama.cpp gave up.
    gguf.tensor(MATRIX).kind = 31;
    match convert(&gguf.bytes(), tempdir().unwrap().path()).unwrap_err() {
        GgufError::Container(ContainerError::Unsupported { reason, .. }) => {
            assert!(reason.contains("ggml_type") && reason.contains("31"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn types_that_no_weights_have_are_refused_by_name() {
    for (kind, bytes, name) in [(9, 36, "Q8_1"), (15, 292, "Q8_K"), (28, 8, "F64")] {
        let (mut gguf, _) = with_row("F32");
        let tensor = gguf.tensor(MATRIX);
        let block = match kind {
            9 => 32,
            15 => 256,
            _ => 1,
        };
        (tensor.kind, tensor.data) = (kind, vec![0; 256 / block * bytes]);
        let error = convert(&gguf.bytes(), tempdir().unwrap().path()).unwrap_err();
        assert!(matches!(error, GgufError::TensorType { .. }), "{error}");
        assert!(error.to_string().contains(&format!("`{MATRIX}` is {name}, ")), "{error}");
    }
}
