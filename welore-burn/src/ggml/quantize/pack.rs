//! The bits of a block, as ggml's `block_*` structures have them.

use super::super::tensor_type::TensorType;
use super::format::Scales;

/// Appends a block of codes and scales.
///
/// # Panics
///
/// If the type is one of floats, or there are not as many codes as a block has.
pub(super) fn pack(dtype: TensorType, scales: &Scales, codes: &[u8], out: &mut Vec<u8>) {
    assert_eq!(codes.len(), dtype.block_len(), "there is a code for each entry");
    let scale = scales.scale.to_le_bytes();
    let minimum = scales.minimum.to_le_bytes();
    // Where there are no parts, the minimum is added instead of subtracted.
    let added = (-scales.minimum).to_le_bytes();
    match dtype {
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 => panic!("floats have no blocks"),
        TensorType::Q8_0 => {
            out.extend(scale);
            // Codes count from -127.
            out.extend(codes.iter().map(|code| code.wrapping_sub(127)));
        }
        TensorType::Q4_0 | TensorType::Iq4Nl => {
            out.extend(scale);
            nibbles(codes, 16, out);
        }
        TensorType::Q4_1 => {
            out.extend(scale);
            out.extend(added);
            nibbles(codes, 16, out);
        }
        TensorType::Q5_0 => {
            out.extend(scale);
            fives(codes, out);
        }
        TensorType::Q5_1 => {
            out.extend(scale);
            out.extend(added);
            fives(codes, out);
        }
        TensorType::Q6K => six_bits(scales, codes, out),
        TensorType::Q3K => three_bits(scales, codes, out),
        TensorType::Iq4Xs => uneven(scales, codes, out),
        TensorType::Q5K => {
            out.extend(scale);
            out.extend(minimum);
            out.extend(scales_and_minima(scales));
            // Bit p of byte l is the fifth bit of entry l of part p.
            let fifth = |l: usize| (0..8).map(move |p| (codes[32 * p + l] >> 4) << p);
            out.extend((0..32).map(|l| fifth(l).fold(0, |byte, bit| byte | bit)));
            codes.as_chunks::<64>().0.iter().for_each(|two| nibbles(two, 32, out));
        }
        TensorType::Q4K => {
            out.extend(scale);
            out.extend(minimum);
            out.extend(scales_and_minima(scales));
            codes.as_chunks::<64>().0.iter().for_each(|two| nibbles(two, 32, out));
        }
        TensorType::Q2K => {
            out.extend((0..16).map(|i| scales.scales[i] as u8 | scales.minima[i] << 4));
            two_bits(codes, out);
            out.extend(scale);
            out.extend(minimum);
        }
    }
}

/// The low four bits of two halves, side by side: entry `l` in the low half of a byte, entry
/// `l + half` in the high half.
fn nibbles(codes: &[u8], half: usize, out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(half);
    out.extend(low.iter().zip(high).map(|(low, high)| (low & 15) | (high & 15) << 4));
}

/// 32 codes of five bits: first the fifth bits.
fn fives(codes: &[u8], out: &mut Vec<u8>) {
    let bits = codes.iter().enumerate().map(|(i, code)| u32::from(code >> 4) << i);
    out.extend(bits.fold(0, |all, bit| all | bit).to_le_bytes());
    nibbles(codes, 16, out);
}

/// The low two bits of 256 codes: bits `2 j` of byte `l` in a half of 32 bytes are entry `32 j + l`
/// of its 128.
fn two_bits(codes: &[u8], out: &mut Vec<u8>) {
    for half in codes.as_chunks::<128>().0 {
        let byte = |l: usize| (0..4).map(move |j| (half[32 * j + l] & 3) << (2 * j));
        out.extend((0..32).map(|l| byte(l).fold(0, |byte, bits| byte | bits)));
    }
}

/// Eight scales and minima of six bits in twelve bytes (`get_scale_min_k4`).
fn scales_and_minima(scales: &Scales) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        let (scale, minimum) = (scales.scales[i] as u8, scales.minima[i]);
        let (later_scale, later_minimum) = (scales.scales[i + 4] as u8, scales.minima[i + 4]);
        bytes[i] = scale | (later_scale >> 4) << 6;
        bytes[i + 4] = minimum | (later_minimum >> 4) << 6;
        bytes[i + 8] = (later_scale & 15) | (later_minimum & 15) << 4;
    }
    bytes
}

fn six_bits(scales: &Scales, codes: &[u8], out: &mut Vec<u8>) {
    for half in codes.as_chunks::<128>().0 {
        nibbles(half, 64, out);
    }
    for half in codes.as_chunks::<128>().0 {
        let byte = |l: usize| (0..4).map(move |j| (half[32 * j + l] >> 4) << (2 * j));
        out.extend((0..32).map(|l| byte(l).fold(0, |byte, bits| byte | bits)));
    }
    out.extend(scales.scales.map(|scale| scale as u8));
    out.extend(scales.scale.to_le_bytes());
}

fn three_bits(scales: &Scales, codes: &[u8], out: &mut Vec<u8>) {
    // Bit p of byte l is the third bit of entry 32 p + l.
    let third = |l: usize| (0..8).map(move |p| (codes[32 * p + l] >> 2) << p);
    out.extend((0..32).map(|l| third(l).fold(0, |byte, bit| byte | bit)));
    two_bits(codes, out);
    // Sixteen scales of six bits, plus 32: low halves first, then the high two bits of every fourth.
    let stored = scales.scales.map(|scale| (scale + 32) as u8);
    out.extend((0..8).map(|i| (stored[i] & 15) | (stored[i + 8] & 15) << 4));
    let high = |i: usize| (0..4).map(move |j| (stored[4 * j + i] >> 4) << (2 * j));
    out.extend((0..4).map(|i| high(i).fold(0, |byte, bits| byte | bits)));
    out.extend(scales.scale.to_le_bytes());
}

fn uneven(scales: &Scales, codes: &[u8], out: &mut Vec<u8>) {
    out.extend(scales.scale.to_le_bytes());
    let stored: [u8; 8] = std::array::from_fn(|i| (scales.scales[i] + 32) as u8);
    let high = stored.iter().enumerate().map(|(i, scale)| u16::from(scale >> 4) << (2 * i));
    out.extend(high.fold(0, |all, bits| all | bits).to_le_bytes());
    out.extend((0..4).map(|i| (stored[2 * i] & 15) | (stored[2 * i + 1] & 15) << 4));
    codes.as_chunks::<32>().0.iter().for_each(|part| nibbles(part, 16, out));
}
