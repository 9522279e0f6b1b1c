//! The entries of blocks, as ggml's `dequantize_row_*` make them.

use std::array::from_fn;
use std::iter::once;

use half::bf16;

use super::super::tensor_type::TensorType;
use super::machine::Machine;
use super::sinks::{Sink, Written};

/// Does something with each block or number. A closure would be a function of its own, and those are
/// not compiled for the processor that `machine` is.
macro_rules! each {
    ($bytes:ident, $entries:ident, [$size:literal; $len:literal], |$block:ident, $out:ident| $unpack:expr) => {{
        let (blocks, entries) = ($bytes.as_chunks::<$size>().0, $entries.as_chunks_mut::<$len>().0);
        for ($block, $out) in blocks.iter().zip(entries) {
            $unpack;
        }
    }};
}

/// The entries of whole blocks, one after the other, written down.
///
/// # Panics
///
/// If there is no room for them.
#[inline(always)]
pub(super) fn unpack<M: Machine>(machine: M, dtype: TensorType, bytes: &[u8], entries: &mut [f32]) {
    use TensorType as T;

    match dtype {
        T::F32 => each!(bytes, entries, [4; 1], |x, out| *out = [f32::from_le_bytes(*x)]),
        T::F16 => halves(machine, bytes, entries),
        T::Bf16 => {
            each!(bytes, entries, [2; 1], |x, out| *out = [bf16::from_le_bytes(*x).to_f32()])
        }
        _ => read(machine, dtype, once(bytes), &mut Written(entries.as_chunks_mut().0)),
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

/// Reads rows of blocks of so many bytes, each of so many parts of 32 entries.
macro_rules! blocks {
    ($rows:ident, [$size:literal; $parts:literal], $read:ident, $machine:ident, $sink:ident) => {{
        for row in $rows {
            let mut part = 0;
            for block in row.as_chunks::<$size>().0 {
                $read($machine, block, part, $sink);
                part += $parts;
            }
            $sink.end_row($machine);
        }
    }};
}

/// Hands on the entries of rows of whole blocks, one after the other.
///
/// # Panics
///
/// If this is a type of floats, which have no blocks.
#[inline(always)]
pub(super) fn read<'a, M: Machine>(
    machine: M,
    dtype: TensorType,
    rows: impl Iterator<Item = &'a [u8]>,
    sink: &mut impl Sink<M>,
) {
    use TensorType as T;

    match dtype {
        T::F32 | T::F16 | T::Bf16 => unreachable!("floats have no blocks"),
        T::Q8_0 => blocks!(rows, [34; 1], q8_0, machine, sink),
        T::Q6K => blocks!(rows, [210; 8], q6_k, machine, sink),
        T::Q5K => blocks!(rows, [176; 8], q5_k, machine, sink),
        T::Q5_1 => blocks!(rows, [24; 1], q5_1, machine, sink),
        T::Q5_0 => blocks!(rows, [22; 1], q5_0, machine, sink),
        T::Q4K => blocks!(rows, [144; 8], q4_k, machine, sink),
        T::Q4_1 => blocks!(rows, [20; 1], q4_1, machine, sink),
        T::Q4_0 => blocks!(rows, [18; 1], q4_0, machine, sink),
        T::Iq4Nl => blocks!(rows, [18; 1], iq4_nl, machine, sink),
        T::Iq4Xs => blocks!(rows, [136; 8], iq4_xs, machine, sink),
        T::Q3K => blocks!(rows, [110; 8], q3_k, machine, sink),
        T::Q2K => blocks!(rows, [84; 8], q2_k, machine, sink),
    }
}

/// Some bytes of a block.
#[inline(always)]
fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("the block goes on")
}

/// Both halves of bytes that hold the codes of 32 entries, four bits each.
#[inline(always)]
fn fours<M: Machine>(machine: M, bytes: &[u8; 16]) -> [M::Bytes; 2] {
    let bytes = machine.load(bytes);
    [machine.bits(bytes, 0, 15), machine.bits(bytes, 4, 15)]
}

/// Sixteen bytes and the next sixteen.
#[inline(always)]
fn two<M: Machine>(machine: M, block: &[u8], start: usize) -> [M::Bytes; 2] {
    [machine.load(at(block, start)), machine.load(at(block, start + 16))]
}

#[inline(always)]
fn q8_0<M: Machine>(machine: M, block: &[u8; 34], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 0));
    sink.scaled(machine, part, two(machine, block, 2), [scale; 2]);
}

#[inline(always)]
fn q4_0<M: Machine>(machine: M, block: &[u8; 18], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 0));
    let [first, second] = fours(machine, at(block, 2));
    let numbers = [machine.minus(first, 8), machine.minus(second, 8)];
    sink.scaled(machine, part, numbers, [scale; 2]);
}

#[inline(always)]
fn q4_1<M: Machine>(machine: M, block: &[u8; 20], part: usize, sink: &mut impl Sink<M>) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    sink.shifted(machine, part, fours(machine, at(block, 4)), [scale; 2], [minimum; 2]);
}

/// Codes of five bits: the low four of both halves in 16 bytes, and the fifth of all in 4.
#[inline(always)]
fn fives<M: Machine>(machine: M, low: &[u8; 16], fifth: [u8; 4]) -> [M::Bytes; 2] {
    let [first, second] = fours(machine, low);
    let [a, b, c, d] = fifth;
    [
        machine.joined(first, machine.spread([a, b]), 4),
        machine.joined(second, machine.spread([c, d]), 4),
    ]
}

#[inline(always)]
fn q5_0<M: Machine>(machine: M, block: &[u8; 22], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 0));
    let [first, second] = fives(machine, at(block, 6), *at(block, 2));
    let numbers = [machine.minus(first, 16), machine.minus(second, 16)];
    sink.scaled(machine, part, numbers, [scale; 2]);
}

#[inline(always)]
fn q5_1<M: Machine>(machine: M, block: &[u8; 24], part: usize, sink: &mut impl Sink<M>) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    let codes = fives(machine, at(block, 8), *at(block, 4));
    sink.shifted(machine, part, codes, [scale; 2], [minimum; 2]);
}

#[inline(always)]
fn iq4_nl<M: Machine>(machine: M, block: &[u8; 18], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 0));
    let [first, second] = fours(machine, at(block, 2));
    sink.scaled(machine, part, [machine.levels(first), machine.levels(second)], [scale; 2]);
}

#[inline(always)]
fn iq4_xs<M: Machine>(machine: M, block: &[u8; 136], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 0));
    let high = u16::from_le_bytes(*at(block, 2));
    for i in 0..8 {
        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
        let stored = i16::from(low) | ((high >> (2 * i) & 3) << 4) as i16;
        let scale = scale * f32::from(stored - 32);
        let [first, second] = fours(machine, at(block, 8 + 16 * i));
        let numbers = [machine.levels(first), machine.levels(second)];
        sink.scaled(machine, part + i, numbers, [scale; 2]);
    }
}

/// Scales and minima of the parts of a block, from the twelve bytes that have six bits for each of
/// both (`get_scale_min_k4`).
#[inline(always)]
fn scales_and_minima(bytes: &[u8; 12]) -> [[u8; 8]; 2] {
    let [a, b, c] = [0, 4, 8].map(|start| u32::from_le_bytes(*at(bytes, start)));
    // The upper two bits of the last four are in the first bytes.
    let high = |of: u32| ((of >> 6) & 0x0303_0303) << 4;
    let scales = [a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | high(a)];
    let minima = [b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | high(b)];
    [scales, minima].map(|[low, high]| (u64::from(high) << 32 | u64::from(low)).to_le_bytes())
}

/// Codes from their low bits and their high bits, which are `bits` up: bytes, a shift and a mask of
/// each.
#[inline(always)]
fn with_high<M: Machine>(
    machine: M,
    low: (M::Bytes, u8, u8),
    high: (M::Bytes, u8, u8),
    bits: u8,
) -> M::Bytes {
    let (low, high) = (machine.bits(low.0, low.1, low.2), machine.bits(high.0, high.1, high.2));
    machine.joined(low, high, bits)
}

#[inline(always)]
fn q4_k<M: Machine>(machine: M, block: &[u8; 144], part: usize, sink: &mut impl Sink<M>) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    let [scales, minima] = scales_and_minima(at(block, 4));
    for i in 0..8 {
        let [first, second] = two(machine, block, 16 + 32 * (i / 2));
        let shift = 4 * (i % 2) as u8;
        let codes = [machine.bits(first, shift, 15), machine.bits(second, shift, 15)];
        let (scale, shift) = (scale * f32::from(scales[i]), -(minimum * f32::from(minima[i])));
        sink.shifted(machine, part + i, codes, [scale; 2], [shift; 2]);
    }
}

#[inline(always)]
fn q5_k<M: Machine>(machine: M, block: &[u8; 176], part: usize, sink: &mut impl Sink<M>) {
    let (scale, minimum) = (machine.half(*at(block, 0)), machine.half(*at(block, 2)));
    let [scales, minima] = scales_and_minima(at(block, 4));
    let fifths = two(machine, block, 16);
    for i in 0..8 {
        let low = two(machine, block, 48 + 32 * (i / 2));
        let shift = 4 * (i % 2) as u8;
        let codes = [
            with_high(machine, (low[0], shift, 15), (fifths[0], i as u8, 1), 4),
            with_high(machine, (low[1], shift, 15), (fifths[1], i as u8, 1), 4),
        ];
        let (scale, shift) = (scale * f32::from(scales[i]), -(minimum * f32::from(minima[i])));
        sink.shifted(machine, part + i, codes, [scale; 2], [shift; 2]);
    }
}

#[inline(always)]
fn q6_k<M: Machine>(machine: M, block: &[u8; 210], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 208));
    for i in 0..8 {
        // Two halves of the block, four parts of 32 in each.
        let (half, j) = (i / 4, i % 4);
        let low = two(machine, block, 64 * half + 32 * (j % 2));
        let high = two(machine, block, 128 + 32 * half);
        let (shift, high_shift) = (4 * (j / 2) as u8, 2 * j as u8);
        let first = with_high(machine, (low[0], shift, 15), (high[0], high_shift, 3), 4);
        let second = with_high(machine, (low[1], shift, 15), (high[1], high_shift, 3), 4);
        let numbers = [machine.minus(first, 32), machine.minus(second, 32)];
        let [first, second] = [block[192 + 2 * i] as i8, block[193 + 2 * i] as i8];
        let scales = [scale * f32::from(first), scale * f32::from(second)];
        sink.scaled(machine, part + i, numbers, scales);
    }
}

#[inline(always)]
fn q3_k<M: Machine>(machine: M, block: &[u8; 110], part: usize, sink: &mut impl Sink<M>) {
    let scale = machine.half(*at(block, 108));
    let (scales, highs) = (scales_of_q3_k(at(block, 96)), two(machine, block, 0));
    for i in 0..8 {
        let (half, j) = (i / 4, i % 4);
        let low = two(machine, block, 32 + 32 * half);
        let shift = 2 * j as u8;
        let first = with_high(machine, (low[0], shift, 3), (highs[0], i as u8, 1), 2);
        let second = with_high(machine, (low[1], shift, 3), (highs[1], i as u8, 1), 2);
        let numbers = [machine.minus(first, 4), machine.minus(second, 4)];
        let [first, second] = [scales[2 * i], scales[2 * i + 1]];
        let scales = [scale * f32::from(first), scale * f32::from(second)];
        sink.scaled(machine, part + i, numbers, scales);
    }
}

/// Scales of the parts of a block, from the twelve bytes that have six bits for each of 16.
#[inline(always)]
fn scales_of_q3_k(bytes: &[u8; 12]) -> [i8; 16] {
    let (low, high) = (u64::from_le_bytes(*at(bytes, 0)), u32::from_le_bytes(*at(bytes, 8)));
    let four = |shift: u32| {
        let low = ((low >> shift) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
        let high = [(high >> shift) & 0x0303_0303, (high >> (shift + 2)) & 0x0303_0303];
        let high = (u64::from(high[1]) << 32 | u64::from(high[0])).to_le_bytes();
        from_fn::<i8, 8, _>(|i| (low[i] | high[i] << 4) as i8 - 32)
    };
    let [first, second] = [four(0), four(4)];
    from_fn(|i| if i < 8 { first[i] } else { second[i - 8] })
}

#[inline(always)]
fn q2_k<M: Machine>(machine: M, block: &[u8; 84], part: usize, sink: &mut impl Sink<M>) {
    let (scale, minimum) = (machine.half(*at(block, 80)), machine.half(*at(block, 82)));
    for i in 0..8 {
        let (half, j) = (i / 4, 2 * (i % 4) as u8);
        let [first, second] = two(machine, block, 16 + 32 * half);
        let codes = [machine.bits(first, j, 3), machine.bits(second, j, 3)];
        let [first, second] = [block[2 * i], block[2 * i + 1]];
        let scales = [scale * f32::from(first & 15), scale * f32::from(second & 15)];
        let shifts = [-(minimum * f32::from(first >> 4)), -(minimum * f32::from(second >> 4))];
        sink.shifted(machine, part + i, codes, scales, shifts);
    }
}
