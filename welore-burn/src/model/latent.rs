//! Latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are made of one short
//! vector for each token, and only some channels of queries and keys, of which all heads share those of
//! keys, see positions.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::attention::Attention;
use super::rotary::RotaryTable;
use crate::linear::LowRankLinear;

/// The widths of latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatentConfig {
    /// Width of the vector that queries are made of; `None` if they are made of hidden states.
    pub queries_from: Option<usize>,
    /// Width of the vector that keys and values are made of.
    pub keys_from: usize,
    /// Channels of a head that do not see positions.
    pub plain: usize,
    /// Channels of a head that see them; even.
    pub rotated: usize,
    /// Width of the values of a head.
    pub values: usize,
}

impl LatentConfig {
    /// Width of queries and keys of a head.
    pub fn head_dim(&self) -> usize {
        self.plain + self.rotated
    }

    /// Width in which heads attend: the narrower of keys and values are filled up with zeros.
    pub(super) fn width(&self) -> usize {
        self.head_dim().max(self.values)
    }

    /// Number of parameters of the projections of a layer, with or without biases where there may be
    /// some, and those of the norms of the short vectors.
    pub(super) fn parameters(&self, hidden_size: usize, heads: usize, biases: [bool; 2]) -> u128 {
        let size = |size: usize| size as u128;
        let (hidden, queries) = (size(hidden_size), size(heads) * size(self.head_dim()));
        let keys = size(self.keys_from);
        let outputs = size(heads) * size(self.values);
        let of_queries = match self.queries_from {
            Some(from) => size(from) * (hidden + queries + 1),
            None => hidden * queries,
        };
        let of_keys = hidden * (keys + size(self.rotated))
            + keys
            + keys * (size(heads) * size(self.plain) + outputs);
        let of_biases = [
            (biases[0], size(self.queries_from.unwrap_or(0)) + keys + size(self.rotated)),
            (biases[1], hidden),
        ];
        let of_biases: u128 = of_biases.iter().filter(|(has, _)| *has).map(|(_, n)| n).sum();
        of_queries + of_keys + outputs * hidden + of_biases
    }
}

impl Attention {
    /// Queries, keys and values of latent attention, `[batch, positions, heads, width]` with the width in
    /// which heads attend.
    pub(super) fn latent_parts(
        &self,
        latent: LatentConfig,
        x: Tensor<3>,
        rotary: Option<&RotaryTable>,
    ) -> [Tensor<4>; 3] {
        let [batch, positions, _] = x.dims();
        let heads = self.heads();
        let LatentConfig { keys_from, plain, rotated, values, .. } = latent;
        let rotate = |x: Tensor<4>| match rotary {
            Some(rotary) => rotary.rotate(x),
            None => x,
        };
        let queries = self.latent_queries(x.clone());
        let queries = queries.reshape([batch, positions, heads, latent.head_dim()]);
        let of_positions = rotate(queries.clone().narrow(3, plain, rotated));
        let queries = Tensor::cat(vec![queries.narrow(3, 0, plain), of_positions], 3);

        let both = there(&self.kv_a_proj_with_mqa).forward(x);
        let shared = both.clone().narrow(2, keys_from, rotated);
        let shared = rotate(shared.reshape([batch, positions, 1, rotated]));
        let short = both.narrow(2, 0, keys_from);
        let short = match &self.kv_a_layernorm {
            Some(norm) => norm.forward(short),
            None => short,
        };
        let all = there(&self.kv_b_proj).forward(short);
        let all = all.reshape([batch, positions, heads, plain + values]);
        let shared = shared.expand([batch, positions, heads, rotated]);
        let keys = Tensor::cat(vec![all.clone().narrow(3, 0, plain), shared], 3);
        [queries, keys, all.narrow(3, plain, values)].map(|x| filled_up(x, latent.width()))
    }

    fn latent_queries(&self, x: Tensor<3>) -> Tensor<3> {
        if self.q_proj.is_some() {
            return there(&self.q_proj).forward(x);
        }
        let short = there(&self.q_a_proj).forward(x);
        let short = match &self.q_a_layernorm {
            Some(norm) => norm.forward(short),
            None => short,
        };
        there(&self.q_b_proj).forward(short)
    }
}

fn there(matrix: &Option<LowRankLinear>) -> &LowRankLinear {
    matrix.as_ref().expect("latent attention has its projections")
}

/// The last axis with zeros at its end.
fn filled_up(x: Tensor<4>, width: usize) -> Tensor<4> {
    let [batch, positions, heads, own] = x.dims();
    if own == width {
        return x;
    }
    let options = (&x.device(), x.dtype());
    let zeros = Tensor::<4>::zeros([batch, positions, heads, width - own], options);
    Tensor::cat(vec![x, zeros], 3)
}
