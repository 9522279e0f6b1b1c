use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_welore-cli");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

/// PyTorch's figures for tiny-llama.
pub fn expected() -> Value {
    let text = fs::read_to_string(Path::new(FIXTURES).join("expected.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["tiny-llama"].clone()
}

/// A folder in which the commands of one test run. It starts with `model`, a copy of tiny-llama,
/// and `story.txt`, so that commands read as a user would type them. Spectra and models of the Hub
/// are cached outside the folder. Nothing is fetched unless a test names a server.
pub struct Sandbox(TempDir, TempDir);

/// A plan without the errors of what was made by it.
pub fn without_errors(mut plan: Value) -> Value {
    plan["totals"].as_object_mut().unwrap().remove("stored_loss");
    for matrix in plan["matrices"].as_array_mut().unwrap() {
        matrix.as_object_mut().unwrap().remove("error");
    }
    plan
}

impl Sandbox {
    pub fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        sandbox.add("tiny-llama", "model");
        fs::copy(Path::new(FIXTURES).join("story.txt"), sandbox.path("story.txt")).unwrap();
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The files of cached spectra.
    pub fn cached(&self) -> Vec<PathBuf> {
        self.cached_in("spectra")
    }

    /// The files of a directory of the cache.
    pub fn cached_in(&self, kind: &str) -> Vec<PathBuf> {
        let dir = fs::read_dir(self.1.path().join(kind));
        dir.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    /// `HF_HOME`.
    pub fn hub_home(&self) -> PathBuf {
        self.1.path().join("huggingface")
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Copies a fixture.
    pub fn add(&self, fixture: &str, name: &str) {
        copy_files(&Path::new(FIXTURES).join(fixture), &self.path(name));
    }

    /// Copies a model directory of this sandbox.
    pub fn duplicate(&self, from: &str, to: &str) {
        copy_files(&self.path(from), &self.path(to));
    }

    pub fn json_file(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// The plan in a directory, without the errors of what was made by it.
    pub fn plan_of(&self, dir: &str) -> Value {
        without_errors(self.json_file(&format!("{dir}/welore_plan.json")))
    }

    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = self.json_file(name);
        edit(&mut value);
        self.write(name, value.to_string());
    }

    pub fn tensors(&self, name: &str) -> Tensors {
        let bytes = self.read(name);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.iter().map(|(name, view)| (name.to_string(), Tensor::from(view))).collect()
    }

    /// Rewrites a safetensors file with other tensors in it.
    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut Tensors)) {
        let mut tensors = self.tensors(name);
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
            (name.as_str(), view.unwrap())
        });
        self.write(name, safetensors::serialize(views, None).unwrap());
    }

    /// Every file in the folder, with a hash of its content, and every directory.
    pub fn contents(&self) -> BTreeMap<PathBuf, Option<u64>> {
        let mut found = BTreeMap::new();
        collect(self.0.path(), &mut found);
        found
    }

    /// A command line in the folder, split at spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args(line.split_whitespace());
        self.prepare(command)
    }

    /// The same in a shell that runs `setup` first, to limit what the command may use.
    #[cfg(unix)]
    pub fn command_after(&self, setup: &str, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{setup}; exec \"$0\" \"$@\"")).arg(BINARY);
        command.args(line.split_whitespace());
        self.prepare(command)
    }

    fn prepare(&self, mut command: Command) -> Command {
        // A refusal has to be one line even when backtraces are enabled.
        command.current_dir(self.0.path()).env("RUST_BACKTRACE", "1");
        command.env("WELORE_CACHE", self.1.path()).env_remove("WELORE_CONFIG");
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_ENDPOINT"] {
            command.env_remove(name);
        }
        for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("HF_HOME", self.hub_home()).env("HF_HUB_OFFLINE", "1");
        command
    }

    pub fn run(&self, line: &str) -> Outcome {
        Outcome::of(&mut self.command(line))
    }

    /// Runs a command that has to succeed.
    pub fn gives(&self, line: &str) -> Outcome {
        let outcome = self.run(line);
        assert_eq!(outcome.code, Some(0), "`{line}` says: {}", outcome.stderr);
        outcome
    }

    /// Runs a command that has to succeed and to print only JSON.
    pub fn json(&self, line: &str) -> Value {
        let stdout = self.gives(line).stdout;
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("`{line}` prints {e}: {stdout}"))
    }

    /// Runs a command that has to refuse its input and to leave everything as it was. The message
    /// has to contain `named`.
    pub fn refuses(&self, line: &str, named: &str) -> String {
        let before = self.contents();
        let message = self.run(line).complaint(2);
        assert!(message.contains(named), "`{line}` does not name `{named}`: {message}");
        assert_eq!(self.contents(), before, "`{line}` left something behind");
        message
    }

    /// Runs a command line that the parser has to refuse, with an explanation of the usage.
    pub fn misused(&self, line: &str, named: &str) {
        let before = self.contents();
        let outcome = self.run(line);
        assert_eq!(outcome.code, Some(2), "`{line}` says: {}", outcome.stderr);
        let first = outcome.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: "), "`{line}` says: {}", outcome.stderr);
        assert!(outcome.stderr.contains(named), "`{line}` says: {}", outcome.stderr);
        assert_eq!((outcome.stdout.as_str(), self.contents()), ("", before), "`{line}`");
    }
}

/// The outcome of a command.
#[derive(Debug)]
pub struct Outcome {
    /// `None` if a signal ended the command.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(command: &mut Command) -> Self {
        command.output().expect("the binary starts").into()
    }

    /// The error line of a command that failed properly: with this exit code, one line that does
    /// not repeat itself, at most one hint, and no result.
    pub fn complaint(&self, code: i32) -> String {
        let stderr = &self.stderr;
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "a result beside: {stderr}");
        // What a plan is expected to do is said before the work that may then fail.
        let mut lines = stderr.lines().peekable();
        let _ = lines.next_if(|line| line.starts_with("warning: without tuning, "));
        let error = lines.next().unwrap_or_default();
        assert!(error.starts_with("error: "), "{stderr}");
        assert!(!repeats_itself(error), "said twice: {error}");
        assert!(!error.contains(".welore-"), "names a file of its own: {error}");
        let rest: Vec<&str> = lines.collect();
        assert!(rest.len() <= 1 && rest.iter().all(|line| line.starts_with("hint: ")), "{stderr}");
        error.into()
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Waits until something has happened.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} does not appear");
        sleep(Duration::from_millis(1));
    }
}

/// Starts a command and kills it as soon as it is `inside` its work. Returns whether that hit: on a
/// busy machine it may be done before. It must not fail by itself.
#[must_use]
pub fn killed(mut command: Command, what: &str, inside: impl Fn() -> bool) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(what, || inside() || child.try_wait().unwrap().is_some());
    child.kill().unwrap();
    let status = child.wait().unwrap();
    // On Unix, only a signal leaves no code.
    let hit = if cfg!(unix) { status.code().is_none() } else { !status.success() };
    assert!(hit || status.success(), "it fails before {what} appears: {status}");
    hit
}

/// Whether a message repeats a cause at its end.
fn repeats_itself(message: &str) -> bool {
    message
        .match_indices(": ")
        .any(|(at, colon)| message[..at].ends_with(&message[at + colon.len()..]))
}

pub type Tensors = BTreeMap<String, Tensor>;

/// A stored tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn zeros(dtype: Dtype, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Self { dtype, shape: shape.to_vec(), data: vec![0; bytes] }
    }

    /// A bf16 tensor with the same numbers in f32.
    pub fn in_f32(&self) -> Self {
        assert_eq!(self.dtype, Dtype::BF16);
        let (entries, _) = self.data.as_chunks::<2>();
        let data = entries.iter().flat_map(|[low, high]| [0, 0, *low, *high]).collect();
        Self { dtype: Dtype::F32, shape: self.shape.clone(), data }
    }
}

impl From<TensorView<'_>> for Tensor {
    fn from(view: TensorView<'_>) -> Self {
        let shape = view.shape().to_vec();
        Self { dtype: view.dtype(), shape, data: view.data().to_vec() }
    }
}

/// Copies the files of a directory.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let source = entry.unwrap().path();
        // Not `fs::copy`: the copy of a read-only file could not be edited.
        let content = fs::read(&source).unwrap();
        fs::write(to.join(source.file_name().unwrap()), content).unwrap();
    }
}

fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, Option<u64>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut hasher = DefaultHasher::new();
        // A link is hashed by its target's path, which may not exist.
        if let Ok(target) = fs::read_link(&path) {
            target.hash(&mut hasher);
        } else if path.is_dir() {
            collect(&path, found);
            found.insert(path, None);
            continue;
        } else {
            fs::read(&path).unwrap().hash(&mut hasher);
        }
        found.insert(path, Some(hasher.finish()));
    }
}
