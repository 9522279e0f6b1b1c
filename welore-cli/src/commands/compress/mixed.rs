//! `compress --for welore`: a directory within a budget, every matrix in the form that costs the loss
//! least.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};
use welore_burn::eval::Estimate;
use welore_burn::files::OutputDir;
use welore_burn::named::Named;
use welore_burn::plan::{Candidate, RankPlan};
use welore_burn::types::TypeBudget;

use super::{check_saved, inputs, or_kept, typing, without_factors};
use crate::args::{CompressArgs, Typed, rule};
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_output, in_target};
use crate::shared::card::write_card;
use crate::shared::inputs::{check_not_left, check_outside};
use crate::shared::opening::open_known;
use crate::shared::planning::note_calibration;
use crate::shared::scratch::Scratch;
use crate::shared::typing::{Aim, Dense, Mixed};
use crate::terminal::Bar;
use crate::{format, memory, models, output};

/// Forms that may be used unless others are named. Factors cost minutes to measure, and pay rarely.
const FORMS: [Candidate; 1] = [Candidate::Blocks];

/// Runs the command.
pub fn run(args: &CompressArgs, typed: &Typed) -> Result<()> {
    let started = Instant::now();
    let typing = typing(args);
    let kinds = if args.forms.is_empty() { &FORMS[..] } else { &args.forms };
    check_forms(kinds)?;
    let (aim, max_bytes) = check(args, typed)?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &host())?;
    check_output(&args.output, &model)?;
    let target = match args.dry_run {
        true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
        false => Some(OutputDir::resumable(&args.output, args.force)?),
    };
    check_outside(&args.output, inputs(args))?;
    let mixed = Mixed::of(typing, &opened, kinds, max_bytes)?;
    memory::keep_pages();
    let compute = Compute::choose(args.compute.choice())?;
    let makes = !typing.texts().is_empty() && args.save_calibration.is_none();
    let scratch = Scratch::new(makes)?;
    let calibration = mixed.calibration(&aim, &compute, scratch.path())?;
    let mut dense = Dense::new(&model, &compute);
    let mut plan = mixed.plan(&calibration, &mut dense)?;
    note_calibration(&mut plan, Some(&calibration));
    let Some(target) = target else { return tell(args, &plan, None, started) };
    let compressor = mixed.compressor(&plan, &calibration, args.shards.shard_size, &compute)?;
    let mut bar = Bar::default();
    let written = compressor.directory(&opened.checkpoint, &target, &mut bar);
    bar.finish();
    let (target, _) = or_kept(target, written)?;
    let measured = match args.typing.no_measure {
        true => None,
        false => Some(mixed.measure(target.path(), &calibration, &mut dense)),
    };
    // What was written is kept, also if measuring what it loses was stopped.
    let base = args.model.to_string_lossy();
    let labels = calibration.gradient_labels().map(|(labels, _)| labels);
    let card = write_card(target.path(), opened.checkpoint.dir(), &base, &plan, labels);
    in_target(card, &target)?;
    target.commit()?;
    if let Some(Err(_)) = &measured {
        let output = args.output.display();
        note!("{output} is complete; --no-measure leaves the measurement out");
    }
    tell(args, &plan, measured.transpose()?, started)
}

/// Refuses kinds of forms that this cannot choose among.
fn check_forms(kinds: &[Candidate]) -> Result<()> {
    let is_known = |kind: &Candidate| matches!(kind, Candidate::Blocks | Candidate::Factors);
    match kinds.iter().find(|kind| !is_known(kind)) {
        None => Ok(()),
        Some(other) => {
            let message = format!("--forms {}: not with --for welore", other.name());
            let hint = "--for welore chooses among `blocks` and `factors`; without --for, \
                        --forms channels makes MLPs narrower";
            Err(WrongInput::with_hint(message, hint).into())
        }
    }
}

/// Checks everything that the arguments alone tell, and returns the budget.
fn check(args: &CompressArgs, typed: &Typed) -> Result<(Aim, u64)> {
    let carries_out = "`compress --plan FILE` without --for carries a plan of forms out";
    typed.check([rule("plan", false, carries_out)])?;
    let aim = typing(args).check(typed)?;
    let Aim::Budget(TypeBudget::MaxBytes(max_bytes)) = aim else {
        let message = "--for welore needs --max-bytes, the size of the weights";
        return Err(WrongInput::with_hint(message, "such as --max-bytes 80MB").into());
    };
    let rules = [
        rule("no-calibration", false, "forms are weighed with a calibration"),
        rule("no-measure", !args.dry_run, "a dry run writes nothing that could be measured"),
        rule("save-types", false, "the forms are in the plan of the directory"),
        rule("widths", false, "only with --forms channels"),
        rule("width-multiple", false, "only with --forms channels"),
    ];
    typed.check(rules.into_iter().chain(without_factors("not with --for")))?;
    check_not_left(&args.output, inputs(args))?;
    check_saved(args)?;
    Ok((aim, max_bytes))
}

/// Says what was chosen, and what it loses.
fn tell(
    args: &CompressArgs,
    plan: &RankPlan,
    measured: Option<Estimate>,
    started: Instant,
) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let mut forms: BTreeMap<String, usize> = BTreeMap::new();
    for matrix in &plan.matrices {
        *forms.entry(matrix.form.to_string()).or_insert(0) += 1;
    }
    let totals = &plan.totals;
    if args.json {
        let forms: Map<String, Value> =
            forms.into_iter().map(|(form, count)| (form, count.into())).collect();
        return output::print_json(&json!({
            "output": args.output.display().to_string(),
            "dry_run": args.dry_run,
            "target": plan.target,
            "bytes": totals.bytes_after,
            "expected_loss": totals.expected_loss,
            "measured": measured,
            "calibration": plan.calibration,
            "forms": forms,
            "seconds": seconds,
        }));
    }
    for (form, count) in forms {
        say!("{:>4} as {form}", count);
    }
    if let Some(expected) = totals.expected_loss {
        say!("expected   the loss rises by {expected:.2e} nats per token");
    }
    if let Some(Estimate { value, standard_error }) = measured {
        say!(
            "measured   all of them together diverge by {value:.2e} ± {standard_error:.0e} nats per \
             token"
        );
    }
    let did = if args.dry_run { "would write" } else { "wrote" };
    let (output, bytes) = (args.output.display(), format::bytes(totals.bytes_after));
    let most = args.goal.max_bytes.map(format::bytes).unwrap_or_default();
    say!("{did} {output}: {bytes} of {most} in {}", format::time(seconds));
    Ok(())
}
