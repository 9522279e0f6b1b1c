//! How far a model is compressed, and which ranks its matrices may have.

use std::num::NonZeroUsize;

use clap::Args;
use welore_burn::forms::Storage;
use welore_burn::plan::{Constraint, PlanOptions, RankPolicy, Target};

use super::choices::named;
use super::general::{size, whole};

/// How far a model is compressed.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Target")]
pub struct GoalArgs {
    /// Effective rank reduction (ERR) to reach: the share of all ranks to remove, such as 0.3 or
    /// 30%, also from matrices that then stay dense
    #[arg(long, allow_negative_numbers = true)]
    pub err: Option<f64>,
    /// The same, but only ranks of factored matrices count: the paper's ERR
    #[arg(long, value_name = "ERR", allow_negative_numbers = true, conflicts_with = "err")]
    pub err_applied: Option<f64>,
    /// Largest share of the selected matrices' parameters to keep, such as 0.8 or 80%
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, conflicts_with_all = ["err", "err_applied"])]
    pub keep_params: Option<f64>,
    /// Largest size of the whole model, such as 400MB
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["err", "err_applied", "keep_params"])]
    pub max_bytes: Option<u64>,
}

impl GoalArgs {
    /// The target, if one was given.
    pub fn target(&self) -> Option<Target> {
        let err = self.err.map(Target::Err).or(self.err_applied.map(Target::ErrApplied));
        let keep = self.keep_params.map(Target::KeepParams);
        err.or(keep).or(self.max_bytes.map(Target::MaxBytes))
    }
}

/// How ranks are chosen.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Ranks")]
pub struct TargetArgs {
    /// How ranks are chosen [default: from weights alone, welore with --err or --err-applied, energy
    /// with --keep-params or --max-bytes; energy with --method whitened, loss with the other methods
    /// that use a calibration]
    #[arg(long, value_parser = named::<&dyn RankPolicy>())]
    pub policy: Option<&'static dyn RankPolicy>,
    /// Which matrices are factored, and which ranks they may have.
    #[command(flatten)]
    pub ranks: RankArgs,
    /// How low-rank matrices are stored [default: pivot with a method that uses a calibration, else
    /// factors]
    #[arg(long, value_parser = named::<Storage>())]
    pub storage: Option<Storage>,
}

/// Which matrices are factored, and which ranks they may have.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Ranks")]
pub struct RankArgs {
    /// Factor a matrix only if it loses at least this share of its ranks, and at least one
    /// (policies welore and uniform only)
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger
    #[arg(long)]
    pub never_grow: bool,
    /// What matrices may become.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// What matrices may become, whatever the policy would choose.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Ranks")]
pub struct LimitArgs {
    /// Keep the matrices dense whose names match one of these patterns, separated by commas; the
    /// others meet the target
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub keep_dense: Vec<String>,
    /// Factor the matrices whose names match the pattern at exactly rank R, such as `q_proj=64`; for
    /// several patterns, separate by commas or repeat
    #[arg(long, value_name = "PATTERN=R", value_delimiter = ',', value_parser = pattern_and_rank)]
    pub set_rank: Vec<Constraint>,
    /// Lowest rank of a factored matrix
    #[arg(long, value_name = "R")]
    pub min_rank: Option<NonZeroUsize>,
    /// Highest rank of a factored matrix; a matrix that would keep more ranks stays dense
    #[arg(long, value_name = "R")]
    pub max_rank: Option<NonZeroUsize>,
    /// Keep a matrix dense where factoring would save less than this share of its parameters; 0 for
    /// no limit [default: 0.05 with --keep-params or --max-bytes, otherwise 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub min_saving: Option<f64>,
}

impl LimitArgs {
    /// Plan options with these limits.
    pub fn over(&self, options: PlanOptions) -> PlanOptions {
        let dense = self.keep_dense.iter().map(Constraint::keep_dense);
        PlanOptions {
            min_saving: self.min_saving.unwrap_or(options.min_saving),
            min_rank: self.min_rank.map(NonZeroUsize::get),
            max_rank: self.max_rank.map(NonZeroUsize::get),
            constraints: dense.chain(self.set_rank.iter().cloned()).collect(),
            ..options
        }
    }
}

/// Parses a pattern and the rank of the matrices that match it.
fn pattern_and_rank(text: &str) -> Result<Constraint, String> {
    let (pattern, rank) = text
        .rsplit_once('=')
        .filter(|(pattern, _)| !pattern.is_empty())
        .ok_or("must be a pattern and a rank, such as `q_proj=64`")?;
    let rank = match whole::<usize>(rank) {
        Ok(0) => Err("must be at least 1".into()),
        rank => rank,
    };
    let rank = rank.map_err(|why| format!("the rank of `{pattern}`: {why}"))?;
    Ok(Constraint::set_rank(pattern, rank))
}
