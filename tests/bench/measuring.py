"""How `peers/compare` and `turns` run programs, and whether two programs computed the same."""

import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# Title of the section that `scale` writes, which `peers/compare` keeps.
SCALE = "A model of 8 billion parameters"
# Models that rows run on instead of the base model: arguments of `reptune-bench bake`.
BAKED = {"q4k": ("--coeff", "0"), "q4k-steered": ("--layer", "5", "--coeff", "4")}


def model(bench, base, name):
    """The path of the model `name`, which is made if it is not there; BAKED ones stand beside `base`."""
    base = Path(base)
    if not base.exists():
        run([*bench, "make-model", "--out", str(base)])
    if name == "base":
        return str(base)
    directory = base.with_name(f"{base.name}-{name}")
    if not directory.exists():
        run([*bench, "bake", "--model", str(base), "--out", str(directory), *BAKED[name]])
    return str(directory / "model.uqff")


def command(bench, arguments, model, work):
    """A command line of reptune-bench."""
    if arguments[0] == "merge":  # which refuses a directory that holds files
        work = f"{work}-merged"
    return [*bench, *arguments, "--model", model, "--work", work]


def in_turn(row, sides, rounds):
    """Runs both command lines of `sides` in turn; the outputs of the first runs, and those that count."""

    def once(side, when):
        say(f"{row.name}: {side}, {when}")
        if "merge" in sides[side]:
            shutil.rmtree(sides[side][-1], ignore_errors=True)
        return run(sides[side])

    first = {side: once(side, "warm-up") for side in sides}
    runs = {side: [] for side in sides}
    for number in range(rounds):
        for side in sorted(sides, reverse=number % 2 == 1):
            runs[side].append(once(side, f"round {number + 1} of {rounds}"))
    return first, runs


def run(command):
    """The JSON object that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise SystemExit(f"exit status {done.returncode} of {' '.join(command)}\n{tail}")
    return json.loads(done.stdout)


def median(runs, key):
    """The median of a number over runs; None where a run has none."""
    numbers = [run.get(key) for run in runs]
    return None if None in numbers else statistics.median(numbers)


def ratios(above, below, key):
    """The median, least and most ratio over rounds."""
    found = [a[key] / b[key] for a, b in zip(above, below)]
    return statistics.median(found), min(found), max(found)


def difference(output, a, b):
    """The largest difference between two outputs: for tokens the share of sequences that differ, for
    digests relative to the norm, else absolute up to 1 and relative above. Infinite where something is
    missing or not a number."""
    if output == "tokens":
        a, b = list(sequences(a.get(output))), list(sequences(b.get(output)))
        return sum(x != y for x, y in zip(a, b)) / len(a) if a and len(a) == len(b) else math.inf
    if output == "losses":
        return max(numbers(a.get(key, []), b.get(key, [])) for key in ("losses", "validation"))
    if output == "digest":
        return digests(a[output], b[output])
    return numbers(a.get(output), b.get(output))


def digests(a, b):
    """The largest difference of sums and norms of layers, relative to the norm."""
    if [row[0] for row in a] != [row[0] for row in b]:
        return math.inf
    return max(bounded(abs(x[k] - y[k]) / x[2]) for x, y in zip(a, b) for k in (1, 2))


def numbers(a, b):
    if isinstance(a, list) and isinstance(b, list):
        return max(map(numbers, a, b), default=0.0) if len(a) == len(b) else math.inf
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return bounded(abs(a - b) / max(1.0, abs(a), abs(b)))
    return 0.0 if a is None and b is None else math.inf


def bounded(difference):
    return difference if math.isfinite(difference) else math.inf


def sequences(nested):
    """The lists of tokens in lists of lists."""
    if nested and isinstance(nested[0], list):
        for inner in nested:
            yield from sequences(inner)
    elif nested:
        yield nested


def table(head, rows):
    """An aligned Markdown table."""
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def section(file, title, text):
    """Replaces the section `title` of a Markdown file, or adds it at the end."""
    file, head = Path(file), f"## {title}\n"
    before, _, rest = file.read_text(encoding="utf-8").partition(head)
    after = rest.partition("\n## ")
    rest = after[1][1:] + after[2] if after[1] else ""
    new = Path(f"{file}.tmp")
    new.write_text(f"{before.rstrip()}\n\n{head}\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")
    new.replace(file)


def say(words):
    print(words, file=sys.stderr, flush=True)
