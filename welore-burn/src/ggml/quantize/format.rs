//! What the blocks of a type can hold, whatever bits hold it.

use half::f16;

use super::super::tensor_type::TensorType;

/// Most parts of a block that have a scale of their own.
pub(super) const PARTS: usize = 16;

/// Most entries that share a scale.
pub(super) const PART_LEN: usize = 32;

/// What numbers of entries in a part are multiples of.
const LANES: usize = 8;

/// The levels of IQ4_NL and IQ4_XS, by code (`kvalues_iq4nl`).
const UNEVEN: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Halfway between neighbours of these.
const UNEVEN_STEPS: [f32; 15] = [
    -115.5, -93.5, -74.0, -57.0, -42.0, -28.5, -16.0, -4.5, 7.0, 19.0, 31.5, 45.5, 61.0, 79.0,
    101.0,
];

/// The same from the level next to zero upward and downward: levels, and where one becomes the next.
const UNEVEN_UP: Side = Side {
    levels: &[1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0],
    steps: &[7.0, 19.0, 31.5, 45.5, 61.0, 79.0, 101.0],
};
const UNEVEN_DOWN: Side = Side {
    levels: &[1.0, -10.0, -22.0, -35.0, -49.0, -65.0, -83.0, -104.0, -127.0],
    steps: &[4.5, 16.0, 28.5, 42.0, 57.0, 74.0, 93.5, 115.5],
};

static EVEN_UP: [f32; 128] = multiples(1.0, 0.0);
static EVEN_DOWN: [f32; 128] = multiples(-1.0, 0.0);
static EVEN_STEPS: [f32; 128] = multiples(1.0, 0.5);

const fn multiples(of: f32, plus: f32) -> [f32; 128] {
    let (mut out, mut i) = ([0.0; 128], 0);
    while i < 128 {
        out[i] = of * i as f32 + plus;
        i += 1;
    }
    out
}

/// Adding and subtracting this rounds to the nearest integer below 2^22.
const ROUND: f32 = 12_582_912.0;

/// The numbers that a scale is multiplied with. A code counts them from the lowest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Levels {
    /// All integers from the first to the second.
    Even(f32, f32),
    /// Those of IQ4_NL.
    Uneven,
}

/// The levels on one side of zero, beginning with the one that zero has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// With their signs.
    pub levels: &'static [f32],
    /// The size of ratio above which the next level is nearer.
    pub steps: &'static [f32],
}

impl Side {
    /// The size of the last level.
    pub fn last(&self) -> f32 {
        self.levels[self.levels.len() - 1].abs()
    }
}

impl Levels {
    /// The level nearest to a ratio.
    #[inline(always)]
    pub fn nearest(self, ratio: f32) -> f32 {
        match self {
            Self::Even(lowest, highest) => (ratio.max(lowest).min(highest) + ROUND) - ROUND,
            // Without a table, so that loops over entries can be vectorized.
            Self::Uneven => {
                let gaps = UNEVEN_STEPS.iter().zip(UNEVEN.windows(2));
                let passed = |(step, gap): (&f32, &[f32])| match ratio > *step {
                    true => gap[1] - gap[0],
                    false => 0.0,
                };
                UNEVEN[0] + gaps.map(passed).sum::<f32>()
            }
        }
    }

    /// Its code.
    #[inline(always)]
    pub fn code(self, ratio: f32) -> u8 {
        match self {
            Self::Even(lowest, _) => (self.nearest(ratio) - lowest) as u8,
            Self::Uneven => uneven(ratio) as u8,
        }
    }

    /// The level of a code.
    pub fn level(self, code: u8) -> f32 {
        match self {
            Self::Even(lowest, _) => lowest + f32::from(code),
            Self::Uneven => UNEVEN[usize::from(code)],
        }
    }

    /// The levels above zero, or below.
    pub fn side(self, above: bool) -> Side {
        match (self, above) {
            (Self::Even(_, highest), true) => {
                let count = highest as usize;
                Side { levels: &EVEN_UP[..=count], steps: &EVEN_STEPS[..count] }
            }
            (Self::Even(lowest, _), false) => {
                let count = -lowest as usize;
                Side { levels: &EVEN_DOWN[..=count], steps: &EVEN_STEPS[..count] }
            }
            (Self::Uneven, true) => UNEVEN_UP,
            (Self::Uneven, false) => UNEVEN_DOWN,
        }
    }

    /// Size of the level furthest from zero.
    pub fn largest(self) -> f32 {
        match self {
            Self::Even(lowest, highest) => highest.max(-lowest),
            Self::Uneven => 127.0,
        }
    }

    /// The mean distance of neighbours.
    pub fn gap(self) -> f32 {
        match self {
            Self::Even(..) => 1.0,
            Self::Uneven => (UNEVEN[15] - UNEVEN[0]) / 15.0,
        }
    }

    /// Whether the levels are the same with other signs, so a negative scale is of no use.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Even(lowest, highest) if lowest == -highest)
    }
}

#[inline(always)]
fn uneven(ratio: f32) -> usize {
    UNEVEN_STEPS.iter().map(|step| usize::from(ratio > *step)).sum()
}

/// What a block stores beside its codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Grouping {
    /// One scale, f16.
    Scale,
    /// A scale and a minimum, both f16.
    ScaleAndMinimum,
    /// One f16, and an integer for each part that it is multiplied with, from the first to the
    /// second.
    Scales(f32, f32),
    /// One f16 for scales and one for minima, and two integers for each part, from 0 to this.
    ScalesAndMinima(f32),
}

/// The blocks of a type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// Entries in a part.
    pub part_len: usize,
    /// What scales are multiplied with.
    pub levels: Levels,
    /// How scales are stored.
    pub grouping: Grouping,
}

impl Format {
    /// The blocks of a type; `None` for floats.
    pub fn of(dtype: TensorType) -> Option<Self> {
        use Grouping::{Scale, ScaleAndMinimum, Scales, ScalesAndMinima};
        use Levels::{Even, Uneven};

        let (part_len, levels, grouping) = match dtype {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => return None,
            // As llama.cpp, whose products may negate codes: -128 has no opposite.
            TensorType::Q8_0 => (32, Even(-127.0, 127.0), Scale),
            TensorType::Q5_0 => (32, Even(-16.0, 15.0), Scale),
            TensorType::Q4_0 => (32, Even(-8.0, 7.0), Scale),
            TensorType::Iq4Nl => (32, Uneven, Scale),
            TensorType::Q5_1 => (32, Even(0.0, 31.0), ScaleAndMinimum),
            TensorType::Q4_1 => (32, Even(0.0, 15.0), ScaleAndMinimum),
            TensorType::Q6K => (16, Even(-32.0, 31.0), Scales(-128.0, 127.0)),
            TensorType::Q3K => (16, Even(-4.0, 3.0), Scales(-32.0, 31.0)),
            TensorType::Iq4Xs => (32, Uneven, Scales(-32.0, 31.0)),
            TensorType::Q5K => (32, Even(0.0, 31.0), ScalesAndMinima(63.0)),
            TensorType::Q4K => (32, Even(0.0, 15.0), ScalesAndMinima(63.0)),
            TensorType::Q2K => (16, Even(0.0, 3.0), ScalesAndMinima(15.0)),
        };
        Some(Self { part_len, levels, grouping })
    }

    /// Code and number that a block has for the entry at a place in it.
    #[inline]
    pub fn nearest(&self, scales: &Scales, at: usize, entry: f32) -> (u8, f32) {
        let grid = scales.grid(at / self.part_len);
        let code = self.levels.code(grid.ratio(entry));
        (code, grid.entry(self.levels.level(code)))
    }

    /// Whether a block can have entries from `lowest` to `highest` without a scale beyond f16. What
    /// lies beyond would be infinite in llama.cpp.
    pub fn holds(&self, lowest: f32, highest: f32) -> bool {
        let (f16_max, levels) = (f16::MAX.to_f32(), self.levels.largest());
        let size = highest.max(-lowest);
        match self.grouping {
            Grouping::Scale => size <= f16_max * levels,
            Grouping::Scales(_, most) => size <= f16_max * most * levels,
            Grouping::ScaleAndMinimum => {
                lowest.abs() <= f16_max && (highest - lowest) / levels <= f16_max
            }
            Grouping::ScalesAndMinima(most) => {
                let lowest = lowest.min(0.0);
                -lowest <= f16_max * most && (highest - lowest) / levels <= f16_max * most
            }
        }
    }
}

/// What a block stores beside its codes: an entry of part `i` is
/// `scale · scales[i] · level - minimum · minima[i]`. Parts that a type lacks are not used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scales {
    pub scale: f16,
    pub minimum: f16,
    pub scales: [i8; PARTS],
    pub minima: [u8; PARTS],
}

impl Scales {
    /// Those of a block that has no parts.
    pub fn single(scale: f16, minimum: f16) -> Self {
        Self { scale, minimum, scales: [1; PARTS], minima: [1; PARTS] }
    }

    /// The numbers that a part can hold.
    pub fn grid(&self, part: usize) -> Grid {
        Grid::new(
            self.scale.to_f32() * f32::from(self.scales[part]),
            -(self.minimum.to_f32() * f32::from(self.minima[part])),
        )
    }
}

/// The numbers that a part can hold: `scale · level + minimum`, in f32 as llama.cpp computes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub scale: f32,
    pub minimum: f32,
    /// 1 / scale; 0 for a scale of 0, so that all levels are the one of zero.
    inverse: f32,
}

impl Grid {
    pub fn new(scale: f32, minimum: f32) -> Self {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Self { scale, minimum, inverse }
    }

    /// What an entry is divided into levels by.
    #[inline(always)]
    pub fn ratio(&self, entry: f32) -> f32 {
        (entry - self.minimum) * self.inverse
    }

    /// The entry of a level.
    #[inline(always)]
    pub fn entry(&self, level: f32) -> f32 {
        self.scale * level + self.minimum
    }

    /// The weighted squared error of entries, each as the nearest number here.
    pub fn error(&self, levels: Levels, entries: &[f32], weights: &[f32]) -> f64 {
        // The match is outside, so that the loops have no branches.
        match levels {
            Levels::Even(..) => self.sum(|ratio| levels.nearest(ratio), entries, weights),
            Levels::Uneven => self.sum(|ratio| Levels::Uneven.nearest(ratio), entries, weights),
        }
    }

    #[inline(always)]
    fn sum(&self, nearest: impl Fn(f32) -> f32, entries: &[f32], weights: &[f32]) -> f64 {
        // Several sums side by side are faster, and lose less.
        let mut sums = [0.0f32; LANES];
        let (entries, weights) = (entries.as_chunks::<LANES>().0, weights.as_chunks::<LANES>().0);
        for (entries, weights) in entries.iter().zip(weights) {
            for ((sum, x), w) in sums.iter_mut().zip(entries).zip(weights) {
                let gap = x - self.entry(nearest(self.ratio(*x)));
                *sum += w * gap * gap;
            }
        }
        sums.iter().map(|sum| f64::from(*sum)).sum()
    }
}
