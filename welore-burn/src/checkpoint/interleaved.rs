//! The experts of gpt-oss: all of a layer in one tensor, the rows of gate and up projections in turn,
//! and either turned, or in MXFP4, numbers of 4 bits of which 32 share an exponent.

use safetensors::Dtype;

use super::gathered::{Steps, gathered};
use super::mxfp4::{BLOCK, Mxfp4Rows, bytes_of_exponents};
use super::open::MOST_TENSORS;
use super::reader::Checkpoint;
use super::remark::Remark;
use super::tensor_meta::{At, TensorMeta};
use super::turned::transposed;

/// How the names of biases of gate and up projections end, `[experts, 2 * width]`. No other stacks of
/// experts have some.
const BIASES: &str = ".experts.gate_up_proj_bias";

/// Where the entries of a matrix are, or those of a vector, which is a column.
#[derive(Debug, Clone)]
pub(super) enum Interleaved {
    /// In steps of entries, in a part of a file that has all entries of an expert.
    Steps(At, Steps),
    /// All of this tensor, whose columns are the rows.
    Turned(At),
    /// In rows of MXFP4.
    Mxfp4(Mxfp4Rows),
}

impl Interleaved {
    /// The entries of a matrix or a vector of this shape, row-major: in the type of the part, or in BF16
    /// for MXFP4.
    pub fn content(&self, checkpoint: &Checkpoint, shape: &[usize]) -> Vec<u8> {
        let [rows, cols] = sides(shape);
        match self {
            Self::Steps((shard, part), steps) => {
                let (bytes, size) = (checkpoint.bytes_at(*shard, part), part.dtype.bitsize() / 8);
                gathered(bytes, size, *steps, [rows, cols])
            }
            Self::Turned((shard, whole)) => {
                transposed(checkpoint.bytes_at(*shard, whole), [cols, rows])
            }
            Self::Mxfp4(packed) => packed.numbers(checkpoint, [rows, cols]),
        }
    }

    /// The blocks of ggml's type MXFP4 of a matrix that is in MXFP4; `None` for others.
    pub fn mxfp4_blocks(&self, checkpoint: &Checkpoint, shape: &[usize]) -> Option<Vec<u8>> {
        match self {
            Self::Mxfp4(packed) => Some(packed.ggml_blocks(checkpoint, sides(shape))),
            Self::Steps(..) | Self::Turned(_) => None,
        }
    }

    /// Bytes in its file that the part has besides its entries.
    pub fn bytes_beside(&self, meta: &TensorMeta) -> u64 {
        match self {
            Self::Mxfp4(_) => bytes_of_exponents(meta),
            Self::Steps(..) | Self::Turned(_) => 0,
        }
    }
}

fn sides(shape: &[usize]) -> [usize; 2] {
    [shape[0], shape.get(1).copied().unwrap_or(1)]
}

/// A part of an expert: its name without that of the expert, its shape, and where it is.
type Part = (&'static str, Vec<usize>, TensorMeta, Interleaved);

/// The tensors of a layer of experts.
struct Layer {
    /// What is before the numbers of experts in names, without the dot.
    stem: String,
    /// Number of experts, their width, and that of their inputs.
    sizes: [usize; 3],
    /// With files. Two or four: the weights of both kinds, in MXFP4 each with its exponents.
    weights: Vec<At>,
    biases: [At; 2],
}

impl Layer {
    /// The layer whose biases are called so, if all shapes belong together.
    fn of(checkpoint: &Checkpoint, biases: &str) -> Option<Self> {
        let stem = format!("{}.experts", biases.strip_suffix(BIASES)?);
        let find = |end: &str| checkpoint.tensors.get(&format!("{stem}.{end}")).cloned();
        let biases = [find("gate_up_proj_bias")?, find("down_proj_bias")?];
        let &[experts, both] = biases[0].1.shape.as_slice() else { return None };
        let &[same, hidden] = biases[1].1.shape.as_slice() else { return None };
        let (width, is_even) = (both / 2, both.is_multiple_of(2));
        let are_there = biases.iter().all(|(_, meta)| meta.is_float())
            && experts.min(width).min(hidden) > 0
            && (same, is_even) == (experts, true)
            && experts <= MOST_TENSORS / 6;
        let plain = ["gate_up_proj", "down_proj"].map(find);
        let packed = ["gate_up_proj_blocks", "gate_up_proj_scales"].map(find);
        let packed_down = ["down_proj_blocks", "down_proj_scales"].map(find);
        let (weights, shapes) = match (plain, packed, packed_down) {
            ([Some(up), Some(down)], ..) if up.1.is_float() && down.1.is_float() => {
                let shapes = vec![vec![experts, hidden, both], vec![experts, width, hidden]];
                (vec![up, down], shapes)
            }
            (_, [Some(up), Some(of_up)], [Some(down), Some(of_down)]) => {
                if !hidden.is_multiple_of(BLOCK) || !width.is_multiple_of(BLOCK) {
                    return None;
                }
                let codes = |rows, cols| vec![experts, rows, cols / BLOCK, BLOCK / 2];
                let exponents = |rows, cols| vec![experts, rows, cols / BLOCK];
                let shapes = vec![
                    codes(both, hidden),
                    exponents(both, hidden),
                    codes(hidden, width),
                    exponents(hidden, width),
                ];
                let all = vec![up, of_up, down, of_down];
                all.iter().all(|(_, meta)| meta.dtype == Dtype::U8).then_some((all, shapes))?
            }
            _ => return None,
        };
        let fits = weights.iter().map(|(_, meta)| &meta.shape).eq(&shapes);
        let sizes = [experts, width, hidden];
        // An expert that has a matrix of its own as well has two, and neither is known to be right.
        let is_twice = checkpoint.has_single_experts(&stem);
        (are_there && fits && !is_twice).then_some(Self { stem, sizes, weights, biases })
    }

    /// The tensors of the file that it consists of.
    fn sources(&self) -> impl Iterator<Item = String> {
        let ends: &[&str] = match self.weights.len() {
            2 => &["gate_up_proj", "down_proj"],
            _ => &[
                "gate_up_proj_blocks",
                "gate_up_proj_scales",
                "down_proj_blocks",
                "down_proj_scales",
            ],
        };
        let all = ends.iter().chain(&["gate_up_proj_bias", "down_proj_bias"]);
        all.map(move |end| format!("{}.{end}", self.stem))
    }

    /// The parts of an expert, with the files of those that they are in.
    fn parts(&self, expert: usize) -> Vec<(usize, Part)> {
        let [_, width, hidden] = self.sizes;
        let mut parts = match self.weights.as_slice() {
            [up, down] => self.turned(expert, [up, down]),
            [up, of_up, down, of_down] => self.packed(expert, [up, of_up], [down, of_down]),
            _ => Vec::new(),
        };
        let [of_both, of_down] = &self.biases;
        for (first, name) in ["gate_proj.bias", "up_proj.bias"].into_iter().enumerate() {
            let slab = of_both.1.matrix_at(2 * expert * width, [1, 2 * width]);
            let half = slab.matrix_at(first * width, [1, width]);
            let within = (of_both.0, slab);
            let part = Interleaved::Steps(within, Steps { first, down: 2, across: 1 });
            parts.push((of_both.0, (name, vec![width], half, part)));
        }
        let slab = of_down.1.matrix_at(expert * hidden, [1, hidden]);
        let within = (of_down.0, slab.clone());
        let part = Interleaved::Steps(within, Steps { first: 0, down: 1, across: 1 });
        parts.push((of_down.0, ("down_proj.bias", vec![hidden], slab, part)));
        parts
    }

    /// The weights of an expert where columns are rows.
    fn turned(&self, expert: usize, [up, down]: [&At; 2]) -> Vec<(usize, Part)> {
        let [_, width, hidden] = self.sizes;
        let size = width * hidden;
        let slab = up.1.matrix_at(2 * expert * size, [hidden, 2 * width]);
        let half = |first: usize, name| {
            let within = (up.0, slab.clone());
            let steps = Steps { first, down: 2, across: 2 * width };
            let part = Interleaved::Steps(within, steps);
            let meta = slab.matrix_at(first * size, [width, hidden]);
            (up.0, (name, vec![width, hidden], meta, part))
        };
        let of_down = down.1.matrix_at(expert * size, [hidden, width]);
        let within = (down.0, of_down.clone());
        let part = Interleaved::Steps(within, Steps { first: 0, down: 1, across: hidden });
        let down = (down.0, ("down_proj.weight", vec![hidden, width], of_down, part));
        vec![half(0, "gate_proj.weight"), half(1, "up_proj.weight"), down]
    }

    /// The weights of an expert in MXFP4.
    fn packed(&self, expert: usize, up: [&At; 2], down: [&At; 2]) -> Vec<(usize, Part)> {
        let [_, width, hidden] = self.sizes;
        let rows_of = |[codes, exponents]: [&At; 2], [rows, cols]: [usize; 2]| {
            let slab = |tensor: &At, bytes: usize| {
                (tensor.0, tensor.1.matrix_at(expert * rows * bytes, [rows, bytes]))
            };
            (slab(codes, cols / 2), slab(exponents, cols / BLOCK))
        };
        let part = |name, (codes, exponents): &(At, At), place| {
            let (first, step, shape): (usize, usize, [usize; 2]) = place;
            let bytes = shape[0] * shape[1] / 2;
            let mut meta = codes.1.matrix_at(first * bytes, [1, bytes]);
            (meta.dtype, meta.shape) = (Dtype::BF16, shape.to_vec());
            let (shard, codes, exponents) = (codes.0, codes.clone(), exponents.clone());
            let part = Interleaved::Mxfp4(Mxfp4Rows { codes, exponents, first, step });
            (shard, (name, shape.to_vec(), meta, part))
        };
        let both = rows_of(up, [2 * width, hidden]);
        let of_down = rows_of(down, [hidden, width]);
        vec![
            part("gate_proj.weight", &both, (0, 2, [width, hidden])),
            part("up_proj.weight", &both, (1, 2, [width, hidden])),
            part("down_proj.weight", &of_down, (0, 1, [hidden, width])),
        ]
    }
}

impl Checkpoint {
    /// Whether a tensor is a matrix in MXFP4, which is read as BF16.
    pub(crate) fn is_mxfp4(&self, tensor: &str) -> bool {
        matches!(self.interleaved.get(tensor), Some(Interleaved::Mxfp4(_)))
    }

    /// A matrix in MXFP4, as the blocks of ggml's type; `None` for other tensors.
    pub(crate) fn mxfp4_blocks(&self, tensor: &str) -> Option<Vec<u8>> {
        let (_, meta) = self.tensors.get(tensor)?;
        self.interleaved.get(tensor)?.mxfp4_blocks(self, &meta.shape)
    }

    /// The checkpoint with matrices and biases of each expert in the place of those of gpt-oss.
    pub(super) fn without_interleaving(mut self) -> Self {
        let found: Vec<Layer> = self.names().filter_map(|name| Layer::of(&self, name)).collect();
        let experts: usize = found.iter().map(|layer| layer.sizes[0]).sum();
        if found.is_empty() || self.tensors.len() + 6 * experts > MOST_TENSORS {
            return self;
        }
        let mut tensors = 0;
        for layer in found {
            for source in layer.sources() {
                self.tensors.remove(&source);
                tensors += 1;
            }
            for expert in 0..layer.sizes[0] {
                for (shard, (part, shape, mut meta, place)) in layer.parts(expert) {
                    let name = format!("{}.{expert}.{part}", layer.stem);
                    meta.shape = shape;
                    self.tensors.insert(name.clone(), (shard, meta));
                    self.interleaved.insert(name, place);
                }
            }
        }
        self.in_order().with_remark(Remark::Unstacked { tensors })
    }
}
