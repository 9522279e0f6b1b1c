//! `devices`: lists backends and devices.

use anyhow::Result;
use serde_json::{Value, json};

use welore_burn::named::Named;

use crate::args::DevicesArgs;
use crate::devices::{Backend, Facts};
use crate::{format, output};

/// Runs the command.
pub fn run(args: DevicesArgs) -> Result<()> {
    let found: Vec<(Backend, Vec<Option<Facts>>)> = Backend::all()
        .iter()
        .map(|backend| (*backend, backend.devices().iter().map(Facts::of).collect()))
        .collect();
    if args.json {
        return print_json(&found);
    }
    let mut rows = Vec::new();
    for (backend, devices) in &found {
        let name = backend.name().to_string();
        if devices.is_empty() {
            let why = if backend.is_compiled() { "no device found" } else { "not compiled in" };
            rows.push(vec![name, String::new(), why.into(), String::new(), String::new()]);
            continue;
        }
        for (index, facts) in devices.iter().enumerate() {
            let index = index.to_string();
            rows.push(match facts {
                Some(facts) => {
                    let memory = facts.memory.map_or("?".into(), format::bytes);
                    let dtypes: Vec<_> = facts.dtypes.iter().map(|dtype| dtype.name()).collect();
                    vec![name.clone(), index, facts.name.clone(), memory, dtypes.join(" ")]
                }
                None => {
                    vec![
                        name.clone(),
                        index,
                        "cannot be opened".into(),
                        String::new(),
                        String::new(),
                    ]
                }
            });
        }
    }
    output::print_block(&format::table(&["backend", "device", "name", "memory", "dtypes"], rows))
}

fn print_json(found: &[(Backend, Vec<Option<Facts>>)]) -> Result<()> {
    let backends: Vec<Value> = found
        .iter()
        .map(|(backend, devices)| {
            let devices: Vec<Value> = devices
                .iter()
                .enumerate()
                .map(|(index, facts)| match facts {
                    Some(facts) => json!({
                        "index": index,
                        "name": facts.name,
                        "memory": facts.memory,
                        "dtypes": facts.dtypes,
                    }),
                    None => json!({ "index": index }),
                })
                .collect();
            json!({
                "backend": backend.name(),
                "compiled": backend.is_compiled(),
                "devices": devices,
            })
        })
        .collect();
    output::print_json(&json!({ "backends": backends }))
}
