//! Outputs must not replace inputs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::checkpoint::PLAN_FILE;
use welore_burn::files::{OutputDir, is_left_of, is_within};

use crate::failure::WrongInput;
use crate::models::{are_parts_of_one, is_artifact, is_model_part};
use crate::settings;

/// Refuses an output file that is one of the inputs, that is a file in a directory that is one, or
/// that would become a part of a model there. Pages, spectra, calibrations and plans that an earlier
/// command left in such a directory can be replaced.
///
/// # Errors
///
/// [`WrongInput`].
pub fn check_apart<'a>(
    output: Option<&Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let Some(output) = output else { return Ok(()) };
    // A device is not replaced.
    if output.exists() && !output.is_file() {
        return Ok(());
    }
    let Some(place) = place_of(output) else { return Ok(()) };
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(dir) = place.parent() else { return Ok(()) };
    for input in inputs.into_iter().chain(settings::file()) {
        // A model of the Hub is no path.
        let Ok(input_place) = input.canonicalize() else { continue };
        let is_in = |dir: &Path, other: &Path| is_within(dir, other) && is_within(other, dir);
        let is_named =
            place.file_name() == input_place.file_name() || are_parts_of_one(&place, &input_place);
        let is_input = is_named && input_place.parent().is_some_and(|other| is_in(dir, other));
        let message = if is_input {
            format!("{} is an input of this command", output.display())
        } else if is_in(dir, &input_place) && is_model_part(&name) {
            format!("{} would be a part of the model in {}", output.display(), input.display())
        } else if is_within(dir, &input_place) && place.is_file() && !is_free(&place, &name) {
            format!("{} is a file of {}", output.display(), input.display())
        } else if is_left_of(input, output) {
            left_over(input, output)
        } else {
            continue;
        };
        return Err(WrongInput::with_hint(message, "give the output another name").into());
    }
    Ok(())
}

/// Refuses an output directory that holds one of the inputs: it would be replaced with everything in
/// it.
///
/// # Errors
///
/// [`FileError::InputInside`](welore_burn::files::FileError::InputInside).
pub fn check_outside<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let inputs: Vec<&Path> = inputs.into_iter().chain(settings::file()).collect();
    Ok(OutputDir::check_outside(output, &inputs)?)
}

/// Refuses an input that unfinished work left of the output: it could be removed as soon as the output
/// is prepared.
///
/// # Errors
///
/// [`WrongInput`].
pub fn check_not_left<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    match inputs.into_iter().chain(settings::file()).find(|input| is_left_of(input, output)) {
        Some(input) => {
            let hint = "give the output another name";
            Err(WrongInput::with_hint(left_over(input, output), hint).into())
        }
        None => Ok(()),
    }
}

fn left_over(input: &Path, output: &Path) -> String {
    let (input, output) = (input.display(), output.display());
    format!("{input} is left of an unfinished {output}, and would be removed")
}

/// Where a file is or would be, with all links resolved, also those that lead to nothing yet.
pub fn place_of(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_path_buf();
    // Linux follows no more links.
    for _ in 0..40 {
        if let Ok(place) = path.canonicalize() {
            return Some(place);
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
        match path.read_link() {
            Ok(link) => path = parent.join(link),
            Err(_) => return Some(parent.join(path.file_name()?)),
        }
    }
    None
}

/// Whether a file in an input directory may be replaced.
fn is_free(place: &Path, name: &str) -> bool {
    name != PLAN_FILE && is_artifact(place)
}

#[cfg(all(test, unix))]
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
            ("model/page.html", "<!DOCTYPE html>"),
            ("model/spectra.json", "{\n  \"format\": \"welore-spectra\"}"),
            ("m-00002-of-00003.gguf", "GGUF"),
        ];
        files.iter().for_each(|(name, text)| std::fs::write(path(name), text).unwrap());
        std::os::unix::fs::symlink(path("text"), path("link")).unwrap();
        std::os::unix::fs::symlink("model/merges.txt", path("dangling")).unwrap();
        let part = path("m-00002-of-00003.gguf");
        let inputs = [path("text"), path("model"), path("org/name"), part];
        let refused = |output: &str| {
            let inputs = inputs.iter().map(|input| input.as_path());
            check_apart(Some(&path(output)), inputs).is_err()
        };
        for output in [
            "text",
            "link",
            "dangling",
            "model/../text",
            "model/config.json",
            "model/welore_plan.json",
            "model/generation_config.json",
            "model/more.safetensors",
            "model/../model/tokenizer.json",
            "m-00001-of-00003.gguf",
        ] {
            assert!(refused(output), "{output}");
        }
        std::fs::write(path(".new.welore-a1b2c3"), "half").unwrap();
        let left = path(".new.welore-a1b2c3");
        assert!(check_apart(Some(&path("new")), [left.as_path()]).is_err());
        assert!(check_not_left(&path("new"), [left.as_path()]).is_err());
        for output in [
            "other",
            "model/new",
            "model/page.html",
            "model/spectra.json",
            "org/name",
            "n-00001-of-00003.gguf",
            "m-00001-of-00004.gguf",
        ] {
            assert!(!refused(output), "{output}");
        }
        assert!(check_apart(None, inputs.iter().map(|input| input.as_path())).is_ok());
    }
}
