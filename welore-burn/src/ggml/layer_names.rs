//! What llama.cpp calls the matrices of a layer.

/// llama.cpp's names, and those of Hugging Face. Where several have one name in llama.cpp, the first
/// is meant by it.
const MATRICES: [(&str, &str); 11] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// The tensor that holds a matrix of a layer: `blk.3.attn_q.weight` for
/// `model.layers.3.self_attn.q_proj`. `None` for other matrices.
pub(crate) fn tensor_of_matrix(matrix: &str) -> Option<String> {
    let (layer, matrix) = layer_in(matrix.strip_prefix("model.layers.")?)?;
    let (tensor, _) = MATRICES.iter().find(|(_, name)| *name == matrix)?;
    Some(format!("blk.{layer}.{tensor}.weight"))
}

/// The inverse of [`tensor_of_matrix`], for the matrices that most models have.
pub(crate) fn matrix_of_tensor(tensor: &str) -> Option<String> {
    let (layer, tensor) = layer_in(tensor.strip_prefix("blk.")?.strip_suffix(".weight")?)?;
    let (_, matrix) = MATRICES.iter().find(|(name, _)| *name == tensor)?;
    Some(format!("model.layers.{layer}.{matrix}"))
}

/// The number of a layer and the name behind it. Numbers are as they are written, so that a matrix
/// has one name.
fn layer_in(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.split_once('.')?;
    let layer = number.parse::<u32>().ok().filter(|layer| layer.to_string() == number)?;
    Some((layer, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_layers_have_one_name_in_each_format() {
        for (tensor, matrix) in [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj"),
            ("blk.31.attn_output.weight", "model.layers.31.self_attn.o_proj"),
            ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj"),
        ] {
            assert_eq!(tensor_of_matrix(matrix).as_deref(), Some(tensor));
            assert_eq!(matrix_of_tensor(tensor).as_deref(), Some(matrix));
        }
        // Phi-3 and StarCoder2.
        for matrix in ["mlp.gate_up_proj", "mlp.c_fc"] {
            let tensor = tensor_of_matrix(&format!("model.layers.2.{matrix}"));
            assert_eq!(tensor.as_deref(), Some("blk.2.ffn_up.weight"));
        }
        for tensor in [
            "output.weight",
            "blk.0.ffn_gate_exps.weight",
            "blk.0.attn_q.bias",
            "blk.00.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.4294967296.attn_q.weight",
            "blk.0",
        ] {
            assert_eq!(matrix_of_tensor(tensor), None, "{tensor}");
        }
        for matrix in ["", "lm_head", "model.layers.0.mlp", "model.layers.01.mlp.up_proj"] {
            assert_eq!(tensor_of_matrix(matrix), None, "{matrix}");
        }
    }
}
