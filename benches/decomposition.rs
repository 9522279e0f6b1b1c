//! Times the two decompositions on the matrix shapes of models, with a heavy-tailed spectrum,
//! against faer's plain singular value decomposition, and reports how exact they are.
//!
//! ```sh
//! cargo bench -p welore-burn --bench decomposition                 # SmolLM2-135M
//! cargo bench -p welore-burn --bench decomposition -- llama-2-7b   # also llama-3-8b; minutes each
//! cargo bench -p welore-burn --bench decomposition -- llama-2-7b --no-baseline
//! cargo bench -p welore-burn --bench decomposition -- layer        # 7 matrices of LLaMA-2-7B
//! ```
//!
//! `layer` decomposes the matrices of one layer as `analyze` and `compress` do: one per core.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use faer::MatRef;
use welore_burn::linalg::{Matrix, balanced_factors, singular_values};

/// Name, shapes, and number of runs; the fastest run counts.
type Model = (&'static str, &'static [(usize, usize)], usize);

const MODELS: [Model; 3] = [
    ("smollm2", &[(192, 576), (576, 576), (576, 1536), (1536, 576)], 3),
    ("llama-2-7b", &[(4096, 4096), (11008, 4096)], 1),
    ("llama-3-8b", &[(1024, 4096), (4096, 4096), (14336, 4096)], 1),
];

/// Matrices with a side of this or more keep this rank, smaller ones half of theirs.
const LARGE: usize = 1024;

/// A sum of a few strong and many weak random rank-1 terms.
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

/// The result, and the fastest of some runs in milliseconds.
fn fastest<T>(runs: usize, work: impl Fn() -> T) -> (T, f64) {
    let time = || {
        let start = Instant::now();
        let result = black_box(work());
        (result, 1e3 * start.elapsed().as_secs_f64())
    };
    let mut best = time();
    for _ in 1..runs {
        let again = time();
        if again.1 < best.1 {
            best = again;
        }
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let baseline = !args.iter().any(|arg| arg == "--no-baseline");
    let named = |name: &str| args.iter().any(|arg| arg == name);
    let none = !args.iter().any(|arg| !arg.starts_with("--"));
    if named("layer") {
        return measure_layer();
    }
    println!(
        "{:>12} {:>5} {:>10} {:>11} {:>11} {:>12} {:>12} {:>13}",
        "shape",
        "rank",
        "values, ms",
        "factors, ms",
        "plain, ms",
        "values off",
        "energy kept",
        "error ratio"
    );
    for (model, shapes, runs) in MODELS {
        if named(model) || (none && model == "smollm2") {
            shapes.iter().for_each(|shape| measure(*shape, runs, baseline));
        }
    }
}

/// One layer of LLaMA-2-7B.
const LAYER: [(usize, usize); 7] = [
    (11008, 4096),
    (11008, 4096),
    (11008, 4096),
    (4096, 4096),
    (4096, 4096),
    (4096, 4096),
    (4096, 4096),
];

fn measure_layer() {
    let matrices: Vec<Matrix> = LAYER.iter().map(|shape| heavy_tailed(shape.0, shape.1)).collect();
    let seconds = |work: &(dyn Fn(&Matrix) + Sync)| {
        let start = Instant::now();
        spread(&matrices, work);
        start.elapsed().as_secs_f64()
    };
    let values = seconds(&|matrix| {
        black_box(singular_values(matrix).expect("it converges"));
    });
    let factors = seconds(&|matrix| {
        black_box(balanced_factors(matrix, LARGE).expect("it converges"));
    });
    println!("one layer of llama-2-7b: values {values:.1} s, factors at {LARGE} {factors:.1} s");
}

/// One matrix per core, each with its own thread pool.
fn spread(matrices: &[Matrix], work: &(dyn Fn(&Matrix) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
                pool.expect("a thread").install(|| {
                    while let Some(matrix) = matrices.get(next.fetch_add(1, Ordering::Relaxed)) {
                        work(matrix);
                    }
                });
            });
        }
    });
}

fn measure((rows, cols): (usize, usize), runs: usize, baseline: bool) {
    let matrix = heavy_tailed(rows, cols);
    let full = rows.min(cols);
    let rank = if full > LARGE { LARGE } else { full / 2 };
    let (values, values_ms) = fastest(runs, || singular_values(&matrix).expect("it converges"));
    let (factors, factors_ms) =
        fastest(runs, || balanced_factors(&matrix, rank).expect("it converges"));
    let view = MatRef::from_row_major_slice(matrix.data(), rows, cols);
    let left = MatRef::from_row_major_slice(factors.left.data(), rows, rank);
    let right = MatRef::from_row_major_slice(factors.right.data(), rank, cols);
    let error = (view - left * right).norm_l2();
    // Without the baseline the values are taken as exact; they are good to 1e-8 of the largest.
    let (exact, plain_ms) = if baseline {
        let (svd, ms) = fastest(runs, || view.thin_svd().expect("it converges"));
        (svd.S().column_vector().iter().copied().collect(), ms)
    } else {
        (values.clone(), f64::NAN)
    };
    let norm = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>().sqrt();
    let gaps = values.iter().zip(&exact).map(|(a, b): (&f64, &f64)| (a - b).abs());
    let off = gaps.fold(0.0, f64::max) / exact[0];
    let (best, all) = (norm(&exact[rank..]), norm(&exact));
    println!(
        "{:>12} {rank:>5} {values_ms:>10.1} {factors_ms:>11.1} {plain_ms:>11.1} {off:>12.1e} {:>12.3} {:>13.8}",
        format!("{rows}x{cols}"),
        1.0 - (best / all).powi(2),
        error / best,
    );
}
