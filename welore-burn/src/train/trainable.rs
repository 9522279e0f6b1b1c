use std::collections::{BTreeMap, BTreeSet};

use burn::module::{
    Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, Reparameterization,
};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::settings::{LoraSettings, TrainSettings};
use crate::checkpoint::Selection;
use crate::linear::{LowRank, factored_paths};

/// What is trained, and how; all else is frozen and stores neither activations nor gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trainable {
    /// The factors of the low-rank components: WeLore's fine-tuning.
    Lrc,
    /// Every parameter.
    Full,
    /// The projections that stayed dense, the counterpart that the paper compares with.
    Nlrc,
    /// LoRA adapters on all projections (arXiv 2106.09685), Burn's own. Factored projections
    /// are multiplied out first, since the sum with an adapter has a larger rank.
    Lora,
    /// Every parameter, with the gradients of projections projected to low rank (GaLore,
    /// arXiv 2403.03507).
    Galore,
}

impl Trainable {
    fn name(self) -> &'static str {
        match self {
            Self::Lrc => "lrc",
            Self::Full => "full",
            Self::Nlrc => "nlrc",
            Self::Lora => "lora",
            Self::Galore => "galore",
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

/// Makes exactly the chosen parameters trainable, and tells which they are. They must be f32;
/// what is frozen may be of any type.
///
/// # Errors
///
/// [`TrainError::NothingTrainable`] if the model has no such parameter.
pub fn select_trainable<M: Module>(
    module: M,
    settings: &TrainSettings,
) -> Result<(M, ParamGroup, TrainableCount), TrainError> {
    let trainable = settings.trainable;
    let module = match trainable {
        Trainable::Lora => attach_adapters(module, settings)?,
        _ => {
            let mut selector = Selector::new(&module, trainable);
            module.map(&mut selector)
        }
    };
    let survey = Survey::of(&module);
    if survey.count.trainable == 0 {
        return Err(TrainError::NothingTrainable(trainable.name()));
    }
    let paths = survey.trainable.iter().map(String::as_str).collect();
    Ok((module, ParamGroup::from_paths(paths), survey.count))
}

/// Paths of the parameters of a module that [`select_trainable`] would make trainable, so that a
/// loader can hold them in f32. Initializes nothing. None for LoRA, whose adapters are new.
pub fn trainable_paths(module: &impl Module, trainable: Trainable) -> BTreeSet<String> {
    let selector = Selector::new(module, trainable);
    let all = Survey::of(module).all.into_iter().map(|(path, _)| path);
    all.filter(|path| selector.chooses(path)).collect()
}

/// How much of a module [`select_trainable`] would make trainable. Initializes nothing.
///
/// # Errors
///
/// [`TrainError::NothingTrainable`], and [`TrainError::Setting`] for adapters that are too large.
pub fn count_trainable(
    module: &impl Module,
    settings: &TrainSettings,
) -> Result<TrainableCount, TrainError> {
    let trainable = settings.trainable;
    let survey = Survey::of(module);
    let size = |shape: &[usize]| shape.iter().map(|n| *n as u64).product::<u64>();
    let mut count = TrainableCount { trainable: 0, total: survey.count.total };
    if trainable == Trainable::Lora {
        // What is factored is multiplied out first.
        let dense = survey.dense_projections();
        check_adapters(settings.lora.rank, dense.iter().flatten().copied())?;
        let stored: u64 = survey.projections().iter().map(|(_, shape)| size(shape)).sum();
        let merged: u64 = dense.iter().map(|shape| size(shape)).sum();
        let sides: usize = dense.iter().flatten().sum();
        count.trainable = (settings.lora.rank * sides) as u64;
        count.total = count.total - stored + merged + count.trainable;
    } else {
        let selector = Selector::new(module, trainable);
        let chosen = survey.all.iter().filter(|(path, _)| selector.chooses(path));
        count.trainable = chosen.map(|(_, shape)| size(shape)).sum();
    }
    match count.trainable {
        0 => Err(TrainError::NothingTrainable(trainable.name())),
        _ => Ok(count),
    }
}

/// Refuses adapters of a rank that the smallest side of a projection does not have.
fn check_adapters(rank: usize, sides: impl Iterator<Item = usize>) -> Result<(), TrainError> {
    let full = sides.min().unwrap_or(0);
    if rank <= full {
        return Ok(());
    }
    let reason = format!("is larger than the smallest projection, of rank {full}");
    Err(TrainError::Setting { option: "--lora-rank", reason })
}

/// Adapters on every projection; everything else is frozen.
fn attach_adapters<M: Module>(module: M, settings: &TrainSettings) -> Result<M, TrainError> {
    let LoraSettings { rank, alpha } = settings.lora;
    let module = module.materialize();
    let survey = Survey::of(&module);
    let projections = survey.projections();
    let sides = projections.iter().flat_map(|(_, shape)| shape.iter().copied());
    check_adapters(rank, sides)?;
    let paths: Vec<&str> = projections.iter().map(|(path, _)| *path).collect();
    if let Some(device) = module.devices().first() {
        // Adapters start at random; a run can be repeated.
        device.seed(settings.seed);
    }
    Ok(module.apply_lora(Lora::new(rank, alpha).set_param_group(ParamGroup::from_paths(paths))))
}

/// Paths of the weights of all projections, of both factors where they are factored.
pub(super) fn projection_weights(module: &impl Module) -> Vec<String> {
    let survey = Survey::of(module);
    survey.projections().iter().map(|(path, _)| path.to_string()).collect()
}

/// The path of the weight that a parameter belongs to.
fn weight_of(path: &str) -> &str {
    let up = format!(".{}.up", LowRank::NAME);
    path.strip_suffix(&up).unwrap_or(path)
}

struct Selector {
    trainable: Trainable,
    factored: BTreeSet<String>,
    projections: Selection,
    path: Vec<String>,
}

impl Selector {
    fn new(module: &impl Module, trainable: Trainable) -> Self {
        let (factored, projections) = (factored_paths(module), Selection::projections());
        Self { trainable, factored, projections, path: Vec::new() }
    }

    fn chooses(&self, path: &str) -> bool {
        let weight = weight_of(path);
        let factored = self.factored.contains(weight);
        match self.trainable {
            Trainable::Full | Trainable::Galore => true,
            Trainable::Lora => false,
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

/// What parameters a module has.
#[derive(Default)]
struct Survey {
    path: Vec<String>,
    all: Vec<(String, Vec<usize>)>,
    trainable: Vec<String>,
    count: TrainableCount,
    /// How many outputs weights in pivoted storage have, by path.
    outputs: BTreeMap<String, usize>,
}

impl Survey {
    fn of(module: &impl Module) -> Self {
        let mut survey = Self::default();
        module.visit(&mut survey);
        survey
    }

    /// Path and shape of the weights of all projections, of both factors of factored ones.
    fn projections(&self) -> Vec<(&str, &[usize])> {
        let projections = Selection::projections();
        let is_projection = |path: &str| {
            let name = weight_of(path).strip_suffix(".weight");
            name.is_some_and(|name| projections.matches(name))
        };
        let all = self.all.iter().map(|(path, shape)| (path.as_str(), shape.as_slice()));
        all.filter(|(path, _)| is_projection(path)).collect()
    }

    /// Shapes of the weights of all projections, once factored ones are multiplied out.
    fn dense_projections(&self) -> Vec<[usize; 2]> {
        let stored: BTreeMap<&str, &[usize]> = self.projections().into_iter().collect();
        let weights = stored.iter().filter(|(path, _)| weight_of(path) == **path);
        weights
            .map(|(path, shape)| {
                let up = stored.get(format!("{path}.{}.up", LowRank::NAME).as_str());
                let made = up.copied().unwrap_or(shape);
                [shape[0], self.outputs.get(*path).copied().unwrap_or(made[1])]
            })
            .collect()
    }
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape();
        let parameters = shape.num_elements() as u64;
        self.count.total += parameters;
        let path = self.path.join(".");
        if param.is_require_grad() {
            self.count.trainable += parameters;
            self.trainable.push(path.clone());
        }
        self.all.push((path, shape.to_vec()));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let path = self.path.join(".");
        if let Some(weight) = path.strip_suffix(&format!(".{}.order", LowRank::NAME)) {
            self.outputs.insert(weight.into(), param.lazy_shape()[0]);
        }
    }
}
