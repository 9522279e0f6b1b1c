"""Tokenizers for tiny models."""

import json


def begun_by(token, number):
    """The post-processor that puts a token before a text."""
    special, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing", "single": [special, text],
        "pair": [special, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def characters(tokens, special=(), **parts):
    """A `tokenizer.json` whose tokens are `special` and then `tokens`, without merges."""
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    added = [{"id": number, "content": name, "special": True} | flags for number, name in enumerate(special)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>" if "<unk>" in special else None,
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, "merges": [],
        "vocab": {name: number for number, name in enumerate([*special, *tokens])},
    }
    names = ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
    return {"version": "1.0", "added_tokens": added, "model": model} | dict.fromkeys(names) | parts


def write(folder, tokenizer, bos, eos):
    """Writes a tokenizer and the names of its special tokens, for transformers, into the directory of a model."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
