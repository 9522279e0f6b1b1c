//! Devices: which are listed, which are refused, and that all give the same results.

use std::fs;

use serde_json::Value;

use crate::skipped::skip;
use crate::support::{Outcome, Sandbox};

fn backends(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.json("devices --json")["backends"].as_array().unwrap().clone()
}

const ONLY_FLEX: &str = "no backend except flex finds a device";

/// The backends other than flex that find a device.
fn others(backends: &[Value]) -> Vec<&str> {
    let names = backends
        .iter()
        .filter(|backend| !backend["devices"].as_array().unwrap().is_empty())
        .map(|backend| backend["backend"].as_str().unwrap());
    names.filter(|name| *name != "flex").collect()
}

#[test]
fn devices_lists_every_backend_and_what_it_can() {
    let sandbox = Sandbox::new();
    let listed = backends(&sandbox);
    assert_eq!(listed.len(), 6);
    let flex = listed.iter().find(|backend| backend["backend"] == "flex").unwrap();
    assert_eq!(flex["compiled"], true);
    let device = &flex["devices"][0];
    assert!(device["name"].as_str().unwrap().contains("cores"));
    assert!(device["dtypes"].as_array().unwrap().contains(&"f32".into()));
    let table = sandbox.gives("devices").stdout;
    for backend in &listed {
        assert!(table.contains(backend["backend"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn what_is_not_there_is_refused_with_the_way_out() {
    let sandbox = Sandbox::new();
    for backend in backends(&sandbox) {
        let name = backend["backend"].as_str().unwrap();
        let line = format!("eval model --text story.txt --backend {name}");
        let devices = backend["devices"].as_array().unwrap();
        if backend["compiled"] == false {
            sandbox.refuses(&line, &format!("built without the {name} backend"));
            assert!(sandbox.run(&line).stderr.contains(&format!("--features {name}")));
        } else if devices.is_empty() {
            // For example CUDA without a driver.
            sandbox.refuses(&line, "finds no device");
        } else {
            sandbox.refuses(&format!("{line} --device 99"), "--device 99");
            let can = devices[0]["dtypes"].as_array().unwrap();
            for dtype in ["bf16", "f16"].into_iter().filter(|dtype| !can.contains(&(*dtype).into()))
            {
                sandbox.refuses(&format!("{line} --dtype {dtype}"), dtype);
            }
        }
    }
}

/// Mesa's software Vulkan has no buffers larger than 134 MB. A GPU has them, and is skipped.
#[test]
fn memory_that_is_used_up_is_said_in_one_line() {
    let sandbox = Sandbox::new();
    let software = |backend: &Value| {
        let name = backend["devices"][0]["name"].as_str().unwrap_or_default();
        backend["backend"] == "wgpu" && name.contains("llvmpipe")
    };
    if !backends(&sandbox).iter().any(software) {
        return skip("there is no software Vulkan");
    }
    sandbox.write("long.txt", sandbox.read("story.txt").repeat(120));
    sandbox.gives("compress model --err 0.5 -o low");
    let outcome = sandbox.run(
        "train low --text long.txt --backend wgpu --seq-len 128 --batch-size 4900 --steps 2 -o run",
    );
    let error = outcome.stderr.lines().find(|line| line.starts_with("error: "));
    assert_eq!((outcome.code, error), (Some(1), Some("error: out of memory on the device")));
    assert!(outcome.stderr.contains("--batch-size"), "{}", outcome.stderr);
}

#[test]
#[cfg(target_os = "linux")]
fn a_machine_without_a_driver_is_told_so() {
    let sandbox = Sandbox::new();
    let compiled = |name: &str| {
        let backends = backends(&sandbox);
        backends.iter().any(|backend| backend["backend"] == name && backend["compiled"] == true)
    };
    let found: Vec<&str> = ["wgpu", "vulkan"].into_iter().filter(|name| compiled(name)).collect();
    if found.is_empty() {
        return skip("built without wgpu");
    }
    for backend in found {
        let mut command =
            sandbox.command(&format!("generate model --prompt a --backend {backend}"));
        // The Vulkan loader and EGL find no driver.
        command
            .env("VK_DRIVER_FILES", "/nowhere")
            .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere");
        let message = Outcome::of(&mut command).complaint(2);
        assert!(message.contains("finds no device"), "{message}");
    }
}

#[test]
fn every_device_gives_the_same_results() {
    let sandbox = Sandbox::new();
    let eval = |more: &str| {
        let line = format!("eval model --text story.txt --seq-len 64 --windows 2 --json {more}");
        sandbox.json(&line)["perplexity"].as_f64().unwrap()
    };
    let generate = |more: &str| {
        let line = format!("generate model --prompt once --max-new-tokens 5 --json {more}");
        sandbox.json(&line)["ids"].clone()
    };
    let train = |more: &str, run: &str| {
        sandbox.gives(&format!(
            "train model --err 0.7 --text story.txt -o {run} --seq-len 32 --batch-size 2 --steps 3 \
             --warmup 0 {more}"
        ));
        let lines = String::from_utf8(sandbox.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        last["loss"].as_f64().unwrap()
    };
    let reference = "--backend flex";
    let (perplexity, text, loss) =
        (eval(reference), generate(reference), train(reference, "reference"));
    let found = backends(&sandbox);
    if others(&found).is_empty() {
        // Half precision is still compared, on flex.
        skip(ONLY_FLEX);
    }
    for backend in &found {
        let name = backend["backend"].as_str().unwrap();
        let Some(device) = backend["devices"].as_array().unwrap().first() else { continue };
        for dtype in device["dtypes"].as_array().unwrap() {
            let dtype = dtype.as_str().unwrap();
            if (name, dtype) == ("flex", "f32") {
                // This is the reference.
                continue;
            }
            let more = format!("--backend {name} --dtype {dtype}");
            // About twenty roundings in a row.
            let tolerance = if dtype == "f32" { 1e-3 } else { 0.08 };
            let near = |got: f64, want: f64| {
                assert!((got / want - 1.0).abs() < tolerance, "{more}: {got} for {want}");
            };
            near(eval(&more), perplexity);
            near(train(&more, &format!("{name}-{dtype}")), loss);
            if dtype == "f32" {
                assert_eq!(generate(&more), text, "{more}");
            }
        }
    }
}

#[test]
fn training_takes_no_more_of_a_device_with_every_step() {
    let sandbox = Sandbox::new();
    let found = backends(&sandbox);
    // Flex has no device memory.
    let others = others(&found);
    if others.is_empty() {
        return skip(ONLY_FLEX);
    }
    for name in others {
        sandbox.gives(&format!(
            "train model --err 0.7 --text story.txt -o {name} --seq-len 32 --batch-size 2 \
             --steps 40 --warmup 0 --save-every 0 --backend {name}"
        ));
        let lines = String::from_utf8(sandbox.read(&format!("{name}/metrics.jsonl"))).unwrap();
        let memory: Vec<u64> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["device_memory"].as_u64().unwrap())
            .collect();
        // A few bytes depend on what is in the queue at the moment.
        assert!(memory[39] as f64 <= 1.001 * memory[19] as f64, "{name}: {memory:?}");
    }
}

#[test]
fn a_run_goes_on_on_another_device_but_not_in_another_type() {
    let sandbox = Sandbox::new();
    let line = "train model --err 0.7 --text story.txt -o run --seq-len 32 --batch-size 2 --steps 2 \
                --backend flex --dtype bf16";
    sandbox.gives(line);
    sandbox.refuses("train --resume run --dtype f32", "--dtype (the run has bf16)");
    sandbox.gives("train --resume run --dtype bf16");
    sandbox.gives("train --resume run");
}

/// Burn restores optimizers on its default device, unless it is told another.
#[test]
fn a_resumed_run_is_on_its_own_device_whatever_burn_is_told() {
    let sandbox = Sandbox::new();
    let line = "train model --err 0.7 --text story.txt --seq-len 32 --batch-size 2 --steps 3 \
                --warmup 0 --save-every 1";
    sandbox.gives(&format!("{line} --backend flex -o whole"));
    sandbox.gives(&format!("{line} --backend flex -o run"));
    for device in ["nonsense", "cuda", "flex"] {
        fs::remove_dir_all(sandbox.path("run/model")).unwrap();
        let mut command = sandbox.command("train --resume run --backend flex");
        let outcome = Outcome::of(command.env("BURN_DEVICE", device));
        assert_eq!(outcome.code, Some(0), "{device}: {}", outcome.stderr);
        assert!(
            sandbox.read("run/model/model.safetensors")
                == sandbox.read("whole/model/model.safetensors")
        );
    }
}
