//! Files from strangers: damaged ones are refused, or are what the library promises of files that it
//! accepts. `fuzz/bodies.rs` has the promises; there they are fuzz targets.

#[path = "../../fuzz/bodies.rs"]
mod bodies;
mod mutate;
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use welore_burn::spectrum::Spectra;

use self::mutate::Seed;

/// A format, by the name of its fuzz target.
struct Format {
    name: &'static str,
    body: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<Seed>,
}

macro_rules! formats {
    ($($name:ident),+ $(,)?) => {
        &[$(Format { name: stringify!($name), body: bodies::$name, seeds: seeds::$name }),+]
    };
}

const FORMATS: &[Format] = formats![
    plan,
    stored_plan,
    spectra,
    journal,
    calibration,
    imatrix,
    adapter,
    adapter_config,
    changes,
    logits,
    weights,
    index,
    config,
    generation_config,
    gguf,
    gguf_part,
    packed_gguf,
    tokenizer,
    run,
    pointer,
    metrics,
    gradients,
    dynamics,
    task,
    documents,
    tokens,
];

/// No file of a few kilobytes takes longer, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

/// Damages the files of a format, in as many ways as `WELORE_FUZZ_CASES` says, or in `cases` ways.
/// Some must be accepted and some refused, or else nothing would be proved.
fn withstands(name: &str, cases: u64) {
    let asked = std::env::var("WELORE_FUZZ_CASES").ok().and_then(|asked| asked.parse().ok());
    let cases: u64 = asked.unwrap_or(cases);
    let format = FORMATS.iter().find(|format| format.name == name).unwrap();
    let seeds = (format.seeds)();
    let mut accepted = 0;
    for case in 0..cases {
        let data = mutate::case(&seeds, case);
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| (format.body)(&data))) {
            Ok(taken) => accepted += u64::from(taken),
            Err(panic) => {
                report(name, case, &data);
                resume_unwind(panic);
            }
        }
        if started.elapsed() > LONGEST {
            report(name, case, &data);
            panic!("{name}: case {case} took {:?}", started.elapsed());
        }
    }
    assert!((1..cases).contains(&accepted), "{name}: {accepted} of {cases} files were accepted");
}

/// Names a case that fails, and keeps its bytes.
fn report(name: &str, case: u64, data: &[u8]) {
    let path = std::env::temp_dir().join(format!("welore-fuzz-{name}-{case}"));
    match fs::write(&path, data) {
        Ok(()) => eprintln!("{name}: case {case} fails; its bytes are in {}", path.display()),
        Err(error) => eprintln!("{name}: case {case} fails; its bytes could not be kept: {error}"),
    }
}

#[test]
fn damaged_plans_are_refused_or_possible() {
    withstands("plan", 400);
    withstands("stored_plan", 300);
}

#[test]
fn damaged_spectra_are_refused_or_can_be_planned_from() {
    withstands("spectra", 300);
}

#[test]
fn damaged_journals_are_refused_or_can_be_continued() {
    withstands("journal", 200);
}

#[test]
fn damaged_calibrations_are_refused_or_have_moments() {
    withstands("calibration", 300);
    withstands("imatrix", 300);
}

#[test]
fn damaged_adapters_are_refused_or_can_be_written() {
    withstands("adapter", 200);
    withstands("adapter_config", 200);
}

#[test]
fn damaged_changes_are_refused_or_make_the_tuned_model() {
    withstands("changes", 100);
}

#[test]
fn damaged_logits_are_refused_or_can_be_compared_with() {
    withstands("logits", 300);
}

#[test]
fn damaged_weights_are_refused_or_can_be_read() {
    withstands("weights", 300);
    withstands("index", 200);
}

#[test]
fn damaged_configurations_are_refused_or_fit_together() {
    withstands("config", 400);
    withstands("generation_config", 200);
}

#[test]
fn damaged_gguf_files_are_refused_or_become_models() {
    withstands("gguf", 300);
    withstands("gguf_part", 150);
    withstands("packed_gguf", 200);
}

#[test]
fn damaged_tokenizers_are_refused_or_encode() {
    withstands("tokenizer", 300);
}

#[test]
fn damaged_runs_are_refused_or_can_be_resumed() {
    withstands("run", 400);
    withstands("pointer", 300);
    withstands("tokens", 200);
}

#[test]
fn damaged_records_are_skipped_or_drawn() {
    withstands("metrics", 400);
    withstands("gradients", 300);
    withstands("dynamics", 300);
}

#[test]
fn damaged_data_are_refused_or_learned() {
    withstands("task", 400);
    withstands("documents", 200);
}

/// Also writes them to `WELORE_FUZZ_CORPUS`, for the fuzz targets to begin with.
#[test]
fn whole_files_are_accepted() {
    let corpus = std::env::var_os("WELORE_FUZZ_CORPUS").map(PathBuf::from);
    for Format { name, body, seeds } in FORMATS {
        for (number, seed) in seeds().iter().enumerate() {
            let data = seed.bytes();
            assert!(body(&data), "{name}: file {number}");
            if let Some(corpus) = &corpus {
                let dir = corpus.join(name);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("seed-{number}")), data).unwrap();
            }
        }
    }
}

#[test]
fn every_format_has_a_fuzz_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let targets = fs::read_dir(fuzz.join("fuzz_targets")).unwrap().map(|entry| entry.unwrap());
    let targets: BTreeSet<String> = targets
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(String::from))
        .collect();
    let names: BTreeSet<String> = FORMATS.iter().map(|format| format.name.into()).collect();
    assert_eq!(targets, names);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names {
        let target = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("bodies::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

#[test]
fn a_list_of_the_first_fields_is_no_artifact() {
    // serde takes it for the object.
    for list in ["[\"welore-spectra\", 1]", " [\"welore-spectra\"]", "[]"] {
        let error = Spectra::from_json(list).unwrap_err().to_string();
        assert!(error.contains("a list, not an object"), "{error}");
    }
}

#[test]
fn a_matrix_that_is_calibrated_twice_is_refused() {
    let mut file = seeds::calibration_file();
    let mut manifest = file.manifest().unwrap();
    let matrices = manifest["matrices"].as_array_mut().unwrap();
    matrices[1] = matrices[0].clone();
    file.set_manifest(&manifest);
    assert!(!bodies::calibration(&file.bytes()));
}

#[test]
fn a_run_without_a_format_gets_one_when_it_is_written() {
    for seed in seeds::run() {
        let Seed::Json(mut run) = seed else { unreachable!("runs are JSON") };
        run["format"] = json!("");
        run["version"] = json!(0);
        assert!(bodies::run(run.to_string().as_bytes()));
    }
}
