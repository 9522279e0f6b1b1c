use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_existing};
use crate::linalg::DECOMPOSITION;

const FORMAT: &str = "welore-spectrum";
const VERSION: u32 = 1;

/// How the name of a file begins while it is written.
const UNFINISHED: &str = ".spectrum-";

/// By then whoever wrote an unfinished file was killed: writing one takes milliseconds.
const LITTER_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Singular values by a digest of their matrix and its norm: one small file per matrix.
///
/// A cache never fails: values that cannot be read are measured again, values that cannot be
/// written are dropped, and both are logged.
#[derive(Debug)]
pub(super) struct SpectrumCache {
    dir: PathBuf,
    /// Digests measured by this process, so that equal matrices do not count as known.
    measured: Mutex<HashSet<String>>,
    warned: AtomicBool,
}

/// The content of a file of the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    format: String,
    version: u32,
    /// Version of the decomposition.
    decomposition: u32,
    /// Of the matrix and its norm.
    digest: String,
    /// BLAKE3 digest of the values: a number with a flipped bit is still a number.
    check: String,
    singular_values: Vec<f64>,
}

impl SpectrumCache {
    /// A cache in a directory, which is created when the first values are kept. Removes what killed
    /// processes were writing there.
    pub fn new(dir: &Path) -> Self {
        sweep(dir);
        Self { dir: dir.into(), measured: Mutex::default(), warned: AtomicBool::new(false) }
    }

    /// The singular values with this digest, if they are known; there must be `count` of them. The
    /// flag is true if an earlier process measured them.
    pub fn find(&self, digest: &str, count: usize) -> Option<(Vec<f64>, bool)> {
        let path = self.path(digest);
        // A number takes at most 25 bytes, and nothing else in the file grows with their count.
        let longest = 1000 + 30 * count as u64;
        let text = match read_existing(&path, longest) {
            Ok(text) => text?,
            // It would be the same for every matrix; `keep` reports once what is wrong there.
            Err(FileError::Io { .. }) => return None,
            Err(error) => {
                tracing::warn!("{error}; ignored, measuring again");
                return None;
            }
        };
        match parse(&text, digest, count) {
            Ok(values) => {
                let here = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
                Some((values?, !here.contains(digest)))
            }
            Err(reason) => {
                tracing::warn!("{}: ignored, measuring again: {reason}", path.display());
                None
            }
        }
    }

    /// Keeps singular values for later processes, whole or not at all.
    pub fn keep(&self, digest: &str, values: &[f64]) {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.into());
        let entry = Entry {
            format: FORMAT.into(),
            version: VERSION,
            decomposition: DECOMPOSITION,
            digest: digest.into(),
            check: check_of(values),
            singular_values: values.to_vec(),
        };
        if let Err(error) = self.write(&entry)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{}: spectra cannot be cached: {error}", self.dir.display());
        }
    }

    fn write(&self, entry: &Entry) -> std::io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // Not synced: a file that a power cut damages is measured again.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.persist(self.path(&entry.digest)).map_err(|error| error.error)?;
        Ok(())
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.json"))
    }
}

/// Removes old unfinished files. A failure does not matter.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_unfinished = name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        let is_old = || {
            let age = entry.metadata().and_then(|found| found.modified()).map(|at| at.elapsed());
            matches!(age, Ok(Ok(age)) if age > LITTER_AFTER)
        };
        if is_unfinished && is_old() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The values in the content of a file; `None` if another version of this program wrote it.
fn parse(text: &[u8], digest: &str, count: usize) -> Result<Option<Vec<f64>>, String> {
    let entry: Entry = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let versions = (entry.version, entry.decomposition);
    if entry.format != FORMAT {
        return Err(format!("its format is `{}`", entry.format));
    }
    if versions != (VERSION, DECOMPOSITION) {
        return Ok(None);
    }
    let values = entry.singular_values;
    let sorted = values.windows(2).all(|pair| pair[0] >= pair[1]);
    if entry.digest != digest || entry.check != check_of(&values) {
        return Err("it is damaged or belongs to another matrix".into());
    }
    if values.len() != count || !sorted || values.iter().any(|s| !s.is_finite() || *s < 0.0) {
        return Err("its values are not the singular values of this matrix".into());
    }
    Ok(Some(values))
}

fn check_of(values: &[f64]) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in values {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    const DIGEST: &str = "0123456789abcdef";

    #[test]
    fn values_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let values = [1.0 / 3.0, 0.1, 5e-324, 0.0];
        SpectrumCache::new(dir.path()).keep(DIGEST, &values);
        let (found, known) = SpectrumCache::new(dir.path()).find(DIGEST, 4).unwrap();
        assert!(known);
        assert!(found.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_this_run_measured_does_not_count_as_known_before() {
        let dir = tempfile::tempdir().unwrap();
        let cache = SpectrumCache::new(dir.path());
        cache.keep(DIGEST, &[1.0]);
        assert_eq!(cache.find(DIGEST, 1), Some((vec![1.0], false)));
    }

    #[test]
    fn what_killed_processes_were_writing_is_swept_one_day() {
        let dir = tempfile::tempdir().unwrap();
        let names = [".spectrum-fresh1", ".spectrum-old123", "notes", "values.json"];
        for name in names {
            let file = File::create(dir.path().join(name)).unwrap();
            if !name.contains("fresh") {
                file.set_modified(SystemTime::now() - 2 * LITTER_AFTER).unwrap();
            }
        }
        SpectrumCache::new(dir.path());
        let left = names.map(|name| dir.path().join(name).exists());
        assert_eq!(left, [true, false, true, true]);
    }

    #[test]
    fn damaged_and_foreign_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let cache = SpectrumCache::new(dir.path());
        cache.keep(DIGEST, &[2.0, 1.0]);
        let path = dir.path().join(format!("{DIGEST}.json"));
        let good = fs::read_to_string(&path).unwrap();
        assert!(cache.find(DIGEST, 2).is_some());
        assert!(cache.find(DIGEST, 3).is_none(), "other matrices have other shapes");
        for bad in [
            String::new(),
            good[..good.len() / 2].into(),
            good.replace("2.0", "3.0"),
            good.replace(DIGEST, "fedcba9876543210"),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace(&format!("\"decomposition\":{DECOMPOSITION}"), "\"decomposition\":0"),
            good.replace(FORMAT, "welore-plan"),
            format!("{good}{}", " ".repeat(10_000)),
        ] {
            assert_ne!(bad, good);
            fs::write(&path, &bad).unwrap();
            assert!(cache.find(DIGEST, 2).is_none(), "{bad}");
        }
        cache.keep(DIGEST, &[2.0, 1.0]);
        assert!(cache.find(DIGEST, 2).is_some());
    }
}
