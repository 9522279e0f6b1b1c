//! What `--track-gradients` writes, and how it is summed up and drawn.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Sandbox, killed};
use crate::training::{SHORT, has_checkpoint, metrics};

/// The lines of a run's gradients, by step and matrix. Each must be unique.
fn gradients(sandbox: &Sandbox, run: &str) -> BTreeMap<(u64, String), Value> {
    let mut found = BTreeMap::new();
    for line in metrics(sandbox, &format!("{run}/gradients.jsonl")) {
        let step = line["step"].as_u64().unwrap();
        let key = (step, line["name"].as_str().unwrap().to_string());
        assert!(found.insert(key, line).is_none(), "step {step} appears twice");
    }
    found
}

#[test]
fn gradients_are_recorded_summed_up_and_drawn() {
    let sandbox = Sandbox::new();
    let line = "train model --trainable full --text story.txt -o run --seq-len 32 --batch-size 2 \
                --steps 6 --warmup 2 --save-every 2";
    sandbox.gives(&format!("{line} --track-gradients 2"));
    let lines = gradients(&sandbox, "run");
    // 4 layers of 7 projections.
    for step in [2, 4, 6] {
        assert_eq!(lines.keys().filter(|(of, _)| *of == step).count(), 28);
    }
    assert_eq!(lines.len(), 3 * 28);
    for ((step, name), line) in &lines {
        let values = line["values"].as_array().unwrap();
        assert_eq!(values[0], 1.0);
        assert_eq!(Some(values.len() as u64), line["full_rank"].as_u64());
        let similarity = line["similarity"].as_f64();
        assert_eq!(similarity.is_none(), *step == 2, "{name}");
        assert!(similarity.is_none_or(|x| (0.0..=1.0).contains(&x)), "{line}");
    }

    // The ranks are those of the weights that the run ended with.
    sandbox.gives("analyze run/model -o spectra.json");
    let (summary, spectra) =
        (sandbox.json_file("run/gradients.json"), sandbox.json_file("spectra.json"));
    let matrices = summary["matrices"].as_array().unwrap();
    assert_eq!(matrices.len(), 28);
    for (matrix, spectrum) in matrices.iter().zip(spectra["matrices"].as_array().unwrap()) {
        assert_eq!(matrix["name"], spectrum["name"]);
        let squares: Vec<f64> = spectrum["singular_values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_f64().unwrap().powi(2))
            .collect();
        let effective = matrix["weight"]["effective"].as_u64().unwrap() as usize;
        let share = |rank: usize| squares[..rank].iter().sum::<f64>() / squares.iter().sum::<f64>();
        assert!(share(effective) >= 0.9 && share(effective - 1) < 0.9, "{matrix}");
        assert!(matrix["level"].as_f64().is_some(), "{matrix}");
    }
    // A finished run that has lost its summary writes it again.
    sandbox.remove("run/gradients.json");
    sandbox.gives("train --resume run --track-gradients 2");
    assert_eq!(sandbox.json_file("run/gradients.json"), summary);

    sandbox.gives("report --run run -o page.html");
    let page = String::from_utf8(sandbox.read("page.html")).unwrap();
    let start = page.find("type=\"application/json\">").unwrap() + 24;
    let data: Value =
        serde_json::from_str(&page[start..][..page[start..].find("</script>").unwrap()]).unwrap();
    let drawn = &data["gradients"][0]["matrices"][5];
    assert_eq!(drawn["name"], matrices[5]["name"]);
    assert_eq!(drawn["final_rank"].as_f64(), matrices[5]["weight"]["effective"].as_f64());
    assert_eq!(drawn["records"].as_array().unwrap().len(), 3);
    sandbox.write("run/gradients.json", "{}");
    sandbox.refuses("report --run run -o other.html", "gradients.json: not a summary");

    // Tracking does not affect training, and a resumed run keeps its setting.
    sandbox.gives(&line.replace("-o run", "-o plain"));
    assert!(
        sandbox.read("plain/model/model.safetensors")
            == sandbox.read("run/model/model.safetensors")
    );
    assert!(!sandbox.path("plain/gradients.jsonl").exists());
    sandbox.refuses("train --resume run --track-gradients 3", "--track-gradients: not what");
    sandbox.refuses("train --resume plain --track-gradients 2", "--track-gradients: not what");
    let lora = line.replace("full", "lora").replace("-o run", "-o lora");
    sandbox.refuses(&format!("{lora} --track-gradients 2"), "--track-gradients");
    sandbox.misused(&format!("{line} --track-gradients 0"), "--track-gradients");
}

/// The last step that a run has recorded; a line that is being written does not count.
fn last_recorded(sandbox: &Sandbox) -> Option<u64> {
    let text = std::fs::read_to_string(sandbox.path("run/gradients.jsonl")).ok()?;
    let steps = text.lines().filter_map(|line| {
        serde_json::from_str::<Value>(line).ok().and_then(|line| line["step"].as_u64())
    });
    steps.max()
}

/// The step of a run's last checkpoint.
fn last_saved(sandbox: &Sandbox) -> Option<u64> {
    let text = std::fs::read(sandbox.path("run/checkpoints/last.json")).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["position"]["step"].as_u64()
}

#[test]
fn run_that_was_killed_records_the_gradients_of_each_step_once() {
    let sandbox = Sandbox::new();
    let line =
        SHORT.replace("--steps 8", "--steps 200").replace("--save-every 2", "--save-every 10");
    let line = line + " --track-gradients 4";
    // With records of steps that are taken again, because they follow the last checkpoint.
    let inside =
        || has_checkpoint(&sandbox, "run") && last_recorded(&sandbox) > last_saved(&sandbox);
    let lines = std::iter::once(&*line).chain(std::iter::repeat_n("train --resume run", 4));
    let mut kills = lines.map(|line| {
        let hit = killed(sandbox.command(line), "a record after a checkpoint", inside);
        assert!(hit, "the run was over before it could be killed");
        inside()
    });
    assert!(kills.any(|inside| inside), "every kill came too late");
    sandbox.gives("train --resume run");
    let lines = gradients(&sandbox, "run");
    let names: BTreeSet<&str> = lines.keys().map(|(_, name)| name.as_str()).collect();
    assert!(!names.is_empty() && names.iter().all(|n| n.ends_with(".V") || n.ends_with(".U")));
    let expected: BTreeSet<(u64, &str)> =
        (1..=50).flat_map(|n| names.iter().map(move |name| (4 * n, *name))).collect();
    let got: BTreeSet<(u64, &str)> =
        lines.keys().map(|(step, name)| (*step, name.as_str())).collect();
    assert_eq!(got, expected);
    let summary = sandbox.json_file("run/gradients.json");
    let matrices = summary["matrices"].as_array().unwrap();
    assert_eq!(matrices.len(), names.len());
    assert!(matrices.iter().all(|m| m["weight"]["share"].as_f64().is_some_and(|x| x > 0.0)));
}
