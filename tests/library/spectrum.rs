//! Spectra of checkpoints: in bounded memory, and measured once.

use std::num::NonZeroUsize;

use welore_burn::progress::{Interrupted, Part, Progress};
use welore_burn::spectrum::{MeasureOptions, Spectra, SpectrumError, measure_checkpoint};
use welore_burn::workers::Budget;

use crate::{checkpoint, tiny_projections};

/// Counts matrices, and stops the work after `most` of them.
#[derive(Default)]
struct Counter {
    total: usize,
    operations: u64,
    done: u64,
    fresh: usize,
    known: usize,
    most: Option<usize>,
}

impl Progress for Counter {
    fn begin(&mut self, _what: &str, _total: usize) {
        unreachable!("matrices differ in size")
    }

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        unreachable!("matrices differ in size")
    }

    fn begin_work(&mut self, _what: &str, total: usize, operations: u64) {
        (self.total, self.operations) = (total, operations);
    }

    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        self.done += part.operations;
        *if part.known { &mut self.known } else { &mut self.fresh } += part.steps;
        match self.most {
            Some(most) if self.fresh >= most => Err(Interrupted),
            _ => Ok(()),
        }
    }
}

fn measure(options: &MeasureOptions<'_>, counter: &mut Counter) -> Result<Spectra, SpectrumError> {
    measure_checkpoint(&checkpoint("tiny-llama"), &tiny_projections(), options, counter)
}

#[test]
fn progress_tells_all_matrices_and_all_operations() {
    let mut counter = Counter::default();
    measure(&MeasureOptions::default(), &mut counter).unwrap();
    assert_eq!((counter.total, counter.fresh, counter.known), (28, 28, 0));
    assert!(counter.operations > 0 && counter.done == counter.operations);
}

#[test]
fn spectra_are_the_same_in_any_budget() {
    let spectra = measure(&MeasureOptions::default(), &mut Counter::default()).unwrap();
    for budget in [
        Budget { jobs: NonZeroUsize::new(1), memory: None },
        Budget { jobs: NonZeroUsize::new(2), memory: Some(300_000) },
    ] {
        let options = MeasureOptions { budget, ..MeasureOptions::default() };
        let other = measure(&options, &mut Counter::default()).unwrap();
        for (a, b) in spectra.matrices.iter().zip(&other.matrices) {
            assert_eq!((&a.name, a.shape, &a.digest), (&b.name, b.shape, &b.digest));
            for (x, y) in a.singular_values.iter().zip(&b.singular_values) {
                assert!((x - y).abs() <= 1e-12 * a.singular_values[0], "{x} {y}");
            }
        }
    }
}

#[test]
fn matrix_that_does_not_fit_is_named_before_anything_is_measured() {
    let budget = Budget { jobs: None, memory: Some(200_000) };
    let cache = tempfile::tempdir().unwrap();
    let options = MeasureOptions {
        budget,
        cache: Some(cache.path().join("spectra")),
        ..MeasureOptions::default()
    };
    let mut counter = Counter::default();
    let error = measure(&options, &mut counter).unwrap_err();
    assert!(matches!(&error, SpectrumError::Oversized(matrix) if matrix.need > 200_000), "{error}");
    assert_eq!(counter.fresh, 0);
    assert!(!cache.path().join("spectra").exists());
}

#[test]
fn cache_changes_nothing_but_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        MeasureOptions { cache: Some(dir.path().join("a/b")), ..MeasureOptions::default() };
    let fresh = measure(&options, &mut Counter::default()).unwrap();
    let mut counter = Counter::default();
    let cached = measure(&options, &mut counter).unwrap();
    assert_eq!((counter.fresh, counter.known), (0, 28));
    assert_eq!(cached.to_json(), fresh.to_json());
    let plain = measure(&MeasureOptions::default(), &mut Counter::default()).unwrap();
    assert_eq!(plain.to_json(), fresh.to_json());
}

#[test]
fn interrupted_measuring_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let options = MeasureOptions { cache: Some(dir.path().into()), ..MeasureOptions::default() };
    let mut counter = Counter { most: Some(5), ..Counter::default() };
    let error = measure(&options, &mut counter).unwrap_err();
    assert!(matches!(error, SpectrumError::Interrupted(_)), "{error}");
    let measured = counter.fresh;
    assert!(measured >= 5);
    let mut counter = Counter::default();
    measure(&options, &mut counter).unwrap();
    assert_eq!((counter.known, counter.fresh), (measured, 28 - measured));
}
