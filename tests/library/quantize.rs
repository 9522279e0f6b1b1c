//! Matrices in llama.cpp's blocks: small, close, and closest where it counts.

mod naive;

use proptest::prelude::*;
use welore_burn::ggml::{QuantizeError, TensorType};
use welore_burn::linalg::{Feedback, LinalgError, SecondMoment, loss_of_error};
use welore_burn::named::Named;

use self::naive::naive_error;

const COLUMNS: usize = 512;

/// Squared error of normal numbers, as a share of their squares. Each more bit takes three quarters
/// of it; those of scales and minima cost less than they give.
const EXPECTED: [(TensorType, f64); 12] = [
    (TensorType::Q8_0, 2.4e-5),
    (TensorType::Q6K, 2.9e-4),
    (TensorType::Q5K, 1.25e-3),
    (TensorType::Q5_1, 1.2e-3),
    (TensorType::Q5_0, 1.75e-3),
    (TensorType::Q4K, 5.2e-3),
    (TensorType::Q4_1, 5.2e-3),
    (TensorType::Q4_0, 7.0e-3),
    (TensorType::Iq4Nl, 5.8e-3),
    (TensorType::Iq4Xs, 5.8e-3),
    (TensorType::Q3K, 2.2e-2),
    (TensorType::Q2K, 7.2e-2),
];

fn blocks() -> impl Iterator<Item = TensorType> {
    TensorType::all().iter().copied().filter(|dtype| !dtype.is_float())
}

/// Nearly normal numbers: sums of twelve even ones.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut even = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| even()).sum::<f32>() - 6.0).collect()
}

/// The entries as stored.
fn stored(dtype: TensorType, entries: &[f32], columns: usize, weights: Option<&[f64]>) -> Vec<f32> {
    let bytes = dtype.quantize(entries, columns, weights).unwrap();
    let rows = entries.len() / columns;
    assert_eq!(bytes.len(), rows * dtype.row_bytes(columns).unwrap(), "{dtype:?}");
    dtype.dequantize_rows(&bytes, columns).unwrap()
}

/// Squared error, each column with its weight.
fn error(entries: &[f32], stored: &[f32], weights: &[f64]) -> f64 {
    assert_eq!(entries.len(), stored.len());
    let weights = weights.iter().cycle();
    let squares = entries.iter().zip(stored).zip(weights);
    squares.map(|((x, y), w)| *w * f64::from(x - y).powi(2)).sum()
}

fn norm(entries: &[f32]) -> f64 {
    entries.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// Neighbouring inputs that are correlated.
fn correlated(size: usize, rho: f32) -> SecondMoment {
    let row = |i: usize| (0..=i).map(move |j| rho.powi((i - j) as i32));
    let packed: Vec<f32> = (0..size).flat_map(row).collect();
    SecondMoment::from_packed(size, &packed, 1).unwrap()
}

#[test]
fn every_type_is_as_close_as_its_bits_allow() {
    let entries: Vec<f32> = normal(32 * COLUMNS, 1).iter().map(|x| x * 0.05).collect();
    assert_eq!(blocks().count(), EXPECTED.len());
    for (dtype, most) in EXPECTED {
        let share =
            error(&entries, &stored(dtype, &entries, COLUMNS, None), &[1.0]) / norm(&entries);
        assert!((0.5 * most..most).contains(&share), "{dtype:?}: {share:e}");
    }
}

#[test]
fn no_block_is_worse_than_with_a_scale_from_its_largest_entry() {
    let mut entries = normal(16 * COLUMNS, 2);
    // Rows of one sign, with outliers, of few values.
    entries[..COLUMNS].iter_mut().for_each(|x| *x = x.abs() + 0.1);
    entries[COLUMNS..2 * COLUMNS].iter_mut().for_each(|x| *x = -x.abs());
    entries[2 * COLUMNS..4 * COLUMNS].iter_mut().step_by(37).for_each(|x| *x *= 100.0);
    entries[4 * COLUMNS..5 * COLUMNS].iter_mut().for_each(|x| *x = x.round());
    for dtype in blocks() {
        let all = stored(dtype, &entries, COLUMNS, None);
        let len = dtype.block_len();
        for (at, block) in entries.chunks_exact(len).enumerate() {
            let (own, simple) =
                (error(block, &all[at * len..][..len], &[1.0]), naive_error(dtype, block));
            // The f16 of another scale may be a luckier one.
            assert!(own <= 1.01 * simple + 1e-12 * norm(block), "{dtype:?} {at}: {own} {simple}");
        }
    }
}

#[test]
fn what_is_stored_is_stored_again() {
    let entries = normal(16 * COLUMNS, 3);
    for dtype in blocks() {
        let once = stored(dtype, &entries, COLUMNS, None);
        let twice = stored(dtype, &once, COLUMNS, None);
        let (first, second) = (error(&entries, &once, &[1.0]), error(&once, &twice, &[1.0]));
        // Where parts have minima, levels that a part does not use leave them open.
        let most = match dtype {
            TensorType::Q4K | TensorType::Q5K | TensorType::Q2K => 0.02 * first,
            _ => 1e-9 * norm(&entries),
        };
        assert!(second <= most, "{dtype:?}: {second} after {first}");
    }
}

#[test]
fn columns_that_count_more_are_closer() {
    let entries = normal(16 * COLUMNS, 4);
    let weights: Vec<f64> = normal(COLUMNS, 5).iter().map(|x| f64::from(*x).exp()).collect();
    for dtype in blocks() {
        let of = |given| error(&entries, &stored(dtype, &entries, COLUMNS, given), &weights);
        let (plain, weighted) = (of(None), of(Some(&weights[..])));
        assert!(weighted < 0.95 * plain, "{dtype:?}: {weighted} {plain}");
        // A common factor is none.
        let tiny: Vec<f64> = weights.iter().map(|w| w * 2f64.powi(-60)).collect();
        assert_eq!(of(Some(&tiny[..])), weighted, "{dtype:?}");
        // Without any inputs, all columns count the same.
        assert_eq!(of(Some(&[0.0; COLUMNS][..])), plain, "{dtype:?}");
    }
}

#[test]
fn feedback_lowers_the_error_of_outputs_of_correlated_inputs() {
    let (rows, entries) = (16, normal(16 * COLUMNS, 6));
    let inputs = correlated(COLUMNS, 0.9);
    let feedback = Feedback::new(&inputs, 0.01).unwrap();
    let loss = |stored: Vec<f32>| {
        let error: Vec<f32> = entries.iter().zip(&stored).map(|(x, y)| x - y).collect();
        assert_eq!(error.len(), rows * COLUMNS);
        loss_of_error(&error, &inputs, None).unwrap()
    };
    for dtype in blocks() {
        let plain = loss(stored(dtype, &entries, COLUMNS, Some(&inputs.squares())));
        let bytes = dtype.quantize_with_feedback(&entries, COLUMNS, &feedback, None).unwrap();
        let fed = loss(dtype.dequantize_rows(&bytes, COLUMNS).unwrap());
        assert!(fed < 0.7 * plain, "{dtype:?}: {fed} for {plain}");
    }
}

#[test]
fn without_correlation_there_is_nothing_to_feed_back() {
    let entries = normal(4 * COLUMNS, 7);
    let feedback = Feedback::new(&correlated(COLUMNS, 0.0), 0.01).unwrap();
    for dtype in TensorType::all() {
        let fed = dtype.quantize_with_feedback(&entries, COLUMNS, &feedback, None).unwrap();
        assert_eq!(fed, dtype.quantize(&entries, COLUMNS, None).unwrap(), "{dtype:?}");
    }
}

#[test]
fn loss_is_the_sum_of_what_was_rounded_away_at_each_turn() {
    let (size, rows, width) = (24, 3, 8);
    let inputs = correlated(size, 0.8);
    let feedback = Feedback::new(&inputs, 0.0).unwrap();
    let entries = normal(rows * size, 8);
    let (mut rounded, mut paid) = (entries.clone(), 0.0f64);
    feedback.pass(&mut rounded, width, |_, from, block| {
        assert_eq!(block.entries().len(), width);
        block.round(|at, entry| {
            paid += feedback.weights()[from + at] * f64::from(entry - entry.round()).powi(2);
            entry.round()
        });
    });
    assert!(rounded.iter().all(|x| *x == x.round()), "the matrix has what entries became");
    let error: Vec<f32> = entries.iter().zip(&rounded).map(|(x, y)| x - y).collect();
    let loss = 2.0 * loss_of_error(&error, &inputs, None).unwrap();
    assert!((paid - loss).abs() < 1e-4 * loss, "{paid} {loss}");
}

#[test]
fn rows_make_up_for_each_other_where_the_gradients_of_outputs_are_correlated() {
    // More rows than are shifted at once.
    let rows = 72;
    let entries = normal(rows * COLUMNS, 10);
    let [inputs, outputs] = [correlated(COLUMNS, 0.6), correlated(rows, 0.9)];
    let [columns, both] = [&inputs, &outputs].map(|of| Feedback::new(of, 0.01).unwrap());
    let alone = Feedback::new(&correlated(rows, 0.0), 0.01).unwrap();
    let loss = |bytes: &[u8], dtype: TensorType| {
        let stored = dtype.dequantize_rows(bytes, COLUMNS).unwrap();
        let error: Vec<f32> = entries.iter().zip(&stored).map(|(x, y)| x - y).collect();
        loss_of_error(&error, &inputs, Some(&outputs)).unwrap()
    };
    for dtype in blocks() {
        let stored = |outputs: Option<&Feedback>| {
            dtype.quantize_with_feedback(&entries, COLUMNS, &columns, outputs).unwrap()
        };
        let [one, two] = [None, Some(&both)].map(|outputs| loss(&stored(outputs), dtype));
        assert!(two < 0.6 * one, "{dtype:?}: {two} for {one}");
        assert_eq!(stored(Some(&alone)), stored(None), "{dtype:?}: nothing to make up for");
    }
    let wrong =
        TensorType::Q4_0.quantize_with_feedback(&entries, COLUMNS, &columns, Some(&columns));
    assert_eq!(wrong, Err(QuantizeError::Outputs { given: COLUMNS, rows }));
}

#[test]
fn loss_is_the_sum_over_rows_and_columns_of_what_was_rounded_away_at_each_turn() {
    let (size, rows, width) = (24, 70, 8);
    let [inputs, outputs] = [correlated(size, 0.8), correlated(rows, -0.7)];
    let [columns, between] = [&inputs, &outputs].map(|of| Feedback::new(of, 0.0).unwrap());
    let entries = normal(rows * size, 11);
    let (mut rounded, mut paid) = (entries.clone(), 0.0f64);
    columns.pass_both(
        &between,
        &mut rounded,
        width,
        |from, block| {
            assert_eq!(block.len(), width);
            from
        },
        |row, from, block| {
            let weight = |at: usize| columns.weights()[from + at] * between.weights()[row];
            block.round(|at, entry| {
                paid += weight(at) * f64::from(entry - entry.round()).powi(2);
                entry.round()
            });
        },
    );
    assert!(rounded.iter().all(|x| *x == x.round()), "the matrix has what entries became");
    let error: Vec<f32> = entries.iter().zip(&rounded).map(|(x, y)| x - y).collect();
    let loss = 2.0 * loss_of_error(&error, &inputs, Some(&outputs)).unwrap();
    assert!((paid - loss).abs() < 1e-4 * loss, "{paid} {loss}");
}

#[test]
fn loss_of_an_error_weighs_inputs_and_outputs() {
    let (inputs, outputs) = (correlated(3, 0.5), correlated(2, -0.25));
    let error = [1.0, -2.0, 0.5, 3.0, 0.0, -1.0];
    let c = |i: usize, j: usize| 0.5f64.powi(i.abs_diff(j) as i32);
    let of_rows = |a: usize, b: usize| -> f64 {
        let pairs = (0..9).map(|at| (at / 3, at % 3));
        pairs.map(|(i, j)| f64::from(error[3 * a + i] * error[3 * b + j]) * c(i, j)).sum()
    };
    let plain = (of_rows(0, 0) + of_rows(1, 1)) / 2.0;
    let both = plain - 0.25 * of_rows(0, 1);
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
    close(loss_of_error(&error, &inputs, None).unwrap(), plain);
    close(loss_of_error(&error, &inputs, Some(&outputs)).unwrap(), both);
    let wrong = loss_of_error(&error, &inputs, Some(&inputs));
    assert_eq!(wrong, Err(LinalgError::Inner { left: 3, right: 2 }));
    let wrong = loss_of_error(&error[..5], &inputs, None);
    assert_eq!(wrong, Err(LinalgError::Length { rows: 1, cols: 3, len: 5 }));
}

#[test]
fn rows_that_are_special_are_no_special_case() {
    for dtype in blocks() {
        let of = |entries: Vec<f32>| stored(dtype, &entries, 256, None);
        assert!(of(vec![0.0; 256]).iter().all(|x| *x == 0.0), "{dtype:?}");
        // Smaller than half the smallest f16.
        assert!(of(vec![1e-40; 256]).iter().all(|x| *x == 0.0), "{dtype:?}");
        assert!(of(vec![-1e-9; 256]).iter().all(|x| *x == 0.0), "{dtype:?}");
        for constant in [0.1, -0.1, 3000.0, -3000.0] {
            let worst =
                of(vec![constant; 256]).iter().map(|x| (x - constant).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3 * constant.abs(), "{dtype:?}: {worst} of {constant}");
        }
        let mut single = vec![0.0; 256];
        single[77] = -5.0;
        let got = of(single);
        assert!((got[77] + 5.0).abs() < 0.02, "{dtype:?}: {}", got[77]);
        // A minimum and a scale may not cancel exactly, and uneven levels lack zero.
        let mut others = got.iter().enumerate().filter(|(at, _)| *at != 77);
        assert!(others.all(|(_, x)| x.abs() < 0.05), "{dtype:?}");
    }
}

#[test]
fn floats_are_rounded_once() {
    let entries = [1.0 + 2f32.powi(-8), 1.0 + 2f32.powi(-11), -0.0, 1e-3];
    assert_eq!(stored(TensorType::F32, &entries, 2, None), entries);
    assert_eq!(stored(TensorType::Bf16, &entries, 2, None)[..2], [1.0, 1.0]);
    assert_eq!(stored(TensorType::F16, &entries, 4, None)[..2], [entries[0], 1.0]);
}

#[test]
fn what_cannot_be_stored_is_refused_with_its_place() {
    let mut entries = vec![0.5; 2 * 256];
    for dtype in TensorType::all().iter().copied() {
        for value in [f32::NAN, f32::INFINITY] {
            entries[256 + 40] = value;
            let refused = dtype.quantize(&entries, 256, None).unwrap_err();
            let QuantizeError::NotFinite { row: 1, column: 40, .. } = refused else {
                panic!("{dtype:?}: {refused:?}")
            };
        }
        entries[256 + 40] = 1e9;
        let large = dtype.quantize(&entries, 256, None);
        let overflow = QuantizeError::Overflow { row: 1, column: 40, value: 1e9, dtype };
        match dtype {
            TensorType::F32 | TensorType::Bf16 => assert!(large.is_ok()),
            _ => assert_eq!(large, Err(overflow), "{dtype:?}"),
        }
        entries[256 + 40] = 0.5;
        let odd = dtype.quantize(&entries[..40], 20, None);
        match dtype.is_float() {
            true => assert!(odd.is_ok()),
            false => assert_eq!(odd, Err(QuantizeError::Rows { columns: 20, dtype })),
        }
        assert_eq!(dtype.quantize(&[], 0, None), Ok(Vec::new()));
    }
    let given = |len: usize, weights: &[f64]| {
        TensorType::Q4_0.quantize(&entries[..len], 32, Some(weights)).unwrap_err()
    };
    assert_eq!(given(40, &[1.0; 32]), QuantizeError::Length { len: 40, row: 32 });
    assert_eq!(given(64, &[1.0; 31]), QuantizeError::Weights { given: 31, columns: 32 });
    let mut weights = [1.0; 32];
    weights[3] = -1.0;
    assert_eq!(given(64, &weights), QuantizeError::Weight { column: 3, value: -1.0 });
    let short = TensorType::Q4_0.dequantize_rows(&[0; 17], 32);
    assert_eq!(short, Err(QuantizeError::Length { len: 17, row: 18 }));
}

#[test]
fn large_entries_are_stored_as_long_as_scales_are_f16() {
    for dtype in blocks() {
        let entries: Vec<f32> = normal(256, 9).iter().map(|x| x * 10_000.0).collect();
        let share = error(&entries, &stored(dtype, &entries, 256, None), &[1.0]) / norm(&entries);
        assert!(share < 0.12, "{dtype:?}: {share}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, columns) = (130, 256);
    let entries = normal(rows * columns, 10);
    let feedback = Feedback::new(&correlated(columns, 0.7), 0.01).unwrap();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let fed = TensorType::Q4K.quantize_with_feedback(&entries, columns, &feedback, None);
            (TensorType::Q4_0.quantize(&entries, columns, None).unwrap(), fed.unwrap())
        })
    };
    assert!(with(1) == with(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_row_comes_back_close(
        which in 0usize..12, exponent in -8i32..8, seed in any::<u64>(), power in 1i32..4
    ) {
        let dtype = EXPECTED[which].0;
        let scale = 2f32.powi(exponent);
        // The higher the power, the more outliers.
        let entries: Vec<f32> = normal(256, seed).iter().map(|x| x.powi(power) * scale).collect();
        let bytes = dtype.quantize(&entries, 256, None).unwrap();
        prop_assert_eq!(bytes.len(), dtype.row_bytes(256).unwrap());
        let back = dtype.dequantize_rows(&bytes, 256).unwrap();
        prop_assert!(back.iter().all(|x| x.is_finite()));
        let blocks = entries.chunks_exact(dtype.block_len());
        let simple: f64 = blocks.map(|block| naive_error(dtype, block)).sum();
        let own = error(&entries, &back, &[1.0]);
        prop_assert!(own <= 1.01 * simple, "{:?}: {} for {}", dtype, own, simple);
    }
}
