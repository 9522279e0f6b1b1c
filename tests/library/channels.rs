//! MLPs with fewer channels: what is left out, what is fitted again, and that the result is the model
//! that it says.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
use welore_burn::channels::{
    ChannelCurve, ChannelGoal, ChannelPlan, ChannelPlanError, ChannelPlanFileError, ChannelReport,
    ChannelsError, CurveOptions, Widths, measure_channels, mlps, write_channels,
};
use welore_burn::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, ShardLayout, ShardWriter};
use welore_burn::compress::WriteOptions;
use welore_burn::files::OutputDir;
use welore_burn::forms::TensorSpec;
use welore_burn::gguf::{GgufConversion, GgufOptions, convert_gguf, export_gguf};
use welore_burn::model::{OpenedModel, load_model, open_model, read_config};
use welore_burn::modules::Selection;
use welore_burn::plan::Target;

use crate::{device, fixture, story_tokens, tiny_llama, tiny_projections};

const LAYERS: u64 = 4;
/// Parameters of one channel of an MLP of tiny-llama.
const CHANNEL: u64 = 3 * 64;
const CHANNELS: usize = 160;

/// The file of a calibration of tiny-llama.
static CALIBRATION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let scratch = tempdir().unwrap();
    let path = scratch.path().join("calibration");
    let options = CalibrationOptions {
        seq_len: 64,
        windows: Some(6),
        gradient_windows: 2,
        at_once: NonZeroUsize::new(2).unwrap(),
        ..CalibrationOptions::default()
    };
    let (checkpoint, model) = (crate::checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let text = story_tokens().into();
    calibrate(&model, Some(&checkpoint), &text, &options, &path, &mut ()).unwrap();
    fs::read(path).unwrap()
});

/// tiny-llama, calibrated, with what its channels cost.
pub(crate) struct Case {
    pub(crate) opened: OpenedModel,
    pub(crate) calibration: Calibration,
    pub(crate) curves: Vec<ChannelCurve>,
    _scratch: TempDir,
}

impl Case {
    pub(crate) fn new() -> Self {
        let opened = open_model(fixture("tiny-llama"), &device()).unwrap();
        let scratch = tempdir().unwrap();
        let path = scratch.path().join("calibration");
        fs::write(&path, &*CALIBRATION).unwrap();
        let calibration = Calibration::open(path).unwrap();
        let (options, mlps) = (CurveOptions::default(), mlps(&opened).unwrap());
        let curves =
            measure_channels(&opened.checkpoint, &calibration, &mlps, &options, &mut ()).unwrap();
        Self { opened, calibration, curves, _scratch: scratch }
    }

    fn plan(&self, goal: &ChannelGoal) -> Result<ChannelPlan, ChannelsError> {
        let (digest, shrink) = (self.calibration.digest(), CurveOptions::default().shrink_inputs);
        let checkpoint = &self.opened.checkpoint;
        ChannelPlan::new("here", digest, checkpoint, &self.curves, shrink, goal)
    }

    fn write(&self, plan: &ChannelPlan, dir: &Path) -> Result<ChannelReport, ChannelsError> {
        let output = OutputDir::create(dir, false).unwrap();
        let options = WriteOptions::default();
        let (opened, calibration) = (&self.opened, &self.calibration);
        let report = write_channels(opened, plan, calibration, &output, &options, &mut ())?;
        output.commit().unwrap();
        Ok(report)
    }
}

fn goal(target: Target, multiple: usize, widths: Widths) -> ChannelGoal {
    ChannelGoal { target, selection: tiny_projections(), multiple, widths }
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn logits(dir: &Path) -> Vec<f64> {
    let model = load_model(dir, &device(), FloatDType::F32, &mut ()).unwrap().model;
    let ids: Vec<i32> = story_tokens()[..24].iter().map(|token| *token as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 24]), &device());
    model.forward(tokens).into_data().iter::<f64>().collect()
}

/// The dense model in which channels that are left out have columns of zeros in the down projection,
/// and the others what `narrow` has.
fn write_padded(narrow: &Checkpoint, plan: &ChannelPlan, dir: &Path) {
    let dense = crate::checkpoint("tiny-llama");
    let spec = |name: &str| {
        let (meta, _) = dense.raw(name).unwrap();
        TensorSpec { name: name.into(), dtype: meta.dtype, shape: meta.shape.clone() }
    };
    let specs: Vec<TensorSpec> = dense.names().map(spec).collect();
    let layout = ShardLayout::new(&specs, DEFAULT_SHARD_BYTES).unwrap();
    fs::create_dir(dir).unwrap();
    let files = ShardWriter::new(dir, &layout).unwrap();
    for name in dense.names() {
        let (meta, bytes) = dense.raw(name).unwrap();
        let Some(layer) = plan.layers.iter().find(|layer| layer.name.weight() == name) else {
            files.write(name, bytes).unwrap();
            continue;
        };
        let (_, fitted) = narrow.raw(name).unwrap();
        let size = meta.dtype.bitsize() / 8;
        let mut padded = vec![0; bytes.len()];
        let rows = padded.chunks_mut(CHANNELS * size).zip(fitted.chunks(layer.kept.len() * size));
        for (row, fitted) in rows {
            for (channel, entry) in layer.kept.iter().zip(fitted.chunks(size)) {
                row[channel * size..][..size].copy_from_slice(entry);
            }
        }
        files.write(name, &padded).unwrap();
    }
    files.finish().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(fixture("tiny-llama").join(file), dir.join(file)).unwrap();
    }
}

fn assert_computes_what_it_says(narrow: &Path, plan: &ChannelPlan, padded: &Path) {
    write_padded(&Checkpoint::open(narrow).unwrap(), plan, padded);
    let (found, expected) = (logits(narrow), logits(padded));
    let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(gap < 1e-4 * scale, "{gap} of {scale}");
    let dense = logits(&fixture("tiny-llama"));
    let change = found.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(change > 100.0 * gap, "{change}: the model did change");
}

#[test]
fn narrow_model_is_the_dense_one_without_channels_and_with_the_rest_fitted_again() {
    let (case, scratch) = (Case::new(), tempdir().unwrap());
    let plan = case.plan(&goal(Target::KeepParams(0.8), 32, Widths::One)).unwrap();
    let dir = scratch.path().join("narrow");
    let report = case.write(&plan, &dir).unwrap();
    assert_eq!(plan.widths_of_layers(), [96; 4]);
    assert_eq!(json(dir.join("config.json"))["intermediate_size"], 96);
    assert_computes_what_it_says(&dir, &plan, &scratch.path().join("padded"));
    let written = Checkpoint::open(&dir).unwrap();
    assert_eq!((written.parameters(), written.bytes()), (plan.parameters_after, plan.bytes_after));
    // Rows of gate and up are copied; what is stored costs what was expected, up to rounding.
    let (name, kept) = ("model.layers.2.mlp.up_proj.weight", &plan.layers[2].kept);
    let dense = case.opened.checkpoint.read_f32(name).unwrap();
    for (row, channel) in written.read_f32(name).unwrap().chunks(64).zip(kept) {
        assert_eq!(row, &dense[channel * 64..][..64]);
    }
    let ratio = report.loss() / plan.expected_loss;
    assert!((0.5..2.0).contains(&ratio), "{} and {}", report.loss(), plan.expected_loss);
    let text = fs::read_to_string(dir.join("welore_channels.json")).unwrap();
    assert_eq!(ChannelPlan::from_json(&text).unwrap(), plan);
}

#[test]
fn with_all_channels_nothing_changes() {
    let (case, scratch) = (Case::new(), tempdir().unwrap());
    let plan = case.plan(&goal(Target::MaxBytes(u64::MAX), 32, Widths::One)).unwrap();
    assert_eq!((plan.expected_loss, plan.widths_of_layers()), (0.0, vec![CHANNELS; 4]));
    let dir = scratch.path().join("same");
    assert!(case.write(&plan, &dir).unwrap().fitted.is_empty());
    let (before, after) = (&case.opened.checkpoint, Checkpoint::open(&dir).unwrap());
    assert!(before.names().eq(after.names()));
    for name in before.names() {
        assert!(before.raw(name).unwrap().1 == after.raw(name).unwrap().1, "{name}");
    }
    let config = |dir: &Path| fs::read(dir.join("config.json")).unwrap();
    assert_eq!(config(&dir), config(&fixture("tiny-llama")));
}

#[test]
fn targets_are_met_to_the_last_step_and_a_width_for_each_layer_loses_less() {
    let case = Case::new();
    let all = case.opened.checkpoint.parameters();
    let selected: u64 = 172_032;
    for (share, multiple) in [(0.9, 32), (0.8, 8), (0.75, 1)] {
        let [one, each] = [Widths::One, Widths::Each].map(|widths| {
            let plan = case.plan(&goal(Target::KeepParams(share), multiple, widths)).unwrap();
            let gone = all - plan.parameters_after;
            let kept = (selected - gone) as f64 / selected as f64;
            assert_eq!(plan.keep_params, Some(kept));
            let layers = if widths == Widths::One { LAYERS } else { 1 };
            let step = (layers * CHANNEL * multiple as u64) as f64 / selected as f64;
            assert!(kept <= share && kept + step > share, "{kept} of {share}");
            for width in plan.widths_of_layers() {
                assert!(width.is_multiple_of(multiple), "{width}");
            }
            plan.expected_loss
        });
        assert!(each > 0.0 && each <= 1.05 * one, "{share}: {each} and {one}");
    }
    let most = case.opened.checkpoint.bytes() * 4 / 5;
    let plan = case.plan(&goal(Target::MaxBytes(most), 1, Widths::Each)).unwrap();
    // An entry has two bytes.
    assert!(plan.bytes_after <= most && plan.bytes_after + 2 * CHANNEL > most);
}

#[test]
fn widths_that_differ_are_read_here_and_go_to_a_gguf_file_and_back() {
    let (case, scratch) = (Case::new(), tempdir().unwrap());
    // Every layer has its own loss, so widths of single channels differ.
    let plan = case.plan(&goal(Target::KeepParams(0.7), 1, Widths::Each)).unwrap();
    let widths = plan.widths_of_layers();
    assert!(widths.iter().any(|width| *width != widths[0]), "{widths:?}");
    let dir = scratch.path().join("narrow");
    case.write(&plan, &dir).unwrap();
    let config = read_config(&dir).unwrap();
    assert_eq!(config.intermediate_sizes.as_ref(), Some(&widths));
    let written = Checkpoint::open(&dir).unwrap();
    assert_eq!(config.parameters(), u128::from(written.parameters()));
    assert_computes_what_it_says(&dir, &plan, &scratch.path().join("padded"));

    let (file, back) = (scratch.path().join("model.gguf"), scratch.path().join("back"));
    let opened = open_model(&dir, &device()).unwrap();
    let told = export_gguf(&opened, &file, &GgufOptions::default(), &mut ()).unwrap();
    assert_eq!(told.architecture, "deci");
    let output = OutputDir::create(&back, false).unwrap();
    convert_gguf(&file, GgufConversion::default(), &output, &mut ()).unwrap();
    output.commit().unwrap();
    assert_eq!(read_config(&back).unwrap().intermediate_sizes, Some(widths));
    let back = Checkpoint::open(&back).unwrap();
    for name in written.names().filter(|name| name.contains("mlp")) {
        assert!(written.raw(name).unwrap().1 == back.raw(name).unwrap().1, "{name}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_what_can() {
    let case = Case::new();
    let refused = |goal: ChannelGoal| match case.plan(&goal).unwrap_err() {
        ChannelsError::Plan(error) => error,
        other => panic!("{other}"),
    };
    let one = |target| goal(target, 32, Widths::One);
    let error = refused(one(Target::KeepParams(0.2)));
    let nearest = ChannelPlanError::OutOfReach {
        target: Target::KeepParams(0.2),
        reachable: Target::KeepParams(0.4286),
        width: 32,
    };
    assert_eq!(error, nearest);
    assert!(case.plan(&one(Target::KeepParams(0.4286))).is_ok());
    assert_eq!(refused(one(Target::KeepParams(1.5))), ChannelPlanError::Share(1.5));
    assert!(matches!(refused(one(Target::Err(0.5))), ChannelPlanError::Ranks { .. }));
    let none = ChannelGoal { multiple: 0, ..one(Target::KeepParams(0.8)) };
    assert_eq!(refused(none), ChannelPlanError::Multiple);
    let selection = Selection::of(["up_proj", "gate_proj"]).unwrap();
    let some = ChannelGoal { selection, ..one(Target::KeepParams(0.8)) };
    assert!(matches!(refused(some), ChannelPlanError::NotSelected { .. }));

    // A plan of another calibration, or for another model, writes nothing.
    let plan = case.plan(&one(Target::KeepParams(0.8))).unwrap();
    let scratch = tempdir().unwrap();
    let mut other = plan.clone();
    other.calibration = "other".into();
    let mut fewer = plan.clone();
    fewer.layers.pop();
    let mut beyond = plan.clone();
    beyond.layers[0].kept.push(CHANNELS);
    for plan in [other, fewer, beyond.clone()] {
        let error = case.write(&plan, &scratch.path().join("no")).unwrap_err();
        assert!(matches!(error, ChannelsError::Foreign { .. }), "{error}");
        assert!(!scratch.path().join("no").exists());
    }
    let error = ChannelPlan::from_json(&beyond.to_json()).unwrap_err();
    assert!(matches!(error, ChannelPlanFileError::Kept { channels: CHANNELS, .. }), "{error}");
    let newer = plan.to_json().replace("\"version\":1", "\"version\":2");
    assert!(matches!(ChannelPlan::from_json(&newer), Err(ChannelPlanFileError::Version(2))));
}
