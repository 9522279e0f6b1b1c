//! Random numbers that never change for a seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter, and a function that mixes its bits.
///
/// Implemented here because the text of a seed must not change with time or platform, which no
/// crate's generator promises. It uses integers because floats may round differently.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, all equally likely.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A place in a list of `len`, early ones more likely: the `n`th has weight `1 / n`.
    ///
    /// The words of real text follow this law, which is Zipf's.
    pub fn early(&mut self, len: usize) -> usize {
        let weight = |place: usize| 1_000_000 / (place + 1);
        let mut rest = self.below((0..len).map(weight).sum());
        let mut place = 0;
        while rest >= weight(place) {
            rest -= weight(place);
            place += 1;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_reference_implementation() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn early_places_are_drawn_more_often_and_all_are_drawn() {
        let mut random = Random::new(1);
        let mut counts = [0; 5];
        (0..10_000).for_each(|_| counts[random.early(5)] += 1);
        assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
        assert!(counts[4] > 500, "{counts:?}");
    }
}
