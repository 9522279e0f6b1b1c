//! The entries of blocks, as ggml's `dequantize_row_*` make them.

use std::array::from_fn;

use half::bf16;

use super::super::tensor_type::TensorType;
use super::machine::Machine;

/// Unpacks one block after the other. A closure would be a function of its own, and those are not
/// compiled for the processor that `machine` is.
macro_rules! each {
    ($bytes:ident, $entries:ident, [$size:literal; $len:literal], |$block:ident, $out:ident| $unpack:expr) => {{
        let (blocks, entries) = ($bytes.as_chunks::<$size>().0, $entries.as_chunks_mut::<$len>().0);
        for ($block, $out) in blocks.iter().zip(entries) {
            $unpack;
        }
    }};
}

/// The entries of whole blocks, one after the other. As many blocks are read as there is room for
/// entries.
#[inline(always)]
pub(super) fn unpack<M: Machine>(machine: M, dtype: TensorType, bytes: &[u8], entries: &mut [f32]) {
    use TensorType as T;

    match dtype {
        T::F32 => each!(bytes, entries, [4; 1], |x, out| *out = [f32::from_le_bytes(*x)]),
        T::F16 => halves(machine, bytes, entries),
        T::Bf16 => {
            each!(bytes, entries, [2; 1], |x, out| *out = [bf16::from_le_bytes(*x).to_f32()])
        }
        T::Q8_0 => each!(bytes, entries, [34; 32], |block, out| q8_0(machine, block, out)),
        T::Q6K => each!(bytes, entries, [210; 256], |block, out| q6_k(machine, block, out)),
        T::Q5K => each!(bytes, entries, [176; 256], |block, out| q5_k(machine, block, out)),
        T::Q5_1 => each!(bytes, entries, [24; 32], |block, out| q5_1(machine, block, out)),
        T::Q5_0 => each!(bytes, entries, [22; 32], |block, out| q5_0(machine, block, out)),
        T::Q4K => each!(bytes, entries, [144; 256], |block, out| q4_k(machine, block, out)),
        T::Q4_1 => each!(bytes, entries, [20; 32], |block, out| q4_1(machine, block, out)),
        T::Q4_0 => each!(bytes, entries, [18; 32], |block, out| q4_0(machine, block, out)),
        T::Iq4Nl => each!(bytes, entries, [18; 32], |block, out| iq4_nl(machine, block, out)),
        T::Iq4Xs => each!(bytes, entries, [136; 256], |block, out| iq4_xs(machine, block, out)),
        T::Q3K => each!(bytes, entries, [110; 256], |block, out| q3_k(machine, block, out)),
        T::Q2K => each!(bytes, entries, [84; 256], |block, out| q2_k(machine, block, out)),
    }
}

#[inline(always)]
fn halves<M: Machine>(machine: M, bytes: &[u8], entries: &mut [f32]) {
    let whole = entries.len() / 8 * 8;
    let (first, rest) = bytes.split_at((2 * whole).min(bytes.len()));
    let (entries, last) = entries.split_at_mut(whole);
    each!(first, entries, [16; 8], |x, out| *out = machine.halves(x));
    each!(rest, last, [2; 1], |x, out| *out = [machine.half(*x)]);
}

/// Some bytes of a block.
#[inline(always)]
fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("the block goes on")
}

/// The places of the entries from number `16 index` on.
#[inline(always)]
fn part(out: &mut [f32], index: usize) -> &mut [f32; 16] {
    &mut out.as_chunks_mut::<16>().0[index]
}

/// Codes as the numbers that they are.
#[inline(always)]
fn as_numbers(codes: [u8; 16]) -> [i8; 16] {
    codes.map(|code| code as i8)
}

#[inline(always)]
fn q8_0<M: Machine>(machine: M, block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = machine.half(*at(block, 0));
    for i in 0..2 {
        machine.scaled(as_numbers(*at(block, 2 + 16 * i)), scale, part(out, i));
    }
}

#[inline(always)]
fn q4_0<M: Machine>(machine: M, block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = machine.half(*at(block, 0));
    for i in 0..2 {
        let codes = machine.bits(at(block, 2), 4 * i, 15);
        machine.scaled(machine.minus(codes, 8), scale, part(out, i.into()));
    }
}

#[inline(always)]
fn q4_1<M: Machine>(machine: M, block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    for i in 0..2 {
        let codes = machine.bits(at(block, 4), 4 * i, 15);
        machine.shifted(as_numbers(codes), scale, minimum, part(out, i.into()));
    }
}

/// Codes of five bits: the low four of both halves in 16 bytes, and the fifth of all in 4.
#[inline(always)]
fn fives<M: Machine>(machine: M, low: &[u8; 16], fifth: [u8; 4], half: u8) -> [u8; 16] {
    let fifth = u32::from_le_bytes(fifth) >> (16 * u32::from(half));
    machine.joined(machine.bits(low, 4 * half, 15), from_fn(|i| (fifth >> i) as u8 & 1), 4)
}

#[inline(always)]
fn q5_0<M: Machine>(machine: M, block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = machine.half(*at(block, 0));
    for i in 0..2 {
        let codes = fives(machine, at(block, 6), *at(block, 2), i);
        machine.scaled(machine.minus(codes, 16), scale, part(out, i.into()));
    }
}

#[inline(always)]
fn q5_1<M: Machine>(machine: M, block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    for i in 0..2 {
        let codes = fives(machine, at(block, 8), *at(block, 4), i);
        machine.shifted(as_numbers(codes), scale, minimum, part(out, i.into()));
    }
}

#[inline(always)]
fn iq4_nl<M: Machine>(machine: M, block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = machine.half(*at(block, 0));
    for i in 0..2 {
        let codes = machine.bits(at(block, 2), 4 * i, 15);
        machine.scaled(machine.levels(codes), scale, part(out, i.into()));
    }
}

#[inline(always)]
fn iq4_xs<M: Machine>(machine: M, block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = machine.half(*at(block, 0));
    let high = u16::from_le_bytes(*at(block, 2));
    for i in 0..8 {
        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
        let stored = i16::from(low) | ((high >> (2 * i) & 3) << 4) as i16;
        let scale = scale * f32::from(stored - 32);
        for k in 0..2 {
            let codes = machine.bits(at(block, 8 + 16 * i), 4 * k, 15);
            machine.scaled(machine.levels(codes), scale, part(out, 2 * i + usize::from(k)));
        }
    }
}

/// Scale and minimum of a part, from the twelve bytes that have eight of both (`get_scale_min_k4`).
#[inline(always)]
fn scale_and_minimum(bytes: &[u8; 12], i: usize) -> (f32, f32) {
    let (scale, minimum) = match i {
        0..4 => (bytes[i] & 63, bytes[i + 4] & 63),
        _ => (
            (bytes[i + 4] & 15) | (bytes[i - 4] >> 6) << 4,
            (bytes[i + 4] >> 4) | (bytes[i] >> 6) << 4,
        ),
    };
    (scale.into(), minimum.into())
}

#[inline(always)]
fn q4_k<M: Machine>(machine: M, block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    for i in 0..8 {
        let (of_scale, of_minimum) = scale_and_minimum(at(block, 4), i);
        let (scale, shift) = (scale * of_scale, -(minimum * of_minimum));
        for k in 0..2 {
            let bytes = at(block, 16 + 32 * (i / 2) + 16 * k);
            let codes = machine.bits(bytes, 4 * (i % 2) as u8, 15);
            machine.shifted(as_numbers(codes), scale, shift, part(out, 2 * i + k));
        }
    }
}

#[inline(always)]
fn q5_k<M: Machine>(machine: M, block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    for i in 0..8 {
        let (of_scale, of_minimum) = scale_and_minimum(at(block, 4), i);
        let (scale, shift) = (scale * of_scale, -(minimum * of_minimum));
        for k in 0..2 {
            let bytes = at(block, 48 + 32 * (i / 2) + 16 * k);
            let low = machine.bits(bytes, 4 * (i % 2) as u8, 15);
            let fifth = machine.bits(at(block, 16 + 16 * k), i as u8, 1);
            let codes = machine.joined(low, fifth, 4);
            machine.shifted(as_numbers(codes), scale, shift, part(out, 2 * i + k));
        }
    }
}

#[inline(always)]
fn q6_k<M: Machine>(machine: M, block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = machine.half(*at(block, 208));
    for i in 0..16 {
        // Two halves of the block, four parts of 32 in each, two of 16 in each of these.
        let (half, j, k) = (i / 8, i / 2 % 4, i % 2);
        let low = at(block, 64 * half + 32 * (j % 2) + 16 * k);
        let low = machine.bits(low, 4 * (j / 2) as u8, 15);
        let high = machine.bits(at(block, 128 + 32 * half + 16 * k), 2 * j as u8, 3);
        let numbers = machine.minus(machine.joined(low, high, 4), 32);
        machine.scaled(numbers, scale * f32::from(block[192 + i] as i8), part(out, i));
    }
}

#[inline(always)]
fn q3_k<M: Machine>(machine: M, block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = machine.half(*at(block, 108));
    let scales: &[u8; 12] = at(block, 96);
    for i in 0..16 {
        let (half, j, k) = (i / 8, i / 2 % 4, i % 2);
        let low = machine.bits(at(block, 32 + 32 * half + 16 * k), 2 * j as u8, 3);
        let high = machine.bits(at(block, 16 * k), (i / 2) as u8, 1);
        let numbers = machine.minus(machine.joined(low, high, 2), 4);
        let low = scales[i % 8] >> (4 * (i / 8)) & 15;
        let stored = low | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
        machine.scaled(numbers, scale * f32::from(stored as i8 - 32), part(out, i));
    }
}

#[inline(always)]
fn q2_k<M: Machine>(machine: M, block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (machine.half(*at(block, 80)), machine.half(*at(block, 82)));
    for i in 0..16 {
        let (half, j, k) = (i / 8, i / 2 % 4, i % 2);
        let codes = machine.bits(at(block, 16 + 32 * half + 16 * k), 2 * j as u8, 3);
        let (of_scale, of_minimum) = (f32::from(block[i] & 15), f32::from(block[i] >> 4));
        let (scale, shift) = (scale * of_scale, -(minimum * of_minimum));
        machine.shifted(as_numbers(codes), scale, shift, part(out, i));
    }
}
