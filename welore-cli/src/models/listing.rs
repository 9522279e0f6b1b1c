//! The files of a repository, and which of them belong to a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use welore_burn::checkpoint::PLAN_FILE;

use super::error::HubError;
use super::verify::{Checksum, is_hex};

const CONFIG: &str = "config.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What a directory of the PEFT library has in place of a `config.json`.
pub(super) const ADAPTER: &str = "adapter_config.json";

/// How the names of files end whose reading can run code.
pub(super) const PICKLED: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// Size in bytes of the longest shard index that is read.
const LONGEST_INDEX: u64 = 64 << 20;

/// Most bytes of the files that go with the weights, together. Real ones have less than a tenth.
const MOST_COMPANIONS: u64 = 1 << 30;

/// Beginnings of the names of files that belong to a model besides its weights.
pub(super) const COMPANIONS: [&str; 20] = [
    CONFIG,
    PLAN_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.",
    "spiece.model",
    "sentencepiece",
    "preprocessor_config.json",
    "processor_config.json",
    "merges.txt",
    "chat_template",
    "readme",
    "licen",
    "notice",
    "copying",
    "use_policy",
];

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The checksum of its content.
    pub checksum: Checksum,
}

/// How a model's weights are stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Weights {
    /// In one file.
    Single(RemoteFile),
    /// In the files that this index names.
    Sharded(RemoteFile),
}

/// The files of a commit. Their names are untrusted, so only plain names are kept.
#[derive(Debug)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// `None` for a file whose size or checksum the server does not state.
    files: BTreeMap<String, Option<RemoteFile>>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the Hub's answer.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(bytes)
            .map_err(|error| format!("the list of files cannot be read: {error}"))?;
        if !is_hex(&answer.sha, 40) {
            return Err("the list of files does not name a commit".into());
        }
        let plain = answer.siblings.into_iter().filter(|sibling| is_plain(&sibling.rfilename));
        let files = plain.map(|sibling| (sibling.rfilename.clone(), sibling.file())).collect();
        Ok(Self { commit: answer.sha, files })
    }

    /// Where the weights are.
    ///
    /// # Errors
    ///
    /// [`HubError`] if there are none, or none in a supported format.
    pub fn weights(&self, id: &str, page: &str) -> Result<Weights, HubError> {
        if self.files.contains_key(SINGLE) {
            return Ok(Weights::Single(self.file(id, SINGLE)?));
        }
        if self.files.contains_key(INDEX) {
            let index = self.file(id, INDEX)?;
            return match index.size > LONGEST_INDEX {
                true => Err(index.too_long(id)),
                false => Ok(Weights::Sharded(index)),
            };
        }
        let ending = |ends: &'static [&'static str]| {
            self.files.keys().filter(move |name| has_end(name, ends))
        };
        let id = id.to_string();
        if self.files.contains_key(ADAPTER) {
            return Err(HubError::Adapter { id });
        }
        if let Some(file) = ending(&[".gguf"]).next() {
            let url = format!("{page}/resolve/{}/{file}", self.commit);
            let others = ending(&[".gguf"]).count() - 1;
            return Err(HubError::Gguf { id, file: file.clone(), others, url });
        }
        if let Some(file) = ending(&PICKLED).next() {
            return Err(HubError::Pickled { id, file: file.clone() });
        }
        Err(HubError::Missing { id, file: SINGLE.into() })
    }

    /// The configuration, tokenizer, licence and other files that go with the weights.
    ///
    /// # Errors
    ///
    /// [`HubError`] if there is no configuration, or more than a model can have.
    pub fn companions(&self, id: &str) -> Result<Vec<RemoteFile>, HubError> {
        self.file(id, CONFIG)?;
        let is_companion = |name: &str| {
            let name = name.to_ascii_lowercase();
            COMPANIONS.iter().any(|start| name.starts_with(start))
        };
        let mut left = MOST_COMPANIONS;
        let names = self.files.keys().filter(|name| is_companion(name));
        let files = names.map(|name| -> Result<RemoteFile, HubError> {
            let file = self.file(id, name)?;
            left = left.checked_sub(file.size).ok_or_else(|| file.too_long(id))?;
            Ok(file)
        });
        files.collect()
    }

    /// The shards that an index names.
    ///
    /// # Errors
    ///
    /// [`HubError::Index`], and [`HubError::Missing`] for a missing shard.
    pub fn shards(&self, id: &str, index: &Path) -> Result<Vec<RemoteFile>, HubError> {
        let broken = |reason| HubError::Index { id: id.into(), reason };
        shards_of(index).map_err(broken)?.iter().map(|name| self.file(id, name)).collect()
    }

    fn file(&self, id: &str, name: &str) -> Result<RemoteFile, HubError> {
        let (id, file) = (id.to_string(), name.to_string());
        match self.files.get(name) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(HubError::Unknown { id, file }),
            None => Err(HubError::Missing { id, file }),
        }
    }
}

impl RemoteFile {
    fn too_long(&self, id: &str) -> HubError {
        HubError::TooLong { id: id.into(), file: self.name.clone(), size: self.size }
    }
}

impl Sibling {
    fn file(self) -> Option<RemoteFile> {
        let (size, checksum) = match self.lfs {
            Some(lfs) => (lfs.size, Checksum::sha256(&lfs.sha256)?),
            None => (self.size?, Checksum::git(&self.blob_id?)?),
        };
        Some(RemoteFile { name: self.rfilename, size, checksum })
    }
}

/// Whether the name of a file has one of these ends.
pub(super) fn has_end(name: &str, ends: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    ends.iter().any(|end| name.ends_with(end))
}

/// Whether a snapshot has all files that a model needs, with or without its weights.
pub fn is_complete(snapshot: &Path, weights: bool) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let sharded = || {
        let shards = shards_of(&snapshot.join(INDEX));
        shards.is_ok_and(|names| names.iter().all(|name| has(name)))
    };
    has(CONFIG) && (!weights || has(SINGLE) || sharded())
}

/// The files that a shard index names.
fn shards_of(index: &Path) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let length = index.metadata().map_err(|error| error.to_string())?.len();
    if length > LONGEST_INDEX {
        return Err(format!("{length} bytes are too many for a shard index"));
    }
    let text = std::fs::read(index).map_err(|error| error.to_string())?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| format!("not a shard index: {error}"))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let is_shard = |name: &String| is_plain(name) && name.ends_with(".safetensors");
    if let Some(name) = names.iter().find(|name| !is_shard(name)) {
        return Err(format!("names a file that is not a shard: `{}`", name.escape_debug()));
    }
    if names.is_empty() { Err("names no file".into()) } else { Ok(names) }
}

/// Whether a name is that of a file directly in the directory, on every operating system.
fn is_plain(name: &str) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_-.+".contains(char);
    (1..=200).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with('.')
        && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn listing(siblings: &Value) -> Listing {
        let answer = json!({ "sha": "a".repeat(40), "siblings": siblings, "id": "org/name" });
        Listing::from_json(answer.to_string().as_bytes()).unwrap()
    }

    fn sibling(name: &str) -> Value {
        json!({ "rfilename": name, "size": 3, "blobId": "b".repeat(40) })
    }

    #[test]
    fn names_with_directories_are_not_in_a_listing() {
        let hostile = [
            "../config.json",
            "/etc/LICENSE",
            "a/README.md",
            "..",
            "LICENSE\\x",
            "",
            "LICENSE\0.md",
            "README\u{1b}[31m.md",
            "LICENSE\n",
            "readme\u{202e}dm",
        ];
        let mut siblings: Vec<Value> = hostile.iter().map(|name| sibling(name)).collect();
        siblings.push(sibling("config.json"));
        let listing = listing(&json!(siblings));
        assert!(listing.files.keys().eq(["config.json"]), "{:?}", listing.files);
    }

    #[test]
    fn large_files_have_the_size_and_checksum_of_their_content() {
        let lfs = json!({ "sha256": "c".repeat(64), "size": 1_000_000, "pointerSize": 134 });
        let mut weights = sibling(SINGLE);
        weights["lfs"] = lfs;
        let listing = listing(&json!([weights]));
        let Weights::Single(file) = listing.weights("id", "page").unwrap() else { panic!() };
        assert_eq!(file.size, 1_000_000);
        assert_eq!(file.checksum, Checksum::Sha256("c".repeat(64)));
    }

    #[test]
    fn what_has_no_checksum_is_not_fetched() {
        for weights in [
            json!({ "rfilename": SINGLE }),
            json!({ "rfilename": SINGLE, "size": 3, "blobId": "../../../evil" }),
            json!({ "rfilename": SINGLE, "lfs": { "sha256": "../evil", "size": 3 } }),
        ] {
            let error = listing(&json!([weights])).weights("org/name", "page").unwrap_err();
            assert!(matches!(error, HubError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn files_of_absurd_sizes_are_not_fetched() {
        let sized = |name: &str, size: u64| {
            let mut file = sibling(name);
            file["size"] = json!(size);
            file
        };
        let index = listing(&json!([sized(INDEX, 1 << 40)]));
        let error = index.weights("org/name", "page").unwrap_err();
        assert!(matches!(error, HubError::TooLong { .. }), "{error}");
        for sizes in [[u64::MAX, 3], [3, u64::MAX], [1 << 29, (1 << 29) + 1]] {
            let files = [sized(CONFIG, sizes[0]), sized("tokenizer.json", sizes[1])];
            let error = listing(&json!(files)).companions("org/name").unwrap_err();
            assert!(matches!(error, HubError::TooLong { .. }), "{error}");
        }
        let files = listing(&json!([sized(CONFIG, 3), sized("tokenizer.json", 1 << 25)]));
        assert_eq!(files.companions("org/name").unwrap().len(), 2);
    }

    #[test]
    fn adapters_are_no_models() {
        for weights in ["adapter_model.safetensors", "adapter_model.bin"] {
            let listing = listing(&json!([sibling(ADAPTER), sibling(weights)]));
            let error = listing.weights("org/name", "page").unwrap_err();
            assert!(matches!(error, HubError::Adapter { .. }), "{error}");
            assert!(error.hint().unwrap().contains("from_pretrained(\"org/name\")"));
        }
        let whole = listing(&json!([sibling(ADAPTER), sibling(SINGLE)]));
        assert!(whole.weights("org/name", "page").is_ok());
    }

    #[test]
    fn answers_that_are_none_say_so() {
        for answer in ["", "<html>", "[]", r#"{"siblings":[]}"#, r#"{"sha":"..","siblings":[]}"#] {
            let error = Listing::from_json(answer.as_bytes()).unwrap_err();
            assert!(error.contains("list of files"), "{error}");
        }
    }
}
