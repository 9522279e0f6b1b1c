//! `compress --for llama.cpp`: a GGUF file within a budget, every matrix in the type that costs the
//! loss least.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::files::check_staged;

use super::{check_saved, typing, without_factors};
use crate::args::{CompressArgs, Typed, rule};
use crate::devices::{Compute, host};
use crate::models::Artifact;
use crate::shared::artifacts::{check_space, claim, tell_gguf_name, write_artifact};
use crate::shared::opening::open_known;
use crate::shared::scratch::Scratch;
use crate::shared::typing::{Aim, Dense, Problem, Typing, say_choice, summary};
use crate::{format, memory, models, output};

/// Runs the command.
pub fn run(args: &CompressArgs, typed: &Typed) -> Result<()> {
    let started = Instant::now();
    let typing = typing(args);
    let aim = check(args, &typing, typed)?;
    let _claim = claim(Some(args.output.as_path()).filter(|_| !args.dry_run))?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &host())?;
    let problem = Problem::of(typing, &opened)?;
    problem.check(&aim)?;
    check_space(&args.output, problem.most_bytes(&aim)?)?;
    memory::keep_pages();
    let compute = Compute::choose(args.compute.choice())?;
    let makes = !typing.texts().is_empty() && args.save_calibration.is_none();
    let scratch = Scratch::new(makes)?;
    let calibration = problem.calibration(&aim, &compute, scratch.path())?;
    let mut dense = Dense::new(&model, &compute);
    // A plan that is only shown has been measured when it was made.
    let is_shown = args.dry_run && matches!(aim, Aim::Given(_));
    let measures = !args.typing.no_measure && !is_shown;
    let mut plan = problem.plan(aim, &calibration, &mut dense)?;
    let output = Some(args.output.as_path()).filter(|_| !args.dry_run);
    let measured = problem.carry_out(&plan, &calibration, &mut dense, output, measures);
    if let Ok(Some(kl)) = &measured {
        plan.measured_kl = Some(kl.value);
    }
    // Types that were chosen are kept, also if measuring what they lose was stopped.
    if let Some(path) = &args.save_types {
        write_artifact(path, &plan.to_json())?;
    }
    let measured = measured?;
    tell_gguf_name(&args.output);
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let mut fields = summary(&plan, measured);
        fields.insert("output".into(), args.output.display().to_string().into());
        fields.insert("dry_run".into(), args.dry_run.into());
        fields.insert("seconds".into(), json!(seconds));
        return output::print_json(&Value::Object(fields));
    }
    let size = say_choice(&plan, measured)?;
    let did = if args.dry_run { "would write" } else { "wrote" };
    say!("{did} {}: {size} in {}", args.output.display(), format::time(seconds));
    Ok(())
}

/// Checks everything that the arguments alone tell.
fn check(args: &CompressArgs, typing: &Typing<'_>, typed: &Typed) -> Result<Aim> {
    let aim = typing.check(typed)?;
    let rules = [
        rule("no-calibration", false, "types are weighed with a calibration"),
        rule("force", false, "with --for llama.cpp the output is a file"),
        rule("widths", false, "only with --forms channels"),
        rule("width-multiple", false, "only with --forms channels"),
        rule("shard-size", false, "a GGUF file has no shards"),
    ];
    typed.check(rules.into_iter().chain(without_factors("not with --for")))?;
    check_staged(&args.output)?;
    check_saved(args)?;
    typing.check_files(&[
        (Some(args.output.as_path()), Artifact::Gguf),
        (args.save_calibration.as_deref(), Artifact::Calibration),
        (args.save_types.as_deref(), Artifact::Types),
    ])?;
    Ok(aim)
}
