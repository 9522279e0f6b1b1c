//! `demo`: analyze, plan, compress and evaluate a tiny built-in model, offline.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::module::Module;
use serde_json::json;
use welore_burn::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, OutputDir};
use welore_burn::data::TextTokenizer;
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::llama::load_llama;
use welore_burn::plan::{PlanOptions, RankPolicy, Uniform, WeLore, make_plan};
use welore_burn::spectrum::{Selection, measure_checkpoint};
use welore_burn::surgery::compress_directory;

use super::{blocks_at_once, device};
use crate::args::DemoArgs;
use crate::format;
use crate::terminal::Bar;

/// The built-in model: `tests/fixtures/make.py` trains it.
macro_rules! fixture {
    ($file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/", $file))
    };
}

const MODEL_FILES: [(&str, &[u8]); 3] = [
    ("config.json", fixture!("tiny-llama/config.json")),
    ("tokenizer.json", fixture!("tiny-llama/tokenizer.json")),
    ("model.safetensors", fixture!("tiny-llama/model.safetensors")),
];
const TEXT: &[u8] = fixture!("story.txt");

/// Effective rank reduction of the compressed models.
const ERR: f64 = 0.5;

struct Row {
    model: &'static str,
    lrcs: usize,
    parameters: u64,
    bytes: u64,
    perplexity: f64,
}

/// Runs the command.
pub fn run(args: DemoArgs) -> Result<()> {
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let home = args.output.clone().unwrap_or_else(|| scratch.path().to_path_buf());
    // All three before any work, so that one refused directory leaves the others untouched.
    let place = |name: &str| OutputDir::create(home.join(name), args.force);
    let (model, mut outputs) = (place("dense")?, [place("uniform")?, place("welore")?].into_iter());
    let dense = write_model(model, &home)?;
    let checkpoint = Checkpoint::open(&dense)?;
    eprintln!("analyze: singular values of every projection of the built-in model");
    let spectra = measure_checkpoint(&checkpoint, &Selection::projections(), &mut Bar::default())?;

    let mut rows = vec![evaluate("dense", 0, &dense)?];
    let policies: [(&'static str, &dyn RankPolicy); 2] =
        [("uniform", &Uniform), ("welore", &WeLore)];
    for (name, policy) in policies {
        eprintln!("plan and compress: {name} at ERR {ERR}");
        // min_ratio 0 factors every matrix under both policies, so that only ranks differ.
        let options = PlanOptions { min_ratio: 0.0, ..PlanOptions::new(ERR) };
        let plan = make_plan(&spectra, policy, &options)?;
        let target = home.join(name);
        let output = outputs.next().expect("one a policy");
        compress_directory(&checkpoint, &plan, &output, DEFAULT_SHARD_BYTES, &mut Bar::default())?;
        output.commit()?;
        rows.push(evaluate(name, plan.totals.lrcs, &target)?);
    }
    print(&args, &rows)?;
    if let Some(output) = &args.output {
        eprintln!("the models are in {}", output.display());
    }
    Ok(())
}

fn write_model(output: OutputDir, home: &Path) -> Result<PathBuf> {
    for (name, content) in MODEL_FILES {
        welore_burn::checkpoint::write_file(output.path().join(name), content)?;
    }
    output.commit()?;
    Ok(home.join("dense"))
}

fn evaluate(model: &'static str, lrcs: usize, dir: &Path) -> Result<Row> {
    eprintln!("eval: {model}");
    let device = device();
    let loaded = load_llama(dir, &device, &mut Bar::default())?;
    let text = std::str::from_utf8(TEXT).context("the built-in text is UTF-8")?;
    let tokens = TextTokenizer::open(dir)?.encode(text)?;
    let options = PerplexityOptions { seq_len: 128, blocks: None, at_once: blocks_at_once() };
    let context = loaded.config.max_position_embeddings;
    let measured =
        perplexity(&loaded.model, &tokens, context, &options, &device, &mut Bar::default())?;
    Ok(Row {
        model,
        lrcs,
        parameters: loaded.model.num_params() as u64,
        bytes: loaded.bytes,
        perplexity: measured.perplexity,
    })
}

fn print(args: &DemoArgs, rows: &[Row]) -> Result<()> {
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "model": row.model,
                    "lrcs": row.lrcs,
                    "parameters": row.parameters,
                    "bytes": row.bytes,
                    "perplexity": row.perplexity,
                })
            })
            .collect();
        return format::print_json(&json!({ "err": ERR, "rows": rows }));
    }
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                row.model.into(),
                row.lrcs.to_string(),
                format::count(row.parameters),
                format::bytes(row.bytes),
                format::perplexity(row.perplexity),
            ]
        })
        .collect();
    say!("{}", format::table(&["model", "LRCs", "parameters", "bytes", "perplexity"], rows));
    Ok(())
}
