//! The calibration that is made by default, kept for the next command.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::files::{FileClaim, write_file};
use welore_burn::train::model_digest;

use crate::args::AmountArgs;
use crate::cache::cache_dir;
use crate::devices::Compute;
use crate::shared::calibrating::Making;

/// Raised when the same model and options would give another calibration.
const VERSION: u32 = 2;

/// What becomes of a calibration that is kept here.
const FATE: &str = "the calibration is kept in the cache, until another one is made by default for \
                    this model; --save-calibration FILE keeps it elsewhere";

/// The place of a default calibration in the cache.
#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    /// The digest of the model, with which the names of its calibrations begin.
    model: String,
    name: String,
}

impl Kept {
    /// Where the default calibration of a model is kept; `None` if there is no cache.
    pub fn of(model: &Path, amount: &AmountArgs, compute: &Compute) -> Result<Option<Self>> {
        let Some(dir) = cache_dir("calibrations") else { return Ok(None) };
        let model: String = model_digest(model)?.chars().take(32).collect();
        let (version, dtype) = (env!("CARGO_PKG_VERSION"), compute.dtype_name());
        let options = blake3::hash(format!("{VERSION} {version} {dtype} {amount:?}").as_bytes());
        let options: String = options.to_hex().chars().take(32).collect();
        let name = format!("{model}-{options}");
        Ok(Some(Self { dir, model, name }))
    }

    /// The calibration, if it was made before and is as it was written.
    pub fn find(&self) -> Option<Calibration> {
        let digest = fs::read_to_string(self.digest_file()).ok()?;
        let calibration = Calibration::open(self.file()).ok()?;
        (calibration.digest() == digest.trim()).then_some(calibration)
    }

    /// Makes it. If it cannot be kept, such as while another process makes it, it is made in
    /// `scratch`, of which `fate` tells what becomes.
    pub fn make(
        &self,
        making: &Making<'_>,
        compute: &Compute,
        scratch: &Path,
        fate: &str,
    ) -> Result<Calibration> {
        let is_there = fs::create_dir_all(&self.dir).is_ok();
        let claim = is_there.then(|| FileClaim::take(self.file()).ok()).flatten();
        let Some(_claim) = claim else { return making.make(compute, scratch, fate) };
        // It was not found, so what has its name is damaged.
        self.remove(|name| name.starts_with(&self.name));
        let calibration = making.make(compute, &self.file(), FATE)?;
        // Only now: a command that is refused or stopped must not cost what another one made.
        self.remove(|name| name.starts_with(&self.model) && !name.starts_with(&self.name));
        if let Err(error) = write_file(self.digest_file(), calibration.digest().as_bytes()) {
            tracing::warn!("{}: the calibration cannot be kept: {error}", self.dir.display());
        }
        Ok(calibration)
    }

    /// Removes the files of these names: calibrations are large, and one of a model is enough. What
    /// cannot be removed stays.
    fn remove(&self, is_chosen: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if is_chosen(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// A file with the digest of the calibration: a number with a flipped bit is still a number.
    fn digest_file(&self) -> PathBuf {
        self.dir.join(format!("{}.digest", self.name))
    }
}
