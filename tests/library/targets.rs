//! What plans promise about their targets, whatever a policy gives.

use proptest::prelude::*;
use welore_burn::forms::{Form, Storage};
use welore_burn::plan::{
    Allocation, Choice, Energy, Lorap, Loss, PlanError, PlanOptions, Probed, RankPlan, RankPolicy,
    RankProblem, Target, Uniform, WeLore, make_plan,
};
use welore_burn::spectrum::{PROBE, Spectra, SpectrumUnit};

use crate::plan::{Fixed, any_spectra, any_storage, matrix, small, spectra};
use crate::tiny_spectra;

const POLICIES: [&dyn RankPolicy; 6] = [&WeLore, &Uniform, &Lorap, &Energy, &Loss, &Probed];

pub(crate) fn any_policy() -> impl Strategy<Value = &'static dyn RankPolicy> {
    (0..POLICIES.len()).prop_map(|index| POLICIES[index])
}

pub(crate) fn any_target() -> impl Strategy<Value = Target> {
    (0.01..0.99f64, 0usize..4).prop_map(|(share, kind)| match kind {
        0 => Target::Err(share),
        1 => Target::ErrApplied(share),
        2 => Target::KeepParams(share),
        _ => Target::MaxBytes((share * 4000.0) as u64),
    })
}

/// Spectra that all policies can use.
pub(crate) fn probed(mut spectra: Spectra) -> Spectra {
    spectra.unit = SpectrumUnit::Loss;
    for matrix in &mut spectra.matrices {
        matrix.measurements.insert(PROBE.into(), 1.5);
    }
    spectra
}

#[test]
fn what_no_probe_measured_is_corrected_as_the_same_matrix_of_other_experts() {
    // The spectra are alike, so that ranks follow the corrections.
    let names = ["experts.0.up", "experts.1.up", "experts.2.up", "experts.3.up", "o", "router"];
    let alike = |name: &str| matrix(name.into(), [8, 8], (1..9).map(f64::from).collect());
    let with = |probes: [Option<f64>; 6]| {
        let mut spectra = spectra(Vec::from(names.map(alike)));
        spectra.unit = SpectrumUnit::Loss;
        for (matrix, probe) in spectra.matrices.iter_mut().zip(probes) {
            matrix.measurements.extend(probe.map(|probe| (PROBE.to_string(), probe)));
        }
        spectra
    };
    let plan = |spectra: &Spectra| {
        let plan = make_plan(spectra, &Probed, &PlanOptions::to(Target::KeepParams(0.5)));
        plan.map(|plan| plan.matrices.iter().map(|m| m.rank).collect::<Vec<_>>())
    };
    // One has no other of its kind: the median of all that were measured is 3.
    let unseen = with([Some(3.0), Some(2.0), Some(9.0), None, Some(50.0), None]);
    assert_eq!(unseen.unprobed(), 2);
    let measured = with([3.0, 2.0, 9.0, 3.0, 50.0, 3.0].map(Some));
    assert_eq!(plan(&unseen).unwrap(), plan(&measured).unwrap());
    let others = with([3.0, 2.0, 9.0, 20.0, 50.0, 20.0].map(Some));
    assert_ne!(plan(&unseen).unwrap(), plan(&others).unwrap());
    let refused = plan(&with([None; 6])).unwrap_err();
    assert_eq!(refused, PlanError::NotProbed { policy: "probed" });
    let refused = plan(&with([Some(0.0); 6])).unwrap_err();
    assert_eq!(refused, PlanError::ZeroProbes { policy: "probed" });
}

#[test]
fn without_experts_every_matrix_needs_a_probe() {
    let mut spectra = probed(tiny_spectra());
    let options = PlanOptions::to(Target::KeepParams(0.5));
    make_plan(&spectra, &Probed, &options).unwrap();
    spectra.matrices[3].measurements.clear();
    let (policy, name) = ("probed", spectra.matrices[3].name.clone());
    let refused = make_plan(&spectra, &Probed, &options).unwrap_err();
    assert_eq!(refused, PlanError::Unprobed { policy, name });
}

/// Gives what a test chooses to one of the two ways to allocate ranks.
#[derive(Debug)]
struct Giving {
    numbers: fn(usize) -> Vec<f64>,
    as_losses: bool,
}

impl RankPolicy for Giving {
    fn name(&self) -> &'static str {
        "giving"
    }
    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        match self.as_losses {
            true => problem.least_loss(|spectrum| (self.numbers)(spectrum.full_rank())),
            false => problem.remove_lowest(|spectrum| (self.numbers)(spectrum.full_rank())),
        }
    }
}

#[test]
fn scores_and_losses_that_cannot_be_are_refused_with_the_matrix() {
    type Given = fn(usize) -> Vec<f64>;
    let given: [(Given, &str); 7] = [
        (|full| vec![1.0; full - 1], "2 "),
        (|full| vec![1.0; full + 1], "4 "),
        (|_| vec![], "0 "),
        (|full| vec![f64::NAN; full], "not finite"),
        (|full| [vec![f64::INFINITY], vec![0.0; full - 1]].concat(), "not finite"),
        (|full| [vec![1.0; full - 1], vec![f64::NAN]].concat(), "not finite"),
        (|full| (0..full).map(|i| i as f64).collect(), "increase"),
    ];
    for as_losses in [false, true] {
        for (numbers, reason) in given {
            let policy = Giving { numbers, as_losses };
            let error = make_plan(&small(), &policy, &PlanOptions::new(0.4)).unwrap_err();
            assert!(matches!(&error, PlanError::Scores { name, .. } if name == "a"), "{error}");
            assert!(error.to_string().contains(reason), "{error} for {reason}");
        }
        let policy = Giving { numbers: |full| vec![0.5; full], as_losses };
        assert!(make_plan(&small(), &policy, &PlanOptions::new(0.4)).is_ok());
    }
}

#[test]
fn spectra_that_were_changed_since_their_check_are_refused() {
    type Edit = fn(&mut Spectra);
    let edits: [(Edit, &str); 5] = [
        (|spectra| spectra.matrices.clear(), "no matrix"),
        (|spectra| spectra.matrices[0].singular_values.clear(), "`a`: 0 singular values"),
        (|spectra| spectra.matrices[1].singular_values[0] = f64::NAN, "`b`"),
        (|spectra| spectra.matrices[1].shape = [0, 5], "`b`: a 0 x 5 matrix"),
        (|spectra| spectra.matrices[1].name = "a".into(), "twice"),
    ];
    for (edit, reason) in edits {
        let mut spectra = small();
        edit(&mut spectra);
        for policy in [&WeLore as &dyn RankPolicy, &Uniform, &Energy] {
            let error = make_plan(&spectra, policy, &PlanOptions::new(0.4)).unwrap_err();
            assert!(matches!(error, PlanError::Spectra { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error} for {reason}");
        }
    }
    // A problem made by hand is checked as well.
    let (spectra, options) = (small(), PlanOptions { rank_multiple: 0, ..PlanOptions::new(0.4) });
    let problem = RankProblem { spectra: &spectra, options: &options };
    let refused = problem.remove_lowest(|spectrum| spectrum.singular_values.clone());
    assert_eq!(refused.unwrap_err(), PlanError::RankMultiple);
}

#[test]
fn a_plan_file_with_a_wrong_rank_is_refused_in_plain_words() {
    let plan = make_plan(&small(), &WeLore, &PlanOptions::new(0.4)).unwrap();
    for (value, reason) in [
        (serde_json::json!(-1), "integer `-1`, expected a whole number of at least 0"),
        (serde_json::json!(1.5), "expected a whole number of at least 0"),
        (serde_json::json!("ten"), "expected a whole number of at least 0"),
    ] {
        for field in ["rank", "full_rank"] {
            let mut edited: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
            edited["matrices"][0][field] = value.clone();
            let error = RankPlan::from_json(&edited.to_string()).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("line"), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_grows_where_that_is_forbidden(
        spectra in any_spectra(), policy in any_policy(), target in any_target(),
        storage in any_storage(), min_ratio in 0.0..0.9f64
    ) {
        let options =
            PlanOptions { min_ratio, never_grow: true, storage, ..PlanOptions::to(target) };
        match make_plan(&probed(spectra), policy, &options) {
            Ok(plan) => {
                prop_assert_eq!(plan.totals.growing, 0);
                prop_assert!(plan.totals.parameters_after <= plan.totals.parameters_before);
                prop_assert!(plan.matrices.iter().all(|m| !m.grows));
            }
            Err(PlanError::OutOfReach { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn ranks_whose_factors_are_larger_than_the_matrix_are_left_out_on_request() {
    // At rank 6 of 8 two factors have 96 parameters, 32 more than the matrix.
    let flat = |name: &str| matrix(name.into(), [8, 8], (0..8).map(|i| 9.0 - i as f64).collect());
    let spectra = probed(spectra(vec![flat("a"), flat("b")]));
    for policy in [&Energy as &dyn RankPolicy, &Loss, &Probed] {
        let options = PlanOptions::new(0.2);
        let plan = make_plan(&spectra, policy, &options).unwrap();
        assert!(plan.totals.growing > 0, "the case is one: {:?}", plan.totals);
        let plan = make_plan(&spectra, policy, &PlanOptions { never_grow: true, ..options });
        let plan = plan.unwrap();
        assert_eq!(plan.totals.growing, 0);
        assert!(plan.totals.err >= 0.2 && plan.totals.lrcs > 0);
    }
}

#[test]
fn a_policy_that_chooses_growth_itself_is_refused_where_that_is_forbidden() {
    // 2 (4 + 3) is more than 4 x 3.
    let choices =
        vec![Choice { rank: 2, form: Form::factors(2) }, Choice { rank: 2, form: Form::dense() }];
    let options = PlanOptions { storage: Storage::Factors, ..PlanOptions::new(0.4) };
    assert!(make_plan(&small(), &Fixed(choices.clone()), &options).is_ok());
    let options = PlanOptions { never_grow: true, ..options };
    let error = make_plan(&small(), &Fixed(choices), &options).unwrap_err();
    assert!(matches!(&error, PlanError::Allocation { policy, .. } if policy == "fixed"));
    assert!(error.to_string().contains("`a` would grow"), "{error}");
}

#[test]
fn a_step_that_does_not_fit_leaves_the_budget_to_smaller_ones() {
    // Equal singular values: whatever rank `wide` keeps, the best next step is to keep it dense,
    // for 80 parameters more than its first rank. That of `narrow` costs 8 and gains less for each.
    let wide = matrix("wide".into(), [10, 10], vec![10.0; 10]);
    let narrow = matrix("narrow".into(), [4, 4], vec![9.0, 1.0, 1.0, 1.0]);
    let spectra = probed(spectra(vec![wide, narrow]));
    for policy in [&Energy as &dyn RankPolicy, &Loss, &Probed] {
        // 78 of 116 parameters. At rank 1 both have 20 + 8.
        let options = PlanOptions::to(Target::KeepParams(78.5 / 116.0));
        let plan = make_plan(&spectra, policy, &options).unwrap();
        let ranks: Vec<Option<usize>> = plan.matrices.iter().map(|m| m.form.rank()).collect();
        assert_eq!(ranks, [Some(3), None], "{}", policy.name());
        assert_eq!(plan.totals.parameters_after, 100 + 60 + 16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_budget_is_left_for_another_step(
        spectra in any_spectra(), share in 0.05..0.99f64, storage in any_storage(),
        rank_multiple in 1usize..4, min_saving in prop_oneof![Just(0.0), 0.0..0.5f64]
    ) {
        let options = PlanOptions {
            storage, rank_multiple, min_saving, ..PlanOptions::to(Target::KeepParams(share))
        };
        let Ok(plan) = make_plan(&spectra, &Energy, &options) else { return Ok(()) };
        let total: u64 = plan.matrices.iter().map(|m| m.parameters_before).sum();
        let spent: u64 = plan.matrices.iter().map(|m| m.parameters_after).sum();
        let budget = (share * total as f64) as u64;
        prop_assert!(spent <= budget);
        for m in plan.low_rank() {
            let rank = m.rank + rank_multiple;
            let next = storage.at_rank(rank).parameters(m.shape);
            let saved = m.parameters_before as f64 - next as f64;
            // A rank that saves too little is none; then the next step is the dense matrix.
            let is_one = rank < m.full_rank && saved >= min_saving * m.parameters_before as f64;
            let next = if is_one { next.min(m.parameters_before) } else { m.parameters_before };
            let more = next - m.parameters_after;
            prop_assert!(spent + more > budget, "{}: {more} more fit", m.name);
        }
    }
}

#[test]
fn a_matrix_that_loses_exactly_the_share_is_factored_and_one_that_loses_nothing_never() {
    let spectra = spectra(vec![
        matrix("half".into(), [4, 4], vec![8.0, 7.0, 1.0, 0.5]),
        matrix("whole".into(), [4, 4], vec![2.0; 4]),
    ]);
    for (min_ratio, factored) in [(0.0, true), (0.5, true), (0.51, false)] {
        let options = PlanOptions { min_ratio, ..PlanOptions::new(0.3) };
        let plan = make_plan(&spectra, &WeLore, &options).unwrap();
        assert_eq!((plan.matrices[0].rank, plan.matrices[1].rank), (2, 4));
        let forms: Vec<bool> = plan.matrices.iter().map(|m| m.is_low_rank()).collect();
        assert_eq!(forms, [factored, false], "min_ratio {min_ratio}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_applied_reduction_is_met_by_the_first_cut_that_does(
        spectra in any_spectra(), uniform in any::<bool>(), err in 0.01..0.99f64,
        min_ratio in 0.0..0.9f64, never_grow in any::<bool>(), storage in any_storage()
    ) {
        let policy: &dyn RankPolicy = if uniform { &Uniform } else { &WeLore };
        let to = |target| PlanOptions { min_ratio, never_grow, storage, ..PlanOptions::to(target) };
        let ranks: usize = spectra.matrices.iter().map(|m| m.full_rank()).sum();
        let removing = |count: f64| {
            make_plan(&spectra, policy, &to(Target::Err((count + 0.5) / ranks as f64))).unwrap()
        };
        match make_plan(&spectra, policy, &to(Target::ErrApplied(err))) {
            Ok(plan) => {
                prop_assert!(plan.totals.err_applied >= err - 1e-8);
                let removed = (plan.totals.err * ranks as f64).round();
                // The same cut, asked for by the number of ranks that it removes. If that is all
                // that can go, no other target asks for it.
                if (removed as usize) < ranks - spectra.matrices.len() {
                    let same = removing(removed);
                    prop_assert_eq!(&same.matrices, &plan.matrices);
                    prop_assert_eq!(same.totals, plan.totals);
                }
                // With one rank less it is not met.
                prop_assert!(removing(removed - 1.0).totals.err_applied < err);
            }
            Err(PlanError::OutOfReach { reachable: Target::ErrApplied(reachable), .. }) => {
                prop_assert!(reachable < err);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn policies_that_weigh_errors_meet_an_applied_reduction(
        spectra in any_spectra(), err in 0.01..0.99f64, rank_multiple in 1usize..4
    ) {
        let options =
            PlanOptions { rank_multiple, ..PlanOptions::to(Target::ErrApplied(err)) };
        match make_plan(&spectra, &Energy, &options) {
            Ok(plan) => prop_assert!(plan.totals.err_applied >= err - 1e-8),
            Err(PlanError::OutOfReach { reachable: Target::ErrApplied(reachable), .. }) => {
                prop_assert!(reachable < err);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

/// What is factored, and at which ranks, if the code of WeLore's authors cuts at a threshold, and
/// the effective rank reduction that it reports: only matrices that lose more than `min_ratio`
/// count.
fn cut_by_the_authors(
    spectra: &Spectra,
    threshold: f64,
    min_ratio: f64,
) -> (Vec<Option<usize>>, f64) {
    let (mut reduced, mut total) = (0, 0);
    let ranks = spectra.matrices.iter().map(|spectrum| {
        let values = &spectrum.singular_values;
        let full = values.len();
        let (max, min) = (values[0], values[full - 1]);
        let pruned = values.iter().filter(|s| (*s - min) / (max - min) < threshold).count();
        total += full;
        let is_factored = pruned as f64 / full as f64 > min_ratio;
        reduced += if is_factored { pruned } else { 0 };
        is_factored.then_some(full - pruned)
    });
    let ranks = ranks.collect();
    (ranks, reduced as f64 / total as f64)
}

#[test]
fn an_applied_reduction_is_counted_as_the_authors_of_welore_count() {
    let spectra = tiny_spectra();
    let mut thresholds = Vec::new();
    for spectrum in &spectra.matrices {
        let values = &spectrum.singular_values;
        let (max, min) = (values[0], values[values.len() - 1]);
        thresholds.extend(values.iter().map(|s| (s - min) / (max - min)));
    }
    thresholds.sort_by(f64::total_cmp);
    // 0.4999 is what they give for 0.5.
    for (err, ours, theirs) in [(0.1, 0.5, 0.4999), (0.3, 0.5, 0.4999), (0.3, 0.0, 0.0)] {
        let options = PlanOptions { min_ratio: ours, ..PlanOptions::to(Target::ErrApplied(err)) };
        let plan = make_plan(&spectra, &WeLore, &options).unwrap();
        let mut cuts = thresholds.iter().map(|t| (*t, cut_by_the_authors(&spectra, *t, theirs)));
        let (threshold, (ranks, reported)) = cuts.find(|(_, cut)| cut.1 >= err).unwrap();
        let planned: Vec<Option<usize>> = plan.matrices.iter().map(|m| m.form.rank()).collect();
        assert_eq!(planned, ranks, "ERR {err} at min_ratio {ours}");
        assert_eq!(plan.threshold, Some(threshold));
        assert!((plan.totals.err_applied - reported).abs() < 1e-12);
        assert!(plan.totals.err >= plan.totals.err_applied);
    }
}

#[test]
fn an_applied_reduction_is_written_into_the_plan_and_checked() {
    let options = PlanOptions::to(Target::ErrApplied(0.3));
    let plan = make_plan(&tiny_spectra(), &WeLore, &options).unwrap();
    let json: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
    assert_eq!(json["target"], serde_json::json!({ "err_applied": 0.3 }));
    assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    for err in [0.0, 1.0, -0.5, f64::NAN] {
        let options = PlanOptions::to(Target::ErrApplied(err));
        let error = make_plan(&small(), &WeLore, &options).unwrap_err();
        assert!(matches!(error, PlanError::Err(_)), "{error}");
    }
    let error = make_plan(&small(), &WeLore, &PlanOptions::to(Target::ErrApplied(0.9)));
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "applied ERR 0.9 is out of reach; the nearest is applied ERR 0.6");
}
