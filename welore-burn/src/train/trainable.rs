use std::collections::BTreeSet;

use burn::module::{
    Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, Reparameterization,
};
use burn::tensor::Tensor;
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

/// Adapters on every projection; everything else is frozen.
fn attach_adapters<M: Module>(module: M, settings: &TrainSettings) -> Result<M, TrainError> {
    let LoraSettings { rank, alpha } = settings.lora;
    let module = module.materialize();
    let survey = Survey::of(&module);
    let projections = survey.projections();
    let sides = projections.iter().flat_map(|(_, shape)| shape.iter().copied());
    let full = sides.min().unwrap_or(0);
    if rank > full {
        let reason = format!("is larger than the smallest projection, of rank {full}");
        return Err(TrainError::Setting { option: "--lora-rank", reason });
    }
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
}
