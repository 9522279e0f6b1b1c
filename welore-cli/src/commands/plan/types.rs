//! `plan --for llama.cpp`: the type of each matrix within a budget, without the file.

use anyhow::Result;
use welore_burn::files::check_staged;

use crate::args::{EngineArg, PlanArgs, Typed, rule};
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::artifacts::{claim, write_artifact};
use crate::shared::effects::OF_SEARCH;
use crate::shared::opening::open_known;
use crate::shared::scratch::Scratch;
use crate::shared::typing::{Dense, Problem, Typing, say_choice, say_llama_quantize};
use crate::{memory, models, output};

/// Runs the command.
pub fn run(args: &PlanArgs, typed: &Typed) -> Result<()> {
    if args.typing.engine == Some(EngineArg::Transformers) {
        let message = "--for transformers: it has no types to plan";
        let hint = "`welore-cli compress MODEL --for transformers --forms channels` makes a model";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    if args.typing.engine == Some(EngineArg::Welore) {
        let message = "--for welore: forms are planned where they are carried out";
        let hint = "`welore-cli compress MODEL --for welore --dry-run` shows the plan";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    let ranks = "only where ranks are searched for, not with --for";
    typed.check(OF_SEARCH.map(|option| rule(option, false, ranks)))?;
    let typing = typing(args);
    let aim = typing.check(typed)?;
    if let Some(path) = &args.save_calibration {
        check_staged(path)?;
    }
    typing.check_files(&[
        (args.output.as_deref(), Artifact::Types),
        (args.tensor_types.as_deref(), Artifact::TensorTypes),
        (args.save_calibration.as_deref(), Artifact::Calibration),
    ])?;
    let _claim = claim(args.output.as_deref())?;
    let model = models::directory_of(&args.source)?;
    let opened = open_known(&model, &host())?;
    let problem = Problem::of(typing, &opened)?;
    problem.check(&aim)?;
    memory::keep_pages();
    let compute = Compute::choose(args.compute.choice())?;
    let makes = !typing.texts().is_empty() && args.save_calibration.is_none();
    let scratch = Scratch::new(makes)?;
    let calibration = problem.calibration(&aim, &compute, scratch.path())?;
    let mut dense = Dense::new(&model, &compute);
    let mut plan = problem.plan(aim, &calibration, &mut dense)?;
    let measures = !args.typing.no_measure;
    let measured = problem.carry_out(&plan, &calibration, &mut dense, None, measures);
    if let Ok(Some(kl)) = &measured {
        plan.measured_kl = Some(kl.value);
    }
    // Types that were chosen are kept, also if measuring what they lose was stopped.
    if let Some(path) = &args.output {
        write_artifact(path, &plan.to_json())?;
    }
    let measured = measured?;
    let told = plan.for_llama_quantize();
    if let Some(path) = &args.tensor_types {
        write_artifact(path, &told.file())?;
    }
    if args.json {
        output::print_json(&plan)?;
    } else {
        let size = say_choice(&plan, measured)?;
        say!("the file would have {size}");
    }
    if let Some(path) = &args.tensor_types {
        say_llama_quantize(&told, path, &args.source);
    }
    Ok(())
}

fn typing(args: &PlanArgs) -> Typing<'_> {
    Typing {
        model: &args.source,
        options: &args.typing,
        max_bytes: args.goal.max_bytes,
        plan: None,
        other_calibration: false,
        calibration: args.method.calibration.as_deref(),
        calibrate: &args.calibrate,
        save_calibration: args.save_calibration.as_deref(),
        amount: &args.amount,
        resources: &args.resources,
    }
}
