//! The model card in a compressed directory.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::calibrate::GradientLabels;
use welore_burn::channels::{ChannelPlan, JointPlan};
use welore_burn::checkpoint::{Checkpoint, CheckpointError};
use welore_burn::files::{FileError, read_file, replace_file, write_file};
use welore_burn::forms::Precision;
use welore_burn::modules::MatrixName;
use welore_burn::plan::RankPlan;
use welore_burn::report::{
    ChannelCard, ConvertedCard, Measurement, ModelCard, converted_card, tuned_card,
};

use crate::failure::WrongInput;

const CARD: &str = "README.md";

/// A larger file is not taken for a card.
const LARGEST: u64 = 4 << 20;

/// What the card names as its maker.
pub const MADE_BY: &str = concat!("welore-cli ", env!("CARGO_PKG_VERSION"));

/// Writes the card of a model that was compressed from the one in `from`, which the user named
/// `base`. `gradient_labels` are those of its calibration, if that is at hand.
pub fn write_card(
    directory: &Path,
    from: &Path,
    base: &str,
    plan: &RankPlan,
    gradient_labels: Option<GradientLabels>,
) -> Result<()> {
    write_model_card(directory, from, base, (plan, None), gradient_labels)
}

/// The same for a model that also has fewer channels.
pub fn write_joint_card(
    directory: &Path,
    from: &Path,
    base: &str,
    plan: &JointPlan,
    gradient_labels: Option<GradientLabels>,
) -> Result<()> {
    write_model_card(directory, from, base, (&plan.ranks, Some(plan)), gradient_labels)
}

fn write_model_card(
    directory: &Path,
    from: &Path,
    base: &str,
    (plan, joint): (&RankPlan, Option<&JointPlan>),
    gradient_labels: Option<GradientLabels>,
) -> Result<()> {
    let (name, base_card) = (name_of(base), read_card(from));
    let base_card = base_card.as_deref();
    let convolutions = factored_convolutions(directory);
    let (base, made_by) = (name.as_str(), MADE_BY);
    let card = ModelCard { base, base_card, plan, joint, convolutions, gradient_labels, made_by };
    Ok(write_file(directory.join(CARD), card.to_markdown().as_bytes())?)
}

/// The number of convolutions in two factors in a directory; none where no weights are written yet, which
/// then are those of a model that runs here.
fn factored_convolutions(directory: &Path) -> usize {
    let Ok(written) = Checkpoint::open(directory) else { return 0 };
    let is_dense = |name: &&MatrixName| written.meta(&name.weight()).is_some();
    written.convolutions().filter(|name| !is_dense(name)).count()
}

/// Writes the card of a model with fewer channels than the one in `from`, which the user named
/// `base`. `loss` is what is expected of what is stored.
pub fn write_channel_card(
    directory: &Path,
    from: &Path,
    base: &str,
    plan: &ChannelPlan,
    loss: f64,
) -> Result<()> {
    let (name, base_card) = (name_of(base), read_card(from));
    let base_card = base_card.as_deref();
    let card = ChannelCard { base: &name, base_card, plan, loss, made_by: MADE_BY };
    Ok(write_file(directory.join(CARD), card.to_markdown().as_bytes())?)
}

/// The name of a model on cards and in files that may be published.
pub fn name_of(base: &str) -> String {
    // A local path is private, except for its last part.
    let name = match Path::new(base).exists() {
        true => last_part(Path::new(base)),
        false => None,
    };
    name.unwrap_or_else(|| base.split('@').next().unwrap_or(base).into())
}

/// Writes the card of a model that was converted from the one in `from`, which the user named
/// `base`. The plan is that of the result, if it has one.
pub fn write_converted_card(
    directory: &Path,
    from: &Path,
    base: &str,
    plan: Option<&RankPlan>,
    precision: Option<Precision>,
) -> Result<()> {
    let converted = match (plan, precision) {
        (Some(plan), Some(precision)) => {
            let convert = |card: String| converted_card(&card, plan, precision);
            match read_card(from).and_then(convert) {
                Some(card) => Some(card),
                None => {
                    write_card(directory, from, base, plan, None)?;
                    read_card(directory).and_then(convert)
                }
            }
        }
        _ => {
            let (name, base_card) = (name_of(base), read_card(from));
            let base_card = base_card.as_deref();
            let card = ConvertedCard { base: &name, base_card, precision, made_by: MADE_BY };
            Some(card.to_markdown())
        }
    };
    match converted {
        Some(card) => Ok(write_file(directory.join(CARD), card.as_bytes())?),
        None => Ok(()),
    }
}

/// The last part of a path, as the user named it: a link is not followed, unless only what it leads
/// to has a name, as for `..`.
fn last_part(path: &Path) -> Option<String> {
    let typed = std::path::absolute(path).ok().filter(|path| path.file_name().is_some());
    let path = typed.or_else(|| path.canonicalize().ok())?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Writes the card of a model that was fine-tuned from the one in `from`; `how` describes the
/// training.
pub fn write_tuned_card(directory: &Path, from: &Path, plan: &RankPlan, how: &str) -> Result<()> {
    let before = match read_card(from) {
        Some(card) if tuned_card(&card, how).is_some() => Some(card),
        _ => {
            write_card(directory, from, &from.to_string_lossy(), plan, None)?;
            read_card(directory)
        }
    };
    match before.and_then(|card| tuned_card(&card, how)) {
        Some(card) => Ok(write_file(directory.join(CARD), card.as_bytes())?),
        None => Ok(()),
    }
}

/// Adds a measured score to the card in a directory.
pub fn record(directory: &Path, measured: Measurement<'_>) -> Result<()> {
    let path = directory.join(CARD);
    let Some(card) = read_card(directory).and_then(|card| measured.add_to(&card)) else {
        return Err(no_table(&path).into());
    };
    replace_file(place_of(&path, directory)?, card.as_bytes())?;
    note!("recorded in {}", path.display());
    Ok(())
}

/// Checks that a score can be recorded, before it is measured.
pub fn check_record(directory: &Path) -> Result<()> {
    let nothing = Measurement { score: "", value: 0.0, of: "", made_by: "" };
    match read_card(directory).and_then(|card| nothing.add_to(&card)) {
        Some(_) => place_of(&directory.join(CARD), directory).map(drop),
        None => Err(no_table(&directory.join(CARD)).into()),
    }
}

/// The file of a card that exists. A link is followed, but not out of the directory, which may be
/// somebody else's work.
fn place_of(card: &Path, directory: &Path) -> Result<PathBuf> {
    if !card.is_symlink() {
        return Ok(card.into());
    }
    let real = |path: &Path| path.canonicalize().map_err(FileError::io(path));
    let (target, home) = (real(card)?, real(directory)?);
    match target.starts_with(home) {
        true => Ok(target),
        false => Err(CheckpointError::LeadsOut { link: card.into(), target }.into()),
    }
}

fn no_table(path: &Path) -> WrongInput {
    let message = format!("{}: no table of measured quality", path.display());
    WrongInput::with_hint(
        message,
        "--record needs a compressed model directory that `compress` or `train` wrote",
    )
}

/// The card, if it exists and can be read; a model does not need one.
fn read_card(directory: &Path) -> Option<String> {
    String::from_utf8(read_file(directory.join(CARD), LARGEST).ok()?).ok()
}
