//! From a model and a budget to a plan of types, and to the file that it describes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{Calibration, is_token_matrix};
use welore_burn::eval::Estimate;
use welore_burn::gguf::{GgufExport, GgufOptions};
use welore_burn::model::OpenedModel;
use welore_burn::types::{
    QuantizedSource, Rounding, StoredModel, TypeBudget, TypePlan, candidates, measure_stored,
};

use super::matrices::{Dense, Matrices};
use super::{Aim, Typing};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::card::name_of;
use crate::terminal::Bar;

/// Windows on which the whole quantized model is measured.
pub(super) const MEASURED: usize = 16;

/// A file that is to be made, and the types that its matrices may have.
#[derive(Debug)]
pub struct Problem<'a> {
    matrices: Matrices<'a>,
    options: GgufOptions,
    /// Bytes of the file besides the matrices.
    rest: u64,
}

impl<'a> Problem<'a> {
    /// Of an opened model, which has to be dense.
    pub fn of(typing: Typing<'a>, opened: &'a OpenedModel) -> Result<Self> {
        let matrices = Matrices::of(typing, opened)?;
        let options = GgufOptions {
            name: Some(name_of(&typing.model.to_string_lossy())),
            ..GgufOptions::default()
        };
        let rest = {
            let chosen = matrices.tensors.iter().map(|(tensor, _)| tensor.as_str());
            let chosen: BTreeSet<&str> = chosen.collect();
            GgufExport::new(opened, &options)?.bytes_without(|name| chosen.contains(name))
        };
        Ok(Self { matrices, options, rest })
    }

    /// Refuses a budget that no types meet, and a plan that is for another model, before anything is
    /// computed.
    pub fn check(&self, aim: &Aim) -> Result<()> {
        match aim {
            Aim::Budget(budget) => {
                Ok(budget.check(&self.matrices.tensors, &self.matrices.types, self.rest)?)
            }
            Aim::Given(plan) => {
                let tensors: Vec<String> =
                    self.matrices.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
                let file = self.matrices.typing.plan.unwrap_or(Path::new("the plan"));
                in_file(plan.check(&self.matrices.opened.checkpoint, &tensors), file)?;
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
            let bytes = candidates(*shape, &self.matrices.types).map(|(_, bytes)| bytes).max();
            (is_token_matrix(tensor), bytes.unwrap_or(0))
        };
        let sizes: Vec<(bool, u64)> = self.matrices.tensors.iter().map(largest).collect();
        let all = self.rest + sizes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        Ok(match aim {
            Aim::Given(plan) => self.export(plan)?.summary().bytes,
            Aim::Budget(TypeBudget::MaxBytes(most)) => all.min(*most),
            Aim::Budget(TypeBudget::Bits(bits)) => {
                let of_tokens: u64 = sizes.iter().filter(|size| size.0).map(|size| size.1).sum();
                let projections =
                    self.matrices.tensors.iter().filter(|(name, _)| !is_token_matrix(name));
                let weights: usize = projections.map(|(_, [rows, columns])| rows * columns).sum();
                all.min(self.rest + of_tokens + (bits * weights as f64 / 8.0).ceil() as u64)
            }
        })
    }

    /// The calibration; see [`Matrices::calibration`].
    pub fn calibration(&self, aim: &Aim, compute: &Compute, scratch: &Path) -> Result<Calibration> {
        self.matrices.calibration(aim, compute, scratch)
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
        let costs = self.matrices.type_costs(calibration, dense)?;
        let source = name_of(&self.matrices.typing.model.to_string_lossy());
        Ok(TypePlan::new(source, calibration.digest(), &costs, self.rest, target)?)
    }

    /// The file of a plan, all but the entries of its tensors.
    fn export(&self, plan: &TypePlan) -> Result<GgufExport<'a>> {
        let types = plan.matrices.iter().map(|matrix| (matrix.tensor.clone(), matrix.tensor_type));
        let options = GgufOptions { tensors: types.collect(), ..self.options.clone() };
        Ok(GgufExport::new(self.matrices.opened, &options)?)
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
        for remark in export.summary().remarks.iter().filter(|_| output.is_some()) {
            note!("{remark}");
        }
        let source =
            QuantizedSource::new(self.matrices.opened, Some(calibration), Rounding::default());
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
