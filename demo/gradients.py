"""When the gradients of a run settle, beside the ranks of its trained weights.

    demo/gradients.py RUN/gradients.json

Prints two Markdown tables: means by kind of matrix, and Spearman's rank correlations over all
matrices. What the figures are is said in docs/gradient-dynamics.md. Needs nothing but Python.
"""

import json
import sys


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            found[i] = (start + end) / 2 + 1
        start = end + 1
    return found


def spearman(pairs):
    """Spearman's rank correlation; None where a side is constant."""
    if len(pairs) < 3:
        return None
    a, b = (ranks(side) for side in zip(*pairs))
    middle = (len(pairs) + 1) / 2
    covariance = sum((x - middle) * (y - middle) for x, y in zip(a, b))
    spread = [sum((x - middle) ** 2 for x in side) for side in (a, b)]
    return covariance / (spread[0] * spread[1]) ** 0.5 if all(spread) else None


def kind_of(name):
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("V", "U", "C") else parts[-1]


def number(value, form):
    return "–" if value is None else form.format(value)


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        summary = json.load(file)
    if summary.get("format") != "welore-gradients" or summary.get("version") != 1:
        sys.exit(f"{sys.argv[1]}: not what `welore-cli train --track-gradients` writes")
    matrices = summary["matrices"]
    for matrix in matrices:
        matrix["share"] = (matrix.get("weight") or {}).get("share")
        matrix["stable_weight"] = (matrix.get("weight") or {}).get("stable")

    kinds = {}
    for matrix in matrices:
        kinds.setdefault(kind_of(matrix["name"]), []).append(matrix)
    rows = []
    for kind, of in [*kinds.items(), ("all", matrices)]:
        settled = [m["settled"] for m in of if m["settled"] is not None]
        rows.append([
            kind,
            f"{len(settled)} of {len(of)}",
            number(mean(settled), "{:.0f}"),
            number(mean([m["level"] for m in of]), "{:.2f}"),
            number(mean([m["stable_rank"] for m in of]), "{:.1f}"),
            number(mean([m["share"] for m in of]), "{:.1%}"),
            number(mean([m["stable_weight"] for m in of]), "{:.1f}"),
        ])
    table(
        ["matrices", "settled", "mean settle step", "mean level", "gradient's stable rank",
         "final rank share", "weight's stable rank"],
        rows,
    )

    # A matrix that has not settled is behind all that have.
    last = max((m["settled"] or 0 for m in matrices), default=0) + 1
    figures = [
        ("settle step, of those that settled", lambda m: m["settled"]),
        ("settle step, the others last", lambda m: m["settled"] or last),
        ("level of similarity", lambda m: m["level"]),
        ("mean similarity", lambda m: m["similarity"]),
        ("gradient's stable rank", lambda m: m["stable_rank"]),
    ]
    rows = []
    for words, figure in figures:
        row = [words]
        for key in ("share", "stable_weight"):
            pairs = [(figure(m), m[key]) for m in matrices]
            pairs = [pair for pair in pairs if None not in pair]
            row.append(f"{number(spearman(pairs), '{:+.2f}')} ({len(pairs)})")
        rows.append(row)
    table(["rank correlation (matrices) of", "with the final rank share",
           "with the weight's stable rank"], rows)


if __name__ == "__main__":
    main()
