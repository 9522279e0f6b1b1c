//! Models of several files, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on in
//! one directory. Each file states which part it is; the first one has the metadata of the model.

use std::path::{Path, PathBuf};

use super::error::ContainerError;
use super::file::GgufFile;

/// The number of a part, from 0.
const NUMBER: &str = "split.no";
/// How many parts there are; 0 or 1 in a file that is whole.
const COUNT: &str = "split.count";
/// How many tensors all parts have together.
const TENSORS: &str = "split.tensors.count";

/// The most parts that a model has: their numbers have 16 bits.
const MOST: u64 = u16::MAX as u64;

/// What every part of a model says the same of, if it says anything.
const SHARED: [&str; 2] = ["general.architecture", "general.name"];

impl GgufFile {
    /// Opens a file. If it is a part of a model, the other parts are opened as well, which are beside
    /// it under the names that follow from its own.
    ///
    /// # Errors
    ///
    /// [`ContainerError`], for example for parts that are missing or belong to another model.
    pub fn open(path: &Path) -> Result<Self, ContainerError> {
        let given = Self::open_alone(path)?;
        let Some(place) = Place::of(&given)? else { return Ok(given) };
        let names = Names::of(path, place)?;
        let mut whole = match place.number {
            0 => given,
            _ => names.open(0)?,
        };
        for number in 1..place.count {
            let part = names.open(number)?;
            check_same_model(&whole, &part)?;
            whole.absorb(part)?;
        }
        let found = whole.tensors().len() as u64;
        match whole.integer(TENSORS)?.filter(|stated| *stated != found) {
            Some(stated) => {
                let reason = format!("is {stated}, but all parts together have {found} tensors");
                Err(whole.wrong(TENSORS, reason))
            }
            None => Ok(whole),
        }
    }
}

/// Which part of a model a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// From 0.
    number: u64,
    /// At least 2.
    count: u64,
}

impl Place {
    /// What a file states; `None` for one that is whole.
    fn of(file: &GgufFile) -> Result<Option<Self>, ContainerError> {
        let Some(count) = file.integer(COUNT)?.filter(|count| *count > 1) else { return Ok(None) };
        if count > MOST {
            return Err(file.wrong(COUNT, format!("is {count}, more than a model can have parts")));
        }
        let number = file.needed(NUMBER, file.integer(NUMBER)?)?;
        if number >= count {
            return Err(file.wrong(NUMBER, format!("is {number}, but `{COUNT}` is {count}")));
        }
        Ok(Some(Self { number, count }))
    }

    /// What the name of its file ends in.
    fn name_end(self) -> String {
        format!("-{:05}-of-{:05}.gguf", self.number + 1, self.count)
    }
}

/// The names of all parts of a model.
struct Names {
    /// One of them.
    path: PathBuf,
    /// What they have in common. It is a part of a file name, so no other directory can be in it.
    stem: String,
    count: u64,
}

impl Names {
    fn of(path: &Path, place: Place) -> Result<Self, ContainerError> {
        let end = place.name_end();
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.strip_suffix(&end)) {
            Some(stem) => Ok(Self { path: path.into(), stem: stem.into(), count: place.count }),
            None => {
                let (number, count) = (place.number + 1, place.count);
                let reason = format!(
                    "is part {number} of {count} of a model, but its name does not end in `{end}`, \
                     so the other parts cannot be found"
                );
                Err(ContainerError::Part { path: path.into(), reason })
            }
        }
    }

    /// Opens a part, and checks that it is this one.
    fn open(&self, number: u64) -> Result<GgufFile, ContainerError> {
        let count = self.count;
        let place = Place { number, count };
        let path = self.path.with_file_name(format!("{}{}", self.stem, place.name_end()));
        let number = number + 1;
        if !path.exists() {
            return Err(ContainerError::MissingPart { path, number, count });
        }
        let file = GgufFile::open_alone(&path)?;
        let reason = match Place::of(&file)? {
            Some(found) if found == place => return Ok(file),
            Some(found) => {
                format!("states that it is part {} of {}", found.number + 1, found.count)
            }
            None => "states that it is a whole model".into(),
        };
        let reason = format!("{reason}, not part {number} of {count}");
        Err(ContainerError::Part { path, reason })
    }
}

/// Refuses a part that says something else of the model than the first one.
fn check_same_model(first: &GgufFile, part: &GgufFile) -> Result<(), ContainerError> {
    let other = |key: &str, here: String, there: String| {
        let reason = format!(
            "belongs to another model: its `{key}` is {here}, but {there} in {}",
            first.path().display()
        );
        Err(ContainerError::Part { path: part.path().into(), reason })
    };
    for key in SHARED {
        if let (Some(here), Some(there)) = (part.text(key)?, first.text(key)?)
            && here != there
        {
            return other(key, format!("`{here}`"), format!("`{there}`"));
        }
    }
    match (part.integer(TENSORS)?, first.integer(TENSORS)?) {
        (Some(here), Some(there)) if here != there => {
            other(TENSORS, here.to_string(), there.to_string())
        }
        _ => Ok(()),
    }
}
