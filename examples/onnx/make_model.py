"""Makes model.onnx, and in expected.json what ONNX computes with it.

    pip install numpy onnx
    python make_model.py

Two residual blocks in the way of a transformer's, between an embedding and a classifier. Linear
layers are written as PyTorch exports them: `Gemm` with a transposed weight, or `MatMul` and `Add`
for the embedding. Their weights have a few strong directions and a tail, each another tail, as
trained ones do. The seed is fixed. Made with numpy 2.4 and onnx 1.23.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).resolve().parent
INPUT, WIDTH, HIDDEN, CLASSES = 48, 64, 128, 10
rng = np.random.default_rng(0)
nodes, weights = [], []


def store(name, values):
    weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return name


def matrix(rows, cols, decay):
    """Random directions, with the k-th singular value in proportion to exp(-decay k / full)."""
    full = min(rows, cols)
    left = np.linalg.qr(rng.standard_normal((rows, full)))[0]
    right = np.linalg.qr(rng.standard_normal((cols, full)))[0]
    values = np.exp(-decay * np.arange(full) / full)
    # The norm of a usual initialization keeps activations at their scale.
    values *= np.sqrt(rows / np.sum(values**2))
    return left * values @ right.T


def gemm(x, name, rows, cols, decay):
    weight = store(f"{name}.weight", matrix(rows, cols, decay))
    bias = store(f"{name}.bias", 0.1 * rng.standard_normal(rows))
    # burn-onnx makes a linear layer only of a Gemm that says its alpha and beta.
    return node("Gemm", [x, weight, bias], name, alpha=1.0, beta=1.0, transB=1)


def node(kind, inputs, output, **attributes):
    nodes.append(helper.make_node(kind, inputs, [output], **attributes))
    return output


weight = store("embed.weight", matrix(WIDTH, INPUT, 1.0).T)
x = node("MatMul", ["input", weight], "embed.product")
x = node("Add", [x, store("embed.bias", 0.1 * rng.standard_normal(WIDTH))], "embed")
for block, (up, down) in enumerate([(8.0, 6.0), (10.0, 2.0)]):
    scale = store(f"norm{block}.weight", 1.0 + 0.1 * rng.standard_normal(WIDTH))
    shift = store(f"norm{block}.bias", 0.1 * rng.standard_normal(WIDTH))
    h = node("LayerNormalization", [x, scale, shift], f"norm{block}", axis=-1, epsilon=1e-5)
    h = node("Relu", [gemm(h, f"up{block}", HIDDEN, WIDTH, up)], f"relu{block}")
    x = node("Add", [x, gemm(h, f"down{block}", WIDTH, HIDDEN, down)], f"block{block}")
gemm(x, "logits", CLASSES, WIDTH, 0.5)


def rows(name, width):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])


graph = helper.make_graph(
    nodes, "classifier",
    [rows("input", INPUT)], [rows("logits", CLASSES)], weights,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, HERE / "model.onnx")

inputs = rng.standard_normal((8, INPUT)).round(3).astype(np.float32)
[outputs] = ReferenceEvaluator(model).run(None, {"input": inputs})
rounded = {
    name: [[float(f"{value:.7g}") for value in row] for row in values]
    for name, values in [("input", inputs), ("output", outputs)]
}
lines = [
    f'  "{name}": [\n    ' + ",\n    ".join(json.dumps(row) for row in values) + "\n  ]"
    for name, values in rounded.items()
]
(HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
