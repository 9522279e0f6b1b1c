"""What factoring matrices with the same inputs jointly (query, key and value; gate and up) is predicted to gain.

    pip install torch safetensors
    welore-cli calibrate MODEL --text TEXT --gradient-windows 16 -o calibration
    python benches/joint_factoring.py MODEL calibration             # keeps 0.9, 0.8, 0.7 and 0.5 of the projections' parameters
    python benches/joint_factoring.py MODEL calibration 0.8 0.6

Matrices that are stacked share the inputs' side of one factorization of rank r: a stack of M rows and n columns has
r (M + n - r) parameters with pivots, r (M + n) in two factors. The singular values of a stack are those of R W L, where R
is block diagonal, with a block for each matrix, because the blocks of different matrices are independent in K-FAC.

Both plans follow the rule of `--methods two-sided/loss/pivot` and `two-sided/loss/factors` with default options: the loss is half of the
cut squared singular values, in nats per token; forms that save less than 5% stay dense; the budget is spent down the
lower convex hulls of all curves, the steepest step first, and what is left of it goes to parts of steps that did not fit
(`welore-burn/src/plan/frontier.rs`). `single` has a curve for each matrix, and predicts what `welore-cli compress` does;
`joint` has one for all matrices with the same inputs, of all ways to divide them into stacks. The calibration says which
matrices these are. Nothing is compressed, and digests of matrices are not compared.
"""

import argparse
import json
import math
import sys
from collections import Counter, namedtuple
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

INPUT_SHARE, OUTPUT_SHARE = 1e-3, 0.3  # `Shrink::INPUT` and `Shrink::OUTPUT`.
MOST_MEDIANS = 10.0
MIN_SAVING = 0.05
VERSIONS = range(1, 6)
MOST_MEMBERS = 6  # They can be divided in 203 ways; each more multiplies that by four or more.

# `stacks`: the names and the rank (None: dense) of each stack that a point of a curve is made of.
Point = namedtuple("Point", "cost loss stacks")


class Matrices:
    """The matrices of a calibration, with their second moments and their weights."""

    def __init__(self, model, calibration):
        self.path, self.file = calibration, opened(calibration)
        self.weights = {}
        for path in sorted(Path(model).glob("*.safetensors")):
            file = opened(path)
            self.weights.update((name, file) for name in file.keys())
        if not self.weights:
            sys.exit(f"{model}: no *.safetensors there")
        manifest = self.manifest()
        self.shapes, self.groups = {}, {}
        try:
            has_gradients = manifest["gradient_blocks"] > 0
            for matrix in manifest["matrices"]:
                self.shapes[matrix["name"]] = list(matrix["shape"])
                self.groups.setdefault(matrix["inputs_of"], []).append(matrix["name"])
        except (KeyError, TypeError) as error:
            self.refuse(f"its manifest is not that of a calibration: {error!r}")
        if not has_gradients or not self.shapes:
            self.refuse("it has no gradients; calibrate with --gradient-windows")
        self.check(model)

    def refuse(self, reason):
        sys.exit(f"{self.path}: not a calibration for this: {reason}")

    def manifest(self):
        if "manifest" not in self.file.keys():
            self.refuse("it has no manifest")
        try:
            manifest = json.loads(bytes(self.file.get_tensor("manifest").tolist()))
            kind = manifest["format"], manifest["version"]
        except (ValueError, KeyError, TypeError):
            self.refuse("its manifest cannot be read")
        if kind[0] != "welore-calibration" or kind[1] not in VERSIONS:
            self.refuse(f"its format is {kind[0]!r}, version {kind[1]}")
        return manifest

    def check(self, model):
        """All that is read later is there, in the right shape."""
        for leader, names in self.groups.items():
            if len(names) > MOST_MEMBERS:
                self.refuse(f"{len(names)} matrices have the inputs of {leader}, more than {MOST_MEMBERS}")
            sides = [(f"{leader}.inputs", self.shapes[names[0]][1])]
            sides += [(f"{name}.outputs", self.shapes[name][0]) for name in names]
            for tensor, size in sides:
                if shape_of(self.file, tensor) != [size * (size + 1) // 2]:
                    self.refuse(f"{tensor} is missing or has another shape")
            for name in names:
                tensor, shape = f"{name}.weight", self.shapes[name]
                if shape_of(self.weights.get(tensor), tensor) != shape or shape[1] != sides[0][1]:
                    self.refuse(f"{model} has no {tensor} of shape {shape}")

    def root(self, tensor, share):
        """The lower root of a second moment, a share of its typical square added to its diagonal; f64."""
        packed = self.file.get_tensor(tensor).double()
        size = (math.isqrt(8 * len(packed) + 1) - 1) // 2
        moment = torch.zeros(size, size, dtype=torch.float64)
        moment[*torch.tril_indices(size, size)] = packed
        moment += moment.tril(-1).T
        squares = moment.diagonal()
        positive = squares[squares > 0].sort().values
        if len(positive) == 0 or not packed.isfinite().all():
            self.refuse(f"{tensor} is zero or not finite")
        typical = squares.clamp(max=MOST_MEDIANS * positive[len(positive) // 2]).mean()
        squares += share * typical
        try:
            return torch.linalg.cholesky(moment)
        except torch.linalg.LinAlgError:
            self.refuse(f"{tensor} is not positive definite")

    def losses(self, leader):
        """What each stack of matrices with the same inputs loses, by rank from 0 to the full one."""
        names, found, grams = self.groups[leader], {}, {}
        right = self.root(f"{leader}.inputs", INPUT_SHARE)
        for name in names:
            weight = self.weights[f"{name}.weight"].get_tensor(f"{name}.weight").double()
            normed = self.root(f"{name}.outputs", OUTPUT_SHARE).T @ weight @ right
            if len(names) > 1 or normed.shape[0] >= normed.shape[1]:
                grams[name] = normed.T @ normed
            small = grams[name] if normed.shape[0] >= normed.shape[1] else normed @ normed.T
            found[(name,)] = losses_of(small, min(normed.shape))
        for stack in {stack for division in divisions(names) for stack in division if len(stack) > 1}:
            full = min(sum(self.shapes[name][0] for name in stack), right.shape[0])
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


def hull(points):
    """The lower convex hull of a curve, cheapest point first."""
    saving = lambda a, b: (a.loss - b.loss) / (b.cost - a.cost)
    kept = []
    for point in points:
        if kept and point.loss > kept[-1].loss:
            continue
        while len(kept) > 1 and saving(kept[-2], kept[-1]) <= saving(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def steps(hulls):
    """(curve, step) of all hulls, the steepest first."""
    slope = lambda a, b: (b.loss - a.loss) / (b.cost - a.cost)
    found = [(slope(h[j], h[j + 1]), i, j) for i, h in enumerate(hulls) for j in range(len(h) - 1)]
    return [step[1:] for step in sorted(found)]


def added(points):
    costs, losses, stacks = zip(*points)
    return Point(sum(costs), sum(losses), sum(stacks, ()))


def together(curves):
    """The lower convex hull of the sum of curves."""
    hulls = [hull(points) for points in curves]
    chosen = [points[0] for points in hulls]
    found = [added(chosen)]
    for place, step in steps(hulls):
        chosen[place] = hulls[place][step + 1]
        found.append(added(chosen))
    return found


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
    """`plan::descend`: the point of each curve, or None if the budget is below all of them."""
    hulls = [hull(points) for points in curves]
    chosen, stopped = [points[0] for points in hulls], []
    left = budget - sum(point.cost for point in chosen)
    if left < 0:
        return None
    for place, step in steps(hulls):
        to = hulls[place][step + 1]
        if place in stopped:
            continue
        if to.cost - chosen[place].cost > left:
            stopped.append(place)
            continue
        left -= to.cost - chosen[place].cost
        chosen[place] = to
    for place in stopped:
        most = left + chosen[place].cost
        chosen[place] = min((p for p in curves[place] if p.cost <= most), key=lambda p: p.loss)
        left = most - chosen[place].cost
    return chosen


def label(names):
    return "+".join(name.split(".")[-1].removesuffix("_proj") for name in names)


def counts(labels):
    counted = Counter(labels)
    parts = ", ".join(f"{name} {count}" for name, count in counted.most_common())
    return f"{counted.total()}: {parts}" if parts else "0"


def row(curves, budget, keep):
    """The cells of a way to store factors: the loss of single and of joint, the gain, joint stacks."""
    single, joint = (descend(of, budget) for of in curves)
    if single is None or joint is None:
        sys.exit(f"{keep}: less than rank 1 everywhere")
    before, after = (sum(point.loss for point in chosen) for chosen in (single, joint))
    stacks = [stack for point in joint for stack, rank in point.stacks if len(stack) > 1 and rank]
    gain = f"{1 - after / before:.1%}" if before else "-"
    return [f"{before:.5f}", f"{after:.5f}", gain, counts(map(label, stacks))]


def share(text):
    if not 0.0 < (keep := float(text)) < 1.0:
        raise argparse.ArgumentTypeError("a share of the parameters is between 0 and 1")
    return keep


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face directory")
    parser.add_argument("calibration", metavar="CALIBRATION", help="a file of `welore-cli calibrate` with gradients")
    parser.add_argument("keep", metavar="KEEP", nargs="*", type=share, help="shares of parameters to keep")
    args = parser.parse_args()
    matrices = Matrices(args.model, args.calibration)
    stores = {True: ([], []), False: ([], [])}
    for leader, names in matrices.groups.items():
        losses = matrices.losses(leader)
        for pivots, (single, joint) in stores.items():
            curves = {stack: curve(stack, matrices.shapes, losses[stack], pivots) for stack in losses}
            single += [curves[(name,)] for name in names]
            joint.append(joint_curve(names, curves))
    shared = [label(names) for names in matrices.groups.values() if len(names) > 1]
    print(f"{len(matrices.shapes)} matrices; with the same inputs {counts(shared)}; losses in nats per token\n")
    print("| kept | pivots: single | joint | gain | joint stacks | two factors: single | joint | gain | joint stacks |")
    print("|---|---|---|---|---|---|---|---|---|")
    total = sum(rows * cols for rows, cols in matrices.shapes.values())
    for keep in args.keep or [0.9, 0.8, 0.7, 0.5]:
        budget = math.floor(keep * total)
        cells = [cell for curves in stores.values() for cell in row(curves, budget, keep)]
        print("|", " | ".join([f"{100 * keep:g}%", *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
