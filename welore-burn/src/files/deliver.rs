//! How a finished directory gets its name.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::error::FileError;
use super::exchange::exchange;
use super::partial::{LEAVING, Partial, REPLACED};

/// Exchanges what two names stand for; `None` where nothing can.
type Swap = fn(&Path, &Path) -> Option<io::Result<()>>;

impl Partial {
    /// Gives the files the name of the target. What had that name is then in this directory, until
    /// it is discarded; if it `may` not `go`, or anything else fails, the target is as it was.
    pub fn deliver(
        &self,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        self.deliver_by(exchange, target, named, may_go)
    }

    fn deliver_by(
        &self,
        swap: Swap,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        if target.symlink_metadata().is_err() {
            return fs::rename(self.model(), target).map_err(FileError::io(named));
        }
        let leaving = self.dir().join(LEAVING);
        // First another name: if the process is killed after the exchange, the next one must not
        // go on to write into what the user had there.
        fs::rename(self.model(), &leaving).map_err(FileError::io(named))?;
        let exchanged = match swap(&leaving, target) {
            Some(Ok(())) => self.settle(swap, &leaving, target, named, may_go),
            Some(Err(error)) => Err(FileError::io(named)(error)),
            None => self.replace(&leaving, target, named, may_go, rename),
        };
        if !matches!(exchanged, Ok(()) | Err(FileError::Stranded { .. })) {
            // The work is still there, and may be resumed.
            let _ = fs::rename(&leaving, self.model());
        }
        exchanged
    }

    /// Undoes an exchange if what was there has become something else since it was checked.
    fn settle(
        &self,
        swap: Swap,
        leaving: &Path,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        if may_go(leaving) {
            return Ok(());
        }
        match swap(leaving, target) {
            Some(Ok(())) => Err(FileError::OutputForeign { path: named.into() }),
            undone => {
                let unknown = || io::Error::from(ErrorKind::Unsupported);
                let source = undone.and_then(Result::err).unwrap_or_else(unknown);
                self.keep();
                // What leaves is removed one day, and what was replaced is not.
                let replaced = self.dir().join(REPLACED);
                let kept = match fs::rename(leaving, &replaced) {
                    Ok(()) => replaced,
                    Err(_) => leaving.into(),
                };
                Err(FileError::Stranded { path: named.into(), kept, source })
            }
        }
    }

    /// The same in two steps, where nothing can be exchanged.
    fn replace(
        &self,
        leaving: &Path,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
        rename: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let replaced = self.dir().join(REPLACED);
        rename(target, &replaced).map_err(FileError::io(named))?;
        let renamed = match may_go(&replaced) {
            true => rename(leaving, target).map_err(FileError::io(named)),
            false => Err(FileError::OutputForeign { path: named.into() }),
        };
        if renamed.is_ok() {
            // From here on it is litter. If this fails, the next process finds out.
            let _ = rename(&replaced, leaving);
            return renamed;
        }
        match rename(&replaced, target) {
            Ok(()) => renamed,
            Err(source) => {
                self.keep();
                Err(FileError::Stranded { path: named.into(), kept: replaced, source })
            }
        }
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn any(_: &Path) -> bool {
        true
    }

    fn none(_: &Path) -> bool {
        false
    }

    /// Where nothing can be exchanged.
    fn cannot(_: &Path, _: &Path) -> Option<io::Result<()>> {
        None
    }

    /// A home with an old model, and a claimed directory with a new one.
    fn with_both() -> (tempfile::TempDir, PathBuf, Partial) {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("weights"), "old").unwrap();
        let partial = Partial::claim(&target, &target, any).unwrap();
        partial.begin::<()>("job", |_| false).unwrap();
        fs::write(partial.model().join("weights"), "new").unwrap();
        (home, target, partial)
    }

    fn weights(dir: &Path) -> String {
        fs::read_to_string(dir.join("weights")).unwrap()
    }

    /// As if the process were killed: everything stays but the lock.
    fn kill(partial: Partial) {
        partial.keep();
        drop(partial);
    }

    /// Moves the new model as `deliver` does, then replaces the old one by renames that fail from
    /// the given one on.
    fn replace_failing(partial: &Partial, target: &Path, failing: usize) -> Result<(), FileError> {
        let leaving = partial.dir().join(LEAVING);
        fs::rename(partial.model(), &leaving).unwrap();
        let done = std::cell::Cell::new(0);
        partial.replace(&leaving, target, target, any, |from, to| {
            done.set(done.get() + 1);
            match done.get() >= failing {
                true => Err(io::Error::from(ErrorKind::StorageFull)),
                false => fs::rename(from, to),
            }
        })
    }

    #[test]
    fn old_model_is_never_lost_to_two_failing_renames() {
        let (home, target, partial) = with_both();
        match replace_failing(&partial, &target, 2) {
            Err(FileError::Stranded { kept, .. }) => assert_eq!(weights(&kept), "old"),
            other => panic!("{other:?}"),
        }
        drop(partial);
        assert!(!target.exists());
        // The next process puts it back.
        let partial = Partial::claim(&target, &target, any).unwrap();
        assert_eq!(weights(&target), "old");
        partial.begin::<()>("other", |_| false).unwrap();
        drop(partial);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_renames_replace_and_undo() {
        let (home, target, partial) = with_both();
        let error = replace_failing(&partial, &target, 1).unwrap_err();
        assert!(matches!(error, FileError::Io { .. }), "{error}");
        assert_eq!(weights(&target), "old");
        fs::rename(partial.dir().join(LEAVING), partial.model()).unwrap();
        replace_failing(&partial, &target, 9).unwrap();
        partial.discard();
        assert_eq!(weights(&target), "new");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    /// Killed after the second rename: both models are there, and it is clear which one goes.
    #[test]
    fn replacement_that_was_not_cleaned_up_refuses_nothing() {
        for is_killed in [true, false] {
            let (home, target, partial) = with_both();
            replace_failing(&partial, &target, 3).unwrap();
            assert_eq!(weights(&partial.dir().join(REPLACED)), "old");
            match is_killed {
                true => kill(partial),
                false => partial.discard(),
            }
            let partial = Partial::claim(&target, &target, any).unwrap();
            partial.begin::<()>("other", |_| false).unwrap();
            assert_eq!(weights(&target), "new");
            drop(partial);
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn two_models_of_which_none_is_litter_stay() {
        let doubled = |target: &Path, may_go: fn(&Path) -> bool| {
            let error = Partial::claim(target, target, may_go).unwrap_err();
            let FileError::Doubled { kept, .. } = &error else { panic!("{error}") };
            assert_eq!([weights(target), weights(kept)], ["new", "old"]);
            kept.clone()
        };
        // What was there must not be removed.
        let (_home, target, partial) = with_both();
        replace_failing(&partial, &target, 3).unwrap();
        kill(partial);
        doubled(&target, none);
        // Once one of them is moved away, the other one has the name.
        fs::remove_dir_all(&target).unwrap();
        drop(Partial::claim(&target, &target, none).unwrap());
        assert_eq!(weights(&target), "old");

        // The name was given to something else between two renames.
        let (_home, target, partial) = with_both();
        replace_failing(&partial, &target, 2).unwrap_err();
        kill(partial);
        fs::create_dir(&target).unwrap();
        fs::write(target.join("weights"), "new").unwrap();
        let kept = doubled(&target, any);
        fs::rename(kept, target.with_file_name("aside")).unwrap();
        drop(Partial::claim(&target, &target, any).unwrap());
        assert_eq!(weights(&target), "new");
    }

    #[test]
    fn what_became_something_else_stays() {
        for swap in [exchange as Swap, cannot] {
            let (_home, target, partial) = with_both();
            let error = partial.deliver_by(swap, &target, &target, none).unwrap_err();
            assert!(matches!(error, FileError::OutputForeign { .. }), "{error}");
            assert_eq!([weights(&target), weights(partial.model())], ["old", "new"]);
            partial.deliver_by(swap, &target, &target, any).unwrap();
            assert_eq!(weights(&target), "new");
        }
    }

    /// After a kill between the exchange and the removal, the old model is in the directory.
    #[test]
    fn what_was_replaced_is_not_resumed() {
        for swap in [exchange as Swap, cannot] {
            let (_home, target, partial) = with_both();
            partial.deliver_by(swap, &target, &target, any).unwrap();
            kill(partial);
            let partial = Partial::claim(&target, &target, any).unwrap();
            partial.begin::<()>("job", |_| true).unwrap();
            assert_eq!(fs::read_dir(partial.model()).unwrap().count(), 0);
            let left = [LEAVING, REPLACED].map(|name| partial.dir().join(name).exists());
            assert_eq!(left, [false, false]);
            assert_eq!(weights(&target), "new");
        }
    }
}
