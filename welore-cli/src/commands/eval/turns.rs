//! Perplexity of what the assistant says in conversations.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::{Value, json};
use welore_burn::data::{Conversation, TokenRows};
use welore_burn::eval::{EvalError, Perplexity, check_rows_fit, perplexity_of_rows};
use welore_burn::forms::parameters;
use welore_burn::model::{LoadedModel, OpenedModel};
use welore_burn::report::Measurement;

use crate::args::{BosArg, EvalArgs};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::adapting::{load, note_adapter, open};
use crate::shared::card::{MADE_BY, record};
use crate::shared::identity::Identity;
use crate::shared::text::{TextReader, tell_of_lessons, window_of};
use crate::terminal::Bar;
use crate::{format, models, output};

/// The conversations of a file, each with the number of its line.
pub type Conversations = Vec<(usize, Conversation)>;

/// A file of conversations.
struct Talk<'a> {
    path: &'a Path,
    conversations: usize,
    /// What the assistant says is what they predict.
    rows: TokenRows,
}

/// What was measured on a file.
struct Found<'a> {
    talk: &'a Talk<'a>,
    result: Perplexity,
    /// Duration of measuring.
    seconds: f64,
}

/// What measuring needs, and what results need to be told.
struct Work<'a> {
    args: &'a EvalArgs,
    compute: &'a Compute,
    loaded: LoadedModel,
    /// The most tokens of a row.
    seq_len: usize,
}

/// Measures on the conversations of each file.
pub fn predict(args: &EvalArgs, all: &[Conversations]) -> Result<()> {
    check_options(args, all.len())?;
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let seq_len = seq_len_of(args, &opened)?;
    // A chat template says what a conversation begins with.
    let reader = TextReader::open(&model, &opened.config, BosArg::Off)?;
    let reader = reader.with_template(args.template.file());
    let mut talks = Vec::new();
    for (path, all) in args.text.iter().zip(all) {
        let talk = Talk::read(path, all, &reader, seq_len)?;
        check_rows_fit(opened.skeleton(), &talk.rows)?;
        talks.push(talk);
    }
    let identity = args.json.then(|| Identity::of(&args.model, &model, &compute)).transpose()?;
    let loaded = load(opened, compute.dtype, adapter)?;
    let work = Work { args, compute: &compute, loaded, seq_len };
    let mut found = Vec::new();
    for talk in &talks {
        let one = work.measure(talk)?;
        if args.record {
            work.record(&one)?;
        }
        if !args.json {
            work.print_summary(&one)?;
        }
        found.push(one);
    }
    match identity {
        Some(identity) => work.print_json(&identity, &found),
        None => Ok(()),
    }
}

/// Checks that all texts are conversations, and that what was asked for can be measured on them.
fn check_options(args: &EvalArgs, conversations: usize) -> Result<()> {
    if conversations < args.text.len() {
        let message = "--text: some files are texts, others conversations";
        return Err(WrongInput::with_hint(message, "measure on one kind after the other").into());
    }
    let given = [
        ("bos", args.bos != BosArg::Auto),
        ("stride", args.stride.is_some()),
        ("skip", args.skip > 0),
        ("against", args.against.is_some()),
        ("save-logits", args.save_logits.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
        let message = format!("--{option}: not with conversations");
        let hint = "of conversations, the perplexity of what the assistant says is measured";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    if args.windows == Some(0) {
        return Err(EvalError::NoWindows.into());
    }
    Ok(())
}

/// The most tokens of a row: as many as a window of a text has.
fn seq_len_of(args: &EvalArgs, opened: &OpenedModel) -> Result<usize, EvalError> {
    let (seq_len, context) = (window_of(args.seq_len, &opened.config), opened.config.context());
    match seq_len {
        0 | 1 => Err(EvalError::SeqLen(seq_len)),
        _ if seq_len > context => Err(EvalError::Context { seq_len, context }),
        _ => Ok(seq_len),
    }
}

impl<'a> Talk<'a> {
    fn read(
        path: &'a Path,
        all: &Conversations,
        reader: &TextReader,
        seq_len: usize,
    ) -> Result<Self> {
        let (rows, cut) = reader.lessons(path, all, seq_len)?;
        tell_of_lessons(path, all.len(), cut, seq_len);
        Ok(Self { path, conversations: all.len(), rows })
    }
}

impl Work<'_> {
    fn measure<'t>(&self, talk: &'t Talk<'t>) -> Result<Found<'t>> {
        let (most, at_once) = (self.args.windows, self.compute.at_once());
        let (started, mut bar) = (Instant::now(), Bar::default());
        let result = perplexity_of_rows(&self.loaded.model, &talk.rows, most, at_once, &mut bar)?;
        bar.finish();
        Ok(Found { talk, result, seconds: started.elapsed().as_secs_f64() })
    }

    /// Adds what was measured to the card of the model.
    fn record(&self, found: &Found<'_>) -> Result<()> {
        let name = found.talk.path.file_name().unwrap_or_default().to_string_lossy();
        let mut of = format!("what the assistant says in {name}, {}", self.amount(found));
        if self.compute.dtype != FloatDType::F32 {
            of = format!("{of}, in {}", self.compute.dtype_name());
        }
        let (score, value) = ("perplexity", found.result.perplexity);
        record(&self.args.model, Measurement { score, value, of: &of, made_by: MADE_BY })
    }

    /// How much was read.
    fn amount(&self, found: &Found<'_>) -> String {
        let rows = format::number_of(found.result.windows, "row");
        format!("{rows} of at most {} tokens", self.seq_len)
    }

    fn print_summary(&self, found: &Found<'_>) -> Result<()> {
        let name = match &self.args.text[..] {
            [_] => String::new(),
            _ => format!("{}: ", found.talk.path.display()),
        };
        say!(
            "{name}perplexity {} over {} of the assistant ({})",
            format::perplexity(found.result.perplexity),
            format::number_of(found.result.tokens, "token"),
            self.amount(found)
        );
        say!(
            "parameters {}, {} on disk, {:.0} tokens/s",
            format::count(parameters(&self.loaded.model)),
            format::bytes(self.bytes()),
            speed(found)
        );
        Ok(())
    }

    fn print_json(&self, identity: &Identity, all: &[Found<'_>]) -> Result<()> {
        let mut object = match all {
            [found] => to_json(found),
            _ => json!({ "texts": all.iter().map(to_json).collect::<Vec<_>>() }),
        };
        object["seq_len"] = self.seq_len.into();
        if let Some(file) = self.args.template.file() {
            object["template"] = file.display().to_string().into();
        }
        object["parameters"] = parameters(&self.loaded.model).into();
        object["bytes"] = self.bytes().into();
        note_adapter(self.args.adapter.as_deref(), &mut object);
        output::print_json(&identity.with(object))
    }

    fn bytes(&self) -> u64 {
        models::bytes_on_disk(&self.args.model, &self.loaded.checkpoint)
    }
}

/// What was measured on a file.
fn to_json(found: &Found<'_>) -> Value {
    let Found { talk, result, seconds } = found;
    json!({
        "text": talk.path.display().to_string(),
        "text_digest": talk.rows.digest(),
        "perplexity": result.perplexity,
        "nll": result.nll,
        "scored_tokens": result.tokens,
        "conversations": talk.conversations,
        "rows": result.windows,
        "seconds": seconds,
        "tokens_per_second": speed(found),
    })
}

/// Tokens read per second, including those that are not scored.
fn speed(found: &Found<'_>) -> f64 {
    let rows = 0..found.result.windows;
    let read: usize = rows.map(|row| found.talk.rows.nth(row, None).tokens.len()).sum();
    read as f64 / found.seconds
}
