//! Properties of rank plans, over arbitrary spectra.

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::Value;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::plan::{PlanError, PlanOptions, RankPlan, RankPolicy, Uniform, WeLore, make_plan};
use welore_burn::spectrum::{
    MatrixSpectrum, MeasureSettings, ModelSize, Selection, Spectra, measure_checkpoint,
};

use crate::{expected, fixture, floats};

fn spectra(matrices: Vec<MatrixSpectrum>) -> Spectra {
    // 100 parameters that no plan touches, such as norms.
    let parameters = 100 + matrices.iter().map(MatrixSpectrum::parameters).sum::<u64>();
    let size = ModelSize { parameters, bytes: 4 * parameters };
    Spectra::new("test", size, matrices).unwrap()
}

fn matrix(name: String, shape: [usize; 2], mut singular_values: Vec<f64>) -> MatrixSpectrum {
    singular_values.sort_by(|a, b| b.total_cmp(a));
    MatrixSpectrum { name, shape, dtype: Dtype::F32, digest: None, singular_values }
}

/// Heavy-tailed, flat, deficient and zero spectra, with ties.
fn any_values(n: usize) -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![
        prop::collection::vec(0.0..100.0f64, n),
        prop::collection::vec((0u8..4).prop_map(f64::from), n),
        Just(vec![3.5; n]),
        Just(vec![0.0; n]),
        (0.1..0.9f64).prop_map(move |q| (0..n).map(|i| q.powi(i as i32)).collect()),
    ]
}

fn any_matrix() -> impl Strategy<Value = ([usize; 2], Vec<f64>)> {
    (1usize..20, 1usize..20).prop_flat_map(|(m, n)| (Just([m, n]), any_values(m.min(n))))
}

fn any_spectra() -> impl Strategy<Value = Spectra> {
    prop::collection::vec(any_matrix(), 1..8).prop_map(|matrices| {
        let named = matrices.into_iter().enumerate();
        spectra(named.map(|(i, (shape, values))| matrix(format!("m.{i}"), shape, values)).collect())
    })
}

fn any_policy() -> impl Strategy<Value = &'static dyn RankPolicy> {
    prop_oneof![Just(&WeLore as &dyn RankPolicy), Just(&Uniform as &dyn RankPolicy)]
}

fn any_options() -> impl Strategy<Value = PlanOptions> {
    (0.001..0.999f64, 0.0..0.99f64, 1usize..5, any::<bool>()).prop_map(
        |(err, min_ratio, rank_multiple, never_grow)| PlanOptions {
            err,
            min_ratio,
            rank_multiple,
            never_grow,
        },
    )
}

fn total_rank(spectra: &Spectra) -> usize {
    spectra.matrices.iter().map(MatrixSpectrum::full_rank).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn target_is_met_within_one_rank_or_the_error_says_what_can_be(
        spectra in any_spectra(), policy in any_policy(), options in any_options()
    ) {
        let options = PlanOptions { rank_multiple: 1, ..options };
        let total = total_rank(&spectra) as f64;
        match make_plan(&spectra, policy, &options) {
            Ok(plan) => {
                let below = (options.err - plan.totals.err) * total;
                prop_assert!((-1e-6..1.0 + 1e-6).contains(&below), "{below} ranks below");
            }
            Err(PlanError::OutOfReach { reachable, .. }) => {
                let most = (total - spectra.matrices.len() as f64) / total;
                prop_assert!((reachable - most).abs() < 1e-12);
                prop_assert!(reachable * total < options.err * total);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn ranks_are_possible_and_totals_add_up(
        spectra in any_spectra(), policy in any_policy(), options in any_options()
    ) {
        let Ok(plan) = make_plan(&spectra, policy, &options) else { return Ok(()) };
        let mut after = spectra.model.parameters;
        for m in &plan.matrices {
            prop_assert!((1..=m.full_rank).contains(&m.rank));
            prop_assert!(m.rank == m.full_rank || m.rank % options.rank_multiple == 0);
            let factored = (m.rank * (m.shape[0] + m.shape[1])) as u64;
            prop_assert_eq!(m.grows, factored > m.parameters_before);
            prop_assert_eq!(m.low_rank, m.reduction > options.min_ratio && !(m.grows && options.never_grow));
            prop_assert_eq!(m.parameters_after, if m.low_rank { factored } else { m.parameters_before });
            after = after - m.parameters_before + m.parameters_after;
        }
        prop_assert_eq!(plan.totals.parameters_after, after);
        prop_assert_eq!(plan.totals.bytes_after, 4 * after);
        prop_assert_eq!(plan.totals.lrcs, plan.low_rank().count());
        prop_assert!(plan.totals.err_applied <= plan.totals.err);
        if options.never_grow {
            prop_assert_eq!(plan.totals.growing, 0);
            prop_assert!(after <= spectra.model.parameters);
        }
    }

    #[test]
    fn more_reduction_never_gives_a_matrix_more_rank(
        spectra in any_spectra(), policy in any_policy(), options in any_options(), more in 0.0..0.5f64
    ) {
        let further = PlanOptions { err: (options.err + more).min(0.999), ..options };
        if let (Ok(a), Ok(b)) = (make_plan(&spectra, policy, &options), make_plan(&spectra, policy, &further)) {
            for (a, b) in a.matrices.iter().zip(&b.matrices) {
                prop_assert!(a.rank >= b.rank);
            }
        }
    }

    #[test]
    fn order_of_the_input_does_not_matter(
        original in any_spectra(), policy in any_policy(), options in any_options(), turn in 0usize..8
    ) {
        let mut rotated = original.clone();
        let n = rotated.matrices.len();
        rotated.matrices.rotate_left(turn % n);
        let (a, b) = (make_plan(&original, policy, &options), make_plan(&rotated, policy, &options));
        prop_assert_eq!(a.is_ok(), b.is_ok());
        if let (Ok(a), Ok(mut b)) = (a, b) {
            b.matrices.rotate_right(turn % n);
            prop_assert_eq!(a.matrices, b.matrices);
        }
    }

    #[test]
    fn scale_of_a_matrix_does_not_matter_to_welore(
        original in any_spectra(), options in any_options(), exponent in -20i32..20
    ) {
        let mut scaled = original.clone();
        for value in &mut scaled.matrices[0].singular_values {
            *value *= 2f64.powi(exponent); // a power of two rounds nothing
        }
        let (a, b) = (make_plan(&original, &WeLore, &options), make_plan(&scaled, &WeLore, &options));
        prop_assert_eq!(a, b);
    }

    #[test]
    fn uniform_takes_the_same_share_everywhere(spectra in any_spectra(), options in any_options()) {
        let options = PlanOptions { rank_multiple: 1, ..options };
        let Ok(plan) = make_plan(&spectra, &Uniform, &options) else { return Ok(()) };
        for m in plan.matrices.iter().filter(|m| m.rank > 1) {
            let exact = (1.0 - plan.totals.err) * m.full_rank as f64;
            // Clamping small matrices to rank 1 takes a little more from the others.
            let clamped = plan.matrices.len() as f64;
            prop_assert!((m.rank as f64 - exact).abs() <= 1.0 + clamped, "{} for {exact}", m.rank);
        }
    }

    #[test]
    fn files_round_trip(spectra in any_spectra(), policy in any_policy(), options in any_options()) {
        prop_assert_eq!(&Spectra::from_json(&spectra.to_json()).unwrap(), &spectra);
        let Ok(plan) = make_plan(&spectra, policy, &options) else { return Ok(()) };
        prop_assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    }
}

fn small() -> Spectra {
    spectra(vec![
        matrix("a".into(), [4, 3], vec![9.0, 3.0, 1.0]),
        matrix("b".into(), [2, 5], vec![5.0, 4.0]),
    ])
}

#[test]
fn options_out_of_range_are_refused() {
    let with = |change: fn(&mut PlanOptions)| {
        let mut options = PlanOptions::new(0.4);
        change(&mut options);
        make_plan(&small(), &WeLore, &options).unwrap_err()
    };
    for err in [0.0, 1.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
        let error = make_plan(&small(), &WeLore, &PlanOptions::new(err)).unwrap_err();
        assert!(matches!(error, PlanError::Err(_)), "{error}");
    }
    assert_eq!(with(|o| o.min_ratio = 1.0), PlanError::MinRatio(1.0));
    assert_eq!(with(|o| o.min_ratio = -0.1), PlanError::MinRatio(-0.1));
    assert_eq!(with(|o| o.rank_multiple = 0), PlanError::RankMultiple);
}

#[test]
fn equal_singular_values_are_no_tail() {
    let flat = matrix("flat".into(), [4, 4], vec![2.0; 4]);
    let heavy = matrix("heavy".into(), [4, 4], vec![8.0, 1.0, 0.5, 0.2]);
    let plan = make_plan(&spectra(vec![flat, heavy]), &WeLore, &PlanOptions::new(0.4)).unwrap();
    assert_eq!((plan.matrices[0].rank, plan.matrices[1].rank), (4, 1));
}

#[test]
fn edited_plans_are_refused() {
    let plan = make_plan(&small(), &WeLore, &PlanOptions::new(0.4)).unwrap();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&plan.to_json()).unwrap();
        edit(&mut value);
        RankPlan::from_json(&value.to_string()).unwrap_err().to_string()
    };
    assert!(edited(&|v| v["matrices"][0]["rank"] = 0.into()).contains("`a`: rank 0"));
    assert!(edited(&|v| v["matrices"][0]["rank"] = 4.into()).contains("`a`: rank 4"));
    assert!(edited(&|v| v["matrices"][1]["full_rank"] = 5.into()).contains("`b`: full_rank 5"));
    assert!(edited(&|v| v["matrices"][1]["name"] = "a".into()).contains("twice"));
    assert!(edited(&|v| v["version"] = 99.into()).contains("version 99"));
    assert!(edited(&|v| v["format"] = "other".into()).contains("other"));
    assert!(edited(&|v| v["matrices"] = Value::Array(vec![])).contains("no matrix"));
}

#[test]
fn possible_edits_are_counted_anew() {
    let plan = make_plan(&small(), &WeLore, &PlanOptions::new(0.4)).unwrap();
    let mut value: Value = serde_json::from_str(&plan.to_json()).unwrap();
    value["matrices"][0]["rank"] = 1.into();
    value["matrices"][0]["low_rank"] = true.into();
    let edited = RankPlan::from_json(&value.to_string()).unwrap();
    let (before, after) =
        (edited.matrices[0].parameters_before, edited.matrices[0].parameters_after);
    assert_eq!((before, after), (12, 7));
    assert_eq!(edited.totals.lrcs, edited.low_rank().count());
    assert!(edited.totals.parameters_after <= plan.totals.parameters_after);
    // Claims of absurd sizes saturate, they do not overflow.
    let mut absurd = value.clone();
    absurd["totals"]["parameters_before"] = u64::MAX.into();
    absurd["totals"]["bytes_before"] = u64::MAX.into();
    assert!(RankPlan::from_json(&absurd.to_string()).is_ok());
    absurd["matrices"][0]["shape"] = serde_json::json!([usize::MAX, 3]);
    assert!(RankPlan::from_json(&absurd.to_string()).is_err());
    value["totals"]["parameters_before"] = 3.into();
    assert!(RankPlan::from_json(&value.to_string()).unwrap_err().to_string().contains("totals"));
}

#[test]
fn impossible_spectra_are_refused() {
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&small().to_json()).unwrap();
        edit(&mut value);
        Spectra::from_json(&value.to_string()).unwrap_err().to_string()
    };
    let values = "singular_values";
    assert!(edited(&|v| v["matrices"][0][values][0] = 0.5.into()).contains("not sorted"));
    assert!(edited(&|v| v["matrices"][0][values][2] = (-1).into()).contains("negative"));
    assert!(edited(&|v| v["matrices"][0]["shape"][1] = 7.into()).contains("for full rank 4"));
    assert!(edited(&|v| v["matrices"][0]["shape"][0] = 0.into()).contains("cannot be"));
    assert!(edited(&|v| v["matrices"][0]["shape"][0] = u64::MAX.into()).contains("cannot be"));
}

#[test]
fn tiny_llama_has_the_spectra_and_ranks_of_the_reference() {
    let figures = expected("tiny-llama");
    let checkpoint = Checkpoint::open(fixture("tiny-llama")).unwrap();
    let (selection, settings) = (Selection::projections(), MeasureSettings::default());
    let spectra = measure_checkpoint(&checkpoint, &selection, &settings, &mut ()).unwrap();
    assert_eq!(spectra.matrices.len(), 28);
    for m in &spectra.matrices {
        let reference = floats(&figures["spectra"][&m.name]);
        for (got, want) in m.singular_values.iter().zip(&reference) {
            assert!((got - want).abs() <= 1e-12 * reference[0], "{}: {got} for {want}", m.name);
        }
    }
    for target in figures["compress"].as_array().unwrap() {
        let err = target["err"].as_f64().unwrap();
        for factored in target["factored"].as_array().unwrap() {
            let min_ratio = factored["min_ratio"].as_f64().unwrap();
            let options = PlanOptions { min_ratio, ..PlanOptions::new(err) };
            let plan = make_plan(&spectra, &WeLore, &options).unwrap();
            for m in &plan.matrices {
                assert_eq!(m.rank as u64, target["ranks"][&m.name].as_u64().unwrap(), "{}", m.name);
            }
            let tau = target["tau"].as_f64().unwrap();
            assert!((plan.threshold.unwrap() - tau).abs() < 1e-12);
            assert_eq!(plan.totals.parameters_after, factored["params"].as_u64().unwrap());
            assert_eq!(plan.totals.lrcs, factored["matrices"].as_array().unwrap().len());
        }
    }
}
