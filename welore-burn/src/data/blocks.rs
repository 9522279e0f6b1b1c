use std::sync::Mutex;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A tokenized text cut into blocks of equal length, read epoch after epoch.
///
/// A rest that fills no block is left out; every other token is in exactly one block of
/// every epoch.
#[derive(Debug)]
pub struct TokenBlocks {
    tokens: Vec<u32>,
    seq_len: usize,
    /// The last epoch's order, since blocks are asked for one after the other.
    order: Mutex<Option<(u64, usize, Vec<u32>)>>,
}

impl TokenBlocks {
    /// Cuts a text.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is 0.
    pub fn new(tokens: Vec<u32>, seq_len: usize) -> Self {
        assert!(seq_len > 0, "a block has tokens");
        Self { tokens, seq_len, order: Mutex::new(None) }
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.seq_len
    }

    /// Whether the text does not fill one block.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of the text, the rest included.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The largest token id, to check against a vocabulary.
    pub fn largest_token(&self) -> Option<u32> {
        self.tokens.iter().copied().max()
    }

    /// The block at place `number` of an endless reading: in the text's order without a
    /// seed, else in an order that the seed and the epoch decide.
    ///
    /// # Panics
    ///
    /// Panics if there is no block.
    pub fn nth(&self, number: usize, seed: Option<u64>) -> &[u32] {
        let (epoch, place) = (number / self.len(), number % self.len());
        let block = match seed {
            None => place,
            Some(seed) => self.shuffled(seed, epoch, place),
        };
        &self.tokens[block * self.seq_len..(block + 1) * self.seq_len]
    }

    fn shuffled(&self, seed: u64, epoch: usize, place: usize) -> usize {
        let mut cached = self.order.lock().expect("no holder panics");
        if !matches!(&*cached, Some((s, e, _)) if (*s, *e) == (seed, epoch)) {
            let mut order: Vec<u32> = (0..self.len() as u32).collect();
            // Epochs of one seed and seeds of one epoch must not share orders.
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(epoch as u64);
            order.shuffle(&mut StdRng::seed_from_u64(mixed));
            *cached = Some((seed, epoch, order));
        }
        let (_, _, order) = cached.as_ref().expect("just set");
        order[place] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> TokenBlocks {
        TokenBlocks::new((0..103).collect(), 10)
    }

    fn epoch(blocks: &TokenBlocks, epoch: usize, seed: Option<u64>) -> Vec<u32> {
        let first = epoch * blocks.len();
        (first..first + blocks.len()).flat_map(|n| blocks.nth(n, seed).to_vec()).collect()
    }

    #[test]
    fn without_a_seed_the_text_is_read_in_order_again_and_again() {
        let text: Vec<u32> = (0..100).collect();
        assert_eq!(epoch(&blocks(), 0, None), text);
        assert_eq!(epoch(&blocks(), 3, None), text);
    }

    #[test]
    fn every_epoch_has_every_block_once_in_an_order_of_its_own() {
        let blocks = blocks();
        let mut first = epoch(&blocks, 0, Some(1));
        assert_ne!(first, epoch(&blocks, 1, Some(1)));
        assert_ne!(first, epoch(&blocks, 0, Some(2)));
        assert_eq!(first, epoch(&blocks, 0, Some(1)), "orders depend on nothing else");
        first.sort();
        assert_eq!(first, (0..100).collect::<Vec<u32>>());
    }
}
