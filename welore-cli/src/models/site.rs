//! The Hugging Face Hub as the environment describes it: its address, the token, and where its
//! programs keep what they fetched.
//!
//! `hf-hub` makes the requests and knows the layout of the cache. Its own download (0.5.0) is not
//! used: it verifies nothing, lets headers name the files that it writes, appends a file that is
//! sent from the beginning to the existing part, waits forever for a silent server, sends the token
//! along when it is redirected, and cannot be interrupted.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::Response;
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};

use super::error::HubError;
use super::id::HubId;
use super::listing::Listing;
use super::verify::Checksum;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long to wait for a silent server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Size in bytes of the longest list of files that is read.
const LONGEST_LISTING: u64 = 64 << 20;

/// A server, and the cache of what was fetched from it. Not `Debug`: it holds the token.
pub struct Site {
    api: Api,
    cache: Cache,
    /// The server's address, without a user name and password.
    name: String,
    token: Option<String>,
}

impl Site {
    /// The site that `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and related variables describe.
    ///
    /// # Errors
    ///
    /// [`HubError`] for an invalid URL or token, or if no home directory is known.
    pub fn from_env() -> Result<Self, HubError> {
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/');
        let name = name_of(endpoint).ok_or(HubError::Endpoint)?;
        let cache = Cache::new(cache_dir().ok_or(HubError::NoCache)?);
        let token = token()?;
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.into())
            .with_token(token.clone())
            .with_progress(false)
            .with_user_agent("welore-cli", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| HubError::Answer { site: name.clone(), reason: error.to_string() })?;
        Ok(Self { api, cache, name, token })
    }

    /// The server's address, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The list of a model's files.
    ///
    /// # Errors
    ///
    /// [`HubError`] for a refusal, no connection, or an unreadable answer.
    pub fn list(&self, id: &HubId) -> Result<Listing, HubError> {
        let request = self.api.repo(repo(id, &id.revision)).info_request();
        let response = self.send(id, request.query("blobs", "true"))?;
        let body = response.into_body().into_with_config().limit(LONGEST_LISTING);
        let bytes = body.read_to_vec().map_err(|error| self.broken(&error))?;
        Listing::from_json(&bytes)
            .map_err(|reason| HubError::Answer { site: self.name.clone(), reason })
    }

    /// Begins to fetch a file of a commit, from byte `start`.
    ///
    /// # Errors
    ///
    /// [`HubError`] for a refusal or no connection.
    pub fn open(
        &self,
        id: &HubId,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, HubError> {
        let repo = self.api.repo(repo(id, commit));
        let mut request = repo.info_request().uri(repo.url(file));
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        self.send(id, request)
    }

    fn send(
        &self,
        id: &HubId,
        request: RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, HubError> {
        let request = request
            // Sizes and positions refer to the files themselves.
            .header("Accept-Encoding", "identity")
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        let response = request.call().map_err(|error| self.broken(&error))?;
        match response.status().as_u16() {
            200..=299 => Ok(response),
            status @ (401 | 403) => {
                let page = format!("{}/{}", self.name, id.repository);
                Err(HubError::Denied { id: id.to_string(), status, page })
            }
            404 => Err(HubError::NotFound { id: id.to_string() }),
            status => Err(HubError::Status { site: self.name.clone(), status }),
        }
    }

    /// The error of a broken connection.
    pub fn broken(&self, error: &dyn std::error::Error) -> HubError {
        let mut reason = error.to_string();
        if let Some(token) = &self.token {
            reason = reason.replace(token, "(token)");
        }
        HubError::Network { site: self.name.clone(), reason }
    }

    /// The directory of a commit's files.
    pub fn snapshot(&self, id: &HubId, commit: &str) -> PathBuf {
        self.cache.repo(repo(id, commit)).pointer_path(commit)
    }

    /// The path of a file's content, which does not depend on its name or the commit.
    pub fn blob(&self, id: &HubId, checksum: &Checksum) -> PathBuf {
        self.cache.repo(repo(id, &id.revision)).blob_path(checksum.hex())
    }

    /// The snapshot of a revision in the cache, complete or not.
    pub fn cached(&self, id: &HubId) -> Option<PathBuf> {
        if id.is_commit() {
            return Some(self.snapshot(id, &id.revision));
        }
        let config = self.cache.repo(repo(id, &id.revision)).get("config.json")?;
        config.parent().map(PathBuf::from)
    }

    /// Records which commit a branch or a tag is at, for use without a network.
    ///
    /// # Errors
    ///
    /// That of the operating system.
    pub fn remember(&self, id: &HubId, commit: &str) -> std::io::Result<()> {
        match id.is_commit() {
            true => Ok(()),
            false => self.cache.repo(repo(id, &id.revision)).create_ref(commit),
        }
    }
}

fn repo(id: &HubId, revision: &str) -> Repo {
    Repo::with_revision(id.repository.clone(), RepoType::Model, revision.into())
}

/// Whether the Hub must not be asked.
pub fn is_offline() -> bool {
    let value = text("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "yes", "on"].contains(&value.as_str())
}

/// Where the Hub's programs keep models; `None` if the environment does not tell.
pub fn cache_dir() -> Option<PathBuf> {
    let dir = path("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")))?;
    std::path::absolute(dir).ok()
}

fn home() -> Option<PathBuf> {
    let default = || Some(env::home_dir()?.join(".cache").join("huggingface"));
    path("HF_HOME").or_else(default)
}

fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text(variable: &str) -> Option<String> {
    let value = env::var(variable).ok()?.trim().to_string();
    (!value.is_empty()).then_some(value)
}

/// The token in `HF_TOKEN`, else in the file that `HF_TOKEN_PATH` names, else in the file that
/// `hf auth login` writes.
fn token() -> Result<Option<String>, HubError> {
    let (token, from) = match text("HF_TOKEN") {
        Some(token) => (token, "HF_TOKEN".to_string()),
        None => {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")));
            let Some(file) = file else { return Ok(None) };
            let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
            (text.trim().to_string(), file.display().to_string())
        }
    };
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Some(token).filter(|token| !token.is_empty())),
        false => Err(HubError::Token { from }),
    }
}

/// A URL without user name and password; `None` if it is not a URL.
fn name_of(endpoint: &str) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    (["http", "https"].contains(&scheme) && !host.is_empty()).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers_keep_passwords_to_themselves() {
        assert_eq!(name_of("https://me:secret@hub.local").unwrap(), "https://hub.local");
        assert_eq!(name_of("http://127.0.0.1:80/hf").unwrap(), "http://127.0.0.1:80/hf");
        for wrong in ["hub.local", "ftp://hub.local", "https://", ""] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
    }
}
