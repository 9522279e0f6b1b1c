//! Which channels between two matrices are worth least, and what the second matrix makes of the
//! others.

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, get_global_parallelism};

use super::elimination::Elimination;
use super::matrix::{LinalgError, Matrix};
use super::moments::{SecondMoment, root};

/// The order in which the inputs of a matrix, its channels, are left out one by one, always the one
/// that then costs least, and what the loss is expected to rise by after each.
///
/// Let `W` be the matrix `[out, channels]`, `C = E[h hᵀ]` the second moment of its inputs and
/// `G = E[g gᵀ]` that of the gradients of its outputs. Of the channels, `S` are kept, and `W` is
/// fitted again to them: `V = W C[:, S] B` with `B = C[S, S]⁻¹`, the least squares fit of `W h` by
/// `h_S` in every metric of the outputs. The error `W h - V h_S` is uncorrelated with `h_S`, and
/// costs `½ tr(G E[error errorᵀ])`.
///
/// The best prediction of `h_j` by the other kept channels is `-Σ_{i≠j} (B_ij / B_jj) h_i`, because
/// `B` is the precision matrix of `h_S`. What it misses, `r = Σ_i (B_ij / B_jj) h_i`, has the mean
/// square `1 / B_jj`, and as a combination of `h_S` it is uncorrelated with the error so far. Without
/// `j`, the outputs therefore miss `V_j r` more, with `V_j` the column of `j` in the present `V`, and
/// the loss rises by
///
/// ```text
/// ½ (V_jᵀ G V_j) / B_jj
/// ```
///
/// exactly. Then `V_i` becomes `V_i - V_j c_i` and `B` becomes `B - b bᵀ / B_jj`, with `b` the column
/// of `j` in `B` and `c = b / B_jj`. Only `N = Vᵀ G V` is needed of `V`. With `g` its column of `j` and
/// `p = g - ½ N_jj c` it becomes `N - c pᵀ - p cᵀ`.
///
/// So a channel costs two columns and the diagonals of `B` and `N`, which are corrected for the
/// updates that are still pending; 64 of these are carried out in one product. In all there are about
/// `2 channels³` multiplications, and `48 channels²` bytes: about a second and 0.1 GB for
/// 1536 channels, minutes and 10 GB for 14 336.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelOrder {
    /// All channels, the first one to be left out first. The last one is never left out.
    order: Vec<usize>,
    /// The loss when as many channels are left out as the index says.
    losses: Vec<f64>,
}

impl ChannelOrder {
    /// Finds the order for a matrix `[out, channels]`. `inputs` has the second moment of its inputs,
    /// `outputs` that of the gradients of its outputs, and `damping` is added to the diagonals of
    /// both, as shares of their means.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] for second moments of other sizes, [`LinalgError::NotFinite`],
    /// [`LinalgError::NoConvergence`].
    pub fn new(
        weight: &Matrix,
        inputs: &SecondMoment,
        outputs: &SecondMoment,
        damping: [f64; 2],
    ) -> Result<Self, LinalgError> {
        check_inner(weight.cols(), inputs.size())?;
        check_inner(outputs.size(), weight.rows())?;
        let channels = weight.cols();
        let mut rest = Elimination::new(weight, inputs, outputs, damping)?;
        let mut order = Vec::with_capacity(channels);
        let mut losses = vec![0.0];
        while let Some(at) = rest.cheapest() {
            let channel = rest.channels[at];
            order.push(channel);
            if order.len() == channels {
                break;
            }
            let loss = losses[losses.len() - 1] + rest.cost(at);
            if !loss.is_finite() {
                return Err(LinalgError::NotFinite { row: channel, col: channel, value: loss });
            }
            losses.push(loss);
            rest.leave_out(at);
        }
        Ok(Self { order, losses })
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.order.len()
    }

    /// All channels, the first one to be left out first.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// What the loss is expected to rise by if this many channels are kept, in nats per token; the
    /// fewer, the more.
    ///
    /// # Panics
    ///
    /// If `kept` is 0 or more than there are.
    pub fn loss(&self, kept: usize) -> f64 {
        self.losses[self.left_out(kept)]
    }

    /// The channels that are kept if there are to be this many, in rising order.
    ///
    /// # Panics
    ///
    /// If `kept` is 0 or more than there are.
    pub fn kept(&self, kept: usize) -> Vec<usize> {
        let mut channels = self.order[self.left_out(kept)..].to_vec();
        channels.sort_unstable();
        channels
    }

    fn left_out(&self, kept: usize) -> usize {
        assert!((1..=self.channels()).contains(&kept), "{kept} of {}", self.channels());
        self.channels() - kept
    }

    /// Bytes that finding the order needs for a matrix `[out, channels]`.
    pub(crate) fn memory([rows, channels]: [usize; 2]) -> u64 {
        let [m, n] = [rows as u64, channels as u64];
        let entries = (6 * n).saturating_mul(n).saturating_add(m.saturating_mul(2 * n + m));
        entries.saturating_mul(size_of::<f64>() as u64)
    }

    /// Floating point operations of finding the order.
    pub(crate) fn work([rows, channels]: [usize; 2]) -> u64 {
        let [m, n] = [rows as u64, channels as u64];
        let square = n.saturating_mul(n);
        square.saturating_mul(4 * n).saturating_add(square.saturating_mul(2 * m))
    }
}

/// What a matrix `[out, channels]` becomes if only some of its channels are kept, in the given order:
/// `W C[:, S] C[S, S]⁻¹`, `[out, kept]`, the least squares fit of its outputs. `shrink` is that of the
/// inputs in [`ChannelOrder::new`]. With all channels it is the matrix itself.
///
/// # Errors
///
/// [`LinalgError::Inner`] for a second moment of another size, [`LinalgError::Rank`] for no channels
/// or too many, [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`].
///
/// # Panics
///
/// If one of `kept` is not a channel.
pub fn refit_channels(
    weight: &Matrix,
    inputs: &SecondMoment,
    kept: &[usize],
    shrink: f64,
) -> Result<Matrix, LinalgError> {
    let (channels, par) = (weight.cols(), get_global_parallelism());
    check_inner(channels, inputs.size())?;
    if kept.is_empty() || kept.len() > channels {
        return Err(LinalgError::Rank { rank: kept.len(), full: channels });
    }
    let mut is_kept = vec![false; channels];
    kept.iter().for_each(|channel| is_kept[*channel] = true);
    let gone: Vec<usize> = (0..channels).filter(|channel| !is_kept[*channel]).collect();
    let w = weight.view();
    let own = |i: usize, j: usize| w[(j, kept[i])];
    let mut fitted = Mat::from_fn(kept.len(), weight.rows(), own);
    if !gone.is_empty() {
        // W C[:, S] C[S, S]⁻¹ is W_S + W_R C[R, S] C[S, S]⁻¹; so only the share of the others is
        // rounded.
        let mean = inputs.shrunk_by(shrink.into())?;
        let between = Mat::from_fn(kept.len(), gone.len(), |i, j| mean[(kept[i], gone[j])]);
        let others = Mat::from_fn(gone.len(), weight.rows(), |i, j| w[(j, gone[i])]);
        let mut share = &between * &others;
        let corner = Mat::from_fn(kept.len(), kept.len(), |i, j| mean[(kept[i], kept[j])]);
        let lower = root(&corner)?;
        solve_lower_triangular_in_place(lower.as_ref(), share.as_mut(), par);
        solve_upper_triangular_in_place(lower.transpose(), share.as_mut(), par);
        fitted += &share;
    }
    Matrix::from_view(fitted.transpose())
}

fn check_inner(left: usize, right: usize) -> Result<(), LinalgError> {
    match left == right {
        true => Ok(()),
        false => Err(LinalgError::Inner { left, right }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::elimination::BLOCK;
    use super::super::loss::loss_of_error;
    use super::super::weighted::Weighting;
    use super::*;

    /// Second moments as they were measured.
    const AS_MEASURED: [f64; 2] = [0.0, 0.0];

    /// Numbers of mean 0, always the same.
    fn random(seed: u64, count: usize) -> Vec<f64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The second moment of rows that have something in common.
    fn moment(seed: u64, size: usize) -> SecondMoment {
        let rows = random(seed, 4 * size * size);
        let mixed = rows.chunks(size).flat_map(|row| {
            let mean = row.iter().sum::<f64>() / size as f64;
            row.iter().map(move |x| (x + 2.0 * mean) as f32)
        });
        let mut moment = SecondMoment::new(size);
        moment.add(&mixed.collect::<Vec<f32>>());
        moment
    }

    fn problem(seed: u64, rows: usize, channels: usize) -> (Matrix, SecondMoment, SecondMoment) {
        let weight = Matrix::new(rows, channels, random(seed, rows * channels)).unwrap();
        (weight, moment(seed + 1, channels), moment(seed + 2, rows))
    }

    /// What the matrix misses once it is refitted to these channels, row after row.
    fn missed(weight: &Matrix, inputs: &SecondMoment, kept: &[usize], shrink: f64) -> Vec<f64> {
        let fitted = refit_channels(weight, inputs, kept, shrink).unwrap();
        let mut error = weight.data().to_vec();
        for row in 0..weight.rows() {
            for (at, channel) in kept.iter().enumerate() {
                error[row * weight.cols() + channel] -= fitted.data()[row * kept.len() + at];
            }
        }
        error
    }

    /// What keeping these channels costs, by its definition: ½ tr(G ΔW C ΔWᵀ) of the refitted matrix.
    fn cost(weight: &Matrix, inputs: &SecondMoment, outputs: &SecondMoment, kept: &[usize]) -> f64 {
        let error = missed(weight, inputs, kept, 0.0);
        let error: Vec<f32> = error.into_iter().map(|x| x as f32).collect();
        loss_of_error(&error, inputs, Some(outputs)).unwrap()
    }

    fn assert_near(a: f64, b: f64, what: &str) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-9), "{what}: {a}, not {b}");
    }

    #[test]
    fn each_step_leaves_out_what_costs_least_and_says_exactly_what_it_costs() {
        for channels in 1..=6 {
            let (weight, inputs, outputs) = problem(channels as u64, 4, channels);
            let order = ChannelOrder::new(&weight, &inputs, &outputs, AS_MEASURED).unwrap();
            assert_eq!((order.channels(), order.loss(channels)), (channels, 0.0));
            for kept in 1..channels {
                let what = format!("{kept} of {channels}");
                let best = order.kept(kept);
                let real = cost(&weight, &inputs, &outputs, &best);
                assert_near(order.loss(kept), real, &what);
                assert!(order.loss(kept) >= order.loss(kept + 1), "{what}");
                // Every other channel that could have been left out instead costs no less.
                let before = order.kept(kept + 1);
                for gone in &before {
                    let others: Vec<usize> =
                        before.iter().copied().filter(|other| other != gone).collect();
                    let other = cost(&weight, &inputs, &outputs, &others);
                    assert!(real <= other * (1.0 + 1e-5), "{what}: {real} and {other}");
                }
            }
        }
    }

    #[test]
    fn one_channel_is_left_out_in_the_best_way_and_several_in_a_possible_one() {
        let (weight, inputs, outputs) = problem(7, 5, 6);
        let order = ChannelOrder::new(&weight, &inputs, &outputs, AS_MEASURED).unwrap();
        for kept in 1..6u32 {
            let subsets = (0u32..1 << 6).filter(|set| set.count_ones() == kept);
            let best = subsets
                .map(|set| (0..6usize).filter(|i| (set >> *i) & 1 == 1).collect::<Vec<usize>>())
                .map(|set| cost(&weight, &inputs, &outputs, &set))
                .fold(f64::INFINITY, f64::min);
            let greedy = order.loss(kept as usize);
            assert!(best <= greedy * (1.0 + 1e-5), "{kept}: {greedy} and {best}");
            // The first step is the best one; later ones need not be.
            assert!(kept < 5 || greedy <= best * (1.0 + 1e-5), "{greedy} and {best}");
        }
    }

    #[test]
    fn updates_in_blocks_stay_exact_over_many_channels() {
        let channels = 2 * BLOCK + 9;
        let (weight, inputs, outputs) = problem(11, 20, channels);
        let order = ChannelOrder::new(&weight, &inputs, &outputs, AS_MEASURED).unwrap();
        for kept in [channels - 1, channels - BLOCK, channels - BLOCK - 1, BLOCK, 9, 1] {
            let real = cost(&weight, &inputs, &outputs, &order.kept(kept));
            let gap = (order.loss(kept) - real).abs();
            assert!(gap <= 1e-4 * real, "{kept}: {} and {real}", order.loss(kept));
        }
        let mut all = order.order().to_vec();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..channels), "each channel is left out once");
    }

    #[test]
    fn refit_is_the_least_squares_fit() {
        let (weight, inputs, _) = problem(3, 4, 6);
        assert_eq!(refit_channels(&weight, &inputs, &[0, 1, 2, 3, 4, 5], 0.1).unwrap(), weight);
        let kept = [1, 2, 5];
        for shrink in [0.0, 0.2] {
            let fitted = refit_channels(&weight, &inputs, &kept, shrink).unwrap();
            // Normal equations: the error is uncorrelated with every channel that is kept.
            let mean = inputs.shrunk_by(shrink.into()).unwrap();
            for row in 0..weight.rows() {
                for channel in kept {
                    let of = |i: usize| weight.data()[row * 6 + i] * mean[(i, channel)];
                    let whole: f64 = (0..6).map(of).sum();
                    let of = |at: usize| fitted.data()[row * 3 + at] * mean[(kept[at], channel)];
                    let part: f64 = (0..3).map(of).sum();
                    assert!((whole - part).abs() < 1e-9, "{row} {channel}: {whole} and {part}");
                }
            }
        }
    }

    #[test]
    fn costs_are_in_the_norm_of_ranks_also_where_one_entry_is_much_larger_than_the_others() {
        let stretched = |seed: u64, size: usize| {
            let mut moment = SecondMoment::new(size);
            for row in random(seed, 4 * size * size).chunks(size) {
                let entry = |(i, x): (usize, &f64)| (if i == 0 { 100.0 * x } else { *x }) as f32;
                moment.add(&row.iter().enumerate().map(entry).collect::<Vec<f32>>());
            }
            moment
        };
        let [rows, channels, left] = [4, 6, 3];
        let weight = Matrix::new(rows, channels, random(12, rows * channels)).unwrap();
        let (inputs, outputs) = (stretched(13, channels), stretched(14, rows));
        let damping = [0.1, 0.2];
        let order = ChannelOrder::new(&weight, &inputs, &outputs, damping).unwrap();
        let error = missed(&weight, &inputs, &order.kept(left), damping[0]);
        let error = Matrix::new(rows, channels, error).unwrap();
        let root = |moment: &SecondMoment, share: f64| Some(Arc::new(moment.root(share).unwrap()));
        let norm = Weighting::new(root(&inputs, damping[0]), root(&outputs, damping[1]));
        let real = norm.apply(&error).unwrap().norm().powi(2) / 2.0;
        assert_near(order.loss(left), real, "half of the squared norm of the error");
    }

    #[test]
    fn channels_that_others_have_too_cost_nothing() {
        // Channel 1 is twice channel 0, and channel 2 is always 0.
        let rows: Vec<f32> = random(5, 40)
            .chunks(2)
            .flat_map(|pair| [pair[0], 2.0 * pair[0], 0.0, pair[1]])
            .map(|x| x as f32)
            .collect();
        let mut inputs = SecondMoment::new(4);
        inputs.add(&rows);
        let weight = Matrix::new(3, 4, random(6, 12)).unwrap();
        let order = ChannelOrder::new(&weight, &inputs, &moment(8, 3), AS_MEASURED).unwrap();
        assert!(order.order()[..2].contains(&2) && !order.kept(2).contains(&2), "{order:?}");
        assert!(order.loss(2) < 1e-6 * order.loss(1), "{order:?}");
        assert!(order.kept(2).contains(&3), "{order:?}");
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (weight, inputs, outputs) = problem(9, 3, 4);
        let wrong = ChannelOrder::new(&weight, &outputs, &outputs, AS_MEASURED).unwrap_err();
        assert_eq!(wrong, LinalgError::Inner { left: 4, right: 3 });
        assert!(ChannelOrder::new(&weight, &inputs, &inputs, AS_MEASURED).is_err());
        for kept in [&[][..], &[0, 1, 2, 3, 0]] {
            let wrong = refit_channels(&weight, &inputs, kept, 0.0).unwrap_err();
            assert_eq!(wrong, LinalgError::Rank { rank: kept.len(), full: 4 });
        }
    }
}
