//! Channels and ranks within one budget of parameters.

use std::collections::BTreeMap;

use super::curves::ChannelCurve;
use super::error::ChannelsError;
use super::joint_choice::{Chosen, Part, Shared};
use super::mlp::Mlp;
use super::plan::ChannelPlan;
use super::widths::{ChannelGoal, ChannelPlanError, Widths};
use super::write::ChannelReport;
use crate::checkpoint::Checkpoint;
use crate::compress::CompressReport;
use crate::forms::Form;
use crate::modules::MatrixName;
use crate::plan::{
    Choice, ExpectedSpeed, Loss, MatrixPlan, PlanError, PlanOptions, RankPlan, RankPolicy,
    RankProblem, Target, tails,
};
use crate::spectrum::{MatrixSpectrum, ModelSize, Spectra, SpectrumUnit, flat_spectra};

/// The policy of plans of ranks that share their budget with channels.
const POLICY: &str = "joint";

/// Channels and ranks that share one budget of parameters: an MLP keeps fewer channels, or its matrices
/// get ranks like all others, whichever loses less. No matrix of an MLP with fewer channels is
/// factored.
#[derive(Debug, Clone, PartialEq)]
pub struct JointPlan {
    /// The channels that each MLP keeps, all of them where its matrices get ranks.
    pub channels: ChannelPlan,
    /// The forms of the matrices of the model that has only these channels. Its sizes and shares
    /// are relative to that model. Its expected loss is that of everything.
    pub ranks: RankPlan,
    /// Share of the parameters of all selected matrices that is kept.
    pub keep_params: f64,
    /// Estimated rise of the loss in nats per token.
    pub expected_loss: f64,
    /// The expected speed, as a multiple of that of the dense model with all channels.
    pub expected_speed: ExpectedSpeed,
}

impl JointPlan {
    /// Chooses channels and ranks so that the loss rises least. The target is never exceeded, and what
    /// is left of it is too little for any rank or width that would lose less. By its own estimate the
    /// plan is never worse than one of ranks alone or of channels alone.
    ///
    /// Spectra and curves have to be measured with one calibration and in one norm: the spectra in
    /// units of the loss, the curves with its shrinkage, of which `shrink_inputs` is that of the
    /// inputs. The target is that of the options; of the goal it is not read.
    ///
    /// # Errors
    ///
    /// [`ChannelsError::Plan`], [`ChannelsError::Ranks`], and errors of the checkpoint.
    pub fn new(
        checkpoint: &Checkpoint,
        spectra: &Spectra,
        curves: &[ChannelCurve],
        shrink_inputs: f64,
        goal: &ChannelGoal,
        options: &PlanOptions,
    ) -> Result<Self, ChannelsError> {
        let mlps: Vec<Mlp> = curves.iter().map(|curve| curve.mlp.clone()).collect();
        let goal = shared_goal(goal, options, &mlps)?;
        let Some(calibration) = spectra.calibration.clone() else {
            return Err(not_calibrated());
        };
        if spectra.unit != SpectrumUnit::Loss {
            return Err(not_calibrated());
        }
        let problem = RankProblem { spectra, options };
        let fixed = problem.fixed()?;
        // Half a squared singular value is in nats per token, as costs of channels are.
        let halves = |spectrum: &MatrixSpectrum| -> Vec<f64> {
            tails(spectrum).into_iter().map(|x| x / 2.0).collect()
        };
        let ranks = problem.curves(halves, &fixed)?;
        let places = places_of(&mlps, &spectra.matrices)?;
        check_fixed(&goal, &places, &fixed, &spectra.matrices)?;
        let part = |(curve, matrices): (_, [usize; 3])| Part {
            curve,
            matrices,
            widths: widths_of(&goal, curve, matrices.map(|index| fixed[index])),
        };
        let parts: Vec<Part<'_>> = curves.iter().zip(places).map(part).collect();
        let (budget, matrices) = (problem.budget(), &spectra.matrices);
        let shared = Shared { budget, spectra: matrices, ranks, mlps: parts };
        let chosen = shared
            .choose(goal.widths, &narrower(&goal, &mlps))
            .map_err(|least| problem.out_of_reach(least, &fixed))?;
        let origin = (spectra.source.clone(), calibration);
        let channels = ChannelPlan::of_widths(
            origin,
            checkpoint,
            curves,
            shrink_inputs,
            &goal,
            &chosen.widths,
        )?;
        let ranks = rank_plan(checkpoint, &problem, &fixed, &chosen, &channels, &mlps)?;
        let before: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
        Ok(Self {
            keep_params: chosen.cost as f64 / before.max(1) as f64,
            expected_loss: ranks.totals.expected_loss.unwrap_or(chosen.loss),
            expected_speed: speed_of(spectra, &ranks),
            channels,
            ranks,
        })
    }

    /// Checks what the model's shapes alone tell: that the target is one for channels and ranks and
    /// within reach, that the MLPs are selected, and that the options are possible.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn check(
        checkpoint: &Checkpoint,
        mlps: &[Mlp],
        goal: &ChannelGoal,
        options: &PlanOptions,
    ) -> Result<(), ChannelsError> {
        let goal = shared_goal(goal, options, mlps)?;
        // What matrices cost does not depend on their singular values.
        let spectra = flat_spectra(checkpoint, &goal.selection)?;
        let problem = RankProblem { spectra: &spectra, options };
        let fixed = problem.fixed()?;
        let curves = problem.curves(|spectrum| vec![0.0; spectrum.full_rank()], &fixed)?;
        let least: Vec<u64> = curves.iter().map(|curve| curve[0].0.cost).collect();
        let places = places_of(mlps, &spectra.matrices)?;
        check_fixed(&goal, &places, &fixed, &spectra.matrices)?;
        let common = goal.common(mlps).first().copied();
        let (mut of_ranks, mut of_channels, mut of_each) = (0, 0, 0);
        for (mlp, places) in mlps.iter().zip(places) {
            let by_ranks: u64 = places.iter().map(|index| least[*index]).sum();
            let of_width = |width: usize| 3 * mlp.width as u64 * width as u64;
            let is_free = places.iter().all(|index| fixed[*index].is_none());
            let by_channels = of_width(goal.allowed(mlp.channels)[0]);
            of_ranks += by_ranks;
            of_channels += of_width(common.unwrap_or(mlp.channels));
            of_each += if is_free { by_ranks.min(by_channels) } else { by_ranks };
        }
        let others = least.iter().sum::<u64>() - of_ranks;
        let of_mlps = match goal.widths {
            Widths::One => of_ranks.min(of_channels),
            Widths::Each => of_each,
        };
        match others + of_mlps > problem.budget() {
            true => Err(problem.out_of_reach(others + of_mlps, &fixed).into()),
            false => Ok(()),
        }
    }

    /// The plan of ranks once all was carried out, with the errors of what is stored. As its expected
    /// loss, its stored one is that of everything; `channels` is what became of the narrower model, if
    /// there is one.
    pub fn noted(&self, ranks: &CompressReport, channels: Option<&ChannelReport>) -> RankPlan {
        let mut plan = ranks.noted_in(&self.ranks);
        let of_ranks = match ranks.compressed.is_empty() {
            true => Some(0.0),
            false => plan.totals.stored_loss,
        };
        let all = of_ranks.map(|loss| loss + channels.map_or(0.0, ChannelReport::loss));
        plan.totals.stored_loss = all.filter(|loss| loss.is_finite());
        plan
    }

    /// Whether an MLP has fewer channels.
    pub fn is_narrower(&self) -> bool {
        self.channels.layers.iter().any(|layer| layer.kept.len() < layer.channels)
    }
}

/// The goal of channels with the target of the ranks, checked.
fn shared_goal(
    goal: &ChannelGoal,
    options: &PlanOptions,
    mlps: &[Mlp],
) -> Result<ChannelGoal, ChannelPlanError> {
    let target = options.target;
    if !matches!(target, Target::KeepParams(_)) {
        return Err(ChannelPlanError::NotShared { target });
    }
    let goal = ChannelGoal { target, ..goal.clone() };
    goal.check_options(mlps)?;
    Ok(goal)
}

fn not_calibrated() -> ChannelsError {
    PlanError::NotCalibrated { policy: RankPolicy::name(&Loss) }.into()
}

/// Where the matrices of each MLP are among all.
fn places_of(mlps: &[Mlp], all: &[MatrixSpectrum]) -> Result<Vec<[usize; 3]>, ChannelPlanError> {
    let places: BTreeMap<&MatrixName, usize> =
        all.iter().enumerate().map(|(index, spectrum)| (&spectrum.name, index)).collect();
    let place = |name: &MatrixName| {
        let not_selected = || ChannelPlanError::NotSelected { name: name.clone() };
        places.get(name).copied().ok_or_else(not_selected)
    };
    let of_mlp = |mlp: &Mlp| {
        let [gate, up, down] = mlp.matrices();
        Ok([place(gate)?, place(up)?, place(down)?])
    };
    mlps.iter().map(of_mlp).collect()
}

/// Refuses a fixed form in an MLP where all MLPs get one width.
fn check_fixed(
    goal: &ChannelGoal,
    places: &[[usize; 3]],
    fixed: &[Option<Choice>],
    all: &[MatrixSpectrum],
) -> Result<(), ChannelPlanError> {
    let found = places.iter().flatten().find(|index| fixed[**index].is_some());
    match found {
        Some(index) if goal.widths == Widths::One => {
            Err(ChannelPlanError::Fixed { name: all[*index].name.clone() })
        }
        _ => Ok(()),
    }
}

/// The widths that an MLP may have; none if the form of one of its matrices is fixed.
fn widths_of(goal: &ChannelGoal, curve: &ChannelCurve, fixed: [Option<Choice>; 3]) -> Vec<usize> {
    match fixed.iter().any(Option::is_some) {
        true => Vec::new(),
        false => goal.allowed(curve.mlp.channels),
    }
}

/// The widths that all MLPs may have, and with which one of them loses channels.
fn narrower(goal: &ChannelGoal, mlps: &[Mlp]) -> Vec<usize> {
    let is_narrower = |width: &usize| mlps.iter().any(|mlp| *width < mlp.channels);
    goal.common(mlps).into_iter().filter(is_narrower).collect()
}

/// The shapes `[out, in]` of the matrices of MLPs that lose channels.
fn narrow_shapes<'m>(mlps: &'m [Mlp], widths: &[usize]) -> BTreeMap<&'m MatrixName, [usize; 2]> {
    let pairs = mlps.iter().zip(widths).filter(|(mlp, width)| **width < mlp.channels);
    let shapes = |(mlp, width): (&'m Mlp, &usize)| {
        let (in_rows, in_columns) = ([*width, mlp.width], [mlp.width, *width]);
        [(&mlp.gate, in_rows), (&mlp.up, in_rows), (&mlp.down, in_columns)]
    };
    pairs.flat_map(shapes).collect()
}

/// The plan of the model that has the channels of a plan.
fn rank_plan(
    checkpoint: &Checkpoint,
    problem: &RankProblem<'_>,
    fixed: &[Option<Choice>],
    chosen: &Chosen,
    channels: &ChannelPlan,
    mlps: &[Mlp],
) -> Result<RankPlan, ChannelsError> {
    let RankProblem { spectra, options } = *problem;
    let narrow = narrow_shapes(mlps, &chosen.widths);
    let mut expected = channels.expected_loss;
    let mut matrices = Vec::with_capacity(spectra.matrices.len());
    for (index, spectrum) in spectra.matrices.iter().enumerate() {
        let MatrixSpectrum { name, dtype, .. } = spectrum;
        if let Some(shape) = narrow.get(name) {
            matrices.push(MatrixPlan::new(name.clone(), *shape, Form::dense(), *dtype));
            continue;
        }
        let dense = Choice { rank: spectrum.full_rank(), form: Form::dense() };
        let Choice { rank, form } = chosen.choices[index].unwrap_or(dense);
        if form.rank().is_some() {
            expected += tails(spectrum)[rank - 1] / 2.0;
        }
        let matrix = MatrixPlan::new(name.clone(), spectrum.shape, form, *dtype);
        // What is made when it is read has another digest in the narrower model, which has it as made.
        let digest = spectrum.digest.clone().filter(|_| !checkpoint.is_made(&name.weight()));
        let fixed = fixed[index].is_some();
        matrices.push(MatrixPlan { rank, digest, fixed, ..matrix });
    }
    let (parameters, bytes) = (channels.parameters_after, channels.bytes_after);
    let size = ModelSize { parameters, bytes };
    let impossible = |reason: String| PlanError::Allocation { policy: POLICY.into(), reason };
    let mut plan = RankPlan::new(spectra.source.clone(), size, matrices)
        .map_err(|error| impossible(error.to_string()))?;
    plan.policy = POLICY.into();
    plan.unit = spectra.unit;
    plan.calibration = spectra.calibration.clone();
    plan.target = Some(options.target);
    plan.rank_multiple = options.rank_multiple;
    plan.never_grow = options.never_grow;
    plan.min_saving = options.min_saving;
    plan.min_rank = options.min_rank;
    plan.max_rank = options.max_rank;
    plan.totals.expected_loss = Some(expected);
    Ok(plan)
}

/// The expected speed with a plan, as a multiple of that of the dense model with all channels.
fn speed_of(spectra: &Spectra, plan: &RankPlan) -> ExpectedSpeed {
    let dense = |spectrum: &MatrixSpectrum| {
        let MatrixSpectrum { name, shape, dtype, .. } = spectrum;
        MatrixPlan::new(name.clone(), *shape, Form::dense(), *dtype)
    };
    let before: Vec<MatrixPlan> = spectra.matrices.iter().map(dense).collect();
    let planned: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
    let rest = spectra.model.parameters.saturating_sub(planned);
    ExpectedSpeed::between(&before, &plan.matrices, rest)
}
