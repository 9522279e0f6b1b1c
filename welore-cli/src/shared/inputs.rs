//! Outputs must not replace inputs.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use welore_burn::checkpoint::PLAN_FILE;

use crate::failure::WrongInput;

/// How much of a file is read to see what it is.
const BEGINNING: u64 = 4096;

/// Refuses an output file that is one of the inputs, or a file in a directory that is one. Pages,
/// spectra and plans that an earlier command left in such a directory can be replaced.
///
/// # Errors
///
/// [`WrongInput`].
pub fn check_apart<'a>(
    output: Option<&Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    // Neither an output that does not exist yet nor a device is replaced.
    let Some(output) = output else { return Ok(()) };
    let Ok(place) = output.canonicalize() else { return Ok(()) };
    if !place.is_file() {
        return Ok(());
    }
    for input in inputs {
        // A model of the Hub is no path.
        let Ok(input_place) = input.canonicalize() else { continue };
        let message = match place == input_place {
            true => format!("{} is an input of this command", output.display()),
            false if place.starts_with(&input_place) && !is_artifact(&place) => {
                format!("{} is a file of {}", output.display(), input.display())
            }
            false => continue,
        };
        return Err(WrongInput::with_hint(message, "give the output another name").into());
    }
    Ok(())
}

/// Whether an existing file is a page, spectra or a plan, and not the plan of a compressed model.
fn is_artifact(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut text));
    if read.is_err() || path.file_name().is_some_and(|name| name == PLAN_FILE) {
        return false;
    }
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let formats = ["\"welore-spectra\"", "\"welore-plan\""];
    let is_json = text.trim_start().starts_with('{') && formats.iter().any(|f| text.contains(f));
    text.trim_start().starts_with("<!doctype html") || is_json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_not_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("model")).unwrap();
        let files = [
            ("text", "Mia had an apple."),
            ("model/config.json", "{}"),
            ("model/welore_plan.json", "{\"format\": \"welore-plan\"}"),
            ("model/page.html", "<!doctype html>"),
            ("model/spectra.json", "{\n  \"format\": \"welore-spectra\"}"),
        ];
        files.iter().for_each(|(name, text)| std::fs::write(path(name), text).unwrap());
        std::os::unix::fs::symlink(path("text"), path("link")).unwrap();
        let inputs = [path("text"), path("model"), path("org/name")];
        let refused = |output: &str| {
            let inputs = inputs.iter().map(|input| input.as_path());
            check_apart(Some(&path(output)), inputs).is_err()
        };
        for output in
            ["text", "link", "model/../text", "model/config.json", "model/welore_plan.json"]
        {
            assert!(refused(output), "{output}");
        }
        for output in ["other", "model/new", "model/page.html", "model/spectra.json", "org/name"] {
            assert!(!refused(output), "{output}");
        }
        assert!(check_apart(None, inputs.iter().map(|input| input.as_path())).is_ok());
    }
}
