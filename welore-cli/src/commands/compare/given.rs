//! Models that exist already, measured beside those that are made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use welore_burn::eval::{EvalError, check_text};
use welore_burn::forms::matrices;
use welore_burn::model::{Decoder, LanguageModel, OpenedModel, load_model};
use welore_burn::modules::MatrixName;

use super::{Text, measuring};
use crate::args::{BosArg, CompareArgs, GoalsArgs};
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::models;
use crate::shared::opening::open_known;
use crate::shared::text::TextReader;
use crate::terminal::Bar;

/// A model that was given.
pub struct GivenModel {
    /// The series that it is of, if it was given with one.
    pub series: Option<String>,
    /// As it was typed.
    pub path: PathBuf,
    /// Where its weights are.
    dir: PathBuf,
    /// Bytes of its weights; of the whole file, for a GGUF file.
    pub bytes: u64,
    /// Parameters of the matrices that can be compressed, as a share of those of the dense model.
    pub kept: f64,
    /// Number of its matrices that are of low rank.
    pub lrcs: usize,
}

impl GivenModel {
    /// Opens a model, after checking that it can be compared with the dense one on all texts. Reads
    /// no weights.
    pub fn open(
        (series, path): (Option<&str>, &Path),
        dense: &OpenedModel,
        texts: &[Text],
        args: &CompareArgs,
        compute: &Compute,
    ) -> Result<Self> {
        let dir = models::directory_to_run(path, compute)?;
        let opened = open_known(&dir, &host())?;
        let skeleton = opened.skeleton();
        let [vocab_size, of_dense] = [skeleton, dense.skeleton()].map(LanguageModel::vocab_size);
        if vocab_size != of_dense {
            let error = EvalError::Vocabulary { vocab_size, dense: of_dense };
            return Err(error).with_context(|| path.display().to_string());
        }
        // Windows begin as those of the dense model do.
        let reader = TextReader::open(&dir, &opened.config, BosArg::Off)?;
        for text in texts {
            if reader.read(&text.path)? != text.tokens {
                let message = format!("{}: its tokens of the text are not MODEL's", path.display());
                let hint = "give models that were made from MODEL";
                return Err(WrongInput::with_hint(message, hint).into());
            }
            let options = measuring(args, text, compute.at_once());
            check_text(skeleton, &text.tokens, &options)
                .with_context(|| path.display().to_string())?;
        }
        let bytes = models::bytes_on_disk(path, &opened.checkpoint);
        let kept = parameters(skeleton) as f64 / parameters(dense.skeleton()).max(1) as f64;
        let lrcs = opened.compressed.iter().filter(|matrix| matrix.form.rank().is_some()).count();
        let (series, path) = (series.map(String::from), path.into());
        Ok(Self { series, path, dir, bytes, kept, lrcs })
    }

    /// Reads its weights.
    pub fn load(&self, compute: &Compute, bar: &mut Bar) -> Result<Decoder> {
        Ok(load_model(&self.dir, &compute.device, compute.dtype, bar)?.model)
    }
}

/// Checks that no model is given twice, not even by two of its files, and that no `NAME=MODEL` is also a
/// path that exists.
///
/// # Errors
///
/// [`WrongInput`].
pub fn check_series(goals: &GoalsArgs) -> Result<()> {
    for series in &goals.models {
        let (Some(name), Some(first)) = (&series.name, series.models.first()) else { continue };
        let path = format!("{name}={}", first.display());
        if Path::new(&path).exists() {
            let message = format!("--models {path}: both a path and a model of a series `{name}`");
            let hint = format!("give the series another name, or write ./{path} for the path");
            return Err(WrongInput::with_hint(message, hint).into());
        }
    }
    let given: Vec<&Path> = goals.given().map(|(_, model)| model).collect();
    let is_same = |one: &Path, other: &Path| {
        let is_beside = one.parent() == other.parent();
        one == other || (is_beside && models::are_parts_of_one(one, other))
    };
    let is_known = |index: usize| given[..index].iter().any(|one| is_same(one, given[index]));
    match (0..given.len()).find(|index| is_known(*index)).map(|index| given[index]) {
        None => Ok(()),
        Some(model) => {
            let message = format!("--models: {} is given twice", model.display());
            Err(WrongInput::with_hint(message, "give every model once").into())
        }
    }
}

/// Opens the models that exist already, in order, after checking that each can be compared.
pub fn given_models(
    args: &CompareArgs,
    dense: &OpenedModel,
    texts: &[Text],
    compute: &Compute,
) -> Result<Vec<GivenModel>> {
    let models = args.goals.given();
    models.map(|model| GivenModel::open(model, dense, texts, args, compute)).collect()
}

/// Parameters of the matrices that can be compressed.
fn parameters(skeleton: &Decoder) -> u64 {
    let names: BTreeSet<MatrixName> =
        skeleton.matrices().into_iter().map(|matrix| matrix.name).collect();
    let of = matrices(skeleton).into_iter().filter(|matrix| names.contains(&matrix.name));
    of.map(|matrix| matrix.parameters()).sum()
}
