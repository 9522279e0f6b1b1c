use std::path::PathBuf;

/// Why a model of the Hugging Face Hub cannot be had.
///
/// Nothing here has another error as its source: those of the network are kept as text, in
/// which a token is blotted out.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The Hub has no such model, or does not say so to strangers.
    #[error("{id}: no such model directory, and no such model or revision on the Hub")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The Hub does not give the model to this user. Strangers hear this of models that do not
    /// exist as well.
    #[error("{id}: the Hub does not give it ({status}): private, gated, or not there")]
    Denied {
        /// The id.
        id: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
    },
    /// `HF_HUB_OFFLINE` is set and the cache does not have the model.
    #[error("{id}: not in the cache, or not all of it, and HF_HUB_OFFLINE is set")]
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
    /// An answer that is none.
    #[error("{site}: {reason}")]
    Answer {
        /// Who was asked.
        site: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that is not what the Hub says it is.
    #[error("{id}: {file} is damaged: its {kind} is {found}, the Hub says {expected}")]
    Mismatch {
        /// The id.
        id: String,
        /// The file.
        file: String,
        /// `sha256` or another kind of checksum.
        kind: &'static str,
        /// Of what was fetched.
        found: String,
        /// As the Hub says.
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
    /// A repository without a file that is needed.
    #[error("{id}: the repository has no {file}")]
    Missing {
        /// The id.
        id: String,
        /// What is missing.
        file: String,
    },
    /// A file of which the server does not say what it should be.
    #[error("{id}: the server tells no size and checksum of {file}")]
    Unknown {
        /// The id.
        id: String,
        /// The file.
        file: String,
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
        /// The first of them.
        file: String,
        /// How many there are besides.
        others: usize,
        /// Where it can be downloaded.
        url: String,
    },
    /// A shard index that is broken or names files that cannot be.
    #[error("{id}: model.safetensors.index.json: {reason}")]
    Index {
        /// The id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that cannot be a token.
    #[error("{from}: this is not a token of the Hub")]
    Token {
        /// Where it was found.
        from: String,
    },
    /// `HF_ENDPOINT` is not the address of a server.
    #[error("HF_ENDPOINT: not an http or https URL")]
    Endpoint,
    /// Nothing says where the cache is.
    #[error("there is no home directory for the Hub's cache")]
    NoCache,
    /// Something was to be written into the cache.
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
    /// Whether the user can mend it by giving something else.
    pub fn is_input(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NotCached { .. }
            | Self::Missing { .. }
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
                "set HF_TOKEN to a token that may read it; the licence of a gated model is \
                 accepted on {page}"
            ),
            Self::NotCached { .. } => {
                "unset HF_HUB_OFFLINE to fetch it, or give a model directory; there is none of this \
                 name here"
                    .into()
            }
            Self::Network { .. } => {
                "there is no directory of this name here, so the Hub was asked; with a connection, \
                 the same command continues where this one stopped"
                    .into()
            }
            Self::Status { .. } => "the same command may work later".into(),
            Self::Mismatch { .. } => "it was removed; the same command fetches it anew".into(),
            Self::Busy { .. } => "wait for it, then run the same command again".into(),
            Self::Pickled { .. } => {
                "pickles can run code, so they are not read; use a repository with safetensors"
                    .into()
            }
            Self::Gguf { url, .. } => format!("download {url} and give that file as MODEL"),
            Self::Endpoint => "such as https://huggingface.co, which is the default".into(),
            Self::NoCache => "set HF_HOME to a directory".into(),
            Self::InCache { .. } => "give another place to write to".into(),
            Self::Answer { .. }
            | Self::Unknown { .. }
            | Self::Missing { .. }
            | Self::Index { .. }
            | Self::Token { .. } => return None,
        })
    }

    /// Whether another try may go better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => matches!(*status, 408 | 425 | 429 | 500..),
            _ => false,
        }
    }
}
