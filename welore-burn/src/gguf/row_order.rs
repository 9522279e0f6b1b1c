//! Where the rows of a tensor are in both formats.

use std::borrow::Cow;

/// How llama.cpp orders the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As Hugging Face does.
    Same,
    /// In each of so many heads, the two channels that are rotated together are neighbours.
    Neighbours(usize),
    /// All queries, then all keys, then all values, where Hugging Face has one head of keys after the
    /// other: its queries, its key and its value.
    ByKind {
        /// Number of query heads.
        heads: usize,
        /// Number of heads of keys, which divides it.
        kv_heads: usize,
    },
}

impl RowOrder {
    /// Number of entries that stay together: those of a row, or one if a vector is reordered.
    pub fn columns(self, shape: &[usize]) -> usize {
        match (shape, self) {
            ([_], Self::Neighbours(_) | Self::ByKind { .. }) => 1,
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
            Self::ByKind { heads, kv_heads } => {
                let width = rows / (heads + 2 * kv_heads);
                let (head, channel) = (row / width, row % width);
                let queries = heads / kv_heads;
                let (group, place) = (head / (queries + 2), head % (queries + 2));
                let head = match place.checked_sub(queries) {
                    None => group * queries + place,
                    // Keys, then values.
                    Some(kind) => heads + kind * kv_heads + group,
                };
                head * width + channel
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of keys, each with two queries: q q k v, q q k v.
    #[test]
    fn heads_of_keys_with_their_queries_become_queries_then_keys_then_values() {
        let order = RowOrder::ByKind { heads: 4, kv_heads: 2 };
        let places: Vec<usize> = (0..8).map(|row| order.file_row(row, 8)).collect();
        assert_eq!(places, [0, 1, 4, 6, 2, 3, 5, 7]);
        let wide: Vec<usize> = (4..8).map(|row| order.file_row(row, 16)).collect();
        assert_eq!(wide, [8, 9, 12, 13]);
        let one = RowOrder::ByKind { heads: 3, kv_heads: 1 };
        assert!((0..10).all(|row| one.file_row(row, 10) == row));
    }
}
