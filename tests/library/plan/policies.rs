//! What a policy may choose and read, and what of it is refused.

use welore_burn::forms::Form;
use welore_burn::plan::{
    Allocation, Choice, Energy, Loss, PlanError, PlanOptions, Probed, RankPlan, RankPolicy,
    RankProblem, make_plan,
};
use welore_burn::spectrum::Spectra;

use super::{Fixed, small};

#[test]
fn a_choice_may_have_a_form_of_its_own() {
    let choice = |rank, form| Choice { rank, form };
    let policy = Fixed(vec![choice(2, Form::pivot(2)), choice(1, Form::factors(1))]);
    let plan = make_plan(&small(), &policy, &PlanOptions::new(0.4)).unwrap();
    let parameters: Vec<u64> = plan.matrices.iter().map(|m| m.parameters_after).collect();
    assert_eq!(parameters, [2 * (4 + 3 - 2), 2 + 5]);
    assert_eq!(plan.matrices[0].form, Form::pivot(2));
    assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    // A matrix whose rank is cut, but which stays dense.
    let policy = Fixed(vec![choice(2, Form::dense()), choice(2, Form::dense())]);
    let plan = make_plan(&small(), &policy, &PlanOptions::new(0.4)).unwrap();
    assert_eq!((plan.totals.lrcs, plan.matrices[0].rank), (0, 2));
}

#[test]
fn allocations_that_cannot_be_are_refused() {
    let dense = Choice { rank: 3, form: Form::dense() };
    let choice = |rank, form| Choice { rank, form };
    for (choices, reason) in [
        (vec![dense], "1 choices for 2 matrices"),
        (vec![dense, choice(3, Form::dense())], "`b`: rank 3"),
        (vec![dense, choice(0, Form::dense())], "`b`: rank 0"),
        (vec![dense, choice(1, Form::factors(2))], "`b`: its rank is 1"),
        (vec![choice(4, Form::factors(4)), choice(2, Form::dense())], "`a`: rank 4"),
    ] {
        let error = make_plan(&small(), &Fixed(choices), &PlanOptions::new(0.4)).unwrap_err();
        assert!(matches!(&error, PlanError::Allocation { policy, .. } if policy == "fixed"));
        assert!(error.to_string().contains(reason), "{error} for {reason}");
    }
}

#[test]
fn policies_read_what_was_measured_of_a_matrix() {
    /// Keeps marked matrices dense.
    #[derive(Debug)]
    struct Marked;
    impl RankPolicy for Marked {
        fn name(&self) -> &'static str {
            "marked"
        }
        fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
            problem.remove_lowest(|spectrum| {
                let bonus = spectrum.measurement("mark").unwrap_or(0.0);
                spectrum.singular_values.iter().map(|s| s + 1e6 * bonus).collect()
            })
        }
    }
    let mut spectra = small();
    spectra.matrices[1].measurements.insert("mark".into(), 1.0);
    let spectra = Spectra::from_json(&spectra.to_json()).unwrap();
    let options = PlanOptions { min_ratio: 0.1, ..PlanOptions::new(0.3) };
    let plan = make_plan(&spectra, &Marked, &options).unwrap();
    assert!(plan.matrices[0].is_low_rank() && !plan.matrices[1].is_low_rank());
    assert_eq!(plan.min_ratio, 0.1, "what decided is stated");
    assert_eq!(make_plan(&spectra, &Energy, &options).unwrap().min_ratio, 0.0);

    let mut broken = small();
    broken.matrices[0].measurements.insert("mark".into(), f64::INFINITY);
    let error = Spectra::new("test", broken.model, broken.matrices).unwrap_err().to_string();
    assert!(error.contains("`a`") && error.contains("`mark`"), "{error}");
}

#[test]
fn policies_that_weigh_the_loss_need_a_calibration() {
    for policy in [&Loss as &dyn RankPolicy, &Probed] {
        let error = make_plan(&small(), policy, &PlanOptions::new(0.4)).unwrap_err();
        assert!(matches!(error, PlanError::NotCalibrated { .. }), "{error}");
    }
}

#[test]
fn a_policy_of_ones_own_is_one_small_piece() {
    /// Keeps the first matrix, `a`, dense.
    #[derive(Debug)]
    struct LastHalf;
    impl RankPolicy for LastHalf {
        fn name(&self) -> &'static str {
            "last-half"
        }
        fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
            problem.remove_lowest(|spectrum| {
                let bonus = if spectrum.name == "a" { 1e6 } else { 0.0 };
                spectrum.singular_values.iter().map(|s| s + bonus).collect()
            })
        }
    }
    let options = PlanOptions { min_ratio: 0.0, ..PlanOptions::new(0.3) };
    let plan = make_plan(&small(), &LastHalf, &options).unwrap();
    assert_eq!(plan.policy, "last-half");
    assert!(!plan.matrices[0].is_low_rank() && plan.matrices[1].is_low_rank());
}
