"""Checks that transformers runs compressed directories by the code in them, or refuses them.

    pip install torch transformers safetensors        # peft and accelerate for more checks
    python transformers.py WELORE_BINARY [--all] [NAME ...]

Tiny models of several families (`--all`: of all, NAME: of these, or `head`, `forms` or `vllm`) are compressed by the binary,
with factors and with pivots, and what transformers computes with them is compared with what it computes with the dense
export of the same binary. Prints a line for each check, and exits with 1 if one failed.
"""

import contextlib
import copy
import io
import json
import math
import os
import shutil
import sys
import tempfile
import unittest.mock
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers", "safetensors")
os.environ |= {"ACCELERATE_USE_CPU": "true", "WANDB_DISABLED": "true"}

import models  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from checks import FIXTURES, WORK, check  # noqa: E402
from models import logits  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402

FAMILIES = ["llama", "qwen2", "gemma3", "phi3", "gpt2", "neox", "opt", "falcon", "mixtral"]
TOLERANCE = 1e-4
# How many times as far as the dense model's the logits may be off where numbers are rounded: a product with two factors,
# which are rounded as well, has more roundings than one with a matrix.
ROUNDED = 4
LACKS_ACCELERATE = checks.lacks("accelerate")
LACKS_PEFT = checks.lacks("peft", "accelerate")

warnings.filterwarnings("ignore")
# transformers asks before it runs code, and nobody answers.
sys.stdin = open(os.devnull)


def load(directory, auto=AutoModelForCausalLM, **options):
    return models.load(directory, auto, trust_remote_code=True, **options)


def refusal(directory, auto=AutoModelForCausalLM, **options):
    """The message with which transformers refuses a directory; none if it loads it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            auto.from_pretrained(directory, **options)
    except Exception as error:
        return str(error)
    return None


def tokens_of(model, rows=2, length=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (rows, length), generator=generator)


def gap(a, b):
    """The largest difference beside the larger of 1 and the largest number."""
    return ((a - b).abs().max() / max(1.0, b.abs().max().item())).item()


def middle_gap(a, b):
    """The same for the token that is in the middle by its largest difference."""
    return ((a - b).abs().amax(-1).median() / max(1.0, b.abs().max().item())).item()


def low_rank(model):
    return {name: part for name, part in model.named_modules() if type(part).__name__ == "LowRankLinear"}


def part_of(layers, name):
    """The layer of a matrix, whose name can have a prefix more or less than the layer's."""
    if name == "embed_out" and name not in layers:
        name = "lm_head"  # GPT-NeoX in transformers 5
    return next((part for path, part in layers.items() if name.endswith(path) or path.endswith(name)), None)


def stored(directory):
    tensors = {}
    for file in Path(directory).glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(file)
    return tensors


def with_experts_named(source, folder):
    """The model with the number of experts under the name by which transformers 4 reads it of Qwen3-MoE, too."""
    config = json.loads((source / "config.json").read_text())
    if "num_local_experts" not in config or int(transformers.__version__.split(".")[0]) >= 5:
        return source
    named = shutil.copytree(source, folder / "named")
    (named / "config.json").write_text(json.dumps(config | {"num_experts": config["num_local_experts"]}))
    return named


class Case:
    """A model of one family in one form."""

    def __init__(self, welore, family, storage, *options):
        self.welore = welore
        self.what = f"{family} {storage}"
        # More than one check may ask for the same model.
        folder = Path(tempfile.mkdtemp(prefix=f"{family}_{storage}_", dir=WORK))
        wide, self.low, self.dense, self.again = (folder / name for name in ("wide", "low", "dense", "again"))
        source = FIXTURES / f"tiny-{family}"
        if welore.done("export", source, "--dtype", "f32", "-o", wide).returncode == 0:
            source = wide
        source = with_experts_named(source, folder)
        sizes = ["--keep-params", "0.6", "--no-calibration"]
        welore.run("compress", source, *sizes, "--storage", storage, *options, "-o", self.low)
        welore.run("export", self.low, "--dense", "-o", self.dense)
        self.config = json.loads((self.low / "config.json").read_text())

    def check(self, holds, what, detail=""):
        check(holds, f"{self.what}: {what}", detail)

    def ranks(self):
        return self.config["welore"]["factors"] | self.config["welore"]["pivots"]

    def refuses_and_loads(self):
        said = refusal(self.low) or "it was loaded"
        self.check("trust_remote_code=True" in said, "refused without trust_remote_code", said.split("\n")[0][:70])
        config = json.loads((self.dense / "config.json").read_text())
        family = json.loads((FIXTURES / f"tiny-{self.what.split()[0]}" / "config.json").read_text())
        clean = all(config.get(key) == family.get(key) for key in ("model_type", "architectures", "auto_map", "welore"))
        self.check(clean and not list(self.dense.glob("*.py")), "the dense export is a plain directory of the family")

        self.model = load(self.low)
        plain = models.load(self.dense)
        self.tokens = tokens_of(self.model)
        self.logits, self.expected = logits(self.model, self.tokens), logits(plain, self.tokens)
        found = gap(self.logits, self.expected)
        self.check(found < TOLERANCE, "logits are those of the dense export", f"{found:.1e}")
        layers, ranks = low_rank(self.model), self.ranks()
        parts = {name: part_of(layers, name) for name in ranks}
        right = len(layers) == len(ranks) and all(
            part is not None and part.V.weight.shape[0] == ranks[name] and isinstance(part.V, torch.nn.Linear)
            for name, part in parts.items()
        )
        self.check(right and len(ranks) > 0, "factors are linear layers of these ranks", f"{len(ranks)} matrices")
        stands = type(self.model).__mro__[1] is type(plain) and self.model._no_split_modules == plain._no_split_modules
        self.check(stands, "it is the class of the family", type(plain).__name__)
        self.generates(plain)
        _, info = AutoModel.from_pretrained(self.dense, output_loading_info=True)
        if info["missing_keys"]:  # Gemma 3 in transformers 4.57
            said = refusal(self.low, AutoModel, trust_remote_code=True) or "it was loaded"
            self.check("are missing" in said, "AutoModel is refused where transformers has other names for its tensors")
            return
        body = load(self.low, AutoModel)
        with torch.no_grad():
            ours, theirs = (m(self.tokens).last_hidden_state for m in (body, plain.base_model))
        self.check(gap(ours, theirs) < TOLERANCE, "AutoModel gives the same states", f"{gap(ours, theirs):.1e}")

    def generates(self, plain):
        options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
        ours, without, theirs = (
            model.generate(self.tokens[:, :8], attention_mask=torch.ones(2, 8), use_cache=cache, **options)
            for model, cache in ((self.model, True), (self.model, False), (plain, True))
        )
        same = ours.tolist() == theirs.tolist() == without.tolist()
        self.check(same, "generates the same tokens, with a cache and without")

    def types(self):
        # With experts, a rounded number can lead a token elsewhere.
        rounded = middle_gap if "num_experts_per_tok" in self.config else gap

        def dense(**options):
            plain = models.load(self.dense, **options)
            if hasattr(plain, "set_experts_implementation") and "num_experts_per_tok" in self.config:
                # Transformers 5 multiplies by the experts of its own classes together, which needs rows of 16 bytes.
                plain.set_experts_implementation("eager")
            return plain

        def check_rounded(what, ours, theirs):
            """What rounding does to the logits, beside what it does to those of the dense export."""
            in_f32 = [{name for name, part in m.named_parameters() if part.dtype == torch.float32} for m in (ours, theirs)]
            found = rounded(logits(ours, self.tokens), self.logits)
            usual = rounded(logits(theirs, self.tokens), self.expected)
            # transformers keeps some of a family in f32: norms of gpt-oss, routers of DeepSeek.
            right = in_f32[0] == in_f32[1] and found < ROUNDED * usual
            self.check(right, what, f"{found:.1e}, and {usual:.1e} in the dense export")

        for dtype in (torch.bfloat16, torch.float16):
            check_rounded(f"dtype={str(dtype)[6:]}", load(self.low, dtype=dtype), dense(dtype=dtype))
        check_rounded(".half() of a copy", copy.deepcopy(self.model).half(), dense().half())

    def devices(self):
        if not LACKS_ACCELERATE:
            from accelerate import cpu_offload

            for place in ("cpu", "auto"):
                found = gap(logits(load(self.low, device_map=place), self.tokens), self.logits)
                self.check(found < TOLERANCE, f'device_map="{place}"', f"{found:.1e}")
            model = cpu_offload(load(self.low), torch.device("cpu"))
            found = gap(logits(model, self.tokens), self.logits)
            self.check(found < TOLERANCE, "with hooks of accelerate", f"{found:.1e}")
        made_empty = AutoModelForCausalLM.from_config(load_config(self.low), trust_remote_code=True)
        self.check(len(low_rank(made_empty)) == len(self.ranks()), "from_config has the layers")

    def saves(self):
        self.model.save_pretrained(self.again)
        before, after = stored(self.low), stored(self.again)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        odd = sorted(before.keys() ^ after.keys())[:3]
        self.check(same, "saves the same tensors", f"{len(after)}{odd or ''}")
        config = json.loads((self.again / "config.json").read_text())
        keys = ("model_type", "auto_map", "welore", "architectures")
        self.check(all(config.get(key) == self.config[key] for key in keys), "saves what config.json says of the factors")
        found = gap(logits(load(self.again), self.tokens), self.logits)
        self.check(found < TOLERANCE, "loads what it saved", f"{found:.1e}")
        said = refusal(self.again) or "it was loaded"
        self.check("trust_remote_code=True" in said, "what it saved is refused without trust_remote_code")
        merged = self.again.with_name("merged")
        self.welore.run("export", self.again, "--dense", "-o", merged)
        found = gap(logits(models.load(merged), self.tokens), self.logits)
        self.check(found < TOLERANCE, "welore reads what it saved", f"{found:.1e}")

    def trains(self):
        grads = []
        for checkpointing in (False, True):
            model = load(self.low).train()
            if checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                model.config.use_cache = False
            torch.manual_seed(0)
            model(self.tokens, labels=self.tokens).loss.backward()
            grads.append({name: part.V.weight.grad for name, part in low_rank(model).items()})
        there = all(grad is not None and grad.abs().max() > 0 for both in grads for grad in both.values())
        gaps = [gap(grads[1][name], grads[0][name]) for name in grads[0]] if there else []
        right = there and all(found < TOLERANCE for found in gaps)
        self.check(right, "backward, with gradient checkpointing and without", f"{max(gaps, default=math.nan):.1e}")

    def adapts(self):
        from peft import LoraConfig, get_peft_model

        model = load(self.low)
        # Of mixtures in transformers 5 PEFT takes all modules with the last name of a linear layer: `k_proj`, `V`, `U`.
        factored = list(self.ranks()) if "num_experts_per_tok" in self.config else None
        config = LoraConfig(r=2, target_modules="all-linear", exclude_modules=factored, task_type="CAUSAL_LM")
        torch.manual_seed(0)
        model = get_peft_model(model, config)
        inner = sum(".V.lora_A" in name for name, _ in model.named_parameters())
        loss = model(self.tokens, labels=self.tokens).loss
        loss.backward()
        trained = [part for part in model.parameters() if part.grad is not None]
        start, steepness = [part.detach().clone() for part in trained], sum(part.grad.square().sum() for part in trained)

        @torch.no_grad()
        def loss_after(expected):
            """The loss after a step down the gradient that lowers it by this much, if it goes on as it begins."""
            for part, was in zip(trained, start):
                part.copy_(was - expected / steepness * part.grad)
            return model(self.tokens, labels=self.tokens).loss.item()

        # A step is short enough at some length; with experts, a longer one leads tokens elsewhere.
        falls = {expected: loss.item() - loss_after(expected) for expected in (1e-2, 1e-3, 1e-4)}
        right = inner == len(self.ranks()) and any(0.5 < fall / expected < 1.5 for expected, fall in falls.items())
        said = ", ".join(f"{fall:.1e} for {expected:.0e}" for expected, fall in falls.items())
        self.check(right, "LoRA of PEFT on all linear layers, the loss falls in one step", said)
        after = loss_after(0.1)
        with torch.no_grad():
            found, step = abs(model.merge_and_unload()(self.tokens, labels=self.tokens).loss.item() - after), loss.item() - after
        self.check(found < 0.01 * abs(step), "LoRA merges into the factors", f"{found:.1e}, beside {step:.1e} without it")

    def steps(self):
        from transformers import Trainer, TrainingArguments

        rows = [{"input_ids": row, "labels": row} for row in self.tokens]
        output = self.again.with_name("trainer")
        args = TrainingArguments(
            output_dir=str(output), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            disable_tqdm=True, logging_strategy="no", learning_rate=1e-3, gradient_checkpointing=True, save_strategy="no",
        )
        model = load(self.low)
        before = {name: part.V.weight.detach().clone() for name, part in low_rank(model).items()}
        trainer = Trainer(model=model, args=args, train_dataset=rows)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        moved = all(not torch.equal(part.V.weight, before[name]) for name, part in low_rank(model).items())
        trainer.save_model(str(output))
        found = gap(logits(load(output), self.tokens), logits(model.eval(), self.tokens))
        self.check(moved and found < TOLERANCE, "one step of Trainer, saved and loaded", f"{found:.1e}")

    def all(self):
        steps = [self.refuses_and_loads, self.types, self.devices, self.saves, self.trains]
        steps += [] if LACKS_PEFT else [self.adapts]
        steps += [] if LACKS_ACCELERATE else [self.steps]
        for step in steps:
            try:
                step()
            except Exception as error:
                self.check(False, step.__name__, f"{type(error).__name__}: {error}")


def load_config(directory):
    return AutoConfig.from_pretrained(directory, trust_remote_code=True)


def check_family(welore, family, storage):
    """All checks of a family in a form; experts only where transformers has layers for them."""
    try:
        case = Case(welore, family, storage)
        if any(".experts." in name for name in case.ranks()):
            said = refusal(case.low, trust_remote_code=True)
            if said is not None:
                clear = "matrix of one expert" in said and "export DIR --dense" in said
                check(clear, f"{family} {storage}: factored experts are refused", said.split(";")[0][:80])
                case = Case(welore, family, storage, "--exclude", "*.experts.*")
        case.all()
    except Exception as error:
        check(False, f"{family} {storage}", f"{type(error).__name__}: {error}")


def check_head(welore):
    """A head that is factored as well."""
    for family, head, other in (("phi3", "lm_head", "down_proj"), ("neox", "embed_out", "dense_4h_to_h")):
        case = Case(welore, family, "pivot", "--include", f"{head},{other}")
        case.what = f"{family} with its head"
        if head not in case.ranks():
            check(False, case.what, f"{sorted(case.ranks())[:3]}")
        else:
            case.refuses_and_loads()
            case.saves()


def check_unknown_forms(welore):
    """Directories that only the binary reads must not load, whatever is passed."""
    text = ["--calibrate", checks.STORY, "--calibration-seq-len", "64", "--calibration-windows", "4"]
    for what, words in (
        ("blocks", ["--for", "welore", "--forms", "blocks,factors", "--max-bytes", "200kB"]),
        ("widths of MLPs", ["--forms", "channels,factors", "--widths", "each", "--keep-params", "0.7", "--width-multiple", "8"]),
    ):
        low = WORK / f"unknown {what}"
        welore.run("compress", FIXTURES / "tiny-llama", *words, *text, "-o", low)
        config = json.loads((low / "config.json").read_text())
        if "welore" not in config:
            check(isinstance(config["intermediate_size"], list), f"llama with {what}: nothing is factored")
        for trust in (None, True):
            said = refusal(low, trust_remote_code=trust)
            check(said is not None, f"llama with {what}: refused, trust_remote_code={trust}", (said or "").split("\n")[0][:80])


def check_vllm(welore):
    """What vLLM asks of a model, which it makes without weights and with an attention of its own."""
    transformers.AttentionInterface.register("vllm", sdpa_attention_forward)
    # A layer's MLP has all its factors, and the other's has not.
    case = Case(welore, "llama", "factors", "--exclude", "*.layers.0.mlp.gate_proj")
    config = load_config(case.low)
    config._attn_implementation = "vllm"
    body, plain = AutoModel.from_config(config, trust_remote_code=True).eval(), load(case.low, AutoModel)
    body.load_state_dict(plain.state_dict())
    tokens = tokens_of(plain)
    with torch.no_grad():
        ours, theirs = (model(tokens, use_cache=False).last_hidden_state for model in (body, plain))
    check(gap(ours, theirs) < TOLERANCE, "for vLLM: the same states", f"{gap(ours, theirs):.1e}")
    kinds = {}
    for part in body.modules():
        factored = frozenset(name for name, child in part.named_children() if type(child).__name__ == "LowRankLinear")
        kinds.setdefault(type(part), set()).add(factored)
    perceptrons = [kind for kind in kinds if kind.__name__ == "LlamaMLP"]
    alike = all(len(sets) == 1 for sets in kinds.values())
    check(alike and len(perceptrons) == 2, "for vLLM: modules of a class have the same factors", f"{len(kinds)} classes")

    def made_for_vllm(config):
        try:
            AutoModel.from_config(config, trust_remote_code=True)
        except ValueError as error:
            return str(error)
        return "it was made"

    with unittest.mock.patch.object(type(plain).__mro__[1], "_supports_attention_backend", False):
        said = made_for_vllm(config)
    check("does not let vLLM compute its attention" in said, "for vLLM: refused where it cannot compute the attention", said[:80])
    config = load_config(Case(welore, "phi3", "factors", "--include", "lm_head,down_proj").low)
    config._attn_implementation = "vllm"
    said = made_for_vllm(config)
    check("a layer of its own for `lm_head`" in said, "for vLLM: a head with factors is refused", said[:80])
    config = load_config(Case(welore, "gpt-oss", "factors").low)
    config._attn_implementation = "vllm"
    said = made_for_vllm(config)
    check("has no sinks" in said, "for vLLM: attention with sinks is refused", said[:80])


OTHERS = {"head": check_head, "forms": check_unknown_forms, "vllm": check_vllm}


def families():
    return sorted(path.name.removeprefix("tiny-") for path in FIXTURES.glob("tiny-*"))


def main(welore, *words):
    known = [*families(), *OTHERS]
    unknown = [word for word in words if word != "--all" and word not in known]
    if unknown:
        sys.exit(f"{checks.NAME}: {', '.join(unknown)} is none of --all, {', '.join(known)}")
    print(models.VERSIONS)
    if LACKS_ACCELERATE:
        checks.skipped(f"device_map and Trainer: {LACKS_ACCELERATE}")
    if LACKS_PEFT:
        checks.skipped(f"LoRA of PEFT: {LACKS_PEFT}")
    for name in known if "--all" in words else words or [*FAMILIES, *OTHERS]:
        if name not in OTHERS:
            for storage in ("factors", "pivot"):
                check_family(welore, name, storage)
            continue
        try:
            OTHERS[name](welore)
        except Exception as error:
            check(False, name, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    checks.run(main, __doc__, most=sys.maxsize - 1)
