//! Where results are kept between commands.

use std::env::var_os;
use std::path::PathBuf;

/// Where one kind of result is kept: in `$WELORE_CACHE`, else in `$XDG_CACHE_HOME/welore`, else in
/// `~/.cache/welore`. `None` if the environment has none of these.
pub fn cache_dir(kind: &str) -> Option<PathBuf> {
    let named = |name: &str| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("WELORE_CACHE")
        // The XDG specification says to ignore a relative path.
        .or_else(|| Some(named("XDG_CACHE_HOME").filter(|dir| dir.is_absolute())?.join("welore")))
        .or_else(|| Some(named("HOME")?.join(".cache").join("welore")))?;
    Some(cache.join(kind))
}
