//! The matrices of a model whose types or forms are chosen, and what they cost.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{Calibration, is_token_matrix};
use welore_burn::ggml::TensorType;
use welore_burn::model::{Decoder, LanguageModel, OpenedModel, load_model};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::plan::Candidate;
use welore_burn::types::{
    CostOptions, FormCosts, Rounding, TensorCosts, known_alone, known_scale, measure_alone,
    measure_forms, measure_scale, measure_token_forms, measure_types, token_matrices,
};

use super::kept::Kept;
use super::{Aim, HOW_TO_GIVE, Typing};
use crate::cache::cache_dir;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::calibrating::{Making, settled};
use crate::shared::measuring::budget;
use crate::shared::recipe::{check_gradients, open_calibration};
use crate::terminal::Bar;

/// Windows of the calibration's text on which the types of embedding and head are measured.
const WINDOWS: usize = 8;

/// The dense model, which is loaded when it is first needed.
#[derive(Debug)]
pub struct Dense<'a> {
    dir: &'a Path,
    pub(super) compute: &'a Compute,
    model: Option<Decoder>,
}

impl<'a> Dense<'a> {
    /// The model in a directory.
    pub fn new(dir: &'a Path, compute: &'a Compute) -> Self {
        Self { dir, compute, model: None }
    }

    /// The model.
    pub(super) fn get(&mut self) -> Result<&Decoder> {
        let model = match self.model.take() {
            Some(model) => model,
            None => {
                let mut bar = Bar::default();
                let (device, dtype) = (&self.compute.device, self.compute.dtype);
                let loaded = load_model(self.dir, device, dtype, &mut bar)?;
                bar.finish();
                loaded.model
            }
        };
        Ok(self.model.insert(model))
    }
}

/// The matrices of a dense model, and the types that they may have.
#[derive(Debug)]
pub struct Matrices<'a> {
    pub(super) typing: Typing<'a>,
    pub(super) opened: &'a OpenedModel,
    pub(super) types: Vec<TensorType>,
    /// Those that a calibration knows.
    names: Vec<MatrixName>,
    /// All tensors, with their shapes: embedding and head first.
    pub(super) tensors: Vec<(String, [usize; 2])>,
}

impl<'a> Matrices<'a> {
    /// Of an opened model, which has to be dense.
    pub fn of(typing: Typing<'a>, opened: &'a OpenedModel) -> Result<Self> {
        if let Some(matrix) = opened.compressed.first() {
            let message = format!("`{}` is {}, not dense", matrix.name, matrix.form);
            let hint = "give the dense model; `welore-cli export DIR --gguf FILE` writes this one";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let matrices = opened.skeleton().matrices();
        let names: Vec<MatrixName> = matrices.into_iter().map(|matrix| matrix.name).collect();
        let all = token_matrices(&opened.checkpoint).into_iter();
        let tensors = all
            .chain(names.iter().map(MatrixName::weight))
            .map(|tensor| {
                let shape = opened.checkpoint.matrix_shape(&tensor)?;
                Ok((tensor, shape))
            })
            .collect::<Result<Vec<_>>>()?;
        let types = match typing.options.types.is_empty() {
            true => TensorType::all().iter().copied().filter(|t| is_default(*t)).collect(),
            false => typing.options.types.clone(),
        };
        Ok(Self { typing, opened, types, names, tensors })
    }

    /// The calibration: the one that is given, or kept in the cache, or made, in `scratch` unless it
    /// is to be kept.
    pub fn calibration(&self, aim: &Aim, compute: &Compute, scratch: &Path) -> Result<Calibration> {
        let typing = &self.typing;
        if let Some(given) = open_calibration(typing.calibration, self.opened.skeleton())? {
            self.check_calibration(aim, &given)?;
            return Ok(given);
        }
        let is_kept = typing.is_by_default()
            && typing.save_calibration.is_none()
            && !typing.resources.no_cache;
        let dir = self.opened.checkpoint.dir();
        let kept = match is_kept {
            true => {
                let amount = settled(typing.texts(), typing.amount, self.opened);
                Kept::of(dir, &amount, compute)?
            }
            false => None,
        };
        let found = kept.as_ref().and_then(Kept::find);
        if let Some(found) = found {
            self.check_calibration(aim, &found)?;
            note!("the model wrote a text of its own before, and was calibrated on it");
            return Ok(found);
        }
        if matches!(aim, Aim::Given(_)) && !typing.other_calibration {
            let message = "the plan was made with a calibration";
            let hint = match kept {
                // Its name in the cache depends on them.
                Some(_) => format!(
                    "{HOW_TO_GIVE}; one in the cache is found with the --effort and the windows that \
                     it was made with"
                ),
                None => HOW_TO_GIVE.into(),
            };
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let making = Making {
            model: dir,
            texts: typing.texts(),
            amount: typing.amount,
            kept: typing.save_calibration,
            instead: typing.is_by_default().then_some("--calibrate FILE uses a text of yours"),
        };
        let fate = "the calibration is removed at the end; --save-calibration FILE keeps it for \
                    other targets";
        let file = scratch.join("calibration");
        match kept {
            Some(kept) => kept.make(&making, compute, &file, fate),
            None => making.make(compute, &file, fate),
        }
    }

    /// Refuses a calibration of another model, and one that is not that of a given plan, unless
    /// another one is allowed.
    fn check_calibration(&self, aim: &Aim, calibration: &Calibration) -> Result<()> {
        let Aim::Given(plan) = aim else { return Ok(()) };
        let checkpoint = &self.opened.checkpoint;
        for name in &self.names {
            let tensor = name.weight();
            calibration.check_shape(name, checkpoint.matrix_shape(&tensor)?)?;
            calibration.check(name, &checkpoint.digest(&tensor)?)?;
        }
        match (plan.calibration == calibration.digest(), self.typing.other_calibration) {
            (true, true) => {
                let message = "--other-calibration: the plan was made with this calibration";
                Err(WrongInput::with_hint(message, "leave --other-calibration out").into())
            }
            (false, false) => {
                let message = "the plan was made with another calibration of this model";
                Err(WrongInput::with_hint(message, HOW_TO_GIVE).into())
            }
            _ => Ok(()),
        }
    }

    /// How costs are measured.
    pub(super) fn cost_options(&self, compute: &Compute) -> CostOptions {
        let resources = self.typing.resources;
        CostOptions {
            types: self.types.clone(),
            rounding: Rounding::default(),
            budget: budget(resources),
            windows: WINDOWS,
            at_once: compute.at_once(),
            dtype: compute.dtype,
            cache: if resources.no_cache { None } else { cache_dir("types") },
        }
    }

    /// The costs of all tensors in the types that they may have.
    pub(super) fn type_costs(
        &self,
        calibration: &Calibration,
        dense: &mut Dense<'_>,
    ) -> Result<Vec<TensorCosts>> {
        let options = self.cost_options(dense.compute);
        let (of_matrices, scale) = self.estimates(calibration, &options, dense)?;
        let checkpoint = &self.opened.checkpoint;
        let mut costs: Vec<TensorCosts> = Vec::new();
        for tensor in self.of_tokens() {
            let known = known_alone(checkpoint, tensor, calibration, &options)?;
            costs.push(match known {
                Some(known) => known,
                None => {
                    let model = dense.get()?;
                    let mut bar = Bar::for_subject(tensor);
                    let measured =
                        measure_alone(model, checkpoint, tensor, calibration, &options, &mut bar)?;
                    bar.finish();
                    measured
                }
            });
        }
        costs.extend(of_matrices.into_iter().map(|of| of.scaled(scale)));
        Ok(costs)
    }

    /// The costs of all tensors in forms of these kinds.
    pub(super) fn form_costs(
        &self,
        kinds: &[Candidate],
        calibration: &Calibration,
        dense: &mut Dense<'_>,
    ) -> Result<Vec<FormCosts>> {
        let options = self.cost_options(dense.compute);
        let (of_types, scale) = self.estimates(calibration, &options, dense)?;
        let checkpoint = &self.opened.checkpoint;
        let mut bar = Bar::default();
        let of_forms = measure_forms(checkpoint, calibration, of_types, kinds, &options, &mut bar)?;
        bar.finish();
        let mut costs: Vec<FormCosts> = Vec::new();
        for tensor in self.of_tokens() {
            let model = dense.get()?;
            let mut bar = Bar::for_subject(tensor);
            let measured =
                measure_token_forms(model, checkpoint, tensor, calibration, &options, &mut bar)?;
            bar.finish();
            costs.push(measured);
        }
        costs.extend(of_forms.into_iter().map(|of| of.scaled(scale)));
        Ok(costs)
    }

    /// What the matrices of layers are estimated to lose in each type, and the scale of the estimates.
    fn estimates(
        &self,
        calibration: &Calibration,
        options: &CostOptions,
        dense: &mut Dense<'_>,
    ) -> Result<(Vec<TensorCosts>, f64)> {
        check_gradients(calibration)?;
        let checkpoint = &self.opened.checkpoint;
        let mut bar = Bar::default();
        let costs = measure_types(checkpoint, calibration, &self.names, options, &mut bar)?;
        bar.finish();
        if let Some(known) = known_scale(calibration, &costs, options) {
            return Ok((costs, known));
        }
        let model = dense.get()?;
        let mut bar = Bar::for_subject("scale of the costs");
        let scale = measure_scale(model, checkpoint, calibration, &costs, options, &mut bar)?;
        bar.finish();
        Ok((costs, scale))
    }

    fn of_tokens(&self) -> impl Iterator<Item = &str> {
        let names = self.tensors.iter().map(|(tensor, _)| tensor.as_str());
        names.filter(|tensor| is_token_matrix(tensor))
    }
}

/// The types that may be used unless others are named. bf16 is as large as f16, and less precise.
fn is_default(tensor_type: TensorType) -> bool {
    !matches!(tensor_type, TensorType::F32 | TensorType::Bf16)
}
