//! What a path that is no model holds, for the user who gave it as one.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use welore_burn::changes::are_changes;
use welore_burn::train::RUN_FILE;

use super::WHAT_MODEL_IS;
use super::listing::{ADAPTER, COMPANIONS, INDEX, PICKLED, SINGLE, has_end};
use crate::failure::WrongInput;

/// Bytes from the beginning of a file that tell what it is.
const HEAD: u64 = 4096;

const PLAN: &str = "a plan";
const SPECTRA: &str = "a file of spectra";
const CALIBRATION: &str = "a calibration";
const TEXT: &str = "a text";
const MODEL: &str = "a model directory";
const PAGE: &str = "a page";
const PICTURE: &str = "an SVG picture";
const TYPES: &str = "a plan of types";
const TENSOR_TYPES: &str = "a list of the types of tensors";
const GGUF: &str = "a GGUF file";
const GGUF_OTHERWISE_NAMED: &str = "a GGUF file whose name does not end in .gguf";
const GGUF_ADAPTER: &str = "a GGUF file of an adapter";
const LOGITS: &str = "a file of saved logits";
const IMATRIX: &str = "an importance matrix";
const SEARCH: &str = "the journal of a search";
const CHANNELS: &str = "a plan of channels";

/// The artifacts of this program in JSON, by what their files contain near the beginning.
static ARTIFACTS: [(&str, &str); 7] = [
    ("\"welore-spectra\"", SPECTRA),
    ("\"welore-plan\"", PLAN),
    ("\"welore-types\"", TYPES),
    ("\"welore-channels\"", CHANNELS),
    ("\"welore-search\"", SEARCH),
    ("\"welore-run\"", "the description of a run"),
    ("\"welore-gradients\"", "a summary of gradients"),
];

/// A kind of file that commands of this program write, one each.
#[derive(Debug, Clone, Copy)]
pub enum Artifact {
    Spectra,
    Plan,
    Calibration,
    Page,
    Picture,
    Imatrix,
    Logits,
    Types,
    /// For `llama-quantize`.
    TensorTypes,
    Search,
    GgufAdapter,
    /// Which is a model, unlike the others.
    Gguf,
}

impl Artifact {
    const BESIDE_MODELS: [Self; 11] = [
        Self::Spectra,
        Self::Plan,
        Self::Calibration,
        Self::Page,
        Self::Picture,
        Self::Imatrix,
        Self::Logits,
        Self::Types,
        Self::TensorTypes,
        Self::Search,
        Self::GgufAdapter,
    ];

    /// What such a file is, for messages.
    pub fn what(self) -> &'static str {
        match self {
            Self::Spectra => SPECTRA,
            Self::Plan => PLAN,
            Self::Calibration => CALIBRATION,
            Self::Page => PAGE,
            Self::Picture => PICTURE,
            Self::Imatrix => IMATRIX,
            Self::Logits => LOGITS,
            Self::Types => TYPES,
            Self::TensorTypes => TENSOR_TYPES,
            Self::Search => SEARCH,
            Self::GgufAdapter => GGUF_ADAPTER,
            Self::Gguf => GGUF,
        }
    }

    /// Whether a file is one.
    pub fn is_in(self, path: &Path) -> bool {
        match self {
            // A name that does not end in .gguf is a mistake only where the file is read.
            Self::Gguf => [GGUF, GGUF_OTHERWISE_NAMED].contains(&what_is(path)),
            _ => what_is(path) == self.what(),
        }
    }
}

/// How the first line of a list of types begins.
const FIRST_LINE: &str = r"^blk\.";

/// A tensor that only calibrations have, as their headers begin with it.
const PROBES: &str = "\"probes\":{\"dtype\":\"F64\"";

/// One that only saved logits have.
const LOSSES: &str = "\"saved_logits.losses\"";

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Calibration,
    Plan,
    Types,
    Text,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Calibration => CALIBRATION,
            Self::Plan => PLAN,
            Self::Types => TYPES,
            Self::Text => TEXT,
        }
    }
}

/// Refuses what was given to an option that takes something else, if it is known what it is. Other
/// mistakes are told by whoever opens it.
///
/// # Errors
///
/// [`WrongInput`] that says what the path holds, and which option takes that.
pub fn check_kind(path: &Path, wanted: Wanted) -> Result<(), WrongInput> {
    let what = match path.is_dir() {
        true if path.join("config.json").is_file() => MODEL,
        true => return Ok(()),
        false => what_is(path),
    };
    let shown = path.display();
    let hint = match what {
        // What is broken is told with its place.
        _ if what == wanted.name() => return Ok(()),
        TEXT if is_json(path) => return Ok(()),
        TEXT => format!(
            "`compress` and `compare` calibrate on it with --calibrate {shown}, `calibrate` with \
             --text {shown}"
        ),
        CALIBRATION => {
            format!("`plan`, `compress` and `compare` take it with --calibration {shown}")
        }
        PLAN if wanted == Wanted::Types => {
            format!("it is about ranks: `compress` takes it with --plan {shown}, without --for")
        }
        PLAN => format!("`compress`, `compare` and `train` take it with --plan {shown}"),
        TYPES => carries_out(&shown),
        SPECTRA => format!("`welore-cli plan {shown} --err 0.3 -o FILE` makes a plan of it"),
        MODEL => match wanted {
            Wanted::Calibration => {
                format!("`welore-cli calibrate {shown} --text TEXT -o FILE` makes a calibration")
            }
            // One that was compressed has a plan.
            Wanted::Plan => return Ok(()),
            Wanted::Types => {
                format!(
                    "`welore-cli plan {shown} --for llama.cpp --max-bytes 100MB -o FILE` makes one"
                )
            }
            Wanted::Text => "models are given as MODEL".into(),
        },
        _ => return Ok(()),
    };
    Err(WrongInput::with_hint(format!("{shown} is {what}, not {}", wanted.name()), hint))
}

/// What carries a plan of types out.
fn carries_out(types: &impl Display) -> String {
    format!("`welore-cli compress MODEL --for llama.cpp --plan {types} -o FILE` carries it out")
}

/// Whether a name says that the file is meant to be JSON.
fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"))
}

/// The error for a path that exists and is no directory.
pub fn no_model(path: &Path) -> WrongInput {
    let in_model = path.file_name().is_some_and(|name| name == "config.json");
    let what = match what_is(path) {
        what @ "a safetensors file" => what,
        _ if in_model => "the configuration of a model",
        what => what,
    };
    let path = path.display();
    let hint = match what {
        "a safetensors file" | "the configuration of a model" => {
            "give the directory that it is in".into()
        }
        PLAN => format!("`welore-cli compress MODEL --plan {path} -o DIR` carries it out"),
        SPECTRA => format!("`welore-cli plan {path} --err 0.3` makes a plan of it"),
        CALIBRATION => format!("give the model as MODEL, and this with --calibration {path}"),
        IMATRIX => {
            format!("give the model as MODEL, and this with --calibration {path} --method whitened")
        }
        TYPES => carries_out(&path),
        SEARCH => format!("give the model as MODEL, and this with --journal {path}"),
        LOGITS => {
            format!("give the model to compare as MODEL, and this with --against {path}")
        }
        GGUF_OTHERWISE_NAMED => format!("rename it to {path}.gguf"),
        _ => WHAT_MODEL_IS.into(),
    };
    WrongInput::with_hint(format!("{path} is {what}, not a model directory"), hint)
}

/// Refuses a file that `--against` cannot take, if it is known what it is. Texts and what is broken are
/// told where saved logits are read.
///
/// # Errors
///
/// [`WrongInput`] that says what to give.
pub fn check_compared(path: &Path) -> Result<(), WrongInput> {
    match what_is(path) {
        what @ (CALIBRATION | PLAN | SPECTRA | TYPES | CHANNELS | SEARCH | IMATRIX) => {
            let message =
                format!("{} is {what}, not a model or a file of saved logits", path.display());
            let hint =
                "give the dense model, or what `welore-cli eval MODEL --save-logits FILE` wrote";
            Err(WrongInput::with_hint(message, hint))
        }
        _ => Ok(()),
    }
}

/// Refuses a `.gguf` file that holds no model, if it is known what it is.
///
/// # Errors
///
/// [`WrongInput`] that says what to give.
pub fn check_model_file(path: &Path) -> Result<(), WrongInput> {
    match what_is(path) {
        IMATRIX | GGUF_ADAPTER => Err(no_model(path)),
        TEXT => {
            let message = format!("{} is a text, not a GGUF file", path.display());
            Err(WrongInput::with_hint(message, WHAT_MODEL_IS))
        }
        _ => Ok(()),
    }
}

/// Refuses a file that `plan` cannot take in place of a model, if it is known what it is. Plans and
/// spectra are told apart where they are read.
///
/// # Errors
///
/// [`WrongInput`] that says what to give.
pub fn check_planned(path: &Path) -> Result<(), WrongInput> {
    if !path.is_file() {
        return Ok(());
    }
    match what_is(path) {
        CALIBRATION | LOGITS | TYPES | CHANNELS | SEARCH => Err(no_model(path)),
        _ => Ok(()),
    }
}

/// Refuses a directory without weights that can be read, if it is known what it holds instead.
///
/// # Errors
///
/// [`WrongInput`] that says what to give.
pub fn check_directory(dir: &Path) -> Result<(), WrongInput> {
    let has = |name: &str| dir.join(name).is_file();
    if has(SINGLE) || has(INDEX) {
        return Ok(());
    }
    let shown = dir.display();
    if has(RUN_FILE) {
        let model = dir.join("model");
        let hint = match model.is_dir() {
            true => format!("give the model that the run wrote, {}", model.display()),
            false => format!("`welore-cli train --resume {shown}` finishes the run"),
        };
        let message = format!("{shown} is the directory of a training run, not a model directory");
        return Err(WrongInput::with_hint(message, hint));
    }
    if has(ADAPTER) {
        let message = format!("{shown} holds a PEFT adapter, not a whole model");
        return Err(WrongInput::with_hint(message, how_to_merge(&shown)));
    }
    if are_changes(dir) {
        let message = format!("{shown} holds changes of a model, not a whole model");
        let hint = format!(
            "give the base that they belong to: `welore-cli export BASE --changes {shown} -o DIR` writes the \
             tuned model"
        );
        return Err(WrongInput::with_hint(message, hint));
    }
    let names = files_in(dir);
    let ending = |ends: &[&str]| names.iter().find(|name| has_end(name, ends));
    if let Some(file) = ending(&[".gguf"]) {
        let message = format!("{shown}: there are no safetensors, only GGUF ({file})");
        let hint = format!("give the file: {}", dir.join(file).display());
        return Err(WrongInput::with_hint(message, hint));
    }
    if let Some(file) = ending(&PICKLED) {
        let message = format!("{shown}: there are no safetensors, only pickled weights ({file})");
        let hint = format!(
            "pickles can run code, so they are not read; in Python, \
             `AutoModelForCausalLM.from_pretrained(\"{shown}\").save_pretrained(\"OUT\")` writes \
             safetensors"
        );
        return Err(WrongInput::with_hint(message, hint));
    }
    Ok(())
}

/// How an adapter, given by its directory or id, becomes a model.
pub(super) fn how_to_merge(adapter: &impl Display) -> String {
    format!(
        "give its base model as MODEL, and the directory of a LoRA adapter with --adapter, to `eval`, \
         `generate`, `train` or `export --dense`; or merge it, in Python: \
         `AutoPeftModelForCausalLM.from_pretrained(\"{adapter}\").merge_and_unload()\
         .save_pretrained(\"OUT\")`"
    )
}

/// The names of the files of a directory, in order; none if it cannot be read, which is told when it
/// is opened.
fn files_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> =
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn what_is(path: &Path) -> &'static str {
    // Opening a pipe would wait for its other end.
    if !path.is_file() {
        return "a pipe or a device";
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    if read.is_err() {
        return "a file that cannot be read";
    }
    let text = String::from_utf8_lossy(&head);
    if head.starts_with(b"GGUF") && text.contains("imatrix.chunk_count") {
        return IMATRIX;
    }
    if head.starts_with(b"GGUF") && text.contains("adapter.lora.alpha") {
        return GGUF_ADAPTER;
    }
    if head.starts_with(b"GGUF") {
        return match has_end(&path.to_string_lossy(), &[".gguf"]) {
            true => GGUF,
            false => GGUF_OTHERWISE_NAMED,
        };
    }
    if head.get(8) == Some(&b'{') && head[6..8] == [0, 0] {
        return match () {
            () if text.contains(PROBES) => CALIBRATION,
            () if text.contains(LOSSES) => LOGITS,
            () => "a safetensors file",
        };
    }
    if text.starts_with("<!DOCTYPE html") {
        return PAGE;
    }
    if text.starts_with("<svg ") {
        return PICTURE;
    }
    if text.starts_with(FIRST_LINE) {
        return TENSOR_TYPES;
    }
    if text.trim_start().starts_with('{') {
        let artifact = ARTIFACTS.iter().find(|(mark, _)| text.contains(*mark));
        let is_lines = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("jsonl"));
        let other = if is_lines { TEXT } else { "a file" };
        return artifact.map_or(other, |(_, what)| what);
    }
    // A letter may be cut in two at the end of what was read.
    let is_utf8 = std::str::from_utf8(&head).map_or_else(|e| e.error_len().is_none(), |_| true);
    if is_utf8 && !head.is_empty() && !head.contains(&0) { TEXT } else { "a file" }
}

/// Whether a file is an artifact of any kind.
pub fn is_artifact(path: &Path) -> bool {
    let what = what_is(path);
    Artifact::BESIDE_MODELS.iter().any(|kind| kind.what() == what)
}

/// Whether a file of this name would be read as a part of a model in its directory.
pub fn is_model_part(name: &str) -> bool {
    let name = name.to_lowercase();
    let ends = [".safetensors", ".index.json", ".gguf"];
    ends.iter().any(|end| name.ends_with(end))
        || COMPANIONS.iter().any(|companion| name.starts_with(companion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_say_what_they_hold_and_what_to_give() {
        let cases: [(&[&str], &str, &str); 6] = [
            (&["run.json", "tokens"], "a training run", "train --resume"),
            (&["run.json", "model/config.json"], "a training run", "the model that the run wrote"),
            (&["adapter_config.json", "adapter_model.bin"], "a PEFT adapter", "merge_and_unload"),
            (&["welore_changes.json", "changes.safetensors"], "changes of a model", "--changes"),
            (
                &["README.md", "m-Q8_0.GGUF", "m-Q4_0.gguf"],
                "only GGUF (m-Q4_0.gguf)",
                "m-Q4_0.gguf",
            ),
            (
                &["config.json", "pytorch_model.bin"],
                "only pickled weights (pytorch_model.bin)",
                "save_pretrained",
            ),
        ];
        for (files, what, give) in cases {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            let error = check_directory(dir.path()).unwrap_err();
            let hint = error.hint.unwrap();
            assert!(error.message.contains(what), "{}", error.message);
            assert!(hint.contains(give), "{hint}");
            // What the model can be read from counts, whatever is beside it.
            fs::write(dir.path().join(SINGLE), "").unwrap();
            assert!(check_directory(dir.path()).is_ok());
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(check_directory(empty.path()).is_ok(), "this is told when it is opened");
    }

    #[test]
    fn files_say_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let files: [(&[u8], &str); 12] = [
            (b"", "a file"),
            (b"{\"a\": 1}", "a file"),
            (b"\xff\xfe", "a file"),
            (b"A text about \"welore-plan\" and {\"manifest\":{}}.", "a text"),
            (b"GGUF\x03\0\0\0", "a GGUF file whose name does not end in .gguf"),
            (b"\x08\0\0\0\0\0\0\0{\"a\":{}}", "a safetensors file"),
            (b"{\n  \"format\": \"welore-plan\",", "a plan"),
            (b"{\"format\":\"welore-spectra\",", "a file of spectra"),
            (
                b"\x98\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},\"probes\":{\"dtype\":\"F64\",",
                "a calibration",
            ),
            (b"<!DOCTYPE html>", "a page"),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\">", "an SVG picture"),
            (b"^blk\\.0\\.attn_q\\.weight$=q4_K\n", "a list of the types of tensors"),
        ];
        for (content, what) in files {
            std::fs::write(&path, content).unwrap();
            assert_eq!(what_is(&path), what);
        }
    }
}
