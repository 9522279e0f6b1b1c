//! What a path that is no model holds, for the user who gave it as one.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use welore_burn::train::RUN_FILE;

use super::WHAT_MODEL_IS;
use super::listing::{ADAPTER, COMPANIONS, INDEX, PICKLED, SINGLE, has_end};
use crate::failure::WrongInput;

/// Bytes from the beginning of a file that tell what it is.
const HEAD: u64 = 4096;

/// The artifacts of this program, by what their files contain near the beginning.
static ARTIFACTS: [(&str, &str); 7] = [
    ("\"welore-spectra\"", "a file of spectra"),
    ("\"welore-plan\"", "a plan"),
    ("\"welore-run\"", "the description of a run"),
    ("\"welore-gradients\"", "a summary of gradients"),
    ("{\"manifest\":", "a calibration"),
    ("\"saved_logits.losses\"", "a file of saved logits"),
    ("<!DOCTYPE html", "a page"),
];

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
        "a plan" => format!("`welore-cli compress MODEL --plan {path} -o DIR` carries it out"),
        "a file of spectra" => format!("`welore-cli plan {path} --err 0.3` makes a plan of it"),
        "a calibration" => format!("give the model as MODEL, and this with --calibration {path}"),
        "a file of saved logits" => {
            format!("give the model to compare as MODEL, and this with --against {path}")
        }
        _ => WHAT_MODEL_IS.into(),
    };
    WrongInput::with_hint(format!("{path} is {what}, not a model directory"), hint)
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
        "merge it into its base model, in Python: `AutoPeftModelForCausalLM.from_pretrained(\
         \"{adapter}\").merge_and_unload().save_pretrained(\"OUT\")`"
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
    if head.starts_with(b"GGUF") {
        return "a GGUF file whose name does not end in .gguf";
    }
    let text = String::from_utf8_lossy(&head);
    if let Some((_, what)) = ARTIFACTS.iter().find(|(mark, _)| text.contains(*mark)) {
        return what;
    }
    match head.get(8) == Some(&b'{') && head[6..8] == [0, 0] {
        true => "a safetensors file",
        false => "a file",
    }
}

/// Whether a file is one that commands of this program write beside models: spectra, plans,
/// calibrations, saved logits and pages.
pub fn is_artifact(path: &Path) -> bool {
    let ours = ["a file of spectra", "a plan", "a calibration", "a file of saved logits", "a page"];
    ours.contains(&what_is(path))
}

/// Whether a file is a page of a report.
pub fn is_page(path: &Path) -> bool {
    what_is(path) == "a page"
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
        let cases: [(&[&str], &str, &str); 5] = [
            (&["run.json", "tokens"], "a training run", "train --resume"),
            (&["run.json", "model/config.json"], "a training run", "the model that the run wrote"),
            (&["adapter_config.json", "adapter_model.bin"], "a PEFT adapter", "merge_and_unload"),
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
        let files: [(&[u8], &str); 8] = [
            (b"", "a file"),
            (b"{\"a\": 1}", "a file"),
            (b"GGUF\x03\0\0\0", "a GGUF file whose name does not end in .gguf"),
            (b"\x08\0\0\0\0\0\0\0{\"a\":{}}", "a safetensors file"),
            (b"{\n  \"format\": \"welore-plan\",", "a plan"),
            (b"{\"format\":\"welore-spectra\",", "a file of spectra"),
            (b"\x18\0\0\0\0\0\0\0{\"manifest\":{}}", "a calibration"),
            (b"<!DOCTYPE html>", "a page"),
        ];
        for (content, what) in files {
            std::fs::write(&path, content).unwrap();
            assert_eq!(what_is(&path), what);
        }
    }
}
