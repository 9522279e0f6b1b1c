//! Models of several files.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};
use welore_burn::files::OutputDir;
use welore_burn::ggml::ContainerError;
use welore_burn::gguf::{GgufConversion, GgufError, GgufSummary, convert_gguf, gguf_files};

use super::writer::{Gguf, Meta, of_fixture, tiny};
use crate::fixture;

fn name(number: usize, count: usize) -> String {
    format!("m-{number:05}-of-{count:05}.gguf")
}

/// A directory with these parts under the names that they should have, and their paths.
fn written(parts: &[Gguf]) -> (TempDir, Vec<PathBuf>) {
    let dir = tempdir().unwrap();
    let write = |(index, part): (usize, &Gguf)| {
        let path = dir.path().join(name(index + 1, parts.len()));
        fs::write(&path, part.bytes()).unwrap();
        path
    };
    let paths = parts.iter().enumerate().map(write).collect();
    (dir, paths)
}

/// Converts a file into `model` of a directory, which is replaced.
fn convert(path: &Path, dir: &Path) -> Result<GgufSummary, GgufError> {
    let output = OutputDir::create(dir.join("model"), true).unwrap();
    let summary = convert_gguf(path, GgufConversion::default(), &output, &mut ())?;
    output.commit().unwrap();
    Ok(summary)
}

fn contents(dir: &Path) -> [Vec<u8>; 3] {
    ["config.json", "tokenizer.json", "model.safetensors"]
        .map(|name| fs::read(dir.join("model").join(name)).unwrap())
}

#[test]
fn model_of_several_files_is_the_one_of_a_single_file_whichever_part_is_given() {
    let whole = of_fixture("tiny-llama");
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("whole.gguf"), whole.bytes()).unwrap();
    let summary = convert(&dir.path().join("whole.gguf"), dir.path()).unwrap();
    let expected = contents(dir.path());
    // llama.cpp can make a first part without tensors.
    for sizes in [[0, 8], [5, 3]] {
        let rest = whole.tensors.len() - 8;
        let (dir, paths) = written(&whole.parts(&[sizes[0], sizes[1], rest]));
        for path in &paths {
            assert_eq!(gguf_files(path).unwrap(), paths);
            assert_eq!(convert(path, dir.path()).unwrap(), summary);
            assert!(contents(dir.path()) == expected, "{}", path.display());
        }
    }
}

#[test]
fn parts_of_the_gguf_package_are_read() {
    let dir = tempdir().unwrap();
    for number in [1, 2] {
        let part = fixture("split").join(format!("tiny-0000{number}-of-00002.gguf"));
        assert_eq!(convert(&part, dir.path()).unwrap().types["F32"], 11);
    }
}

#[test]
fn file_that_is_whole_may_have_any_name() {
    let dir = tempdir().unwrap();
    let path = dir.path().join(name(1, 2));
    let mut gguf = tiny(2, 2);
    for count in [None, Some(0), Some(1)] {
        if let Some(count) = count {
            gguf.set("split.count", Meta::U16(count));
        }
        fs::write(&path, gguf.bytes()).unwrap();
        assert_eq!(gguf_files(&path).unwrap(), vec![path.clone()]);
        convert(&path, dir.path()).unwrap();
    }
}

type Change = fn(&mut Vec<Gguf>);

#[test]
fn parts_that_do_not_belong_together_are_refused_in_a_line_that_names_the_file() {
    let cases: [(usize, &str, Change); 12] = [
        (2, "states that it is part 3 of 3, not part 2 of 3", |p| p.swap(1, 2)),
        (3, "states that it is part 3 of 4, not part 3 of 3", |p| {
            p[2].set("split.count", Meta::U16(4));
        }),
        (2, "states that it is a whole model, not part 2 of 3", |p| p[1].unset("split.count")),
        (2, "`split.no` is missing", |p| p[1].unset("split.no")),
        (2, "`split.no` is not a whole number", |p| p[1].set("split.no", Meta::I32(-1))),
        (1, "`split.no` is 3, but `split.count` is 3", |p| p[0].set("split.no", Meta::U16(3))),
        (1, "`split.count` is 4294967295, more than a model can have parts", |p| {
            p[0].set("split.count", Meta::U32(u32::MAX));
        }),
        (3, "its `split.tensors.count` is 12, but 11 in", |p| {
            p[2].set("split.tensors.count", Meta::I32(12));
        }),
        (2, "its `general.architecture` is `qwen2`, but `llama` in", |p| {
            p[1].set("general.architecture", Meta::Text("qwen2".into()));
        }),
        (1, "`split.tensors.count` is 11, but all parts together have 10 tensors", |p| {
            drop(p[2].tensors.pop());
        }),
        (3, "has a tensor `blk.0.attn_q.weight`, which is also in", |p| {
            let twice = p[0].tensors[0].clone();
            p[2].tensors.push(twice);
        }),
        (2, "tensor `blk.0.ffn_down.weight` has shape [1, 2], not [2, 1]", |p| {
            p[1].tensor("blk.0.ffn_down.weight").shape.reverse();
        }),
    ];
    for (number, reason, change) in cases {
        let mut parts = tiny(2, 2).parts(&[3, 4, 4]);
        change(&mut parts);
        let (dir, paths) = written(&parts);
        let error = convert(&paths[0], dir.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(error.contains(&name(number, 3)), "{reason}: {error}");
        assert!(!dir.path().join("model").exists());
    }
}

#[test]
fn part_that_is_missing_is_named() {
    for (given, missing) in [(0, 1), (2, 0), (1, 2)] {
        let (dir, paths) = written(&tiny(2, 2).parts(&[3, 4, 4]));
        fs::remove_file(&paths[missing]).unwrap();
        match convert(&paths[given], dir.path()).unwrap_err() {
            GgufError::Container(ContainerError::MissingPart { path, number, count }) => {
                assert_eq!((&path, number, count), (&paths[missing], missing as u64 + 1, 3));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn part_with_another_name_is_refused_since_others_are_found_by_it() {
    let (dir, paths) = written(&tiny(2, 2).parts(&[3, 4, 4]));
    for other in ["m.gguf", "m-00002-of-00004.gguf", "m-2-of-3.gguf", "m-00002-of-00003.GGUF"] {
        let path = dir.path().join(other);
        fs::rename(&paths[1], &path).unwrap();
        let error = convert(&path, dir.path()).unwrap_err().to_string();
        assert!(error.contains("does not end in `-00002-of-00003.gguf`"), "{error}");
        assert!(error.contains(other), "{error}");
        fs::rename(&path, &paths[1]).unwrap();
    }
}

#[test]
fn damaged_part_is_named() {
    let (dir, paths) = written(&tiny(2, 2).parts(&[3, 4, 4]));
    let bytes = fs::read(&paths[2]).unwrap();
    for len in [0, 3, 40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&paths[2], &bytes[..len]).unwrap();
        let error = convert(&paths[0], dir.path()).unwrap_err();
        match error {
            GgufError::Container(ContainerError::Header { path, .. }) => assert_eq!(path, paths[2]),
            other => panic!("{len} bytes: {other}"),
        }
    }
    // A directory is no part.
    fs::remove_file(&paths[2]).unwrap();
    fs::create_dir(&paths[2]).unwrap();
    let error = convert(&paths[0], dir.path()).unwrap_err();
    assert!(matches!(error, GgufError::Container(ContainerError::Missing { .. })), "{error}");
}
