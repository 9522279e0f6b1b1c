use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{read_existing, replace_file};

const FORMAT: &str = "welore-type-costs";
/// Raised when the same matrix would cost something else.
const VERSION: u32 = 1;

/// No tensor has costs that take more bytes.
const LARGEST: u64 = 1 << 16;

/// What matrices cost in types and forms, by a digest of all that it depends on: one small file per matrix. A
/// cache never fails: costs that cannot be read are measured again, costs that cannot be written are
/// dropped.
#[derive(Debug)]
pub(super) struct CostCache {
    dir: PathBuf,
}

/// The content of a file of the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    format: String,
    version: u32,
    /// BLAKE3 digest of the losses: a number with a flipped bit is still a number.
    check: String,
    losses: Vec<(String, f64)>,
}

impl CostCache {
    /// A cache in a directory, which is created when the first costs are kept.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// The losses of what has these names, in their order, if all are known.
    pub fn find(&self, key: &str, names: &[String]) -> Option<Vec<f64>> {
        let text = read_existing(self.path(key), LARGEST).ok()??;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        let is_sound = (entry.format.as_str(), entry.version) == (FORMAT, VERSION)
            && entry.check == check_of(&entry.losses)
            && entry.losses.iter().all(|(_, loss)| loss.is_finite());
        let of = |wanted: &String| {
            let found = entry.losses.iter().find(|(known, _)| known == wanted);
            found.map(|(_, loss)| *loss)
        };
        names.iter().map(of).collect::<Option<Vec<f64>>>().filter(|_| is_sound)
    }

    /// Keeps costs for later processes, whole or not at all.
    pub fn keep(&self, key: &str, losses: Vec<(String, f64)>) {
        let (format, check) = (FORMAT.into(), check_of(&losses));
        let entry = Entry { format, version: VERSION, check, losses };
        let text = serde_json::to_vec(&entry).expect("finite numbers and names serialize");
        let written = std::fs::create_dir_all(&self.dir).map_err(|error| error.to_string());
        let written =
            written.and_then(|()| replace_file(self.path(key), &text).map_err(|e| e.to_string()));
        if let Err(error) = written {
            tracing::warn!("{}: costs cannot be cached: {error}", self.dir.display());
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{}.json", blake3::hash(key.as_bytes()).to_hex()))
    }
}

fn check_of(losses: &[(String, f64)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, loss) in losses {
        hasher.update(name.as_bytes()).update(&loss.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn damaged_files_and_other_types_are_measured_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CostCache::new(dir.path());
        let named = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        cache.keep("key", vec![("q8_0".into(), 0.1), ("q4_0".into(), 1.0 / 3.0)]);
        let types = named(&["q4_0", "q8_0"]);
        assert_eq!(cache.find("key", &types), Some(vec![1.0 / 3.0, 0.1]));
        assert_eq!(cache.find("other", &types), None);
        assert_eq!(cache.find("key", &named(&["q2_k"])), None);
        let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            good[..good.len() / 2].into(),
            good.replace("0.1", "0.2"),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace(FORMAT, "welore-plan"),
        ] {
            assert_ne!(bad, good);
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.find("key", &types), None);
        }
    }
}
