//! Channels and ranks within one budget: how it is met, and that neither alone would lose less.

use welore_burn::calibrate::Calibration;
use welore_burn::channels::{
    ChannelCurve, ChannelGoal, ChannelPlan, ChannelPlanError, ChannelsError, CurveOptions,
    JointPlan, Mlp, Widths, measure_channels,
};
use welore_burn::forms::Storage;
use welore_burn::linalg::Shrinkage;
use welore_burn::plan::{Constraint, Loss, PlanError, PlanOptions, Target, make_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, Spectra, measure_checkpoint};

use crate::channels::Case;
use crate::{tiny_projections, tiny_spectra};

/// Parameters of all projections of tiny-llama.
const SELECTED: u64 = 172_032;

/// Spectra and costs of channels in one norm.
struct Measured {
    case: Case,
    spectra: Spectra,
    curves: Vec<ChannelCurve>,
}

impl Measured {
    fn new() -> Self {
        let case = Case::new();
        let (shrink, checkpoint) = (Shrinkage::default(), &case.opened.checkpoint);
        let norms = Norms::new(&case.calibration, Method::TwoSided, shrink).unwrap();
        let measuring = MeasureOptions { norms, ..MeasureOptions::default() };
        let spectra =
            measure_checkpoint(checkpoint, &tiny_projections(), &measuring, &mut ()).unwrap();
        let options =
            CurveOptions { shrink_gradients: Shrinkage::OUTPUT, ..CurveOptions::default() };
        let mlps: Vec<Mlp> = case.curves.iter().map(|curve| curve.mlp.clone()).collect();
        let curves =
            measure_channels(checkpoint, &case.calibration, &mlps, &options, &mut ()).unwrap();
        Self { case, spectra, curves }
    }

    fn plan(&self, goal: &ChannelGoal, options: &PlanOptions) -> Result<JointPlan, ChannelsError> {
        let (checkpoint, shrink) = (&self.case.opened.checkpoint, Shrinkage::INPUT);
        JointPlan::new(checkpoint, &self.spectra, &self.curves, shrink, goal, options)
    }

    fn check(&self, goal: &ChannelGoal, options: &PlanOptions) -> Result<(), ChannelsError> {
        let mlps: Vec<Mlp> = self.curves.iter().map(|curve| curve.mlp.clone()).collect();
        JointPlan::check(&self.case.opened.checkpoint, &mlps, goal, options)
    }

    /// The expected loss of ranks alone and of channels alone, if these reach the target.
    fn alone(&self, goal: &ChannelGoal, options: &PlanOptions) -> [Option<f64>; 2] {
        let ranks = make_plan(&self.spectra, &Loss, options).ok();
        let checkpoint = &self.case.opened.checkpoint;
        let calibration: &Calibration = &self.case.calibration;
        let digest = calibration.digest();
        let channels = ChannelPlan::new("here", digest, checkpoint, &self.curves, 0.0, goal).ok();
        [ranks.and_then(|plan| plan.totals.expected_loss), channels.map(|plan| plan.expected_loss)]
    }
}

fn goal(target: Target, multiple: usize, widths: Widths) -> ChannelGoal {
    ChannelGoal { target, selection: tiny_projections(), multiple, widths }
}

fn options(target: Target, storage: Storage) -> PlanOptions {
    PlanOptions { storage, ..PlanOptions::to(target) }
}

#[test]
fn budget_is_met_to_the_last_step_and_neither_ranks_nor_channels_alone_lose_less() {
    let measured = Measured::new();
    let before = measured.case.opened.checkpoint.parameters();
    for share in [0.9, 0.75, 0.6] {
        for (widths, multiple) in [(Widths::One, 32), (Widths::Each, 8), (Widths::Each, 1)] {
            for storage in [Storage::Factors, Storage::Pivot] {
                let target = Target::KeepParams(share);
                let (goal, options) = (goal(target, multiple, widths), options(target, storage));
                assert!(measured.check(&goal, &options).is_ok());
                let plan = measured.plan(&goal, &options).unwrap();
                let what = format!("{share} {widths:?} {multiple} {storage:?}");
                // What is kept is counted from what is written.
                let gone = before - plan.ranks.totals.parameters_after;
                let (kept, most) = (SELECTED - gone, (share * SELECTED as f64).floor() as u64);
                assert_eq!(plan.keep_params, kept as f64 / SELECTED as f64, "{what}");
                // No step is larger than a width, or from the highest rank to dense.
                let layers = if widths == Widths::One { 4 } else { 1 };
                let step = layers * 3 * 64 * multiple as u64 + 64 * 160 / 10;
                assert!(kept <= most && kept + step > most, "{what}: {kept} of {most}");
                for alone in measured.alone(&goal, &options).into_iter().flatten() {
                    let loss = plan.expected_loss;
                    assert!(loss <= alone * (1.0 + 1e-9), "{what}: {loss}, alone {alone}");
                }
            }
        }
    }
}

#[test]
fn matrices_of_a_narrower_mlp_are_dense_and_sizes_are_those_of_the_result() {
    let measured = Measured::new();
    let target = Target::KeepParams(0.8);
    // With so little rank for the taking, channels are cheaper.
    let options = PlanOptions {
        min_rank: Some(8),
        max_rank: Some(8),
        constraints: vec![Constraint::set_rank("q_proj", 8)],
        ..options(target, Storage::Factors)
    };
    let plan = measured.plan(&goal(target, 1, Widths::Each), &options).unwrap();
    assert!(plan.is_narrower());
    let JointPlan { channels, ranks, .. } = &plan;
    assert_eq!(channels.target, target);
    assert_eq!(ranks.totals.parameters_before, channels.parameters_after);
    assert!(ranks.totals.lrcs >= 4 && ranks.totals.parameters_after < channels.parameters_after);
    for layer in channels.layers.iter().filter(|layer| layer.kept.len() < layer.channels) {
        let matrix = ranks.matrices.iter().find(|matrix| matrix.name == layer.name).unwrap();
        assert_eq!(matrix.shape, [64, layer.kept.len()]);
        assert!(!matrix.is_low_rank());
    }
    // Set ranks are what they were set to, and what MLPs lose is part of the estimate.
    let set = ranks.matrices.iter().filter(|matrix| matrix.fixed);
    assert_eq!(set.map(|matrix| matrix.rank).collect::<Vec<_>>(), [8; 4]);
    assert!(plan.expected_loss > channels.expected_loss && channels.expected_loss > 0.0);
    assert!(plan.expected_speed.many_tokens > 0.0);
}

#[test]
fn what_cannot_share_a_budget_is_refused_before_anything_is_measured() {
    let measured = Measured::new();
    let refused = |goal: &ChannelGoal, options: &PlanOptions| {
        let (early, late) = (measured.check(goal, options), measured.plan(goal, options));
        let (early, late) = (early.unwrap_err(), late.unwrap_err());
        assert_eq!(early.to_string(), late.to_string());
        early
    };
    let pair = |target: Target| (goal(target, 32, Widths::One), options(target, Storage::Pivot));
    let (one, some) = pair(Target::KeepParams(0.8));
    let (bytes, in_bytes) = pair(Target::MaxBytes(200_000));
    assert!(matches!(
        refused(&bytes, &in_bytes),
        ChannelsError::Plan(ChannelPlanError::NotShared { .. })
    ));
    let fixed =
        PlanOptions { constraints: vec![Constraint::keep_dense("up_proj")], ..some.clone() };
    assert!(matches!(refused(&one, &fixed), ChannelsError::Plan(ChannelPlanError::Fixed { .. })));
    let (little, too_little) = pair(Target::KeepParams(0.001));
    assert!(matches!(
        refused(&little, &too_little),
        ChannelsError::Ranks(PlanError::OutOfReach { .. })
    ));
    // An MLP with a fixed matrix keeps its channels where each has its own width.
    let each = goal(Target::KeepParams(0.8), 1, Widths::Each);
    let plan = measured.plan(&each, &fixed).unwrap();
    assert!(!plan.is_narrower());
    // Spectra of the weights are in another unit.
    let plain = Measured { spectra: tiny_spectra(), ..measured };
    assert!(matches!(
        plain.plan(&each, &some).unwrap_err(),
        ChannelsError::Ranks(PlanError::NotCalibrated { .. })
    ));
}
