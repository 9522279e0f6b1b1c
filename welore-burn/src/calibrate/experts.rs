//! Second moments of the matrices of experts, which see only the tokens that a router gives them.

use std::collections::{BTreeMap, BTreeSet};

use super::collector::Watch;
use super::pass::{Layer, Moments};
use crate::linalg::SecondMoment;
use crate::modules::MatrixName;

/// Second moments of fewer rows than this many times their width are filled up to so many. Those of
/// as many rows as the width have no inverse to speak of.
const FLOOR: usize = 2;

/// Number of rows that second moments of rows of this width need.
fn floor(width: usize) -> u64 {
    (FLOOR * width) as u64
}

/// The matrices of experts that need more inputs than were seen, each with the number of rows that it
/// needs.
pub(super) fn needs(layer: &Layer, watch: &Watch, moments: &Moments) -> BTreeMap<MatrixName, u64> {
    let leaders = layer.iter().filter(|matrix| matrix.is_routed && matrix.inputs_of == matrix.name);
    let rows = leaders.map(|matrix| {
        let [_, width] = watch.shape(&matrix.name);
        (matrix.name.clone(), floor(width))
    });
    let seen = |name: &MatrixName| moments.get(name).map_or(0, SecondMoment::count);
    rows.filter(|(name, rows)| seen(name) < *rows).collect()
}

/// Fills up the second moments of inputs with those of all tokens.
///
/// # Panics
///
/// Panics if one of the matrices is not in `all`.
pub(super) fn fill_up(moments: &mut Moments, needs: &BTreeMap<MatrixName, u64>, all: &Moments) {
    for (name, rows) in needs {
        let all = &all[name];
        let moment = moments.entry(name.clone());
        moment.or_insert_with(|| SecondMoment::new(all.size())).fill_up(all, *rows);
    }
}

/// How many experts these matrices belong to.
pub(super) fn experts_of<'n>(matrices: impl Iterator<Item = &'n MatrixName>) -> usize {
    let expert = |name: &'n MatrixName| name.as_str().rsplit_once('.').map(|(expert, _)| expert);
    matrices.map(expert).collect::<BTreeSet<_>>().len()
}

/// Makes the second moments of gradients at the outputs of experts those of all `tokens`, most of which
/// an expert does not see: their gradients there are 0. So what a matrix of an expert costs is what it
/// costs per token of the text, as for other matrices. The means over the tokens that it saw are filled
/// up with those of the same matrix in all experts; one that saw none counts as one that saw a token.
pub(super) fn spread_gradients(layer: &Layer, moments: &mut Moments, tokens: u64) {
    let routed = || layer.iter().filter(|matrix| matrix.is_routed).map(|matrix| &matrix.name);
    let mut all: BTreeMap<&str, SecondMoment> = BTreeMap::new();
    for name in routed() {
        let Some(moment) = moments.get(name) else { continue };
        let sum = all.entry(name.kind());
        sum.or_insert_with(|| SecondMoment::new(moment.size())).merge(moment);
    }
    for name in routed() {
        let Some(all) = all.get(name.kind()) else { continue };
        let moment = moments.remove(name);
        let mut moment = moment.unwrap_or_else(|| SecondMoment::new(all.size()));
        let seen = moment.count();
        moment.fill_up(all, floor(all.size()));
        moments.insert(name.clone(), moment.among(seen.max(1), tokens));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::collector::SharedInputs;

    fn moment(rows: &[[f32; 2]]) -> SecondMoment {
        let mut moment = SecondMoment::new(2);
        moment.add(&rows.concat());
        moment
    }

    fn close(moment: &SecondMoment, want: [f32; 3]) {
        let got = moment.packed();
        let is_close = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6);
        assert!(is_close, "{got:?} for {want:?}");
    }

    #[test]
    fn few_rows_are_filled_up_with_the_mean_of_all() {
        let all = moment(&[[0.0, 2.0], [2.0, 0.0]]);
        // A mean of [9, 0, 0] for one row in four, and one of [2, 0, 2] for the other three.
        let mut few = moment(&[[3.0, 0.0]]);
        few.fill_up(&all, floor(2));
        assert_eq!(few.count(), 4);
        close(&few, [3.75, 0.0, 1.5]);
        // No matrix of one row has an inverse; this one does.
        assert!(few.root(0.0).is_ok());
        let mut none = SecondMoment::new(2);
        none.fill_up(&all, floor(2));
        close(&none, [2.0, 0.0, 2.0]);
        let mut enough = moment(&[[1.0, 0.0]; 4]);
        enough.fill_up(&all, floor(2));
        close(&enough, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn gradients_of_experts_are_per_token_of_the_text() {
        let names = [0, 1].map(|expert| MatrixName::from(format!("experts.{expert}.down_proj")));
        let matrix = |name: &MatrixName, is_routed| SharedInputs {
            name: name.clone(),
            inputs_of: name.clone(),
            is_routed,
        };
        let dense = MatrixName::from("o_proj");
        let layer = vec![matrix(&dense, false), matrix(&names[0], true), matrix(&names[1], true)];
        let one = moment(&[[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]);
        let mut moments = Moments::from([(dense.clone(), one.clone()), (names[0].clone(), one)]);
        spread_gradients(&layer, &mut moments, 8);
        close(&moments[&dense], [2.0, 0.0, 2.0]);
        // Half of the tokens saw the first expert. None saw the second, which counts as one of eight.
        close(&moments[&names[0]], [1.0, 0.0, 1.0]);
        close(&moments[&names[1]], [0.25, 0.0, 0.25]);
    }

    #[test]
    fn experts_are_counted_once() {
        let names = ["l.experts.0.w1", "l.experts.0.w2", "l.experts.3.w2"].map(MatrixName::from);
        assert_eq!(experts_of(names.iter()), 2);
    }
}
