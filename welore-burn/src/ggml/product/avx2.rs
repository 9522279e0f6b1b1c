//! The steps of a product on processors with AVX2.

use std::arch::x86_64::*;

use super::super::tensor_type::TensorType;
use super::Product;
use super::machine::{Machine, UNEVEN, few_rows, rest};
use super::turned::few_columns;
use super::unpack::unpack;

/// A processor with AVX2, FMA and F16C. Whoever has one has asked the processor, which is what
/// makes all calls here sound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// This processor, if it is one.
    pub fn detected() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }
}

/// The bytes of a register.
#[inline(always)]
fn stored(register: __m128i) -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: every x86-64 processor has SSE2, and there is room for 16 bytes.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), register) };
    bytes
}

#[inline(always)]
fn loaded(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: every x86-64 processor has SSE2, and there are 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn signed(bytes: [u8; 16]) -> [i8; 16] {
    bytes.map(|byte| byte as i8)
}

#[inline(always)]
fn unsigned(numbers: [i8; 16]) -> [u8; 16] {
    numbers.map(|number| number as u8)
}

// SAFETY, of all blocks here: the processor has what they use, see `Avx2`, and they read and write
// only arrays of the sizes that they are made for.
impl Machine for Avx2 {
    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        let bits = i32::from(u16::from_le_bytes(bytes));
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))) }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 16]) -> [f32; 8] {
        let mut numbers = [0.0; 8];
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), _mm256_cvtph_ps(loaded(bytes))) };
        numbers
    }

    #[inline(always)]
    fn bits(self, bytes: &[u8; 16], shift: u8, mask: u8) -> [u8; 16] {
        // There is no shift of bytes. What comes over from a neighbour is not in the mask.
        unsafe {
            let shifted = _mm_srl_epi16(loaded(bytes), _mm_cvtsi32_si128(shift.into()));
            stored(_mm_and_si128(shifted, _mm_set1_epi8(mask as i8)))
        }
    }

    #[inline(always)]
    fn joined(self, low: [u8; 16], high: [u8; 16], shift: u8) -> [u8; 16] {
        unsafe {
            let high = _mm_sll_epi16(loaded(&high), _mm_cvtsi32_si128(shift.into()));
            stored(_mm_or_si128(loaded(&low), high))
        }
    }

    #[inline(always)]
    fn minus(self, codes: [u8; 16], less: i8) -> [i8; 16] {
        unsafe { signed(stored(_mm_sub_epi8(loaded(&codes), _mm_set1_epi8(less)))) }
    }

    #[inline(always)]
    fn levels(self, codes: [u8; 16]) -> [i8; 16] {
        let levels = loaded(&unsigned(UNEVEN));
        unsafe { signed(stored(_mm_shuffle_epi8(levels, loaded(&codes)))) }
    }

    #[inline(always)]
    fn scaled(self, numbers: [i8; 16], scale: f32, out: &mut [f32; 16]) {
        unsafe {
            let scale = _mm256_set1_ps(scale);
            let [first, second] = floats(numbers);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(scale, first));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(scale, second));
        }
    }

    #[inline(always)]
    fn shifted(self, numbers: [i8; 16], scale: f32, shift: f32, out: &mut [f32; 16]) {
        unsafe {
            let (scale, shift) = (_mm256_set1_ps(scale), _mm256_set1_ps(shift));
            let [first, second] = floats(numbers);
            let first = _mm256_add_ps(_mm256_mul_ps(scale, first), shift);
            let second = _mm256_add_ps(_mm256_mul_ps(scale, second), shift);
            _mm256_storeu_ps(out.as_mut_ptr(), first);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), second);
        }
    }

    #[inline(always)]
    fn dot(self, left: &[f32], right: &[f32]) -> f32 {
        let ((left, left_rest), (right, right_rest)) =
            (left.as_chunks::<32>(), right.as_chunks::<32>());
        let mut lanes = [0.0f32; 8];
        unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            for (left, right) in left.iter().zip(right) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let left = _mm256_loadu_ps(left.as_ptr().add(8 * i));
                    let right = _mm256_loadu_ps(right.as_ptr().add(8 * i));
                    *sum = _mm256_fmadd_ps(left, right, *sum);
                }
            }
            let (first, second) =
                (_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
            _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(first, second));
        }
        lanes.iter().sum::<f32>() + rest(left_rest, right_rest)
    }

    fn few_rows(self, product: &Product<'_>, first: usize, out: &mut [f32]) {
        unsafe { few_rows_here(self, product, first, out) }
    }

    fn few_columns(self, product: &Product<'_>, first: usize, out: &mut [f32]) {
        unsafe { few_columns_here(self, product, first, out) }
    }

    fn unpack(self, dtype: TensorType, bytes: &[u8], entries: &mut [f32]) {
        unsafe { unpack_here(self, dtype, bytes, entries) }
    }
}

/// Sixteen numbers in two registers.
#[inline(always)]
fn floats(numbers: [i8; 16]) -> [__m256; 2] {
    let numbers = loaded(&unsigned(numbers));
    // SAFETY: only `Avx2` calls this.
    unsafe {
        let second = _mm_unpackhi_epi64(numbers, numbers);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(second)),
        ]
    }
}

/// Everything that is inlined here is compiled for this processor.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows_here(machine: Avx2, product: &Product<'_>, first: usize, out: &mut [f32]) {
    few_rows(machine, product, first, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn few_columns_here(machine: Avx2, product: &Product<'_>, first: usize, out: &mut [f32]) {
    few_columns(machine, product, first, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_here(machine: Avx2, dtype: TensorType, bytes: &[u8], entries: &mut [f32]) {
    unpack(machine, dtype, bytes, entries);
}
