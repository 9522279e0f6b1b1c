//! What llama.cpp calls the matrices of a layer.

/// llama.cpp's names, and those of Hugging Face. Where several have one name in llama.cpp, the first
/// is meant by it.
const MATRICES: [(&str, &str); 29] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ("attn_qkv", "attention.query_key_value"),
    ("attn_output", "attention.dense"),
    ("attn_qkv", "self_attention.query_key_value"),
    ("attn_output", "self_attention.dense"),
    ("ffn_up", "mlp.dense_h_to_4h"),
    ("ffn_down", "mlp.dense_4h_to_h"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
];

/// What is before the number of a layer in the names of its matrices: in most models, in GPT-NeoX, and in
/// GPT-2 and Falcon.
const LAYERS: [&str; 3] = ["model.layers.", "gpt_neox.layers.", "transformer.h."];

/// What is before the number of an expert in the names of its matrices: in most models, and in Mixtral.
const EXPERTS: [&str; 2] = ["mlp.experts.", "block_sparse_moe.experts."];

/// The matrices of all experts of a layer, and what that of one is called in most models and in Mixtral.
const STACKS: [(&str, [&str; 2]); 3] = [
    ("ffn_gate_exps", ["gate_proj", "w1"]),
    ("ffn_up_exps", ["up_proj", "w3"]),
    ("ffn_down_exps", ["down_proj", "w2"]),
];

/// The tensor that holds a matrix of a layer: `blk.3.attn_q.weight` for
/// `model.layers.3.self_attn.q_proj`. `None` for other matrices.
///
/// The matrices of all experts of a layer are one tensor: `blk.3.ffn_up_exps.weight` for
/// `model.layers.3.mlp.experts.7.up_proj`.
pub(crate) fn tensor_of_matrix(matrix: &str) -> Option<String> {
    let layers = LAYERS.iter().find_map(|layers| matrix.strip_prefix(*layers))?;
    let (layer, matrix) = layer_in(layers)?;
    if let Some((tensor, _)) = in_stack(matrix) {
        return Some(format!("blk.{layer}.{tensor}.weight"));
    }
    let (tensor, _) = MATRICES.iter().find(|(_, name)| *name == matrix)?;
    Some(format!("blk.{layer}.{tensor}.weight"))
}

/// The tensor that a matrix of an expert is in, and the number of the expert.
pub(crate) fn stack_of_matrix(matrix: &str) -> Option<(String, usize)> {
    let (layer, matrix) = layer_in(matrix.strip_prefix("model.layers.")?)?;
    let (tensor, expert) = in_stack(matrix)?;
    Some((format!("blk.{layer}.{tensor}.weight"), expert))
}

/// The name of a stack within a layer, and the number of the expert.
fn in_stack(matrix: &str) -> Option<(&'static str, usize)> {
    let experts = EXPERTS.iter().find_map(|experts| matrix.strip_prefix(*experts))?;
    let (expert, field) = layer_in(experts)?;
    let (tensor, _) = STACKS.iter().find(|(_, names)| names.contains(&field))?;
    Some((*tensor, expert as usize))
}

/// The inverse of [`tensor_of_matrix`], for the matrices that most models have.
pub(crate) fn matrix_of_tensor(tensor: &str) -> Option<String> {
    let (layer, tensor) = layer_in(tensor.strip_prefix("blk.")?.strip_suffix(".weight")?)?;
    let (_, matrix) = MATRICES.iter().find(|(name, _)| *name == tensor)?;
    Some(format!("model.layers.{layer}.{matrix}"))
}

/// The matrix of an expert in a stack, by the names that most models have: the inverse of
/// [`stack_of_matrix`]. `None` for other tensors.
pub(crate) fn matrix_in_stack(tensor: &str, expert: usize) -> Option<String> {
    let (layer, tensor) = layer_in(tensor.strip_prefix("blk.")?.strip_suffix(".weight")?)?;
    let (_, [field, _]) = STACKS.iter().find(|(name, _)| *name == tensor)?;
    Some(format!("model.layers.{layer}.{}{expert}.{field}", EXPERTS[0]))
}

/// Whether a tensor of a file is a router of experts, or the gate of an expert that sees all tokens.
pub(crate) fn is_router(tensor: &str) -> bool {
    tensor.contains(".ffn_gate_inp")
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
        // GPT-NeoX, Falcon and GPT-2.
        for (tensor, matrix) in [
            ("blk.2.attn_qkv.weight", "gpt_neox.layers.2.attention.query_key_value"),
            ("blk.2.attn_output.weight", "gpt_neox.layers.2.attention.dense"),
            ("blk.2.ffn_up.weight", "gpt_neox.layers.2.mlp.dense_h_to_4h"),
            ("blk.2.ffn_down.weight", "transformer.h.2.mlp.dense_4h_to_h"),
            ("blk.2.attn_qkv.weight", "transformer.h.2.self_attention.query_key_value"),
            ("blk.2.attn_output.weight", "transformer.h.2.self_attention.dense"),
            ("blk.2.attn_qkv.weight", "transformer.h.2.attn.c_attn"),
            ("blk.2.attn_output.weight", "transformer.h.2.attn.c_proj"),
            ("blk.2.ffn_down.weight", "transformer.h.2.mlp.c_proj"),
        ] {
            assert_eq!(tensor_of_matrix(matrix).as_deref(), Some(tensor));
        }
        // Those of Mixtral are found as well; it has no others of the same places.
        for (tensor, matrices) in [
            (
                "blk.3.ffn_gate_exps.weight",
                ["mlp.experts.12.gate_proj", "block_sparse_moe.experts.12.w1"],
            ),
            (
                "blk.3.ffn_down_exps.weight",
                ["mlp.experts.12.down_proj", "block_sparse_moe.experts.12.w2"],
            ),
        ] {
            let matrices = matrices.map(|matrix| format!("model.layers.3.{matrix}"));
            for matrix in &matrices {
                assert_eq!(tensor_of_matrix(matrix).as_deref(), Some(tensor));
                assert_eq!(stack_of_matrix(matrix), Some((tensor.into(), 12)));
            }
            assert_eq!(matrix_in_stack(tensor, 12).as_ref(), Some(&matrices[0]));
        }
        let shared = "model.layers.0.mlp.shared_expert.up_proj";
        assert_eq!(tensor_of_matrix(shared).as_deref(), Some("blk.0.ffn_up_shexp.weight"));
        assert_eq!(stack_of_matrix(shared), None);
        assert_eq!(matrix_in_stack("blk.0.ffn_up.weight", 0), None);
    }

    #[test]
    fn other_names_are_of_no_matrix() {
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
        for matrix in [
            "",
            "lm_head",
            "model.layers.0.mlp",
            "model.layers.01.mlp.up_proj",
            "model.layers.0.mlp.experts.01.up_proj",
            "model.layers.0.mlp.experts.up_proj",
        ] {
            assert_eq!(tensor_of_matrix(matrix), None, "{matrix}");
        }
    }
}
