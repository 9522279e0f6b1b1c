//! Times the two decompositions on the matrix shapes of SmolLM2-135M, with a heavy-tailed
//! spectrum.
//!
//! ```sh
//! cargo bench -p welore-burn --bench decomposition
//! ```

use std::hint::black_box;
use std::time::Instant;

use welore_burn::linalg::{Matrix, balanced_factors, singular_values};

const SHAPES: [(usize, usize); 4] = [(192, 576), (576, 576), (576, 1536), (1536, 576)];
const RUNS: usize = 3;

/// A sum of few strong and many weak random rank-1 terms.
fn heavy_tailed(rows: usize, cols: usize) -> Matrix {
    let mut state = 0x2545f4914f6cdd1du64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let mut data: Vec<f64> = (0..rows * cols).map(|_| 0.05 * random()).collect();
    for term in 1..=32 {
        let u: Vec<f64> = (0..rows).map(|_| random() / term as f64).collect();
        let v: Vec<f64> = (0..cols).map(|_| random()).collect();
        for (row, u) in data.chunks_mut(cols).zip(&u) {
            row.iter_mut().zip(&v).for_each(|(x, v)| *x += u * v);
        }
    }
    Matrix::new(rows, cols, data).expect("the entries are finite")
}

/// The fastest of a few runs, in milliseconds.
fn fastest<T>(work: impl Fn() -> T) -> f64 {
    let time = || {
        let start = Instant::now();
        black_box(work());
        1e3 * start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

fn main() {
    println!("{:>12} {:>12} {:>20}", "shape", "values, ms", "factors at n/2, ms");
    for (rows, cols) in SHAPES {
        let matrix = heavy_tailed(rows, cols);
        let values = fastest(|| singular_values(&matrix));
        let factors = fastest(|| balanced_factors(&matrix, rows.min(cols) / 2));
        println!("{:>12} {values:>12.1} {factors:>20.1}", format!("{rows}x{cols}"));
    }
}
