//! Keys of metadata that are read and written.

pub(super) const ARCHITECTURE: &str = "general.architecture";
pub(super) const NAME: &str = "general.name";

// These follow the name of the architecture.
pub(super) const CONTEXT: &str = "context_length";
pub(super) const HIDDEN: &str = "embedding_length";
pub(super) const LAYERS: &str = "block_count";
pub(super) const MLP: &str = "feed_forward_length";
pub(super) const EXPERTS: &str = "expert_count";
pub(super) const CHOSEN_EXPERTS: &str = "expert_used_count";
pub(super) const EXPERT_MLP: &str = "expert_feed_forward_length";
pub(super) const SHARED_MLP: &str = "expert_shared_feed_forward_length";
pub(super) const SHARED_EXPERTS: &str = "expert_shared_count";
pub(super) const EXPERT_SCALE: &str = "expert_weights_scale";
pub(super) const EXPERT_NORM: &str = "expert_weights_norm";
pub(super) const EXPERT_GROUPS: &str = "expert_group_count";
pub(super) const CHOSEN_GROUPS: &str = "expert_group_used_count";
pub(super) const GATING: &str = "expert_gating_func";
pub(super) const LEADING: &str = "leading_dense_block_count";
pub(super) const HEADS: &str = "attention.head_count";
pub(super) const KV_HEADS: &str = "attention.head_count_kv";
pub(super) const KEY_WIDTH: &str = "attention.key_length";
pub(super) const VALUE_WIDTH: &str = "attention.value_length";
pub(super) const LATENT_KEY_WIDTH: &str = "attention.key_length_mla";
pub(super) const LATENT_VALUE_WIDTH: &str = "attention.value_length_mla";
pub(super) const SHORT_QUERIES: &str = "attention.q_lora_rank";
pub(super) const SHORT_KEYS: &str = "attention.kv_lora_rank";
pub(super) const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";
pub(super) const LAYER_EPS: &str = "attention.layer_norm_epsilon";
pub(super) const ATTENTION_SCALE: &str = "attention.scale";
pub(super) const ATTENTION_CAP: &str = "attn_logit_softcapping";
pub(super) const QKV_CLIP: &str = "attention.clamp_kqv";
pub(super) const EMBEDDING_SCALE: &str = "embedding_scale";
pub(super) const RESIDUAL_SCALE: &str = "residual_scale";
pub(super) const LOGIT_SCALE: &str = "logit_scale";
pub(super) const LOGIT_CAP: &str = "final_logit_softcapping";
pub(super) const PARALLEL: &str = "use_parallel_residual";
pub(super) const ACTIVATION: &str = "hidden_activation";
pub(super) const WINDOW: &str = "attention.sliding_window";
pub(super) const WINDOW_PATTERN: &str = "attention.sliding_window_pattern";
pub(super) const ROPE_WIDTH: &str = "rope.dimension_count";
pub(super) const ROPE_BASE: &str = "rope.freq_base";
pub(super) const WINDOW_ROPE_BASE: &str = "rope.freq_base_swa";
pub(super) const ROPE_TRAINED: &str = "rope.scaling.finetuned";
pub(super) const ROPE_SCALING: &str = "rope.scaling.type";
pub(super) const ROPE_FACTOR: &str = "rope.scaling.factor";
pub(super) const ROPE_CONTEXT: &str = "rope.scaling.original_context_length";
pub(super) const ROPE_ATTENTION: &str = "rope.scaling.attn_factor";
pub(super) const YARN_ATTENTION: &str = "rope.scaling.yarn_attn_factor";
pub(super) const YARN_MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
pub(super) const YARN_FAST: &str = "rope.scaling.yarn_beta_fast";
pub(super) const YARN_SLOW: &str = "rope.scaling.yarn_beta_slow";

// The tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const KINDS: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const ADDS_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADDS_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The key of a special token's number: `bos`, `eos`, `eot`, `unknown` or `padding`.
pub(super) fn special(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}
