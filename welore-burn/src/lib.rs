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
//! 7. [`llama`] runs the result, [`eval`] measures it, [`report`] draws it.
//!
//! # Any Burn module
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
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
//! let x = Tensor::<2>::ones([1, 64], &device);
//! assert_eq!(net.output.forward(net.hidden.forward(x)).dims(), [1, 10]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A model directory
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
//! Functions take modules and a `&Device`; none builds a device. Long work takes a
//! [`Progress`](progress::Progress), which may be `&mut ()`.

#![recursion_limit = "256"]

mod artifact;
pub mod calibrate;
pub mod checkpoint;
pub mod data;
pub mod eval;
pub mod fit;
pub mod gguf;
pub mod language;
pub mod linalg;
pub mod linear;
pub mod llama;
pub mod plan;
pub mod progress;
pub mod report;
pub mod spectrum;
pub mod surgery;
pub mod train;
pub mod workers;
