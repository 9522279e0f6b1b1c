//! Model directories: reading hostile ones, writing complete ones.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{LayerNormConfig, LinearConfig, LinearLayout};
use burn::tensor::{Distribution, FloatDType, Tensor, Tolerance};
use safetensors::Dtype;
use welore_burn::checkpoint::{
    Checkpoint, CheckpointError, ShardLayout, ShardWriter, TensorProblem, load_module, save_module,
};
use welore_burn::files::{FileError, OutputDir, write_file};
use welore_burn::forms::{Form, FormError, TensorSpec};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::natural_order;

use crate::device;

#[derive(Module, Debug)]
struct Net {
    norm: burn::nn::LayerNorm,
    plain: burn::nn::Linear,
    factored: LowRankLinear,
}

impl Net {
    fn new() -> Self {
        let device = device();
        Self {
            norm: LayerNormConfig::new(6).init(&device),
            plain: LinearConfig::new(6, 4).init(&device),
            factored: LowRankLinearConfig::new(4, 8).with_rank(Some(2)).init(&device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.factored.forward(self.plain.forward(self.norm.forward(x)))
    }
}

fn save(net: &Net, dir: &Path, shard_bytes: u64) {
    save_module(net, dir, |_| Dtype::F32, shard_bytes, &mut ()).unwrap();
}

/// Writes f32 tensors into one file.
fn write_tensors(dir: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let spec = |(name, shape, _): &(&str, &[usize], Vec<f32>)| TensorSpec {
        name: name.to_string(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let layout = ShardLayout::new(&specs, u64::MAX).unwrap();
    let writer = ShardWriter::new(dir, &layout).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

fn load(net: Net, dir: &Path) -> Result<Net, CheckpointError> {
    load_module(net, &Checkpoint::open(dir)?, |_| FloatDType::F32, &mut ())
}

#[test]
fn modules_round_trip_under_pytorch_names_in_one_file_and_in_shards() {
    let net = Net::new();
    let x = Tensor::random([3, 6], Distribution::Default, &device());
    for shard_bytes in [u64::MAX, 100] {
        let dir = tempfile::tempdir().unwrap();
        save(&net, dir.path(), shard_bytes);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let shape = |name: &str| checkpoint.meta(name).map(|meta| meta.shape.clone());
        assert_eq!(shape("norm.weight"), Some(vec![6]));
        assert_eq!(shape("norm.bias"), Some(vec![6]));
        assert_eq!(shape("plain.weight"), Some(vec![4, 6]));
        assert_eq!(shape("factored.V.weight"), Some(vec![2, 4]));
        assert_eq!(shape("factored.U.weight"), Some(vec![8, 2]));
        assert_eq!(checkpoint.parameters(), net.num_params() as u64);
        let sharded = dir.path().join("model.safetensors.index.json").exists();
        assert_eq!(sharded, shard_bytes == 100);

        let loaded = load(Net::new(), dir.path()).unwrap();
        loaded
            .forward(x.clone())
            .into_data()
            .assert_approx_eq::<f32>(&net.forward(x.clone()).into_data(), Tolerance::default());
    }
}

/// A layer from 4 to 7 features with these outputs as pivots, and random weights.
fn pivoted(pivots: &[usize]) -> LowRankLinear {
    let random = |shape: [usize; 2]| Tensor::random(shape, Distribution::Default, &device());
    LowRankLinear::from_pivots(random([4, 2]), random([2, 5]), pivots, None).unwrap()
}

#[test]
fn a_matrix_in_any_form_is_loaded_as_it_was_saved() {
    let x = Tensor::<2>::random([3, 4], Distribution::Default, &device());
    let dense = || LowRankLinearConfig::new(4, 7).with_bias(false).init(&device());
    // The pivots of a module are not those of the file before it is loaded.
    let pairs = [
        (dense(), dense()),
        (dense().factored(2).unwrap(), dense().factored(2).unwrap()),
        (pivoted(&[5, 0]), pivoted(&[1, 2])),
        (pivoted(&[0, 1]), pivoted(&[6, 3])),
    ];
    for (saved, other) in pairs {
        let form = saved.form();
        let dir = tempfile::tempdir().unwrap();
        save_module(&saved, dir.path(), |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let loaded = load_module(other, &checkpoint, |_| FloatDType::F32, &mut ()).unwrap();
        assert_eq!(loaded.form(), form);
        let (got, wanted) = (loaded.forward(x.clone()), saved.forward(x.clone()));
        got.into_data().assert_approx_eq::<f32>(&wanted.into_data(), Tolerance::default());
    }
}

#[test]
fn pivots_that_cannot_be_are_refused_whatever_the_module_had() {
    let spec = |name: &str, dtype, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    };
    let layout = ShardLayout::new(
        &[
            spec("V.weight", Dtype::F32, &[2, 4]),
            spec("C.weight", Dtype::F32, &[5, 2]),
            spec("pivots", Dtype::I32, &[2]),
        ],
        u64::MAX,
    )
    .unwrap();
    for wrong in [[3, 3], [-1, 0], [0, 7]] {
        let dir = tempfile::tempdir().unwrap();
        let writer = ShardWriter::new(dir.path(), &layout).unwrap();
        writer.write("V.weight", &[0; 2 * 4 * 4]).unwrap();
        writer.write("C.weight", &[0; 5 * 2 * 4]).unwrap();
        let pivots: Vec<u8> = wrong.iter().flat_map(|pivot: &i32| pivot.to_le_bytes()).collect();
        writer.write("pivots", &pivots).unwrap();
        writer.finish().unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let loaded = load_module(pivoted(&[0, 1]), &checkpoint, |_| FloatDType::F32, &mut ());
        assert!(
            matches!(
                &loaded,
                Err(CheckpointError::Form { source: FormError::Pivots { rank: 2, rows: 7 }, .. })
            ),
            "{wrong:?}: {loaded:?}"
        );
        // Without the right form there is nothing to load pivots into.
        let dense = LowRankLinearConfig::new(4, 7).with_bias(false).init(&device());
        for other in [dense.clone(), dense.to_form(Form::factors(2)).unwrap()] {
            let error = load_module(other, &checkpoint, |_| FloatDType::F32, &mut ()).unwrap_err();
            assert!(matches!(&error, CheckpointError::Mismatch { .. }), "{error}");
        }
    }
}

#[test]
fn column_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    save(&Net::new(), dir.path(), u64::MAX);
    let mut net = Net::new();
    net.plain = LinearConfig::new(6, 4).with_layout(LinearLayout::Col).init(&device());
    let error = load(net, dir.path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Form { matrix, source: FormError::Layout, .. } if *matrix == "plain"),
        "{error}"
    );
}

#[test]
fn every_difference_between_file_and_module_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let tensors: [(&str, &[usize]); 7] = [
        ("norm.weigth", &[6]),
        ("norm.bias", &[6]),
        ("plain.weight", &[6, 4]),
        ("plain.bias", &[4]),
        ("factored.V.weight", &[2, 4]),
        ("factored.U.weight", &[8, 2]),
        ("factored.bias", &[8]),
    ];
    let zeros = tensors.map(|(name, shape)| (name, shape, vec![0.0; shape.iter().product()]));
    write_tensors(dir.path(), &zeros);
    let Err(CheckpointError::Mismatch { problems, .. }) = load(Net::new(), dir.path()) else {
        panic!("the tensors do not fit");
    };
    let missing = TensorProblem::Missing {
        tensor: "norm.weight".into(),
        similar: Some("norm.weigth".into()),
    };
    let shape = TensorProblem::Shape {
        tensor: "plain.weight".into(),
        expected: vec![4, 6],
        found: vec![6, 4],
    };
    let unused = TensorProblem::Unused { tensor: "norm.weigth".into() };
    assert_eq!(problems, [missing, shape, unused]);
}

#[test]
fn hostile_files_are_refused_without_panic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    save(&Net::new(), dir.path(), u64::MAX);
    let good = fs::read(&file).unwrap();
    let open = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Checkpoint::open(dir.path())
    };
    assert!(open(&good).is_ok());
    for cut in [0, 4, 8, 50, good.len() - 1] {
        let error = open(&good[..cut]).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    let mut huge_header = good.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(open(&huge_header).is_err());
    let mut longer = good.clone();
    longer.push(0);
    assert!(open(&longer).is_err());
    // Damage to any single header byte gives an error or another valid header, never a panic.
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for position in 0..8 + header {
        let mut damaged = good.clone();
        damaged[position] ^= 0x15;
        let _ = open(&damaged).map(|checkpoint| {
            checkpoint.names().for_each(|name| drop(checkpoint.read_f32(name)));
        });
    }
}

#[test]
fn an_index_cannot_leave_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    save(&Net::new(), outside.path(), u64::MAX);
    let dir = outside.path().join("model");
    fs::create_dir(&dir).unwrap();
    let absolute = outside.path().join("model.safetensors").display().to_string();
    for file in ["../model.safetensors", "a/../../model.safetensors", &absolute, "..", "."] {
        let index = serde_json::json!({ "weight_map": { "plain.weight": file } });
        fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(error.contains("outside its directory"), "{file}: {error}");
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |name, value| (name, &[1, 2][..], vec![1.0, value]);
    write_tensors(dir.path(), &[tensor("a", f32::NAN), tensor("b", f32::INFINITY)]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for name in ["a", "b"] {
        let error = checkpoint.read_f32(name).unwrap_err();
        assert!(matches!(error, CheckpointError::NotFinite { index: 1, .. }), "{error}");
        assert!(checkpoint.read_matrix(name).is_err());
    }
}

#[test]
fn output_directories_appear_whole_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("out");
    let entries = || fs::read_dir(home.path()).unwrap().count();

    let dropped = OutputDir::create(&target, false).unwrap();
    write_file(dropped.path().join("config.json"), b"{}").unwrap();
    drop(dropped);
    assert_eq!(entries(), 0);

    let output = OutputDir::create(&target, false).unwrap();
    write_file(output.path().join("config.json"), b"{}").unwrap();
    write_file(output.path().join("model.safetensors"), b"").unwrap();
    assert!(!target.exists());
    output.commit().unwrap();
    assert_eq!(fs::read(target.join("config.json")).unwrap(), b"{}");

    let error = OutputDir::create(&target, false).unwrap_err();
    assert!(matches!(error, FileError::OutputExists { .. }));
    let output = OutputDir::create(&target, true).unwrap();
    write_file(output.path().join("config.json"), b"[]").unwrap();
    output.commit().unwrap();
    assert_eq!(fs::read(target.join("config.json")).unwrap(), b"[]");
    assert_eq!(entries(), 1);
}

#[test]
fn only_model_directories_are_ever_replaced() {
    let home = tempfile::tempdir().unwrap();
    let precious = home.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.txt"), "years").unwrap();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = OutputDir::create(&precious, true).unwrap_err();
    assert!(matches!(error, FileError::OutputForeign { .. }), "{error}");
    for path in [file.clone(), file.join("below")] {
        let error = OutputDir::create(path, true).unwrap_err();
        assert!(matches!(&error, FileError::NotADirectory { path } if *path == file), "{error}");
    }
    assert!(precious.join("thesis.txt").exists());
}

#[test]
fn names_sort_as_people_count() {
    let mut names = ["l.10.a", "l.9.b", "l.9.a", "head", "l.10"];
    names.sort_by(|a, b| natural_order(a, b));
    assert_eq!(names, ["head", "l.9.a", "l.9.b", "l.10", "l.10.a"]);
    // Arbitrary names must still sort without contradiction.
    let strange: Vec<String> =
        (0..200).map(|i| format!("{}{}", i % 17, ["", "a", ".2"][i % 3])).collect();
    for a in &strange {
        for b in &strange {
            for c in &strange {
                let le = |x: &str, y: &str| natural_order(x, y).is_le();
                assert!(!(le(a, b) && le(b, c)) || le(a, c), "{a} {b} {c}");
            }
        }
    }
}
