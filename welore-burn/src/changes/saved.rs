use std::path::{Path, PathBuf};

use super::error::ChangesError;
use super::record::{RECORD_FILE, Record, TENSORS_FILE};
use crate::checkpoint::Checkpoint;
use crate::progress::Progress;

/// Whether a directory looks like saved changes of a model. Opens nothing.
pub fn are_changes(dir: impl AsRef<Path>) -> bool {
    dir.as_ref().join(RECORD_FILE).is_file()
}

/// The directory that [`Changes::save`](super::Changes::save) wrote.
#[derive(Debug)]
pub struct SavedChanges {
    dir: PathBuf,
    record: Record,
    file: Checkpoint,
}

impl SavedChanges {
    /// Opens a directory of saved changes. Reads no numbers.
    ///
    /// # Errors
    ///
    /// [`ChangesError::NoChanges`] and [`ChangesError::File`] for files that cannot be read,
    /// [`ChangesError::Broken`] for a file of another kind or a later version, or if the two files do not
    /// belong together, [`ChangesError::Checkpoint`] for a broken header.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ChangesError> {
        let dir = dir.as_ref();
        let (path, tensors) = (dir.join(RECORD_FILE), dir.join(TENSORS_FILE));
        let Some(record) = Record::read(&path)? else {
            return Err(ChangesError::NoChanges { path });
        };
        if !tensors.is_file() {
            return Err(ChangesError::NoChanges { path: tensors });
        }
        let file = Checkpoint::open_file(&tensors)?;
        let has_all = record.changed.keys().all(|tensor| file.meta(tensor).is_some());
        if !has_all || file.names().count() != record.changed.len() {
            let reason = format!("its tensors are not those that {RECORD_FILE} lists");
            return Err(ChangesError::Broken { path: tensors, reason });
        }
        Ok(Self { dir: dir.into(), record, file })
    }

    /// The names of the tensors that it has.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file.names()
    }

    /// The tuned model: the base with the changed numbers in the place of its own. It can be read,
    /// converted and written like any other, and names the directory of the base as its own. All of the
    /// base is read once, to compare digests; nothing is copied.
    ///
    /// # Errors
    ///
    /// [`ChangesError::OtherBase`] if a tensor is not that of the base which the changes were found in,
    /// [`ChangesError::Broken`] for a damaged file, [`ChangesError::Interrupted`].
    pub fn applied_to(
        self,
        base: Checkpoint,
        progress: &mut dyn Progress,
    ) -> Result<Checkpoint, ChangesError> {
        self.check_names(&base)?;
        let total = self.record.base.len() + self.record.changed.len();
        progress.begin("checking", total);
        progress.count_in("tensors");
        for (tensor, digest) in &self.record.base {
            progress.step(tensor)?;
            let found = base.digest(tensor)?;
            base.release(tensor);
            if found != *digest {
                return Err(self.other_base(&base, tensor));
            }
        }
        for (tensor, digest) in &self.record.changed {
            progress.step(tensor)?;
            if !base.has_as_stored(tensor, self.file.meta(tensor)) {
                let reason = format!("`{tensor}` has another type or shape than in the base");
                return Err(self.broken(reason));
            }
            let found = self.file.digest(tensor)?;
            self.file.release(tensor);
            if found != *digest {
                return Err(self.broken(format!("the numbers of `{tensor}` are damaged")));
            }
        }
        Ok(base.with_replaced(self.file))
    }

    /// Checks that the base has the tensors that it had, and that all changes are of these.
    fn check_names(&self, base: &Checkpoint) -> Result<(), ChangesError> {
        let Record { base: known, changed, .. } = &self.record;
        let new = base.names().find(|tensor| !known.contains_key(*tensor));
        let mut of_record = known.keys().chain(changed.keys()).map(String::as_str);
        let gone = of_record.find(|tensor| base.meta(tensor).is_none());
        match new.or(gone) {
            Some(tensor) => Err(self.other_base(base, tensor)),
            None => Ok(()),
        }
    }

    fn other_base(&self, base: &Checkpoint, tensor: &str) -> ChangesError {
        ChangesError::OtherBase {
            changes: self.dir.clone(),
            base: base.dir().into(),
            tensor: tensor.into(),
        }
    }

    fn broken(&self, reason: String) -> ChangesError {
        ChangesError::Broken { path: self.dir.join(TENSORS_FILE), reason }
    }
}
