"""Models in transformers, on the CPU."""

import checks

checks.need("torch", "transformers")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
VERSIONS = f"transformers {transformers.__version__}, torch {torch.__version__}"


def load(folder, auto=AutoModelForCausalLM, **options):
    """The model of a directory, in f32 unless the options say otherwise."""
    return auto.from_pretrained(folder, **{"dtype": torch.float32} | options).eval()


@torch.no_grad()
def logits(model, rows):
    return model(input_ids=rows, use_cache=False).logits.float()


def furthest(one, other):
    """The largest difference of two tensors; NaN if there is one in them."""
    return (one - other).abs().max().item()


def relative(one, other):
    return abs(one / other - 1)
