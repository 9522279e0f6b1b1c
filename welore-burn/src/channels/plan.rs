use serde::{Deserialize, Serialize};

use super::curves::ChannelCurve;
use super::error::ChannelsError;
use super::mlp::Mlp;
use super::widths::{ChannelGoal, Counted, Widths};
use crate::artifact::{Header, in_words};
use crate::checkpoint::Checkpoint;
use crate::modules::MatrixName;
use crate::plan::Target;

const FORMAT: &str = "welore-channels";
const VERSION: u32 = 1;

/// File name of the plan in a model directory that was made by it.
pub const CHANNELS_FILE: &str = "welore_channels.json";

/// The channels that each MLP of a model keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelPlan {
    format: String,
    version: u32,
    /// Where the model came from, as a note.
    pub source: String,
    /// Digest of the calibration that the costs were measured with.
    pub calibration: String,
    /// Share by which the second moments of channels were shrunk
    /// ([`Shrink::Share`](crate::linalg::Shrink::Share)).
    pub shrink_inputs: f64,
    /// The same for the second moments of the gradients of outputs, which is 0 without ranks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shrink_gradients: f64,
    /// The target.
    pub target: Target,
    /// Whether all layers have one width.
    pub widths: Widths,
    /// Number that widths are multiples of, unless all channels are kept.
    pub multiple: usize,
    /// Share of the parameters of the selected matrices that is kept; `None` for a target in bytes.
    /// Where ranks share the budget, what channels alone leave, which is above the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_params: Option<f64>,
    /// Number of parameters of the whole model, before and after.
    pub parameters_before: u64,
    /// See `parameters_before`.
    pub parameters_after: u64,
    /// Bytes of all tensors, before and after.
    pub bytes_before: u64,
    /// See `bytes_before`.
    pub bytes_after: u64,
    /// Estimated rise of the loss in nats per token: the sum over all MLPs.
    pub expected_loss: f64,
    /// One entry per MLP, in the model's order.
    pub layers: Vec<KeptChannels>,
}

/// The channels that one MLP keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptChannels {
    /// Name of the down projection, whose inputs the channels are.
    pub name: MatrixName,
    /// Number of all its channels.
    pub channels: usize,
    /// Estimated rise of the loss in nats per token.
    pub loss: f64,
    /// Numbers of those that are kept, from 0, rising.
    pub kept: Vec<usize>,
}

/// A file of channels that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelPlanFileError {
    /// Not JSON, or not of this layout.
    #[error("not a plan of channels: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
    /// Another kind of JSON file.
    #[error("not a plan of channels: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by another version.
    #[error("version {0} of plans of channels is not supported (only up to version {VERSION})")]
    Version(u32),
    /// Channels that do not exist, or not in rising order.
    #[error("not a plan of channels: `{name}` cannot keep these of its {channels} channels")]
    Kept {
        /// The down projection.
        name: MatrixName,
        /// Number of its channels.
        channels: usize,
    },
}

impl ChannelPlan {
    /// Chooses how many channels each MLP keeps, so that the loss rises least. The target is never
    /// exceeded, and what is left of it is less than the next width needs. `calibration` is the digest
    /// of the calibration that the curves were measured with, with this `shrink_inputs`.
    ///
    /// # Errors
    ///
    /// [`ChannelsError::Plan`], and errors of the checkpoint.
    pub fn new(
        source: impl Into<String>,
        calibration: impl Into<String>,
        checkpoint: &Checkpoint,
        curves: &[ChannelCurve],
        shrink_inputs: f64,
        goal: &ChannelGoal,
    ) -> Result<Self, ChannelsError> {
        let mlps: Vec<Mlp> = curves.iter().map(|curve| curve.mlp.clone()).collect();
        let counted = Counted::of(checkpoint, &mlps, goal)?;
        let widths = goal.choose(&counted, curves)?;
        Self::of_widths(
            (source.into(), calibration.into()),
            checkpoint,
            curves,
            shrink_inputs,
            goal,
            &widths,
        )
    }

    /// The plan with these widths, one for each MLP, whether or not they meet the target. `origin` is
    /// the note on where the model came from, and the digest of the calibration.
    pub(super) fn of_widths(
        (source, calibration): (String, String),
        checkpoint: &Checkpoint,
        curves: &[ChannelCurve],
        shrink_inputs: f64,
        goal: &ChannelGoal,
        widths: &[usize],
    ) -> Result<Self, ChannelsError> {
        let mlps: Vec<Mlp> = curves.iter().map(|curve| curve.mlp.clone()).collect();
        let counted = Counted::of(checkpoint, &mlps, goal)?;
        let layers: Vec<KeptChannels> = curves
            .iter()
            .zip(widths)
            .map(|(ChannelCurve { mlp, order, .. }, width)| KeptChannels {
                name: mlp.down.clone(),
                channels: mlp.channels,
                loss: order.loss(*width),
                kept: order.kept(*width),
            })
            .collect();
        let (mut parameters, mut bytes) = (checkpoint.parameters(), checkpoint.bytes());
        for (mlp, width) in mlps.iter().zip(widths) {
            let gone = (mlp.channels - width) as u64;
            let (fewer, smaller) = mlp.channel_size(checkpoint)?;
            parameters -= gone * fewer;
            bytes -= gone * smaller;
        }
        Ok(Self {
            format: FORMAT.into(),
            version: VERSION,
            source,
            calibration,
            shrink_inputs,
            shrink_gradients: curves.first().map_or(0.0, |curve| curve.shrink_gradients),
            target: goal.target,
            widths: goal.widths,
            multiple: goal.multiple,
            keep_params: counted.share_of(&mlps, widths),
            parameters_before: checkpoint.parameters(),
            parameters_after: parameters,
            bytes_before: checkpoint.bytes(),
            bytes_after: bytes,
            expected_loss: layers.iter().map(|layer| layer.loss).sum(),
            layers,
        })
    }

    /// The width of each MLP.
    pub fn widths_of_layers(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.kept.len()).collect()
    }

    /// Widths in words: `128 of 160`, or `96 to 160 of 160` where they differ.
    pub fn describe_widths(&self) -> String {
        let channels: Vec<usize> = self.layers.iter().map(|layer| layer.channels).collect();
        match (range_of(&self.widths_of_layers()), range_of(&channels)) {
            (Some(widths), Some(channels)) => format!("{widths} of {channels}"),
            _ => "none".into(),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// [`ChannelPlanFileError`].
    pub fn from_json(text: &str) -> Result<Self, ChannelPlanFileError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(ChannelPlanFileError::Format(header.format));
        }
        let plan: Self = match header.version {
            VERSION => serde_json::from_str(text)?,
            version => return Err(ChannelPlanFileError::Version(version)),
        };
        match plan.layers.iter().find(|layer| !layer.is_possible()) {
            Some(KeptChannels { name, channels, .. }) => {
                Err(ChannelPlanFileError::Kept { name: name.clone(), channels: *channels })
            }
            None => Ok(plan),
        }
    }

    /// The text of a file. It is in one line, because lists of channels are long.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("finite numbers and strings always serialize")
    }
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// `160`, or `96 to 160` for numbers that differ; `None` for no numbers.
fn range_of(numbers: &[usize]) -> Option<String> {
    let (low, high) = (numbers.iter().min()?, numbers.iter().max()?);
    Some(if low < high { format!("{low} to {high}") } else { high.to_string() })
}

impl KeptChannels {
    /// Whether these channels exist, are in order, and are any at all.
    pub(super) fn is_possible(&self) -> bool {
        let rises = self.kept.windows(2).all(|pair| pair[0] < pair[1]);
        rises && self.kept.last().is_some_and(|last| *last < self.channels)
    }
}
