//! Recording the gradients of a run: which, when, and that it does not change the training.

use std::num::NonZeroUsize;
use std::path::Path;

use welore_burn::forms::Storage;
use welore_burn::linalg::{Matrix, singular_values};
use welore_burn::plan::PlanOptions;
use welore_burn::train::{
    GRADIENTS_FILE, GradientDynamics, GradientRecord, TrainError, TrainOptions, Trainable,
    Training, read_gradients,
};

use crate::train::{
    assert_same_parameters, assert_same_steps, by_definition, chosen, compressed_by, dense,
    options, place, repeats_itself, run, start, story,
};

fn every(steps: usize) -> NonZeroUsize {
    NonZeroUsize::new(steps).unwrap()
}

fn records_of(run: &Path) -> Vec<GradientRecord> {
    let text = std::fs::read_to_string(run.join(GRADIENTS_FILE)).unwrap();
    let records = read_gradients(&text);
    assert_eq!(records.len(), text.lines().count(), "every line is a record");
    records
}

#[test]
fn tracking_changes_no_step_and_records_each_matrix_every_so_often() {
    let (plain_dir, tracked_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = TrainOptions { trainable: Trainable::Full, ..options() };
    let mut plain = start(dense(), options.clone(), plain_dir.path());
    let reports = run(&mut plain, usize::MAX).unwrap();
    let mut tracked = start(dense(), options, tracked_dir.path());
    tracked.track_gradients(tracked_dir.path(), every(2)).unwrap();
    let reports_of_tracked = run(&mut tracked, usize::MAX).unwrap();
    assert_same_steps(&reports, &reports_of_tracked);
    assert_same_parameters(plain.model(), tracked.model());
    assert!(!plain_dir.path().join(GRADIENTS_FILE).exists());

    let records = records_of(tracked_dir.path());
    // 4 layers of 7 projections.
    let steps: Vec<usize> = records.iter().map(|record| record.step).collect();
    assert_eq!(steps, [[2usize; 28], [4; 28], [6; 28]].concat());
    for record in &records {
        let GradientRecord { step, name, shape, norm, stable_rank, values, .. } = record;
        assert_eq!(record.similarity.is_none(), *step == 2, "{name} at {step}");
        assert!(record.similarity.is_none_or(|x| (0.0..=1.0).contains(&x)), "{record:?}");
        let full = shape[0].min(shape[1]);
        assert_eq!((record.full_rank, values.len(), record.rank), (full, full, full / 8));
        assert_eq!(values[0], 1.0);
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{name}: not sorted");
        assert!(*norm > 0.0 && (1.0..=full as f64).contains(stable_rank), "{record:?}");
    }
    let down = records.iter().find(|record| record.name == "model.layers.1.mlp.down_proj");
    assert_eq!(down.unwrap().shape, [64, 160]);
    let dynamics = GradientDynamics::of(&records);
    assert_eq!(dynamics.matrices.len(), 28);
    assert!(dynamics.matrices.iter().all(|matrix| matrix.level.is_some()));
}

#[test]
fn recorded_gradients_are_those_of_the_step_before_clipping() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        trainable: Trainable::Nlrc,
        shuffle: false,
        steps: 1,
        clip: Some(1e-3),
        ..options()
    };
    let mut training = start(dense(), options, scratch.path());
    training.track_gradients(scratch.path(), every(1)).unwrap();
    run(&mut training, usize::MAX).unwrap();
    let records = records_of(scratch.path());

    let text = story(32);
    let rows = [text.nth(0, None), text.nth(1, None)];
    let targets: usize = rows.iter().map(|row| row.predicted()).sum();
    let model = chosen(dense(), Trainable::Nlrc);
    let (_, gradients) = by_definition(&model, &rows, 1.0 / targets as f64);
    let weight = &model.model.layers[2].mlp.up_proj.as_ref().unwrap().weight;
    let gradient = gradients.get::<2>(weight.id).unwrap();
    let [d_input, d_output] = gradient.dims();
    let entries = gradient.into_data().iter::<f64>().collect();
    let values = singular_values(&Matrix::new(d_input, d_output, entries).unwrap()).unwrap();
    let squares: f64 = values.iter().map(|value| value * value).sum();

    let record = records.iter().find(|r| r.name == "model.layers.2.mlp.up_proj").unwrap();
    assert_eq!(record.shape, [d_output, d_input], "as PyTorch stores it");
    assert_eq!(record.values.len(), values.len());
    for (got, want) in record.values.iter().zip(&values) {
        assert!((f64::from(*got) - want / values[0]).abs() < 1e-3, "{got} {want}");
    }
    assert!((record.norm / squares.sqrt() - 1.0).abs() < 1e-3);
    assert!((record.stable_rank * values[0] * values[0] / squares - 1.0).abs() < 1e-2);
}

#[test]
fn of_factored_matrices_the_factors_are_tracked_by_their_names() {
    for (storage, second) in [(Storage::Factors, "U"), (Storage::Pivot, "C")] {
        let scratch = tempfile::tempdir().unwrap();
        let model = compressed_by(&PlanOptions { storage, ..PlanOptions::new(0.6) });
        let options = TrainOptions { steps: 1, ..options() };
        let mut training = start(model, options, scratch.path());
        training.track_gradients(scratch.path(), every(1)).unwrap();
        run(&mut training, usize::MAX).unwrap();
        let records = records_of(scratch.path());
        let parameters: usize = records.iter().map(|r| r.shape[0] * r.shape[1]).sum();
        assert_eq!(parameters as u64, training.count().trainable, "all that trains");
        for pair in records.chunks(2) {
            let [v, other] = pair else { panic!("a factor alone: {pair:?}") };
            let matrix = v.name.as_str().strip_suffix(".V").unwrap();
            assert_eq!(other.name.as_str(), format!("{matrix}.{second}"));
            assert_eq!(v.shape[0], other.shape[1], "both have the rank of {matrix}");
        }
    }
}

#[test]
fn a_resumed_run_records_each_step_once() {
    let (whole_dir, stopped_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &Path, resume: bool| {
        let model = compressed_by(&PlanOptions::new(0.6));
        let mut training = Training::open(model, options(), place(dir, resume)).unwrap();
        training.track_gradients(dir, every(2)).unwrap();
        training
    };
    let reports = run(&mut open(whole_dir.path(), false), usize::MAX).unwrap();
    assert!(run(&mut open(stopped_dir.path(), false), 3).is_err());
    // What a process wrote after its last checkpoint, until it was killed in the middle of a line.
    let file = stopped_dir.path().join(GRADIENTS_FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    let later = text.lines().next().unwrap().replacen("\"step\":2", "\"step\":4", 1);
    std::fs::write(&file, format!("{text}{later}\n{}", &later[..later.len() / 2])).unwrap();
    let rest = run(&mut open(stopped_dir.path(), true), usize::MAX).unwrap();
    assert_same_steps(&reports[3..], &rest);

    let (expected, mut got) = (records_of(whole_dir.path()), records_of(stopped_dir.path()));
    // The first records of the second process have no previous record to compare with.
    for (record, expected) in got.iter_mut().zip(&expected).filter(|(r, _)| r.step == 4) {
        assert_eq!(record.similarity, None, "{}", record.name);
        record.similarity = expected.similarity;
    }
    if repeats_itself() {
        assert_eq!(got, expected);
    }
    let places = |records: &[GradientRecord]| {
        records.iter().map(|record| (record.step, record.name.clone())).collect::<Vec<_>>()
    };
    assert_eq!(places(&got), places(&expected));
}

#[test]
fn there_is_nothing_to_track_where_only_adapters_train() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions { trainable: Trainable::Lora, ..options() };
    let mut training = start(dense(), options, scratch.path());
    let error = training.track_gradients(scratch.path(), every(2)).unwrap_err();
    assert!(matches!(&error, TrainError::Option { name: "track_gradients", .. }), "{error}");
    assert!(!scratch.path().join(GRADIENTS_FILE).exists());
}
