//! What each error of the library and of this program means to the user.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;

use safetensors::Dtype;
use welore_burn::calibrate::{CalibrationError, OwnTextError};
use welore_burn::channels::{ChannelPlanError, ChannelsError};
use welore_burn::checkpoint::{CheckpointError, MissingKind};
use welore_burn::compress::CompressError;
use welore_burn::data::{DataError, TaskError};
use welore_burn::eval::{EvalError, LogitsError};
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
use welore_burn::train::{DynamicsError, RunFileError, TrainError, Trainable};
use welore_burn::types::{TypePlanError, TypePlanFileError, TypesError};
use welore_burn::workers::Oversized;

use super::Verdict;
use crate::failure::{NotImproved, Panic, WrongInput};
use crate::models::{HubError, WHAT_MODEL_IS};

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
            CalibrationError::Context { .. } => "use a smaller --calibration-seq-len",
            _ => return None,
        }
    };
    Some(Verdict::input(hint))
}

/// The verdict on a share that is out of range, perhaps because it was given in percent.
fn share(hint: &str, given: f64) -> Verdict {
    let is_percentage = given > 1.0 && given < 100.0;
    // Divided in decimals, so that 55 gives 0.55 and not a number beside it.
    let share: Option<f64> = format!("{given}e-2").parse().ok().filter(|_| is_percentage);
    let hint = match share {
        Some(share) => format!("{hint}; {given} percent are {share} or {given}%"),
        None => hint.into(),
    };
    Verdict { input: true, hint: Some(hint) }
}

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
        CheckpointError => checkpoint,
        FileError => file,
        FormError => form,
        LoadError => load,
        GgufError => gguf,
        TypePlanError => type_plan,
        TypePlanFileError => |_| {
            Some(Verdict::input("make a plan with `welore-cli plan MODEL --for llama.cpp`"))
        },
        TypesError => types,
        ChannelPlanError => channel_plan,
        ChannelsError => channels,
        ContainerError => container,
        CompressError => compress,
        CalibrationError => calibration,
        OwnTextError => own_text,
        SpectrumError => spectrum,
        Oversized => |e: &Oversized| {
            Some(Verdict::input((!e.of_machine).then_some("give a larger --max-memory")))
        },
        DataError => data,
        TaskError => task,
        EvalError => eval,
        LogitsError => logits,
        GenerateError => |e: &GenerateError| Some(match e {
            GenerateError::NotFinite { .. } => Verdict::failed(None),
            _ => Verdict::input(None),
        }),
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
        DynamicsError => |_| {
            Some(Verdict::input("`welore-cli train --track-gradients N` writes one"))
        },
        Interrupted => |_| Some(Verdict::failed(None)),
    }
    None
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

fn file(error: &FileError) -> Option<Verdict> {
    use FileError as E;
    Some(match error {
        E::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => {
                Verdict::input("check the path; a relative one starts from the working directory")
            }
            ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => Verdict::input(None),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Verdict::failed("there is not enough space; existing files are unchanged")
            }
            _ => Verdict::failed(None),
        },
        E::TooLarge { .. } => Verdict::input(None),
        E::LfsPointer { .. } => Verdict::input(
            "`git lfs pull` in its repository fetches the file; MODEL may also be org/name on the Hub",
        ),
        E::Doubled { .. } => Verdict::input("move one of them away"),
        E::OutputExists { .. } => Verdict::input("use --force to replace it"),
        E::OutputForeign { .. }
        | E::NotADirectory { .. }
        | E::PartialForeign { .. }
        | E::MountPoint { .. }
        | E::WorkingDirectory { .. }
        | E::InputInside { .. } => Verdict::input("give another directory"),
        E::OutputHolds { .. } => Verdict::input(
            "move it away, or give another directory; runs and models go beside a model directory, \
             not into it",
        ),
        E::InsideModel { .. } => Verdict::input(
            "give a directory beside the model: one inside it would go when the model is replaced",
        ),
        E::NoParent { .. } | E::Unnamed { .. } => {
            Verdict::input("give the path of a file to write")
        }
        E::NotAFile { .. } => Verdict::input("give the path of a regular file"),
        E::Changed { .. } => Verdict::failed("let the file be finished first, then run this again"),
        E::OutputBusy { .. } => Verdict::input("wait for it to finish, or give another output"),
        E::NotLockable { .. } => {
            Verdict::input("if no other process is writing this output, remove that file")
        }
        E::Undelivered { .. } => {
            Verdict::failed("move it from there; the next run with this output removes it")
        }
        _ => Verdict::failed(None),
    })
}

fn checkpoint(error: &CheckpointError) -> Option<Verdict> {
    use CheckpointError as E;
    Some(match error {
        E::File(_) | E::Form { .. } | E::Encoding { .. } | E::Interrupted(_) => return None,
        E::Missing { what: MissingKind::Directory, .. } => Verdict::input(WHAT_MODEL_IS),
        E::Missing { .. } => Verdict::input(
            "a model directory contains config.json, tokenizer.json and model.safetensors (or shards with their index)",
        ),
        E::LeadsOut { .. } => {
            Verdict::input("if it belongs to the model, put a copy in the place of the link")
        }
        E::Header { .. } => Verdict::input("the file is damaged or incomplete; download it again"),
        E::Prefixed { prefix, .. } if prefix.starts_with("base_model.") => Verdict::input(
            "its adapters are not merged: in Python, `model.merge_and_unload().save_pretrained(DIR)` \
             writes a whole model",
        ),
        E::Prefixed { .. } => Verdict::input(
            "save the model without what wraps it, so that the names begin with `model.layers`",
        ),
        E::Mismatch { .. } | E::TensorMissing { .. } => {
            Verdict::input("config.json and the weights must belong to the same model")
        }
        E::NotFinite { .. } => Verdict::input("the weights are damaged; download them again"),
        E::Plan { .. } | E::PlanDisagrees { .. } => {
            Verdict::input("compress the dense model again")
        }
        E::NotStorable { .. } | E::Index { .. } | E::Dtype { .. } | E::NotMatrix { .. } => {
            Verdict::input(None)
        }
        _ => Verdict::failed(None),
    })
}

fn form(error: &FormError) -> Option<Verdict> {
    Some(match error {
        FormError::NotDense => {
            Verdict::input("this is a compressed model; `export --dense` turns it into a dense one")
        }
        FormError::Scale { .. } => Verdict::input("the weights are damaged; download them again"),
        FormError::Pivots { .. } | FormError::Parts(_) => {
            Verdict::input("the model is damaged; compress the dense model again")
        }
        FormError::Impossible(_) | FormError::Blocks(_) => Verdict::input(None),
        FormError::Overflow { dtype: Dtype::F16, .. } => Verdict::input(
            "f16 holds nothing above 65504; `welore-cli export MODEL --dtype bf16` stores such numbers",
        ),
        _ => Verdict::failed(None),
    })
}

fn load(error: &LoadError) -> Option<Verdict> {
    match error {
        LoadError::Config { .. } => Some(Verdict::input(None)),
        LoadError::OwnHead { .. } => Some(Verdict::input(
            "set `tie_word_embeddings` to false to use it, or remove it from the weights",
        )),
        _ => None,
    }
}

fn gguf(error: &GgufError) -> Option<Verdict> {
    use GgufError as E;
    Some(match error {
        E::Checkpoint(_) | E::Container(_) | E::File(_) => return None,
        E::Oversized(_) | E::Interrupted(_) => return None,
        E::Architecture { .. } => {
            Verdict::input("GGUF files of LLaMA 2 and 3, Mistral, Qwen2 and SmolLM2 are supported")
        }
        E::TensorType { .. } => Verdict::input(
            "F32, F16, BF16, Q8_0, Q5, Q4, the K-quants Q2_K to Q6_K and IQ4 are supported; use another file of the model",
        ),
        E::NotFinite { .. } => Verdict::input("the weights are damaged; download them again"),
        E::Unsupported { .. } => Verdict::input(
            "llama.cpp's own convert_hf_to_gguf.py knows more models, and reads dense model directories",
        ),
        E::Tokenizer { .. } | E::Config { .. } => {
            Verdict::input("try the model's Hugging Face directory instead")
        }
        _ => Verdict::input(None),
    })
}

fn type_plan(error: &TypePlanError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        TypePlanError::OutOfReach { .. } => "give a larger --max-bytes, or other --types",
        TypePlanError::BitsOutOfReach { .. } => "give --bits within these limits, or other --types",
        _ => "q8_0, q5_1, q5_0, q4_1, q4_0 and iq4_nl need rows of a multiple of 32",
    }))
}

fn types(error: &TypesError) -> Option<Verdict> {
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

fn channel_plan(error: &ChannelPlanError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        ChannelPlanError::Share(kept) => {
            return Some(share("give the share of parameters to keep, such as 0.9", *kept));
        }
        ChannelPlanError::OutOfReach { width: 2.., .. } => {
            "a smaller --width-multiple reaches further"
        }
        ChannelPlanError::OutOfReach { .. } => "factors of attention save more: leave out --forms",
        ChannelPlanError::NotSelected { .. } => "select all gate, up and down projections",
        _ => "give --keep-params or --max-bytes",
    }))
}

fn channels(error: &ChannelsError) -> Option<Verdict> {
    match error {
        ChannelsError::NotDense { .. } => {
            Some(Verdict::input("give the dense model, or `welore-cli export DIR --dense -o OUT`"))
        }
        ChannelsError::NoMlp { .. }
        | ChannelsError::Foreign { .. }
        | ChannelsError::Config { .. } => Some(Verdict::input(None)),
        ChannelsError::Linalg { .. } => Some(Verdict::failed(None)),
        _ => None,
    }
}

fn container(error: &ContainerError) -> Option<Verdict> {
    use ContainerError as E;
    match error {
        E::File(_) => None,
        E::Header { .. } => {
            Some(Verdict::input("the file is damaged or incomplete; download it again"))
        }
        _ => Some(Verdict::input(None)),
    }
}

fn compress(error: &CompressError) -> Option<Verdict> {
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

fn calibration(error: &CalibrationError) -> Option<Verdict> {
    use CalibrationError as E;
    Some(match error {
        E::Checkpoint(_)
        | E::Container(_)
        | E::File(_)
        | E::Form { .. }
        | E::Shared(_)
        | E::Interrupted(_) => return None,
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
        E::NoGradients => {
            Verdict::input("calibrate with --gradient-windows, or use --method whitened")
        }
        E::Linalg { .. } | E::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

fn own_text(error: &OwnTextError) -> Option<Verdict> {
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

fn spectrum(error: &SpectrumError) -> Option<Verdict> {
    Some(match error {
        SpectrumError::UnmatchedPattern { meant, .. } => unmatched(meant.as_deref()),
        SpectrumError::NothingSelected => unmatched(None),
        SpectrumError::Spectra(_) | SpectrumError::Linalg { .. } => Verdict::failed(None),
        _ => return None,
    })
}

fn spectra(error: &SpectraError) -> Option<Verdict> {
    Some(Verdict::input(match error {
        SpectraError::Format(format) if format == "welore-plan" => {
            "this is a finished plan: `welore-cli compress MODEL --plan FILE -o DIR` carries it out"
        }
        _ => "measure spectra with `welore-cli analyze`",
    }))
}

fn plan(error: &PlanError) -> Option<Verdict> {
    Some(match error {
        PlanError::Pattern(_) => return None,
        PlanError::UnmatchedPattern { meant, .. } => unmatched(meant.as_deref()),
        PlanError::NotCalibrated { .. } => {
            Verdict::input("give a --calibration FILE from `welore-cli calibrate`")
        }
        PlanError::NotProbed { .. } => Verdict::input("calibrate with --probe-windows"),
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

fn search(error: &SearchError) -> Option<Verdict> {
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

fn read_plan(error: &ReadPlanError) -> Option<Verdict> {
    match error {
        ReadPlanError::Plan { .. } => Some(Verdict::input("compress the dense model again")),
        _ => None,
    }
}

fn train(error: &TrainError) -> Option<Verdict> {
    use TrainError as E;
    Some(match error {
        E::Checkpoint(_) | E::File(_) | E::Eval(_) | E::Evaluation(_) | E::Interrupted(_) => {
            return None;
        }
        E::NothingTrainable(Trainable::Lrc) => Verdict::input(
            "compress the model first, with --keep-params, --max-bytes, --err, --err-applied or --plan, or train it with --trainable full",
        ),
        E::Option { name: "eval_every", .. } => {
            Verdict::input("give --eval-text FILE, or --eval-every 0")
        }
        E::TooFewRows { .. } => {
            Verdict::input("use more data, or a smaller --batch-size, --accumulate or --seq-len")
        }
        E::NotFinite { .. } => {
            Verdict::failed("a new run with a smaller --lr, or with --clip 1, may help")
        }
        E::Broken { .. } | E::Damaged { .. } => {
            Verdict::input("restore the original file, or start a new run")
        }
        E::Lost { .. } => {
            Verdict::input("restore it, or move the checkpoints away to train from the beginning")
        }
        _ => Verdict::input(None),
    })
}

fn run_file(error: &RunFileError) -> Option<Verdict> {
    Some(match error {
        RunFileError::File(_) => return None,
        RunFileError::NotARun { .. } => {
            Verdict::input("`welore-cli train MODEL --text FILE -o RUN` starts a run")
        }
        RunFileError::Broken { .. } => Verdict::input("restore the file, or start a new run"),
        RunFileError::Version { .. } => Verdict::input(
            "resume it with the version of welore-cli that started it, or with a later one",
        ),
        _ => Verdict::input(None),
    })
}

fn data(error: &DataError) -> Option<Verdict> {
    Some(match error {
        DataError::Io { source, .. }
            if !matches!(
                source.kind(),
                ErrorKind::NotFound
                    | ErrorKind::IsADirectory
                    | ErrorKind::InvalidInput
                    | ErrorKind::InvalidFilename
            ) =>
        {
            Verdict::failed(None)
        }
        DataError::File(error) => return file(error),
        DataError::Array { path } => as_lines(path),
        DataError::NotUtf8 { .. } => Verdict::input("convert the file to UTF-8 first"),
        DataError::Tokenizer { .. } | DataError::NoTokenizer { .. } => Verdict::input(
            "the model directory must contain a tokenizer.json in the format of the tokenizers library",
        ),
        DataError::Io { .. } | DataError::Empty { .. } | DataError::Line { .. } => Verdict::input(
            "give a file of UTF-8 text, or a .jsonl file with an object with a `text` on each line",
        ),
        _ => Verdict::input(None),
    })
}

/// The verdict on a file that holds its objects in an array.
fn as_lines(path: &Path) -> Verdict {
    let path = path.display();
    let hint = format!(
        "write each object on a line of its own, without commas: `jq -c '.[]' {path} > FILE.jsonl`"
    );
    Verdict { input: true, hint: Some(hint) }
}

fn task(error: &TaskError) -> Option<Verdict> {
    Some(match error {
        TaskError::Io { source, .. } if source.kind() != ErrorKind::NotFound => {
            Verdict::failed(None)
        }
        TaskError::Missing { .. } | TaskError::NoTaskFile { .. } => {
            Verdict::input("--data takes the task's file, or a directory of its files")
        }
        TaskError::Array { path } => as_lines(path),
        TaskError::Malformed { .. } => Verdict::input("check that the file belongs to the --task"),
        _ => Verdict::input(None),
    })
}

fn eval(error: &EvalError) -> Option<Verdict> {
    Some(match error {
        EvalError::TooShort { .. } => Verdict::input("use a longer text or a smaller --seq-len"),
        EvalError::Context { .. } => Verdict::input("use a smaller --seq-len"),
        EvalError::Skip { .. } => Verdict::input("give a smaller --skip"),
        EvalError::Vocabulary { .. } => {
            Verdict::input("give the dense model that this one was made from")
        }
        EvalError::NotFinite { .. } | EvalError::Interrupted(_) => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

fn logits(error: &LogitsError) -> Option<Verdict> {
    use LogitsError as E;
    match error {
        E::Checkpoint(_) | E::File(_) | E::Eval(_) => None,
        E::NotLogits { .. } | E::Version { .. } => Some(Verdict::input(
            "`welore-cli eval DENSE --text FILE --save-logits LOGITS` writes such a file",
        )),
        E::Foreign { .. } => Some(Verdict::input(
            "give the --text, --windows, --seq-len and --skip that the logits were saved with",
        )),
        _ => Some(Verdict::input(None)),
    }
}
