//! What the library promises, room by room. One binary, because linking Burn is slow.

mod adapters;
mod architecture;
mod backends;
mod calibrate;
mod changes;
mod channels;
mod chat;
mod checkpoint;
mod choices;
mod compress;
mod convert;
mod convolutions;
mod decoder;
mod difference;
mod distill;
mod divergence;
mod families;
mod figures;
mod files;
mod found;
mod frontier;
mod fuzzed;
mod gguf;
mod gradients;
mod hf_config;
mod imatrix;
mod joint;
mod kernels;
mod language;
#[cfg(feature = "learner")]
mod learner;
mod limits;
mod linear;
mod mixture;
mod own_text;
mod packed;
mod packed_training;
mod peft;
mod plan;
mod quantize;
mod replacing;
mod rope;
mod search;
mod spectrum;
mod stages;
mod stored;
mod strides;
mod targets;
mod tokenizer;
mod train;
mod tuning;
mod turned;
mod types;

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use serde_json::Value;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{CompressReport, Compressor};
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::files::OutputDir;
use welore_burn::model::{Decoder, load_model, open_model, projections};
use welore_burn::modules::Selection;
use welore_burn::spectrum::{MeasureOptions, Spectra, measure_checkpoint};

/// The device that `BURN_DEVICE` names.
fn device() -> Device {
    Device::default()
}

/// Whether that is Burn's CPU backend. Everywhere else small operations cost much, on software Vulkan
/// the most, so long tests take fewer steps there.
fn is_on_flex() -> bool {
    device() == Device::flex()
}

/// `tests/fixtures/`; `make.py` there makes everything in it.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

/// A fixture as a checkpoint.
fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(fixture(name)).unwrap()
}

/// The projections of tiny-llama.
fn tiny_projections() -> Selection {
    projections(open_model(fixture("tiny-llama"), &device()).unwrap().skeleton())
}

/// The plain spectra of the projections of tiny-llama.
fn tiny_spectra() -> Spectra {
    let options = MeasureOptions::default();
    measure_checkpoint(&checkpoint("tiny-llama"), &tiny_projections(), &options, &mut ()).unwrap()
}

/// tiny-llama in f32.
fn tiny_llama(device: &Device) -> Decoder {
    load_model(fixture("tiny-llama"), device, FloatDType::F32, &mut ()).unwrap().model
}

/// The tokens of `story.txt`.
fn story_tokens() -> Vec<u32> {
    let tokenizer = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    tokenizer.encode(&read_text(fixture("story.txt")).unwrap()).unwrap()
}

/// Compresses a checkpoint into a new directory.
fn compress_into(
    dir: &Path,
    checkpoint: &Checkpoint,
    compressor: &Compressor<'_>,
) -> CompressReport {
    let output = OutputDir::create(dir, false).unwrap();
    let report = compressor.directory(checkpoint, &output, &mut ()).unwrap();
    output.commit().unwrap();
    report
}

/// The figures that PyTorch gives for a fixture.
fn expected(name: &str) -> Value {
    let figures = |file: &str| {
        let text = std::fs::read_to_string(fixture(file)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()[name].clone()
    };
    match figures("expected.json") {
        Value::Null => figures("families.json"),
        figures => figures,
    }
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// Collects the names of the parameters that train.
#[derive(Default)]
struct Trainable {
    path: Vec<String>,
    names: Vec<String>,
}

impl ModuleVisitor for Trainable {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.names.push(self.path.join("."));
        }
    }
}

/// Names of the parameters that train, by path.
fn trainable(module: &impl Module) -> Vec<String> {
    let mut visitor = Trainable::default();
    module.visit(&mut visitor);
    visitor.names
}
