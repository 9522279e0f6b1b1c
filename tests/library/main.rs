//! What the library promises, room by room. One binary, because linking Burn is slow.

mod backends;
mod calibrate;
mod checkpoint;
mod gguf;
mod gradients;
mod linear;
mod llama;
mod plan;
mod spectrum;
mod surgery;
mod train;

use std::path::PathBuf;

use burn::tensor::Device;
use serde_json::Value;

/// The device that `BURN_DEVICE` names.
fn device() -> Device {
    Device::default()
}

/// `tests/fixtures/`; `make.py` there makes everything in it.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

/// The figures that PyTorch gives for a fixture.
fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[name].clone()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}
