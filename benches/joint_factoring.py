"""What joint factoring of matrices with the same inputs (query, key, value; gate, up) is predicted to gain.

    pip install torch numpy safetensors
    welore-cli calibrate MODEL --text TEXT --gradient-windows 16 -o calibration
    python benches/joint_factoring.py MODEL calibration [KEEP...]   # shares of the parameters: 0.9 0.8 0.7 0.5

A stack of M rows and n columns has r (M + n - r) parameters at rank r with pivots, r (M + n) in two factors. Its
singular values are those of R W L; R has a block for each matrix, as K-FAC takes their gradients as independent.
The rule is that of `compare --methods two-sided/loss/pivot,two-sided/loss/factors`: a form loses half of the cut squared
singular values; what saves less than 5% stays dense; the budget is spent down the lower convex hulls of all curves
(`welore-burn/src/plan/frontier.rs`). `single` has a curve for each matrix; `joint` has one for all with the same inputs,
divided into stacks in all ways. Nothing is compressed. Digests are not compared: the calibration must be that of MODEL.
"""

import argparse
import json
import math
import sys
from collections import Counter, namedtuple
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

INPUT_SHARE, OUTPUT_SHARE, MIN_SAVING = 1e-3, 0.3, 0.05  # The defaults of `Shrinkage` and `PlanOptions`.
MOST_MEMBERS = 6  # They can be divided in 203 ways.

# `stacks`: names and rank (None: dense) of all stacks that make up the point.
Point = namedtuple("Point", "cost loss stacks")


class Matrices:
    """The matrices of a calibration: their second moments, their weights, and which have the same inputs."""

    def __init__(self, model, calibration):
        self.path, self.file = calibration, opened(calibration)
        files = map(opened, sorted(Path(model).glob("*.safetensors")))
        self.weights = {name: file for file in files for name in file.keys()}
        self.shapes, self.groups = {}, {}
        try:
            manifest = json.loads(bytes(self.file.get_tensor("manifest").tolist()))
            if manifest["format"] != "welore-calibration" or manifest["version"] not in range(1, 6):
                self.refuse(f"its format is {manifest['format']}, version {manifest['version']}")
            if not manifest["gradient_blocks"]:
                self.refuse("it has no gradients; calibrate with --gradient-windows")
            for matrix in manifest["matrices"]:
                self.shapes[matrix["name"]] = list(matrix["shape"])
                self.groups.setdefault(matrix["inputs_of"], []).append(matrix["name"])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            self.refuse(f"its manifest cannot be read: {error!r}")
        for name, shape in self.shapes.items():
            file, tensor = self.weights.get(f"{name}.weight"), f"{name}.weight"
            if file is None or list(file.get_slice(tensor).get_shape()) != shape:
                self.refuse(f"{model} has no {tensor} of shape {shape}")
        for leader, names in self.groups.items():
            if len(names) > MOST_MEMBERS:
                self.refuse(f"{len(names)} matrices have the inputs of {leader}, more than {MOST_MEMBERS}")

    def refuse(self, reason):
        sys.exit(f"{self.path}: no calibration to measure with: {reason}")

    def root(self, tensor, size, share):
        """The lower root of a second moment, a share of its typical square added to its diagonal; f64."""
        moment = torch.zeros(size, size, dtype=torch.float64)
        try:
            moment[*torch.tril_indices(size, size)] = self.file.get_tensor(tensor).double()
            squares = moment.diagonal()
            positive = squares[squares > 0].sort().values
            # As `SecondMoment::typical_square`: no entry counts as more than ten medians.
            squares += share * squares.clamp(max=10 * positive[len(positive) // 2]).mean()
            return torch.linalg.cholesky(moment)  # It reads the lower half.
        except (SafetensorError, IndexError, RuntimeError):
            self.refuse(f"{tensor} is no second moment of {size} channels")

    def losses(self, leader):
        """What each stack of matrices with the same inputs loses, by rank from 0 to the full one."""
        names, found, grams = self.groups[leader], {}, {}
        cols = self.shapes[names[0]][1]
        right = self.root(f"{leader}.inputs", cols, INPUT_SHARE)
        for name in names:
            rows = self.shapes[name][0]
            weight = self.weights[f"{name}.weight"].get_tensor(f"{name}.weight").double()
            normed = self.root(f"{name}.outputs", rows, OUTPUT_SHARE).T @ weight @ right
            grams[name] = normed.T @ normed
            found[(name,)] = losses_of(normed @ normed.T if rows < cols else grams[name], min(rows, cols))
        for stack in {stack for division in divisions(names) for stack in division if len(stack) > 1}:
            rows = sum(self.shapes[name][0] for name in stack)
            found[stack] = losses_of(sum(grams[name] for name in stack), min(rows, cols))
        return found


def opened(path):
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        sys.exit(f"{path}: {error}")


def losses_of(gram, full):
    squares = torch.linalg.eigvalsh(gram)[-full:].clamp(min=0.0)
    return [0.5 * loss for loss in squares.cumsum(0).flip(0).tolist()] + [0.0]


def divisions(names):
    """All ways to divide them into stacks; the first has each by itself."""
    if not names:
        yield []
        return
    for rest in divisions(names[1:]):
        yield [(names[0],), *rest]
        for place, stack in enumerate(rest):
            yield [*rest[:place], (names[0], *stack), *rest[place + 1 :]]


def curve(stack, shapes, losses, pivots):
    """What the stack costs and loses at each rank, and dense."""
    rows, cols = sum(shapes[name][0] for name in stack), shapes[stack[0]][1]
    costs = [rank * (rows + cols - (rank if pivots else 0)) for rank in range(len(losses))]
    most = (1 - MIN_SAVING + 1e-9) * rows * cols
    ranks = [rank for rank in range(1, len(losses) - 1) if costs[rank] <= most]
    return [Point(costs[r], losses[r], ((stack, r),)) for r in ranks] + [Point(rows * cols, 0.0, ((stack, None),))]


def slope(a, b):
    return (b.loss - a.loss) / (b.cost - a.cost)


def hull(points):
    """The lower convex hull of a curve, cheapest point first."""
    kept = []
    for point in points:
        if kept and point.loss > kept[-1].loss:
            continue
        while len(kept) > 1 and slope(kept[-2], kept[-1]) >= slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def steps(hulls):
    """(curve, point after the step) of all hulls, the steepest first."""
    found = sorted((slope(h[j - 1], h[j]), i, j) for i, h in enumerate(hulls) for j in range(1, len(h)))
    return [(i, hulls[i][j]) for _, i, j in found]


def together(curves):
    """The lower convex hull of the sum of curves."""
    hulls = list(map(hull, curves))
    chosen, found = [points[0] for points in hulls], []
    for place, to in [(0, hulls[0][0]), *steps(hulls)]:
        chosen[place] = to
        costs, losses, stacks = zip(*chosen)
        found.append(Point(sum(costs), sum(losses), sum(stacks, ())))
    return found


def joint_curve(names, curves):
    """The points of all divisions; of equal costs, that which loses least."""
    found = []
    for parts in ([curves[stack] for stack in division] for division in divisions(names)):
        found += together(parts) if len(parts) > 1 else parts[0]
    least = {point.cost: point for point in reversed(sorted(found, key=lambda point: point[:2]))}
    return list(reversed(least.values()))


def descend(curves, budget):
    """`plan::descend`: the point of each curve."""
    hulls = list(map(hull, curves))
    chosen, stopped = [points[0] for points in hulls], []
    if (left := budget - sum(point.cost for point in chosen)) < 0:
        sys.exit("not even rank 1 everywhere is within the budget")
    for place, to in steps(hulls):
        fits = (more := to.cost - chosen[place].cost) <= left
        if place not in stopped and fits:
            left, chosen[place] = left - more, to
        elif place not in stopped:
            stopped.append(place)
    for place in stopped:
        most = left + chosen[place].cost
        chosen[place] = min((p for p in curves[place] if p.cost <= most), key=lambda p: p.loss)
        left = most - chosen[place].cost
    return chosen


def counts(stacks):
    """How many there are, and of which kinds."""
    kinds = Counter("+".join(name.split(".")[-1].removesuffix("_proj") for name in stack) for stack in stacks)
    return f"{kinds.total()}: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()) if kinds else "0"


def cells(single, joint, budget):
    """Of a way to store factors: the losses of single and joint, the gain, and the joint stacks."""
    before, after = descend(single, budget), descend(joint, budget)
    stacks = [stack for point in after for stack, rank in point.stacks if len(stack) > 1 and rank]
    before, after = (sum(point.loss for point in chosen) for chosen in (before, after))
    return [f"{before:.5f}", f"{after:.5f}", f"{1 - after / before:.1%}" if before else "-", counts(stacks)]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", metavar="MODEL", help="a Hugging Face directory")
parser.add_argument("calibration", metavar="CALIBRATION", help="a calibration of it with gradients")
parser.add_argument("keep", metavar="KEEP", nargs="*", type=float, help="shares of the parameters of all matrices")
args = parser.parse_args()
if not all(0 < keep < 1 for keep in args.keep):
    parser.error("KEEP is between 0 and 1")
matrices = Matrices(args.model, args.calibration)
ways = {True: ([], []), False: ([], [])}  # With pivots, and in two factors: the curves of single and of joint.
for leader, names in matrices.groups.items():
    losses = matrices.losses(leader)
    for pivots, (single, joint) in ways.items():
        stacks = {stack: curve(stack, matrices.shapes, losses[stack], pivots) for stack in losses}
        single += [stacks[(name,)] for name in names]
        joint.append(joint_curve(names, stacks))
groups = counts(names for names in matrices.groups.values() if len(names) > 1)
print(f"{len(matrices.shapes)} matrices; groups with the same inputs {groups}. Losses in nats per token.\n")
print("| kept | single | joint | gain | joint groups | two factors: single | joint | gain | groups |\n" + "|---" * 9 + "|")
total = sum(rows * cols for rows, cols in matrices.shapes.values())
for keep in args.keep or [0.9, 0.8, 0.7, 0.5]:
    row = [cell for way in ways.values() for cell in cells(*way, math.floor(keep * total))]
    print("|", " | ".join([f"{100 * keep:g}%", *row]), "|")
