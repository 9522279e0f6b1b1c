use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::rows::{Span, TokenRows};
use super::text::DataError;
use crate::files::{FileError, MappedFile, replace_file};

/// Writes rows to a token file, so that a text is tokenized only once.
///
/// The file is safetensors: `tokens` U32 `[n]`, and `rows` U64 `[rows, 3]`: the index of a row's
/// first token, its length, and the number of its tokens that are given. If later tokens are skipped as well, each
/// span of them is in `skipped`, U64 `[spans, 3]`: the row, and where the span begins and ends in it.
///
/// # Errors
///
/// [`FileError::Io`].
pub fn write_rows(path: impl AsRef<Path>, rows: &TokenRows) -> Result<(), FileError> {
    let tokens: Vec<u8> = rows.tokens().iter().flat_map(|token| token.to_le_bytes()).collect();
    let numbers = |span: &Span| [span.start as u64, span.len as u64, span.given as u64];
    let spans: Vec<u8> =
        rows.spans().iter().flat_map(numbers).flat_map(|number| number.to_le_bytes()).collect();
    let skipped = rows.skipped().flat_map(|(row, span)| [row, span.start, span.end]);
    let skipped: Vec<u8> = skipped.flat_map(|number| (number as u64).to_le_bytes()).collect();
    let view = |dtype, shape, bytes| {
        TensorView::new(dtype, shape, bytes).expect("the bytes are those of the shape")
    };
    let mut tensors = vec![
        ("tokens", view(Dtype::U32, vec![rows.tokens().len()], &tokens)),
        ("rows", view(Dtype::U64, vec![rows.len(), 3], &spans)),
    ];
    if !skipped.is_empty() {
        let count = skipped.len() / size_of::<[u64; 3]>();
        tensors.push(("skipped", view(Dtype::U64, vec![count, 3], &skipped)));
    }
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
    let tokens = file.tensor("tokens").ok()?;
    if tokens.dtype() != Dtype::U32 {
        return None;
    }
    let tokens = tokens.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let rows = triples(&file.tensor("rows").ok()?)?;
    let spans =
        rows.iter().map(|[start, len, given]| Span { start: *start, len: *len, given: *given });
    let skipped = file.tensor("skipped").ok();
    let skipped = skipped.map_or(Some(Vec::new()), |skipped| triples(&skipped))?;
    let skipped: Vec<_> = skipped.iter().map(|[row, start, end]| (*row, *start..*end)).collect();
    TokenRows::from_parts(tokens.collect(), spans.collect(), &skipped)
}

/// The numbers of a tensor U64 `[n, 3]`.
fn triples(tensor: &TensorView<'_>) -> Option<Vec<[usize; 3]>> {
    if tensor.dtype() != Dtype::U64 || tensor.shape().last() != Some(&3) {
        return None;
    }
    let numbers = tensor.data().as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let numbers = numbers.map(usize::try_from).collect::<Result<Vec<_>, _>>().ok()?;
    Some(numbers.as_chunks().0.to_vec())
}

#[cfg(test)]
// Rows often have a single span.
#[allow(clippy::single_range_in_vec_init)]
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
    fn skipped_tokens_come_back_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let texts = [((0..9).collect(), vec![2..4, 6..8]), ((0..4).collect(), vec![1..2, 3..4])];
        let (rows, _) = TokenRows::lessons(texts, 8);
        write_rows(&path, &rows).unwrap();
        let read = read_rows(&path).unwrap();
        assert_eq!(read.digest(), rows.digest());
        assert_eq!(read.nth(0, None).skipped, [4..6]);
        assert_eq!(read.nth(1, None).skipped, [2..3]);
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
