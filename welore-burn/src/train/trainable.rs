use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, Reparameterization};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::linear::{LowRank, factored_paths};
use crate::spectrum::Selection;

/// What is trained; all else is frozen and stores neither activations nor gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trainable {
    /// The factors of the low-rank components: WeLore's fine-tuning.
    Lrc,
    /// Every parameter.
    Full,
    /// The projections that stayed dense, the counterpart that the paper compares with.
    Nlrc,
}

impl Trainable {
    fn name(self) -> &'static str {
        match self {
            Self::Lrc => "lrc",
            Self::Full => "full",
            Self::Nlrc => "nlrc",
        }
    }
}

/// How much of a model trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainableCount {
    /// Parameters that train.
    pub trainable: u64,
    /// Parameters in all.
    pub total: u64,
}

/// Makes exactly the chosen parameters trainable, and tells which they are.
///
/// # Errors
///
/// [`TrainError::NothingTrainable`] if the model has no such parameter.
pub fn select_trainable<M: Module>(
    module: M,
    trainable: Trainable,
) -> Result<(M, ParamGroup, TrainableCount), TrainError> {
    let mut selector = Selector {
        trainable,
        factored: factored_paths(&module),
        projections: Selection::projections(),
        path: Vec::new(),
    };
    let module = module.map(&mut selector);
    let mut survey = Survey::default();
    module.visit(&mut survey);
    if survey.count.trainable == 0 {
        return Err(TrainError::NothingTrainable(trainable.name()));
    }
    Ok((module, ParamGroup::from_paths(survey.paths), survey.count))
}

struct Selector {
    trainable: Trainable,
    factored: BTreeSet<String>,
    projections: Selection,
    path: Vec<String>,
}

impl Selector {
    fn chooses(&self, path: &str) -> bool {
        let up = format!(".{}.up", LowRank::NAME);
        let weight = path.strip_suffix(&up).unwrap_or(path);
        let factored = self.factored.contains(weight);
        match self.trainable {
            Trainable::Full => true,
            Trainable::Lrc => factored,
            Trainable::Nlrc => {
                let name = weight.strip_suffix(".weight");
                !factored && name.is_some_and(|name| self.projections.matches(name))
            }
        }
    }
}

impl ModuleMapper for Selector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let chosen = self.chooses(&self.path.join("."));
        param.set_require_grad(chosen)
    }
}

#[derive(Default)]
struct Survey {
    path: Vec<String>,
    paths: Vec<String>,
    count: TrainableCount,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameters = param.lazy_shape().num_elements() as u64;
        self.count.total += parameters;
        if param.is_require_grad() {
            self.count.trainable += parameters;
            self.paths.push(self.path.join("."));
        }
    }
}
