//! What plans promise about limits on single matrices: forms that are fixed, lowest and highest
//! ranks, and the least that factoring has to save.

use proptest::prelude::*;
use welore_burn::forms::{Form, Storage};
use welore_burn::modules::{MatrixName, Selection};
use welore_burn::plan::{
    Choice, Constraint, Energy, PlanColumn, PlanError, PlanOptions, RankPlan, RankPolicy, Target,
    Uniform, WeLore, make_plan,
};
use welore_burn::spectrum::{MatrixSpectrum, Spectra};

use crate::plan::{
    Fixed, any_spectra, any_storage, best_loss, matrix, relative_loss, small, spectra,
};
use crate::targets::{any_policy, any_target, probed};

/// A constraint on one matrix, at a rank of this number; 0 keeps it dense.
fn constraint(matrix: &MatrixSpectrum, number: usize) -> Constraint {
    match number % matrix.full_rank() {
        0 => Constraint::keep_dense(matrix.name.as_str()),
        rank => Constraint::set_rank(matrix.name.as_str(), rank),
    }
}

fn form(constraint: &Constraint, storage: Storage) -> Form {
    constraint.rank.map_or(Form::dense(), |rank| storage.at_rank(rank))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_fixed_matrix_is_a_matrix_left_out_at_its_cost(
        spectra in any_spectra(), policy in any_policy(), share in 0.05..0.95f64,
        which in 0usize..8, number in 0usize..20, storage in any_storage(), min_ratio in 0.0..0.9f64
    ) {
        prop_assume!(spectra.matrices.len() > 1);
        let spectra = probed(spectra);
        let mut others = spectra.clone();
        let matrix = others.matrices.remove(which % spectra.matrices.len());
        let constraint = constraint(&matrix, number);
        let bytes = |form: Form| form.bytes(matrix.shape, matrix.dtype);
        let most = (share * spectra.model.bytes as f64) as u64;
        let for_others = (most + bytes(Form::dense())).checked_sub(bytes(form(&constraint, storage)));
        prop_assume!(for_others.is_some());
        let to = |most, constraints| PlanOptions {
            min_ratio, storage, constraints, ..PlanOptions::to(Target::MaxBytes(most))
        };
        let whole = make_plan(&spectra, policy, &to(most, vec![constraint.clone()]));
        let rest = make_plan(&others, policy, &to(for_others.unwrap(), Vec::new()));
        prop_assert_eq!(whole.is_ok(), rest.is_ok(), "{:?} for {:?}", whole, rest);
        let (Ok(mut whole), Ok(rest)) = (whole, rest) else { return Ok(()) };
        let fixed = whole.matrices.remove(which % spectra.matrices.len());
        prop_assert_eq!((fixed.form, fixed.fixed), (form(&constraint, storage), true));
        prop_assert_eq!(whole.matrices, rest.matrices);
        prop_assert_eq!(whole.threshold, rest.threshold);
        prop_assert!(whole.totals.bytes_after <= most);
    }

    #[test]
    fn the_target_is_met_within_all_limits_or_the_plan_is_refused(
        spectra in any_spectra(), policy in any_policy(), target in any_target(),
        storage in any_storage(), min_ratio in 0.0..0.9f64, min_saving in 0.0..0.5f64,
        (least, more) in (1usize..6, 0usize..12),
        wanted in prop::collection::vec(prop::option::of(0usize..20), 8)
    ) {
        let spectra = probed(spectra);
        let constraints: Vec<Constraint> = spectra
            .matrices
            .iter()
            .zip(wanted)
            .filter_map(|(matrix, number)| Some(constraint(matrix, number?)))
            .collect();
        let options = PlanOptions {
            min_ratio, min_saving, storage, min_rank: Some(least), max_rank: Some(least + more),
            constraints: constraints.clone(), ..PlanOptions::to(target)
        };
        let plan = match make_plan(&spectra, policy, &options) {
            Ok(plan) => plan,
            Err(PlanError::OutOfReach { .. } | PlanError::SetBeyond { .. }) => return Ok(()),
            Err(PlanError::Constraint { name, .. }) => {
                let rank = constraints.iter().find(|c| name == *c.pattern).unwrap().rank.unwrap();
                prop_assert!(!(least..=least + more).contains(&rank), "{rank} is possible");
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        for m in &plan.matrices {
            let asked = constraints.iter().find(|constraint| m.name == *constraint.pattern);
            prop_assert_eq!(m.fixed, asked.is_some());
            match (asked, m.form.rank()) {
                (Some(constraint), _) => prop_assert_eq!(m.form, form(constraint, storage)),
                (None, Some(rank)) => {
                    prop_assert!((least..=least + more).contains(&rank));
                    let saved = m.parameters_before as f64 - m.parameters_after as f64;
                    prop_assert!(saved >= min_saving * m.parameters_before as f64 - 1e-6);
                }
                (None, None) => {}
            }
        }
        let (totals, by_threshold) = (&plan.totals, policy.reads().min_ratio);
        let ranks: usize = plan.matrices.iter().map(|m| m.full_rank).sum();
        match target {
            Target::Err(err) if by_threshold => {
                prop_assert!((totals.err - err).abs() * ranks as f64 <= 1.0 + 1e-6);
            }
            Target::Err(err) => prop_assert!(totals.err >= err - 1e-8),
            Target::ErrApplied(err) => prop_assert!(totals.err_applied >= err - 1e-8),
            Target::KeepParams(share) => prop_assert!(totals.keep_params <= share + 1e-12),
            Target::MaxBytes(bytes) => prop_assert!(totals.bytes_after <= bytes),
        }
        prop_assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    }

    #[test]
    fn no_allocation_within_the_limits_loses_less_for_a_smaller_budget(
        shapes in prop::collection::vec((1usize..12, 1usize..12), 1..4),
        decay in 0.1..0.95f64, share in 0.2..0.95f64, storage in any_storage(),
        min_saving in 0.0..0.4f64, least in 1usize..4, more in 0usize..8, number in 0usize..12
    ) {
        let named = shapes.iter().enumerate().map(|(i, &(m, n))| {
            let values = (0..m.min(n)).map(|k| decay.powi((k * (i + 1)) as i32)).collect();
            matrix(format!("m.{i}"), [m, n], values)
        });
        let spectra = spectra(named.collect());
        let constraints = vec![constraint(&spectra.matrices[0], number)];
        let set = constraints[0].rank;
        let limits = least..=least + more;
        prop_assume!(set.is_none_or(|rank| limits.contains(&rank)));
        let options = PlanOptions {
            min_saving, storage, min_rank: Some(least), max_rank: Some(least + more), constraints,
            ..PlanOptions::to(Target::KeepParams(share))
        };
        let Ok(plan) = make_plan(&spectra, &Energy, &options) else { return Ok(()) };
        let ranks: Vec<Option<usize>> = plan.matrices.iter().map(|m| m.form.rank()).collect();
        let choices: Vec<Vec<Option<usize>>> = spectra
            .matrices
            .iter()
            .enumerate()
            .map(|(index, m)| {
                let saves = |rank: &usize| {
                    let saved = m.parameters() as f64 - storage.at_rank(*rank).parameters(m.shape) as f64;
                    saved >= min_saving * m.parameters() as f64
                };
                let possible = (1..m.full_rank()).filter(|rank| limits.contains(rank) && saves(rank));
                match index {
                    0 => vec![set],
                    _ => possible.map(Some).chain([None]).collect(),
                }
            })
            .collect();
        // The last step along a hull may not fit; the largest step is a whole matrix.
        let all: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
        let largest = spectra.matrices.iter().map(MatrixSpectrum::parameters).max().unwrap();
        let smaller = ((share * all as f64) as u64).saturating_sub(largest);
        let (ours, best) =
            (relative_loss(&spectra, &ranks), best_loss(&spectra, &choices, storage, smaller));
        prop_assert!(ours <= best + 1e-9, "{ours} for {best}");
    }
}

/// Two matrices of 100 parameters. With pivots, `flat` at rank 9 has 99.
fn flat_and_steep() -> Spectra {
    let flat = [vec![10.0; 9], vec![0.0]].concat();
    let steep = vec![10.0, 9.0, 8.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
    spectra(vec![matrix("flat".into(), [10, 10], flat), matrix("steep".into(), [10, 10], steep)])
}

#[test]
fn a_matrix_that_would_save_little_stays_dense_and_others_save_it() {
    // 150 of 200 parameters. At ranks 1 to 3, `steep` has 19, 36 and 51.
    let goal = PlanOptions::to(Target::KeepParams(0.75));
    let options = PlanOptions { min_ratio: 0.0, storage: Storage::Pivot, ..goal };
    let ranks = |options: &PlanOptions| {
        let plan = make_plan(&flat_and_steep(), &WeLore, options).unwrap();
        assert!(plan.totals.keep_params <= 0.75);
        assert_eq!(plan.min_saving, options.min_saving);
        plan.matrices.iter().map(|m| m.form.rank()).collect::<Vec<_>>()
    };
    assert_eq!(options.min_saving, 0.05, "the default of targets in parameters");
    assert_eq!(ranks(&options), [None, Some(2)]);
    assert_eq!(ranks(&PlanOptions { min_saving: 0.01, ..options.clone() }), [Some(9), Some(3)]);
    assert_eq!(ranks(&PlanOptions { min_saving: 0.0, ..options.clone() }), [Some(9), Some(3)]);
    // What is set is wanted, however little it saves.
    let constraints = vec![Constraint::set_rank("flat", 9)];
    assert_eq!(ranks(&PlanOptions { constraints, ..options }), [Some(9), Some(3)]);
}

#[test]
fn targets_in_ranks_set_no_least_saving_as_in_the_paper() {
    for target in [Target::Err(0.5), Target::ErrApplied(0.5)] {
        assert_eq!(PlanOptions::to(target).min_saving, 0.0);
    }
    assert_eq!(PlanOptions::to(Target::MaxBytes(1)).min_saving, PlanOptions::MIN_SAVING);
}

#[test]
fn ranks_stay_between_the_limits() {
    let to = |min_rank, max_rank| {
        let goal = PlanOptions::to(Target::ErrApplied(0.2));
        let options = PlanOptions { min_ratio: 0.0, min_rank, max_rank, ..goal };
        let plan = make_plan(&flat_and_steep(), &Uniform, &options).unwrap();
        plan.matrices.iter().map(|m| m.form.rank()).collect::<Vec<_>>()
    };
    assert_eq!(to(None, None), [Some(8), Some(8)]);
    // Above rank 5 a matrix stays dense, so the first one to get there meets the target alone.
    assert_eq!(to(None, Some(5)).iter().flatten().collect::<Vec<_>>(), [&5]);
    let error = make_plan(
        &flat_and_steep(),
        &WeLore,
        &PlanOptions { min_rank: Some(6), min_ratio: 0.0, ..PlanOptions::new(0.6) },
    );
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "ERR 0.6 is out of reach; the nearest is ERR 0.4 with min_rank 6");
}

#[test]
fn constraints_that_cannot_be_are_refused_with_the_matrix() {
    let options = |constraints: Vec<Constraint>| PlanOptions {
        constraints,
        ..PlanOptions::to(Target::KeepParams(0.9))
    };
    fn dense(pattern: &str) -> Constraint {
        Constraint::keep_dense(pattern)
    }
    fn set(pattern: &str, rank: usize) -> Constraint {
        Constraint::set_rank(pattern, rank)
    }
    let few = PlanOptions { min_rank: Some(3), ..options(vec![set("steep", 2)]) };
    let many = PlanOptions { max_rank: Some(3), ..options(vec![set("steep", 4)]) };
    let grown = PlanOptions { never_grow: true, ..options(vec![set("steep", 6)]) };
    for (options, reason) in [
        (options(vec![dense("stepe")]), "no planned matrix matches `stepe`"),
        (options(vec![dense("[")]), "`[` is not a valid pattern"),
        (options(vec![set("steep", 10)]), "matrix `steep`: rank 10 is not above 0 and below"),
        (options(vec![set("steep", 0)]), "matrix `steep`: rank 0 is not above 0"),
        (options(vec![set("*", 2), set("steep", 3)]), "`*` sets rank 2, but `steep` sets rank 3"),
        (options(vec![dense("st*"), set("steep", 3)]), "`st*` keeps it dense, but `steep` sets"),
        (few, "matrix `steep`: set to rank 2, it would have a rank below min_rank"),
        (many, "matrix `steep`: set to rank 4, it would have a rank above max_rank"),
        (grown, "matrix `steep`: set to rank 6, it would grow, which never_grow forbids"),
        (
            options(vec![dense("*")]),
            "; the nearest is a share of 1 of the parameters with 2 matrices",
        ),
    ] {
        for policy in [&WeLore as &dyn RankPolicy, &Uniform, &Energy] {
            let error = make_plan(&flat_and_steep(), policy, &options).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} for {reason}");
        }
    }
    // Before any spectra: names and shapes are enough.
    let matrices = ["flat", "steep"].map(|name| (MatrixName::from(name), [10, 10]));
    let refused = options(vec![set("steep", 10)]).check_matrices(&matrices);
    assert!(matches!(refused, Err(PlanError::Constraint { name, .. }) if name == "steep"));
    let refused = options(vec![dense("flatt")]).check_matrices(&matrices).unwrap_err();
    let meant = Some("flat".to_string());
    assert_eq!(refused, PlanError::UnmatchedPattern { pattern: "flatt".into(), meant });
    // Twice the same is no disagreement.
    options(vec![set("*", 3), set("steep", 3)]).check_matrices(&matrices).unwrap();
}

#[test]
fn limits_out_of_range_are_refused() {
    let options = PlanOptions { min_rank: Some(3), max_rank: Some(2), ..PlanOptions::new(0.4) };
    assert_eq!(options.check(), Err(PlanError::RankRange { min: 3, max: 2 }));
    for min_saving in [1.0, -0.1, f64::NAN] {
        let options = PlanOptions { min_saving, ..PlanOptions::new(0.4) };
        assert!(matches!(options.check(), Err(PlanError::MinSaving(_))));
    }
}

#[test]
fn ranks_that_are_set_may_not_go_beyond_an_err_that_is_never_exceeded() {
    let constraints = vec![Constraint::set_rank("flat", 4)];
    let to = |err| PlanOptions { constraints: constraints.clone(), ..PlanOptions::new(err) };
    let error = make_plan(&flat_and_steep(), &WeLore, &to(0.1)).unwrap_err();
    assert_eq!(error, PlanError::SetBeyond { err: 0.1, removed: 0.3 });
    // Where an ERR is the least that is wanted, more will do.
    let plan = make_plan(&flat_and_steep(), &Energy, &to(0.1)).unwrap();
    assert_eq!(plan.matrices[0].form, Form::factors(4));
    // All ranks set, just as many as are asked for.
    let constraints = vec![Constraint::set_rank("*", 7)];
    let options = PlanOptions { constraints, ..PlanOptions::new(0.3) };
    let plan = make_plan(&flat_and_steep(), &WeLore, &options).unwrap();
    assert!(plan.matrices.iter().all(|m| m.form == Form::factors(7) && m.fixed));
}

#[test]
fn a_policy_that_chooses_otherwise_is_refused() {
    let choice = |rank, form| Choice { rank, form };
    let choices = vec![choice(2, Form::factors(2)), choice(2, Form::dense())];
    let refused = |options: PlanOptions| {
        let error = make_plan(&small(), &Fixed(choices.clone()), &options).unwrap_err();
        assert!(matches!(&error, PlanError::Allocation { policy, .. } if policy == "fixed"));
        error.to_string()
    };
    let options = || PlanOptions::new(0.4);
    let constraints = vec![Constraint::keep_dense("a")];
    assert!(refused(PlanOptions { constraints, ..options() }).contains("`a` has another form"));
    assert!(refused(PlanOptions { max_rank: Some(1), ..options() }).contains("`a` would have"));
    assert!(refused(PlanOptions { min_saving: 0.1, ..options() }).contains("`a` would save"));
    let constraints = vec![Constraint::set_rank("a", 2), Constraint::keep_dense("b")];
    make_plan(&small(), &Fixed(choices.clone()), &PlanOptions { constraints, ..options() })
        .unwrap();
}

#[test]
fn a_plan_is_a_table_sorted_and_filtered() {
    let flat = |name: &str| matrix(name.into(), [8, 4], vec![4.0, 3.0, 2.0, 1.0]);
    let spectra = spectra(vec![flat("a.10.up"), flat("a.9.up"), flat("a.9.\u{1b}down")]);
    let constraints = vec![
        Constraint::set_rank("a.10.up", 1),
        Constraint::set_rank("*down", 2),
        Constraint::keep_dense("a.9.up"),
    ];
    let options = PlanOptions { constraints, ..PlanOptions::to(Target::KeepParams(0.9)) };
    let plan = make_plan(&spectra, &Energy, &options).unwrap();
    let text = plan.to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.starts_with("matrix"), "{text}");
    for words in ["1 of 4   37.5%  two factors of rank 1, fixed", "2 of 3 matrices are factored"] {
        assert!(text.contains(words), "{text}");
    }
    let first_words = |table: String| {
        let words = |line: &str| line.split_whitespace().next().unwrap().to_string();
        table.lines().skip(1).map(words).collect::<Vec<_>>()
    };
    let by = |column| first_words(plan.table().sorted_by(column).to_string());
    let [ten, nine, down] = ["a.10.up", "a.9.up", "a.9.\\u{1b}down"].map(String::from);
    assert_eq!(by(PlanColumn::Matrix), [down.clone(), nine.clone(), ten.clone()]);
    assert_eq!(by(PlanColumn::Kept), [ten.clone(), down.clone(), nine.clone()]);
    assert_eq!(by(PlanColumn::Rank), [ten.clone(), down.clone(), nine.clone()]);
    assert_eq!(by(PlanColumn::Form), [nine.clone(), ten.clone(), down.clone()]);
    assert_eq!(by(PlanColumn::Shape), [ten.clone(), nine.clone(), down]);
    let ups = plan.table().filtered(&Selection::of(["up"]).unwrap());
    assert_eq!(first_words(ups.to_string()), [ten, nine]);
}

#[test]
fn a_plan_file_says_what_was_fixed_and_limited() {
    let options = PlanOptions {
        constraints: vec![Constraint::keep_dense("flat")],
        min_rank: Some(2),
        max_rank: Some(9),
        ..PlanOptions::to(Target::KeepParams(0.8))
    };
    let plan = make_plan(&flat_and_steep(), &Energy, &options).unwrap();
    let json: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
    assert_eq!(json["matrices"][0]["fixed"], true);
    assert!(json["matrices"][1].get("fixed").is_none());
    let limits = ["min_saving", "min_rank", "max_rank"].map(|field| json[field].clone());
    assert_eq!(limits, [0.05.into(), 2.into(), serde_json::Value::from(9)]);
    assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
}
