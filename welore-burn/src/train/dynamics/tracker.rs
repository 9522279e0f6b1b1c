use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param, Reparameterization};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};

use super::record::GradientRecord;
use crate::checkpoint::{CheckpointError, FactorNames};
use crate::linear::{LowRank, as_matrix, factored_paths, to_matrix};
use crate::train::checkpoints::Position;
use crate::train::lines::Lines;
use crate::train::trainable::projection_weights;
use crate::workers::Budget;

/// Writes down what the gradients of the projections are, every so many steps. Between these it
/// does nothing, and it never changes a gradient.
#[derive(Debug)]
pub(in crate::train) struct Tracker {
    every: NonZeroUsize,
    /// Names of what is tracked, by the path of the parameter.
    names: BTreeMap<String, String>,
    /// Leading directions of the last recorded gradients, by name.
    bases: BTreeMap<String, Vec<f64>>,
    lines: Lines,
}

impl Tracker {
    /// Tracks the projections of a module that train, or the factors of one. Lines of steps after
    /// the position go: they will be written again. `None` if there is nothing to track.
    pub fn open<M: Module>(
        path: PathBuf,
        every: NonZeroUsize,
        module: &M,
        position: &Position,
    ) -> Result<Option<Self>, CheckpointError> {
        let names = names(module);
        if names.is_empty() {
            return Ok(None);
        }
        let last = position.step as u64;
        let lines = Lines::open(path, |line| line["step"].as_u64().is_some_and(|n| n <= last))?;
        Ok(Some(Self { every, names, bases: BTreeMap::new(), lines }))
    }

    /// Records the gradients of a step, if it is its turn. A gradient that is not finite has no
    /// record: whoever trains sees it in the norm.
    pub fn record<M: Module>(
        &mut self,
        step: usize,
        module: &M,
        gradients: &GradientsParams,
    ) -> Result<(), CheckpointError> {
        if !step.is_multiple_of(self.every.get()) {
            return Ok(());
        }
        let mut visitor = Tracked { names: &self.names, gradients, path: vec![], found: vec![] };
        module.visit(&mut visitor);
        let found = visitor.found;
        let workers = Budget::default().workers();
        let mut text = String::new();
        // As many at a time as are decomposed at once: all gradients in f64 may be too much for
        // the host. They are read by the thread that queued the work on the device.
        for part in found.chunks(workers.count()) {
            let matrices: Vec<(&str, _)> =
                part.iter().map(|(name, gradient)| (*name, to_matrix(gradient.clone()))).collect();
            let bases = &self.bases;
            let record = |index: usize| {
                let (name, matrix) = &matrices[index];
                let before = bases.get(*name).map(Vec::as_slice);
                GradientRecord::of(step, name, matrix.as_ref().ok()?, before).ok()
            };
            let mut records: Vec<_> = matrices.iter().map(|_| None).collect();
            workers.spread(matrices.len(), record, |index, record| {
                records[index] = record;
                ControlFlow::Continue(())
            });
            for ((name, _), record) in part.iter().zip(records) {
                let Some((record, basis)) = record else {
                    self.bases.remove(*name);
                    continue;
                };
                text += &serde_json::to_string(&record).expect("numbers and strings serialize");
                text.push('\n');
                match basis {
                    Some(basis) => self.bases.insert(name.to_string(), basis),
                    None => self.bases.remove(*name),
                };
            }
        }
        // All of a step at once, so that a step is there whole or not at all.
        self.lines.append(&text)
    }
}

/// Names of the trainable projections of a module, by the path of their weight; of the factors
/// where they are factored.
fn names<M: Module>(module: &M) -> BTreeMap<String, String> {
    let projections: BTreeSet<String> = projection_weights(module).into_iter().collect();
    let mut survey = Survey::default();
    module.visit(&mut survey);
    let Survey { trainable, pivoted, .. } = survey;
    let factored = factored_paths(module);
    let up = format!(".{}.up", LowRank::NAME);
    let name = |path: &str| {
        let tensor = if let Some(weight) = path.strip_suffix(&up) {
            let names = FactorNames::of(without_weight(weight));
            if pivoted.contains(weight) { names.c } else { names.u }
        } else if factored.contains(path) {
            FactorNames::of(without_weight(path)).v
        } else {
            path.into()
        };
        without_weight(&tensor).to_string()
    };
    let tracked = trainable.into_iter().filter(|path| projections.contains(path));
    let named = tracked.map(|path| {
        let name = name(&path);
        (path, name)
    });
    named.collect()
}

/// What a module has of matrices that train, and of weights in pivoted storage.
#[derive(Default)]
struct Survey {
    path: Vec<String>,
    trainable: Vec<String>,
    pivoted: BTreeSet<String>,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 2 && param.is_require_grad() {
            self.trainable.push(self.path.join("."));
        }
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        let path = self.path.join(".");
        if let Some(weight) = path.strip_suffix(&format!(".{}.order", LowRank::NAME)) {
            self.pivoted.insert(weight.into());
        }
    }
}

fn without_weight(path: &str) -> &str {
    path.strip_suffix(".weight").unwrap_or(path)
}

/// Gathers the gradients of what is tracked, still on the device.
struct Tracked<'a> {
    names: &'a BTreeMap<String, String>,
    gradients: &'a GradientsParams,
    path: Vec<String>,
    found: Vec<(&'a str, Tensor<2>)>,
}

impl ModuleVisitor for Tracked<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = self.names.get(&self.path.join(".")) else { return };
        if let Some(gradient) = as_matrix(param).and_then(|p| self.gradients.get::<2>(p.id)) {
            self.found.push((name.as_str(), gradient));
        }
    }
}
