//! Convolutions as matrices. A weight `[out, in, kernel]` is the matrix `[out, in * kernel]` that patches
//! of the input are multiplied by. Its two factors are convolutions one after the other: the first has the
//! same kernel and as many outputs as the rank, the second a kernel of one point.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Checkpoint;
use super::remark::Remark;
use super::tensor_meta::TensorMeta;
use crate::forms::{Form, TensorSpec};
use crate::modules::MatrixName;

/// The longest side of a kernel: files may also have the experts of a layer in one tensor of three
/// dimensions.
const LONGEST_SIDE: usize = 128;

/// The dimensions that files have in the place of the columns of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Columns {
    /// The inputs, and the sides of the kernel.
    Kernel(Vec<usize>),
    /// The inputs, and a kernel of one point with so many sides.
    Point(usize),
}

/// Which tensors have kernels in files and are matrices here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernels {
    names: BTreeSet<MatrixName>,
    /// By tensors: of weights, and of both factors.
    columns: BTreeMap<String, Columns>,
}

impl Kernels {
    /// Adds a convolution with these inputs and sides of its kernel.
    fn add(&mut self, name: MatrixName, kernel: Vec<usize>) {
        let [first, second] = factors_of(&name);
        // A factor's name may be that of another convolution.
        let of_first = || Columns::Kernel(kernel.clone());
        self.columns.entry(first).or_insert_with(of_first);
        self.columns.entry(second).or_insert(Columns::Point(kernel.len() - 1));
        self.columns.insert(name.weight(), Columns::Kernel(kernel));
        self.names.insert(name);
    }

    /// The shape that files have for a tensor, if it has a kernel there.
    pub fn shape_in_file(&self, tensor: &TensorSpec) -> Option<Vec<usize>> {
        let &[rows, cols] = tensor.shape.as_slice() else { return None };
        match self.columns.get(&tensor.name)? {
            Columns::Kernel(kernel) => {
                let fits = kernel.iter().product::<usize>() == cols;
                fits.then(|| [&[rows][..], kernel.as_slice()].concat())
            }
            Columns::Point(sides) => Some([&[rows, cols][..], &vec![1; *sides][..]].concat()),
        }
    }

    /// The same, where names of tensors are changed.
    pub fn renamed(self, new_name: impl Fn(&str) -> String) -> Self {
        let rename = |name: MatrixName| MatrixName::of_weight(&new_name(&name.weight()));
        let columns = self.columns.into_iter();
        Self {
            names: self.names.into_iter().filter_map(rename).collect(),
            columns: columns.map(|(tensor, columns)| (new_name(&tensor), columns)).collect(),
        }
    }
}

/// The tensors of two factors.
fn factors_of(name: &MatrixName) -> [String; 2] {
    let parts = Form::factors(1).parts([1, 1]);
    [0, 1].map(|place| name.part(parts[place].suffix))
}

/// Whether a weight may be that of a convolution that is a matrix. Convolutions with one channel for each
/// output are none, and neither can be told from one with a single input.
fn is_convolution(meta: &TensorMeta) -> bool {
    match meta.shape.as_slice() {
        [outputs, inputs, sides @ ..] => {
            let is_kernel = |side: &usize| (1..=LONGEST_SIDE).contains(side);
            let is_known = !sides.is_empty() && sides.iter().all(is_kernel);
            meta.is_float() && *outputs > 0 && *inputs > 1 && is_known
        }
        _ => false,
    }
}

impl Checkpoint {
    /// The checkpoint with weights of convolutions as matrices `[out, in * kernel]`, those whose names are
    /// `chosen`. What is written from it has kernels again: a weight as it was, and two factors of rank `r`
    /// as `X.V.weight [r, in, kernel]` and `X.U.weight [out, r, 1]`, with as many ones as the kernel has
    /// sides, which are the weights of two convolutions.
    ///
    /// That is right for convolutions without groups. A file does not say how many there are, except where
    /// each output has one channel: those stay as they are.
    pub fn with_convolutions(mut self, chosen: impl Fn(&MatrixName) -> bool) -> Self {
        let found: Vec<MatrixName> = self.possible_convolutions().filter(chosen).collect();
        if found.is_empty() {
            return self;
        }
        let tensors = found.len();
        for name in found {
            if let Some(kernel) = self.flatten(&name.weight()) {
                self.kernels.add(name, kernel);
            }
        }
        self.forget_digests().with_remark(Remark::Convolutions { tensors })
    }

    /// The checkpoint with the factors of convolutions as matrices, where a file has them with kernels.
    pub(super) fn with_factored_convolutions(mut self) -> Self {
        let [first, _] = factors_of(&MatrixName::new("X"));
        let end = first.strip_prefix('X').unwrap_or(&first);
        let names = self.tensors.keys().filter_map(|tensor| tensor.strip_suffix(end));
        let names = names.map(MatrixName::from).filter(|name| self.has_factored_convolution(name));
        for name in names.collect::<Vec<_>>() {
            let [first, second] = factors_of(&name);
            self.flatten(&second);
            if let Some(kernel) = self.flatten(&first) {
                self.kernels.add(name, kernel);
            }
        }
        self
    }

    /// Whether there are two convolutions of this name that belong together: the second one has the
    /// outputs of the first for inputs, and a kernel of one point.
    fn has_factored_convolution(&self, name: &MatrixName) -> bool {
        let [first, second] = factors_of(name).map(|tensor| self.meta(&tensor));
        let (Some(first), Some(second)) = (first, second) else { return false };
        let are_floats = first.is_float() && second.is_float();
        match (first.shape.as_slice(), second.shape.as_slice()) {
            ([rank, _, kernel @ ..], [_, inputs, point @ ..]) => {
                let is_point = point.len() == kernel.len() && point.iter().all(|side| *side == 1);
                let is_whole = !first.shape.contains(&0) && !second.shape.contains(&0);
                are_floats && rank == inputs && !kernel.is_empty() && is_point && is_whole
            }
            _ => false,
        }
    }

    /// Takes all dimensions but the first one together, and returns them.
    fn flatten(&mut self, tensor: &str) -> Option<Vec<usize>> {
        let (_, meta) = self.tensors.get_mut(tensor)?;
        let kernel = meta.shape.split_off(1);
        meta.shape.push(kernel.iter().product());
        Some(kernel)
    }

    /// What [`with_convolutions`](Checkpoint::with_convolutions) can choose from: weights that are no
    /// matrices yet.
    pub fn possible_convolutions(&self) -> impl Iterator<Item = MatrixName> {
        let found = self.tensors.iter().filter(|(_, (_, meta))| is_convolution(meta));
        found.filter_map(|(tensor, _)| MatrixName::of_weight(tensor))
    }

    /// The matrices that are convolutions, dense or in two factors.
    pub fn convolutions(&self) -> impl Iterator<Item = &MatrixName> {
        self.kernels.names.iter()
    }

    /// Whether a matrix is a convolution.
    pub(crate) fn is_convolution(&self, name: &MatrixName) -> bool {
        self.kernels.names.contains(name)
    }

    /// Whether files have a tensor in this shape, though it is a matrix here.
    pub(super) fn has_in_file(&self, tensor: &str, shape: &[usize]) -> bool {
        let Some(meta) = self.meta(tensor) else { return false };
        let (name, dtype, own) = (tensor.into(), meta.dtype, meta.shape.clone());
        let in_file = self.kernels.shape_in_file(&TensorSpec { name, dtype, shape: own });
        in_file.is_some_and(|in_file| in_file == shape)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    #[test]
    fn weights_and_factors_have_their_kernels_in_files() {
        let mut kernels = Kernels::default();
        kernels.add("a.conv".into(), vec![4, 3, 5]);
        let shape_of = |kernels: &Kernels, name: &str, shape: [usize; 2]| {
            let (name, shape) = (name.into(), shape.to_vec());
            kernels.shape_in_file(&TensorSpec { name, dtype: Dtype::F32, shape })
        };
        assert_eq!(shape_of(&kernels, "a.conv.weight", [8, 60]), Some(vec![8, 4, 3, 5]));
        assert_eq!(shape_of(&kernels, "a.conv.V.weight", [2, 60]), Some(vec![2, 4, 3, 5]));
        assert_eq!(shape_of(&kernels, "a.conv.U.weight", [8, 2]), Some(vec![8, 2, 1, 1]));
        assert_eq!(shape_of(&kernels, "a.conv.weight", [8, 61]), None);
        assert_eq!(shape_of(&kernels, "a.other.weight", [8, 60]), None);
        let renamed = kernels.renamed(|name| format!("b.{name}"));
        assert_eq!(shape_of(&renamed, "b.a.conv.U.weight", [8, 2]), Some(vec![8, 2, 1, 1]));
        assert!(renamed.names.contains(&MatrixName::new("b.a.conv")));
    }

    #[test]
    fn stacks_of_experts_and_depthwise_convolutions_are_none() {
        let meta = |shape: &[usize]| {
            let range = (0, 4 * shape.iter().product::<usize>());
            TensorMeta { dtype: Dtype::F32, shape: shape.to_vec(), range }
        };
        for shape in [&[8, 4, 3, 3][..], &[8, 4, 1, 1], &[16, 80, 3], &[4, 2, 2, 14, 14]] {
            assert!(is_convolution(&meta(shape)), "{shape:?}");
        }
        for shape in [&[8, 1, 3, 3][..], &[8, 4], &[4, 64, 512], &[4, 8, 0]] {
            assert!(!is_convolution(&meta(shape)), "{shape:?}");
        }
    }
}
