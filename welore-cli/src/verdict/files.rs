//! What errors about files mean: those of models, in every format, and all others.

use std::io::ErrorKind;

use safetensors::Dtype;
use welore_burn::adapters::{AdapterError, Refusal};
use welore_burn::changes::ChangesError;
use welore_burn::checkpoint::{CheckpointError, MissingKind, Quantizer};
use welore_burn::files::FileError;
use welore_burn::forms::FormError;
use welore_burn::ggml::ContainerError;
use welore_burn::gguf::GgufError;
use welore_burn::model::{ConfigError, LoadError};

use super::Verdict;
use crate::models::WHAT_MODEL_IS;

pub(super) fn file(error: &FileError) -> Option<Verdict> {
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

/// What makes weights of quantized ones that are read here.
fn dequantizes(by: Quantizer) -> &'static str {
    match by {
        Quantizer::Gptq => {
            "take the model that it was quantized from; or, without `quantization_config` in \
             config.json, what `amn remember` makes of the file (`cargo install anamnesis --features \
             cli,gptq`)"
        }
        Quantizer::Awq => {
            "take the model that it was quantized from; or, without `quantization_config` in \
             config.json, what `amn remember` makes of the file (`cargo install anamnesis --features \
             cli,awq`)"
        }
        Quantizer::BitsAndBytes => {
            "in Python, `AutoModelForCausalLM.from_pretrained(DIR).dequantize()\
             .save_pretrained(\"OUT\")` writes a model that is not quantized"
        }
        _ => "take the model that it was quantized from",
    }
}

/// What works on a model that cannot be run here.
const OF_WEIGHTS: &str = "inspect, analyze, plan, compress with --err or --no-calibration, and export to a \
                          directory need its weights only, and work";

pub(super) fn checkpoint(error: &CheckpointError) -> Option<Verdict> {
    use CheckpointError as E;
    Some(match error {
        E::File(_) | E::Form { .. } | E::Encoding { .. } | E::Interrupted(_) => return None,
        E::Missing { what: MissingKind::Directory, .. } => Verdict::input(WHAT_MODEL_IS),
        E::Missing { path, .. } if path.ends_with("config.json") => Verdict::input(OF_WEIGHTS),
        E::Missing { .. } => Verdict::input(
            "a model directory contains config.json, tokenizer.json and model.safetensors (or shards with their index)",
        ),
        E::LeadsOut { .. } => {
            Verdict::input("if it belongs to the model, put a copy in the place of the link")
        }
        E::Header { .. } => Verdict::input("the file is damaged or incomplete; download it again"),
        E::Adapter { .. } => Verdict::input(
            "a LoRA adapter goes beside its base model, with --adapter; or in Python, \
             `AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload()\
             .save_pretrained(\"OUT\")` writes a whole model",
        ),
        E::Quantized { by, .. } => Verdict::input(dequantizes(*by)),
        E::Unscaled { .. } => Verdict::input(
            "its numbers mean nothing without scales; take the model in bf16, or the files as they \
             were published",
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
        E::Scales { .. } => Verdict::input(
            "a scale is for all of a matrix, for a row, or for a block of `weight_block_size` in \
             config.json, 128 by 128 unless it is stated",
        ),
        E::NotStorable { .. } | E::Index { .. } | E::Dtype { .. } | E::NotMatrix { .. } => {
            Verdict::input(None)
        }
        _ => Verdict::failed(None),
    })
}

pub(super) fn adapter(error: &AdapterError) -> Option<Verdict> {
    use AdapterError as E;
    Some(match error {
        E::File(_) => return None,
        E::Missing { .. } => Verdict::input(
            "--adapter takes the directory of a LoRA adapter of the PEFT library, with \
             adapter_config.json and adapter_model.safetensors",
        ),
        E::Refused { refusal, .. } => refused(refusal),
        E::Unknown { .. } | E::Shape { .. } => Verdict::input(
            "an adapter belongs to one base model, which its adapter_config.json names \
             (`base_model_name_or_path`): give that one as MODEL",
        ),
        E::Packed { .. } => Verdict::input(
            "give the model as it was before its matrices were put into blocks, or what \
             `export MODEL --dense -o DIR` makes of it",
        ),
        E::Matrix { .. } | E::Broken { .. } | E::Twice { .. } | E::NotPlain { .. } => {
            Verdict::input(None)
        }
        E::Sum { .. } => Verdict::input("the adapter is damaged; download it again"),
        E::Overflow { .. } => Verdict::input(
            "f16 holds nothing above 65504; `export MODEL --dtype f32 -o DIR` makes room, and --dtype \
             f32 computes with it",
        ),
        _ => Verdict::failed(None),
    })
}

pub(super) fn changes(error: &ChangesError) -> Option<Verdict> {
    use ChangesError as E;
    Some(match error {
        E::Checkpoint(_) | E::File(_) | E::Interrupted(_) => return None,
        E::NoChanges { .. } => Verdict::input(
            "--changes takes the directory that `export TUNED --changes-of MODEL -o DIR` wrote",
        ),
        E::OtherBase { .. } => Verdict::input(
            "give the model that --changes-of named when they were saved, as it was then",
        ),
        E::Missing { .. } | E::Kind { .. } => Verdict::input(
            "only numbers may differ: give the directory that the training began with, in the type that it \
             had then",
        ),
        _ => Verdict::input(None),
    })
}

/// What to do with adapters that change a model in other ways.
fn refused(refusal: &Refusal) -> Verdict {
    use Refusal as R;
    Verdict::input(match refusal {
        R::ChangedBase(_) => {
            "PEFT's `save_pretrained(DIR, path_initial_model_for_weight_conversion=START)` writes it for \
             the model as it was"
        }
        R::Pickle => {
            "in Python, `PeftModel.from_pretrained(MODEL, DIR).save_pretrained(\"OUT\")` writes \
             safetensors"
        }
        R::Layer(_) | R::NotTargeted(_) | R::Excluded(_) | R::Pattern(_) | R::Malformed { .. } => {
            return Verdict::input(None);
        }
        _ => {
            "in Python, `AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload()\
             .save_pretrained(\"OUT\")` writes a whole model"
        }
    })
}

pub(super) fn form(error: &FormError) -> Option<Verdict> {
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

pub(super) fn load(error: &LoadError) -> Option<Verdict> {
    match error {
        LoadError::Config { source: ConfigError::Architecture { .. }, .. } => {
            Some(Verdict::input_with(format!("README.md lists all families; {OF_WEIGHTS}")))
        }
        LoadError::Config { source: ConfigError::LostBase { .. }, .. } => Some(Verdict::input(
            "compress the model again; of a directory that an earlier version compressed, \
             `export DIR --dtype TYPE -o OUT` writes a whole one",
        )),
        LoadError::Config { source: ConfigError::Unsupported { field, .. }, .. }
            if *field == "quantization_config" =>
        {
            Some(Verdict::input("take the model that it was quantized from"))
        }
        LoadError::Config { .. } => Some(Verdict::input(None)),
        LoadError::OwnHead { .. } => Some(Verdict::input(
            "set `tie_word_embeddings` to false to use it, or remove it from the weights",
        )),
        _ => None,
    }
}

/// What to do about weights in a type that is not known.
const OTHER_TYPE: &str = "use another file of the model, for example in Q8_0";

pub(super) fn gguf(error: &GgufError) -> Option<Verdict> {
    use GgufError as E;
    Some(match error {
        E::Adapter(_) | E::Checkpoint(_) | E::Container(_) | E::File(_) => return None,
        E::Oversized(_) | E::Interrupted(_) => return None,
        E::Architecture { .. } => Verdict::input(
            "try the model's Hugging Face directory; of an unknown model the weights are enough",
        ),
        E::TensorType { .. } => Verdict::input(OTHER_TYPE),
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

pub(super) fn container(error: &ContainerError) -> Option<Verdict> {
    use ContainerError as E;
    match error {
        E::File(_) => None,
        E::Header { .. } => {
            Some(Verdict::input("the file is damaged or incomplete; download it again"))
        }
        E::Unsupported { .. } => Some(Verdict::input(OTHER_TYPE)),
        E::MissingPart { .. } => Some(Verdict::input(
            "all parts of a model belong in one directory; download this one too",
        )),
        E::Part { .. } => Some(Verdict::input(
            "parts keep the names that they have on the Hub; `llama-gguf-split --merge` joins them",
        )),
        _ => Some(Verdict::input(None)),
    }
}
