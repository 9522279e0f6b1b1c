"""What joint factoring of matrices with the same inputs (query, key, value; gate, up) is predicted to gain.

    pip install torch numpy safetensors
    welore-cli calibrate MODEL --text TEXT --gradient-windows 16 -o calibration
    python benches/joint_factoring.py MODEL calibration             # keeps 0.9, 0.8, 0.7, 0.5 of the parameters
    python benches/joint_factoring.py MODEL calibration 0.8 0.6

A stack of matrices, M rows of n columns, shares one factorization: r (M + n - r) parameters at rank r with pivots,
r (M + n) in two factors. Its singular values are those of R W L, where R has a block for each matrix: K-FAC takes the
gradients of different matrices as independent.

The rule is that of `--method two-sided/loss/pivot` and `two-sided/loss/factors` with default options: a form loses half
of the cut squared singular values, in nats per token; what saves less than 5% stays dense; the budget is spent down the
lower convex hulls of all curves, the steepest step first, the rest on parts of steps that did not fit
(`welore-burn/src/plan/frontier.rs`). `single` has a curve for each matrix and predicts the loss that `compress` does;
`joint` has one for matrices with the same inputs, which the calibration names, divided into stacks in all ways. Nothing
is compressed. Digests are not compared: the calibration must be that of MODEL.
"""

import argparse
import json
import math
import sys
from collections import Counter, namedtuple
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

INPUT_SHARE, OUTPUT_SHARE = 1e-3, 0.3  # `Shrinkage::INPUT` and `OUTPUT`.
MIN_SAVING = 0.05
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
        for leader, names in self.groups.items():
            self.check(leader, names, model)

    def refuse(self, reason):
        sys.exit(f"{self.path}: no calibration to measure with: {reason}")

    def check(self, leader, names, model):
        """Everything that is read later is there, in the right shape."""
        if len(names) > MOST_MEMBERS:
            self.refuse(f"{len(names)} matrices have the inputs of {leader}, more than {MOST_MEMBERS}")
        cols = self.shapes[names[0]][1]
        sides = {f"{leader}.inputs": cols, **{f"{name}.outputs": self.shapes[name][0] for name in names}}
        for tensor, size in sides.items():
            if shape_of(self.file, tensor) != [size * (size + 1) // 2]:
                self.refuse(f"{tensor} is missing or has another shape")
        for name in names:
            shape = shape_of(self.weights.get(f"{name}.weight"), f"{name}.weight")
            if shape != self.shapes[name] or shape[1] != cols:
                self.refuse(f"{name} is {self.shapes[name]}, in {model} {shape or 'missing'}")

    def root(self, tensor, size, share):
        """The lower root of a second moment, a share of its typical square added to its diagonal; f64."""
        moment = torch.zeros(size, size, dtype=torch.float64)
        moment[*torch.tril_indices(size, size)] = self.file.get_tensor(tensor).double()
        squares = moment.diagonal()
        positive = squares[squares > 0].sort().values
        try:
            # As `SecondMoment::typical_square`: no entry counts as more than ten medians.
            squares += share * squares.clamp(max=10 * positive[len(positive) // 2]).mean()
            return torch.linalg.cholesky(moment)  # It reads the lower half.
        except (IndexError, torch.linalg.LinAlgError):
            self.refuse(f"{tensor} is no second moment")

    def losses(self, leader):
        """What each stack of matrices with the same inputs loses, by rank from 0 to the full one."""
        names, found, grams = self.groups[leader], {}, {}
        cols = self.shapes[names[0]][1]
        right = self.root(f"{leader}.inputs", cols, INPUT_SHARE)
        for name in names:
            rows = self.shapes[name][0]
            weight = self.weights[f"{name}.weight"].get_tensor(f"{name}.weight").double()
            normed = self.root(f"{name}.outputs", rows, OUTPUT_SHARE).T @ weight @ right
            if len(names) > 1:
                grams[name] = normed.T @ normed
            found[(name,)] = losses_of(normed @ normed.T if rows < cols else normed.T @ normed, min(rows, cols))
        for stack in {stack for division in divisions(names) for stack in division if len(stack) > 1}:
            full = min(sum(self.shapes[name][0] for name in stack), cols)
            found[stack] = losses_of(sum(grams[name] for name in stack), full)
        return found


def opened(path):
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        sys.exit(f"{path}: {error}")


def shape_of(file, tensor):
    return list(file.get_slice(tensor).get_shape()) if file and tensor in file.keys() else None


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
    dense, points = rows * cols, []
    for rank in range(1, len(losses) - 1):
        cost = rank * (rows + cols - (rank if pivots else 0))
        if dense - cost >= (MIN_SAVING - 1e-9) * dense:
            points.append(Point(cost, losses[rank], ((stack, rank),)))
    return [*points, Point(dense, 0.0, ((stack, None),))]


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
    found = [(slope(h[j - 1], h[j]), i, j) for i, h in enumerate(hulls) for j in range(1, len(h))]
    return [(i, hulls[i][j]) for _, i, j in sorted(found)]


def together(curves):
    """The lower convex hull of the sum of curves."""
    hulls = [hull(points) for points in curves]
    chosen = [points[0] for points in hulls]
    found = [added(chosen)]
    for place, to in steps(hulls):
        chosen[place] = to
        found.append(added(chosen))
    return found


def added(points):
    return Point(sum(p.cost for p in points), sum(p.loss for p in points), sum((p.stacks for p in points), ()))


def joint_curve(names, curves):
    """The cheapest stacks for each loss: all divisions' points, one for each cost."""
    found = []
    for division in divisions(names):
        parts = [curves[stack] for stack in division]
        found += together(parts) if len(parts) > 1 else parts[0]
    least = {}
    for point in sorted(found, key=lambda point: point[:2]):
        least.setdefault(point.cost, point)
    return list(least.values())


def descend(curves, budget):
    """`plan::descend`: the point of each curve."""
    hulls = [hull(points) for points in curves]
    chosen, stopped = [points[0] for points in hulls], []
    left = budget - sum(point.cost for point in chosen)
    if left < 0:
        sys.exit("not even rank 1 everywhere is within the budget")
    for place, to in steps(hulls):
        more = to.cost - chosen[place].cost
        if place not in stopped and more <= left:
            left -= more
            chosen[place] = to
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


def share(text):
    if not 0.0 < (keep := float(text)) < 1.0:
        raise argparse.ArgumentTypeError("a share is between 0 and 1")
    return keep


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face directory")
    parser.add_argument("calibration", metavar="CALIBRATION", help="a calibration of it with gradients")
    parser.add_argument("keep", metavar="KEEP", nargs="*", type=share, help="shares of the parameters of all matrices")
    args = parser.parse_args()
    matrices = Matrices(args.model, args.calibration)
    curves = {True: ([], []), False: ([], [])}  # With pivots, and in two factors: single, joint.
    for leader, names in matrices.groups.items():
        losses = matrices.losses(leader)
        for pivots, (single, joint) in curves.items():
            stacks = {stack: curve(stack, matrices.shapes, losses[stack], pivots) for stack in losses}
            single += [stacks[(name,)] for name in names]
            joint.append(joint_curve(names, stacks))
    groups = counts(names for names in matrices.groups.values() if len(names) > 1)
    print(f"{len(matrices.shapes)} matrices; groups with the same inputs {groups}. Losses in nats per token.\n")
    print("| kept | single | joint | gain | joint groups | two factors: single | joint | gain | joint groups |")
    print("|---|---|---|---|---|---|---|---|---|")
    total = sum(rows * cols for rows, cols in matrices.shapes.values())
    for keep in args.keep or [0.9, 0.8, 0.7, 0.5]:
        row = [cell for store in curves.values() for cell in cells(*store, math.floor(keep * total))]
        print("|", " | ".join([f"{100 * keep:g}%", *row]), "|")


if __name__ == "__main__":
    main()
