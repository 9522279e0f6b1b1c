//! What each error of the library and of this program means to the user.

use std::error::Error;

use welore_burn::adapters::AdapterError;
use welore_burn::calibrate::{CalibrationError, OwnTextError};
use welore_burn::changes::ChangesError;
use welore_burn::channels::{ChannelPlanError, ChannelsError};
use welore_burn::checkpoint::CheckpointError;
use welore_burn::compress::CompressError;
use welore_burn::data::{ChatError, DataError, TaskError};
use welore_burn::difference::DifferenceError;
use welore_burn::distill::DistillError;
use welore_burn::eval::{ChoiceError, EvalError, LogitsError};
use welore_burn::files::FileError;
use welore_burn::forms::FormError;
use welore_burn::ggml::ContainerError;
use welore_burn::gguf::GgufError;
use welore_burn::model::{GenerateError, LoadError, SamplerError};
use welore_burn::modules::PatternError;
use welore_burn::plan::{PlanError, PlanFileError, ReadPlanError};
use welore_burn::progress::Interrupted;
use welore_burn::search::SearchError;
use welore_burn::spectrum::{SpectraError, SpectrumError};
use welore_burn::train::{DynamicsError, RunFileError, TrainError};
use welore_burn::types::{TypePlanError, TypePlanFileError, TypesError};
use welore_burn::workers::Oversized;

use super::Verdict;
use super::compression::{
    calibration, channel_plan, channels, compress, difference, distill, own_text, plan, read_plan,
    search, spectra, spectrum, type_plan, types,
};
use super::files::{adapter, changes, checkpoint, container, file, form, gguf, load};
use super::running::{chat, choices, data, eval, logits, run_file, task, train};
use crate::failure::{NotImproved, Panic, WrongInput};
use crate::models::HubError;

/// The verdict on one cause; `None` if its own cause decides.
pub(super) fn judge_cause(cause: &(dyn Error + 'static)) -> Option<Verdict> {
    macro_rules! first_of {
        ($($kind:ty => $judge:expr),* $(,)?) => {
            $(if let Some(error) = cause.downcast_ref::<$kind>() {
                #[allow(clippy::redundant_closure_call)]
                return ($judge)(error);
            })*
        };
    }
    first_of! {
        WrongInput => |e: &WrongInput| Some(Verdict { input: true, hint: e.hint.clone() }),
        Panic => |e| Some(panic(e)),
        NotImproved => |_| {
            Some(Verdict::failed("a smaller --lr, or other data to train on, may help"))
        },
        HubError => |e: &HubError| Some(Verdict { input: e.is_input(), hint: e.hint() }),
        AdapterError => adapter,
        ChangesError => changes,
        CheckpointError => checkpoint,
        FileError => file,
        FormError => form,
        LoadError => load,
        GgufError => gguf,
        TypePlanError => type_plan,
        TypePlanFileError => type_plan_file,
        TypesError => types,
        ChannelPlanError => channel_plan,
        ChannelsError => channels,
        ContainerError => container,
        CompressError => compress,
        DifferenceError => difference,
        DistillError => distill,
        CalibrationError => calibration,
        OwnTextError => own_text,
        SpectrumError => spectrum,
        Oversized => |e: &Oversized| {
            Some(Verdict::input((!e.of_machine).then_some("give a larger --max-memory")))
        },
        ChatError => chat,
        DataError => data,
        TaskError => task,
        EvalError => eval,
        ChoiceError => choices,
        LogitsError => logits,
        GenerateError => generate,
        PlanError => plan,
        SearchError => search,
        PlanFileError => |_| Some(Verdict::input("make a plan with `welore-cli plan`")),
        ReadPlanError => read_plan,
        SpectraError => spectra,
        PatternError => |_| {
            Some(Verdict::input("patterns are globs such as `q_proj` or `*.layers.3.*`"))
        },
        SamplerError => |_| Some(Verdict::input(None)),
        TrainError => train,
        RunFileError => run_file,
        DynamicsError => dynamics,
        Interrupted => |_| Some(Verdict::failed(None)),
    }
    None
}

fn type_plan_file(_error: &TypePlanFileError) -> Option<Verdict> {
    Some(Verdict::input("make a plan with `welore-cli plan MODEL --for llama.cpp`"))
}

fn dynamics(_error: &DynamicsError) -> Option<Verdict> {
    Some(Verdict::input("`welore-cli train --track-gradients N` writes one"))
}

fn generate(error: &GenerateError) -> Option<Verdict> {
    Some(match error {
        GenerateError::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

fn panic(panic: &Panic) -> Verdict {
    if panic.is_out_of_memory() {
        return Verdict::failed(
            "the device's memory is full: a smaller --batch-size or --seq-len, --recompute, or \
             --dtype bf16 needs less",
        );
    }
    let hint =
        format!("this happened at {}; RUST_BACKTRACE=1 shows more for a bug report", panic.place);
    Verdict { input: false, hint: Some(hint) }
}
