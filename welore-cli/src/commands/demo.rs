//! `demo`: compresses and fine-tunes a small built-in model, offline.
//!
//! Every step is a call of this program, shown before it runs, so that readers see how to do the
//! same with their own models. Separate processes also show how much memory each step took.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use welore_burn::checkpoint::{CODE_FILE, PLAN_FILE};
use welore_burn::files::{OutputDir, is_temporary};
use welore_burn::named::Named;
use welore_burn::plan::RankPlan;
use welore_burn::progress::Interrupted;
use welore_burn::report::{Report, ReportModel};
use welore_burn::spectrum::Spectra;

use crate::args::{ComputeArgs, DemoArgs};
use crate::devices::{Compute, restore_environment};
use crate::failure::WrongInput;
use crate::output::is_quiet;
use crate::shared::artifacts::{check_place, read_artifact};
use crate::shared::page::{add_run, check_page, write_page};
use crate::shared::scratch::Scratch;
use crate::terminal::{interrupted, make_part};
use crate::{demo_model, format, output, settings, verbosity};

/// Effective rank reduction of the compressed models.
const ERR: &str = "0.7";
/// Tokens in a window.
const SEQ_LEN: &str = "256";
/// Stories to tune on, and to evaluate on.
const STORIES: (usize, usize) = (4000, 120);
/// How the compressed model is tuned.
const TUNING: &str = "--batch-size 8 --steps 60 --lr 1e-3 --warmup 5 --clip 1 --save-every 0";

struct Row {
    model: &'static str,
    parameters: u64,
    bytes: u64,
    perplexity: f64,
    /// Only for tuned models.
    tuning: Option<Tuning>,
}

struct Tuning {
    trainable: u64,
    tokens_per_second: f64,
    peak_memory: Option<u64>,
}

/// Runs the command.
pub fn run(args: DemoArgs) -> Result<()> {
    check_page(&args.page, args.output.as_deref(), [])?;
    // A missing device is refused before anything is written.
    Compute::choose(args.compute.choice())?;
    let scratch = Scratch::new(args.output.is_none())?;
    let dir = args.output.as_deref().unwrap_or(scratch.path()).to_path_buf();
    if args.output.is_some() {
        prepare(&dir, args.force)?;
    }
    let demo = Demo { dir, compute: options(&args.compute) };
    let rows = demo.rows()?;
    write_page(&args.page, "A small model compressed and tuned", |page| demo.draw(&rows, page))?;
    print(&args, &rows)?;
    if args.output.is_some() {
        note!("the models, texts and runs are in {}", demo.dir.display());
    }
    Ok(())
}

struct Demo {
    dir: PathBuf,
    /// The options on where to compute, as typed.
    compute: String,
}

/// The options as they would be typed; empty for the defaults.
fn options(args: &ComputeArgs) -> String {
    let mut options = String::new();
    if let Some(backend) = args.backend.0 {
        options += &format!(" --backend {}", backend.name());
    }
    if let Some(device) = args.device {
        options += &format!(" --device {device}");
    }
    if let Some(dtype) = args.dtype {
        options += &format!(" --dtype {}", dtype.name());
    }
    options
}

/// Makes the directory of a demo that keeps its files. Only an earlier demo is replaced.
fn prepare(dir: &Path, force: bool) -> Result<()> {
    check_place(dir)?;
    if dir.symlink_metadata().is_ok() && !dir.is_dir() {
        return Err(WrongInput::new(format!("{} is not a directory", dir.display())).into());
    }
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if std::path::absolute(dir).is_ok_and(|whole| whole.to_str().is_none()) {
        let message = format!("{}: not UTF-8, which a run's paths must be", dir.display());
        return Err(WrongInput::with_hint(message, "give another directory").into());
    }
    if occupied && !dir.join(MARK).is_file() {
        let message = format!("{} is not empty, and was not made by a demo", dir.display());
        return Err(WrongInput::with_hint(message, "give another directory").into());
    }
    if occupied && !force {
        let message = format!("{} exists", dir.display());
        return Err(WrongInput::with_hint(message, "use --force to replace the demo in it").into());
    }
    if occupied {
        clear(dir)?;
    }
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    std::fs::write(dir.join(MARK), "made by `welore-cli demo`\n")
        .with_context(|| dir.display().to_string())
}

impl Demo {
    fn rows(&self) -> Result<Vec<Row>> {
        let dense = OutputDir::create(self.dir.join("dense"), false)?;
        demo_model::write_model(dense.path())?;
        dense.commit()?;
        let (tune, test) = (self.dir.join("tune.jsonl"), self.dir.join("test.txt"));
        demo_model::write_stories((&tune, STORIES.0), (&test, STORIES.1))?;

        let mut rows = vec![self.evaluate("dense", "dense", None)?];
        self.welore("analyze dense -o spectra.json --json")?;
        for (model, policy) in [("uniform", "--policy uniform"), ("welore", "--policy welore")] {
            // min_ratio 0 factors every matrix under both policies, so that only ranks differ.
            self.welore(&format!(
                "plan spectra.json --err {ERR} --min-ratio 0 {policy} -o {model}.json --json"
            ))?;
            self.welore(&format!("compress dense --plan {model}.json -o {model} --json"))?;
            rows.push(self.evaluate(model, model, None)?);
        }
        for (model, trainable) in [("welore, LRCs tuned", "lrc"), ("welore, all tuned", "full")] {
            let tuning = self.tune(trainable)?;
            rows.push(self.evaluate(model, &format!("{trainable}/model"), Some(tuning))?);
        }
        Ok(rows)
    }

    fn evaluate(&self, model: &'static str, dir: &str, tuning: Option<Tuning>) -> Result<Row> {
        let compute = &self.compute;
        let line = format!("eval {dir} --text test.txt --seq-len {SEQ_LEN}{compute} --json");
        let result = self.welore(&line)?;
        Ok(Row {
            model,
            parameters: result["parameters"].as_u64().context("eval reported no parameters")?,
            bytes: result["bytes"].as_u64().context("eval reported no bytes")?,
            perplexity: result["perplexity"].as_f64().context("eval reported no perplexity")?,
            tuning,
        })
    }

    fn tune(&self, trainable: &str) -> Result<Tuning> {
        let compute = &self.compute;
        let result = self.welore(&format!(
            "train welore --trainable {trainable} --text tune.jsonl -o {trainable} \
             --seq-len {SEQ_LEN} {TUNING}{compute} --json"
        ))?;
        let metrics = std::fs::read_to_string(self.dir.join(trainable).join("metrics.jsonl"))?;
        let steps: Vec<Value> =
            metrics.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let mut speeds: Vec<f64> =
            steps.iter().filter_map(|step| step["tokens_per_second"].as_f64()).collect();
        speeds.sort_by(f64::total_cmp);
        Ok(Tuning {
            trainable: result["trainable"].as_u64().context("train reported no trainable")?,
            tokens_per_second: *speeds.get(speeds.len() / 2).context("train reported no speed")?,
            peak_memory: steps.iter().filter_map(|step| step["peak_memory"].as_u64()).max(),
        })
    }

    /// Puts all results on a page.
    fn draw(&self, rows: &[Row], page: &mut Report) -> Result<()> {
        let artifact = |name: &str| read_artifact(&self.dir.join(name));
        page.spectra(&Spectra::from_json(&artifact("spectra.json")?)?);
        page.plan(&RankPlan::from_json(&artifact("welore.json")?)?);
        let models: Vec<ReportModel> = rows
            .iter()
            .map(|row| ReportModel {
                label: row.model.into(),
                series: None,
                perplexities: [("test.txt".to_string(), json!(row.perplexity))]
                    .into_iter()
                    .collect(),
                divergences: Map::new(),
                parameters: row.parameters,
                bytes: row.bytes,
            })
            .collect();
        page.models(&models);
        RUNS.iter().try_for_each(|run| add_run(page, &self.dir.join(run)))
    }

    /// Runs this program in the demo's directory, and parses the JSON that it prints.
    fn welore(&self, line: &str) -> Result<Value> {
        note!("$ welore-cli {line}");
        let program =
            std::env::current_exe().context("the program cannot find its own executable")?;
        let mut command = Command::new(program);
        command.args(line.split_whitespace()).current_dir(&self.dir).stderr(Stdio::inherit());
        if is_quiet() {
            command.arg("--quiet");
        }
        command.args(vec!["--verbose"; verbosity::level().into()]);
        // The user's settings are for other models.
        command.env_remove(settings::VARIABLE);
        make_part(&mut command);
        restore_environment(&mut command);
        let output = command.output().context("the program cannot start itself")?;
        if interrupted() {
            return Err(Interrupted.into());
        }
        if !output.status.success() {
            bail!("`welore-cli {line}` failed");
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

/// The file that marks a directory as made by a demo.
const MARK: &str = "welore-demo";

const FILES: [&str; 6] =
    [MARK, "tune.jsonl", "test.txt", "spectra.json", "uniform.json", "welore.json"];
const MODELS: [&str; 3] = ["dense", "uniform", "welore"];
const RUNS: [&str; 2] = ["lrc", "full"];
const MODEL_FILES: [&str; 6] =
    ["config.json", "tokenizer.json", "model.safetensors", PLAN_FILE, "README.md", CODE_FILE];
const RUN_FILES: [&str; 6] =
    ["run.json", "tokens", "metrics.jsonl", "train.log", "lock", "model.digest"];

/// Removes what an earlier demo made. If there is anything else, nothing is removed.
fn clear(dir: &Path) -> Result<()> {
    let made = made_below(dir, dir)?;
    for path in made.iter().filter(|path| !path.ends_with(MARK)) {
        let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        let removed = if is_dir { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
        removed.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Everything in a demo's directory, contents before the directories that contain them.
fn made_below(dir: &Path, demo: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut made = Vec::new();
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let within = path.strip_prefix(demo).unwrap_or(&path);
        let names: Vec<_> = within.iter().map(|name| name.to_string_lossy()).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        if kind.is_symlink() || !is_made(&names, kind.is_dir()) {
            let message = format!("{} was not made by a demo", path.display());
            let hint = "move it away, or give another directory";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        if kind.is_dir() {
            made.extend(made_below(&path, demo)?);
        }
        made.push(path);
    }
    Ok(made)
}

/// Whether a demo makes a file or directory of this path.
fn is_made(names: &[&str], is_dir: bool) -> bool {
    let is_partial = |name: &&str| is_temporary(OsStr::new(name));
    match (names, is_dir) {
        // What a demo was writing when it was killed.
        _ if names.iter().any(is_partial) => true,
        ([name], true) => MODELS.contains(name) || RUNS.contains(name),
        ([name], false) => FILES.contains(name),
        ([run, "model", file], false) if RUNS.contains(run) => MODEL_FILES.contains(file),
        ([run, "checkpoints", file], false) if RUNS.contains(run) => {
            ["last.json", "best.json"].contains(file)
        }
        ([run, "checkpoints", step], true) if RUNS.contains(run) => step.starts_with("step-"),
        ([run, "checkpoints", step, file], false) if RUNS.contains(run) => {
            step.starts_with("step-") && ["trainable.bpk", "optimizer.bpk"].contains(file)
        }
        ([run, name], true) if RUNS.contains(run) => ["model", "checkpoints"].contains(name),
        ([run, file], false) if RUNS.contains(run) => RUN_FILES.contains(file),
        ([model, file], false) if MODELS.contains(model) => MODEL_FILES.contains(file),
        _ => false,
    }
}

fn print(args: &DemoArgs, rows: &[Row]) -> Result<()> {
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let tuning = row.tuning.as_ref();
                json!({
                    "model": row.model,
                    "perplexity": row.perplexity,
                    "parameters": row.parameters,
                    "trainable": tuning.map(|tuning| tuning.trainable),
                    "tokens_per_second": tuning.map(|tuning| tuning.tokens_per_second),
                    "peak_memory": tuning.and_then(|tuning| tuning.peak_memory),
                })
            })
            .collect();
        let err: f64 = ERR.parse().context("ERR is a number")?;
        return output::print_json(&json!({ "err": err, "rows": rows }));
    }
    let cells = |row: &Row| {
        let of_tuning = |show: fn(&Tuning) -> String| row.tuning.as_ref().map_or("-".into(), show);
        vec![
            row.model.into(),
            format::perplexity(row.perplexity),
            format::count(row.parameters),
            of_tuning(|tuning| format::count(tuning.trainable)),
            of_tuning(|tuning| format!("{:.0}", tuning.tokens_per_second)),
            of_tuning(|tuning| tuning.peak_memory.map_or("-".into(), format::bytes)),
        ]
    };
    let header = ["model", "perplexity", "parameters", "trainable", "tokens/s", "memory"];
    output::print_block(&format::table(&header, rows.iter().map(cells).collect()))
}
