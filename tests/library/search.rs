//! Ranks that are searched for on the model: what is tried, what is kept, and what it is worth.

use std::fs;
use std::path::Path;

use welore_burn::compress::compress_module;
use welore_burn::eval::{EvalError, PerplexityOptions, divergence};
use welore_burn::plan::{
    Bolaco, Energy, Lorap, PlanError, PlanOptions, RankPolicy, Searched, Target, make_plan,
};
use welore_burn::search::{SearchError, SearchJob, SearchOptions, SearchOutcome, search};
use welore_burn::spectrum::{Norms, Spectra};

use crate::plan::{matrix, spectra};
use crate::{device, story_tokens, tiny_llama, tiny_spectra};

fn keeping(share: f64) -> PlanOptions {
    PlanOptions::to(Target::KeepParams(share))
}

fn options(evaluations: usize, journal: Option<&Path>) -> SearchOptions {
    let measuring =
        PerplexityOptions { seq_len: 48, windows: Some(2), ..PerplexityOptions::default() };
    let journal = journal.map(Path::to_path_buf);
    // Some of the matrices go to a file.
    SearchOptions {
        evaluations,
        seed: 7,
        measuring,
        memory: 200_000,
        journal,
        ..Default::default()
    }
}

fn search_in(
    spectra: &Spectra,
    policy: &dyn RankPolicy,
    options: &SearchOptions,
) -> Result<SearchOutcome, SearchError> {
    let (model, tokens, plan) = (tiny_llama(&device()), story_tokens(), keeping(0.6));
    let job = SearchJob {
        model: &model,
        spectra,
        norms: Norms::plain(),
        options: &plan,
        tokens: &tokens,
    };
    search(&job, policy, options, &mut ())
}

fn search_tiny(policy: &dyn RankPolicy, options: &SearchOptions) -> SearchOutcome {
    search_in(&tiny_spectra(), policy, options).unwrap()
}

#[test]
fn a_search_begins_without_weights_and_is_never_worse_than_that() {
    for policy in [&Searched as &dyn RankPolicy, &Bolaco] {
        let found = search_tiny(policy, &options(10, None));
        assert_eq!(found.evaluations.len(), 10);
        assert!(found.evaluations[0].point.iter().all(|x| *x == 0.0));
        assert!(found.evaluations[1..].iter().all(|tried| tried.point.iter().any(|x| *x != 0.0)));
        let plan = &found.plan;
        let record = plan.search.as_ref().unwrap();
        assert_eq!(plan.policy, policy.name());
        assert!(plan.totals.keep_params <= 0.6);
        let least = found.evaluations.iter().filter_map(|tried| tried.kl).fold(1e9, f64::min);
        assert_eq!((Some(record.start_kl), record.kl), (found.evaluations[0].kl, least));
        assert!(record.kl <= record.start_kl);
        assert_eq!((record.evaluations, record.windows), (10, [2, 48]));
        let groups = if policy.name() == "bolaco" { 5 } else { 7 };
        assert_eq!(record.multipliers.len(), groups, "{:?}", record.multipliers);
        assert_eq!(record.slope.is_some(), policy.name() == "searched");
        let read = welore_burn::plan::RankPlan::from_json(&plan.to_json()).unwrap();
        assert_eq!(read, *plan, "a plan file has all of it");
    }
}

#[test]
fn what_a_search_measures_is_what_the_compressed_model_predicts() {
    let options = options(1, None);
    let found = search_tiny(&Searched, &options);
    let plan = make_plan(&tiny_spectra(), &Energy, &keeping(0.6)).unwrap();
    assert_eq!(found.plan.matrices, plan.matrices, "without weights it is the plan of `energy`");
    let (compressed, _) = compress_module(tiny_llama(&device()), &plan, &mut ()).unwrap();
    let (dense, tokens) = (tiny_llama(&device()), story_tokens());
    let measured = divergence(&compressed, &dense, &tokens, &options.measuring, &mut ()).unwrap();
    // The dense model's logits are rounded to 16 bits, and those of a component to f32.
    let (kl, found) = (measured.kl.value, found.evaluations[0].kl.unwrap());
    assert!((found - kl).abs() < 1e-3 + 1e-2 * kl, "{found} for {kl}");
}

#[test]
fn a_search_that_was_stopped_ends_as_if_it_had_not_been() {
    let dir = tempfile::tempdir().unwrap();
    for policy in [&Searched as &dyn RankPolicy, &Bolaco] {
        let journal = dir.path().join(policy.name());
        let whole = search_tiny(policy, &options(9, None));
        let first = search_tiny(policy, &options(6, Some(&journal)));
        assert_eq!(first.evaluations, whole.evaluations[..6]);
        // A kill in the middle of a line.
        let text = fs::read(&journal).unwrap();
        fs::write(&journal, &text[..text.len() - 3]).unwrap();
        let rest = search_tiny(policy, &options(9, Some(&journal)));
        assert_eq!((rest.known, &rest.evaluations), (5, &whole.evaluations));
        assert_eq!(rest.plan, whole.plan);
        // Nothing is left to measure.
        let before = fs::read(&journal).unwrap();
        let nowhere = SearchOptions { scratch: "nowhere".into(), ..options(9, Some(&journal)) };
        let again = search_tiny(policy, &nowhere);
        assert_eq!((again.known, &again.plan), (9, &whole.plan));
        assert_eq!(fs::read(&journal).unwrap(), before);
        // Another seed is another search.
        let other = SearchOptions { seed: 8, ..options(9, Some(&journal)) };
        let error = search_in(&tiny_spectra(), policy, &other).unwrap_err();
        assert!(matches!(error, SearchError::OtherSearch { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_searched_is_refused_before_anything_is_measured() {
    let refused = |spectra: &Spectra, policy: &dyn RankPolicy, options: SearchOptions| {
        let nowhere = SearchOptions { scratch: "nowhere".into(), ..options };
        search_in(spectra, policy, &nowhere).unwrap_err()
    };
    let tiny = tiny_spectra();
    let error = refused(&tiny, &Searched, options(0, None));
    assert!(matches!(error, SearchError::Evaluations { asked: 0, .. }), "{error}");
    let error = refused(&tiny, &Energy, options(3, None));
    assert!(matches!(error, SearchError::NoSpace { policy: "energy" }), "{error}");
    let long = PerplexityOptions { seq_len: 513, ..PerplexityOptions::default() };
    let error = refused(&tiny, &Bolaco, SearchOptions { measuring: long, ..options(3, None) });
    assert!(matches!(error, SearchError::Eval(EvalError::Context { .. })), "{error}");
    let mut calibrated = tiny.clone();
    calibrated.calibration = Some("another".into());
    let error = refused(&calibrated, &Bolaco, options(3, None));
    assert!(matches!(error, SearchError::OtherNorms), "{error}");
    // And spectra alone are not enough.
    for policy in [&Searched as &dyn RankPolicy, &Bolaco] {
        let error = make_plan(&tiny, policy, &keeping(0.6)).unwrap_err();
        assert_eq!(error, PlanError::NotSearched { policy: policy.name() });
    }
}

#[test]
fn lorap_keeps_three_times_the_share_of_ranks_of_v_and_o() {
    let flat = |name: &str| matrix(format!("layers.0.{name}"), [64, 64], vec![1.0; 64]);
    let names = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"];
    let spectra = spectra(names.map(flat).to_vec());
    let plan = make_plan(&spectra, &Lorap, &keeping(0.6)).unwrap();
    // Shares s/2, s/2, 3s/2, 3s/2 and s of 64 ranks, at 128 parameters each: s is 0.3.
    let ranks: Vec<usize> = plan.matrices.iter().map(|planned| planned.rank).collect();
    for (rank, exact) in ranks.iter().zip([9.6, 9.6, 28.8, 28.8, 19.2]) {
        assert!((*rank as f64 - exact).abs() <= 1.0, "{ranks:?}");
    }
    let kept: u64 = plan.matrices.iter().map(|planned| planned.parameters_after).sum();
    assert!((12288 - 128..=12288).contains(&kept), "no further rank fits: {kept}");
}
