use burn::tensor::{Int, Tensor};

use super::language::LanguageModel;

/// Positions by which a large cache grows.
const STEP: usize = 1024;

/// Keys and values of the tokens seen so far, so that generation computes each token once. The
/// sequences of a batch have the same number of positions.
///
/// New positions are written into tensors that have room for more, so what is cached is not copied
/// for each token.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// Keys and values of each layer, `[batch, kv_heads, room, head_dim]`.
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
    /// The tokens, `[batch, positions]`, where they may have to be computed again.
    tokens: Option<Tensor<2, Int>>,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of cached positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the keys and values of new positions in one layer, and returns those of all
    /// positions.
    ///
    /// # Shapes
    ///
    /// - keys and values: `[batch, kv_heads, positions, head_dim]`
    pub(super) fn extend(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let [_, _, new, _] = keys.dims();
        let (old_keys, old_values) = self.layers[layer].take().unzip();
        let keys = written(old_keys, self.len, keys);
        let values = written(old_values, self.len, values);
        self.layers[layer] = Some((keys.clone(), values.clone()));
        let seen = self.len + new;
        (keys.narrow(2, 0, seen), values.narrow(2, 0, seen))
    }

    /// Keeps new tokens, and returns all that were kept.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions]`
    pub(super) fn remember(&mut self, tokens: Tensor<2, Int>) -> Tensor<2, Int> {
        let all = match self.tokens.take() {
            Some(before) => Tensor::cat(vec![before, tokens], 1),
            None => tokens,
        };
        self.tokens = Some(all.clone());
        all
    }

    /// Forgets all positions but the first ones, and says whether it could: a cache that is empty, or has fewer
    /// positions, stays as it is. New positions are written over what is forgotten.
    pub(super) fn shorten(&mut self, positions: usize) -> bool {
        if positions == 0 || positions > self.len {
            return false;
        }
        self.len = positions;
        self.tokens = self.tokens.take().map(|tokens| tokens.narrow(1, 0, positions));
        true
    }

    /// Forgets keys and values, but not the tokens.
    pub(super) fn forget(&mut self) {
        self.layers.clear();
        self.len = 0;
    }

    /// Adds `positions` to the number of cached positions. Called once all layers have extended.
    pub(super) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }
}

/// Writes new positions behind the first `len` cached ones, in place if there is room.
fn written(old: Option<Tensor<4>>, len: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, heads, positions, width] = new.dims();
    let end = len + positions;
    let cached = match old.filter(|_| len > 0) {
        Some(old) if old.dims()[2] >= end => old,
        old => {
            let options = (&new.device(), new.dtype());
            let larger = Tensor::<4>::zeros([batch, heads, room_for(end), width], options);
            match old {
                Some(old) => {
                    let old = old.narrow(2, 0, len);
                    larger.slice_assign([0..batch, 0..heads, 0..len, 0..width], old)
                }
                None => larger,
            }
        }
    };
    cached.slice_assign([0..batch, 0..heads, len..end, 0..width], new)
}

/// Positions to make room for: a small cache doubles, a large one does not waste as much as that.
fn room_for(positions: usize) -> usize {
    positions.next_power_of_two().min(positions.next_multiple_of(STEP))
}

/// The tokens seen so far, for models without a cache of their own: every extension recomputes
/// all of them.
#[derive(Debug, Clone, Default)]
pub struct TokenCache {
    tokens: Option<Tensor<2, Int>>,
}

impl TokenCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hidden states of `tokens`, which continue those seen so far; see [`LanguageModel::extend`].
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, width]`
    pub fn extend<M: LanguageModel>(&mut self, model: &M, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [_, new] = tokens.dims();
        let all = match self.tokens.take() {
            Some(before) => Tensor::cat(vec![before, tokens], 1),
            None => tokens,
        };
        let [_, count] = all.dims();
        self.tokens = Some(all.clone());
        model.hidden(all).narrow(1, count - new, new)
    }
}
