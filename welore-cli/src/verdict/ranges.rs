//! Values out of their range: what to give instead.

use std::error::Error;

use welore_burn::calibrate::CalibrationError;
use welore_burn::eval::EvalError;
use welore_burn::model::SamplerError;
use welore_burn::plan::PlanError;

use super::Verdict;

/// The verdict on a value that is out of its range: what to give instead.
pub(super) fn out_of_range(cause: &(dyn Error + 'static)) -> Option<Verdict> {
    let hint = if let Some(error) = cause.downcast_ref::<PlanError>() {
        match error {
            PlanError::Err(err) => {
                return Some(share("give the share of ranks to remove, such as 0.5", *err));
            }
            PlanError::KeepParams(kept) => {
                return Some(share("give the share of parameters to keep, such as 0.7", *kept));
            }
            PlanError::MinRatio(ratio) => {
                return Some(share("0.5 is the default; 0 factors whatever loses a rank", *ratio));
            }
            PlanError::MinSaving(_) => {
                "0.05 is the default for parameters and bytes; 0 is no limit"
            }
            PlanError::RankRange { .. } => "give a --min-rank that is at most --max-rank",
            PlanError::OutOfReach { rank_multiple: 2.., .. } => {
                "a smaller --rank-multiple reaches further"
            }
            PlanError::OutOfReach { min_rank: Some(_), .. } => {
                "a smaller --min-rank reaches further"
            }
            PlanError::OutOfReach { fixed: 1.., .. } => {
                "keep fewer matrices dense, or set lower ranks"
            }
            PlanError::SetBeyond { .. } => "set fewer or higher ranks, or ask for more",
            _ => return None,
        }
    } else if let Some(error) = cause.downcast_ref::<SamplerError>() {
        match error {
            SamplerError::Temperature(_) => "0 takes the most likely token, 1 changes nothing",
            SamplerError::TopK => "without --top-k, all tokens are candidates",
            SamplerError::TopP(_) => "without --top-p, all tokens are candidates",
        }
    } else if let Some(EvalError::SeqLen(_)) = cause.downcast_ref() {
        "give a larger --seq-len"
    } else if let Some(EvalError::NoWindows) = cause.downcast_ref() {
        "give a larger --windows"
    } else {
        match cause.downcast_ref::<CalibrationError>()? {
            CalibrationError::SeqLen(_) => "give a larger --calibration-seq-len",
            CalibrationError::NoWindows => "give a larger --calibration-windows",
            CalibrationError::Context { .. } => "use a smaller --calibration-seq-len",
            _ => return None,
        }
    };
    Some(Verdict::input(hint))
}

/// The verdict on a share that is out of range, perhaps because it was given in percent.
pub(super) fn share(hint: &str, given: f64) -> Verdict {
    let is_percentage = given > 1.0 && given < 100.0;
    // Divided in decimals, so that 55 gives 0.55 and not a number beside it.
    let share: Option<f64> = format!("{given}e-2").parse().ok().filter(|_| is_percentage);
    let hint = match share {
        Some(share) => format!("{hint}; {given} percent are {share} or {given}%"),
        None => hint.into(),
    };
    Verdict { input: true, hint: Some(hint) }
}
