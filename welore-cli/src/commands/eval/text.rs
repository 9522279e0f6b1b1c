//! Perplexity on a text, and how far the predictions are from a dense model's.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::{Value, json};
use welore_burn::eval::{
    Divergence, Estimate, EvalError, LogitsSource, Perplexity, PerplexityOptions, check_text,
    perplexity, save_logits, saved_bytes,
};
use welore_burn::files::check_staged;
use welore_burn::forms::parameters;
use welore_burn::model::{LanguageModel, LoadedModel};
use welore_burn::report::Measurement;

use super::against::{Against, Dense, Subject};
use crate::args::EvalArgs;
use crate::devices::Compute;
use crate::models::Artifact;
use crate::shared::adapting::{load, note_adapter, open};
use crate::shared::artifacts::{check_artifact, check_space, in_file};
use crate::shared::card::{MADE_BY, record};
use crate::shared::identity::{Identity, digest_of};
use crate::shared::text::{TextReader, documents_of, window_of};
use crate::terminal::Bar;
use crate::{format, models, output};

/// What was measured.
struct Found {
    seq_len: usize,
    result: Perplexity,
    divergence: Option<Divergence>,
    /// Duration of measuring.
    seconds: f64,
}

/// Measures on the text in a file.
pub fn predict(args: &EvalArgs, path: &Path) -> Result<()> {
    if let Some(file) = &args.save_logits {
        check_artifact(Some(file), Artifact::Logits, [args.model.as_path(), path])?;
        check_staged(file)?;
    }
    let documents = documents_of(path)?;
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let tokens = TextReader::open(&model, &opened.config)?.tokens(&documents)?;
    let options = PerplexityOptions {
        seq_len: window_of(args.seq_len, &opened.config),
        windows: args.windows,
        skip: args.skip,
        at_once: compute.at_once(),
    };
    // Checked here because loading weights may take long.
    match check_text(opened.skeleton(), &tokens, &options) {
        // Only this error is about the text.
        Err(error @ EvalError::TooShort { .. }) => in_file(Err(error), path)?,
        other => other?,
    }
    if let Some(file) = &args.save_logits {
        let bytes = saved_bytes(opened.skeleton().vocab_size(), tokens.len(), &options);
        note!("{} will have {}", file.display(), format::bytes(bytes));
        check_space(file, bytes)?;
    }
    let subject = Subject {
        dir: &model,
        opened: &opened,
        documents: &documents,
        tokens: &tokens,
        options: &options,
    };
    let against = args.against.as_deref().map(|path| Against::open(path, &subject, &compute));
    let against = against.transpose()?;
    let identity = match args.json || args.save_logits.is_some() {
        true => Some(Identity::of(&args.model, &model, &compute)?),
        false => None,
    };
    let dense_digest = match &against {
        Some(against) if args.json => against.model_digest()?,
        _ => None,
    };
    let loaded = load(opened, compute.dtype, adapter)?;
    let dense = against.map(|against| against.load(&compute)).transpose()?;
    let found = measure(args, &loaded, dense.as_ref(), identity.as_ref(), &tokens, &options)?;
    if args.record {
        record_all(args, path, &compute, &found)?;
    }
    match identity {
        Some(identity) if args.json => {
            print_found(args, path, &identity, dense_digest, &loaded, &tokens, &found)
        }
        _ => print_summary(args, &loaded, &found),
    }
}

fn measure(
    args: &EvalArgs,
    loaded: &LoadedModel,
    dense: Option<&Dense>,
    identity: Option<&Identity>,
    tokens: &[u32],
    options: &PerplexityOptions,
) -> Result<Found> {
    let (model, mut bar) = (&loaded.model, Bar::default());
    let started = Instant::now();
    let (result, divergence) = match (dense, &args.save_logits, identity) {
        (Some(dense), ..) => {
            let found = dense.measure(model, tokens, options, &mut bar)?;
            (found.model, Some(found))
        }
        (None, Some(file), Some(identity)) => {
            let source = LogitsSource {
                model: args.model.display().to_string(),
                model_digest: identity.model_digest().into(),
            };
            (save_logits(file, model, &source, tokens, options, &mut bar)?, None)
        }
        _ => (perplexity(model, tokens, options, &mut bar)?, None),
    };
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    if let Some(file) = &args.save_logits {
        note!("wrote {}", file.display());
    }
    if divergence.is_some_and(|found| found.spread.maximum == 0.0) {
        note!("both models predict the same at every token, so the divergence is 0");
    }
    Ok(Found { seq_len: options.seq_len, result, divergence, seconds })
}

/// Adds what was measured to the card of the model.
fn record_all(args: &EvalArgs, path: &Path, compute: &Compute, found: &Found) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let windows = format::number_of(found.result.windows, "window");
    let mut of = format!("{name}, {windows} of {} tokens{}", found.seq_len, skipped(args));
    if compute.dtype != FloatDType::F32 {
        of = format!("{of}, in {}", compute.dtype_name());
    }
    let divergence = found.divergence.map(|found| found.kl.value);
    let scores = [
        ("perplexity", Some(found.result.perplexity)),
        ("mean KL divergence from the dense model", divergence),
    ];
    for (score, value) in scores {
        if let Some(value) = value {
            record(&args.model, Measurement { score, value, of: &of, made_by: MADE_BY })?;
        }
    }
    Ok(())
}

/// The predictions that are not scored, as a part of a sentence; nothing if all are scored.
fn skipped(args: &EvalArgs) -> String {
    match args.skip {
        0 => String::new(),
        skip => format!(", without the first {} of each", format::number_of(skip, "prediction")),
    }
}

fn print_found(
    args: &EvalArgs,
    path: &Path,
    identity: &Identity,
    dense_digest: Option<String>,
    loaded: &LoadedModel,
    tokens: &[u32],
    found: &Found,
) -> Result<()> {
    let Found { seq_len, result, divergence, seconds } = found;
    let mut all = json!({
        "text": path.display().to_string(),
        "text_digest": digest_of(tokens),
        "perplexity": result.perplexity,
        "nll": result.nll,
        "tokens": result.tokens,
        "windows": result.windows,
        "seq_len": seq_len,
        "skip": args.skip,
        "parameters": parameters(&loaded.model),
        "bytes": models::bytes_on_disk(&args.model, &loaded.checkpoint),
        "seconds": seconds,
        "tokens_per_second": speed(found),
    });
    if let Some(file) = &args.save_logits {
        all["saved_logits"] = file.display().to_string().into();
    }
    if let (Some(divergence), Some(dense)) = (divergence, &args.against) {
        let digest = dense_digest.unwrap_or_else(|| identity.model_digest().into());
        all["against"] = json!({
            "model": dense.display().to_string(),
            "model_digest": digest,
            "perplexity": divergence.dense.perplexity,
            "nll": divergence.dense.nll,
        });
        all["divergence"] = as_json(divergence);
    }
    note_adapter(args.adapter.as_deref(), &mut all);
    output::print_json(&identity.with(all))
}

fn as_json(divergence: &Divergence) -> Value {
    json!({
        "kl": divergence.kl,
        "spread": divergence.spread,
        "same_top": divergence.same_top,
        "perplexity_ratio": divergence.ratio(),
        "log_perplexity_ratio": divergence.log_ratio,
        "correlation": divergence.correlation,
        "probability_change": divergence.probability_change,
        "probability_change_rms": divergence.probability_change_rms,
    })
}

/// Tokens read per second, including those that are not scored.
fn speed(found: &Found) -> f64 {
    (found.result.windows * found.seq_len) as f64 / found.seconds
}

fn print_summary(args: &EvalArgs, loaded: &LoadedModel, found: &Found) -> Result<()> {
    let result = &found.result;
    say!(
        "perplexity {} over {} ({} of {}{})",
        format::perplexity(result.perplexity),
        format::number_of(result.tokens, "token"),
        format::number_of(result.windows, "window"),
        found.seq_len,
        skipped(args)
    );
    say!(
        "parameters {}, {} on disk, {:.0} tokens/s",
        format::count(parameters(&loaded.model)),
        format::bytes(models::bytes_on_disk(&args.model, &loaded.checkpoint)),
        speed(found)
    );
    match &found.divergence {
        Some(divergence) => output::print_block(&table(divergence)),
        None => Ok(()),
    }
}

/// The divergence as a table, with standard errors.
fn table(divergence: &Divergence) -> String {
    let row = |what: &str, value: String, error: String| vec![what.to_string(), value, error];
    let nats = |value: f64| format!("{value:.6}");
    let number = |what: &str, of: Estimate| row(what, nats(of.value), nats(of.standard_error));
    let percent = |what: &str, of: Estimate| {
        let shown = |share: f64| format!("{:.3}%", 100.0 * share);
        row(what, shown(of.value), shown(of.standard_error))
    };
    let spread = divergence.spread;
    let place = |what: &str, value: f64| row(what, nats(value), String::new());
    let dense = format::perplexity(divergence.dense.perplexity);
    let rows = vec![
        number("mean KL divergence", divergence.kl),
        place("  median", spread.median),
        place("  99%", spread.p99),
        place("  99.9%", spread.p99_9),
        place("  maximum", spread.maximum),
        percent("same most likely token", divergence.same_top),
        row("perplexity of the dense model", dense, String::new()),
        number("perplexity ratio", divergence.ratio()),
        percent("mean change of the right token's probability", divergence.probability_change),
        percent("  root mean square", divergence.probability_change_rms),
    ];
    format::table(&["against the dense model", "", "standard error"], rows)
}
