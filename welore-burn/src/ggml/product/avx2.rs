//! The steps of a product on processors with AVX2.

use std::arch::x86_64::*;

use super::super::tensor_type::TensorType;
use super::Product;
use super::machine::{Machine, Parts, UNEVEN, few_rows, one_row, rest};
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

// SAFETY, of all blocks here: the processor has what they use, see `Avx2`, and they read and write
// only arrays of the sizes that they are made for.
impl Machine for Avx2 {
    type Bytes = __m128i;
    type Sums = __m256;

    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        let bits = i32::from(u16::from_le_bytes(bytes));
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))) }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 16]) -> [f32; 8] {
        let mut numbers = [0.0; 8];
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), _mm256_cvtph_ps(self.load(bytes))) };
        numbers
    }

    #[inline(always)]
    fn load(self, bytes: &[u8; 16]) -> __m128i {
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bits(self, bytes: __m128i, shift: u8, mask: u8) -> __m128i {
        // There is no shift of bytes. What comes over from a neighbour is not in the mask.
        unsafe {
            let shifted = _mm_srl_epi16(bytes, _mm_cvtsi32_si128(shift.into()));
            _mm_and_si128(shifted, _mm_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    fn spread(self, bits: [u8; 2]) -> __m128i {
        unsafe {
            let both = _mm_set1_epi16(i16::from_le_bytes(bits));
            let places = _mm_set_epi64x(0x0101_0101_0101_0101, 0);
            let each = _mm_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let bits = _mm_and_si128(_mm_shuffle_epi8(both, places), each);
            _mm_and_si128(_mm_cmpeq_epi8(bits, each), _mm_set1_epi8(1))
        }
    }

    #[inline(always)]
    fn joined(self, low: __m128i, high: __m128i, shift: u8) -> __m128i {
        unsafe { _mm_or_si128(low, _mm_sll_epi16(high, _mm_cvtsi32_si128(shift.into()))) }
    }

    #[inline(always)]
    fn minus(self, codes: __m128i, less: i8) -> __m128i {
        unsafe { _mm_sub_epi8(codes, _mm_set1_epi8(less)) }
    }

    #[inline(always)]
    fn levels(self, codes: __m128i) -> __m128i {
        unsafe { _mm_shuffle_epi8(_mm_loadu_si128(UNEVEN.as_ptr().cast()), codes) }
    }

    #[inline(always)]
    fn scaled(self, numbers: __m128i, scale: f32, out: &mut [f32; 16]) {
        unsafe {
            let scale = _mm256_set1_ps(scale);
            let [first, second] = floats(numbers);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(scale, first));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(scale, second));
        }
    }

    #[inline(always)]
    fn shifted(self, numbers: __m128i, scale: f32, shift: f32, out: &mut [f32; 16]) {
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
    fn add_scaled(self, numbers: __m128i, scale: f32, out: &mut [f32; 16]) {
        unsafe {
            let scale = _mm256_set1_ps(scale);
            let [first, second] = floats(numbers);
            let [before, after] = eights(out);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_fmadd_ps(scale, first, before));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_fmadd_ps(scale, second, after));
        }
    }

    #[inline(always)]
    fn add_shifted(self, numbers: __m128i, scale: f32, shift: f32, out: &mut [f32; 16]) {
        unsafe {
            let shift = _mm256_set1_ps(shift);
            let [before, after] = eights(out);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(before, shift));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_add_ps(after, shift));
        }
        self.add_scaled(numbers, scale, out);
    }

    #[inline(always)]
    fn no_sums(self) -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn add_products(
        self,
        sums: __m256,
        numbers: __m128i,
        scale: f32,
        inputs: &[i16; 16],
    ) -> __m256 {
        unsafe {
            let inputs = _mm256_loadu_si256(inputs.as_ptr().cast());
            let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(numbers), inputs);
            _mm256_fmadd_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(products), sums)
        }
    }

    #[inline(always)]
    fn total(self, sums: [__m256; 2]) -> f32 {
        unsafe {
            let sums = _mm256_add_ps(sums[0], sums[1]);
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
            let sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
            _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)))
        }
    }

    #[inline(always)]
    fn dot(self, left: &[f32], right: &[f32]) -> f32 {
        let ((left, left_rest), (right, right_rest)) =
            (left.as_chunks::<32>(), right.as_chunks::<32>());
        let total = unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            for (left, right) in left.iter().zip(right) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let left = _mm256_loadu_ps(left.as_ptr().add(8 * i));
                    let right = _mm256_loadu_ps(right.as_ptr().add(8 * i));
                    *sum = _mm256_fmadd_ps(left, right, *sum);
                }
            }
            self.total([_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])])
        };
        total + rest(left_rest, right_rest)
    }

    fn one_row(self, product: &Product<'_>, parts: &Parts, first: usize, out: &mut [f32]) {
        unsafe { one_row_here(self, product, parts, first, out) }
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
fn floats(numbers: __m128i) -> [__m256; 2] {
    // SAFETY: only `Avx2` calls this.
    unsafe {
        let second = _mm_unpackhi_epi64(numbers, numbers);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(second)),
        ]
    }
}

/// Sixteen floats in two registers.
#[inline(always)]
fn eights(floats: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: only `Avx2` calls this, and there are 16.
    unsafe { [_mm256_loadu_ps(floats.as_ptr()), _mm256_loadu_ps(floats.as_ptr().add(8))] }
}

/// Everything that is inlined here is compiled for this processor.
#[target_feature(enable = "avx2,fma,f16c")]
fn one_row_here(
    machine: Avx2,
    product: &Product<'_>,
    parts: &Parts,
    first: usize,
    out: &mut [f32],
) {
    one_row(machine, product, parts, first, out);
}

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
