//! What a card says of the programs that load a compressed model, and the dense one that is made of it.

use super::card::ModelCard;
use crate::forms::Form;
use crate::plan::MatrixPlan;

/// What is said of a directory that carries the code that runs it in transformers.
pub(super) const CODE: &str = "that any tool for this architecture loads.\n\n\
    With transformers, which computes with the factors as they are stored:\n\n\
    ```python\n\
    from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
    model = AutoModelForCausalLM.from_pretrained(\"DIR\", trust_remote_code=True)\n\
    tokenizer = AutoTokenizer.from_pretrained(\"DIR\", trust_remote_code=True)\n\
    ```\n\n\
    `trust_remote_code=True` lets it run `modeling_welore.py` of this directory; without it, \
    transformers refuses to load the model.";

/// What is said of a directory that only this program reads.
const ALONE: &str = "that any tool for this architecture loads. This directory is for welore alone: \
                     transformers refuses it.";

/// The same where MLPs have several widths, in the dense model as well.
const WIDTHS: &str = "with MLPs of several widths, as `config.json` states. This directory and that \
                      model are for welore alone: transformers refuses them. `welore-cli export DIR \
                      --gguf FILE` writes a file for llama.cpp.";

/// What is said of the dense model that a model with experts is exported as.
const EXPERTS: &str = "that transformers loads: with a matrix for each expert, or for gpt-oss with \
                       one tensor for all experts of a layer. With `trust_remote_code=True` it \
                       loads this directory if this is a gpt-oss, or if the version has a layer for \
                       each expert, as 4.57 has.";

/// What is said of the dense model where convolutions are factored.
const CONVOLUTIONS: &str = "that any tool for this architecture loads. Of a factored convolution \
                            `X`, `X.V.weight` and `X.U.weight` are the weights of two convolutions \
                            one after the other: the first with the kernel, stride, padding and \
                            dilation of `X`, the second with a kernel of 1 and the bias of `X`.";

/// What follows "writes a dense model". Lines for transformers are given where they work: it has no
/// layers for blocks, keeps all experts of a layer in one tensor, and its code for convolutions differs
/// from model to model.
pub(super) fn loading(card: &ModelCard<'_>) -> &'static str {
    let matrices = &card.plan.matrices;
    let is_expert = |matrix: &&MatrixPlan| matrix.name.as_str().contains(".experts.");
    let is_factored = |matrix: &MatrixPlan| matrix.form != Form::dense();
    let has_experts = matrices.iter().filter(is_expert).any(is_factored);
    let widths = card.joint.map(|joint| joint.channels.widths_of_layers());
    let has_widths = widths.is_some_and(|widths| widths.windows(2).any(|pair| pair[0] != pair[1]));
    match (has_experts, card.packed(), card.convolutions) {
        _ if has_widths => WIDTHS,
        (false, 0, 0) => CODE,
        (false, 0, _) => CONVOLUTIONS,
        (false, ..) => ALONE,
        (true, ..) => EXPERTS,
    }
}
