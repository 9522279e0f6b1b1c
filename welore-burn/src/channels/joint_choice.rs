//! Which MLPs lose channels and which matrices lose ranks, within one budget.

use std::collections::BTreeSet;

use super::curves::ChannelCurve;
use super::widths::Widths;
use crate::plan::{Choice, Point, least_loss, lower_hull};
use crate::spectrum::MatrixSpectrum;

/// The most common widths that are tried in one round.
const TRIES: usize = 64;

/// How an MLP becomes smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its matrices get ranks, or stay dense.
    Ranks,
    /// It gets fewer channels, and its matrices stay dense.
    Channels,
}

/// What the matrices outside of narrower MLPs may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// What their curves allow.
    Any,
    /// Nothing else than dense.
    Dense,
}

/// An MLP, and what it may become.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub curve: &'a ChannelCurve,
    /// Its matrices, by their numbers among all.
    pub matrices: [usize; 3],
    /// The widths that it may have, rising; none if the form of one of its matrices is fixed.
    pub widths: Vec<usize>,
}

impl Part<'_> {
    fn point(&self, width: usize) -> Point {
        let mlp = &self.curve.mlp;
        Point { cost: 3 * mlp.width as u64 * width as u64, loss: self.curve.order.loss(width) }
    }
}

/// The matrices and MLPs of a model, and what each of them costs and loses.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    /// The most parameters of all matrices together.
    pub budget: u64,
    pub spectra: &'a [MatrixSpectrum],
    /// The curve of each matrix, in order of increasing cost. The last point is dense, unless its form
    /// is fixed.
    pub ranks: Vec<Vec<(Point, Choice)>>,
    pub mlps: Vec<Part<'a>>,
}

/// What everything becomes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    /// The choice of each matrix; `None` for those of MLPs that are chosen by their width.
    pub choices: Vec<Option<Choice>>,
    /// The width of each MLP.
    pub widths: Vec<usize>,
    /// Parameters of all matrices.
    pub cost: u64,
    /// Estimated rise of the loss in nats per token.
    pub loss: f64,
}

/// A curve's matrix, or its MLP, with the widths of the points.
enum Item {
    /// The number of the matrix, and that of its first point.
    Matrix(usize, usize),
    Mlp(usize, Vec<usize>),
}

impl Shared<'_> {
    /// The choice that loses least, of these: one Lagrangian over everything, ranks alone, and channels
    /// alone. So it is never worse than one of the two, by its own estimate.
    ///
    /// `common` are the widths that all MLPs may have, for [`Widths::One`].
    ///
    /// # Errors
    ///
    /// The lowest cost that can be had, if that is above the budget.
    pub fn choose(&self, widths: Widths, common: &[usize]) -> Result<Chosen, u64> {
        let all = |way: Way| -> Vec<Way> { self.mlps.iter().map(|_| way).collect() };
        let mut found = vec![self.solve(&all(Way::Ranks), None, Others::Any)];
        match widths {
            Widths::Each => {
                found.push(self.ways().and_then(|ways| self.solve(&ways, None, Others::Any)));
                for others in [Others::Any, Others::Dense] {
                    found.push(self.solve(&all(Way::Channels), None, others));
                }
            }
            Widths::One => found.push(self.at_one_width(&all(Way::Channels), common)),
        }
        best(found)
    }

    /// The best choice with one width for all MLPs. The loss over widths has one valley as far as
    /// its rounds show, so later ones look only beside the best of earlier ones.
    fn at_one_width(&self, ways: &[Way], common: &[usize]) -> Result<Chosen, u64> {
        let mut found: Vec<Result<Chosen, u64>> = Vec::new();
        let (mut from, mut to) = (0, common.len());
        loop {
            let step = (to - from).div_ceil(TRIES).max(1);
            let round = (from..to).step_by(step);
            let tried = round.map(|at| (at, self.solve(ways, Some(common[at]), Others::Any)));
            let tried: Vec<(usize, Result<Chosen, u64>)> = tried.collect();
            let loss = |chosen: &Result<Chosen, u64>| chosen.as_ref().ok().map(|found| found.loss);
            let reached = tried.iter().filter_map(|(at, chosen)| Some((*at, loss(chosen)?)));
            let nearest = reached.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at);
            found.extend(tried.into_iter().map(|(_, chosen)| chosen));
            let Some(nearest) = nearest.filter(|_| step > 1) else { break };
            (from, to) = ((nearest + 1).saturating_sub(step).max(from), (nearest + step).min(to));
        }
        // The widest that fits with all other matrices dense: what channels alone would get.
        let alone = common.iter().rev().map(|width| self.solve(ways, Some(*width), Others::Dense));
        found.extend(alone.into_iter().find(Result::is_ok));
        match found.is_empty() {
            // A model without MLPs has ranks alone.
            true => self.solve(ways, None, Others::Any),
            false => best(found),
        }
    }

    /// How each MLP becomes smaller: by what is on the lower convex hull of both ways where one price
    /// of a parameter for everything meets the budget.
    fn ways(&self) -> Result<Vec<Way>, u64> {
        let merged: Vec<Vec<(Point, Way)>> =
            self.mlps.iter().map(|part| self.both_ways(part)).collect();
        let of_mlps: BTreeSet<usize> = self.mlps.iter().flat_map(|part| part.matrices).collect();
        let others = (0..self.ranks.len()).filter(|index| !of_mlps.contains(index));
        let firsts = self.mlps.iter().map(|part| part.matrices[0]);
        let names: Vec<usize> = firsts.chain(others.clone()).collect();
        let curves: Vec<Vec<Point>> = merged
            .iter()
            .map(|curve| points(curve))
            .chain(others.map(|index| points(&self.ranks[index])))
            .collect();
        let order = |a: usize, b: usize| self.name(names[a]).cmp(self.name(names[b]));
        let chosen = least_loss(&curves, self.budget, order)?;
        Ok(merged.iter().zip(chosen).map(|(curve, at)| curve[at].1).collect())
    }

    /// What an MLP costs and loses in both ways, in order of increasing cost. Of ranks, there are the
    /// points on the hull of all three matrices together.
    fn both_ways(&self, part: &Part<'_>) -> Vec<(Point, Way)> {
        let curves = part.matrices.map(|index| points(&self.ranks[index]));
        let mut start = Point { cost: 0, loss: 0.0 };
        let mut steps: Vec<Point> = Vec::new();
        for curve in &curves {
            let hull = lower_hull(curve);
            let first = curve[hull[0]];
            start = Point { cost: start.cost + first.cost, loss: start.loss + first.loss };
            steps.extend(hull.windows(2).map(|pair| {
                let (from, to) = (curve[pair[0]], curve[pair[1]]);
                Point { cost: to.cost - from.cost, loss: from.loss - to.loss }
            }));
        }
        let slope = |step: &Point| step.loss / step.cost as f64;
        steps.sort_by(|a, b| slope(b).total_cmp(&slope(a)));
        let sums = steps.into_iter().scan(start, |sum, step| {
            *sum = Point { cost: sum.cost + step.cost, loss: (sum.loss - step.loss).max(0.0) };
            Some(*sum)
        });
        let of_ranks = std::iter::once(start).chain(sums).map(|point| (point, Way::Ranks));
        let of_channels = part.widths.iter().map(|width| (part.point(*width), Way::Channels));
        let mut all: Vec<(Point, Way)> = of_ranks.chain(of_channels).collect();
        all.sort_by(|(a, _), (b, _)| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
        all.dedup_by_key(|(point, _)| point.cost);
        all
    }

    /// The ranks and widths that lose least if the MLPs become smaller in these ways, all with the same
    /// `width` if one is given. An MLP with a fixed form gets ranks in any case.
    fn solve(&self, ways: &[Way], width: Option<usize>, others: Others) -> Result<Chosen, u64> {
        let parts = self.mlps.iter().zip(ways).enumerate();
        let narrower =
            parts.filter(|(_, (part, way))| **way == Way::Channels && !part.widths.is_empty());
        let narrower: Vec<usize> = narrower.map(|(index, _)| index).collect();
        let of_narrower: BTreeSet<usize> =
            narrower.iter().flat_map(|index| self.mlps[*index].matrices).collect();
        let (mut items, mut curves) = (Vec::new(), Vec::new());
        for (index, curve) in self.ranks.iter().enumerate() {
            if of_narrower.contains(&index) {
                continue;
            }
            let from = if others == Others::Dense { curve.len() - 1 } else { 0 };
            items.push(Item::Matrix(index, from));
            curves.push(points(&curve[from..]));
        }
        for index in narrower {
            let part = &self.mlps[index];
            let widths = width.map_or_else(|| part.widths.clone(), |width| vec![width]);
            curves.push(widths.iter().map(|width| part.point(*width)).collect());
            items.push(Item::Mlp(index, widths));
        }
        let first = |item: &Item| match item {
            Item::Matrix(index, _) => *index,
            Item::Mlp(index, _) => self.mlps[*index].matrices[0],
        };
        let order =
            |a: usize, b: usize| self.name(first(&items[a])).cmp(self.name(first(&items[b])));
        let chosen = least_loss(&curves, self.budget, order)?;
        Ok(self.chosen(&items, &curves, &chosen))
    }

    /// What the chosen points of the curves of these items say.
    fn chosen(&self, items: &[Item], curves: &[Vec<Point>], chosen: &[usize]) -> Chosen {
        let mut of_all = Chosen {
            choices: vec![None; self.ranks.len()],
            widths: self.mlps.iter().map(|part| part.curve.mlp.channels).collect(),
            cost: 0,
            loss: 0.0,
        };
        for ((item, curve), at) in items.iter().zip(curves).zip(chosen) {
            of_all.cost += curve[*at].cost;
            of_all.loss += curve[*at].loss;
            match item {
                Item::Matrix(index, from) => {
                    of_all.choices[*index] = Some(self.ranks[*index][from + at].1);
                }
                Item::Mlp(index, widths) => of_all.widths[*index] = widths[*at],
            }
        }
        of_all
    }

    fn name(&self, index: usize) -> &str {
        self.spectra[index].name.as_str()
    }
}

/// The choice that loses least, the first of equal ones; or else the lowest of the lowest costs.
fn best(found: Vec<Result<Chosen, u64>>) -> Result<Chosen, u64> {
    let mut least = u64::MAX;
    let mut best: Option<Chosen> = None;
    for chosen in found {
        match chosen {
            Ok(chosen) if best.as_ref().is_none_or(|best| chosen.loss < best.loss) => {
                best = Some(chosen);
            }
            Ok(_) => {}
            Err(cost) => least = least.min(cost),
        }
    }
    best.ok_or(least)
}

fn points<T>(curve: &[(Point, T)]) -> Vec<Point> {
    curve.iter().map(|(point, _)| *point).collect()
}
