use std::collections::BTreeMap;
use std::path::PathBuf;

use super::bench::Bench;
use super::error::SearchError;
use super::journal::{Head, Journal};
use super::space::Space;
use crate::eval::{PerplexityOptions, check_text};
use crate::linalg::DECOMPOSITION;
use crate::model::LanguageModel;
use crate::plan::{PlanOptions, RankPlan, RankPolicy, SearchRecord, Weighed, make_plan};
use crate::progress::Progress;
use crate::spectrum::{Norms, Spectra};
use crate::workers::Budget;

/// What a search works on.
#[derive(Debug)]
pub struct SearchJob<'a, M> {
    /// The dense model.
    pub model: &'a M,
    /// The spectra of the matrices to plan, measured in `norms`.
    pub spectra: &'a Spectra,
    /// The norms in which matrices are factored.
    pub norms: Norms<'a>,
    /// The target, and what else plans must keep to.
    pub options: &'a PlanOptions,
    /// The text on which plans are measured. A calibration's own text will do, but one that it has
    /// not seen is a fairer judge.
    pub tokens: &'a [u32],
}

/// How a search is carried out.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// Number of plans to measure, the one without weights included; 1 to
    /// [`MOST`](SearchOptions::MOST).
    pub evaluations: usize,
    /// Random seed.
    pub seed: u64,
    /// How the text is read.
    pub measuring: PerplexityOptions,
    /// How many matrices may be decomposed at once, and in how much memory.
    pub budget: Budget,
    /// Bytes of decomposed matrices that are kept in memory; the others are in a temporary file.
    pub memory: u64,
    /// The directory for temporary files: the dense model's predictions
    /// ([`saved_bytes`](crate::eval::saved_bytes)), and decomposed matrices, up to twice the bytes
    /// of the planned matrices in f32.
    pub scratch: PathBuf,
    /// The file in which what was measured is noted, so that a search can be continued, or made
    /// longer.
    pub journal: Option<PathBuf>,
}

impl SearchOptions {
    /// The most plans that are measured.
    pub const MOST: usize = 1000;

    /// Checks the number of plans.
    ///
    /// # Errors
    ///
    /// [`SearchError::Evaluations`].
    pub fn check(&self) -> Result<(), SearchError> {
        match (1..=Self::MOST).contains(&self.evaluations) {
            true => Ok(()),
            false => Err(SearchError::Evaluations { asked: self.evaluations, most: Self::MOST }),
        }
    }
}

impl Default for SearchOptions {
    /// 40 plans on windows of 512 tokens, with 4 GiB of decomposed matrices in memory and no journal.
    fn default() -> Self {
        Self {
            evaluations: 40,
            seed: 0,
            measuring: PerplexityOptions::default(),
            budget: Budget::default(),
            memory: 4 << 30,
            scratch: std::env::temp_dir(),
            journal: None,
        }
    }
}

/// A plan that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The natural logarithm of the multiplier of each group of matrices, and the slope over depth
    /// if there is one.
    pub point: Vec<f64>,
    /// Mean KL divergence from the dense model in nats per token; `None` if the predictions were not
    /// finite.
    pub kl: Option<f64>,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct SearchOutcome {
    /// The best plan; its [`search`](RankPlan::search) says how it was found.
    pub plan: RankPlan,
    /// All plans that were measured, in order. The first one is without weights.
    pub evaluations: Vec<Evaluation>,
    /// How many of them were known from the journal.
    pub known: usize,
}

/// The first of the best evaluations, of which there is at least one.
pub(super) fn best_of(history: &[Evaluation]) -> usize {
    let mut best = 0;
    for (number, evaluation) in history.iter().enumerate() {
        let is_better = match (evaluation.kl, history[best].kl) {
            (Some(kl), Some(least)) => kl < least,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_better {
            best = number;
        }
    }
    best
}

/// Searches for the plan with which the model's predictions stay the closest to the dense model's,
/// among those that `policy` can weigh and that meet the target. The first plan is the one without
/// weights, so on this text the result is never worse than that. The same job, seed and journal give
/// the same plan, whether the search was stopped in between or not.
///
/// # Errors
///
/// [`SearchError`]. Options, text and journal are checked before anything is computed. What was
/// measured before an error or an interruption is in the journal.
pub fn search<M: LanguageModel>(
    job: &SearchJob<'_, M>,
    policy: &dyn RankPolicy,
    options: &SearchOptions,
    progress: &mut dyn Progress,
) -> Result<SearchOutcome, SearchError> {
    options.check()?;
    job.check(options)?;
    let name = policy.name();
    let kind = policy.reads().searches.ok_or(SearchError::NoSpace { policy: name })?;
    let space = Space::new(kind, job.spectra, job.model);
    let head = Head::new(
        job.identity(name, options),
        name,
        options.seed,
        &space.groups,
        space.has_slope(),
    );
    let plan_at = |point: &[f64]| job.plan(name, &space, point);
    // The target may be out of reach.
    plan_at(&vec![0.0; space.size()])?;
    let (mut journal, mut history) = Journal::open(options.journal.as_deref(), &head)?;
    history.truncate(options.evaluations);
    let known = history.len();
    let mut measured = Measured { job, options, bench: None, seen: BTreeMap::new() };
    for evaluation in &history {
        measured.seen.insert(ranks_of(&plan_at(&evaluation.point)?), evaluation.kl);
    }
    while history.len() < options.evaluations {
        let number = history.len();
        let point = space.next(options.seed, &history).map_err(SearchError::Fit)?;
        let kl = measured.kl(&plan_at(&point)?, number, progress)?;
        if number == 0 && kl.is_none() {
            return Err(SearchError::BrokenStart);
        }
        let evaluation = Evaluation { point, kl };
        journal.note(number, &evaluation)?;
        history.push(evaluation);
    }
    let mut plan = plan_at(&history[best_of(&history)].point)?;
    plan.search = Some(job.record(&space, &history, options));
    Ok(SearchOutcome { plan, evaluations: history, known })
}

/// What was measured of plans. Different weights may give the same one.
struct Measured<'a, M> {
    job: &'a SearchJob<'a, M>,
    options: &'a SearchOptions,
    /// Nothing is computed before it is needed.
    bench: Option<Bench<'a, M>>,
    /// By the ranks of plans.
    seen: BTreeMap<Vec<Option<usize>>, Option<f64>>,
}

impl<M: LanguageModel> Measured<'_, M> {
    /// The divergence of the plan of this number.
    fn kl(
        &mut self,
        plan: &RankPlan,
        number: usize,
        progress: &mut dyn Progress,
    ) -> Result<Option<f64>, SearchError> {
        let ranks = ranks_of(plan);
        if let Some(kl) = self.seen.get(&ranks) {
            return Ok(*kl);
        }
        let bench = match &mut self.bench {
            Some(bench) => bench,
            none => none.insert(Bench::new(self.job, self.options, progress)?),
        };
        let what = format!("plan {} of {}", number + 1, self.options.evaluations);
        let kl = bench.kl(plan, what, progress)?;
        self.seen.insert(ranks, kl);
        Ok(kl)
    }
}

/// The ranks of a plan; `None` for matrices that stay dense.
fn ranks_of(plan: &RankPlan) -> Vec<Option<usize>> {
    plan.matrices.iter().map(|matrix| matrix.form.rank()).collect()
}

impl<M: LanguageModel> SearchJob<'_, M> {
    fn check(&self, options: &SearchOptions) -> Result<(), SearchError> {
        check_text(self.model, self.tokens, &options.measuring)?;
        let calibration = self.norms.calibration().map(|calibration| calibration.digest());
        let is_same = self.norms.method().unit() == self.spectra.unit
            && calibration == self.spectra.calibration.as_deref();
        match is_same {
            true => Ok(()),
            false => Err(SearchError::OtherNorms),
        }
    }

    /// The plan at a point.
    fn plan(
        &self,
        name: &'static str,
        space: &Space,
        point: &[f64],
    ) -> Result<RankPlan, SearchError> {
        let weights = space.weights(point);
        let policy = Weighed { name, space: space.kind, weights: &weights };
        Ok(make_plan(self.spectra, &policy, self.options)?)
    }

    /// How the best of some evaluations was found.
    fn record(
        &self,
        space: &Space,
        history: &[Evaluation],
        options: &SearchOptions,
    ) -> SearchRecord {
        let best = &history[best_of(history)];
        SearchRecord {
            evaluations: history.len(),
            seed: options.seed,
            windows: [options.measuring.windows_of(self.tokens), options.measuring.seq_len],
            multipliers: space.multipliers(&best.point),
            slope: space.slope(&best.point),
            start_kl: history[0].kl.unwrap_or_default(),
            kl: best.kl.unwrap_or_default(),
        }
    }

    /// Identifies everything that measurements depend on, but for the seed.
    fn identity(&self, policy: &str, options: &SearchOptions) -> String {
        let (spectra, measuring) = (self.spectra, &options.measuring);
        let norms = self.norms.identity().unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        let (plan, skip, seq_len) = (self.options, measuring.skip, measuring.seq_len);
        let words = format!("{DECOMPOSITION} {policy} {norms} {plan:?} {skip} {seq_len}\n");
        hasher.update(words.as_bytes());
        if let Some(bos) = measuring.bos {
            // Journals of earlier versions are of text alone.
            hasher.update(format!("{bos:?}\n").as_bytes());
        }
        for matrix in &spectra.matrices {
            let name = matrix.name.as_str();
            hasher.update(format!("{name} {:?} {:?}\n", matrix.shape, matrix.dtype).as_bytes());
            match &matrix.digest {
                // Singular values may differ in the last digit from one machine to the next.
                Some(digest) => {
                    hasher.update(digest.as_bytes());
                }
                None => matrix.singular_values.iter().for_each(|value| {
                    hasher.update(&value.to_le_bytes());
                }),
            }
        }
        let used = (measuring.windows_of(self.tokens) * seq_len).min(self.tokens.len());
        for token in &self.tokens[..used] {
            hasher.update(&token.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
