"""Mutations of files that know their structure. All are functions of a `random.Random`."""

import json
import struct


class Object(list):
    """A JSON object as a list of pairs, so that keys can be there twice."""


class Raw(str):
    """Text that is put into JSON as it is."""


NUMBERS = ["0", "-1", "1", "2", "3", "7", "65536", "2147483648", "4294967295", "4294967296",
           "9223372036854775807", "9223372036854775808", "18446744073709551615",
           "18446744073709551616", "1e19", "1e308", "1e400", "-1e400", "NaN", "Infinity", "0.5",
           "1e-320", "-0.0", "1.5", "100000", "1e9"]
TEXTS = ["", "a", "\0", "\x1b[31m\x1b]0;t\x07", "../../etc/passwd", "/dev/zero", "</script><b>",
         "a\nb", "\u202e\u2028", "%s%n", "x" * 100_000, "\U0001f600", "model.safetensors", "F64",
         "llama", "float16", "\x7f\x9b"]
VALUES = ["null", "true", "false", "[]", "{}", '"1"', "[1]", "[[]]", '{"a":1}', '"\\ud800"',
          "[null]"]


def value(rng):
    """A value that is probably not expected."""
    kind = rng.randrange(8)
    if kind < 3:
        return Raw(rng.choice(NUMBERS))
    if kind < 5:
        return rng.choice(TEXTS)
    if kind < 7:
        return Raw(rng.choice(VALUES))
    depth = rng.choice([50, 127, 129, 2000, 100_000])
    return Raw("[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth)


def parse(text):
    return json.loads(text, object_pairs_hook=lambda pairs: Object(map(list, pairs)))


def write(node):
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Object):
        return "{" + ",".join(f"{json.dumps(k)}:{write(v)}" for k, v in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(write, node)) + "]"
    return json.dumps(node)


def spot(rng, node):
    """A random place: a container and an index in it. Not uniform, or long lists would get all."""
    while True:
        index = rng.randrange(len(node))
        child = node[index][1] if isinstance(node, Object) else node[index]
        if not isinstance(child, list) or not child or rng.random() < 0.35:
            return node, index
        node = child


def change(rng, root):
    """Changes a parsed document in one place."""
    if not isinstance(root, list) or not root:
        return value(rng)
    node, index = spot(rng, root)
    is_object = isinstance(node, Object)
    child = node[index][1] if is_object else node[index]
    kind = rng.randrange(9)
    if kind == 0:
        del node[index]
    elif kind == 1:
        copy = [node[index][0], value(rng)] if is_object else node[index]
        node.insert(rng.randrange(len(node) + 1), copy)
    elif kind == 2 and is_object:
        node[index][0] = rng.choice([*TEXTS, node[index][0] + "x"])
    elif kind == 3 and isinstance(child, list) and child:
        part = child[: rng.randrange(len(child))] if rng.random() < 0.5 else child * rng.choice([2, 50])
        child[:] = part
    elif kind == 4 and isinstance(child, (int, float)) and not isinstance(child, bool):
        changed = rng.choice([child + 1, child - 1, child * 2, -child, child * 1000, child / 3])
        put(node, index, is_object, changed)
    elif kind == 5:
        other, at = spot(rng, root)
        taken = other[at][1] if isinstance(other, Object) else other[at]
        # A copy: the same node twice could contain itself.
        put(node, index, is_object, Raw(write(taken)))
    else:
        put(node, index, is_object, value(rng))
    return root


def put(node, index, is_object, new):
    if is_object:
        node[index][1] = new
    else:
        node[index] = new


def document(rng, text, extra=None):
    """JSON with one to three changes; `extra` may put in something that only this format has."""
    root = parse(text)
    if extra and rng.random() < 0.3:
        root = extra(rng, root)
    for _ in range(rng.choice([0, 1, 1, 2]) if extra else rng.choice([1, 1, 2, 3])):
        try:
            root = change(rng, root)
        except (ValueError, OverflowError):
            root = value(rng)
    return write(root).encode("utf-8", "surrogatepass")


def json_file(rng, content, extra=None):
    if rng.random() < 0.15:
        return octets(rng, content)
    return document(rng, content.decode(), extra)


def json_lines(rng, content):
    lines = content.splitlines(keepends=True)
    kind = rng.randrange(6)
    at = rng.randrange(len(lines)) if lines else 0
    if not lines or kind == 0:
        return octets(rng, content)
    if kind == 1:
        lines.insert(at, rng.choice([b"\n", b"{}\n", b"null\n", b"[]\n", b"\xff\n", b"\0\n"]))
    elif kind == 2:
        del lines[at:]
    elif kind == 3:
        lines = lines * 3
    else:
        lines[at] = document(rng, lines[at].decode()) + b"\n"
    return b"".join(lines)


def octets(rng, content):
    """Any file: cut, flipped, spliced, overwritten."""
    data, kind = bytearray(content), rng.randrange(9)
    if not data:
        return rng.randbytes(rng.choice([1, 8, 100]))
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice([1, 2, 4, 8, 64, 1000]))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = data[rng.randrange(len(data)):][: end - at]
    elif kind == 4:
        data[at:end] = bytes([rng.choice([0, 255])]) * (end - at)
    elif kind == 5:
        data[at:at + 8] = struct.pack("<Q", rng.choice([0, 1, 1 << 31, 1 << 32, 1 << 40, 1 << 63, 2**64 - 1]))
    elif kind == 6:
        data[at:at] = rng.randbytes(end - at)
    elif kind == 7:
        data += rng.choice([b"\0" * 8, b"\n", b"{}", bytes(data)])
    else:
        data[:0] = rng.choice([b"\xef\xbb\xbf", b" ", b"\0", b"\xff\xfe"])
    return bytes(data)


def safetensors(rng, content):
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8:8 + length], content[8 + length:]
    kind = rng.randrange(8)
    if kind < 3:
        header = document(rng, header.decode())
    elif kind == 3:
        lie = rng.choice([0, 1, length - 1, length + 1, len(content), 1 << 32, 1 << 62, 2**64 - 1])
        return struct.pack("<Q", lie) + header + data
    elif kind == 4:
        header = moved(rng, header.decode())
    elif kind == 5:
        data = numbers(rng, data)
    elif kind == 6:
        data = octets(rng, data)
    else:
        return octets(rng, content)
    return struct.pack("<Q", len(header)) + header + data


def moved(rng, text):
    """Tensors that overlap, lie beyond the end, leave gaps, or have another type or shape."""
    root = json.loads(text)
    name = rng.choice([name for name in root if name != "__metadata__"])
    entry = root[name]
    start, end = entry["data_offsets"]
    kind = rng.randrange(6)
    if kind == 0:
        entry["data_offsets"] = rng.choice([[0, end - start], [end, start], [start, end + 1],
                                            [start + 1, end + 1], [2**63, 2**63 + end - start]])
    elif kind == 1:
        entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "I64", "F4"])
    elif kind == 2:
        entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [], [0],
                                     [2**32, 2**32], [2**63, 2], [1] * 1000])
    elif kind == 3:
        root[name + rng.choice(["x", "\0", "\x1b[31m", "/../x"])] = root.pop(name)
    elif kind == 4:
        del root[name]
    else:
        root |= {f"extra.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(3000)}
    return json.dumps(root).encode()


def numbers(rng, data):
    """Numbers that are none, infinite, huge or denormal, in 16 and 32 bits."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 20, 2000])):
        if len(data) >= 4:
            at = 4 * rng.randrange(len(data) // 4)
            data[at:at + 4] = struct.pack("<I", rng.choice(
                [0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0x00010001, 0x7FC07FC0, 0]))
    return bytes(data)


COMPONENTS = [
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": "aa"}},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 60}] * 8}},
    {"normalizer": {"type": "Prepend", "prepend": ""}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": {"type": "Unknown"}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(.*)*x"}, "behavior": "Isolated", "invert": False}},
    {"pre_tokenizer": {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": True}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
    {"pre_tokenizer": None},
    {"decoder": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}},
    {"decoder": {"type": "Strip", "content": " ", "start": 2**63, "stop": 2**63}},
    {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100_000}},
    {"decoder": None},
    {"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}},
    {"padding": {"strategy": {"Fixed": 2**62}, "direction": "Right", "pad_to_multiple_of": 0,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
    {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 0,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
    {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                        "pair": [], "special_tokens": {}}},
    {"added_tokens": [{"id": 2**32 - 1, "content": "a", "single_word": True, "lstrip": True,
                       "rstrip": True, "normalized": True, "special": False}]},
    {"added_tokens": [{"id": 0, "content": "", "single_word": False, "lstrip": True,
                       "rstrip": True, "normalized": False, "special": True}]},
    {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}},
    {"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]], "byte_fallback": True}},
    {"model": {"type": "Unigram", "unk_id": None, "vocab": [["", 0.0], ["a", float("inf")]]}},
    {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "max_input_chars_per_word": 0,
               "continuing_subword_prefix": "##"}},
    {"model": {"type": "BPE", "vocab": {"a": 4294967295, "b": 4294967295}, "merges": ["a b"]}},
    {"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 2.0}},
]


def component(rng, root):
    """A tokenizer with a part that its library can read and may not survive."""
    (name, new), = rng.choice(COMPONENTS).items()
    for pair in root:
        if pair[0] == name:
            pair[1] = Raw(json.dumps(new))
    return root


def tokenizer(rng, content):
    return json_file(rng, content, component)


def toml(rng, content):
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    key = lines[at].split("=")[0]
    if kind == 0:
        return octets(rng, content)
    if kind == 1:
        lines.insert(at, rng.choice(lines))
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines.insert(at, rng.choice(["[x]", "[train]", "err = 0.5", "x = " + "[" * 5000, "= 1", "a.b.c = 1",
                                     "steps = 1979-05-27T07:32:00Z", "[[compress]]", "\x1b = 1"]))
    else:
        new = rng.choice([*NUMBERS, '"x"', "[1]", "{}", "inf", "nan", "true", "''", '"\\u0000"', '"\\u001b[1m"'])
        lines[at] = f"{key}= {new}"
    return "\n".join(lines).encode()


def text(rng, content):
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return content[: rng.randrange(200)]
    if kind == 2:
        return b"a" * 300_000
    if kind == 3:
        return content + rng.choice([b"\0" * 100, "\u202e\U0010ffff\ufeff".encode(), b"\x1b[31m"])
    return octets(rng, content)
