//! Perplexity on texts, and how far the predictions are from a dense model's.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::{Value, json};
use welore_burn::data::Texts;
use welore_burn::eval::{
    Divergence, Estimate, EvalError, LogitsSource, Perplexity, PerplexityOptions, check_text,
    perplexity, save_logits, saved_bytes,
};
use welore_burn::files::check_staged;
use welore_burn::forms::parameters;
use welore_burn::model::{LanguageModel, LoadedModel, OpenedModel};
use welore_burn::report::Measurement;

use super::against::{Against, Dense, Subject, Text};
use super::turns;
use crate::args::{EvalArgs, Typed, rule};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::adapting::{load, note_adapter, open};
use crate::shared::artifacts::{check_artifact, check_space, in_file};
use crate::shared::beginning::Beginning;
use crate::shared::card::{MADE_BY, record};
use crate::shared::identity::{Identity, digest_of};
use crate::shared::text::{NO_CONVERSATIONS, TextReader, texts_of, window_of};
use crate::terminal::Bar;
use crate::{format, models, output};

/// What was measured on a text.
struct Found {
    path: PathBuf,
    /// Digest of its tokens.
    digest: String,
    result: Perplexity,
    divergence: Option<Divergence>,
    /// Duration of measuring.
    seconds: f64,
}

/// What measuring needs, and what results need to be told.
struct Work<'a> {
    args: &'a EvalArgs,
    compute: &'a Compute,
    options: PerplexityOptions,
    beginning: Beginning,
    loaded: LoadedModel,
    dense: Option<Dense>,
    identity: Option<Identity>,
}

/// Measures on the texts, each by itself.
pub fn predict(args: &EvalArgs, typed: &Typed) -> Result<()> {
    check_saving(args)?;
    let (mut documents, mut conversations) = (Vec::new(), Vec::new());
    for path in &args.text {
        match texts_of(path)? {
            Texts::Documents(text) => documents.push(text),
            Texts::Conversations(all) => conversations.push(all),
        }
    }
    typed.check([rule("template", !conversations.is_empty(), NO_CONVERSATIONS)])?;
    match conversations.is_empty() {
        true => predict_documents(args, documents),
        false => turns::predict(args, &conversations),
    }
}

fn predict_documents(args: &EvalArgs, documents: Vec<Vec<String>>) -> Result<()> {
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let reader = TextReader::open(&model, &opened.config, args.bos)?;
    let options = PerplexityOptions {
        seq_len: window_of(args.seq_len, &opened.config),
        windows: args.windows,
        skip: args.skip,
        bos: reader.beginning.bos,
        stride: args.stride,
        at_once: compute.at_once(),
    };
    let read = |(path, documents): (&PathBuf, Vec<String>)| {
        let (path, tokens) = (path.clone(), reader.tokens(&documents)?);
        Ok(Text { path, documents, tokens })
    };
    let texts: Vec<Text> = args.text.iter().zip(documents).map(read).collect::<Result<_>>()?;
    check_texts(args, &opened, &texts, &options)?;
    let subject = Subject { dir: &model, opened: &opened, texts: &texts, options: &options };
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
    let beginning = reader.beginning;
    let compute = &compute;
    let work = Work { args, compute, options, beginning, loaded, dense, identity };
    let mut all = Vec::new();
    for text in &texts {
        let found = work.measure(text)?;
        if args.record {
            work.record(&found)?;
        }
        if !args.json {
            work.print_summary(&found)?;
        }
        all.push(found);
    }
    match &work.identity {
        Some(identity) if args.json => work.print_json(identity, dense_digest, &all),
        _ => Ok(()),
    }
}

/// Checks where logits are to be saved, if they are.
fn check_saving(args: &EvalArgs) -> Result<()> {
    let Some(file) = &args.save_logits else { return Ok(()) };
    if args.text.len() > 1 {
        let message = "--save-logits: only for one --text";
        return Err(WrongInput::with_hint(message, "save those of each text by themselves").into());
    }
    let inputs = [&args.model].into_iter().chain(&args.text).map(PathBuf::as_path);
    check_artifact(Some(file), Artifact::Logits, inputs)?;
    Ok(check_staged(file)?)
}

/// Checks that the texts can be measured, before weights are read, which may take long.
fn check_texts(
    args: &EvalArgs,
    opened: &OpenedModel,
    texts: &[Text],
    options: &PerplexityOptions,
) -> Result<()> {
    for text in texts {
        match check_text(opened.skeleton(), &text.tokens, options) {
            // Only this error is about the text.
            Err(error @ EvalError::TooShort { .. }) => in_file(Err(error), &text.path)?,
            other => other?,
        }
        if let Some(file) = &args.save_logits {
            let bytes = saved_bytes(opened.skeleton().vocab_size(), &text.tokens, options);
            note!("{} will have {}", file.display(), format::bytes(bytes));
            check_space(file, bytes)?;
        }
    }
    Ok(())
}

impl Work<'_> {
    fn measure(&self, text: &Text) -> Result<Found> {
        let (model, tokens, options) = (&self.loaded.model, &text.tokens, &self.options);
        let mut bar = Bar::default();
        let started = Instant::now();
        let (result, divergence) = match (&self.dense, &self.args.save_logits, &self.identity) {
            (Some(dense), ..) => {
                let found = dense.measure(model, tokens, options, &mut bar)?;
                (found.model, Some(found))
            }
            (None, Some(file), Some(identity)) => {
                let source = LogitsSource {
                    model: self.args.model.display().to_string(),
                    model_digest: identity.model_digest().into(),
                };
                (save_logits(file, model, &source, tokens, options, &mut bar)?, None)
            }
            _ => (perplexity(model, tokens, options, &mut bar)?, None),
        };
        bar.finish();
        let seconds = started.elapsed().as_secs_f64();
        if let Some(file) = &self.args.save_logits {
            note!("wrote {}", file.display());
        }
        if divergence.is_some_and(|found| found.spread.maximum == 0.0) {
            note!("both models predict the same at every token, so the divergence is 0");
        }
        let (path, digest) = (text.path.clone(), digest_of(tokens));
        Ok(Found { path, digest, result, divergence, seconds })
    }

    /// Adds what was measured to the card of the model.
    fn record(&self, found: &Found) -> Result<()> {
        let name = found.path.file_name().unwrap_or_default().to_string_lossy();
        let windows = format::number_of(found.result.windows, "window");
        let (length, begun) = (self.options.seq_len, self.beginning.clause());
        let scored = self.scored();
        let mut of = format!("{name}, {windows} of {length} tokens{begun}{scored}");
        if self.compute.dtype != FloatDType::F32 {
            of = format!("{of}, in {}", self.compute.dtype_name());
        }
        let divergence = found.divergence.map(|found| found.kl.value);
        let scores = [
            ("perplexity", Some(found.result.perplexity)),
            ("mean KL divergence from the dense model", divergence),
        ];
        for (score, value) in scores {
            if let Some(value) = value {
                record(&self.args.model, Measurement { score, value, of: &of, made_by: MADE_BY })?;
            }
        }
        Ok(())
    }

    /// Which predictions are scored, as a part of a sentence; nothing if all of windows that follow
    /// each other are.
    fn scored(&self) -> String {
        match (self.options.stride, self.options.skip) {
            (Some(stride), _) => {
                format!(", advancing by {}", format::number_of(stride, "token"))
            }
            (None, 0) => String::new(),
            (None, skip) => {
                format!(", without the first {} of each", format::number_of(skip, "prediction"))
            }
        }
    }

    fn print_json(
        &self,
        identity: &Identity,
        dense_digest: Option<String>,
        all: &[Found],
    ) -> Result<()> {
        let dense = dense_digest.unwrap_or_else(|| identity.model_digest().into());
        let mut object = match all {
            [found] => self.to_json(found, &dense),
            _ => {
                let texts: Vec<Value> =
                    all.iter().map(|found| self.to_json(found, &dense)).collect();
                json!({ "texts": texts })
            }
        };
        object["seq_len"] = self.options.seq_len.into();
        object["skip"] = self.options.skip.into();
        object["stride"] = self.options.stride.unwrap_or(self.options.seq_len).into();
        self.beginning.add_to(&mut object);
        object["parameters"] = parameters(&self.loaded.model).into();
        object["bytes"] = self.bytes().into();
        if let Some(file) = &self.args.save_logits {
            object["saved_logits"] = file.display().to_string().into();
        }
        note_adapter(self.args.adapter.as_deref(), &mut object);
        output::print_json(&identity.with(object))
    }

    /// What was measured on a text.
    fn to_json(&self, found: &Found, dense_digest: &str) -> Value {
        let result = &found.result;
        let mut object = json!({
            "text": found.path.display().to_string(),
            "text_digest": found.digest,
            "perplexity": result.perplexity,
            "nll": result.nll,
            "tokens": result.tokens,
            "scored_tokens": result.tokens,
            "windows": result.windows,
            "seconds": found.seconds,
            "tokens_per_second": self.speed(found),
        });
        if let (Some(divergence), Some(dense)) = (&found.divergence, &self.args.against) {
            object["against"] = json!({
                "model": dense.display().to_string(),
                "model_digest": dense_digest,
                "perplexity": divergence.dense.perplexity,
                "nll": divergence.dense.nll,
            });
            object["divergence"] = as_json(divergence);
        }
        object
    }

    fn print_summary(&self, found: &Found) -> Result<()> {
        let result = &found.result;
        let name = match &self.args.text[..] {
            [_] => String::new(),
            _ => format!("{}: ", found.path.display()),
        };
        say!(
            "{name}perplexity {} over {} ({} of {}{}{})",
            format::perplexity(result.perplexity),
            format::number_of(result.tokens, "token"),
            format::number_of(result.windows, "window"),
            self.options.seq_len,
            self.beginning.clause_with_reason(),
            self.scored()
        );
        say!(
            "parameters {}, {} on disk, {:.0} tokens/s",
            format::count(parameters(&self.loaded.model)),
            format::bytes(self.bytes()),
            self.speed(found)
        );
        match &found.divergence {
            Some(divergence) => output::print_block(&table(divergence)),
            None => Ok(()),
        }
    }

    fn bytes(&self) -> u64 {
        models::bytes_on_disk(&self.args.model, &self.loaded.checkpoint)
    }

    /// Tokens read per second, including those that are not scored.
    fn speed(&self, found: &Found) -> f64 {
        (found.result.windows * self.options.seq_len) as f64 / found.seconds
    }
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
