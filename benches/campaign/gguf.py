"""Small GGUF files of a model directory, and files that lie about what is in them."""

import json
import struct

from mutations import octets

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}
TYPES = {"F32": 0, "F16": 1, "BF16": 30}
U32, F32, TEXT, LIST = 4, 6, 8, 9


def name_of(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, *middle, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.weight"


def of_model(directory):
    """Metadata as (key, type, value), and tensors as (name, shape, type, bytes)."""
    config = json.loads((directory / "config.json").read_text())
    content = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    header.pop("__metadata__", None)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    sizes = {"embedding_length": config["hidden_size"], "block_count": config["num_hidden_layers"],
             "feed_forward_length": config["intermediate_size"],
             "context_length": config["max_position_embeddings"],
             "attention.head_count": config["num_attention_heads"],
             "attention.head_count_kv": config["num_key_value_heads"],
             "attention.key_length": width, "attention.value_length": width,
             "rope.dimension_count": width}
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [f"unused{i}" for i in range(len(tokens), config["vocab_size"])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    meta = [("general.architecture", TEXT, "llama"),
            *((f"llama.{key}", U32, size) for key, size in sizes.items()),
            ("llama.attention.layer_norm_rms_epsilon", F32, config["rms_norm_eps"]),
            ("llama.rope.freq_base", F32, theta),
            ("tokenizer.ggml.model", TEXT, "gpt2"), ("tokenizer.ggml.pre", TEXT, "gpt-2"),
            ("tokenizer.ggml.bos_token_id", U32, 0), ("tokenizer.ggml.eos_token_id", U32, 0),
            ("tokenizer.ggml.tokens", LIST, (TEXT, tokens)), ("tokenizer.ggml.merges", LIST, (TEXT, merges))]
    tensors = [(name_of(name), entry["shape"], TYPES[entry["dtype"]], data[slice(*entry["data_offsets"])])
               for name, entry in header.items()]
    return meta, tensors


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def encoded(kind, value):
    if kind == TEXT:
        return text(value)
    if kind == LIST:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(encoded(inner, x) for x in items)
    return struct.pack({U32: "<I", F32: "<f"}[kind], value)


def write(meta, tensors, counts=(0, 0), alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", 3, (len(tensors) + counts[0]) % 2**64, (len(meta) + counts[1]) % 2**64)
    for key, kind, value in meta:
        out += text(key) + struct.pack("<I", kind) + (value if isinstance(value, bytes) else encoded(kind, value))
    data = b""
    for name, shape, kind, content in tensors:
        data += b"\0" * (-len(data) % alignment)
        out += text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", n % 2**64) for n in reversed(shape))
        out += struct.pack("<IQ", kind, len(data))
        data += content
    return out + b"\0" * (-len(out) % alignment) + data


def mutated(rng, meta, tensors):
    meta, tensors = list(meta), list(tensors)
    kind = rng.randrange(9)
    i, j = rng.randrange(len(meta)), rng.randrange(len(tensors))
    key, _, _ = meta[i]
    name, shape, form, content = tensors[j]
    if kind == 0:
        del meta[i]
    elif kind == 1:
        new = rng.choice([(U32, rng.choice([0, 1, 3, 2**31, 2**32 - 1])), (F32, float("nan")), (TEXT, "\x1b[1m"),
                          (LIST, (TEXT, [])), (LIST, (U32, [1] * 5)), (LIST, (TEXT, ["", "\0", "t0", "t0"])), (F32, -1.0)])
        meta[i] = (key, *new)
    elif kind == 2:
        # A list of lists, a list that says that it is long, a type that there is not.
        meta[i] = (key, *rng.choice([
            (LIST, struct.pack("<IQ", LIST, 1) * 2000 + struct.pack("<IQ", U32, 0)),
            (LIST, struct.pack("<IQ", U32, 2**61)), (LIST, struct.pack("<IQ", TEXT, 2**40)),
            (TEXT, struct.pack("<Q", 2**63)), (99, b"")]))
    elif kind == 3:
        tensors[j] = (name, rng.choice([shape[::-1], [], [0], [2**32, 2**32], [2**63], [1] * 9, [*shape, 1]]), form, content)
    elif kind == 4:
        tensors[j] = (name, shape, rng.choice([0, 1, 2, 8, 12, 30, 99, 2**32 - 1]), content)
    elif kind == 5:
        tensors[j:j + 1] = rng.choice([[], [tensors[j]] * 2, [("blk.99.x\x1b", shape, form, content)]])
    elif kind == 6:
        return write(meta, tensors, counts=rng.choice([(1, 0), (-1, 0), (0, 1), (2**62, 0), (0, 2**62)]))
    elif kind == 7:
        tensors[j] = (name, shape, form, octets(rng, content))
    else:
        return octets(rng, write(meta, tensors))
    return write(meta, tensors)
