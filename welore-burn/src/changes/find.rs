use std::path::Path;

use super::error::ChangesError;
use super::record::{Digests, RECORD_FILE, Record, TENSORS_FILE};
use crate::checkpoint::{Checkpoint, ShardLayout, ShardWriter};
use crate::files::{OutputDir, write_file};
use crate::forms::{TensorSpec, parameters_in};
use crate::progress::Progress;

/// The tensors whose numbers differ between a tuned model and its base.
#[derive(Debug)]
pub struct Changes<'a> {
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
    /// Of all tensors of the base.
    digests: Digests,
    /// In the model's order.
    changed: Vec<TensorSpec>,
}

impl<'a> Changes<'a> {
    /// Compares two models with tensors of the same names, types and shapes, bit by bit, reading one
    /// tensor of each at a time. Both have to be opened in the same way, so that names are the same.
    ///
    /// # Errors
    ///
    /// [`ChangesError::Missing`] and [`ChangesError::Kind`] for a tensor that is not in both, before
    /// numbers are read. [`ChangesError::Same`] if nothing differs, [`ChangesError::Checkpoint`] for a
    /// changed number that is infinite or not a number, [`ChangesError::Interrupted`].
    pub fn between(
        base: &'a Checkpoint,
        tuned: &'a Checkpoint,
        progress: &mut dyn Progress,
    ) -> Result<Self, ChangesError> {
        let specs = specs_of_both(base, tuned)?;
        let (mut digests, mut changed) = (Digests::new(), Vec::new());
        progress.begin("comparing", specs.len());
        progress.count_in("tensors");
        for spec in specs {
            let tensor = spec.name.as_str();
            progress.step(tensor)?;
            digests.insert(spec.name.clone(), base.digest(tensor)?);
            let ((meta, new), (_, old)) = (tuned.content(tensor)?, base.content(tensor)?);
            let differs = new != old;
            if differs && meta.is_float() {
                tuned.check_finite(tensor)?;
            }
            drop((new, old));
            base.release(tensor);
            tuned.release(tensor);
            if differs {
                changed.push(spec);
            }
        }
        base.check_unchanged()?;
        tuned.check_unchanged()?;
        match changed.is_empty() {
            true => Err(ChangesError::Same { base: base.dir().into(), tuned: tuned.dir().into() }),
            false => Ok(Self { base, tuned, digests, changed }),
        }
    }

    /// The tensors that differ, in the model's order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.changed
    }

    /// Number of their parameters. Indices do not count.
    pub fn parameters(&self) -> u64 {
        let of = |spec: &TensorSpec| parameters_in(&spec.name, spec.dtype, &spec.shape);
        self.changed.iter().map(of).sum()
    }

    /// Bytes of their numbers.
    pub fn bytes(&self) -> u64 {
        self.changed.iter().map(TensorSpec::bytes).sum()
    }

    /// Writes a directory of the changes, `changes.safetensors` and `welore_changes.json`; it appears whole
    /// or not at all.
    ///
    /// # Errors
    ///
    /// [`ChangesError::File`] and [`ChangesError::Checkpoint`].
    pub fn save(&self, dir: impl AsRef<Path>, replace: bool) -> Result<(), ChangesError> {
        let output = OutputDir::create(dir, replace)?;
        self.write(output.path()).map_err(|error| error.about(&output))?;
        Ok(output.commit()?)
    }

    fn write(&self, dir: &Path) -> Result<(), ChangesError> {
        let shapes = self.base.file_shapes();
        let layout = ShardLayout::of_file(TENSORS_FILE, &self.changed, &shapes)?;
        let files = ShardWriter::new(dir, &layout)?;
        for spec in &self.changed {
            files.write(&spec.name, &self.tuned.content(&spec.name)?.1)?;
            self.tuned.release(&spec.name);
        }
        files.finish()?;
        self.tuned.check_unchanged()?;
        // Of the tensors as the file has them: some shapes differ there.
        let written = Checkpoint::open_file(dir.join(TENSORS_FILE))?;
        let digest = |spec: &TensorSpec| -> Result<(String, String), ChangesError> {
            Ok((spec.name.clone(), written.digest(&spec.name)?))
        };
        let changed = self.changed.iter().map(digest).collect::<Result<Digests, _>>()?;
        let record = Record::new(self.digests.clone(), changed);
        Ok(write_file(dir.join(RECORD_FILE), format!("{}\n", record.to_json()).as_bytes())?)
    }
}

/// The tensors of two models that have the same ones, in their order.
fn specs_of_both(base: &Checkpoint, tuned: &Checkpoint) -> Result<Vec<TensorSpec>, ChangesError> {
    let missing = |tensor: &str, has: &Checkpoint, lacks: &Checkpoint| ChangesError::Missing {
        tensor: tensor.into(),
        has: has.dir().into(),
        lacks: lacks.dir().into(),
    };
    if let Some(tensor) = tuned.names().find(|tensor| base.meta(tensor).is_none()) {
        return Err(missing(tensor, tuned, base));
    }
    let spec_in = |checkpoint: &Checkpoint, tensor: &str| -> Option<TensorSpec> {
        let meta = checkpoint.meta(tensor)?;
        let (name, dtype, shape) = (tensor.to_string(), meta.dtype, meta.shape.clone());
        Some(TensorSpec { name, dtype, shape })
    };
    let spec = |tensor: &str| -> Result<TensorSpec, ChangesError> {
        let expected = spec_in(base, tensor).ok_or_else(|| missing(tensor, tuned, base))?;
        let found = spec_in(tuned, tensor).ok_or_else(|| missing(tensor, base, tuned))?;
        if found == expected {
            return Ok(found);
        }
        let (expected, found) = (Box::new(expected), Box::new(found));
        let (base, tuned) = (base.dir().to_path_buf(), tuned.dir().to_path_buf());
        Err(ChangesError::Kind { base, expected, tuned, found })
    };
    base.names().map(spec).collect()
}
