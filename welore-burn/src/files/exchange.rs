use std::io;
use std::path::Path;

/// Exchanges what two names stand for, in one step. `None` if the system cannot do that.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn exchange(one: &Path, other: &Path) -> Option<io::Result<()>> {
    use nix::errno::Errno;
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    match renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP) => None,
        result => Some(result.map_err(io::Error::from)),
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn exchange(_one: &Path, _other: &Path) -> Option<io::Result<()>> {
    None
}
