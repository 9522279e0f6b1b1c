//! Temporary files beside their targets. Whoever writes one holds a lock on it, so that the next
//! process with the same target can tell what a killed one left behind, and removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use super::place::find_dir;
use super::write::parent_of;

/// Follows the name of the target in a temporary name.
const MARK: &str = ".welore-";

/// Ends the name of an unfinished directory.
pub(super) const PARTIAL: &str = "partial";

/// Ends the name of a file that is locked while a process works for its target. As long as a random
/// end, so that one that a killed process left is swept like a temporary file.
pub(super) const WRITER: &str = "writer";

/// The number of random characters that end the name of a temporary file.
const RANDOM: usize = 6;

/// Whether a name is one that this library gives to unfinished files and directories. A process
/// that is being killed leaves them behind.
pub fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    match name.windows(MARK.len()).rposition(|part| part == MARK.as_bytes()) {
        // Of no target: checkpoints of a run before they have a number, and files of earlier
        // versions.
        Some(0) => true,
        Some(at) => {
            let rest = &name[at + MARK.len()..];
            name[0] == b'.' && (rest == PARTIAL.as_bytes() || is_random(rest))
        }
        None => false,
    }
}

fn is_random(end: &[u8]) -> bool {
    end.len() == RANDOM && end.iter().all(u8::is_ascii_alphanumeric)
}

/// How the temporary names of a target begin: hidden, and the same every time.
pub(super) fn stem_of(target: &Path) -> OsString {
    /// Most file systems allow 255 bytes in a name.
    const LONGEST: usize = 200;
    let mut stem = OsString::from(".");
    match target.file_name() {
        Some(file) if file.len() <= LONGEST => stem.push(file),
        file => {
            let bytes = file.unwrap_or_default().as_encoded_bytes();
            stem.push(blake3::hash(bytes).to_hex().as_str());
        }
    }
    stem.push(MARK);
    stem
}

/// Whether something is, or is in, what unfinished work left of an output. The next work with that
/// output removes it. Links are followed.
pub fn is_left_of(path: &Path, target: &Path) -> bool {
    let Ok(target) = find_dir(target) else { return false };
    let Ok(home) = parent_of(&target).canonicalize() else { return false };
    let stem = stem_of(&target);
    let is_left = |place: &Path| {
        let name = place.file_name().unwrap_or_default();
        let rest = name.as_encoded_bytes().strip_prefix(stem.as_encoded_bytes());
        rest.is_some_and(|rest| rest == PARTIAL.as_bytes() || is_random(rest))
            && place.parent().is_some_and(|parent| parent == home)
    };
    // Of a link, both what it leads to and the link itself.
    let places = [path.canonicalize(), parent_of(path).canonicalize()];
    places.iter().flatten().any(|place| place.ancestors().any(is_left))
}

/// A new file beside its target, locked as long as it is open. Removes what killed processes left
/// of the same target.
pub(super) fn create_beside(target: &Path) -> io::Result<NamedTempFile> {
    let (dir, stem) = (parent_of(target), stem_of(target));
    sweep(&dir, &stem);
    for _ in 0..100 {
        // Not `tempfile_in`: the errors of that one name a path that means nothing to the user.
        let file = Builder::new().prefix(&stem).rand_bytes(RANDOM).make_in(&dir, |path| {
            File::options().read(true).write(true).create_new(true).open(path)
        })?;
        match file.as_file().try_lock() {
            Ok(()) if is_same(file.as_file(), file.path()) => return Ok(file),
            // Where nothing can be locked, no other process takes it for litter either.
            Err(TryLockError::Error(_)) => return Ok(file),
            // Another process took it for litter before it was locked.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
        }
    }
    Err(io::Error::other("its temporary files disappear"))
}

/// Removes the temporary files of a target that no process writes any more. A failure does not
/// matter.
fn sweep(dir: &Path, stem: &OsStr) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(stem.as_encoded_bytes());
        // A link is no file here.
        if rest.is_some_and(is_random) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_unlocked(&entry.path());
        }
    }
}

fn remove_unlocked(path: &Path) {
    let Ok(file) = File::options().write(true).open(path) else { return };
    // Locked while it is removed, so that its writer sees what happens to it.
    if file.try_lock().is_ok() && is_same(&file, path) {
        let _ = fs::remove_file(path);
    }
}

/// Whether a path still leads to an open file: a lock on a removed file locks nothing.
#[cfg(unix)]
pub(super) fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
pub(super) fn is_same(_file: &File, path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_temporary() {
        for name in
            [".welore-1.partial", ".welore-2", ".plan.json.welore-a1B2c3", ".out.welore-partial"]
        {
            assert!(is_temporary(OsStr::new(name)), "{name}");
        }
        for name in
            ["plan.json", ".out", "a.welore-a1B2c3", ".notes.welore-thoughts", ".a.welore-", ""]
        {
            assert!(!is_temporary(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn only_what_no_process_holds_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("plan.json");
        let held = create_beside(&target).unwrap();
        let other = create_beside(&home.path().join("plan")).unwrap();
        let left = home.path().join(".plan.json.welore-abcdef");
        let foreign = home.path().join(".plan.json.welore-my own");
        fs::write(&left, "half").unwrap();
        fs::write(&foreign, "mine").unwrap();
        drop(create_beside(&target).unwrap());
        assert!(!left.exists(), "nobody holds it");
        assert!(held.path().exists() && other.path().exists() && foreign.exists());
        // Held by whoever has it open, not by its name.
        let (file, path) = held.into_parts();
        drop(file);
        drop(create_beside(&target).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn what_is_left_of_a_target_is_recognized() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at(".out.welore-partial/model")).unwrap();
        let left = [".out.welore-partial/model/half", ".out.welore-a1b2c3"];
        let others = [".other.welore-a1b2c3", ".out.welore-my own", "text"];
        for name in left.iter().chain(&others) {
            fs::write(at(name), "half").unwrap();
        }
        for name in left {
            assert!(is_left_of(&at(name), &at("out")), "{name}");
            assert!(is_left_of(&at(name), &at("new/../out/")), "{name}");
            assert!(!is_left_of(&at(name), &at("other")), "{name}");
        }
        for name in others {
            assert!(!is_left_of(&at(name), &at("out")), "{name}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at(left[0]), at("link")).unwrap();
            assert!(is_left_of(&at("link"), &at("out")));
        }
    }

    /// Many writers of one target, each of which sweeps what it can.
    #[test]
    fn writers_do_not_lose_their_files_to_each_other() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("plan.json");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let file = create_beside(&target).unwrap();
                        assert!(is_same(file.as_file(), file.path()));
                        file.persist(&target).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
