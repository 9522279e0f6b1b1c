//! Files of one commit, from the Hub into the cache.
//!
//! A file grows in `blobs/CHECKSUM.part`, is checked, and only then gets its name. A part that a
//! broken connection, Ctrl-C or a kill left behind is continued. Paths and locks are those of
//! `hf-hub`, so that this program and others can use the cache at the same time.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use welore_burn::files::FileError;
use welore_burn::progress::Interrupted;

use super::error::HubError;
use super::id::HubId;
use super::listing::RemoteFile;
use super::reply::{GLANCE, Reply};
use super::site::Site;
use crate::terminal::{Bytes, interrupted};

/// Fruitless tries in a row before a file is given up.
const TRIES: u32 = 5;

/// A try that brings fewer bytes than this is fruitless.
const FRUIT: u64 = 1 << 14;

/// How often to try for a lock, [`GLANCE`] apart, before another process counts as fetching the
/// file.
const LOCK_PATIENCE: u32 = 40;

/// A commit of a model whose files are fetched.
pub struct Transfer<'a> {
    site: &'a Site,
    id: &'a HubId,
    commit: &'a str,
    snapshot: PathBuf,
}

/// What was not in the cache before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl<'a> Transfer<'a> {
    /// A transfer that has fetched nothing yet.
    pub fn new(site: &'a Site, id: &'a HubId, commit: &'a str) -> Self {
        Self { site, id, commit, snapshot: site.snapshot(id, commit) }
    }

    /// The directory that the files are put in.
    pub fn snapshot(&self) -> &Path {
        &self.snapshot
    }

    /// Puts files into the snapshot, in the given order. Files in the cache are not fetched.
    ///
    /// # Errors
    ///
    /// [`HubError`], [`FileError::Io`] and [`Interrupted`]. Complete files then stay, and so does
    /// the part of the current file.
    pub fn fetch(&self, files: &[RemoteFile]) -> Result<Fetched> {
        let missing = |file: &&RemoteFile| !is_whole(&self.blob(file), file.size);
        let total = files.iter().filter(missing).fold(0, |sum: u64, f| sum.saturating_add(f.size));
        let bar = Bytes::new("fetching", total);
        let mut fetched = Fetched::default();
        for file in files {
            if interrupted() {
                return Err(Interrupted.into());
            }
            if missing(&file) {
                self.fetch_one(file, &|at, item| match item {
                    Some(item) => bar.begin(item, fetched.bytes.saturating_add(at)),
                    None => bar.at(fetched.bytes.saturating_add(at)),
                })?;
                fetched.files += 1;
                fetched.bytes = fetched.bytes.saturating_add(file.size);
            }
            self.link(file)?;
        }
        Ok(fetched)
    }

    fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.site.blob(self.id, &file.checksum)
    }

    /// `tell` gets the number of bytes so far, and the name of an item that begins there.
    fn fetch_one(&self, file: &RemoteFile, tell: &dyn Fn(u64, Option<&str>)) -> Result<()> {
        let blob = self.blob(file);
        if let Some(blobs) = blob.parent() {
            fs::create_dir_all(blobs).map_err(io(blobs))?;
        }
        let _lock = self.lock(file, &blob)?;
        if is_whole(&blob, file.size) {
            // Another process was faster.
            return Ok(());
        }
        let part = blob.with_extension("part");
        let mut resumed = length(&part) > 0;
        loop {
            self.fill(file, &part, tell)?;
            tell(file.size, Some(&format!("checking {}", file.name)));
            let found = file.checksum.of_file(&part)?;
            if found == file.checksum.hex() {
                break;
            }
            fs::remove_file(&part).map_err(io(&part))?;
            if !resumed {
                return Err(self.mismatch(file, found).into());
            }
            // The existing part was not of this file: try once more, from the beginning.
            resumed = false;
        }
        fs::rename(&part, &blob).map_err(io(&blob))?;
        Ok(())
    }

    fn mismatch(&self, file: &RemoteFile, found: String) -> HubError {
        let (id, expected) = (self.id.to_string(), file.checksum.hex().to_string());
        HubError::Mismatch {
            id,
            file: file.name.clone(),
            kind: file.checksum.kind(),
            found,
            expected,
        }
    }

    /// The lock of a file's content. The system releases it when the process ends.
    fn lock(&self, file: &RemoteFile, blob: &Path) -> Result<File> {
        let path = blob.with_extension("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io(&path))?;
        for _ in 0..LOCK_PATIENCE {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => wait(GLANCE)?,
                Err(TryLockError::Error(source)) => return Err(io(&path)(source).into()),
            }
        }
        Err(HubError::Busy { id: self.id.to_string(), file: file.name.clone() }.into())
    }

    /// Completes a part to the length of the file, over as many connections as needed.
    fn fill(&self, file: &RemoteFile, part: &Path, tell: &dyn Fn(u64, Option<&str>)) -> Result<()> {
        let mut failures = 0;
        let mut most = length(part);
        loop {
            let Err(error) = self.append(file, part, tell) else { return Ok(()) };
            let now = length(part);
            if now >= most.saturating_add(FRUIT) {
                (failures, most) = (0, now);
            }
            failures += 1;
            let may_pass = error.downcast_ref::<HubError>().is_some_and(HubError::may_pass);
            if !may_pass || failures == TRIES {
                return Err(error);
            }
            wait(Duration::from_millis(250 << failures))?;
        }
    }

    /// Appends to a part what one connection delivers.
    fn append(
        &self,
        file: &RemoteFile,
        part: &Path,
        tell: &dyn Fn(u64, Option<&str>),
    ) -> Result<()> {
        let opened = File::options().create(true).truncate(false).write(true).open(part);
        let mut into = opened.map_err(io(part))?;
        let mut at = length(part);
        if at > file.size {
            into.set_len(0).map_err(io(part))?;
            at = 0;
        }
        if at < file.size {
            let mut reply = self.site.open(self.id, self.commit, &file.name, at)?;
            if at > 0 && !self.goes_on(&reply, at)? {
                into.set_len(0).map_err(io(part))?;
                at = 0;
            }
            tell(at, Some(&file.name));
            into.seek(SeekFrom::Start(at)).map_err(io(part))?;
            while at < file.size {
                let Some(piece) = self.site.piece(&mut reply)? else {
                    return Err(self.site.broken(&Short(at, file.size)).into());
                };
                // The file is not read beyond its size; the checksum is verified later.
                let left = usize::try_from(file.size - at).unwrap_or(usize::MAX);
                let piece = &piece[..piece.len().min(left)];
                into.write_all(piece).map_err(io(part))?;
                at += piece.len() as u64;
                tell(at, None);
            }
        }
        into.sync_all().map_err(io(part))?;
        Ok(())
    }

    /// Whether an answer begins at byte `at`, and not at the beginning of the file.
    fn goes_on(&self, reply: &Reply, at: u64) -> Result<bool> {
        if reply.status != 206 {
            return Ok(false);
        }
        let range = reply.headers.get("content-range").and_then(|range| range.to_str().ok());
        if range.is_some_and(|range| range.starts_with(&format!("bytes {at}-"))) {
            return Ok(true);
        }
        let reason = format!("asked to continue a file at byte {at}, it sent something else");
        Err(self.site.nonsense(reason).into())
    }

    /// Gives a blob its name in the snapshot.
    fn link(&self, file: &RemoteFile) -> Result<()> {
        let (blob, name) = (self.blob(file), self.snapshot.join(&file.name));
        if is_whole(&name, file.size)
            && let (Ok(there), Ok(meant)) = (name.canonicalize(), blob.canonicalize())
            && there == meant
        {
            return Ok(());
        }
        fs::create_dir_all(&self.snapshot).map_err(io(&self.snapshot))?;
        if let Err(error) = fs::remove_file(&name)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(io(&name)(error).into());
        }
        match point(&blob, &name) {
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => Ok(other.map_err(io(&name))?),
        }
    }
}

/// A body that ends before the file does.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke after {0} of {1} bytes")]
struct Short(u64, u64);

/// Makes `name` a link to a blob, which is in `blobs` beside `snapshots`.
#[cfg(unix)]
fn point(blob: &Path, name: &Path) -> std::io::Result<()> {
    let blob = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(blob, name)
}

/// Symbolic links need a permission that users do not have on every system.
#[cfg(not(unix))]
fn point(blob: &Path, name: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, name).or_else(|_| fs::copy(blob, name).map(drop))
}

/// Whether a file exists in its full length. A blob that this program fetched was checked before it
/// got its name; for a blob that another program put there, the length has to be enough.
fn is_whole(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.len() == size)
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.len())
}

/// Waits, and stops soon after Ctrl-C.
fn wait(time: Duration) -> Result<(), Interrupted> {
    let mut left = time;
    while !left.is_zero() {
        if interrupted() {
            return Err(Interrupted);
        }
        let now = left.min(GLANCE);
        sleep(now);
        left -= now;
    }
    Ok(())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io { path, source }
}
