//! From a model and a budget to a plan of types, and to the file that it describes.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::eval::Estimate;
use welore_burn::ggml::TensorType;
use welore_burn::gguf::{GgufExport, GgufOptions};
use welore_burn::model::{Decoder, LanguageModel, OpenedModel, load_model};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::types::{
    CostOptions, QuantizedSource, Rounding, StoredModel, TensorCosts, TypeBudget, TypePlan,
    candidates, is_token_matrix, known_alone, measure_alone, measure_stored, measure_types,
    token_matrices,
};

use super::kept::Kept;
use super::{Aim, HOW_TO_GIVE, Typing};
use crate::cache::cache_dir;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::calibrating::Making;
use crate::shared::card::name_of;
use crate::shared::measuring::budget;
use crate::shared::recipe::{check_gradients, open_calibration};
use crate::terminal::Bar;

/// Windows of the calibration's text on which the types of embedding and head are measured.
const WINDOWS: usize = 8;

/// Windows on which the whole quantized model is measured.
const MEASURED: usize = 16;

/// The dense model, which is loaded when it is first needed.
#[derive(Debug)]
pub struct Dense<'a> {
    dir: &'a Path,
    compute: &'a Compute,
    model: Option<Decoder>,
}

impl<'a> Dense<'a> {
    /// The model in a directory.
    pub fn new(dir: &'a Path, compute: &'a Compute) -> Self {
        Self { dir, compute, model: None }
    }

    fn get(&mut self) -> Result<&Decoder> {
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

/// A file that is to be made, and the types that its matrices may have.
#[derive(Debug)]
pub struct Problem<'a> {
    typing: Typing<'a>,
    opened: &'a OpenedModel,
    options: GgufOptions,
    types: Vec<TensorType>,
    /// The matrices that a calibration knows.
    names: Vec<MatrixName>,
    /// The tensors whose types are chosen, with their shapes: embedding and head first.
    tensors: Vec<(String, [usize; 2])>,
    /// Bytes of the file besides them.
    rest: u64,
}

impl<'a> Problem<'a> {
    /// Of an opened model, which has to be dense.
    pub fn of(typing: Typing<'a>, opened: &'a OpenedModel) -> Result<Self> {
        if let Some(matrix) = opened.compressed.first() {
            let message = format!("`{}` is {}, not dense", matrix.name, matrix.form);
            let hint = "give the dense model; `welore-cli export DIR --gguf FILE` writes this one";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let options = GgufOptions {
            name: Some(name_of(&typing.model.to_string_lossy())),
            ..GgufOptions::default()
        };
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
        let is_chosen = |name: &str| tensors.iter().any(|(tensor, _)| tensor == name);
        let rest = GgufExport::new(opened, &options)?.bytes_without(is_chosen);
        let types = match typing.options.types.is_empty() {
            true => TensorType::all().iter().copied().filter(|t| is_default(*t)).collect(),
            false => typing.options.types.clone(),
        };
        Ok(Self { typing, opened, options, types, names, tensors, rest })
    }

    /// Refuses a budget that no types meet, and a plan that is for another model, before anything is
    /// computed.
    pub fn check(&self, aim: &Aim) -> Result<()> {
        match aim {
            Aim::Budget(budget) => Ok(budget.check(&self.tensors, &self.types, self.rest)?),
            Aim::Given(plan) => {
                let tensors: Vec<String> =
                    self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
                let file = self.typing.plan.unwrap_or(Path::new("the plan"));
                in_file(plan.check(&self.opened.checkpoint, &tensors), file)?;
                let bytes = self.export(plan)?.summary().bytes;
                match plan.target {
                    // The header names the model, which may have got a longer name.
                    TypeBudget::MaxBytes(most) if bytes > most => {
                        let message = format!("the file would have {bytes} bytes, not {most}");
                        let hint = "make a plan for this model again";
                        Err(WrongInput::with_hint(message, hint).into())
                    }
                    TypeBudget::Bits(most) if plan.bits() > most * (1.0 + 1e-9) => {
                        let (file, bits) = (file.display(), plan.bits());
                        let message =
                            format!("{file}: its types have {bits:.4} bits a weight, not {most}");
                        let hint = "make a plan for this model again";
                        Err(WrongInput::with_hint(message, hint).into())
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// The most bytes that the file can have.
    pub fn most_bytes(&self, aim: &Aim) -> Result<u64> {
        let largest = |(tensor, shape): &(String, [usize; 2])| {
            let bytes = candidates(*shape, &self.types).map(|(_, bytes)| bytes).max();
            (is_token_matrix(tensor), bytes.unwrap_or(0))
        };
        let sizes: Vec<(bool, u64)> = self.tensors.iter().map(largest).collect();
        let all = self.rest + sizes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        Ok(match aim {
            Aim::Given(plan) => self.export(plan)?.summary().bytes,
            Aim::Budget(TypeBudget::MaxBytes(most)) => all.min(*most),
            Aim::Budget(TypeBudget::Bits(bits)) => {
                let of_tokens: u64 = sizes.iter().filter(|size| size.0).map(|size| size.1).sum();
                let projections = self.tensors.iter().filter(|(name, _)| !is_token_matrix(name));
                let weights: usize = projections.map(|(_, [rows, columns])| rows * columns).sum();
                all.min(self.rest + of_tokens + (bits * weights as f64 / 8.0).ceil() as u64)
            }
        })
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
            true => Kept::of(dir, typing.amount, compute)?,
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
            return Err(WrongInput::with_hint(message, HOW_TO_GIVE).into());
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

    /// The plan: the one that is given, or the best one within the budget, for which costs are
    /// measured.
    pub fn plan(
        &self,
        aim: Aim,
        calibration: &Calibration,
        dense: &mut Dense<'_>,
    ) -> Result<TypePlan> {
        match aim {
            Aim::Budget(budget) => self.solve(budget, calibration, dense),
            Aim::Given(plan) => {
                let mut plan = *plan;
                plan.bytes = self.export(&plan)?.summary().bytes;
                Ok(plan)
            }
        }
    }

    fn solve(
        &self,
        target: TypeBudget,
        calibration: &Calibration,
        dense: &mut Dense<'_>,
    ) -> Result<TypePlan> {
        check_gradients(calibration)?;
        let checkpoint = &self.opened.checkpoint;
        let resources = self.typing.resources;
        let options = CostOptions {
            types: self.types.clone(),
            rounding: Rounding::default(),
            budget: budget(resources),
            windows: WINDOWS,
            at_once: dense.compute.at_once(),
            dtype: dense.compute.dtype,
            cache: if resources.no_cache { None } else { cache_dir("types") },
        };
        let mut bar = Bar::default();
        let of_matrices = measure_types(checkpoint, calibration, &self.names, &options, &mut bar)?;
        bar.finish();
        let mut costs: Vec<TensorCosts> = Vec::new();
        for (tensor, _) in self.tensors.iter().filter(|(tensor, _)| is_token_matrix(tensor)) {
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
        costs.extend(of_matrices);
        let source = name_of(&self.typing.model.to_string_lossy());
        Ok(TypePlan::new(source, calibration.digest(), &costs, self.rest, target)?)
    }

    /// The file of a plan, all but the entries of its tensors.
    fn export(&self, plan: &TypePlan) -> Result<GgufExport<'a>> {
        let types = plan.matrices.iter().map(|matrix| (matrix.tensor.clone(), matrix.tensor_type));
        let options = GgufOptions { tensors: types.collect(), ..self.options.clone() };
        Ok(GgufExport::new(self.opened, &options)?)
    }

    /// Writes the file to `output`, if there is one, and measures what the model in it loses, unless
    /// that is not wanted or `calibration` has no text to measure it on. Each matrix is quantized
    /// once for both.
    pub fn carry_out(
        &self,
        plan: &TypePlan,
        calibration: &Calibration,
        dense: &mut Dense<'_>,
        output: Option<&Path>,
        measures: bool,
    ) -> Result<Option<Estimate>> {
        let export = self.export(plan)?;
        debug_assert_eq!(export.summary().bytes, plan.bytes);
        let source = QuantizedSource::new(self.opened, Some(calibration), Rounding::default());
        let mut bar = Bar::default();
        if measures && calibration.is_diagonal() {
            note!("an importance matrix has no text to measure the whole quantized model on");
        }
        if !measures || calibration.is_diagonal() {
            if let Some(path) = output {
                export.write(path, &source, &mut bar)?;
                bar.finish();
            }
            return Ok(None);
        }
        let at_once = dense.compute.at_once();
        let dense = dense.get()?;
        let stored = StoredModel::new(source, dense.clone());
        match output {
            Some(path) => {
                export.write(path, &stored, &mut bar)?;
            }
            None => stored.make(export.tensors(), &mut bar)?,
        }
        bar.finish();
        let Some(model) = stored.into_model() else { return Ok(None) };
        let mut bar = Bar::for_subject("all matrices");
        let kl = measure_stored(&model, dense, calibration, MEASURED, at_once, &mut bar);
        bar.finish();
        if let (Err(_), Some(path)) = (&kl, output) {
            note!("{} is complete; --no-measure leaves the measurement out", path.display());
        }
        Ok(Some(kl?))
    }
}

/// The types that may be used unless others are named. bf16 is as large as f16, and less precise.
fn is_default(tensor_type: TensorType) -> bool {
    !matches!(tensor_type, TensorType::F32 | TensorType::Bf16)
}
