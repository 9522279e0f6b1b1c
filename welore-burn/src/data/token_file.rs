use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::rows::{Span, TokenRows};
use super::text::DataError;
use crate::files::{FileError, MappedFile, replace_file};

/// Writes rows to a token file, so that a text is tokenized only once.
///
/// The file is safetensors: `tokens` U32 `[n]`, and `rows` U64 `[rows, 3]`: the index of a row's
/// first token, its length, and the number of its tokens that are given.
///
/// # Errors
///
/// [`FileError::Io`].
pub fn write_rows(path: impl AsRef<Path>, rows: &TokenRows) -> Result<(), FileError> {
    let tokens: Vec<u8> = rows.tokens().iter().flat_map(|token| token.to_le_bytes()).collect();
    let numbers = |span: &Span| [span.start as u64, span.len as u64, span.given as u64];
    let spans: Vec<u8> =
        rows.spans().iter().flat_map(numbers).flat_map(|number| number.to_le_bytes()).collect();
    let view = |dtype, shape, bytes| {
        TensorView::new(dtype, shape, bytes).expect("the bytes are those of the shape")
    };
    let tensors = [
        ("tokens", view(Dtype::U32, vec![rows.tokens().len()], &tokens)),
        ("rows", view(Dtype::U64, vec![rows.len(), 3], &spans)),
    ];
    let bytes = safetensors::serialize(tensors, None).expect("names and shapes are fine");
    replace_file(path, &bytes)
}

/// Reads a token file.
///
/// # Errors
///
/// [`DataError::Io`], and [`DataError::TokenFile`] for any other file.
pub fn read_rows(path: impl AsRef<Path>) -> Result<TokenRows, DataError> {
    let path = path.as_ref();
    let nothing = std::io::ErrorKind::NotFound;
    let file = MappedFile::open(path)?.ok_or_else(|| FileError::io(path)(nothing.into()))?;
    parse(&file).ok_or_else(|| DataError::TokenFile { path: path.into() })
}

fn parse(bytes: &[u8]) -> Option<TokenRows> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    let (tokens, rows) = (file.tensor("tokens").ok()?, file.tensor("rows").ok()?);
    if tokens.dtype() != Dtype::U32 || rows.dtype() != Dtype::U64 || rows.shape().last() != Some(&3)
    {
        return None;
    }
    let tokens = tokens.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let numbers = rows.data().as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let numbers = numbers.map(usize::try_from).collect::<Result<Vec<_>, _>>().ok()?;
    let spans = numbers.as_chunks().0.iter().map(|[start, len, given]| Span {
        start: *start,
        len: *len,
        given: *given,
    });
    TokenRows::from_parts(tokens.collect(), spans.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let rows = TokenRows::responses([(vec![1, 2], vec![3]), (vec![4], vec![5, 6])], 8);
        write_rows(&path, &rows).unwrap();
        let read = read_rows(&path).unwrap();
        assert_eq!((read.tokens(), read.spans()), (rows.tokens(), rows.spans()));
        assert_eq!(read.digest(), rows.digest());
        let others = TokenRows::responses([(vec![1], vec![2, 3]), (vec![4], vec![5, 6])], 8);
        assert_ne!(others.digest(), rows.digest(), "the same tokens, other rows");
    }

    #[test]
    fn other_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let good = {
            write_rows(&path, &TokenRows::windows(vec![1, 2, 3, 4], 2)).unwrap();
            std::fs::read(&path).unwrap()
        };
        for bytes in [&b"no tokens"[..], &good[..good.len() - 1], &[]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(read_rows(&path), Err(DataError::TokenFile { .. })));
        }
        assert!(matches!(read_rows(dir.path().join("none")), Err(DataError::Io { .. })));
    }
}
