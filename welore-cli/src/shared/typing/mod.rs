//! Choosing types for another program, for `plan` and `compress`.

mod kept;
mod matrices;
mod mixed;
mod problem;
mod telling;

use std::path::Path;

use anyhow::Result;
use welore_burn::types::{TypeBudget, TypePlan};

pub use self::matrices::Dense;
pub use self::mixed::Mixed;
pub use self::problem::Problem;
pub use self::telling::{say_choice, say_llama_quantize, summary};
use super::artifacts::{check_artifact, in_file, read_artifact};
use super::calibrating::check_amount;
use super::effects::{of_amount, of_bos};
use super::inputs::place_of;
use super::recipe::check_calibration_file;
use crate::args::{AmountArgs, RANK_OPTIONS, ResourceArgs, TextArg, TypeArgs, Typed, rule};
use crate::failure::WrongInput;
use crate::models::{Artifact, Wanted, check_kind};

/// Options that concern ranks and factors, beside [`RANK_OPTIONS`]. A command that has no such option
/// has none that is typed.
const OF_RANKS: [&str; 15] = [
    "err",
    "err-applied",
    "keep-params",
    "method",
    "shrink-inputs",
    "shrink-gradients",
    "follow",
    "no-adapt-dense",
    "fit-windows",
    "refine",
    "refine-lr",
    "probe-windows",
    "sort",
    "filter",
    "convolutions",
];

/// What is calibrated on by default.
static OWN: [TextArg; 1] = [TextArg::Own];

/// What a command that chooses types is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Typing<'a> {
    /// MODEL, as it was typed.
    pub model: &'a Path,
    /// Which types may be chosen.
    pub options: &'a TypeArgs,
    /// The most bytes of the file.
    pub max_bytes: Option<u64>,
    /// A plan of types that was made before.
    pub plan: Option<&'a Path>,
    /// Whether that plan may be carried out with another calibration than its own.
    pub other_calibration: bool,
    /// The calibration, if it was made before.
    pub calibration: Option<&'a Path>,
    /// The texts to calibrate on, if they were named.
    pub calibrate: &'a [TextArg],
    /// Where a calibration that is made is kept.
    pub save_calibration: Option<&'a Path>,
    /// How much of the texts is read.
    pub amount: &'a AmountArgs,
    /// Limits on measuring.
    pub resources: &'a ResourceArgs,
}

/// What types are to be.
#[derive(Debug)]
pub enum Aim {
    /// The best within a budget.
    Budget(TypeBudget),
    /// Those of a plan.
    Given(Box<TypePlan>),
}

impl<'a> Typing<'a> {
    /// Whether nobody said what to calibrate on: the model then writes its own text.
    pub fn is_by_default(&self) -> bool {
        self.calibration.is_none() && self.calibrate.is_empty()
    }

    /// What is calibrated on; nothing if there is a calibration.
    pub fn texts(&self) -> &'a [TextArg] {
        if self.is_by_default() { &OWN } else { self.calibrate }
    }

    /// What the command reads.
    pub fn inputs(&self) -> impl Iterator<Item = &'a Path> {
        let files = [Some(self.model), self.plan, self.calibration];
        files.into_iter().flatten().chain(self.calibrate.iter().filter_map(TextArg::file))
    }

    /// Checks everything that the arguments alone tell, and reads a plan that is given.
    pub fn check(&self, typed: &Typed) -> Result<Aim> {
        let of_ranks = "only without --for, which chooses types or forms, not ranks";
        let options = RANK_OPTIONS.into_iter().chain(OF_RANKS);
        typed.check(options.map(|option| rule(option, false, of_ranks)))?;
        let (texts, is_new) = (self.texts(), self.plan.is_none());
        typed.check([
            rule("types", is_new, "the plan says which type each matrix has"),
            rule("save-types", is_new, "the types are in the plan already"),
            rule("other-calibration", !is_new, "only with --plan"),
            rule("save-calibration", !texts.is_empty(), "only where a calibration is made"),
            rule("report", false, "not with --for"),
        ])?;
        check_calibration_file(self.calibration)?;
        typed.check(of_amount(texts, self.amount).chain([of_bos(texts)]))?;
        if !texts.is_empty() {
            check_amount(texts, self.amount, typed)?;
        }
        if !texts.is_empty() && is_new && self.amount.gradient_windows == Some(0) {
            let message = "--gradient-windows 0: types are weighed by gradients";
            return Err(WrongInput::new(message).into());
        }
        let aim = self.aim()?;
        if matches!(aim, Aim::Given(_)) && !self.calibrate.is_empty() && !self.other_calibration {
            let message = "the plan was made with a calibration, and --calibrate makes another one";
            return Err(WrongInput::with_hint(message, HOW_TO_GIVE).into());
        }
        Ok(aim)
    }

    fn aim(&self) -> Result<Aim> {
        if let Some(path) = self.plan {
            check_kind(path, Wanted::Types)?;
            let plan = in_file(TypePlan::from_json(&read_artifact(path)?), path)?;
            return Ok(Aim::Given(plan.into()));
        }
        match (self.max_bytes, self.options.bits) {
            (Some(max_bytes), _) => Ok(Aim::Budget(TypeBudget::MaxBytes(max_bytes))),
            (None, Some(bits)) => Ok(Aim::Budget(TypeBudget::Bits(bits))),
            (None, None) => {
                let message = "--for llama.cpp needs --max-bytes, the size of the file, or --bits";
                Err(WrongInput::with_hint(message, "such as --max-bytes 100MB").into())
            }
        }
    }

    /// Checks that files of these kinds can be written, before any work is done for them: that they
    /// replace no input and nothing of another kind, and that each has a place of its own.
    pub fn check_files(&self, files: &[(Option<&Path>, Artifact)]) -> Result<()> {
        let mut places = Vec::new();
        for (file, kind) in files {
            check_artifact(*file, *kind, self.inputs())?;
            let Some((file, place)) = file.and_then(|file| Some((file, place_of(file)?))) else {
                continue;
            };
            if places.contains(&place) {
                let message = format!("{} is given for two files", file.display());
                return Err(WrongInput::with_hint(message, "give each its own name").into());
            }
            places.push(place);
        }
        Ok(())
    }
}

/// How the calibration of a plan is given.
const HOW_TO_GIVE: &str = "give that calibration with --calibration (--save-calibration FILE keeps \
                           it); --other-calibration allows another one";
