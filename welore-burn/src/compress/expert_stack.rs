//! The experts of gpt-oss as transformers reads them: those of all experts of a layer in one tensor,
//! turned, with gate and up projections in turn. Other families may have a matrix for each expert.

use std::collections::BTreeMap;

use super::error::CompressError;
use super::pieces::Piece;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::forms::{Rounding, TensorSpec};
use crate::linalg::Cost;
use crate::spectrum::Norms;

/// One tensor with the matrices, or the biases, of all experts of a layer.
#[derive(Debug)]
pub(super) struct ExpertStack<'a> {
    /// The tensor.
    spec: TensorSpec,
    /// What it is made of, one expert after the other.
    parts: Vec<Piece<'a>>,
    /// How many parts an expert has, whose rows are taken in turn.
    turns: usize,
    /// Rows and columns of a part; a vector is a column.
    size: [usize; 2],
}

/// The parts of a stack with the tensors that they make, by the number of the expert and the place
/// among those taken in turn.
type Parts<'a> = BTreeMap<(usize, usize), (Piece<'a>, TensorSpec)>;

/// Puts together what makes tensors of experts of gpt-oss. Everything else stays.
pub(super) fn stacked<'a>(
    pieces: Vec<Piece<'a>>,
    checkpoint: &Checkpoint,
) -> Result<Vec<Piece<'a>>, CheckpointError> {
    let mut all = Vec::with_capacity(pieces.len());
    let mut stacks: BTreeMap<String, Parts<'a>> = BTreeMap::new();
    for piece in pieces {
        let spec = piece.tensors(checkpoint)?.into_iter().next();
        match spec.and_then(|spec| Some((place(checkpoint, &spec.name)?, spec))) {
            Some(((stack, expert, turn), spec)) => {
                stacks.entry(stack).or_default().insert((expert, turn), (piece, spec));
            }
            None => all.push(piece),
        }
    }
    for (name, parts) in stacks {
        match ExpertStack::spec(&name, &parts) {
            Some((spec, turns, size)) => {
                let parts = parts.into_values().map(|(piece, _)| piece).collect();
                all.push(Piece::Stack(ExpertStack { spec, parts, turns, size }));
            }
            None => all.extend(parts.into_values().map(|(piece, _)| piece)),
        }
    }
    Ok(all)
}

/// The stack that a tensor of an expert belongs to, the number of the expert, and the place among
/// those taken in turn.
fn place(checkpoint: &Checkpoint, tensor: &str) -> Option<(String, usize, usize)> {
    let (layer, rest) = tensor.split_once(".experts.")?;
    let (expert, part) = rest.split_once('.')?;
    let (end, turn) = match part {
        "gate_proj.weight" => (BOTH, 0),
        "up_proj.weight" => (BOTH, 1),
        "gate_proj.bias" => (BOTH_BIASES, 0),
        "up_proj.bias" => (BOTH_BIASES, 1),
        "down_proj.weight" => ("down_proj", 0),
        "down_proj.bias" => ("down_proj_bias", 0),
        _ => return None,
    };
    // Only gpt-oss has a router of this name. Its bias is there even where its weight is factored.
    checkpoint.meta(&format!("{layer}.router.bias"))?;
    // A number that is written otherwise is no expert, and would take the place of one.
    let number = expert.parse::<usize>().ok().filter(|number| number.to_string() == expert)?;
    Some((format!("{layer}.experts.{end}"), number, turn))
}

const BOTH: &str = "gate_up_proj";
const BOTH_BIASES: &str = "gate_up_proj_bias";

impl<'a> ExpertStack<'a> {
    /// The tensor of this name that the parts make, how many an expert has, and their size; `None` if
    /// one is missing or differs.
    fn spec(name: &str, parts: &Parts<'a>) -> Option<(TensorSpec, usize, [usize; 2])> {
        let turns = if name.ends_with(BOTH) || name.ends_with(BOTH_BIASES) { 2 } else { 1 };
        let experts = parts.len() / turns;
        let places = (0..experts).flat_map(|expert| (0..turns).map(move |turn| (expert, turn)));
        let (_, first) = parts.values().next()?;
        let is_same = |spec: &TensorSpec| spec.dtype == first.dtype && spec.shape == first.shape;
        let fits = parts.keys().copied().eq(places)
            && parts.values().all(|(_, spec)| is_same(spec))
            && !first.shape.contains(&0);
        let (shape, size) = match *first.shape.as_slice() {
            [rows, cols] => (vec![experts, cols, turns * rows], [rows, cols]),
            [rows] => (vec![experts, turns * rows], [rows, 1]),
            _ => return None,
        };
        let spec = TensorSpec { name: name.into(), dtype: first.dtype, shape };
        fits.then_some((spec, turns, size))
    }

    /// The tensor.
    pub fn tensor(&self) -> &TensorSpec {
        &self.spec
    }

    /// What it is made of.
    pub fn parts(&self) -> &[Piece<'a>] {
        &self.parts
    }

    /// The cost of making it: all of it is in memory, and one part at a time.
    pub fn cost(&self, checkpoint: &Checkpoint, norms: &Norms<'_>) -> Cost {
        let own = Cost::of_cast(self.spec.entries(), self.spec.bytes());
        self.parts.iter().map(|part| part.cost(checkpoint, norms)).fold(own, |all, part| Cost {
            bytes: all.bytes.max(own.bytes.saturating_add(part.bytes)),
            operations: all.operations.saturating_add(part.operations),
        })
    }

    /// Its content.
    pub fn content(
        &self,
        checkpoint: &'a Checkpoint,
        norms: &Norms<'_>,
        rounding: Rounding,
    ) -> Result<Vec<u8>, CompressError> {
        let entry = self.spec.dtype.bitsize() / 8;
        let [rows, cols] = self.size;
        let width = self.turns * rows;
        let mut all = Vec::with_capacity(self.parts.len() * rows * cols * entry);
        for parts in self.parts.chunks(self.turns) {
            let start = all.len();
            all.resize(start + cols * width * entry, 0);
            let slab: &mut [u8] = &mut all[start..];
            for (turn, part) in parts.iter().enumerate() {
                let made = part.make(checkpoint, norms, rounding)?;
                let bytes = made.data.iter().flat_map(|data| data.chunks_exact(entry));
                for (at, bytes) in bytes.enumerate() {
                    let (row, col) = (at / cols, at % cols);
                    let to = entry * (col * width + row * self.turns + turn);
                    slab[to..to + entry].copy_from_slice(bytes);
                }
            }
        }
        Ok(all)
    }
}
