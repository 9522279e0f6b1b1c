//! Checks that a file is the one that the Hub states.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use welore_burn::files::FileError;
use welore_burn::progress::Interrupted;

use crate::terminal::interrupted;

/// What identifies the content of a file on the Hub, and names it in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the content, for large files.
    Sha256(String),
    /// The name that git gives the content, for all other files.
    Git(String),
}

impl Checksum {
    /// A SHA-256 in lowercase hexadecimal.
    pub fn sha256(hex: &str) -> Option<Self> {
        is_hex(hex, 64).then(|| Self::Sha256(hex.into()))
    }

    /// A git object name in lowercase hexadecimal.
    pub fn git(hex: &str) -> Option<Self> {
        is_hex(hex, 40).then(|| Self::Git(hex.into()))
    }

    /// The checksum in hexadecimal.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }

    /// The kind of checksum, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Git(_) => "git object name",
        }
    }

    /// The checksum of the same kind that a file has, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`] and [`Interrupted`].
    pub fn of_file(&self, path: &Path) -> Result<String> {
        let io = |source| FileError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        match self {
            Self::Sha256(_) => hash(Sha256::new(), file, path),
            Self::Git(_) => hash(Sha1::new().chain_update(format!("blob {length}\0")), file, path),
        }
    }
}

/// Whether a text consists of exactly this many lowercase hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn hash<D: Digest>(mut hasher: D, mut file: File, path: &Path) -> Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        if interrupted() {
            return Err(Interrupted.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(FileError::Io { path: path.into(), source }.into()),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha256sum_and_git() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(Checksum::sha256(sha256).unwrap().of_file(&path).unwrap(), sha256);
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(Checksum::git(git).unwrap().of_file(&path).unwrap(), git);
    }

    #[test]
    fn checksums_are_hexadecimal_or_none() {
        assert_eq!(Checksum::sha256(&"../../x".repeat(10)[..64]), None);
        assert_eq!(Checksum::sha256(&"A".repeat(64)), None);
        assert_eq!(Checksum::git(&"a".repeat(64)), None);
    }
}
