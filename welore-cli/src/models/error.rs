use std::path::{Path, PathBuf};

use super::kind::how_to_merge;
use super::part_name;
use crate::format;

/// Why a model cannot be fetched from the Hugging Face Hub.
///
/// No variant has another error as its source: network errors are kept as text in which a token is
/// replaced.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The Hub has no such model, or does not show it without a token.
    #[error("{id}: no such model directory, and no such model or revision on the Hub")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The Hub refuses the model to this user. Without a token it answers the same for models that
    /// do not exist.
    #[error("{id}: the Hub refuses access ({status}): private, gated, or no such model")]
    Denied {
        /// The id.
        id: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
    },
    /// `HF_HUB_OFFLINE` is set and the cache does not have the model.
    #[error("{id}: not in the cache, or incomplete, and HF_HUB_OFFLINE is set")]
    NotCached {
        /// The id.
        id: String,
    },
    /// No connection, or one that broke.
    #[error("{site}: {reason}")]
    Network {
        /// Who was asked.
        site: String,
        /// What went wrong.
        reason: String,
    },
    /// A refusal that is not about the model.
    #[error("{site} answers with status {status}")]
    Status {
        /// Who was asked.
        site: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that makes no sense.
    #[error("{site}: {reason}")]
    Answer {
        /// Who was asked.
        site: String,
        /// What is wrong.
        reason: String,
    },
    /// A file with another checksum than the Hub states.
    #[error("{id}: {file} is damaged: its {kind} is {found}, but the Hub states {expected}")]
    Mismatch {
        /// The id.
        id: String,
        /// The file.
        file: String,
        /// `sha256` or another kind of checksum.
        kind: &'static str,
        /// The checksum of the fetched file.
        found: String,
        /// The checksum that the Hub states.
        expected: String,
    },
    /// Another process holds the lock of a file.
    #[error("{id}: another process is fetching {file}")]
    Busy {
        /// The id.
        id: String,
        /// The file.
        file: String,
    },
    /// A repository that lacks a required file.
    #[error("{id}: the repository has no {file}")]
    Missing {
        /// The id.
        id: String,
        /// What is missing.
        file: String,
    },
    /// A file that is listed, but that the server does not have.
    #[error("{id}: {file} is missing from the repository, although it is listed")]
    Gone {
        /// The id.
        id: String,
        /// The file.
        file: String,
    },
    /// A file that is too long to be what its name says.
    #[error("{id}: {file} is too long ({})", format::bytes(*size))]
    TooLong {
        /// The id.
        id: String,
        /// The file.
        file: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A file whose size or checksum the server does not state.
    #[error("{id}: the server does not state the size and checksum of {file}")]
    Unknown {
        /// The id.
        id: String,
        /// The file.
        file: String,
    },
    /// An adapter, which is not a whole model.
    #[error("{id}: this is a PEFT adapter, not a whole model")]
    Adapter {
        /// The id.
        id: String,
    },
    /// Weights in a format that runs code when it is read.
    #[error("{id}: there are no safetensors, only pickled weights ({file})")]
    Pickled {
        /// The id.
        id: String,
        /// One of the files.
        file: String,
    },
    /// A repository of GGUF files.
    #[error("{id}: there are no safetensors, only GGUF ({file}{})", more(*others))]
    Gguf {
        /// The id.
        id: String,
        /// The first of the files.
        file: String,
        /// The number of other GGUF files.
        others: usize,
        /// Where the first file can be downloaded.
        url: String,
    },
    /// A shard index that is broken or names impossible files.
    #[error("{id}: model.safetensors.index.json: {reason}")]
    Index {
        /// The id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that cannot be a token.
    #[error("{from}: not a valid token for the Hub")]
    Token {
        /// Where it was found.
        from: String,
    },
    /// `HF_ENDPOINT` is not the address of a server.
    #[error("HF_ENDPOINT: not an http or https URL")]
    Endpoint,
    /// The environment does not state where the cache is.
    #[error("there is no home directory for the Hub's cache")]
    NoCache,
    /// An output path lies in the cache.
    #[error("{path} is in the cache of the Hugging Face Hub", path = path.display())]
    InCache {
        /// Where it was to be written.
        path: PathBuf,
    },
}

fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" and {others} more") }
}

impl HubError {
    /// Whether the user can fix it by giving something else.
    pub fn is_input(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NotCached { .. }
            | Self::Missing { .. }
            | Self::Gone { .. }
            | Self::TooLong { .. }
            | Self::Adapter { .. }
            | Self::Pickled { .. }
            | Self::Gguf { .. }
            | Self::Index { .. }
            | Self::Token { .. }
            | Self::Endpoint
            | Self::NoCache
            | Self::InCache { .. } => true,
            Self::Network { .. }
            | Self::Status { .. }
            | Self::Answer { .. }
            | Self::Unknown { .. }
            | Self::Mismatch { .. }
            | Self::Busy { .. } => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => {
                "check the spelling; a private model needs a token in HF_TOKEN".into()
            }
            Self::Denied { page, .. } => format!(
                "set HF_TOKEN to a token that may read the model; for a gated model, accept its \
                 licence on {page}"
            ),
            Self::NotCached { .. } => {
                "unset HF_HUB_OFFLINE to fetch it, or give a model directory; there is none with \
                 this name"
                    .into()
            }
            Self::Network { .. } => {
                "there is no directory with this name, so the Hub was asked; once connected, run \
                 the same command again to continue"
                    .into()
            }
            Self::Status { .. } => "try the same command again later".into(),
            Self::Mismatch { .. } => "it was removed; run the same command again".into(),
            Self::Busy { .. } => "wait for it to finish, then run the same command again".into(),
            Self::Adapter { id } => how_to_merge(id),
            Self::Pickled { .. } => {
                "pickles can run code, so they are not read; use a repository with safetensors"
                    .into()
            }
            Self::Gguf { file, url, .. } if part_name(Path::new(file)).is_some() => {
                format!("download {url} and the other parts, and give any of these files as MODEL")
            }
            Self::Gguf { url, .. } => format!("download {url} and give that file as MODEL"),
            Self::Endpoint => "the default is https://huggingface.co".into(),
            Self::NoCache => "set HF_HOME to a directory".into(),
            Self::InCache { .. } => "give another output path".into(),
            Self::Answer { .. }
            | Self::Unknown { .. }
            | Self::Missing { .. }
            | Self::Gone { .. }
            | Self::TooLong { .. }
            | Self::Index { .. }
            | Self::Token { .. } => return None,
        })
    }

    /// Whether another try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => matches!(*status, 408 | 425 | 429 | 500..),
            _ => false,
        }
    }
}
