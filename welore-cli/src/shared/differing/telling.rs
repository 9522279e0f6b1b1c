//! What an adapter of a difference is, for people and as JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::difference::{MatrixDifference, OtherDifference};
use welore_burn::named::Named;

use super::{BYTES_OF_NUMBER, Job, Made};
use crate::shared::labels::of_norm;
use crate::{format, output};

/// How many tensors a warning names.
const SHOWN: usize = 5;

/// Several matrices of one kind.
#[derive(Debug, Default)]
struct Kind {
    matrices: usize,
    ranks: Option<[usize; 2]>,
    parameters: u64,
    /// Squared errors in the norm, of the whole difference and of what is left.
    whole: f64,
    left: f64,
}

impl Kind {
    fn add(&mut self, matrix: &MatrixDifference, rank: usize) {
        let tails = matrix.tails();
        let [least, most] = self.ranks.unwrap_or([rank, rank]);
        self.ranks = Some([least.min(rank), most.max(rank)]);
        self.matrices += 1;
        self.parameters += matrix.parameters_of_rank() * rank as u64;
        self.whole += tails[0];
        self.left += tails[rank];
    }

    /// The error over the whole difference.
    fn relative_error(&self) -> f64 {
        relative(self.left, self.whole)
    }

    fn row(&self, name: &str) -> Vec<String> {
        let ranks = match self.ranks {
            Some([least, most]) if least == most => least.to_string(),
            Some([least, most]) => format!("{least} to {most}"),
            None => String::new(),
        };
        vec![
            name.into(),
            self.matrices.to_string(),
            ranks,
            format::count(self.parameters),
            format::percent(self.relative_error()),
        ]
    }
}

/// The root of the share of a squared error.
fn relative(left: f64, whole: f64) -> f64 {
    if whole > 0.0 { (left / whole).sqrt() } else { 0.0 }
}

impl Made {
    /// The matrices by kind, and all of them.
    fn kinds(&self) -> (BTreeMap<&str, Kind>, Kind) {
        let (mut kinds, mut all) = (BTreeMap::<&str, Kind>::new(), Kind::default());
        for (matrix, rank) in self.differences.matrices.iter().zip(&self.ranks) {
            kinds.entry(matrix.name.kind()).or_default().add(matrix, *rank);
            all.add(matrix, *rank);
        }
        (kinds, all)
    }

    /// What all differences, and what is left of them, are expected to raise the loss by together, in
    /// nats per token; `None` if that is not known.
    pub fn losses(&self) -> Option<[f64; 2]> {
        let each = self.approximations.iter().map(|made| made.losses);
        let each = each.collect::<Option<Vec<[f64; 2]>>>().filter(|all| !all.is_empty())?;
        Some(each.into_iter().fold([0.0; 2], |[a, b], [before, left]| [a + before, b + left]))
    }
}

/// The result as JSON.
pub fn as_json(job: &Job<'_>, made: &Made) -> Value {
    let (_, all) = made.kinds();
    let losses = |index: usize| made.approximations.get(index).and_then(|of| of.losses);
    let pairs = made.differences.matrices.iter().zip(&made.ranks).enumerate();
    let matrices = pairs.map(|(index, (matrix, rank))| {
        let tails = matrix.tails();
        json!({
            "name": matrix.name,
            "shape": matrix.shape,
            "change": matrix.change,
            "rank": rank,
            "relative_error": relative(tails[*rank], tails[0]),
            "parameters": matrix.parameters_of_rank() * *rank as u64,
            "loss": losses(index).map(loss_as_json),
        })
    });
    let others = made.differences.others.iter();
    let others = others.map(|other| json!({ "tensor": other.tensor, "change": other.change }));
    let mut told = json!({
        "output": job.args.output.display().to_string(),
        "norm": made.method.name(),
        "parameters": made.parameters(),
        "bytes": made.bytes(),
        "relative_error": all.relative_error(),
        "loss": made.losses().map(loss_as_json),
        "matrices": matrices.collect::<Vec<Value>>(),
        "same": made.differences.same,
        "not_covered": others.collect::<Vec<Value>>(),
    });
    if job.args.dry_run {
        told["dry_run"] = true.into();
    }
    if let Some(gguf) = &job.args.gguf {
        told["gguf"] = gguf.display().to_string().into();
    }
    if let Some(divergences) = &made.divergences {
        told["divergence"] = divergences.as_json();
    }
    told
}

fn loss_as_json([before, after]: [f64; 2]) -> Value {
    json!({ "before": before, "after": after })
}

/// Prints the result.
pub fn tell(job: &Job<'_>, made: &Made) -> Result<()> {
    let (kinds, all) = made.kinds();
    let mut rows: Vec<Vec<String>> = kinds.iter().map(|(name, kind)| kind.row(name)).collect();
    rows.push(all.row("all"));
    let header = ["kind", "matrices", "rank", "parameters", "left of the difference"];
    output::print_block(&format::table(&header, rows))?;
    say!(
        "{} {}: {} parameters, {}; {} of the difference left, in the norm of the {}",
        if job.args.dry_run { "would write" } else { "wrote" },
        job.args.output.display(),
        format::count(made.parameters()),
        format::bytes(BYTES_OF_NUMBER * made.parameters()),
        format::percent(all.relative_error()),
        of_norm(made.method),
    );
    if let Some(gguf) = &job.args.gguf {
        let done = if job.args.dry_run { "would write" } else { "wrote" };
        say!("{done} {} for llama.cpp's --lora", gguf.display());
    }
    if let Some([before, left]) = made.losses() {
        say!("expected loss: {before:.6} nats per token before, {left:.6} with the adapter");
    }
    if let Some(found) = &made.divergences {
        let [before, after] = [found.before.kl, found.after.kl];
        say!(
            "KL divergence from {}: {:.6} without the adapter, {:.6} with it (standard error {:.6})",
            job.to.display(),
            before.value,
            after.value,
            after.standard_error
        );
    }
    if made.differences.same > 0 {
        let same = made.differences.same;
        let differ = if same == 1 { "does not differ" } else { "do not differ" };
        note!("{} of the selection {differ}", format::matrices(same));
    }
    Ok(())
}

/// Warns of differences that the adapter does not have.
pub fn warn_of_others(made: &Made) {
    let others = &made.differences.others;
    if others.is_empty() {
        return;
    }
    let one = |other: &OtherDifference| match other.change {
        Some(change) if change.is_finite() => {
            format!("{} ({})", other.tensor, format::percent(change))
        }
        _ => other.tensor.clone(),
    };
    let shown: Vec<String> = others.iter().take(SHOWN).map(one).collect();
    let more = match others.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let differ = if others.len() == 1 { "differs" } else { "differ" };
    tell!(
        "warning: {} {differ} that the adapter does not change: {}{more}",
        format::number_of(others.len(), "tensor"),
        shown.join(", ")
    );
}
