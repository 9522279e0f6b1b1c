//! Low-rank compression and fine-tuning of Burn modules and language models, after WeLore
//! (arXiv 2407.11239).
//!
//! The weight matrices of a pretrained model are low-rank to very different degrees. WeLore
//! normalizes the singular values of each matrix, cuts all of them at one threshold that meets a
//! target, factors the matrices that lose much (low-rank components, LRCs) and keeps the others
//! dense. Then it fine-tunes the LRCs alone.
//!
//! 1. [`checkpoint`] opens a Hugging Face model directory, and [`gguf`] makes one from a file of
//!    llama.cpp, and such a file from a directory; [`model`] runs the models in them. Or you bring your own Burn module.
//! 2. [`calibrate`] can measure what the matrices do on a text.
//! 3. [`spectrum`] computes the singular values of the matrices, with [`linalg`].
//! 4. [`plan`] chooses the rank and the form of each matrix so that a target is met: an effective
//!    rank reduction (ERR), a number of parameters or a number of bytes. [`forms`] defines the forms.
//! 5. [`compress`] carries the plan out, on files or on a live module with [`linear`] layers, and
//!    merges the factors again for software that does not know them.
//! 6. [`train`] fine-tunes the factors on text or tasks from [`data`].
//! 7. [`eval`] measures the result, and [`report`] draws it.
//! 8. [`adapters`] reads, writes and applies LoRA adapters of the PEFT library, and [`difference`]
//!    makes them of what two models differ by. [`changes`] saves only
//!    what training changed.
//!
//! # Any Burn module
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::{AdamWConfig, GradientsParams};
//! use burn::tensor::{Device, Tensor};
//! use welore_burn::compress::compress_module;
//! use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
//! use welore_burn::modules::Selection;
//! use welore_burn::plan::{PlanOptions, WeLore, make_plan};
//! use welore_burn::spectrum::{MeasureOptions, measure_module};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     hidden: LowRankLinear, // once factored, multiplies by one factor after the other
//!     output: Linear,        // would multiply its factors together in every forward pass
//! }
//!
//! let device = Device::flex();
//! let net = Net {
//!     hidden: LowRankLinearConfig::new(64, 64).init(&device),
//!     output: LinearConfig::new(64, 10).init(&device),
//! };
//! let selection = Selection::of(["hidden"])?;
//! let spectra = measure_module(&net, &selection, &MeasureOptions::default(), &mut ())?;
//! let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.7))?;
//! let (net, report) = compress_module(net, &plan, &mut ())?;
//!
//! assert_eq!(net.hidden.rank(), Some(report.compressed[0].rank));
//! assert_eq!(net.num_params() as u64, plan.totals.parameters_after);
//!
//! // Only the factors train, in any training loop.
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
//! To factor one layer at a rank you chose, call
//! [`LowRankLinear::factored`](linear::LowRankLinear::factored). To load what was compressed before,
//! shape the module by its plan with [`shape_by_plan`](compress::shape_by_plan) and call
//! [`load_module`](checkpoint::load_module). [`add_adapters`](train::add_adapters) puts LoRA adapters
//! on any module, compressed or not.
//!
//! # A model directory
//!
//! Compression from files to files never builds the model and holds a few matrices at a time:
//!
//! ```no_run
//! use burn::tensor::Device;
//! use welore_burn::compress::Compressor;
//! use welore_burn::files::OutputDir;
//! use welore_burn::model::{open_model, projections};
//! use welore_burn::plan::{PlanOptions, WeLore, make_plan};
//! use welore_burn::spectrum::{MeasureOptions, measure_checkpoint};
//!
//! let opened = open_model("SmolLM2-135M-Instruct", &Device::flex())?;
//! let selection = projections(opened.skeleton());
//! let options = MeasureOptions::default();
//! let spectra = measure_checkpoint(&opened.checkpoint, &selection, &options, &mut ())?;
//! let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(0.3))?;
//! let output = OutputDir::create("smollm2-30", false)?;
//! Compressor::new(&plan).directory(&opened.checkpoint, &output, &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # With a calibration
//!
//! The weights alone do not show what a matrix is used for; a text does. These are the same steps in
//! the norm that the text gives, with ranks where they cost the loss least, and in the pivoted form,
//! which has more rank for the same number of parameters:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
//! use welore_burn::compress::Compressor;
//! use welore_burn::data::{TextTokenizer, read_text};
//! use welore_burn::files::OutputDir;
//! use welore_burn::forms::Storage;
//! use welore_burn::linalg::Shrinkage;
//! use welore_burn::model::{load_model, projections};
//! use welore_burn::plan::{Loss, PlanOptions, Target, make_plan};
//! use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};
//!
//! let (dir, file) = ("SmolLM2-135M-Instruct", Path::new("calibration"));
//! let loaded = load_model(dir, &Device::flex().autodiff(), FloatDType::F32, &mut ())?;
//! let (model, checkpoint) = (loaded.model, loaded.checkpoint);
//! let tokens = TextTokenizer::open(dir)?.encode(&read_text("wikitext2/valid.txt")?)?;
//! let options = CalibrationOptions { windows: Some(64), ..CalibrationOptions::default() };
//! calibrate(&model, Some(&checkpoint), &tokens.into(), &options, file, &mut ())?;
//!
//! let calibration = Calibration::open(file)?;
//! let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default())?;
//! let options = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
//! let spectra = measure_checkpoint(&checkpoint, &projections(&model), &options, &mut ())?;
//! let options =
//!     PlanOptions { storage: Storage::Pivot, ..PlanOptions::to(Target::KeepParams(0.8)) };
//! let plan = make_plan(&spectra, &Loss, &options)?;
//! let output = OutputDir::create("smollm2-80", false)?;
//! Compressor::new(&plan).with_norms(norms).directory(&checkpoint, &output, &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Training
//!
//! A run is a directory that survives being stopped. Here the factors of a compressed model train:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::data::{TextTokenizer, TokenRows, read_text};
//! use welore_burn::model::{Decoder, load_model};
//! use welore_burn::train::{ExecutionOptions, RunPlace, TrainOptions, Training, TrainingEvent};
//!
//! let device = Device::flex().autodiff();
//! let model = load_model("smollm2-80", &device, FloatDType::F32, &mut ())?.model;
//! let tokens = TextTokenizer::open("smollm2-80")?.encode(&read_text("wikitext2/valid.txt")?)?;
//! let options = TrainOptions { steps: 60, warmup: 5, lr: 2e-4, ..TrainOptions::default() };
//! let rows = TokenRows::windows(tokens, options.seq_len);
//!
//! let place = RunPlace { dir: Path::new("run"), origin: "smollm2-80", resume: false };
//! let mut training = Training::open(model, options, place)?;
//! let evaluate = |_: &Decoder| unreachable!("the options ask for no evaluation");
//! let observe = |event: TrainingEvent| {
//!     println!("{event:?}");
//!     Ok(())
//! };
//! training.run(&rows, ExecutionOptions::default(), evaluate, observe)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `learner`, `burn::train` trains these models too: see
//! [`Learnable`](https://docs.rs/welore-burn/latest/welore_burn/train/struct.Learnable.html).
//!
//! # Evaluation and export
//!
//! ```no_run
//! use burn::tensor::{Device, FloatDType};
//! use welore_burn::checkpoint::Checkpoint;
//! use welore_burn::compress::{Conversion, WriteOptions, convert_directory, merge_directory};
//! use welore_burn::data::{TextTokenizer, read_text};
//! use welore_burn::eval::{PerplexityOptions, perplexity};
//! use welore_burn::files::OutputDir;
//! use welore_burn::forms::Precision;
//! use welore_burn::model::load_model;
//!
//! let model = load_model("smollm2-80", &Device::flex(), FloatDType::F32, &mut ())?.model;
//! let tokens = TextTokenizer::open("smollm2-80")?.encode(&read_text("wikitext2/test.txt")?)?;
//! let measured = perplexity(&model, &tokens, &PerplexityOptions::default(), &mut ())?;
//! println!("perplexity {:.3}", measured.perplexity);
//!
//! // A plain dense directory, for software that does not know factors.
//! let output = OutputDir::create("smollm2-80-dense", false)?;
//! let checkpoint = Checkpoint::open("smollm2-80")?;
//! merge_directory(&checkpoint, &output, &WriteOptions::default(), &mut ())?;
//! output.commit()?;
//!
//! // The same small model, in half the bytes if it was in f32.
//! let conversion = Conversion { dense: false, precision: Some(Precision::Bf16) };
//! let output = OutputDir::create("smollm2-80-bf16", false)?;
//! convert_directory(&checkpoint, conversion, &output, &WriteOptions::default(), &mut ())?;
//! output.commit()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Functions take a module and use the device it is on, or take a `&Device`; none constructs one.
//! Long work takes a [`Progress`](progress::Progress), for which `&mut ()` will do. Each room has one
//! error enum, and what can be checked is checked before work begins.

#![recursion_limit = "256"]

pub mod adapters;
mod artifact;
pub mod calibrate;
pub mod changes;
pub mod channels;
pub mod checkpoint;
pub mod compress;
pub mod data;
pub mod difference;
pub mod distill;
pub mod escape;
pub mod eval;
pub mod files;
pub mod forms;
pub mod ggml;
pub mod gguf;
#[cfg(doctest)]
mod guides;
mod host;
pub mod linalg;
pub mod linear;
pub mod model;
pub mod modules;
pub mod named;
pub mod plan;
pub mod progress;
pub mod report;
pub mod search;
pub mod spectrum;
pub mod train;
pub mod types;
mod words;
pub mod workers;
