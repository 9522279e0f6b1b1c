//! Low-rank compression of Burn modules and LLaMA-family models, after WeLore
//! (arXiv 2407.11239).
//!
//! The weight matrices of a pretrained model are low-rank to very different degrees. WeLore
//! reads the singular values of each matrix, normalizes them, cuts all matrices at one
//! threshold that meets a target, factors those that lose much (low-rank components, LRCs)
//! and keeps the others dense. Data goes one way:
//!
//! 1. [`checkpoint`] opens a Hugging Face model directory, which [`gguf`] may have made of a
//!    file of llama.cpp, or you bring a Burn module;
//! 2. [`calibrate`] may measure what the matrices see and do on a text;
//! 3. [`spectrum`] measures the singular values of its matrices, with [`linalg`];
//! 4. [`plan`] decides ranks and classes for a target: an effective rank reduction (ERR),
//!    parameters or bytes;
//! 5. [`surgery`] carries the plan out, on files or on a live module with [`linear`]; [`fit`]
//!    does so block after block of a language model;
//! 6. [`train`] fine-tunes the factors on text or tasks from [`data`];
//! 7. [`llama`] runs the result, [`eval`] measures it, [`report`] draws it;
//! 8. [`surgery`] multiplies factors out for those who know none.
//!
//! # Any Burn module
//!
//! Spectra, plan, surgery, training, and one matrix again:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::{AdamWConfig, GradientsParams};
//! use burn::tensor::{Device, Tensor};
//! use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
//! use welore_burn::plan::{PlanOptions, WeLore, make_plan};
//! use welore_burn::spectrum::{Selection, measure_module};
//! use welore_burn::surgery::apply_plan;
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     hidden: LowRankLinear, // multiplies by its factors once it is factored
//!     output: Linear,        // would materialize their product
//! }
//!
//! let device = Device::flex();
//! let net = Net {
//!     hidden: LowRankLinearConfig::new(64, 64).init(&device),
//!     output: LinearConfig::new(64, 10).init(&device),
//! };
//! let selection = Selection::new(&["hidden"], &[] as &[&str])?;
//! let spectra = measure_module(&net, &selection, &mut ())?;
//! let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.7))?;
//! let (net, report) = apply_plan(net, &plan, &mut ())?;
//!
//! assert_eq!(net.hidden.rank(), Some(report.factored[0].rank));
//! assert_eq!(net.num_params() as u64, plan.totals.parameters_after);
//!
//! // Only the factors train, in any loop of your own.
//! let mut net = net.train();
//! let mut optimizer = AdamWConfig::new().init();
//! for _ in 0..3 {
//!     let x = Tensor::<2>::ones([4, 64], &device.clone().autodiff());
//!     let loss = net.output.forward(net.hidden.forward(x)).square().mean();
//!     let grads = GradientsParams::from_grads(loss.backward(), &net);
//!     net = optimizer.step(1e-3, net, grads);
//! }
//!
//! let x = Tensor::<2>::ones([1, 64], &device);
//! let dense = net.valid().materialize();
//! assert_eq!(dense.hidden.rank(), None);
//! assert_eq!(dense.output.forward(dense.hidden.forward(x)).dims(), [1, 10]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A model directory
//!
//! From files to files, a few matrices at a time; the model is never built:
//!
//! ```no_run
//! use welore_burn::checkpoint::{Checkpoint, OutputDir};
//! use welore_burn::plan::{PlanOptions, WeLore, make_plan};
//! use welore_burn::spectrum::{MeasureSettings, Selection, measure_checkpoint};
//! use welore_burn::surgery::{WriteSettings, compress_directory};
//!
//! let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct")?;
//! let selection = Selection::projections();
//! let settings = MeasureSettings::default();
//! let spectra = measure_checkpoint(&checkpoint, &selection, &settings, &mut ())?;
//! let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.3))?;
//! let output = OutputDir::create("smollm2-30", false)?;
//! compress_directory(&checkpoint, &plan, &output, &WriteSettings::default(), &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # With a calibration
//!
//! Weights alone do not tell what a matrix is for. A text does: the same steps in its norm, ranks
//! where they cost the loss least, and storage that has more rank for the same parameters.
//!
//! ```no_run
//! use std::num::NonZeroUsize;
//! use std::path::Path;
//!
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
//! use welore_burn::checkpoint::{Checkpoint, OutputDir};
//! use welore_burn::data::{TextTokenizer, read_text};
//! use welore_burn::linalg::Shrinkage;
//! use welore_burn::llama::load_llama;
//! use welore_burn::plan::{Loss, PlanOptions, Storage, Target, make_plan};
//! use welore_burn::spectrum::{MeasureSettings, Method, Norms, Selection, measure_checkpoint};
//! use welore_burn::surgery::{WriteSettings, compress_directory};
//!
//! let (dir, file) = ("SmolLM2-135M-Instruct", Path::new("calibration"));
//! let checkpoint = Checkpoint::open(dir)?;
//! let loaded = load_llama(dir, &Device::flex().autodiff(), FloatDType::F32, &mut ())?;
//! let tokens = TextTokenizer::open(dir)?.encode(&read_text("wikitext2/valid.txt")?)?;
//! let options = CalibrationOptions {
//!     seq_len: 512,
//!     blocks: Some(64),
//!     gradient_blocks: 16,
//!     probe_blocks: 0,
//!     allow_deficient: false,
//!     at_once: NonZeroUsize::MIN,
//! };
//! let context = loaded.config.max_position_embeddings;
//! calibrate(&loaded.model, &checkpoint, &tokens, context, &options, file, &mut ())?;
//!
//! let calibration = Calibration::open(file)?;
//! let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default())?;
//! let selection = Selection::projections();
//! let settings = MeasureSettings { norms, ..MeasureSettings::default() };
//! let spectra = measure_checkpoint(&checkpoint, &selection, &settings, &mut ())?;
//! let options =
//!     PlanOptions { storage: Storage::Pivot, ..PlanOptions::to(Target::KeepParams(0.8)) };
//! let plan = make_plan(&spectra, &Loss, &options)?;
//! let output = OutputDir::create("smollm2-80", false)?;
//! let settings = WriteSettings { norms, ..WriteSettings::default() };
//! compress_directory(&checkpoint, &plan, &output, &settings, &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Training
//!
//! A run in a directory, of a model whose factors train:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::data::{TextTokenizer, TokenRows, read_text};
//! use welore_burn::llama::{Llama, load_llama};
//! use welore_burn::train::{Execution, RunPlace, TrainSettings, Training, TrainingEvent};
//!
//! let device = Device::flex().autodiff();
//! let loaded = load_llama("smollm2-80", &device, FloatDType::F32, &mut ())?;
//! let tokens = TextTokenizer::open("smollm2-80")?.encode(&read_text("wikitext2/valid.txt")?)?;
//! let settings = TrainSettings { steps: 60, warmup: 5, lr: 2e-4, ..TrainSettings::default() };
//! let rows = TokenRows::blocks(tokens, settings.seq_len);
//!
//! let place = RunPlace { dir: Path::new("run"), origin: "smollm2-80", resume: false };
//! let mut training = Training::open(loaded.model, settings, place)?;
//! let evaluate = |_: &Llama| unreachable!("the settings ask for no evaluation");
//! let observe = |event: TrainingEvent| {
//!     println!("{event:?}");
//!     Ok(())
//! };
//! training.run(&rows, &device, Execution::default(), evaluate, observe)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Evaluation and export
//!
//! ```no_run
//! use std::num::NonZeroUsize;
//!
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::checkpoint::{Checkpoint, OutputDir};
//! use welore_burn::data::{TextTokenizer, read_text};
//! use welore_burn::eval::{PerplexityOptions, perplexity};
//! use welore_burn::llama::load_llama;
//! use welore_burn::surgery::{WriteSettings, merge_directory};
//!
//! let device = Device::flex();
//! let loaded = load_llama("smollm2-80", &device, FloatDType::F32, &mut ())?;
//! let tokens = TextTokenizer::open("smollm2-80")?.encode(&read_text("wikitext2/test.txt")?)?;
//! let at_once = NonZeroUsize::MIN;
//! let options = PerplexityOptions { seq_len: 512, blocks: Some(16), at_once };
//! let context = loaded.config.max_position_embeddings;
//! let measured = perplexity(&loaded.model, &tokens, context, &options, &device, &mut ())?;
//! println!("perplexity {:.3}", measured.perplexity);
//!
//! // A plain dense directory, for every tool that knows no factors.
//! let output = OutputDir::create("smollm2-80-dense", false)?;
//! let checkpoint = Checkpoint::open("smollm2-80")?;
//! merge_directory(&checkpoint, &output, &WriteSettings::default(), &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Functions take modules and a `&Device`; none builds a device. Long work takes a
//! [`Progress`](progress::Progress), which may be `&mut ()`. Errors are one enum a room, and what
//! can be checked is checked before work begins.

#![recursion_limit = "256"]

mod artifact;
pub mod calibrate;
pub mod checkpoint;
pub mod compress;
pub mod data;
pub mod eval;
pub mod files;
pub mod forms;
pub mod gguf;
#[cfg(doctest)]
mod guides;
pub mod linalg;
pub mod linear;
pub mod model;
pub mod modules;
pub mod named;
pub mod plan;
pub mod progress;
pub mod report;
pub mod spectrum;
pub mod train;
pub mod workers;
