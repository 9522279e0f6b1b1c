//! The journal of a search: what was measured, a line each.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SearchError;
use super::run::Evaluation;
use crate::artifact::Header;
use crate::files::{FileError, check_writable, read_existing, write_file};

const FORMAT: &str = "welore-search";
const VERSION: u32 = 1;

/// No real journal is longer.
const LARGEST: u64 = 64 << 20;

/// No search goes as far, and squares of larger numbers may overflow.
const FURTHEST: f64 = 1e6;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    format: String,
    version: u32,
    /// Identifies everything that the measurements depend on.
    search: String,
    policy: String,
    seed: u64,
    /// The groups of matrices, in the order of the coordinates of points.
    groups: Vec<String>,
    /// Whether a slope over depth is the last coordinate.
    slope: bool,
}

/// Another line: a plan that was measured.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Its number, from 0.
    evaluation: usize,
    /// Natural logarithms of multipliers, and the slope.
    point: Vec<f64>,
    /// Mean KL divergence from the dense model; `None` if predictions were not finite.
    kl: Option<f64>,
}

impl Head {
    pub fn new(search: String, policy: &str, seed: u64, groups: &[String], slope: bool) -> Self {
        let (format, version) = (FORMAT.into(), VERSION);
        Self { format, version, search, policy: policy.into(), seed, groups: groups.into(), slope }
    }

    fn size(&self) -> usize {
        self.groups.len() + usize::from(self.slope)
    }
}

/// Takes note of what is measured, if there is a file for it.
#[derive(Debug)]
pub(super) struct Journal(Option<(PathBuf, File)>);

impl Journal {
    /// Opens the journal of a search, or begins it, and returns what it has. A line that was cut
    /// short, and all after it, are removed.
    pub fn open(path: Option<&Path>, head: &Head) -> Result<(Self, Vec<Evaluation>), SearchError> {
        let Some(path) = path else { return Ok((Self(None), Vec::new())) };
        let history = match text_of(path)? {
            Some(text) => history(path, &text, head)?,
            None => Vec::new(),
        };
        let mut text = line_of(head);
        for (number, evaluation) in history.iter().enumerate() {
            text.extend(line_of(&Line::new(number, evaluation)));
        }
        write_file(path, &text)?;
        let file = File::options().append(true).open(path).map_err(FileError::io(path))?;
        Ok((Self(Some((path.into(), file))), history))
    }

    /// Adds a line.
    pub fn note(&mut self, number: usize, evaluation: &Evaluation) -> Result<(), FileError> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        FileError::check_sound(path)?;
        let line = line_of(&Line::new(number, evaluation));
        file.write_all(&line).map_err(FileError::io(&*path))
    }
}

impl Line {
    fn new(number: usize, evaluation: &Evaluation) -> Self {
        let Evaluation { point, kl } = evaluation.clone();
        Self { evaluation: number, point, kl }
    }

    /// Whether a search can have written this as its line of that number.
    fn is_sound(&self, number: usize, size: usize) -> bool {
        let is_first = number == 0;
        self.evaluation == number
            && self.point.len() == size
            && self.point.iter().all(|x| x.abs() <= FURTHEST)
            && self.kl.map_or(!is_first, |kl| kl.is_finite() && kl >= 0.0)
    }
}

/// Checks that a file can be the journal of a search, before anything is measured: that it is one, or
/// is empty, or can be made.
///
/// # Errors
///
/// [`SearchError::NotJournal`], [`SearchError::Version`], and errors of reading and writing.
pub fn check_journal(path: &Path) -> Result<(), SearchError> {
    check_writable(path)?;
    match text_of(path)? {
        Some(text) => head_of(path, &text).map(drop),
        None => Ok(()),
    }
}

/// What is in a file; `None` if it is not there or empty.
fn text_of(path: &Path) -> Result<Option<String>, SearchError> {
    let bytes = read_existing(path, LARGEST)?.filter(|bytes| !bytes.is_empty());
    // A line half written before a power cut may hold anything.
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn head_of(path: &Path, text: &str) -> Result<Head, SearchError> {
    let not_journal = || SearchError::NotJournal { path: path.into() };
    let first = text.lines().next().unwrap_or_default();
    let header = Header::of(first).map_err(|_| not_journal())?;
    match header.format == FORMAT {
        false => Err(not_journal()),
        true if header.version != VERSION => {
            Err(SearchError::Version { path: path.into(), version: header.version })
        }
        true => serde_json::from_str(first).map_err(|_| not_journal()),
    }
}

fn history(path: &Path, text: &str, head: &Head) -> Result<Vec<Evaluation>, SearchError> {
    if head_of(path, text)? != *head {
        return Err(SearchError::OtherSearch { path: path.into() });
    }
    let lines = text.lines().skip(1).enumerate().map_while(|(number, line)| {
        let line: Line = serde_json::from_str(line).ok()?;
        line.is_sound(number, head.size()).then_some(Evaluation { point: line.point, kl: line.kl })
    });
    Ok(lines.collect())
}

fn line_of(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("finite numbers and strings always serialize");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(search: &str) -> Head {
        Head::new(search.into(), "searched", 3, &["q_proj".into()], true)
    }

    fn evaluation(x: f64, kl: Option<f64>) -> Evaluation {
        Evaluation { point: vec![x, 0.1], kl }
    }

    #[test]
    fn what_was_noted_is_there_again_without_what_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        check_journal(&path).unwrap();
        let (mut journal, before) = Journal::open(Some(&path), &head("a")).unwrap();
        assert!(before.is_empty());
        let noted = [evaluation(0.0, Some(0.1 + 0.2)), evaluation(-1.0 / 3.0, None)];
        for (number, evaluation) in noted.iter().enumerate() {
            journal.note(number, evaluation).unwrap();
        }
        drop(journal);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"evaluation\":2,\"poi")).unwrap();
        let (_, found) = Journal::open(Some(&path), &head("a")).unwrap();
        assert_eq!(found, noted);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        check_journal(&path).unwrap();

        let other = Journal::open(Some(&path), &head("b")).unwrap_err();
        assert!(matches!(other, SearchError::OtherSearch { .. }), "{other}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole, "it is left alone");
    }

    #[test]
    fn lines_that_cannot_be_end_a_journal_and_other_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let first = String::from_utf8(line_of(&head("a"))).unwrap();
        for line in [
            r#"{"evaluation":1,"point":[0.0,0.0],"kl":0.5}"#,
            r#"{"evaluation":0,"point":[0.0],"kl":0.5}"#,
            r#"{"evaluation":0,"point":[1e300,0.0],"kl":0.5}"#,
            r#"{"evaluation":0,"point":[0.0,0.0],"kl":-0.5}"#,
            r#"{"evaluation":0,"point":[0.0,0.0],"kl":null}"#,
        ] {
            std::fs::write(&path, format!("{first}{line}\n")).unwrap();
            assert!(Journal::open(Some(&path), &head("a")).unwrap().1.is_empty(), "{line}");
        }
        for text in ["a text", "{}", r#"{"format":"welore-plan","version":3}"#] {
            std::fs::write(&path, text).unwrap();
            let error = check_journal(&path).unwrap_err();
            assert!(matches!(error, SearchError::NotJournal { .. }), "{error}");
        }
        std::fs::write(&path, r#"{"format":"welore-search","version":9}"#).unwrap();
        let error = check_journal(&path).unwrap_err();
        assert!(matches!(error, SearchError::Version { version: 9, .. }), "{error}");
    }
}
