//! What plans promise about their targets, whatever a policy gives.

use welore_burn::plan::{
    Allocation, Energy, PlanError, PlanOptions, RankPlan, RankPolicy, RankProblem, Uniform, WeLore,
    make_plan,
};
use welore_burn::spectrum::Spectra;

use crate::plan::small;

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
    let given: [(fn(usize) -> Vec<f64>, &str); 7] = [
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
    let edits: [(fn(&mut Spectra), &str); 5] = [
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
