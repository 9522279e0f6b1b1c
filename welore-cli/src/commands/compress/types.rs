//! `compress --for llama.cpp`: a GGUF file of at most so many bytes, every matrix in the type that
//! costs the loss least.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};
use welore_burn::calibrate::{Calibration, CalibrationError};
use welore_burn::files::check_staged;
use welore_burn::ggml::TensorType;
use welore_burn::gguf::{GgufExport, GgufOptions};
use welore_burn::model::{LanguageModel, OpenedModel, load_model, open_model};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::types::{
    CostOptions, QuantizedSource, Rounding, TensorCosts, TypeCost, TypePlan, candidates,
    measure_alone, measure_types, token_matrices,
};

use super::{calibration_of, check_saved, inputs};
use crate::args::{CompressArgs, RANK_OPTIONS, TextArg, Typed, rule};
use crate::cache::cache_dir;
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, check_space, write_artifact};
use crate::shared::calibrating::check_amount;
use crate::shared::card::name_of;
use crate::shared::effects::of_amount;
use crate::shared::inputs::place_of;
use crate::shared::measuring::budget;
use crate::shared::recipe::{check_calibration_file, open_calibration};
use crate::shared::scratch::Scratch;
use crate::terminal::Bar;
use crate::{format, memory, models, output};

/// Windows of the calibration's text on which the types of embedding and head are measured.
const WINDOWS: usize = 8;

/// Options that concern ranks and factors, beside [`RANK_OPTIONS`].
const OF_RANKS: [&str; 13] = [
    "plan",
    "err",
    "err-applied",
    "keep-params",
    "method",
    "shrink-inputs",
    "shrink-gradients",
    "follow",
    "fit-windows",
    "refine",
    "refine-lr",
    "other-calibration",
    "probe-windows",
];

/// Runs the command.
pub fn run(mut args: CompressArgs, typed: &Typed) -> Result<()> {
    let started = Instant::now();
    let max_bytes = check(&mut args, typed)?;
    let model = models::directory_of(&args.model)?;
    let opened = open_model(&model, &host())?;
    let options = GgufOptions {
        name: Some(name_of(&args.model.to_string_lossy())),
        ..GgufOptions::default()
    };
    let problem = Problem::of(&args, &opened, options, max_bytes)?;
    problem.check_reach()?;
    memory::keep_pages();
    let compute = Compute::choose(args.compute.choice())?;
    let scratch = Scratch::new(!args.calibrate.is_empty() && args.save_calibration.is_none())?;
    let calibration = match args.method.calibration.as_deref() {
        Some(file) => open_calibration(Some(file), opened.skeleton())?,
        None => {
            let by_default = !typed.has("calibrate");
            Some(calibration_of(&args, &model, &compute, scratch.path(), by_default)?)
        }
    };
    let Some(calibration) = calibration else { unreachable!("one was given or made") };
    let plan = problem.solve(&calibration, &compute)?;
    problem.write(&plan, &calibration, started)
}

/// Checks everything that the arguments alone tell, and returns the budget.
fn check(args: &mut CompressArgs, typed: &Typed) -> Result<u64> {
    let of_ranks = "only without --for llama.cpp, which chooses types, not ranks";
    let options = RANK_OPTIONS.into_iter().chain(OF_RANKS);
    typed.check(options.map(|option| rule(option, false, of_ranks)))?;
    let calibrates = !args.calibrate.is_empty() || args.method.calibration.is_none();
    typed.check([
        rule("no-calibration", false, "types are weighed with a calibration"),
        rule("force", false, "with --for llama.cpp the output is a file"),
        rule("widths", false, "only with --forms channels"),
        rule("width-multiple", false, "only with --forms channels"),
        rule("shard-size", false, "a GGUF file has no shards"),
        rule("report", false, "not with --for llama.cpp"),
        rule("save-calibration", calibrates, "only where a calibration is made"),
    ])?;
    let Some(max_bytes) = args.goal.max_bytes else {
        let message = "--for llama.cpp needs --max-bytes, the size of the file";
        return Err(WrongInput::with_hint(message, "such as --max-bytes 100MB").into());
    };
    check_artifact(Some(&args.output), Artifact::Gguf, inputs(args))?;
    check_staged(&args.output)?;
    check_saved(args)?;
    check_artifact(args.save_types.as_deref(), Artifact::Types, inputs(args))?;
    check_distinct(args)?;
    check_calibration_file(args.method.calibration.as_deref())?;
    if args.method.calibration.is_none() && args.calibrate.is_empty() {
        args.calibrate.push(TextArg::Own);
    }
    typed.check(of_amount(&args.calibrate, &args.amount))?;
    if !args.calibrate.is_empty() {
        check_amount(&args.calibrate, &args.amount, typed)?;
        if args.amount.gradient_windows == 0 {
            return Err(
                WrongInput::new("--gradient-windows 0: types are weighed by gradients").into()
            );
        }
    }
    Ok(max_bytes)
}

/// Refuses one place for two files.
fn check_distinct(args: &CompressArgs) -> Result<()> {
    let files = [Some(&args.output), args.save_calibration.as_ref(), args.save_types.as_ref()];
    let places: Vec<_> = files.into_iter().flatten().map(|file| (file, place_of(file))).collect();
    for (at, (file, place)) in places.iter().enumerate() {
        if place.is_some() && places[..at].iter().any(|(_, other)| other == place) {
            let message = format!("{} is given for two files", file.display());
            return Err(WrongInput::with_hint(message, "give each its own name").into());
        }
    }
    Ok(())
}

/// A file that is to be made, and the types that it may have.
struct Problem<'a> {
    args: &'a CompressArgs,
    opened: &'a OpenedModel,
    options: GgufOptions,
    types: Vec<TensorType>,
    /// The matrices that a calibration knows.
    names: Vec<MatrixName>,
    /// Embedding and head.
    of_tokens: Vec<String>,
    /// Bytes of the file besides the matrices.
    rest: u64,
    max_bytes: u64,
}

impl<'a> Problem<'a> {
    fn of(
        args: &'a CompressArgs,
        opened: &'a OpenedModel,
        options: GgufOptions,
        max_bytes: u64,
    ) -> Result<Self> {
        if let Some(matrix) = opened.compressed.first() {
            let message = format!("`{}` is {}, not dense", matrix.name, matrix.form);
            let hint = "give the dense model; `welore-cli export DIR --gguf FILE` writes this one";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let matrices = opened.skeleton().matrices();
        let names: Vec<MatrixName> = matrices.into_iter().map(|matrix| matrix.name).collect();
        let of_tokens = token_matrices(&opened.checkpoint);
        let export = GgufExport::new(opened, &options)?;
        let planned = |name: &str| of_tokens.iter().any(|t| t == name);
        let planned =
            |name: &str| planned(name) || names.iter().any(|matrix| matrix.weight() == *name);
        let rest = export.bytes_without(planned);
        let types = match args.types.is_empty() {
            true => TensorType::all().iter().copied().filter(|t| is_default(*t)).collect(),
            false => args.types.clone(),
        };
        Ok(Self { args, opened, options, types, names, of_tokens, rest, max_bytes })
    }

    /// The tensors whose types are chosen.
    fn tensors(&self) -> impl Iterator<Item = String> + '_ {
        self.of_tokens.iter().cloned().chain(self.names.iter().map(MatrixName::weight))
    }

    /// Refuses a size that no types reach, before anything is computed.
    fn check_reach(&self) -> Result<()> {
        let costs = self
            .tensors()
            .map(|tensor| {
                let shape = self.opened.checkpoint.matrix_shape(&tensor)?;
                let candidates = candidates(shape, &self.types)
                    .map(|(tensor_type, bytes)| TypeCost { tensor_type, bytes, loss: 0.0 })
                    .collect();
                Ok(TensorCosts { tensor, shape, candidates })
            })
            .collect::<Result<Vec<_>>>()?;
        TypePlan::new("", "", &costs, self.rest, self.max_bytes)?;
        check_space(&self.args.output, self.max_bytes)
    }

    /// Measures what types cost, and chooses them.
    fn solve(&self, calibration: &Calibration, compute: &Compute) -> Result<TypePlan> {
        if !calibration.has_gradients() {
            return Err(CalibrationError::NoGradients.into());
        }
        let checkpoint = &self.opened.checkpoint;
        let resources = &self.args.resources;
        let options = CostOptions {
            types: self.types.clone(),
            rounding: Rounding::default(),
            budget: budget(resources),
            windows: WINDOWS,
            at_once: compute.at_once(),
            cache: if resources.no_cache { None } else { cache_dir("types") },
        };
        let mut bar = Bar::default();
        let of_matrices = measure_types(checkpoint, calibration, &self.names, &options, &mut bar)?;
        bar.finish();
        let mut costs = Vec::new();
        let (device, dtype) = (&compute.device, compute.dtype);
        let loaded = load_model(checkpoint.dir(), device, dtype, &mut Bar::default())?;
        for tensor in &self.of_tokens {
            let mut bar = Bar::for_subject(tensor);
            costs.push(measure_alone(
                &loaded.model,
                checkpoint,
                tensor,
                calibration,
                &options,
                &mut bar,
            )?);
            bar.finish();
        }
        costs.extend(of_matrices);
        let source = name_of(&self.args.model.to_string_lossy());
        Ok(TypePlan::new(source, calibration.digest(), &costs, self.rest, self.max_bytes)?)
    }

    /// Writes the file, unless this is a dry run, and says what is in it.
    fn write(&self, plan: &TypePlan, calibration: &Calibration, started: Instant) -> Result<()> {
        let types = plan.matrices.iter().map(|matrix| (matrix.tensor.clone(), matrix.tensor_type));
        let options = GgufOptions { tensors: types.collect(), ..self.options.clone() };
        let export = GgufExport::new(self.opened, &options)?;
        debug_assert_eq!(export.summary().bytes, plan.bytes);
        if let Some(path) = &self.args.save_types {
            write_artifact(path, &plan.to_json())?;
        }
        if !self.args.dry_run {
            let source = QuantizedSource::new(self.opened, Some(calibration), Rounding::default());
            let mut bar = Bar::default();
            export.write(&self.args.output, &source, &mut bar)?;
            bar.finish();
        }
        self.tell(plan, started.elapsed().as_secs_f64())
    }

    fn tell(&self, plan: &TypePlan, seconds: f64) -> Result<()> {
        let mut counts: BTreeMap<TensorType, usize> = BTreeMap::new();
        for matrix in &plan.matrices {
            *counts.entry(matrix.tensor_type).or_insert(0) += 1;
        }
        let (output, dry_run) = (&self.args.output, self.args.dry_run);
        let bits = plan.bits(|tensor| !self.of_tokens.iter().any(|token| token == tensor));
        if self.args.json {
            let types: Map<String, Value> =
                counts.iter().map(|(t, count)| (t.name().into(), (*count).into())).collect();
            return output::print_json(&json!({
                "output": output.display().to_string(),
                "dry_run": dry_run,
                "max_bytes": plan.max_bytes,
                "bytes": plan.bytes,
                "bits": bits,
                "expected_loss": plan.expected_loss,
                "calibration": plan.calibration,
                "types": types,
                "seconds": seconds,
            }));
        }
        let types: Vec<String> = counts
            .iter()
            .map(|(t, count)| format!("{} in {}", format::matrices(*count), t.name()))
            .collect();
        say!("types      {}", types.join(", "));
        say!("projections have {bits:.2} bits a weight, scales included");
        say!("expected   the loss rises by {:.2e} nats per token", plan.expected_loss);
        let did = if dry_run { "would write" } else { "wrote" };
        say!(
            "{did} {}: {} of {} in {}",
            output.display(),
            format::bytes(plan.bytes),
            format::bytes(plan.max_bytes),
            format::time(seconds)
        );
        Ok(())
    }
}

/// The types that may be used unless others are named. bf16 is as large as f16, and less precise.
fn is_default(tensor_type: TensorType) -> bool {
    !matches!(tensor_type, TensorType::F32 | TensorType::Bf16)
}
