use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::error::FileError;
use super::place::kind_of;

/// Bytes of the largest file of settings that is read, such as a `config.json`.
pub const LARGEST_CONFIG: u64 = 16 << 20;

/// Bytes of the largest plan that is read.
pub const LARGEST_PLAN: u64 = 32 << 20;

/// Bytes of the largest shard index that is read.
pub const LARGEST_INDEX: u64 = 128 << 20;

/// Bytes of the largest artifact that is read: the spectra of the largest models have 300 MB.
pub const LARGEST_ARTIFACT: u64 = 512 << 20;

/// Bytes of the largest file that goes with the weights and is copied with them, such as a
/// tokenizer.
pub const LARGEST_COMPANION: u64 = 256 << 20;

/// Bytes of the largest text that is read.
pub const LARGEST_TEXT: u64 = 8 << 30;

/// Reads a whole file of at most `largest` bytes.
///
/// Pipes and devices are never opened: that may wait forever, and reading may never end.
///
/// # Errors
///
/// [`FileError::NotAFile`] for a directory, a pipe or a device, [`FileError::TooLarge`],
/// [`FileError::Io`].
pub fn read_file(path: impl AsRef<Path>, largest: u64) -> Result<Vec<u8>, FileError> {
    let path = path.as_ref();
    check_input(path, largest)?;
    read(path, largest)
}

/// The same for a file that need not exist.
///
/// # Errors
///
/// Those of [`read_file`].
pub fn read_existing(path: impl AsRef<Path>, largest: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read_file(path, largest) {
        Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// The same for a file that the user names, which may also be a pipe: `/dev/stdin`, or what a shell
/// gives for `<(command)`. Devices, which may never end, are refused.
///
/// # Errors
///
/// Those of [`read_file`].
pub fn read_input(path: impl AsRef<Path>, largest: u64) -> Result<Vec<u8>, FileError> {
    let path = path.as_ref();
    match path.metadata() {
        Ok(found) if is_pipe(&found) => read(path, largest),
        _ => read_file(path, largest),
    }
}

/// Checks that a path leads to a file of at most `largest` bytes, and not to a directory, a pipe or
/// a device. Opens nothing.
///
/// # Errors
///
/// Those of [`read_file`].
pub fn check_input(path: &Path, largest: u64) -> Result<(), FileError> {
    let found = path.metadata().map_err(FileError::io(path))?;
    match found.is_file() {
        false => Err(FileError::NotAFile { path: path.into(), what: kind_of(found.file_type()) }),
        true if found.len() > largest => Err(too_large(path, largest)),
        true => Ok(()),
    }
}

/// How the pointer of a file begins that Git LFS has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks that the content of a file is its own, and not a pointer that Git LFS left in its place.
///
/// # Errors
///
/// [`FileError::LfsPointer`].
pub(crate) fn check_fetched(path: &Path, content: &[u8]) -> Result<(), FileError> {
    match content.starts_with(LFS_POINTER) {
        true => Err(FileError::LfsPointer { path: path.into() }),
        false => Ok(()),
    }
}

fn read(path: &Path, largest: u64) -> Result<Vec<u8>, FileError> {
    let io = || FileError::io(path);
    let file = File::open(path).map_err(io())?;
    let length = file.metadata().map_err(io())?.len();
    let mut content = Vec::with_capacity(length.min(largest) as usize);
    // A pipe has no length, and a file may grow.
    file.take(largest.saturating_add(1)).read_to_end(&mut content).map_err(io())?;
    match content.len() as u64 > largest {
        true => Err(too_large(path, largest)),
        false => Ok(content),
    }
}

fn too_large(path: &Path, largest: u64) -> FileError {
    FileError::TooLarge { path: path.into(), largest }
}

#[cfg(unix)]
fn is_pipe(found: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(not(unix))]
fn is_pipe(_found: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(read_existing(&path, 4).unwrap().is_none());
        assert!(matches!(read_file(&path, 4), Err(FileError::Io { .. })));
        std::fs::write(&path, "four").unwrap();
        for read in [read_file(&path, 4), read_input(&path, 4)] {
            assert_eq!(read.unwrap(), b"four");
        }
        assert_eq!(read_existing(&path, u64::MAX).unwrap().unwrap(), b"four");
        for read in [read_file(&path, 3), read_input(&path, 3)] {
            assert!(matches!(read, Err(FileError::TooLarge { largest: 3, .. })));
        }
    }

    #[test]
    fn pointers_of_git_lfs_are_not_the_files() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 538060032\n";
        let error = check_fetched(Path::new("weights"), pointer.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "weights: a Git LFS pointer, not the file itself");
        assert!(check_fetched(Path::new("text"), b"version 1 of a text").is_ok());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, pointer).unwrap();
        let mapped = crate::files::MappedFile::open(&path);
        assert!(matches!(mapped, Err(FileError::LfsPointer { .. })));
    }

    #[test]
    fn sparse_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_file(&path, LARGEST_CONFIG).unwrap_err();
        assert!(error.to_string().ends_with("file is larger than 16.0 MiB"), "{error}");
    }

    #[test]
    fn directories_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        for read in [read_file(dir.path(), 9), read_input(dir.path(), 9)] {
            assert!(matches!(read, Err(FileError::NotAFile { .. })));
        }
        assert!(matches!(read_existing(dir.path(), 9), Err(FileError::NotAFile { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_are_read_only_as_input_and_devices_never() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        // Without the check this would wait for a writer.
        assert!(matches!(read_file(&pipe, 9), Err(FileError::NotAFile { .. })));
        for (text, fits) in [("short", true), ("much too long", false)] {
            let writer = std::thread::spawn({
                let pipe = pipe.clone();
                move || std::fs::write(pipe, text)
            });
            let read = read_input(&pipe, 9);
            assert_eq!(read.is_ok_and(|read| read == text.as_bytes()), fits);
            let _ = writer.join();
        }
        for device in ["/dev/zero", "/dev/null"] {
            assert!(matches!(read_input(device, 9), Err(FileError::NotAFile { .. })));
        }
    }
}
