//! What transformers computes of each family beside the forward pass: gradients of one step, and logits of
//! a model that has lost half the ranks of its projections.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};
use welore_burn::compress::compress_module;
use welore_burn::data::TokenRow;
use welore_burn::forms::Form;
use welore_burn::model::{Decoder, load_model, projections};
use welore_burn::plan::{MatrixPlan, RankPlan};
use welore_burn::spectrum::{MeasureOptions, measure_module};
use welore_burn::train::{Batch, MemoryOptions, Trainable, loss_and_gradients};

use crate::decoder::{FAMILIES, load, logits};
use crate::train::chosen;
use crate::{device, expected, fixture, floats, ids};

#[test]
fn gradients_of_one_step_are_those_of_transformers() {
    let device = device().autodiff();
    for name in FAMILIES {
        let figures = expected(name);
        let model = load_model(fixture(name), &device, FloatDType::F32, &mut ()).unwrap().model;
        let model = chosen(model, Trainable::Full);
        let tokens = ids(&figures["input"]);
        let batch = Batch::new(&[TokenRow { tokens: &tokens, given: 1, skipped: &[] }], &device);
        let share = 1.0 / batch.targets() as f64;
        let (_, gradients) = loss_and_gradients(&model, &batch, share, MemoryOptions::default());
        let squares = Squares::of(&model, &gradients);
        let norms = figures["gradients"].as_object().unwrap();
        assert!(norms.len() >= 6, "{name}");
        for (tensor, norm) in norms {
            let parts = squares.iter().filter(|(parameter, _)| is_part_of(parameter, tensor));
            let got = parts.map(|(_, square)| square).sum::<f64>().sqrt();
            let want = norm.as_f64().unwrap();
            assert!((got - want).abs() < 1e-3 * want, "{name}: {got} for {want} of {tensor}");
        }
    }
}

/// The sums of the squares of gradients, by the names that files have for the parameters.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    path: Vec<String>,
    found: Vec<(String, f64)>,
}

impl<'a> Squares<'a> {
    fn of(model: &Decoder, gradients: &'a GradientsParams) -> Vec<(String, f64)> {
        let mut squares = Self { gradients, path: Vec::new(), found: Vec::new() };
        model.visit(&mut squares);
        squares.found
    }
}

impl ModuleVisitor for Squares<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        // The one name that Burn has and files do not.
        self.path.push(if name == "gamma" { "weight" } else { name }.into());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        let square = gradient.square().sum().into_scalar::<f64>();
        self.found.push((self.path.join("."), square));
    }
}

/// Whether a parameter is a tensor of a file, or a part of it: files of gpt-oss have the matrices of all
/// experts of a layer in one.
fn is_part_of(parameter: &str, tensor: &str) -> bool {
    let stack = tensor.split_once(".experts.").filter(|(_, field)| !field.contains('.'));
    let Some((layer, stack)) = stack else { return parameter == tensor };
    let matrix = parameter.strip_prefix(layer).and_then(|rest| rest.strip_prefix(".experts."));
    let matrix = matrix.and_then(|rest| rest.strip_suffix(".weight")?.split_once('.'));
    matrix.is_some_and(|(_, field)| match stack {
        "gate_up_proj" => ["gate_proj", "up_proj"].contains(&field),
        other => field == other,
    })
}

#[test]
fn logits_of_half_the_ranks_are_those_of_transformers() {
    for name in FAMILIES {
        let figures = expected(name);
        let model = halved(load(name).model);
        let all = logits(&model, &ids(&figures["input"]));
        let norms = floats(&figures["compressed_norm"]);
        assert_eq!(all.len(), norms.len(), "{name}");
        for (row, want) in all.iter().zip(norms) {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((norm - want).abs() < 1e-3 * want, "{name}: norm {norm} for {want}");
        }
    }
}

/// The model with half the ranks of all its projections.
fn halved(model: Decoder) -> Decoder {
    let (selection, measuring) = (projections(&model), MeasureOptions::default());
    let spectra = measure_module(&model, &selection, &measuring, &mut ()).unwrap();
    let matrices = spectra.matrices.iter().map(|m| {
        let form = Form::factors((m.full_rank() / 2).max(1));
        MatrixPlan::new(m.name.clone(), m.shape, form, m.dtype)
    });
    let plan = RankPlan::new("half the ranks", spectra.model, matrices.collect()).unwrap();
    compress_module(model, &plan, &mut ()).unwrap().0
}
