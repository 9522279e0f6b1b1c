//! How many channels each layer keeps.

use super::curves::ChannelCurve;
use super::error::ChannelsError;
use super::mlp::Mlp;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::modules::{MatrixName, Selection};
use crate::named::named;
use crate::plan::{Point, Target, least_loss};
use crate::words::{number, number_of};

/// Which widths the MLPs of a model may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Widths {
    /// One for all layers.
    #[default]
    One,
    /// One for each layer.
    Each,
}

named!(Widths {
    One => "one", "one width for all layers, as transformers wants it";
    Each => "each", "a width of its own for each layer, which only welore and llama.cpp read";
});

/// How far channels are left out.
#[derive(Debug, Clone)]
pub struct ChannelGoal {
    /// [`Target::KeepParams`] of the selected matrices, or [`Target::MaxBytes`] of the whole model.
    pub target: Target,
    /// The matrices that a share of the parameters counts.
    pub selection: Selection,
    /// Widths are a multiple of this, or all channels there are.
    pub multiple: usize,
    /// Which widths the layers may have.
    pub widths: Widths,
}

/// Why no widths can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelPlanError {
    /// A target in ranks.
    #[error("channels have no ranks: {target} is no target for them")]
    Ranks {
        /// The target.
        target: Target,
    },
    /// The share of parameters is out of range.
    #[error("a share of {} of the parameters is not between 0 and 1", number(*.0))]
    Share(f64),
    /// The multiple is 0.
    #[error("widths must be a multiple of at least 1")]
    Multiple,
    /// A matrix of an MLP is not selected.
    #[error("`{name}` is not selected, and channels are left out of whole MLPs, of all layers")]
    NotSelected {
        /// The matrix.
        name: MatrixName,
    },
    /// A target that channels and ranks cannot share.
    #[error("channels and ranks share a budget of parameters, and {target} is none")]
    NotShared {
        /// The target.
        target: Target,
    },
    /// The form of a matrix of an MLP is fixed, where all MLPs get one width.
    #[error("`{name}` has a form that is fixed, and one width is for the MLPs of all layers")]
    Fixed {
        /// The matrix.
        name: MatrixName,
    },
    /// No widths are small enough.
    #[error("{target} is out of reach; the nearest is {reachable}, with {}", narrowest(*width))]
    OutOfReach {
        /// The target.
        target: Target,
        /// The furthest target that can be reached.
        reachable: Target,
        /// The narrowest width that any MLP may have.
        width: usize,
    },
}

fn narrowest(width: usize) -> String {
    format!("{} in each MLP", number_of(width as u64, "channel"))
}

/// What a target counts, and how much of it a channel of each layer is.
#[derive(Debug)]
pub(super) struct Counted {
    /// Of the model as it is.
    total: u64,
    /// Most that there may be.
    most: u64,
    per_channel: Vec<u64>,
    target: Target,
}

impl Counted {
    pub fn of(
        checkpoint: &Checkpoint,
        mlps: &[Mlp],
        goal: &ChannelGoal,
    ) -> Result<Self, CheckpointError> {
        let mut per_channel = Vec::with_capacity(mlps.len());
        let (total, most) = match goal.target {
            Target::MaxBytes(bytes) => {
                for mlp in mlps {
                    per_channel.push(mlp.channel_size(checkpoint)?.1);
                }
                (checkpoint.bytes(), bytes)
            }
            Target::KeepParams(share) => {
                per_channel.extend(mlps.iter().map(|mlp| 3 * mlp.width as u64));
                let selected = checkpoint
                    .names()
                    .filter(|tensor| is_selected(&goal.selection, tensor))
                    .filter_map(|tensor| checkpoint.meta(tensor))
                    .filter(|meta| meta.shape.len() == 2);
                let total: u64 = selected.map(|meta| meta.parameters()).sum();
                (total, (share * total as f64).floor() as u64)
            }
            // Refused before.
            Target::Err(_) | Target::ErrApplied(_) => (0, 0),
        };
        Ok(Self { total, most, per_channel, target: goal.target })
    }

    /// What is counted besides the channels.
    fn rest(&self, mlps: &[Mlp]) -> u64 {
        let channels = mlps.iter().zip(&self.per_channel);
        let channels: u64 = channels.map(|(mlp, each)| mlp.channels as u64 * each).sum();
        self.total.saturating_sub(channels)
    }

    /// The share of what is counted that is left with these widths, if the target is a share.
    pub fn share_of(&self, mlps: &[Mlp], widths: &[usize]) -> Option<f64> {
        let is_share = matches!(self.target, Target::KeepParams(_));
        is_share.then(|| self.left(mlps, widths) as f64 / self.total.max(1) as f64)
    }

    /// What is left with these widths.
    fn left(&self, mlps: &[Mlp], widths: &[usize]) -> u64 {
        let channels = widths.iter().zip(&self.per_channel);
        let channels: u64 = channels.map(|(width, each)| *width as u64 * each).sum();
        self.rest(mlps).saturating_add(channels)
    }

    fn out_of_reach(&self, least: u64, width: usize) -> ChannelPlanError {
        let reachable = match self.target {
            Target::KeepParams(_) => {
                // Digits that people read, and still within reach.
                let share = least as f64 / self.total.max(1) as f64;
                Target::KeepParams((share * 1e4).ceil() / 1e4)
            }
            _ => Target::MaxBytes(least),
        };
        ChannelPlanError::OutOfReach { target: self.target, reachable, width }
    }
}

fn is_selected(selection: &Selection, tensor: &str) -> bool {
    MatrixName::of_weight(tensor).is_some_and(|name| selection.matches(name.as_str()))
}

impl ChannelGoal {
    /// Checks what the model's shapes alone tell: that the target is one for channels and within
    /// reach, and that the MLPs are selected.
    ///
    /// # Errors
    ///
    /// [`ChannelPlanError`], and errors of the checkpoint.
    pub fn check(&self, checkpoint: &Checkpoint, mlps: &[Mlp]) -> Result<(), ChannelsError> {
        self.check_options(mlps)?;
        let counted = Counted::of(checkpoint, mlps, self)?;
        let least: Vec<usize> = match self.widths {
            Widths::One => vec![self.common(mlps).first().copied().unwrap_or(0); mlps.len()],
            Widths::Each => mlps.iter().map(|mlp| self.allowed(mlp.channels)[0]).collect(),
        };
        Ok(check_reach(&counted, mlps, &least)?)
    }

    pub(super) fn check_options(&self, mlps: &[Mlp]) -> Result<(), ChannelPlanError> {
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        match self.target {
            Target::Err(_) | Target::ErrApplied(_) => {
                return Err(ChannelPlanError::Ranks { target: self.target });
            }
            Target::KeepParams(share) if !is_share(share) => {
                return Err(ChannelPlanError::Share(share));
            }
            _ => {}
        }
        if self.multiple == 0 {
            return Err(ChannelPlanError::Multiple);
        }
        let mut names = mlps.iter().flat_map(Mlp::matrices);
        match names.find(|name| !self.selection.matches(name.as_str())) {
            Some(name) => Err(ChannelPlanError::NotSelected { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// The widths that an MLP of so many channels may have, rising.
    pub(super) fn allowed(&self, channels: usize) -> Vec<usize> {
        let multiples = (1..).map(|n| n * self.multiple).take_while(|width| *width < channels);
        multiples.chain([channels]).collect()
    }

    /// The widths that all MLPs may have.
    pub(super) fn common(&self, mlps: &[Mlp]) -> Vec<usize> {
        let narrowest = mlps.iter().map(|mlp| mlp.channels).min();
        narrowest.map_or_else(Vec::new, |channels| self.allowed(channels))
    }

    /// The width of each MLP: the widest one that all may have, or those that lose least together.
    ///
    /// The target is never exceeded, and what is left of it is less than the next width needs.
    pub(super) fn choose(
        &self,
        counted: &Counted,
        curves: &[ChannelCurve],
    ) -> Result<Vec<usize>, ChannelPlanError> {
        let mlps: Vec<Mlp> = curves.iter().map(|curve| curve.mlp.clone()).collect();
        self.check_options(&mlps)?;
        let rest = counted.rest(&mlps);
        let budget = counted.most.saturating_sub(rest);
        if self.widths == Widths::One {
            let each: u64 = counted.per_channel.iter().sum();
            let widths = self.common(&mlps);
            let fits = |width: &&usize| **width as u64 * each <= budget;
            let width = widths.iter().rev().find(fits).or(widths.first());
            let chosen = vec![width.copied().unwrap_or(0); mlps.len()];
            check_reach(counted, &mlps, &chosen)?;
            return Ok(chosen);
        }
        let widths: Vec<Vec<usize>> = mlps.iter().map(|mlp| self.allowed(mlp.channels)).collect();
        let least: Vec<usize> = widths.iter().map(|widths| widths[0]).collect();
        check_reach(counted, &mlps, &least)?;
        let points: Vec<Vec<Point>> = curves
            .iter()
            .zip(&widths)
            .zip(&counted.per_channel)
            .map(|((curve, widths), each)| {
                let point = |width: &usize| Point {
                    cost: *width as u64 * each,
                    loss: curve.order.loss(*width),
                };
                widths.iter().map(point).collect()
            })
            .collect();
        let chosen = least_loss(&points, budget, |a, b| a.cmp(&b))
            .map_err(|least| counted.out_of_reach(rest + least, self.multiple))?;
        Ok(widths.iter().zip(chosen).map(|(widths, at)| widths[at]).collect())
    }
}

/// Refuses widths that the target does not allow.
fn check_reach(counted: &Counted, mlps: &[Mlp], widths: &[usize]) -> Result<(), ChannelPlanError> {
    let least = counted.left(mlps, widths);
    match least <= counted.most {
        true => Ok(()),
        false => Err(counted.out_of_reach(least, widths.iter().copied().min().unwrap_or(0))),
    }
}
