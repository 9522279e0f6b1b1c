//! Whether the disk has room for what a calibration writes.

use std::path::Path;

use anyhow::Result;
use welore_burn::files::unfinished;

use crate::failure::WrongInput;
use crate::shared::artifacts::check_space;

/// Checks that the file system of a calibration has room for this many bytes, of which an earlier process
/// may have written some.
///
/// # Errors
///
/// [`WrongInput`] if it has not.
pub(super) fn check_room(output: &Path, bytes: u64) -> Result<()> {
    let written = unfinished(output).map_or(0, |dir| size_of_dir(&dir));
    check_space(output, bytes.saturating_sub(written)).map_err(|error| {
        match error.downcast::<WrongInput>() {
            Ok(wrong) => {
                let hint = "give another output; fewer --gradient-windows or --calibration-windows \
                            need less where their hidden states are in files meanwhile";
                WrongInput { hint: Some(hint.into()), ..wrong }.into()
            }
            Err(other) => other,
        }
    })
}

/// Bytes of all files in a directory and below; what cannot be read counts as nothing.
fn size_of_dir(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of_dir(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_makes_it_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("seen");
        assert!(check_room(&output, 1).is_ok());
        let refused = check_room(&output, u64::MAX).unwrap_err().downcast::<WrongInput>().unwrap();
        assert!(refused.hint.is_some_and(|hint| hint.contains("--gradient-windows")));
    }

    #[test]
    fn files_of_a_directory_count_with_those_below() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("one"), [0; 3]).unwrap();
        std::fs::write(dir.path().join("below/two"), [0; 4]).unwrap();
        assert_eq!(size_of_dir(dir.path()), 7);
        assert_eq!(size_of_dir(&dir.path().join("none")), 0);
    }
}
