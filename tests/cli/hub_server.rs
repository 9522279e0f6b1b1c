//! A server that answers like the Hugging Face Hub when a model is fetched: with a list of files,
//! with the content of small files, and with redirections of large files to another host, which
//! supports ranges.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::support::Sandbox;

/// The commit that every revision is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request to the server.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// First byte asked for.
    pub start: Option<u64>,
    pub authorization: Option<String>,
}

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Fair,
    /// Breaks off the next large file after this many bytes, and is fair from then on.
    Breaking(usize),
    /// Sends half of a large file and then almost nothing.
    Slow,
    /// Flips a bit of large files.
    Lying,
    /// Always sends large files from the beginning.
    Forgetful,
    /// Refuses everything with this status.
    Refusing(u16),
    /// Redirects large files to this port of the same host.
    Elsewhere(u16),
    /// Redirects the content of large files to this port of the same host.
    Back(u16),
    /// Redirects everything to itself.
    Circular,
    /// Redirects everything to something that is no address of the web.
    Astray,
    /// Sends the list of files a byte at a time.
    Dripping,
    /// Never answers.
    Silent,
    /// Sends a list of files that does not end.
    Endless,
    /// Lists large files, but does not have them.
    Lost,
    /// Refuses large files with this status, where they are redirected to.
    Closed(u16),
    /// Sends more of a large file than there is.
    Overlong,
}

impl Mood {
    /// Where everything is redirected to, if it is.
    fn diversion<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self {
            Self::Circular => Some(path),
            Self::Astray => Some("file:///etc/passwd"),
            _ => None,
        }
    }
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    requests: Vec<Request>,
    open: bool,
    port: u16,
}

/// The server, until it is dropped. It has one model, `org/name`.
pub struct HubServer {
    state: Arc<Mutex<State>>,
    port: u16,
    listening: Option<JoinHandle<()>>,
}

impl HubServer {
    /// Serves the files of a fixture.
    pub fn of(fixture: &str) -> Self {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
        let entries = fs::read_dir(Path::new(fixtures).join(fixture)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
        Self::new(paths.map(|path| (name(&path), fs::read(&path).unwrap())).collect())
    }

    /// Serves files by their names.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { files, mood: Mood::Fair, requests: Vec::new(), open: true, port };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let listening = spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !shared.lock().unwrap().open {
                    break;
                }
                let shared = Arc::clone(&shared);
                // Some tests are about clients that have gone.
                spawn(move || drop(answer(stream, &shared)));
            }
        });
        Self { state, port, listening: Some(listening) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub fn put(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.state().files.insert(name.into(), content.into());
    }

    pub fn remove(&self, name: &str) {
        self.state().files.remove(name).unwrap();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The requests for the content of large files.
    pub fn downloads(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.path.starts_with("/content/"));
        requests
    }

    /// A command that asks this server.
    pub fn command(&self, sandbox: &Sandbox, line: &str) -> Command {
        let mut command = sandbox.command(line);
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{}", self.port));
        command.env_remove("HF_HUB_OFFLINE");
        command
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state().open = false;
        // Wakes the listener, which then sees that the server is closed.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_string();
    let mut request = Request { path, start: None, authorization: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let start = value.strip_prefix("bytes=")?.split('-').next()?;
                request.start = Some(start.parse().ok()?);
            }
            "authorization" => request.authorization = Some(value.into()),
            _ => {}
        }
    }
    Some(request)
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(request) = read_request(&stream) else { return Ok(()) };
    let (files, mood, port) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        (state.files.clone(), state.mood, state.port)
    };
    let path = request.path.split('?').next().unwrap_or_default();
    let resolve = format!("/org/name/resolve/{COMMIT}/");
    if let Mood::Refusing(status) = mood {
        return head(&mut stream, &format!("{status} No"), 0, "");
    }
    // A model that was renamed.
    let renamed = path.contains("org/old/").then(|| request.path.replace("org/old/", "org/name/"));
    if let Some(to) = renamed.as_deref().or(mood.diversion(&request.path)) {
        return head(&mut stream, "307 Elsewhere", 0, &format!("Location: {to}\r\n"));
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
        if revision == "missing" {
            return head(&mut stream, "404 Not Found", 0, "");
        }
        assert!(request.path.ends_with("?blobs=true"), "{request:?}");
        return send_list(&mut stream, &listing(&files).to_string(), mood);
    }
    if let Some((name, content)) =
        path.strip_prefix(&resolve).and_then(|name| files.get_key_value(name))
    {
        if !is_large(name) {
            head(&mut stream, "200 OK", content.len(), &format!("ETag: \"{}\"\r\n", git(content)))?;
            return stream.write_all(content);
        }
        if mood == Mood::Lost {
            return head(&mut stream, "404 Not Found", 0, "");
        }
        // By its name the server counts as another host, which must not get the token.
        let sha256 = sha256(content);
        let place = match mood {
            Mood::Elsewhere(port) => format!("127.0.0.1:{port}"),
            _ => format!("localhost:{port}"),
        };
        let headers = format!(
            "Location: http://{place}/content/{sha256}\r\nX-Repo-Commit: {COMMIT}\r\n\
             X-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {}\r\n",
            content.len()
        );
        return head(&mut stream, "302 Found", 0, &headers);
    }
    let found = path
        .strip_prefix("/content/")
        .and_then(|wanted| files.values().find(|content| sha256(content) == wanted));
    match (found, mood) {
        (Some(_), Mood::Back(port)) => {
            let location = format!("Location: http://127.0.0.1:{port}{path}\r\n");
            head(&mut stream, "302 Found", 0, &location)
        }
        (Some(_), Mood::Closed(status)) => head(&mut stream, &format!("{status} No"), 0, ""),
        (Some(content), _) => send(&mut stream, content, &request, mood, state),
        (None, _) => head(&mut stream, "404 Not Found", 0, ""),
    }
}

/// The list of files.
fn send_list(stream: &mut TcpStream, list: &str, mood: Mood) -> std::io::Result<()> {
    match mood {
        Mood::Silent => {
            // Until the client has gone.
            stream.read_exact(&mut [0])
        }
        Mood::Endless => {
            head(stream, "200 OK", 1 << 40, "")?;
            loop {
                stream.write_all(&[b' '; 1 << 16])?;
            }
        }
        Mood::Dripping => {
            head(stream, "200 OK", list.len(), "")?;
            list.as_bytes().chunks(1).try_for_each(|byte| {
                stream.write_all(byte)?;
                sleep(Duration::from_secs(2));
                Ok(())
            })
        }
        _ => {
            head(stream, "200 OK", list.len(), "")?;
            stream.write_all(list.as_bytes())
        }
    }
}

/// The content of a large file.
fn send(
    stream: &mut TcpStream,
    content: &[u8],
    request: &Request,
    mood: Mood,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut content = content.to_vec();
    let size = content.len();
    if mood == Mood::Lying {
        content[size / 3] ^= 1;
    }
    let asked = request.start.filter(|_| mood != Mood::Forgetful);
    if mood == Mood::Overlong {
        content.extend([7; 5000]);
        head(stream, "200 OK", content.len(), "")?;
        return stream.write_all(&content);
    }
    let rest = &content[asked.unwrap_or(0) as usize..];
    match asked {
        Some(start) => {
            let range = format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
            head(stream, "206 Partial Content", rest.len(), &range)?;
        }
        None => head(stream, "200 OK", rest.len(), "")?,
    }
    match mood {
        Mood::Breaking(after) => {
            state.lock().unwrap().mood = Mood::Fair;
            stream.write_all(&rest[..after.min(rest.len())])
        }
        Mood::Slow => {
            let (first, later) = rest.split_at(rest.len() / 2);
            stream.write_all(first)?;
            later.chunks(64).try_for_each(|piece| {
                sleep(Duration::from_millis(20));
                stream.write_all(piece)
            })
        }
        _ => stream.write_all(rest),
    }
}

fn head(stream: &mut TcpStream, status: &str, length: usize, more: &str) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(head.as_bytes())
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let siblings: Vec<Value> = files
        .iter()
        .map(|(name, content)| {
            let size = content.len();
            let mut sibling = json!({ "rfilename": name, "size": size, "blobId": git(content) });
            if is_large(name) {
                sibling["lfs"] =
                    json!({ "sha256": sha256(content), "size": size, "pointerSize": 134 });
            }
            sibling
        })
        .collect();
    json!({ "id": "org/name", "sha": COMMIT, "siblings": siblings })
}

/// Whether the Hub keeps such a file outside of git.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn git(content: &[u8]) -> String {
    hex(&Sha1::new()
        .chain_update(format!("blob {}\0", content.len()))
        .chain_update(content)
        .finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
