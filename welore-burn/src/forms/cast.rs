//! Numbers from one stored type to another.

use half::{bf16, f16};
use safetensors::Dtype;

use super::error::FormError;

/// The bytes of a tensor in another type, row-major, little-endian. Each number is rounded to the
/// nearest one, and to the even one of two that are equally near.
///
/// # Errors
///
/// [`FormError::Overflow`] if a number is not finite in the type `to`.
///
/// # Panics
///
/// Panics if one of the types is not F64, F32, F16 or BF16; readers refuse other types first.
pub(crate) fn cast_floats(bytes: &[u8], from: Dtype, to: Dtype) -> Result<Vec<u8>, FormError> {
    match from {
        Dtype::F64 => encode_nearest(numbers(bytes, f64::from_le_bytes), to),
        Dtype::F32 => encode_nearest(numbers(bytes, |b| f64::from(f32::from_le_bytes(b))), to),
        Dtype::F16 => encode_nearest(numbers(bytes, |b| f16::from_le_bytes(b).to_f64()), to),
        Dtype::BF16 => encode_nearest(numbers(bytes, |b| bf16::from_le_bytes(b).to_f64()), to),
        dtype => panic!("{dtype} is not a float type that weights are stored in"),
    }
}

/// Rounds numbers to a stored type, as [`cast_floats`] does.
///
/// # Errors
///
/// [`FormError::Overflow`].
///
/// # Panics
///
/// Panics if `dtype` is not F64, F32, F16 or BF16.
pub(crate) fn encode_nearest(
    values: impl ExactSizeIterator<Item = f64>,
    dtype: Dtype,
) -> Result<Vec<u8>, FormError> {
    match dtype {
        Dtype::F64 => {
            encode(values, dtype, |x| Some(x).filter(|x| x.is_finite()).map(f64::to_le_bytes))
        }
        Dtype::F32 => encode(values, dtype, |x| {
            Some(x as f32).filter(|x| x.is_finite()).map(f32::to_le_bytes)
        }),
        Dtype::F16 => encode(values, dtype, |x| {
            Some(f16::from_f32(to_odd(x))).filter(|x| x.is_finite()).map(f16::to_le_bytes)
        }),
        Dtype::BF16 => encode(values, dtype, |x| {
            Some(bf16::from_f32(to_odd(x))).filter(|x| x.is_finite()).map(bf16::to_le_bytes)
        }),
        dtype => panic!("{dtype} is not a float type that weights are stored in"),
    }
}

fn encode<const N: usize>(
    values: impl ExactSizeIterator<Item = f64>,
    dtype: Dtype,
    nearest: impl Fn(f64) -> Option<[u8; N]>,
) -> Result<Vec<u8>, FormError> {
    let mut data = Vec::with_capacity(N * values.len());
    for value in values {
        data.extend(nearest(value).ok_or(FormError::Overflow { value, dtype })?);
    }
    Ok(data)
}

fn numbers<const N: usize>(
    bytes: &[u8],
    convert: impl Fn([u8; N]) -> f64,
) -> impl ExactSizeIterator<Item = f64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(move |chunk| convert(*chunk))
}

/// A number as f32, for rounding to fewer bits: one between two f32 becomes the odd one of them, so
/// it stays on its side of every tie. The nearest f32 could be a tie, and `f16::from_f64` and
/// `bf16::from_f64` ignore the last 32 bits.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    if back == value {
        return near;
    }
    let bits = near.to_bits();
    let toward_zero = if back.abs() > value.abs() { bits - 1 } else { bits };
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(values: &[f32], to: Dtype) -> Result<Vec<u8>, FormError> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        cast_floats(&bytes, Dtype::F32, to)
    }

    fn bits(bytes: &[u8]) -> Vec<u16> {
        bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn ties_go_to_the_even_number_and_everything_else_to_the_nearest() {
        // Around 1 a bf16 has steps of 2^-7, an f16 of 2^-10. The last bit of an f32 decides.
        for (to, step) in [(Dtype::BF16, 2f32.powi(-7)), (Dtype::F16, 2f32.powi(-10))] {
            let one = bits(&cast(&[1.0], to).unwrap())[0];
            let (below, tie) = (1.0 + step / 4.0, 1.0 + step / 2.0);
            let odd_tie = 1.0 + 1.5 * step;
            let values = [below, tie, tie.next_up(), odd_tie, odd_tie.next_down(), -tie.next_up()];
            let rounded = bits(&cast(&values, to).unwrap());
            let wanted = [one, one, one + 1, one + 2, one + 1, (one + 1) | 0x8000];
            assert_eq!(rounded, wanted, "{to}");
        }
    }

    #[test]
    fn doubles_are_rounded_once() {
        // Its nearest f32 is the tie.
        let above = (1.0 + 2f64.powi(-8)).next_up();
        let rounded = encode_nearest([above].into_iter(), Dtype::BF16).unwrap();
        assert_eq!(bits(&rounded), [bf16::ONE.to_bits() + 1]);
        // Numbers too small for any f32, and zeros, keep their sign.
        let tiny = encode_nearest([-1e-60, -0.0, 0.0, 1e-60].into_iter(), Dtype::F16).unwrap();
        assert_eq!(bits(&tiny), [0x8000, 0x8000, 0, 0]);
    }

    #[test]
    fn every_half_survives_the_way_through_f32() {
        let halves: Vec<u8> = (0..=u16::MAX)
            .filter(|bits| f16::from_bits(*bits).is_finite() && bf16::from_bits(*bits).is_finite())
            .flat_map(u16::to_le_bytes)
            .collect();
        for dtype in [Dtype::F16, Dtype::BF16] {
            for wide in [Dtype::F32, Dtype::F64] {
                let there = cast_floats(&halves, dtype, wide).unwrap();
                assert_eq!(cast_floats(&there, wide, dtype).unwrap(), halves, "{dtype}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_the_number() {
        for value in [65520.0, -7e4, f32::MAX] {
            let error = cast(&[1.0, value], Dtype::F16).unwrap_err();
            let (value, dtype) = (f64::from(value), Dtype::F16);
            assert_eq!(error, FormError::Overflow { value, dtype });
        }
        // The largest f16, and what is rounded to it.
        assert_eq!(bits(&cast(&[65504.0, 65519.0], Dtype::F16).unwrap()), [0x7bff, 0x7bff]);
        assert!(cast(&[f32::MAX], Dtype::BF16).is_err());
    }
}
