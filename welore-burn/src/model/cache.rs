use burn::tensor::{Int, Tensor};

use super::language::LanguageModel;

/// Keys and values of the tokens seen so far, so that generation computes each token once.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
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
        let all = match self.layers[layer].take() {
            Some((old_keys, old_values)) => {
                (Tensor::cat(vec![old_keys, keys], 2), Tensor::cat(vec![old_values, values], 2))
            }
            None => (keys, values),
        };
        self.layers[layer] = Some(all.clone());
        all
    }

    /// Adds `positions` to the number of cached positions. Called once all layers have extended.
    pub(super) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }
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
