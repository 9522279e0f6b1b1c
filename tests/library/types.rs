//! Types within a budget, and what the file that has them loses.

use std::num::NonZeroUsize;

use burn::tensor::FloatDType;
use tempfile::tempdir;
use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
use welore_burn::eval::{PerplexityOptions, divergence};
use welore_burn::files::OutputDir;
use welore_burn::ggml::TensorType;
use welore_burn::gguf::{GgufConversion, GgufExport, GgufOptions, convert_gguf};
use welore_burn::model::{Decoder, LanguageModel, load_model, open_model};
use welore_burn::named::Named;
use welore_burn::types::{
    QuantizedSource, Rounding, StoredModel, TensorCosts, TypeBudget, TypeCost, TypePlan,
    TypePlanError, TypePlanFileError, TypesError, candidates, measure_stored, token_matrices,
};

use crate::{device, fixture, story_tokens, tiny_llama};

const TYPES: [TensorType; 4] =
    [TensorType::Q8_0, TensorType::Q5_0, TensorType::Q4_0, TensorType::F16];

/// What a matrix costs if its loss falls with its bits, from a loss of `weight` with none.
fn costs(tensor: &str, shape: [usize; 2], weight: f64) -> TensorCosts {
    let cost = |(tensor_type, bytes): (TensorType, u64)| {
        let bits = 8.0 * bytes as f64 / (shape[0] * shape[1]) as f64;
        TypeCost { tensor_type, bytes, loss: weight * (-bits).exp2() }
    };
    let candidates = candidates(shape, &TYPES).map(cost).collect();
    TensorCosts { tensor: tensor.into(), shape, digest: format!("of {tensor}"), candidates }
}

/// An embedding and six projections, some of which lose more than others.
fn of_model() -> Vec<TensorCosts> {
    let projections = (0..6).map(|layer| {
        let name = format!("model.layers.{layer}.mlp.up_proj.weight");
        costs(&name, [96 + 32 * layer, 64], [1.0, 50.0, 3.0, 0.1, 20.0, 7.0][layer])
    });
    [costs("model.embed_tokens.weight", [512, 64], 40.0)].into_iter().chain(projections).collect()
}

fn shapes(costs: &[TensorCosts]) -> Vec<(String, [usize; 2])> {
    costs.iter().map(|costs| (costs.tensor.clone(), costs.shape)).collect()
}

#[test]
fn bits_of_projections_are_never_more_than_asked_and_less_than_a_step_below() {
    let costs = of_model();
    let weights: usize = costs[1..].iter().map(|costs| costs.shape[0] * costs.shape[1]).sum();
    // From 8.5 to 16 bits of the largest matrix.
    let step = 7.5 * (256 * 64) as f64 / weights as f64;
    let mut losses = vec![f64::INFINITY];
    for bits in [4.5, 4.6, 5.1, 6.3, 8.5, 12.0, 16.0] {
        let plan = TypePlan::new("", "", &costs, 0, TypeBudget::Bits(bits)).unwrap();
        assert!(plan.bits() <= bits && plan.bits() > bits - step, "{} of {bits}", plan.bits());
        assert!(plan.expected_loss < *losses.last().unwrap() || bits == 4.6, "at {bits}");
        losses.push(plan.expected_loss);
    }
}

#[test]
fn the_embedding_gets_the_type_of_a_projection_that_is_worth_as_much() {
    let mut costs = of_model();
    let twin =
        TensorCosts { tensor: "model.layers.9.mlp.up_proj.weight".into(), ..costs[0].clone() };
    costs.push(twin);
    let sizes = [TensorType::Q4_0, TensorType::Q5_0, TensorType::Q8_0, TensorType::F16];
    let chosen = |bits: f64| {
        let plan = TypePlan::new("", "", &costs, 0, TypeBudget::Bits(bits)).unwrap();
        let place =
            |at: usize| sizes.iter().position(|t| *t == plan.matrices[at].tensor_type).unwrap();
        (place(0), place(costs.len() - 1))
    };
    for bits in [4.5, 4.8, 5.6, 7.0, 9.0, 13.0, 16.0] {
        // The budget may end at the twin.
        let (embedding, twin) = chosen(bits);
        assert!(embedding.abs_diff(twin) <= 1, "{embedding} and {twin} at {bits}");
    }
    assert_eq!((chosen(4.5), chosen(16.0)), ((0, 0), (3, 3)));
    assert!(chosen(9.0).0 >= 1);
}

#[test]
fn budgets_that_no_types_meet_are_refused_with_what_can_be_met() {
    let costs = of_model();
    let shapes = shapes(&costs);
    let refused = |budget: TypeBudget| budget.check(&shapes, &TYPES, 1000).unwrap_err();
    for bits in [4.49, 16.01, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        match refused(TypeBudget::Bits(bits)) {
            TypePlanError::BitsOutOfReach { least, most, .. } => {
                assert_eq!((least, most), (4.5, 16.0));
            }
            other => panic!("{other:?}"),
        }
    }
    for bits in [4.5, 16.0] {
        TypeBudget::Bits(bits).check(&shapes, &TYPES, 1000).unwrap();
    }
    let smallest: u64 =
        costs.iter().map(|costs| costs.candidates.iter().map(|c| c.bytes).min().unwrap()).sum();
    match refused(TypeBudget::MaxBytes(smallest + 999)) {
        TypePlanError::OutOfReach { reachable, .. } => assert_eq!(reachable, smallest + 1000),
        other => panic!("{other:?}"),
    }
    TypeBudget::MaxBytes(smallest + 1000).check(&shapes, &TYPES, 1000).unwrap();
    let q4_k = TypeBudget::Bits(5.0).check(&shapes, &[TensorType::Q4K], 0);
    assert!(matches!(q4_k, Err(TypePlanError::NoType { columns: 64, .. })), "{q4_k:?}");
}

#[test]
fn plans_are_read_as_they_were_written_and_impossible_ones_are_refused() {
    let mut plan = TypePlan::new("tiny", "seen", &of_model(), 9, TypeBudget::Bits(6.0)).unwrap();
    for measured in [None, Some(0.25)] {
        plan.measured_kl = measured;
        assert_eq!(TypePlan::from_json(&plan.to_json()).unwrap(), plan);
    }
    let text = plan.to_json();
    assert!(text.contains("\"bits\": 6.0"), "{text}");
    for (from, to) in [
        ("\"type\": \"", "\"type\": \"x"),
        ("\"digest\"", "\"digset\""),
        ("        512,", "        -1,"),
    ] {
        assert!(text.contains(from), "{from}");
        let read = TypePlan::from_json(&text.replacen(from, to, 1));
        assert!(matches!(read, Err(TypePlanFileError::Json(_))), "{from}");
    }
    let read = TypePlan::from_json(&text.replacen("        512,", "        0,", 1));
    assert!(matches!(read, Err(TypePlanFileError::Shape(_))), "{read:?}");
    let read = TypePlan::from_json(&text.replace("welore-types", "welore-plan"));
    assert!(matches!(read, Err(TypePlanFileError::Format(_))), "{read:?}");
}

/// A plan for tiny-llama in these types, one after the other, with made up losses.
fn tiny_plan() -> (TypePlan, Vec<String>) {
    let opened = open_model(fixture("tiny-llama"), &device()).unwrap();
    let projections = opened.skeleton().matrices().into_iter().map(|matrix| matrix.name.weight());
    let tensors: Vec<String> =
        token_matrices(&opened.checkpoint).into_iter().chain(projections).collect();
    let costs = tensors.iter().zip(TYPES.iter().cycle()).map(|(tensor, tensor_type)| {
        let shape = opened.checkpoint.matrix_shape(tensor).unwrap();
        let (tensor_type, bytes) = candidates(shape, &[*tensor_type]).next().unwrap();
        TensorCosts {
            tensor: tensor.clone(),
            shape,
            digest: opened.checkpoint.digest(tensor).unwrap(),
            candidates: vec![TypeCost { tensor_type, bytes, loss: 0.5 }],
        }
    });
    let costs: Vec<TensorCosts> = costs.collect();
    let plan = TypePlan::new("tiny", "", &costs, 0, TypeBudget::MaxBytes(u64::MAX)).unwrap();
    (plan, tensors)
}

#[test]
fn a_plan_is_refused_for_other_matrices_and_other_weights() {
    let (plan, tensors) = tiny_plan();
    let opened = open_model(fixture("tiny-llama"), &device()).unwrap();
    plan.check(&opened.checkpoint, &tensors).unwrap();
    type Change = fn(&mut TypePlan);
    let changes: [(Change, &str); 5] = [
        (|plan| drop(plan.matrices.remove(3)), "has no type in it"),
        (|plan| plan.matrices.push(plan.matrices[3].clone()), "twice"),
        (|plan| plan.matrices[3].tensor = "model.norm.weight".into(), "has no type in it"),
        (|plan| plan.matrices[3].shape = [64, 32], "[64, 32] in it"),
        (|plan| plan.matrices[3].digest = "other".into(), "weights other than"),
    ];
    for (change, said) in changes {
        let mut changed = plan.clone();
        change(&mut changed);
        match changed.check(&opened.checkpoint, &tensors) {
            Err(error @ TypesError::Foreign { .. }) => {
                assert!(error.to_string().contains(said), "{error}");
            }
            other => panic!("{said}: {other:?}"),
        }
    }
    let mut wide = plan.clone();
    wide.matrices[3].tensor_type = TensorType::Q4K;
    let error = wide.check(&opened.checkpoint, &tensors).unwrap_err();
    assert!(error.to_string().contains("which q4_k cannot hold"), "{error}");
    let fewer = &tensors[..tensors.len() - 1];
    let error = plan.check(&opened.checkpoint, fewer).unwrap_err();
    assert!(error.to_string().contains("is no matrix here"), "{error}");
}

/// The dense model, and what `with` makes of the types of [`tiny_plan`], with the numbers of all
/// tensors that it gave.
fn stored(
    with: impl FnOnce(&GgufExport<'_>, &StoredModel<QuantizedSource<'_>, Decoder>),
) -> (Decoder, Decoder) {
    let (plan, _) = tiny_plan();
    let opened = open_model(fixture("tiny-llama"), &device()).unwrap();
    let types = plan.matrices.iter().map(|matrix| (matrix.tensor.clone(), matrix.tensor_type));
    let options = GgufOptions { tensors: types.collect(), ..GgufOptions::default() };
    let export = GgufExport::new(&opened, &options).unwrap();
    let source = QuantizedSource::new(&opened, None, Rounding::default());
    let dense = tiny_llama(&device());
    let model = StoredModel::new(source, dense.clone());
    with(&export, &model);
    (dense, model.into_model().unwrap())
}

/// The mean KL divergence on windows of 64 tokens.
fn divergence_of(model: &Decoder, dense: &Decoder, text: &[u32]) -> f64 {
    let options = PerplexityOptions { seq_len: 64, ..PerplexityOptions::default() };
    divergence(model, dense, text, &options, &mut ()).unwrap().kl.value
}

#[test]
fn what_is_measured_is_what_is_in_the_file() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let (dense, made) = stored(|export, model| model.make(export.tensors(), &mut ()).unwrap());
    let (_, written) = stored(|export, model| {
        export.write(&file, model, &mut ()).unwrap();
    });
    let output = OutputDir::create(dir.path().join("back"), false).unwrap();
    convert_gguf(&file, GgufConversion::default(), &output, &mut ()).unwrap();
    output.commit().unwrap();
    let back = load_model(dir.path().join("back"), &device(), FloatDType::F32, &mut ()).unwrap();
    let tokens = story_tokens();
    let of_file = divergence_of(&back.model, &dense, &tokens[..128]);
    assert!(of_file > 1e-5, "{of_file}");
    for model in [made, written] {
        let found = divergence_of(&model, &dense, &tokens[..128]);
        assert!((found / of_file - 1.0).abs() < 1e-3, "{found} for {of_file}");
    }
}

#[test]
fn a_file_is_measured_on_the_last_windows_of_the_text() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("calibration");
    let options = CalibrationOptions {
        seq_len: 64,
        windows: Some(4),
        gradient_windows: 0,
        ..CalibrationOptions::default()
    };
    let model = tiny_llama(&device().autodiff());
    calibrate(&model, None, &story_tokens().into(), &options, &path, &mut ()).unwrap();
    let calibration = Calibration::open(&path).unwrap();
    let text = calibration.windows().unwrap();
    let (dense, made) = stored(|export, model| model.make(export.tensors(), &mut ()).unwrap());
    for (windows, first) in [(2, 2), (99, 0)] {
        let one = NonZeroUsize::MIN;
        let found = measure_stored(&made, &dense, &calibration, windows, one, &mut ()).unwrap();
        assert_eq!(found.value, divergence_of(&made, &dense, &text[first..].concat()));
    }
}

#[test]
fn every_projection_has_a_line_that_matches_it_alone() {
    let (plan, tensors) = tiny_plan();
    let told = plan.for_llama_quantize();
    assert_eq!(told.lines.len(), tensors.len() - 1);
    let type_of = |tensor: &str| {
        let found = plan.matrices.iter().find(|matrix| matrix.tensor == tensor).unwrap();
        found.tensor_type.name().to_uppercase()
    };
    let line = told.lines.iter().find(|line| line.contains(r"blk\.1\.attn_q\.")).unwrap();
    let q_proj = type_of("model.layers.1.self_attn.q_proj.weight");
    let (pattern, dtype) = line.split_once('=').unwrap();
    assert_eq!((pattern, dtype.to_uppercase()), (r"^blk\.1\.attn_q\.weight$", q_proj));
    let patterns = told.lines.iter().map(|line| line.split_once('=').unwrap().0);
    for pattern in patterns {
        let whole = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')).unwrap();
        let plain = whole.replace(r"\.", "");
        assert!(plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{pattern}");
    }
    assert_eq!((told.embedding, told.head), (Some(TensorType::Q8_0), None));
    assert_eq!(told.base, "Q8_0");
    assert_eq!(TensorType::Q4K.ggml_name(), "q4_K");
}
