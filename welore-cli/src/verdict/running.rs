//! What errors of data, evaluation and training mean.

use std::io::ErrorKind;
use std::path::Path;

use welore_burn::data::{ChatError, DataError, TaskError};
use welore_burn::eval::{ChoiceError, EvalError, LogitsError};
use welore_burn::train::{RunFileError, TrainError, Trainable};

use super::Verdict;
use super::files::file;

pub(super) fn train(error: &TrainError) -> Option<Verdict> {
    use TrainError as E;
    Some(match error {
        E::Adapter(_)
        | E::Checkpoint(_)
        | E::File(_)
        | E::Eval(_)
        | E::Evaluation(_)
        | E::Interrupted(_) => {
            return None;
        }
        E::NothingTrainable(Trainable::Lrc) => Verdict::input(
            "compress the model first, with --keep-params, --max-bytes, --err, --err-applied or --plan, or train it with --trainable full",
        ),
        E::OnlyBlocks(_) => Verdict::input(
            "blocks do not train, but factors that are added to them do: `compress --for welore \
             --forms blocks,factors` makes some; `export --dense` makes this model dense",
        ),
        E::Form { .. } => Verdict::input(
            "beside blocks, only factors (`--trainable lrc`) and dense projections (`--trainable nlrc`) \
             train; `export --dense` makes the model dense",
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

pub(super) fn run_file(error: &RunFileError) -> Option<Verdict> {
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

pub(super) fn data(error: &DataError) -> Option<Verdict> {
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
        DataError::Conversations { .. } => {
            Verdict::input("`train`, `calibrate` and `eval` read conversations; give a text here")
        }
        DataError::Tokenizer { .. } | DataError::NoTokenizer { .. } => Verdict::input(
            "the model directory must contain a tokenizer.json in the format of the tokenizers library",
        ),
        DataError::Io { .. } | DataError::Empty { .. } | DataError::Line { .. } => Verdict::input(
            "give a file of UTF-8 text, or a .jsonl file with a `text` on each line, or with `messages` on each",
        ),
        _ => Verdict::input(None),
    })
}

pub(super) fn chat(error: &ChatError) -> Option<Verdict> {
    Some(match error {
        ChatError::File(error) => return file(error),
        ChatError::Rewritten { .. } => Verdict::input(
            "a template with {% generation %} and {% endgeneration %} around what the assistant writes \
             says it itself",
        ),
        ChatError::Variable { .. } => Verdict::input("leave this --template-option out"),
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

pub(super) fn task(error: &TaskError) -> Option<Verdict> {
    Some(match error {
        TaskError::Io { source, .. } if source.kind() != ErrorKind::NotFound => {
            Verdict::failed(None)
        }
        TaskError::Missing { .. } | TaskError::NoTaskFile { .. } => {
            Verdict::input("--data takes the task's file, or a directory of its files")
        }
        TaskError::Array { path } => as_lines(path),
        TaskError::Malformed { .. } => {
            Verdict::input("check that the file belongs to the --task or the --choices")
        }
        _ => Verdict::input(None),
    })
}

pub(super) fn eval(error: &EvalError) -> Option<Verdict> {
    Some(match error {
        EvalError::TooShort { .. } => Verdict::input("use a longer text or a smaller --seq-len"),
        EvalError::Context { .. } => Verdict::input("use a smaller --seq-len"),
        EvalError::Stride { seq_len, .. } => {
            let hint = format!("give a --stride from 1 to {seq_len}");
            Verdict { input: true, hint: Some(hint) }
        }
        EvalError::StrideSaved => Verdict::input("leave --stride out, or compare with the model"),
        EvalError::Skip { .. } => Verdict::input("give a smaller --skip"),
        EvalError::Vocabulary { .. } => {
            Verdict::input("give the dense model that this one was made from")
        }
        EvalError::NotFinite { .. } | EvalError::Interrupted(_) => Verdict::failed(None),
        _ => Verdict::input(None),
    })
}

pub(super) fn choices(error: &ChoiceError) -> Option<Verdict> {
    Some(match error {
        ChoiceError::Data(error) => return data(error),
        ChoiceError::NotFinite { .. } | ChoiceError::Interrupted(_) => Verdict::failed(None),
        ChoiceError::TooLong { .. } => Verdict::input("give shorter choices"),
        _ => Verdict::input(None),
    })
}

pub(super) fn logits(error: &LogitsError) -> Option<Verdict> {
    use LogitsError as E;
    match error {
        E::Checkpoint(_) | E::File(_) | E::Eval(_) => None,
        E::NotLogits { .. } | E::Version { .. } => Some(Verdict::input(
            "`welore-cli eval DENSE --text FILE --save-logits LOGITS` writes such a file",
        )),
        E::Foreign { .. } => Some(Verdict::input(
            "give the --text, --windows, --seq-len and --skip that the logits were saved with, and its --bos",
        )),
        _ => Some(Verdict::input(None)),
    }
}
