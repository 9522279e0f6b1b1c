//! What an adapter does to the predictions on a text.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::difference::{Approximation, dense_model};
use welore_burn::eval::{Divergence, EvalError, PerplexityOptions, check_text, divergence};
use welore_burn::model::{Decoder, FoundModel, OpenedModel};

use crate::args::{AdapterMakingArgs, BosArg};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::identity::digest_of;
use crate::shared::opening::to_run;
use crate::shared::text::{TextReader, documents_of, window_of};
use crate::terminal::Bar;

/// A text that both models are to predict.
#[derive(Debug)]
pub struct Text {
    path: PathBuf,
    tokens: Vec<u32>,
    options: PerplexityOptions,
    compute: Compute,
}

/// How far predictions are from those of the model that an adapter leads to.
#[derive(Debug)]
pub struct Divergences {
    text: PathBuf,
    text_digest: String,
    seq_len: usize,
    /// Without the adapter.
    pub before: Divergence,
    /// With it.
    pub after: Divergence,
}

/// The models that are measured.
fn both<'m>(from: &'m FoundModel, to: &'m FoundModel) -> Result<[&'m OpenedModel; 2]> {
    let hint = "leave --text out";
    Ok([to_run(from, "--text", hint)?, to_run(to, "--text", hint)?])
}

impl Text {
    /// Reads a text and checks that both models can predict it.
    pub fn read(
        path: &Path,
        args: &AdapterMakingArgs,
        from: &FoundModel,
        to: &FoundModel,
    ) -> Result<Self> {
        let [from, to] = both(from, to)?;
        let documents = documents_of(path)?;
        let compute = Compute::choose(args.compute.choice())?;
        let tokens_of = |opened: &OpenedModel| {
            let reader = TextReader::open(opened.checkpoint.dir(), &opened.config, BosArg::Auto)?;
            Ok::<_, anyhow::Error>((reader.tokens(&documents)?, reader.beginning.bos))
        };
        let (tokens, bos) = tokens_of(to)?;
        if tokens_of(from)? != (tokens.clone(), bos) {
            let [from, to] = [from, to].map(|model| model.checkpoint.dir().display().to_string());
            let message = format!("{from} has other tokens of the text than {to}");
            return Err(WrongInput::with_hint(message, "leave --text out").into());
        }
        let options = PerplexityOptions {
            seq_len: window_of(args.seq_len, &to.config),
            windows: args.windows,
            at_once: compute.at_once(),
            bos,
            ..PerplexityOptions::default()
        };
        for model in [from, to] {
            match check_text(model.skeleton(), &tokens, &options) {
                // Only this error is about the text.
                Err(error @ EvalError::TooShort { .. }) => in_file(Err(error), path)?,
                other => other?,
            }
        }
        Ok(Self { path: path.into(), tokens, options, compute })
    }

    /// Measures how far the model that something is added to is from the other, with and without it.
    pub fn measure(
        &self,
        (from, to): (&FoundModel, &FoundModel),
        added: &[Approximation],
    ) -> Result<Divergences> {
        let [from, to] = both(from, to)?;
        let load = |opened: &OpenedModel, added: &[Approximation]| -> Result<Decoder> {
            let mut bar = Bar::default();
            let Compute { device, dtype, .. } = &self.compute;
            let model = dense_model(opened, added, device, *dtype, &mut bar)?;
            bar.finish();
            Ok(model)
        };
        let reference = load(to, &[])?;
        let measure = |added: &[Approximation]| -> Result<Divergence> {
            let model = load(from, added)?;
            let mut bar = Bar::default();
            let found = divergence(&model, &reference, &self.tokens, &self.options, &mut bar)?;
            bar.finish();
            Ok(found)
        };
        Ok(Divergences {
            text: self.path.clone(),
            text_digest: digest_of(&self.tokens),
            seq_len: self.options.seq_len,
            before: measure(&[])?,
            after: measure(added)?,
        })
    }
}

impl Divergences {
    /// For JSON results.
    pub fn as_json(&self) -> Value {
        let of = |found: &Divergence| {
            json!({
                "kl": found.kl,
                "same_top": found.same_top,
                "perplexity": found.model.perplexity,
            })
        };
        json!({
            "text": self.text.display().to_string(),
            "text_digest": self.text_digest,
            "tokens": self.after.model.tokens,
            "windows": self.after.model.windows,
            "seq_len": self.seq_len,
            "perplexity": self.after.dense.perplexity,
            "before": of(&self.before),
            "after": of(&self.after),
        })
    }
}
