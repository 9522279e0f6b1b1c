//! A model of the Hugging Face Hub as a directory.

use std::path::PathBuf;

use anyhow::Result;
use welore_burn::files::FileError;
use welore_burn::progress::Interrupted;

use super::error::HubError;
use super::id::HubId;
use super::listing::{Listing, Weights, is_complete};
use super::site::{Site, is_offline};
use super::transfer::{Fetched, Transfer};
use crate::format;

/// The snapshot of a model in the Hub's cache, with or without its `weights`. Missing files are
/// fetched and checked.
///
/// # Errors
///
/// [`HubError`], [`FileError::Io`] and [`Interrupted`].
pub fn fetch(id: &HubId, weights: bool) -> Result<PathBuf> {
    let site = Site::from_env()?;
    let cached = || site.cached(id).filter(|snapshot| is_complete(snapshot, weights));
    if is_offline() {
        return Ok(cached().ok_or_else(|| HubError::NotCached { id: id.to_string() })?);
    }
    let listing = match site.list(id) {
        Ok(listing) => listing,
        Err(error) if is_network(&error) => {
            let Some(snapshot) = cached() else { return Err(error) };
            tell!("warning: {error}; the cached version of {id} is used");
            return Ok(snapshot);
        }
        Err(error) => return Err(error),
    };
    let taken = take(&site, id, &listing, weights);
    if taken.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        note!("what was fetched is kept; run the same command again to continue");
    }
    taken
}

fn is_network(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(HubError::Network { .. }))
}

/// Fetches the files of a commit that the cache lacks, weights last.
fn take(site: &Site, id: &HubId, listing: &Listing, weights: bool) -> Result<PathBuf> {
    let text = id.to_string();
    let page = format!("{}/{}", site.name(), id.repository);
    // A repository without a usable model is refused before anything is fetched.
    let weights = weights.then(|| listing.weights(&text, &page)).transpose()?;
    let mut files = listing.companions(&text)?;
    let transfer = Transfer::new(site, id, &listing.commit);
    let mut fetched = Fetched::default();
    match weights {
        None => {}
        Some(Weights::Single(file)) => files.push(file),
        Some(Weights::Sharded(index)) => {
            fetched = transfer.fetch(std::slice::from_ref(&index))?;
            files.extend(listing.shards(&text, &transfer.snapshot().join(&index.name))?);
        }
    }
    let rest = transfer.fetch(&files)?;
    let (count, bytes) = (fetched.files + rest.files, fetched.bytes.saturating_add(rest.bytes));
    let snapshot = transfer.snapshot().to_path_buf();
    site.remember(id, &listing.commit)
        .map_err(|source| FileError::Io { path: snapshot.clone(), source })?;
    if count > 0 {
        let files = format::number_of(count, "file");
        note!("fetched {files} of {id}, {}", format::bytes(bytes));
    }
    Ok(snapshot)
}
