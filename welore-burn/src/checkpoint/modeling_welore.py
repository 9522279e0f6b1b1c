"""Runs a model directory that welore compressed in transformers, with its factored matrices as they are stored.

    model = AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)

`config.json` says under `welore` which model this is, and the ranks of the matrices that are not dense. The model is transformers'
own, except for the layers of these matrices. A matrix X, [out, in] and of rank r, is

    factors   X.V.weight [r, in], X.U.weight [out, r]                  X = U V
    pivots    X.V.weight [r, in], X.C.weight [out - r, r], X.pivots [r]
              the rows of X with the numbers in `pivots` are the rows of V;
              the others, in rising order, are the rows of C V

and a bias is still X.bias. Works in transformers 4.57 and 5.
"""

import shutil
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

DENSE = "`welore-cli export DIR --dense -o OUT` writes a dense model that transformers loads by itself"

AUTO_MAP = {
    "AutoConfig": "modeling_welore.WeLoreConfig",
    "AutoModel": "modeling_welore.WeLoreModel",
    "AutoModelForCausalLM": "modeling_welore.WeLoreForCausalLM",
}


class LowRankLinear(nn.Module):
    """A linear layer that multiplies by two matrices, one after the other."""

    def __init__(self, in_features, out_features, rank, bias=False, pivots=False):
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.V = nn.Linear(in_features, rank, bias=False)
        if pivots:
            self.C = nn.Linear(rank, out_features - rank, bias=False)
            self.register_buffer("pivots", torch.arange(rank, dtype=torch.int32))
        else:
            self.U = nn.Linear(rank, out_features, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.order, self.order_is_of = None, None

    def forward(self, x):
        z = self.V(x)
        y = self.U(z) if hasattr(self, "U") else torch.cat([z, self.C(z)], -1)[..., self.places()]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def places(self):
        """Where each output is among the pivots followed by the others."""
        pivots = self.pivots
        if self.order_is_of is not pivots or self.order.device != pivots.device:
            places = torch.arange(self.rank, device=pivots.device)
            is_other = torch.ones(self.out_features, dtype=torch.long, device=pivots.device)
            is_other[pivots.long()] = 0
            order = self.rank - 1 + is_other.cumsum(0)
            order[pivots.long()] = places
            self.order, self.order_is_of = order, pivots
        return self.order

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.order, self.order_is_of = None, None

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


class SplitExperts(nn.Module):
    """The experts of a layer of gpt-oss, each with linear layers of its own, as a directory has them.

    transformers has the matrices of all experts in two tensors, which cannot have factors.
    """

    def __init__(self, experts):
        super().__init__()
        self.alpha, self.limit = experts.alpha, experts.limit
        width, hidden = experts.intermediate_size, experts.hidden_size
        for number in range(experts.num_experts):
            expert = nn.Module()
            expert.gate_proj, expert.up_proj = nn.Linear(hidden, width), nn.Linear(hidden, width)
            expert.down_proj = nn.Linear(width, hidden)
            self.add_module(str(number), expert)

    def forward(self, hidden_states, router_indices=None, routing_weights=None):
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        if hidden_states.dim() == 3 or routing_weights.shape != router_indices.shape:
            # transformers 4.57 gives the weights of all experts, and not only of those that a token goes to.
            routing_weights = routing_weights.gather(1, router_indices)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.children()):
            rows, places = torch.where(router_indices == number)
            if len(rows) == 0:
                continue
            gate = expert.gate_proj(x[rows]).clamp(max=self.limit)
            up = expert.up_proj(x[rows]).clamp(-self.limit, self.limit)
            made = expert.down_proj((up + 1) * (gate * torch.sigmoid(gate * self.alpha)))
            y.index_add_(0, rows, (made * routing_weights[rows, places, None]).to(y.dtype))
        return y.view_as(hidden_states)


def split_experts(model):
    """Gives experts that are stored one by one, and whose tensors transformers does not put together, layers of their own."""
    for place, part in list(model.named_modules()):
        if type(part).__name__ == "GptOssExperts":
            parent, _, child = place.rpartition(".")
            setattr(model.get_submodule(parent), child, SplitExperts(part))


def matrices_of(config):
    """The name, rank and form of each matrix that is not dense."""
    return [(name, rank, form) for form in ("factors", "pivots") for name, rank in config.welore[form].items()]


def is_for_vllm(config):
    """Whether vLLM makes a model, which computes the attention itself."""
    return getattr(config, "_attn_implementation", None) == "vllm"


def refuse_for_vllm(model, config):
    """Refuses what vLLM could not load, or would compute wrongly: it does not ask the class of the family."""
    if config.model_type == "gpt_oss":
        raise ValueError(f"vLLM's attention for models of transformers has no sinks, which gpt-oss has. {DENSE}.")
    prefix = model.base_model_prefix + "."
    head = [name for name, _, _ in matrices_of(config) if not name.startswith(prefix)]
    if head:
        raise ValueError(f"vLLM has a layer of its own for `{head[0]}`, which cannot have factors. {DENSE}.")
    if not model.is_backend_compatible():
        raise ValueError(f"transformers' {model.__name__} does not let vLLM compute its attention. {DENSE}.")


@lru_cache(maxsize=None)
def class_for(parent, children):
    """A class of the modules of class `parent` in which these children have factors.

    vLLM looks for layers to merge in the first module of each class, and then merges them in every module of it.
    """
    return type(parent.__name__, (parent,), {"children_with_factors": children})


def put_matrices(model, is_base):
    """Puts layers in the place of the dense ones of the matrices that `config.welore` lists."""
    split_experts(model)
    prefix = model.base_model_prefix + "."
    children = {}
    for name, rank, form in matrices_of(model.config):
        path = name
        if is_base:
            if not name.startswith(prefix):
                continue
            path = name[len(prefix) :]
        if path == "embed_out" and not hasattr(model, path):
            path = "lm_head"  # GPT-NeoX in transformers 5, which renames the tensors
        try:
            dense = model.get_submodule(path)
        except AttributeError:
            if ".experts." in name:
                raise ValueError(
                    f"`{name}` is a matrix of one expert; this version of transformers keeps those of all experts "
                    f"in one tensor, which cannot have factors. {DENSE}."
                ) from None
            raise ValueError(f"transformers' {type(model).__mro__[1].__name__} has no `{name}`. {DENSE}.") from None
        if isinstance(dense, nn.Linear):
            d_output, d_input = dense.out_features, dense.in_features
        elif type(dense).__name__ == "Conv1D":
            d_input, d_output = dense.weight.shape
        else:
            raise ValueError(f"`{name}` is a {type(dense).__name__} in transformers, which cannot have factors. {DENSE}.")
        if not 0 < rank <= min(d_input, d_output):
            raise ValueError(f"config.json: `{name}` [{d_output}, {d_input}] cannot have {form} of rank {rank}")
        has_bias = getattr(dense, "bias", None) is not None
        place, _, child = path.rpartition(".")
        children.setdefault(place, []).append(child)
        layer = LowRankLinear(d_input, d_output, rank, has_bias, pivots=form == "pivots")
        parent = model.get_submodule(place)
        setattr(parent, child, layer)
        if not list(parent.parameters(recurse=False)):
            # transformers 5 would draw numbers for `weight` of a child that has it no longer (GPT-2).
            parent._is_hf_initialized = True
    if is_for_vllm(model.config):
        for place, names in children.items():
            parent = model.get_submodule(place)
            parent.__class__ = class_for(type(parent), tuple(sorted(names)))


def saved(config):
    """What a `config.json` has beside the fields of the dense model."""
    if not hasattr(config, "welore"):  # one that nothing was read into
        return {}
    model_type = config.welore["base"]["model_type"]
    return {"model_type": f"welore_{model_type}", "auto_map": dict(AUTO_MAP), "architectures": ["WeLoreForCausalLM"]}


@lru_cache(maxsize=None)
def config_class(model_type):
    """The configuration of a family with the key `welore`. In memory its `model_type` is that of the family."""
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"this version of transformers has no models of type `{model_type}`")
    base = CONFIG_MAPPING[model_type]

    class Config(base):
        # How a layer would be cut over devices is not how its factors would be.
        base_model_tp_plan = None

        @classmethod
        def get_config_dict(cls, *args, **kwargs):
            config, kwargs = super().get_config_dict(*args, **kwargs)
            return config | {"model_type": cls.model_type}, kwargs

        def to_dict(self):
            return super().to_dict() | saved(self)

        def to_diff_dict(self):
            return super().to_diff_dict() | saved(self)

        def save_pretrained(self, save_directory, *args, **kwargs):
            super().save_pretrained(save_directory, *args, **kwargs)
            source, copy = Path(__file__), Path(save_directory) / "modeling_welore.py"
            if not copy.exists() or not copy.samefile(source):
                shutil.copyfile(source, copy)

    return named(Config, f"WeLore{base.__name__}")


@lru_cache(maxsize=None)
def model_class(config, is_base):
    """transformers' model of a configuration of `config_class`, with the layers of its matrices."""
    if not config.__name__.startswith("WeLore"):
        raise ValueError("`config` has to come from `AutoConfig.from_pretrained(DIR, trust_remote_code=True)`")
    mapping = MODEL_MAPPING if is_base else MODEL_FOR_CAUSAL_LM_MAPPING
    base = mapping.get(config.__mro__[1], None)
    if base is None:
        raise ValueError(f"transformers has no causal language model of type `{config.model_type}`. {DENSE}.")
    base = base[0] if isinstance(base, tuple) else base

    class Model(base):
        config_class = config
        _tp_plan = {}

        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            put_matrices(self, is_base)

        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            wants_info = kwargs.pop("output_loading_info", False)
            model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
            missing = sorted(info["missing_keys"])
            if missing:  # transformers would go on with random numbers
                raise ValueError(f"tensors of the model are missing: {', '.join(missing[:5])}. {DENSE}.")
            return (model, info) if wants_info else model

        @classmethod
        def is_custom_code(cls):
            # Tensors have the names that the family's have in files, some of which transformers 5 changes by the
            # name of the class, if it is its own.
            return False

    return named(Model, base.__name__)


def named(made, name):
    """A class under the name that it has in files."""
    made.__name__ = made.__qualname__ = name
    made.__module__ = __name__
    return made


class WeLoreConfig:
    """What `AutoConfig` asks for: gives a configuration of the family that `config.json` names."""

    @classmethod
    def from_pretrained(cls, directory, **kwargs):
        config, _ = PretrainedConfig.get_config_dict(directory, **dict(kwargs))
        model_type = config["welore"]["base"]["model_type"]
        if model_type == "mistral" and "layer_types" in config and "ministral" in CONFIG_MAPPING:
            model_type = "ministral"  # as AutoConfig does
        return config_class(model_type).from_pretrained(directory, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig"):
        """Saving does all of it."""


class WeLoreForCausalLM:
    """What `AutoModelForCausalLM` asks for: gives the model of the family."""

    is_base = False

    @classmethod
    def from_pretrained(cls, directory, *args, config=None, **kwargs):
        if not isinstance(config, PretrainedConfig):
            config = WeLoreConfig.from_pretrained(directory if config is None else config)
        return model_class(type(config), cls.is_base).from_pretrained(directory, *args, config=config, **kwargs)

    @classmethod
    def _from_config(cls, config, **kwargs):
        model = model_class(type(config), cls.is_base)
        if is_for_vllm(config):
            refuse_for_vllm(model, config)
        return model._from_config(config, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModelForCausalLM"):
        """Saving does all of it."""

    @classmethod
    def is_backend_compatible(cls):
        """What vLLM asks before it makes a model, here without its family: `refuse_for_vllm` tells more."""
        return True


class WeLoreModel(WeLoreForCausalLM):
    """The same for `AutoModel`: the model without its head."""

    is_base = True
