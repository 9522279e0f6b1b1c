//! Tensors of three dimensions with the matrices of all experts of a layer, as transformers 5 has them
//! in memory and some files have them: one matrix for each expert, without copying any.

use super::open::MOST_TENSORS;
use super::reader::Checkpoint;
use super::remark::Remark;
use super::tensor_meta::TensorMeta;

/// How the names of stacks of gate and up projections end: `[experts, 2 * width, hidden_size]`.
const BOTH: &str = ".experts.gate_up_proj";

/// How those of down projections end: `[experts, hidden_size, width]`.
const DOWN: &str = ".experts.down_proj";

/// The stacks of a layer.
struct Stacks {
    /// What is before the numbers of experts in the names of their matrices, without the dot.
    stem: String,
    both: (usize, TensorMeta),
    down: (usize, TensorMeta),
}

impl Stacks {
    /// The stacks with these names, if their shapes belong together. gpt-oss has transposed ones of the
    /// same names.
    fn of(checkpoint: &Checkpoint, both: &str) -> Option<Self> {
        let layer = both.strip_suffix(BOTH)?;
        let down = format!("{layer}{DOWN}");
        if checkpoint.is_made(both) || checkpoint.is_made(&down) {
            return None;
        }
        let (both, down) = (checkpoint.tensors.get(both)?, checkpoint.tensors.get(&down)?);
        let &[experts, inputs, hidden] = both.1.shape.as_slice() else { return None };
        let &[_, _, width] = down.1.shape.as_slice() else { return None };
        let fits = down.1.shape == [experts, hidden, width]
            && width.checked_mul(2) == Some(inputs)
            && !both.1.shape.contains(&0);
        let are_floats = both.1.is_float() && down.1.is_float();
        let stem = format!("{layer}.experts");
        let is_there = checkpoint.has_single_experts(&stem);
        (fits && are_floats && !is_there && experts <= MOST_TENSORS / 3).then(|| Self {
            stem,
            both: both.clone(),
            down: down.clone(),
        })
    }

    /// The matrices in them, by their names.
    fn matrices(self) -> impl Iterator<Item = (String, (usize, TensorMeta))> {
        let Self { stem, both: (both_in, both), down: (down_in, down) } = self;
        let (hidden, width) = (down.shape[1], down.shape[2]);
        let size = hidden * width;
        (0..down.shape[0]).flat_map(move |expert| {
            let name = |field: &str| format!("{stem}.{expert}.{field}.weight");
            let gate = both.matrix_at(2 * expert * size, [width, hidden]);
            let up = both.matrix_at((2 * expert + 1) * size, [width, hidden]);
            let down = down.matrix_at(expert * size, [hidden, width]);
            [
                (name("gate_proj"), (both_in, gate)),
                (name("up_proj"), (both_in, up)),
                (name("down_proj"), (down_in, down)),
            ]
        })
    }
}

impl Checkpoint {
    /// The checkpoint with a matrix for each expert in the place of stacks of them.
    /// [`remarks`](Checkpoint::remarks) says whether there were some.
    pub(crate) fn unstacked(self) -> Self {
        self.apart().without_interleaving()
    }

    /// Whether an expert has tensors of its own. `stem` is what is before the numbers of experts in their
    /// names, without the dot.
    pub(super) fn has_single_experts(&self, stem: &str) -> bool {
        // The character after 9 is a colon.
        self.tensors.range(format!("{stem}.0")..format!("{stem}.:")).next().is_some()
    }

    fn apart(mut self) -> Self {
        let found: Vec<Stacks> = self.names().filter_map(|name| Stacks::of(&self, name)).collect();
        let experts: usize = found.iter().map(|stacks| stacks.down.1.shape[0]).sum();
        if found.is_empty() || self.tensors.len() + 3 * experts > MOST_TENSORS {
            return self;
        }
        let tensors = 2 * found.len();
        for stacks in found {
            for end in ["gate_up_proj", "down_proj"] {
                self.tensors.remove(&format!("{}.{end}", stacks.stem));
            }
            self.tensors.extend(stacks.matrices());
        }
        self.in_order().with_remark(Remark::Unstacked { tensors })
    }
}
