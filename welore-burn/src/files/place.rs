//! What the path of an output leads to: through links, to a device, to a mount point.

use std::fs::{self, File, FileType};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf, is_separator};

use super::error::FileError;
use super::write::parent_of;

/// Linux follows no more.
const MOST_LINKS: usize = 40;

/// Where the content of a file goes.
#[derive(Debug)]
pub(super) enum FilePlace {
    /// A file that exists or can be created; no link.
    File(PathBuf),
    /// A character device.
    Device,
    /// Something that this process has open: a file, a pipe, a terminal.
    Open(File),
}

/// Follows the path of a file to write. Whether there is a directory for it is left open.
pub(super) fn find_file(path: &Path) -> Result<FilePlace, FileError> {
    if path.is_dir() {
        return Err(FileError::NotAFile { path: path.into(), what: "a directory" });
    }
    let mut end = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        if !is_name(&end) {
            break;
        }
        let found = match end.symlink_metadata() {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(FilePlace::File(end));
            }
            Err(error) => return Err(FileError::io(path)(error)),
        };
        if !found.is_symlink() {
            return existing(path, end, found.file_type());
        }
        if let Some(open) = descriptor(path, &end)? {
            return Ok(FilePlace::Open(open));
        }
        let link = fs::read_link(&end).map_err(FileError::io(path))?;
        end = parent_of(&end).join(link);
    }
    Err(FileError::Unnamed { path: path.into() })
}

/// The file that [`write_file`](super::write_file) would replace, at the end of all links. `None` if
/// there is none, or if what is there gets the bytes as they come, such as a device.
///
/// # Errors
///
/// Those of [`write_file`](super::write_file) about the path.
pub fn replaced_file(path: impl AsRef<Path>) -> Result<Option<PathBuf>, FileError> {
    Ok(match find_file(path.as_ref())? {
        FilePlace::File(end) => Some(end).filter(|end| end.symlink_metadata().is_ok()),
        FilePlace::Device | FilePlace::Open(_) => None,
    })
}

/// Whether a path can be that of a file: `..` and `name/` cannot.
fn is_name(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let is_open = bytes.last().is_some_and(|byte| is_separator(char::from(*byte)));
    path.file_name().is_some() && !is_open && !bytes.ends_with(b"/.") && !bytes.contains(&0)
}

fn existing(path: &Path, end: PathBuf, kind: FileType) -> Result<FilePlace, FileError> {
    if is_character_device(kind) {
        return Ok(FilePlace::Device);
    }
    if !kind.is_file() {
        return Err(FileError::NotAFile { path: path.into(), what: kind_of(kind) });
    }
    let is_mount = |real: PathBuf| mounts().is_some_and(|points| points.contains(&real));
    match end.canonicalize().is_ok_and(is_mount) {
        true => Err(FileError::MountPoint { path: path.into() }),
        false => Ok(FilePlace::File(end)),
    }
}

/// What a link such as `/proc/self/fd/1` stands for. It has no name that could be replaced: a pipe
/// has none at all, and a file is shared with whoever opened it.
#[cfg(target_os = "linux")]
fn descriptor(path: &Path, link: &Path) -> Result<Option<File>, FileError> {
    use std::os::fd::{BorrowedFd, RawFd};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    let number = || -> Option<RawFd> {
        let own = Path::new("/proc/self/fd").canonicalize().ok()?;
        let is_own = parent_of(link).canonicalize().ok()? == own;
        if is_own { link.file_name()?.to_str()?.parse().ok() } else { None }
    };
    let Some(number) = number() else { return Ok(None) };
    // SAFETY: its link shows that the descriptor is open. It is only duplicated, which fails if it
    // has been closed since.
    let open = unsafe { BorrowedFd::borrow_raw(number) };
    let open = open.try_clone_to_owned().map_err(FileError::io(path))?;
    let flags = fcntl(&open, FcntlArg::F_GETFL).map_err(|e| FileError::io(path)(e.into()))?;
    if OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(FileError::NotAFile { path: path.into(), what: "open for reading only" });
    }
    Ok(Some(open.into()))
}

#[cfg(not(target_os = "linux"))]
fn descriptor(_path: &Path, _link: &Path) -> Result<Option<File>, FileError> {
    Ok(None)
}

#[cfg(unix)]
fn is_character_device(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&kind)
}

#[cfg(not(unix))]
fn is_character_device(_kind: FileType) -> bool {
    false
}

/// What something is that is not a file, for messages.
pub(super) fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;

        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() {
            return "a block device";
        }
        if kind.is_char_device() {
            return "a character device";
        }
    }
    if kind.is_dir() { "a directory" } else { "not a regular file" }
}

/// The absolute path of a directory, which need not exist. Links are resolved, also before a `..`.
pub(super) fn find_dir(path: &Path) -> Result<PathBuf, FileError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(FileError::Unnamed { path: path.into() });
    }
    let mut place = PathBuf::new();
    for part in std::path::absolute(path).map_err(FileError::io(path))?.components() {
        if part == Component::ParentDir {
            place.pop();
        } else {
            place.push(part);
        }
        // What does not exist is no link.
        if let Ok(real) = place.canonicalize() {
            place = real;
        }
    }
    Ok(place)
}

/// Whether something that exists is this directory or is in it. Links are followed, and another mount
/// of a directory is that directory.
pub fn is_within(path: &Path, dir: &Path) -> bool {
    let (Ok(path), Ok(dir)) = (path.canonicalize(), dir.canonicalize()) else { return false };
    path.ancestors().any(|path| is_same_dir(path, &dir))
}

/// Whether two paths, with all links resolved, lead to the same directory.
#[cfg(unix)]
fn is_same_dir(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |path: &Path| {
        let found = path.metadata().ok().filter(fs::Metadata::is_dir)?;
        Some((found.dev(), found.ino()))
    };
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

#[cfg(not(unix))]
fn is_same_dir(one: &Path, other: &Path) -> bool {
    one == other
}

/// A mount point at a directory or somewhere in it. `dir` is canonical.
pub(super) fn mount_within(dir: &Path) -> Option<PathBuf> {
    let Some(parent) = dir.parent() else { return Some(dir.into()) };
    match mounts() {
        Some(points) => points.into_iter().find(|point| point.starts_with(dir)),
        None => are_on_two_devices(dir, parent).then(|| dir.into()),
    }
}

#[cfg(unix)]
fn are_on_two_devices(dir: &Path, parent: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    match (dir.metadata(), parent.metadata()) {
        (Ok(dir), Ok(parent)) => dir.dev() != parent.dev(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn are_on_two_devices(_dir: &Path, _parent: &Path) -> bool {
    false
}

/// All mount points, also those of directories on the same device. `None` if they are not known.
#[cfg(target_os = "linux")]
fn mounts() -> Option<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let lines = table.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Some(points.map(unescaped).collect())
}

#[cfg(not(target_os = "linux"))]
fn mounts() -> Option<Vec<PathBuf>> {
    None
}

/// A path of the kernel's tables, in which a space is `\040`.
#[cfg(target_os = "linux")]
fn unescaped(field: &[u8]) -> PathBuf {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
    let (mut path, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        path.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescaped(br"/mnt/a\040b\134c\011\012"), Path::new("/mnt/a b\\c\t\n"));
        assert_eq!(unescaped(br"/mnt/end\04"), Path::new(r"/mnt/end\04"));
        assert!(mount_within(Path::new("/")).is_some());
        let home = tempfile::tempdir().unwrap();
        assert_eq!(mount_within(&home.path().canonicalize().unwrap()), None);
    }

    #[test]
    fn dots_go_to_the_parent_of_what_a_link_leads_to() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("far/away")).unwrap();
        assert_eq!(find_dir(&home.path().join("new/../out")).unwrap(), root.join("out"));
        assert_eq!(
            find_dir(&home.path().join("far/./away/../out/")).unwrap(),
            root.join("far/out")
        );
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("far/away", root.join("link")).unwrap();
            assert_eq!(find_dir(&root.join("link")).unwrap(), root.join("far/away"));
            assert_eq!(find_dir(&root.join("link/../out")).unwrap(), root.join("far/out"));
        }
        for wrong in ["", "a\0b"] {
            let error = find_dir(Path::new(wrong)).unwrap_err();
            assert!(matches!(error, FileError::Unnamed { .. }), "{error}");
        }
    }
}
