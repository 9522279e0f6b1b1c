//! Entries of a matrix that do not follow each other in a file.

/// Rows and columns of the part of a matrix that is copied in cache.
const TILE: usize = 32;

/// Where the entries of a matrix are among others, in numbers of entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// The first one.
    pub first: usize,
    /// From one row to the next.
    pub down: usize,
    /// From one column to the next.
    pub across: usize,
}

/// The bytes of the entries of a matrix `[rows, cols]`, row-major, which are there in `bytes`. An entry
/// has 2, 4 or 8 bytes, as floats do.
pub(super) fn gathered(bytes: &[u8], size: usize, steps: Steps, shape: [usize; 2]) -> Vec<u8> {
    match size {
        2 => gathered_entries::<2>(bytes, steps, shape),
        4 => gathered_entries::<4>(bytes, steps, shape),
        _ => gathered_entries::<8>(bytes, steps, shape),
    }
}

fn gathered_entries<const N: usize>(
    bytes: &[u8],
    Steps { first, down, across }: Steps,
    [rows, cols]: [usize; 2],
) -> Vec<u8> {
    let (entries, _) = bytes.as_chunks::<N>();
    let mut made = vec![0; N * rows * cols];
    let (places, _) = made.as_chunks_mut::<N>();
    if across == 1 {
        for (row, places) in places.chunks_mut(cols.max(1)).enumerate() {
            places.copy_from_slice(&entries[first + row * down..][..cols]);
        }
        return made;
    }
    for top in (0..rows).step_by(TILE) {
        for left in (0..cols).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for col in left..cols.min(left + TILE) {
                    places[row * cols + col] = entries[first + row * down + col * across];
                }
            }
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_size_are_found_wherever_they_are() {
        // Larger than what is in cache at a time, in both directions.
        let shape @ [rows, cols] = [TILE + 3, 2 * TILE + 1];
        for size in [2, 4, 8] {
            let entry = |n: usize| n.to_le_bytes().into_iter().take(size);
            let bytes: Vec<u8> = (0..3 * rows * cols).flat_map(entry).collect();
            for steps in [
                Steps { first: 0, down: cols, across: 1 },
                Steps { first: 5, down: 2 * cols, across: 1 },
                Steps { first: 1, down: 2, across: 2 * rows },
                Steps { first: 7, down: 1, across: rows },
                Steps { first: 0, down: 3 * cols, across: 3 },
            ] {
                let at = |row, col| steps.first + row * steps.down + col * steps.across;
                let want: Vec<u8> = (0..rows)
                    .flat_map(|row| (0..cols).map(move |col| at(row, col)))
                    .flat_map(entry)
                    .collect();
                assert_eq!(gathered(&bytes, size, steps, shape), want, "{size} {steps:?}");
            }
        }
        let steps = Steps { first: 0, down: 1, across: 1 };
        assert_eq!(gathered(&[], 4, steps, [0, 3]), Vec::<u8>::new());
    }
}
