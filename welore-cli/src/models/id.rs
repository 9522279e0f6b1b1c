//! The ids of models on the Hugging Face Hub.

use std::fmt;
use std::path::Path;

/// The branch that an id without a revision means.
const MAIN: &str = "main";

/// `org/name` or `org/name@revision`. Its parts are safe to put into paths and URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubId {
    /// Parses what the user gave as MODEL; `None` if it is not an id by the Hub's own rules.
    pub fn parse(model: &Path) -> Option<Self> {
        let text = model.to_str()?;
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (org, name) = repository.split_once('/')?;
        let valid = is_name(org) && is_name(name) && !is_file(name) && is_revision(revision);
        valid.then(|| Self { repository: repository.into(), revision: revision.into() })
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => write!(f, "{}", self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// Whether the Hub allows this name for an organization or a model.
fn is_name(name: &str) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
    (1..=96).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.contains("--")
        && !name.contains("..")
}

/// Whether a name looks like a file's: a misspelt file name is not looked up on the Hub.
fn is_file(name: &str) -> bool {
    let ends = [".gguf", ".json", ".safetensors", ".txt"];
    ends.iter().any(|end| name.to_ascii_lowercase().ends_with(end))
}

fn is_revision(revision: &str) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_-.+".contains(char);
    revision.len() <= 255
        && revision.split('/').all(|part| {
            !part.is_empty()
                && part.chars().all(allowed)
                && !part.starts_with(['-', '.'])
                && !part.contains("..")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<HubId> {
        HubId::parse(Path::new(text))
    }

    #[test]
    fn ids_name_a_model_and_perhaps_a_revision() {
        for (text, repository, revision) in [
            ("org/name", "org/name", "main"),
            ("HuggingFaceTB/SmolLM2-135M_x.1", "HuggingFaceTB/SmolLM2-135M_x.1", "main"),
            ("org/name@v1.0", "org/name", "v1.0"),
            ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ] {
            let id = parse(text).unwrap();
            assert_eq!((id.repository.as_str(), id.revision.as_str()), (repository, revision));
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn paths_are_no_ids() {
        for text in [
            "model",
            "./model",
            "../model",
            "/model",
            "a/b/c",
            "runs/model/",
            "org/",
            "/name",
            "~/model",
            "runs/model.gguf",
            "out/spectra.json",
            "a b/c",
            "org/..",
            "org/a--b",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn revisions_never_lead_out_of_a_directory() {
        for revision in ["", "..", "../main", "a/../b", "/etc", "a//b", ".git", "a b", "a#b", "a?b"]
        {
            assert_eq!(parse(&format!("org/name@{revision}")), None, "{revision}");
        }
    }

    #[test]
    fn only_whole_hashes_are_commits() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert!(parse(&format!("org/name@{hash}")).unwrap().is_commit());
        assert!(!parse(&format!("org/name@{}", &hash[..39])).unwrap().is_commit());
        assert!(!parse("org/name").unwrap().is_commit());
    }
}
