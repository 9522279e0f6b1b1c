//! What plans and spectra state, in files and made by hand, and which of them are refused.

use safetensors::Dtype;
use serde_json::Value;
use welore_burn::forms::Form;
use welore_burn::plan::{
    Constraint, Energy, ExpectedSpeed, MatrixPlan, PlanOptions, Prospect, RankPlan, Target, WeLore,
    make_plan,
};
use welore_burn::spectrum::{ModelSize, Spectra, SpectrumUnit};

use super::{matrix, small, spectra};

#[test]
fn plans_are_made_by_hand_and_checked() {
    let size = ModelSize { parameters: 100, bytes: 400 };
    let make = |matrices| RankPlan::new("by hand", size, matrices);
    let matrix = |name: &str, form| MatrixPlan::new(name, [4, 6], form, Dtype::F32);
    let plan = make(vec![matrix("a", Form::factors(2)), matrix("b", Form::dense())]).unwrap();
    assert_eq!((plan.policy.as_str(), plan.target), ("custom", None));
    assert_eq!((plan.totals.lrcs, plan.totals.parameters_after), (1, 100 - 24 + 20));
    assert_eq!(RankPlan::from_json(&plan.to_json()).unwrap(), plan);
    let refused = |matrices| make(matrices).unwrap_err().to_string();
    assert!(refused(vec![]).contains("no matrix"));
    assert!(refused(vec![matrix("a", Form::factors(5))]).contains("`a`: rank 5"));
    assert!(
        refused(vec![matrix("a", Form::dense()), matrix("a", Form::dense())]).contains("twice")
    );
    let many = (0..5).map(|i| matrix(&i.to_string(), Form::dense())).collect();
    assert!(refused(many).contains("more parameters than the model"));
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

/// A model of one dense matrix of this shape and one in a form.
fn speed_with(form: Form) -> ExpectedSpeed {
    let size = ModelSize { parameters: 2 * 1536 * 576 + 1000, bytes: 4 * (2 * 1536 * 576 + 1000) };
    let matrix = |name: &str, form| MatrixPlan::new(name, [1536, 576], form, Dtype::F32);
    let matrices = vec![matrix("a", Form::dense()), matrix("b", form)];
    RankPlan::new("by hand", size, matrices).unwrap().totals.expected_speed
}

#[test]
fn a_dense_model_is_expected_to_be_as_fast_as_it_is_and_less_rank_to_be_faster() {
    let same = ExpectedSpeed { many_tokens: 1.0, one_token: 1.0 };
    assert_eq!(speed_with(Form::dense()), same);
    for form in [Form::factors, Form::pivot] {
        let speeds = [400, 300, 200, 100, 10].map(|rank| speed_with(form(rank)));
        for pair in speeds.windows(2) {
            assert!(pair[0].many_tokens < pair[1].many_tokens, "{speeds:?}");
            assert!(pair[0].one_token < pair[1].one_token, "{speeds:?}");
        }
        assert!(speeds[4].many_tokens > 1.0 && speeds[4].one_token > 1.0, "{speeds:?}");
    }
    // Two products with as many multiplications as one take longer.
    let equal = 1536 * 576 / (1536 + 576);
    assert!(speed_with(Form::factors(equal)).many_tokens < 1.0);
}

#[test]
fn possible_edits_are_counted_anew() {
    let plan = make_plan(&small(), &WeLore, &PlanOptions::new(0.4)).unwrap();
    let mut value: Value = serde_json::from_str(&plan.to_json()).unwrap();
    value["matrices"][0]["rank"] = 1.into();
    value["matrices"][0]["form"] = serde_json::json!({ "kind": "factors", "rank": 1 });
    value["totals"]["expected_speed"] = serde_json::json!({ "many_tokens": 9, "one_token": 9 });
    let edited = RankPlan::from_json(&value.to_string()).unwrap();
    assert!(edited.totals.expected_speed.many_tokens < 2.0, "{:?}", edited.totals);
    let (before, after) =
        (edited.matrices[0].parameters_before, edited.matrices[0].parameters_after);
    assert_eq!((before, after), (12, 7));
    assert_eq!(edited.totals.lrcs, edited.low_rank().count());
    assert!(edited.totals.parameters_after <= plan.totals.parameters_after);
    // Absurd sizes saturate; they do not overflow.
    let mut absurd = value.clone();
    absurd["totals"]["parameters_before"] = u64::MAX.into();
    absurd["totals"]["bytes_before"] = u64::MAX.into();
    assert!(RankPlan::from_json(&absurd.to_string()).is_ok());
    absurd["matrices"][0]["shape"] = serde_json::json!([usize::MAX, 3]);
    assert!(RankPlan::from_json(&absurd.to_string()).is_err());
    value["totals"]["parameters_before"] = 3.into();
    assert!(RankPlan::from_json(&value.to_string()).unwrap_err().to_string().contains("totals"));
}

/// Two matrices, of which `a` loses its two smallest singular values and `b` stays dense.
#[test]
fn a_plan_states_what_its_cut_is_expected_to_cost() {
    let planned_in = |parameters: u64, scale: f64, unit: SpectrumUnit| {
        let values = [4.0, 2.0, 1.0, 1.0].map(|value| value * scale).to_vec();
        let [a, b] = ["a", "b"].map(|name| matrix(name.into(), [4, 8], values.clone()));
        let mut spectra = spectra(vec![a, b]);
        spectra.unit = unit;
        spectra.model = ModelSize { parameters, bytes: 4 * parameters };
        let constraints = vec![Constraint::keep_dense("b"), Constraint::set_rank("a", 2)];
        let options = PlanOptions { constraints, ..PlanOptions::to(Target::KeepParams(0.9)) };
        make_plan(&spectra, &Energy, &options).unwrap()
    };
    // They are the whole model.
    let planned = |scale, unit| planned_in(64, scale, unit);
    let estimates = |plan: &RankPlan| (plan.totals.expected_loss, plan.totals.energy_lost);
    let blind = planned(1.0, SpectrumUnit::Weights);
    assert_eq!(estimates(&blind), (None, Some(2.0 / 44.0)));
    assert_eq!(blind.prospect(), Some(Prospect::RuinedUncalibrated { cut: 2.0 / 44.0 }));
    // As a part of a model they matter less.
    let of_part = |parameters| planned_in(parameters, 1.0, SpectrumUnit::Weights).prospect();
    assert_eq!(of_part(128), Some(Prospect::WorseUncalibrated { cut: 2.0 / 44.0 }));
    assert_eq!(of_part(640), None);
    assert_eq!(estimates(&planned(1.0, SpectrumUnit::Inputs)), (None, None));
    assert_eq!(estimates(&planned(1.0, SpectrumUnit::Loss)), (Some(1.0), None));
    let said = |scale: f64| planned(scale, SpectrumUnit::Loss).prospect();
    assert_eq!(said(0.5), None);
    assert!(matches!(said(0.75), Some(Prospect::Worse { perplexity }) if perplexity < 1.8));
    assert!(matches!(said(2.0), Some(Prospect::Ruined { perplexity }) if perplexity > 54.0));
    // An estimate for other ranks is not kept.
    let mut edited = blind.clone();
    assert_eq!(edited.clone().checked().unwrap(), blind);
    edited.matrices[0].rank = 1;
    edited.matrices[0].form = Form::factors(1);
    assert_eq!(estimates(&edited.checked().unwrap()), (None, None));
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
    assert!(edited(&|v| v["matrices"][0]["shape"][0] = 0.into()).contains("impossible"));
    assert!(edited(&|v| v["matrices"][0]["shape"][0] = u64::MAX.into()).contains("impossible"));
}
