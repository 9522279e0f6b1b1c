//! Where the rows of a tensor are in both formats.

use std::borrow::Cow;

/// How llama.cpp orders the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As Hugging Face does.
    Same,
    /// In each of so many heads, the two channels that are rotated together are neighbours.
    Neighbours(usize),
    /// Of so many heads all queries, then all keys, then all values, where Hugging Face has one head
    /// after the other.
    ByKind(usize),
}

impl RowOrder {
    /// Number of entries that stay together: those of a row, or one if a vector is reordered.
    pub fn columns(self, shape: &[usize]) -> usize {
        match (shape, self) {
            ([_], Self::Neighbours(_) | Self::ByKind(_)) => 1,
            (shape, _) => shape.last().copied().unwrap_or(1),
        }
    }

    /// Where a row of the model directory is in the file.
    pub fn file_row(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Same => row,
            // Hugging Face rotates the first half of a head against the second, so the file has the
            // channels `0, d/2, 1, d/2 + 1, ...`.
            Self::Neighbours(heads) => {
                let width = rows / heads;
                let (head, channel) = (row / width, row % width);
                let (half, pair) = (channel / (width / 2), channel % (width / 2));
                head * width + 2 * pair + half
            }
            Self::ByKind(heads) => {
                let width = rows / heads / 3;
                let (head, channel) = (row / (3 * width), row % (3 * width));
                let (kind, channel) = (channel / width, channel % width);
                (kind * heads + head) * width + channel
            }
        }
    }

    /// The bytes of a tensor as the file has them. Rows stay whole, so they may be of any type.
    pub fn to_file<'a>(self, data: Cow<'a, [u8]>, shape: &[usize]) -> Cow<'a, [u8]> {
        if self == Self::Same {
            return data;
        }
        let rows = shape.iter().product::<usize>() / self.columns(shape);
        let stride = data.len() / rows;
        let mut ordered = vec![0; data.len()];
        for (row, bytes) in data.chunks_exact(stride).enumerate() {
            let start = self.file_row(row, rows) * stride;
            ordered[start..start + stride].copy_from_slice(bytes);
        }
        Cow::Owned(ordered)
    }
}
