//! Properties of rank plans, over arbitrary spectra.

mod policies;
mod stated;

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::Dtype;
use welore_burn::forms::{Form, Storage};
use welore_burn::plan::{
    Allocation, Choice, Energy, PlanError, PlanOptions, RankPlan, RankPolicy, RankProblem, Target,
    Uniform, WeLore, make_plan,
};
use welore_burn::spectrum::{MatrixSpectrum, ModelSize, Spectra};

use crate::{expected, floats, tiny_spectra};

pub(crate) fn spectra(matrices: Vec<MatrixSpectrum>) -> Spectra {
    // 100 parameters that no plan touches, such as norms.
    let parameters = 100 + matrices.iter().map(MatrixSpectrum::parameters).sum::<u64>();
    let size = ModelSize { parameters, bytes: 4 * parameters };
    Spectra::new("test", size, matrices).unwrap()
}

pub(crate) fn matrix(
    name: String,
    shape: [usize; 2],
    mut singular_values: Vec<f64>,
) -> MatrixSpectrum {
    singular_values.sort_by(|a, b| b.total_cmp(a));
    MatrixSpectrum {
        name: name.into(),
        shape,
        dtype: Dtype::F32,
        digest: None,
        singular_values,
        measurements: BTreeMap::new(),
    }
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

pub(crate) fn any_spectra() -> impl Strategy<Value = Spectra> {
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
            min_ratio,
            rank_multiple,
            never_grow,
            ..PlanOptions::new(err)
        },
    )
}

fn err_of(options: &PlanOptions) -> f64 {
    let Target::Err(err) = options.target else { unreachable!("these tests ask for an ERR") };
    err
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
                let below = (err_of(&options) - plan.totals.err) * total;
                prop_assert!((-1e-6..1.0 + 1e-6).contains(&below), "{below} ranks below");
            }
            Err(PlanError::OutOfReach { reachable: Target::Err(reachable), .. }) => {
                let most = (total - spectra.matrices.len() as f64) / total;
                prop_assert!((reachable - most).abs() < 1e-12);
                prop_assert!(reachable * total < err_of(&options) * total);
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
            let would_grow = factored > m.parameters_before;
            prop_assert_eq!(m.grows, m.is_low_rank() && would_grow);
            let worth_it = m.rank < m.full_rank && m.reduction >= options.min_ratio;
            prop_assert_eq!(m.is_low_rank(), worth_it && !(would_grow && options.never_grow));
            prop_assert_eq!(m.parameters_after, if m.is_low_rank() { factored } else { m.parameters_before });
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
        let target = Target::Err((err_of(&options) + more).min(0.999));
        let further = PlanOptions { target, ..options.clone() };
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
        // What is cut of all matrices together does depend on it.
        let ranks = |plan: RankPlan| (plan.threshold, plan.matrices);
        prop_assert_eq!(a.map(ranks), b.map(ranks));
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

fn any_weighing_policy() -> impl Strategy<Value = &'static dyn RankPolicy> {
    prop_oneof![
        Just(&Energy as &dyn RankPolicy),
        Just(&WeLore as &dyn RankPolicy),
        Just(&Uniform as &dyn RankPolicy)
    ]
}

pub(crate) fn any_storage() -> impl Strategy<Value = Storage> {
    prop_oneof![Just(Storage::Factors), Just(Storage::Pivot)]
}

fn any_budget(spectra: Spectra) -> impl Strategy<Value = (Spectra, Target)> {
    let bytes = spectra.model.bytes;
    (Just(spectra), 0.05..0.99f64, any::<bool>()).prop_map(move |(spectra, share, whole)| {
        let target = match whole {
            true => Target::MaxBytes((share * bytes as f64) as u64),
            false => Target::KeepParams(share),
        };
        (spectra, target)
    })
}

/// What a plan loses, in the units of `Energy`.
pub(crate) fn relative_loss(spectra: &Spectra, ranks: &[Option<usize>]) -> f64 {
    let loss = |(spectrum, rank): (&MatrixSpectrum, &Option<usize>)| {
        let squares: Vec<f64> = spectrum.singular_values.iter().map(|s| s * s).collect();
        let total: f64 = squares.iter().sum();
        match rank {
            Some(rank) if total > 0.0 => squares[*rank..].iter().sum::<f64>() / total,
            _ => 0.0,
        }
    };
    spectra.matrices.iter().zip(ranks).map(loss).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn parameters_and_bytes_are_never_exceeded(
        (spectra, target) in any_spectra().prop_flat_map(any_budget),
        policy in any_weighing_policy(), storage in any_storage(), rank_multiple in 1usize..4
    ) {
        let options =
            PlanOptions { min_ratio: 0.0, rank_multiple, storage, ..PlanOptions::to(target) };
        match make_plan(&spectra, policy, &options) {
            Ok(plan) => {
                match target {
                    Target::KeepParams(share) => prop_assert!(plan.totals.keep_params <= share + 1e-12),
                    Target::MaxBytes(bytes) => prop_assert!(plan.totals.bytes_after <= bytes),
                    Target::Err(_) | Target::ErrApplied(_) => unreachable!(),
                }
                for m in plan.low_rank() {
                    let [rows, cols] = m.shape;
                    let factored = match m.form {
                        Form::Pivot(_) => m.rank * (rows + cols - m.rank),
                        _ => m.rank * (rows + cols),
                    };
                    prop_assert_eq!(m.form, storage.at_rank(m.rank));
                    prop_assert_eq!(m.parameters_after, factored as u64);
                }
            }
            Err(PlanError::OutOfReach { reachable, .. }) => {
                // A target that is reported as reachable is reachable.
                let options = PlanOptions { target: with_slack(reachable), ..options };
                if options.check().is_ok() {
                    prop_assert!(make_plan(&spectra, policy, &options).is_ok(), "{reachable:?}");
                }
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn no_allocation_loses_less_for_a_smaller_budget(
        spectra in prop::collection::vec(any_matrix(), 1..4).prop_map(|matrices| {
            let named = matrices.into_iter().enumerate();
            spectra(named.map(|(i, (shape, v))| matrix(format!("m.{i}"), shape, v)).collect())
        }),
        share in 0.2..0.95f64, storage in any_storage()
    ) {
        let goal = PlanOptions::to(Target::KeepParams(share));
        let options = PlanOptions { min_ratio: 0.0, min_saving: 0.0, storage, ..goal };
        let Ok(plan) = make_plan(&spectra, &Energy, &options) else { return Ok(()) };
        let ranks: Vec<Option<usize>> =
            plan.matrices.iter().map(|m| m.is_low_rank().then_some(m.rank)).collect();
        let ours = relative_loss(&spectra, &ranks);
        // The last step along a hull may not fit; the largest step is a whole matrix.
        let largest = spectra.matrices.iter().map(MatrixSpectrum::parameters).max().unwrap();
        let all: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
        let smaller = ((share * all as f64) as u64).saturating_sub(largest);
        let choices: Vec<Vec<Option<usize>>> = spectra
            .matrices
            .iter()
            .map(|m| (1..m.full_rank()).map(Some).chain([None]).collect())
            .collect();
        let best = best_loss(&spectra, &choices, storage, smaller);
        prop_assert!(ours <= best + 1e-9, "{ours} for {best}");
    }
}

/// The least that can be lost with at most `budget` parameters, of all combinations of the choices
/// that each matrix has: a rank, or `None` for dense.
pub(crate) fn best_loss(
    spectra: &Spectra,
    choices: &[Vec<Option<usize>>],
    storage: Storage,
    budget: u64,
) -> f64 {
    let mut best = f64::INFINITY;
    let count: usize = choices.iter().map(Vec::len).product();
    for number in 0..count {
        let mut rest = number;
        let mut pick = |options: &Vec<Option<usize>>| {
            let choice = options[rest % options.len()];
            rest /= options.len();
            choice
        };
        let ranks: Vec<Option<usize>> = choices.iter().map(&mut pick).collect();
        let pairs = spectra.matrices.iter().zip(&ranks);
        let cost: u64 = pairs
            .map(|(m, r)| r.map_or(m.parameters(), |r| storage.at_rank(r).parameters(m.shape)))
            .sum();
        if cost <= budget {
            best = best.min(relative_loss(spectra, &ranks));
        }
    }
    best
}

fn with_slack(target: Target) -> Target {
    match target {
        Target::KeepParams(share) => Target::KeepParams(share + 1e-9),
        other => other,
    }
}

/// Allocates what a test chooses.
#[derive(Debug)]
pub(crate) struct Fixed(pub(crate) Vec<Choice>);

impl RankPolicy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }
    fn allocate(&self, _problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        Ok(Allocation { choices: self.0.clone(), threshold: None, min_ratio: None })
    }
}

pub(crate) fn small() -> Spectra {
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
fn tiny_llama_has_the_spectra_and_ranks_of_the_reference() {
    let figures = expected("tiny-llama");
    let spectra = tiny_spectra();
    assert_eq!(spectra.matrices.len(), 28);
    for m in &spectra.matrices {
        let reference = floats(&figures["spectra"][m.name.as_str()]);
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
                assert_eq!(
                    m.rank as u64,
                    target["ranks"][m.name.as_str()].as_u64().unwrap(),
                    "{}",
                    m.name
                );
            }
            let tau = target["tau"].as_f64().unwrap();
            assert!((plan.threshold.unwrap() - tau).abs() < 1e-12);
            assert_eq!(plan.totals.parameters_after, factored["params"].as_u64().unwrap());
            assert_eq!(plan.totals.lrcs, factored["matrices"].as_array().unwrap().len());
        }
    }
}

#[test]
fn a_refusal_shows_a_short_target_that_can_be_reached() {
    let spectra = tiny_spectra();
    let shown = |target| {
        let refused = make_plan(
            &spectra,
            &WeLore,
            &PlanOptions { min_ratio: 0.0, ..PlanOptions::to(target) },
        )
        .unwrap_err();
        let text = refused.to_string();
        let number = text
            .split("; ")
            .nth(1)
            .and_then(|text| text.split(' ').find(|word| word.starts_with("0.")));
        let number = number.unwrap_or_else(|| panic!("{text}")).to_string();
        assert!(number.len() <= "0.1234".len(), "{text}");
        number.parse::<f64>().unwrap()
    };
    for target in [
        Target::Err(shown(Target::Err(0.9999))),
        Target::KeepParams(shown(Target::KeepParams(0.0001))),
    ] {
        make_plan(&spectra, &WeLore, &PlanOptions { min_ratio: 0.0, ..PlanOptions::to(target) })
            .unwrap();
    }
}
