//! What a path that is no model holds, for the user who gave it as one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::WHAT_MODEL_IS;
use super::listing::COMPANIONS;
use crate::failure::WrongInput;

/// Bytes from the beginning of a file that tell what it is.
const HEAD: u64 = 4096;

/// The artifacts of this program, by what their files contain near the beginning.
static ARTIFACTS: [(&str, &str); 6] = [
    ("\"welore-spectra\"", "a file of spectra"),
    ("\"welore-plan\"", "a plan"),
    ("\"welore-run\"", "the description of a run"),
    ("\"welore-gradients\"", "a summary of gradients"),
    ("{\"manifest\":", "a calibration"),
    ("<!doctype html", "a page"),
];

/// The error for a path that exists and is no directory.
pub fn no_model(path: &Path) -> WrongInput {
    let in_model = path.file_name().is_some_and(|name| name == "config.json");
    let (what, hint) = match what_is(path) {
        "a safetensors file" => ("a safetensors file", "give the directory that it is in"),
        _ if in_model => ("the configuration of a model", "give the directory that it is in"),
        what => (what, WHAT_MODEL_IS),
    };
    WrongInput::with_hint(format!("{} is {what}, not a model directory", path.display()), hint)
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
/// calibrations and pages.
pub fn is_artifact(path: &Path) -> bool {
    ["a file of spectra", "a plan", "a calibration", "a page"].contains(&what_is(path))
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
            (b"<!doctype html>", "a page"),
        ];
        for (content, what) in files {
            std::fs::write(&path, content).unwrap();
            assert_eq!(what_is(&path), what);
        }
    }
}
