//! The Hugging Face Hub as the environment describes it: its address, the token, and where its
//! programs keep what they fetched.
//!
//! `hf-hub` makes the requests and knows the layout of the cache. Its own download (0.5.0) is not
//! used: it verifies nothing, lets headers name the files that it writes, appends a file that is
//! sent from the beginning to the existing part, waits forever for a silent server, sends the token
//! along when it is redirected to another port, and cannot be interrupted.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::Uri;

use super::error::HubError;
use super::id::HubId;
use super::listing::Listing;
use super::origin::{Origin, next_address};
use super::reply::{Reply, ReplyError};
use super::verify::Checksum;
use crate::format;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long to wait for a silent server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Size in bytes of the longest list of files that is read. That of a repository of 100 000 files
/// is shorter.
const LONGEST_LISTING: usize = 32 << 20;

/// How long a list of files may take to arrive.
const LISTING_TIME: Duration = Duration::from_secs(120);

/// Most redirections in a row that are followed.
const HOPS: usize = 10;

/// A server, and the cache of what was fetched from it. Not `Debug`: it holds the token.
pub struct Site {
    api: Api,
    cache: Cache,
    /// The server's address, without a user name and password.
    name: String,
    home: Origin,
    token: Option<String>,
}

/// What a server is asked for.
struct Wish<'a> {
    id: &'a HubId,
    /// `None` for the list of files.
    file: Option<&'a str>,
    /// The first byte.
    start: u64,
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
        let address: Uri = endpoint.parse().map_err(|_| HubError::Endpoint)?;
        let home = Origin::of(&address).ok_or(HubError::Endpoint)?;
        let cache = Cache::new(cache_dir().ok_or(HubError::NoCache)?);
        let token = token()?;
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.into())
            // `ask` adds the token, because it knows where it may go.
            .with_token(None)
            .with_progress(false)
            .with_user_agent("welore-cli", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| HubError::Answer { site: name.clone(), reason: error.to_string() })?;
        Ok(Self { api, cache, name, home, token })
    }

    /// The server's address, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The list of a model's files.
    ///
    /// # Errors
    ///
    /// [`HubError`] for a refusal, no connection, or an unreadable answer; `Interrupted`.
    pub fn list(&self, id: &HubId) -> Result<Listing> {
        let request = self.api.repo(repo(id, &id.revision)).info_request();
        let url = request.uri_ref().map(|url| format!("{url}?blobs=true")).unwrap_or_default();
        let mut reply = self.send(&Wish { id, file: None, start: 0 }, &url)?;
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut reply)? {
            if bytes.len() + piece.len() > LONGEST_LISTING {
                let most = format::bytes(LONGEST_LISTING as u64);
                let reason = format!("the list of files is longer than {most}");
                return Err(self.nonsense(reason).into());
            }
            bytes.extend_from_slice(&piece);
        }
        let listing = Listing::from_json(&bytes).map_err(|reason| self.nonsense(reason))?;
        if id.is_commit() && !listing.commit.eq_ignore_ascii_case(&id.revision) {
            let reason = format!("asked for commit {}, it sent {}", id.revision, listing.commit);
            return Err(self.nonsense(reason).into());
        }
        Ok(listing)
    }

    /// Begins to fetch a file of a commit, from byte `start`.
    ///
    /// # Errors
    ///
    /// [`HubError`] for a refusal or no connection; `Interrupted`.
    pub fn open(&self, id: &HubId, commit: &str, file: &str, start: u64) -> Result<Reply> {
        let url = self.api.repo(repo(id, commit)).url(file);
        self.send(&Wish { id, file: Some(file), start }, &url)
    }

    /// The next piece of an answer; `None` once after the last one.
    ///
    /// # Errors
    ///
    /// [`HubError::Network`] for a broken connection; `Interrupted`.
    pub fn piece(&self, reply: &mut Reply) -> Result<Option<Vec<u8>>> {
        reply.piece().map_err(|error| self.failed(self.name.clone(), error))
    }

    /// Sends a request, and again to wherever the server redirects it.
    fn send(&self, wish: &Wish<'_>, url: &str) -> Result<Reply> {
        let mut address: Uri = url.parse().map_err(|_| HubError::Endpoint)?;
        let mut trusted = true;
        for _ in 0..=HOPS {
            // Once a request has left the server it stays without the token, even if another
            // server sends it back.
            trusted &= self.is_home(&address);
            let reply = self.ask(wish, &address, trusted)?;
            match reply.status.as_u16() {
                200..=299 => return Ok(reply),
                301..=303 | 307 | 308 => {
                    let next = next_address(&address, &reply.headers);
                    address = next.map_err(|reason| self.nonsense(reason))?;
                }
                status => return Err(self.refusal(wish, &address, status).into()),
            }
        }
        Err(self.nonsense(format!("it redirects more than {HOPS} times")).into())
    }

    /// Sends a request to an address, with the token if it is `trusted`.
    fn ask(&self, wish: &Wish<'_>, address: &Uri, trusted: bool) -> Result<Reply> {
        let request = self.api.repo(repo(wish.id, &wish.id.revision)).info_request();
        // Sizes and positions refer to the files themselves.
        let mut request = request.uri(address.clone()).header("Accept-Encoding", "identity");
        if wish.start > 0 {
            request = request.header("Range", format!("bytes={}-", wish.start));
        }
        if let Some(token) = self.token.as_ref().filter(|_| trusted) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request
            .config()
            .http_status_as_error(false)
            // `send` follows redirections: it compares whole origins, where ureq would send the
            // token to another port of the same host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        let most = wish.file.is_none().then_some(LISTING_TIME);
        Reply::to(request, most).map_err(|error| self.failed(self.name_at(address), error))
    }

    /// What a status that is not a success means.
    fn refusal(&self, wish: &Wish<'_>, address: &Uri, status: u16) -> HubError {
        let id = wish.id.to_string();
        match (status, wish.file) {
            // What another server refuses to a request without a token says nothing about the user.
            (401 | 403, _) if self.is_home(address) => {
                let page = format!("{}/{}", self.name, wish.id.repository);
                HubError::Denied { id, status, page }
            }
            (404, None) => HubError::NotFound { id },
            (404, Some(file)) => HubError::Gone { id, file: file.into() },
            _ => HubError::Status { site: self.name_at(address), status },
        }
    }

    fn is_home(&self, address: &Uri) -> bool {
        Origin::of(address).as_ref() == Some(&self.home)
    }

    /// The name of the server at an address, for messages.
    fn name_at(&self, address: &Uri) -> String {
        if self.is_home(address) {
            return self.name.clone();
        }
        let port = address.port().map(|port| format!(":{port}")).unwrap_or_default();
        let (scheme, host) = (address.scheme_str(), address.host());
        format!("{}://{}{port}", scheme.unwrap_or_default(), host.unwrap_or_default())
    }

    /// The error of an answer that makes no sense.
    pub fn nonsense(&self, reason: impl Into<String>) -> HubError {
        HubError::Answer { site: self.name.clone(), reason: reason.into() }
    }

    /// The error of a broken connection.
    pub fn broken(&self, error: &dyn std::error::Error) -> HubError {
        HubError::Network { site: self.name.clone(), reason: self.hide_token(error.to_string()) }
    }

    fn failed(&self, site: String, error: ReplyError) -> anyhow::Error {
        match error {
            ReplyError::Interrupted(interrupted) => interrupted.into(),
            ReplyError::Broken(reason) => {
                HubError::Network { site, reason: self.hide_token(reason) }.into()
            }
        }
    }

    fn hide_token(&self, text: String) -> String {
        match &self.token {
            Some(token) => text.replace(token, "(token)"),
            None => text,
        }
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
            return Some(self.snapshot(id, &id.revision.to_ascii_lowercase()));
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
