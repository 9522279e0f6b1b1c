//! Factors in blocks become numbers, which train.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, TensorData};

use super::blocks::Blocks;
use super::form::Form;
use super::live::{LiveMatrix, matrices};
use super::packed::{DOWN, LEFT, RIGHT, UP};
use super::packed_factors::PackedFactors;
use crate::ggml::TensorType;
use crate::linalg::transpose;
use crate::modules::{load_values, walk};

/// A module whose [`PackedFactors`] are [`BasedFactors`](super::BasedFactors): the same numbers, in f32
/// where they were in blocks. They are frozen at first. Bases stay in their blocks, and everything else
/// as it is.
pub(crate) fn unpack_factors<M: Module>(module: M) -> M {
    let packed = |matrix: LiveMatrix| match matrix.form {
        Form::PackedFactors(form) => Some((matrix.name.weight(), form)),
        _ => None,
    };
    let packed: BTreeMap<String, PackedFactors> =
        matrices(&module).into_iter().filter_map(packed).collect();
    if packed.is_empty() {
        return module;
    }
    let mut numbers: BTreeMap<String, TensorData> = BTreeMap::new();
    walk(&module, |place, param| {
        let Some(form) = packed.get(&place.owner) else { return };
        let turned = match place.part.as_str() {
            RIGHT => false,
            LEFT => true,
            _ => return,
        };
        let blocks = Blocks { tensor_type: form.tensor_type, turned };
        if let Some(found) = unpacked(blocks, &param.shape(), &param.values()) {
            let part = if turned { UP } else { DOWN };
            numbers.insert(format!("{}.{part}", place.owner), found);
        }
    });
    load_values(module, |place, param| {
        packed.get(&place.owner)?;
        match (place.part.as_str(), &param.shape()[..]) {
            // The blocks are not needed any more.
            (RIGHT | LEFT, [_, bytes]) => {
                let none = TensorData::from_bytes_vec(Vec::new(), [0, *bytes], DType::U8);
                Some((none, DType::U8))
            }
            _ => Some((numbers.remove(&place.path)?, DType::F32)),
        }
    })
}

/// The transpose of a factor, which is by rows or by columns as factors are.
fn unpacked(of: Blocks, shape: &[usize], blocks: &TensorData) -> Option<TensorData> {
    let [rows, columns] = of.matrix_shape(shape.try_into().ok()?)?;
    let entries = |width: usize, of: TensorType| of.unpack_rows(blocks.as_bytes(), width);
    Some(match of.turned {
        true => TensorData::new(entries(rows, of.tensor_type), [columns, rows]),
        false => {
            let entries = transpose(&entries(columns, of.tensor_type), rows, columns);
            TensorData::new(entries, [columns, rows])
        }
    })
}
