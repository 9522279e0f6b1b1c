//! What errors of measuring, planning and compressing mean.

use welore_burn::calibrate::{CalibrationError, OwnTextError};
use welore_burn::channels::{ChannelPlanError, ChannelsError};
use welore_burn::checkpoint::CheckpointError;
use welore_burn::compress::CompressError;
use welore_burn::difference::DifferenceError;
use welore_burn::distill::DistillError;
use welore_burn::linalg::LinalgError;
use welore_burn::plan::{PlanError, ReadPlanError};
use welore_burn::search::SearchError;
use welore_burn::spectrum::{SpectraError, SpectrumError};
use welore_burn::types::{TypePlanError, TypesError};

use super::Verdict;
use super::ranges::share;

pub(super) fn type_plan(error: &TypePlanError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        TypePlanError::OutOfReach { .. } => "give a larger --max-bytes, or other --types",
        TypePlanError::BitsOutOfReach { .. } => "give --bits within these limits, or other --types",
        TypePlanError::NoForm { .. } => {
            "blocks of q8_0, q5_1, q5_0, q4_1, q4_0 and iq4_nl need rows or columns of a multiple of \
             32, factors need both; f16 and bf16 hold every matrix, f32 is no form"
        }
        _ => "q8_0, q5_1, q5_0, q4_1, q4_0 and iq4_nl need rows of a multiple of 32",
    }))
}

pub(super) fn types(error: &TypesError) -> Option<Verdict> {
    match error {
        error if error.is_overflow() => Some(Verdict::input(
            "f32 and bf16 hold larger numbers: name them beside others, as --types bf16,q8_0,q4_k",
        )),
        TypesError::Quantize { .. } => Some(Verdict::input(None)),
        TypesError::Linalg { .. } => Some(Verdict::failed(None)),
        TypesError::Foreign { .. } => Some(Verdict::input(
            "make a plan for this model with `welore-cli plan MODEL --for llama.cpp`",
        )),
        _ => None,
    }
}

pub(super) fn channel_plan(error: &ChannelPlanError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        ChannelPlanError::Share(kept) => {
            return Some(share("give the share of parameters to keep, such as 0.9", *kept));
        }
        ChannelPlanError::OutOfReach { width: 2.., .. } => {
            "a smaller --width-multiple reaches further"
        }
        ChannelPlanError::OutOfReach { .. } => "factors of attention save more: leave out --forms",
        ChannelPlanError::NotSelected { .. } => "select all gate, up and down projections",
        ChannelPlanError::NotShared { .. } => "give --keep-params",
        ChannelPlanError::Fixed { .. } => "--widths each leaves that MLP its channels",
        _ => "give --keep-params or --max-bytes",
    }))
}

pub(super) fn channels(error: &ChannelsError) -> Option<Verdict> {
    match error {
        ChannelsError::NotDense { .. } => {
            Some(Verdict::input("give the dense model, or `welore-cli export DIR --dense -o OUT`"))
        }
        ChannelsError::NoMlp { .. }
        | ChannelsError::Experts { .. }
        | ChannelsError::Foreign { .. }
        | ChannelsError::Config { .. } => Some(Verdict::input(None)),
        ChannelsError::Linalg { .. } => Some(Verdict::failed(None)),
        _ => None,
    }
}

pub(super) fn compress(error: &CompressError) -> Option<Verdict> {
    use CompressError as E;
    Some(match error {
        E::ForeignPlan { .. } => {
            Verdict::input("make a plan for this model with `welore-cli plan`")
        }
        E::NotCompressed { .. } => Verdict::input("it can be used as it is"),
        E::Config { .. } => Verdict::input(None),
        E::NeedsCalibration | E::NoText => {
            Verdict::input("make a calibration with `welore-cli calibrate`")
        }
        E::NotFinite { .. } => Verdict::failed("a smaller --refine-lr may help, if you refine"),
        E::Linalg { .. } | E::NeedsModel => Verdict::failed(None),
        _ => return None,
    })
}

pub(super) fn difference(error: &DifferenceError) -> Option<Verdict> {
    use DifferenceError as E;
    Some(match error {
        E::Missing { .. } | E::Shape { .. } => {
            Verdict::input("give two versions of one model, with the same tensors and vocabulary")
        }
        E::Same { .. } => Verdict::input("--include PATTERN selects other matrices"),
        E::Err(err) => return Some(share("0.1 leaves at most a tenth of each difference", *err)),
        E::NoRank => Verdict::input(None),
        E::OutOfReach { .. } => Verdict::input("give more --max-params"),
        E::Linalg { .. } | E::Lora { .. } => Verdict::failed(None),
        _ => return None,
    })
}

pub(super) fn distill(error: &DistillError) -> Option<Verdict> {
    match error {
        DistillError::TooFewWindows { .. } => Some(Verdict::input(
            "calibrate with more --calibration-windows, or hold back fewer with --distill-windows",
        )),
        DistillError::NothingFactored => Some(Verdict::input("leave --distill out")),
        DistillError::Options(_) => Some(Verdict::input(None)),
        DistillError::Linalg { .. } => Some(Verdict::failed(None)),
        _ => None,
    }
}

pub(super) fn calibration(error: &CalibrationError) -> Option<Verdict> {
    use CalibrationError as E;
    Some(match error {
        E::Checkpoint(CheckpointError::NotFinite { .. }) => {
            Verdict::input("the calibration is damaged; make another with `welore-cli calibrate`")
        }
        E::Checkpoint(_) | E::Container(_) | E::File(_) | E::Form { .. } | E::Interrupted(_) => {
            return None;
        }
        // A chain of causes has it as an `Arc`, which nothing else here knows.
        E::Shared(shared) => return calibration(shared),
        E::Missing { .. } | E::NotCalibration { .. } | E::Version { .. } => {
            Verdict::input("make a calibration with `welore-cli calibrate`")
        }
        E::NotImatrix { .. } => {
            Verdict::input("give a file from llama.cpp's `llama-imatrix` or from `calibrate`")
        }
        E::ImatrixGradients { .. } => {
            let hint = "use --method whitened, or for `compare` --methods svd,whitened; \
                        a calibration from `welore-cli calibrate` has gradients";
            Verdict::input(hint)
        }
        E::Foreign { .. } => Verdict::input("calibrate this model"),
        E::TooShort { .. } => {
            Verdict::input("use a longer text or a smaller --calibration-seq-len")
        }
        E::TooLittleText { .. } => {
            Verdict::input("use a longer text or more windows, or --too-little shrink")
        }
        E::NoSpread | E::Linalg { source: LinalgError::UnknownSpread, .. } => {
            Verdict::input("calibrate again, or give --shrink-inputs and --shrink-gradients shares")
        }
        E::NoGradients => {
            Verdict::input("calibrate with --gradient-windows, or use --method whitened")
        }
        E::Linalg { .. } | E::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

pub(super) fn own_text(error: &OwnTextError) -> Option<Verdict> {
    use OwnTextError as E;
    Some(match error {
        E::Interrupted(_) => return None,
        E::NoStart | E::UnknownStart { .. } => {
            let hint = "give --self-start ID, or calibrate on a text of your own; \
                        `compress --no-calibration` calibrates on none";
            Verdict::input(hint)
        }
        E::NoSamples => Verdict::input("give more --self-samples"),
        E::Length(_) => Verdict::input("give a larger --self-length"),
        E::Context { .. } => {
            Verdict::input("use a smaller --self-length, or a smaller --calibration-seq-len")
        }
        E::Temperature(_) => {
            Verdict::input("1 is the default for --self-temperature, and takes the model as it is")
        }
        E::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

pub(super) fn spectrum(error: &SpectrumError) -> Option<Verdict> {
    Some(match error {
        SpectrumError::UnmatchedPattern { meant, .. } => unmatched(meant.as_deref()),
        SpectrumError::NothingSelected => unmatched(None),
        SpectrumError::Spectra(_) | SpectrumError::Linalg { .. } => Verdict::failed(None),
        _ => return None,
    })
}

pub(super) fn spectra(error: &SpectraError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        SpectraError::Format(format) if format == "welore-plan" => {
            "this is a finished plan: `welore-cli compress MODEL --plan FILE -o DIR` carries it out"
        }
        _ => "measure spectra with `welore-cli analyze`",
    }))
}

pub(super) fn plan(error: &PlanError) -> Option<Verdict> {
    Some(match error {
        PlanError::Pattern(_) => return None,
        PlanError::UnmatchedPattern { meant, .. } => unmatched(meant.as_deref()),
        PlanError::NotCalibrated { .. } => {
            Verdict::input("give a --calibration FILE from `welore-cli calibrate`")
        }
        PlanError::NotProbed { .. } | PlanError::Unprobed { .. } => {
            Verdict::input("calibrate with --probe-windows")
        }
        PlanError::ZeroProbes { .. } => {
            Verdict::input("calibrate with more --probe-windows, or use --policy loss")
        }
        PlanError::NotSearched { .. } => Verdict::input(
            "search with `welore-cli plan MODEL --policy POLICY --calibration FILE -o PLAN`, then \
             give --plan PLAN",
        ),
        _ => Verdict::input(None),
    })
}

/// The verdict on patterns that match nothing, of which some others were probably `meant`.
fn unmatched(meant: Option<&str>) -> Verdict {
    match meant {
        Some(meant) => Verdict { input: true, hint: Some(format!("did you mean `{meant}`?")) },
        None => Verdict::input(
            "names look like `model.layers.0.self_attn.q_proj`; `welore-cli analyze MODEL` lists them",
        ),
    }
}

pub(super) fn search(error: &SearchError) -> Option<Verdict> {
    use SearchError as E;
    Some(match error {
        E::Evaluations { .. } => Verdict::input("give another number of --evaluations"),
        E::NotJournal { .. } | E::Version { .. } | E::OtherSearch { .. } => {
            Verdict::input("give another --journal, which is made if it does not exist")
        }
        E::BrokenStart => Verdict::failed("keep more of the model"),
        E::NoSpace { .. } | E::OtherNorms | E::Missing { .. } => Verdict::input(None),
        E::Linalg { .. } | E::Fit(_) => Verdict::failed(None),
        _ => return None,
    })
}

pub(super) fn read_plan(error: &ReadPlanError) -> Option<Verdict> {
    match error {
        ReadPlanError::Plan { .. } => Some(Verdict::input("compress the dense model again")),
        _ => None,
    }
}
