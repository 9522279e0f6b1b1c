//! Blocks whose scales follow from their largest entries, to compare with.

use half::f16;
use welore_burn::ggml::TensorType;

const UNEVEN: [i32; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Squared error of a block.
pub fn naive_error(dtype: TensorType, block: &[f32]) -> f64 {
    // Entries in a part, levels, whether there are minima, the largest multiple of the stored scale.
    let (len, levels, minima, most): (usize, Vec<i32>, bool, Option<f32>) = match dtype {
        TensorType::Q8_0 => (32, (-127..128).collect(), false, None),
        TensorType::Q5_0 => (32, (-16..16).collect(), false, None),
        TensorType::Q4_0 => (32, (-8..8).collect(), false, None),
        TensorType::Iq4Nl => (32, UNEVEN.into(), false, None),
        TensorType::Q5_1 => (32, (0..32).collect(), true, None),
        TensorType::Q4_1 => (32, (0..16).collect(), true, None),
        TensorType::Q6K => (16, (-32..32).collect(), false, Some(127.0)),
        TensorType::Q3K => (16, (-4..4).collect(), false, Some(31.0)),
        TensorType::Iq4Xs => (32, UNEVEN.into(), false, Some(31.0)),
        TensorType::Q5K => (32, (0..32).collect(), true, Some(63.0)),
        TensorType::Q4K => (32, (0..16).collect(), true, Some(63.0)),
        TensorType::Q2K => (16, (0..4).collect(), true, Some(15.0)),
        _ => panic!("{dtype:?} has no blocks"),
    };
    let highest = *levels.last().unwrap() as f32;
    let wanted = |part: &[f32]| {
        let lowest = part.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !minima {
            return (largest.max(-lowest) / highest, 0.0);
        }
        // Parts subtract their minima, which are not negative.
        let lowest = if most.is_some() { lowest.min(0.0) } else { lowest };
        ((largest - lowest) / highest, -lowest)
    };
    let parts: Vec<(&[f32], (f32, f32))> =
        block.chunks_exact(len).map(|part| (part, wanted(part))).collect();
    let unit = |of: &dyn Fn(&(f32, f32)) -> f32| {
        let widest = parts.iter().map(|(_, both)| of(both)).fold(0.0, f32::max);
        f16::from_f32(widest / most.unwrap_or(1.0)).to_f32()
    };
    let (scale_unit, minimum_unit) = (unit(&|both| both.0), unit(&|both| both.1));
    let rounded = |value: f32, unit: f32| match most {
        None => f16::from_f32(value).to_f32(),
        Some(_) if unit == 0.0 => 0.0,
        Some(most) => (value / unit).round().min(most) * unit,
    };
    let error = |part: &[f32], scale: f32, minimum: f32| -> f64 {
        let gap = |x: f32, level: &i32| f64::from(x - (scale * *level as f32 - minimum)).powi(2);
        let nearest = |x: &f32| levels.iter().map(|level| gap(*x, level)).fold(f64::MAX, f64::min);
        part.iter().map(nearest).sum()
    };
    let of_part = |(part, (scale, minimum)): &(&[f32], (f32, f32))| {
        error(part, rounded(*scale, scale_unit), rounded(*minimum, minimum_unit))
    };
    parts.iter().map(of_part).sum()
}
