//! Training methods: which parameters train, with which optimizer, and what happens between steps.
//!
//! A method is a file in this directory and a line in the list below.

mod adamw;
mod full;
mod galore;
mod galore_optimizer;
mod lora;
mod lrc;
mod nlrc;
mod restored;

use std::collections::BTreeSet;

use burn::module::ParamGroup;
use burn::optim::ModuleOptimizer;

use super::error::TrainError;
use super::options::TrainOptions;
use super::selecting::{Projections, TrainableCount};
use crate::forms::unpack_factors;
use crate::model::LanguageModel;
use crate::modules::{Change, Place, map_floats};
use crate::named::named;

use adamw::adamw;
pub use galore_optimizer::{GaLore, GaLoreConfig, GaLoreState};

/// A training method.
pub(super) trait TrainingMethod {
    /// What it trains, for a model card: "Fine-tuned after compression: its LRCs, 60 steps, ...".
    const TRAINED: &'static str;

    /// Whether the resulting model is dense, even if the original was not.
    const MERGES: bool = false;

    /// Whether existing weights of the model train, so that their gradients can be tracked.
    const TRACKED: bool = true;

    /// Whether it trains something beside matrices in blocks, which stay as they are.
    const PACKED: bool = false;

    /// Whether factors in blocks become numbers, which train.
    const UNPACKS: bool = false;

    /// Whether it reads [`TrainOptions::seed`].
    const RANDOM: bool = false;

    /// The options that only this method reads, by their names in [`TrainOptions`].
    const OPTIONS: &'static [&'static str] = &[];

    /// Whether a parameter trains. All others are frozen, and store neither activations nor
    /// gradients.
    fn trains(place: &Place, projections: &Projections) -> bool;

    /// Checks the options that it reads.
    fn check(_options: &TrainOptions) -> Result<(), TrainError> {
        Ok(())
    }

    /// Checks whether a new run with these options makes sense for a model. A run that began anyway,
    /// with an earlier version, can be resumed.
    fn check_model(_projections: &Projections, _options: &TrainOptions) -> Result<(), TrainError> {
        Ok(())
    }

    /// How many parameters of a model would train, and how many there would be. Initializes
    /// nothing.
    fn count(
        projections: &Projections,
        _options: &TrainOptions,
    ) -> Result<TrainableCount, TrainError> {
        Ok(projections.count(|place| Self::trains(place, projections)))
    }

    /// Makes exactly the chosen parameters trainable.
    fn select<M: LanguageModel>(model: M, _options: &TrainOptions) -> Result<M, TrainError> {
        let model = if Self::UNPACKS { unpack_factors(model) } else { model };
        let projections = Projections::of(&model);
        Ok(map_floats(model, |place, _| Change::Train(Self::trains(place, &projections))))
    }

    /// The optimizer of the trainable parameters.
    fn optimizer<M: LanguageModel>(model: &M, options: &TrainOptions) -> ModuleOptimizer {
        adamw(model, options)
    }

    /// Changes the model before step number `step`, counted from 0. For example, other parameters
    /// may train from here on. Must be a pure function of its arguments, so that a resumed run
    /// takes the same steps.
    fn before_step<M: LanguageModel>(model: M, _step: usize, _options: &TrainOptions) -> M {
        model
    }

    /// Turns the trained model, on its plain device, into the one that is written.
    fn finish<M: LanguageModel>(model: M) -> M {
        model
    }
}

/// Lists the methods: this is where a new one is registered.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $method:ty, $name:literal, $about:literal;)+) => {
        /// What is trained, and how. Everything else is frozen, and stores neither activations nor
        /// gradients.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Trainable {
            $($(#[$doc])* $variant),+
        }

        named!(Trainable { $($variant => $name, $about;)+ });

        impl Trainable {
            /// What it trains, for a model card.
            pub fn trained(self) -> &'static str {
                match self { $(Self::$variant => <$method>::TRAINED),+ }
            }

            /// Whether the resulting model is dense, even if the original was not.
            pub fn merges(self) -> bool {
                match self { $(Self::$variant => <$method>::MERGES),+ }
            }

            /// Whether existing weights of the model train, so that their gradients can be tracked.
            pub fn is_tracked(self) -> bool {
                match self { $(Self::$variant => <$method>::TRACKED),+ }
            }

            /// Whether factors in blocks train, and are numbers in the resulting model.
            pub fn unpacks_factors(self) -> bool {
                match self { $(Self::$variant => <$method>::UNPACKS),+ }
            }

            fn trains_beside_blocks(self) -> bool {
                match self { $(Self::$variant => <$method>::PACKED),+ }
            }

            /// Whether it begins with random numbers.
            pub fn is_random(self) -> bool {
                match self { $(Self::$variant => <$method>::RANDOM),+ }
            }

            /// The options that only this method reads, by their names in [`TrainOptions`].
            pub fn options(self) -> &'static [&'static str] {
                match self { $(Self::$variant => <$method>::OPTIONS),+ }
            }

            pub(super) fn check(self, options: &TrainOptions) -> Result<(), TrainError> {
                match self { $(Self::$variant => <$method>::check(options)),+ }
            }

            pub(super) fn trains(self, place: &Place, projections: &Projections) -> bool {
                match self { $(Self::$variant => <$method>::trains(place, projections)),+ }
            }

            pub(super) fn check_model(
                self,
                projections: &Projections,
                options: &TrainOptions,
            ) -> Result<(), TrainError> {
                match self { $(Self::$variant => <$method>::check_model(projections, options)),+ }
            }

            pub(super) fn count(
                self,
                projections: &Projections,
                options: &TrainOptions,
            ) -> Result<TrainableCount, TrainError> {
                match self { $(Self::$variant => <$method>::count(projections, options)),+ }
            }

            pub(super) fn select<M: LanguageModel>(
                self,
                model: M,
                options: &TrainOptions,
            ) -> Result<M, TrainError> {
                match self { $(Self::$variant => <$method>::select(model, options)),+ }
            }

            pub(super) fn optimizer<M: LanguageModel>(
                self,
                model: &M,
                options: &TrainOptions,
            ) -> ModuleOptimizer {
                match self { $(Self::$variant => <$method>::optimizer(model, options)),+ }
            }

            pub(super) fn before_step<M: LanguageModel>(
                self,
                model: M,
                step: usize,
                options: &TrainOptions,
            ) -> M {
                match self { $(Self::$variant => <$method>::before_step(model, step, options)),+ }
            }

            /// Turns the trained model into the one that is written: adapters are merged into their
            /// weights, which are dense then. `model` is on its plain device.
            pub fn finish<M: LanguageModel>(self, model: M) -> M {
                match self { $(Self::$variant => <$method>::finish(model)),+ }
            }
        }
    };
}

methods! {
    /// The factors of the low-rank components: WeLore's fine-tuning.
    Lrc = lrc::Lrc, "lrc", "the factors of the low-rank components";
    /// Every parameter.
    Full = full::Full, "full", "every parameter";
    /// The projections that stayed dense, the counterpart that the paper compares with.
    Nlrc = nlrc::Nlrc, "nlrc", "the projections that stayed dense";
    /// Burn's LoRA adapters (arXiv 2106.09685) on all projections. Factored projections are merged
    /// first, since the sum with an adapter has a larger rank.
    Lora = lora::Lora, "lora", "LoRA adapters on all projections";
    /// Every parameter, with the gradients of projections projected to low rank (GaLore,
    /// arXiv 2403.03507).
    Galore = galore::Galore, "galore", "every parameter, with the gradients of projections projected to low rank";
}

/// Checks, before a run begins, that its method does with this model what it is for. Initializes
/// nothing.
///
/// # Errors
///
/// [`TrainError::Option`], such as for a rank of GaLore at which no gradient is projected;
/// [`TrainError::Form`] for a model with matrices in blocks, which do not train, if the method is to
/// train all matrices.
pub fn check_method(model: &impl LanguageModel, options: &TrainOptions) -> Result<(), TrainError> {
    let projections = checked(model, options.trainable)?;
    options.trainable.check_model(&projections, options)
}

/// The projections of a model that a method can train.
fn checked(model: &impl LanguageModel, trainable: Trainable) -> Result<Projections, TrainError> {
    let projections = Projections::of(model);
    if !trainable.trains_beside_blocks() {
        projections.check_unpacked()?;
    }
    Ok(projections)
}

/// The error for a method that finds nothing to train.
fn nothing_for(trainable: Trainable, has_blocks: bool) -> TrainError {
    match has_blocks {
        true => TrainError::OnlyBlocks(trainable),
        false => TrainError::NothingTrainable(trainable),
    }
}

/// Makes exactly the chosen parameters trainable, and returns which and how many they are. They
/// must be f32; frozen parameters may be of any type. Matrices in blocks stay packed, except for
/// factors in blocks, which become f32 numbers if they train.
///
/// # Errors
///
/// [`TrainError::NothingTrainable`] if the model has no such parameter, and
/// [`TrainError::OnlyBlocks`] if it has blocks in their place; [`TrainError::Option`] for options of
/// the method that the model does not allow; [`TrainError::Form`] for a model with matrices in blocks,
/// if the method is to train all matrices.
pub fn select_trainable<M: LanguageModel>(
    model: M,
    options: &TrainOptions,
) -> Result<(M, ParamGroup, TrainableCount), TrainError> {
    // What is checked is not kept: it shares the parameters of the model.
    let has_blocks = checked(&model, options.trainable)?.has_blocks();
    let model = options.trainable.select(model, options)?;
    let (paths, count) = super::selecting::trainable(&model);
    if count.trainable == 0 {
        return Err(nothing_for(options.trainable, has_blocks));
    }
    Ok((model, ParamGroup::from_paths(paths), count))
}

/// Paths of the parameters of a model that would train from the start, so that a loader can hold
/// them in f32. Parameters that a method adds, such as adapters, are not included. Initializes
/// nothing.
pub fn trainable_paths(model: &impl LanguageModel, trainable: Trainable) -> BTreeSet<String> {
    let projections = Projections::of(model);
    projections.paths(|place| trainable.trains(place, &projections))
}

/// How many parameters of a model would train. Initializes nothing.
///
/// # Errors
///
/// As [`select_trainable`].
pub fn count_trainable(
    model: &impl LanguageModel,
    options: &TrainOptions,
) -> Result<TrainableCount, TrainError> {
    let projections = checked(model, options.trainable)?;
    let count = options.trainable.count(&projections, options)?;
    match count.trainable {
        0 => Err(nothing_for(options.trainable, projections.has_blocks())),
        _ => Ok(count),
    }
}
