"""The report of `compare` as Markdown, and the machine it was made on."""

import datetime
import os
import platform
import re
import statistics

MIB = 1 << 20


def machine(peak):
    """The machine in words, with what torch measured on it."""
    return {
        "cpu": proc_line("/proc/cpuinfo", "model name"),
        "vectors": widest(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(proc_line("/proc/meminfo", "MemTotal").split()[0]) / MIB, 1),
        "kernel": platform.release(),
        "date": datetime.date.today().isoformat(),
        **peak,
    }


def widest():
    """The widest vectors of the processor, which its name does not tell on every machine."""
    flags = proc_line("/proc/cpuinfo", "flags").split()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
    return next((words for flag, words in names.items() if flag in flags), "unknown vectors")


def name(machine):
    cpu = re.sub(r"\((R|TM)\)", "", machine["cpu"])
    return f"{cpu}, {machine['vectors']}, {machine['cores']} cores"


def folder(machine):
    """Where what is measured on a machine is kept."""
    return re.sub("[^a-z0-9]+", "-", name(machine).lower()).strip("-")


def proc_line(file, field):
    with open(file, encoding="utf-8") as lines:
        found = (line.split(":", 1)[1].strip() for line in lines if line.startswith(field))
        return next(found, "unknown")


def markdown(report, rows, failed):
    """The whole report; `rows` are those asked for, `failed` [(name, why)]."""
    results = [(row, report["rows"][row["name"]]) for row in rows if row["name"] in report["rows"]]
    pairs = [(row, result) for row, result in results if "arms" not in result]
    arms = [(row, result) for row, result in results if "arms" in result]
    m = report["machine"]
    where = name(m) + (f", {m['gpu'] or 'no GPU'}" if report.get("place") else "")
    parts = [f"# reptune and its peers on {where}", about(report)]
    if failed:
        parts += ["## FAILED", "\n".join(f"- {name}: {why.splitlines()[0]}" for name, why in failed)]
    if pairs:
        parts += ["## Time", times(pairs), time_notes(pairs)]
        if not report.get("place"):  # it is that of the host
            parts += ["## Memory", memories(pairs), MEMORY_NOTE]
        parts += ["## Agreement", agreements(pairs)]
    # What a step takes at the best of the CPU says nothing of a device.
    floor = "" if report.get("place") else floors(report, pairs)
    if floor:
        parts += ["## Floors", floor, FLOOR_NOTE, misses(pairs)]
        parts += [bf16(report, row, result) for row, result in pairs if row["name"] == "tune-16"]
    if arms:
        parts += ["## Within reptune", arms_table(arms)]
    parts += ["## Rows", rows_table(results), ROWS_NOTE]
    if any(result["build"] != report["build"] for _, result in results):
        parts.append("Some rows were measured with another build of reptune than the one at hand.")
    return "\n\n".join(part for part in parts if part)


ROWS_NOTE = (
    "Torch's product then: as above, when the row was measured; a machine that others use too is not as fast at "
    "all times. -: not kept."
)


def rows_table(results):
    """What each row is, of which build, and how fast torch's product was when it was measured."""
    lines = []
    for row, result in results:
        then = f"{result['f32_gflops']:.0f} GFLOP/s" if "f32_gflops" in result else "-"
        lines.append([row["name"], row["words"], result["build"], then])
    return table(["row", "what", "build", "torch's product then"], lines)


def about(report):
    m, model = report["machine"], report["model"]
    size = f"{model['weight_bytes'] / MIB:.0f} MiB of weights"
    rows = [
        ["memory", f"{m['memory_gib']} GiB"],
        ["kernel", m["kernel"]],
        [
            "peers",
            f"torch {m['torch']}, transformers {m['transformers']}, peft {m['peft']}, {m['threads']} threads",
        ],
        [
            "torch's product",
            f"{m['f32_gflops']:.0f} GFLOP/s in f32 (2048 x 2048 x 2048), {m['bf16_gflops']:.0f} in bf16",
        ],
        ["reptune's product", f"{m['own_gflops']:.0f} GFLOP/s in f32"],
        *([["reading", f"{m['read_gbs']:.1f} GB/s"]] if m.get("read_gbs") else []),
        ["model", f"{model['num_hidden_layers']} blocks, width {model['hidden_size']}, {size}"],
        ["reptune", f"build {report['build']}"],
        ["date", m["date"]],
    ]
    if report.get("place"):
        rows.append(["both sides", f"{' '.join(report['place'])} on {m['gpu'] or 'no GPU'}"])
    return table(["", ""], rows)


def times(results):
    """Medians, and the ratio with its least and its most."""
    lines = []
    for row, result in results:
        key = row["ratio"]
        ours, peer = column(result["ours"], key), column(result["peer"], key)
        ratios = [p / o for o, p in zip(ours, peer)]
        ratio = statistics.median(ratios)
        lines.append(
            [
                row["name"],
                key.replace("_", " "),
                f"{statistics.median(ours):.3f}",
                f"{statistics.median(peer):.3f}",
                f"{ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
                *judged(row["target"], "at least", ratio, lambda r, t: r >= t),
            ]
        )
    head = ["row", "what counts", "ours, s", "peer, s", "peer / ours (least - most)", "target", "met"]
    return table(head, lines)


def time_notes(results):
    """What the steady step leaves out on our side."""
    notes = []
    for row, result in results:
        if row["ratio"] == "seconds_per_step" and "first_step_seconds" in result["ours"][0]:
            first = statistics.median(column(result["ours"], "first_step_seconds"))
            notes.append(f"{row['name']} {first:.2f} s")
    if not notes:
        return ""
    return (
        "Seconds per step leave out the first step, in which reptune computes the rows below all that "
        f"is trained, of all prompts ({', '.join(notes)}), and the peer compiles; tune-run counts it for "
        "reptune. Seconds leave out loading."
    )


MEMORY_NOTE = (
    "The most that a process held, libraries included on both sides, by which the target is judged. "
    "Beside it the ratio if what the peer's libraries held before the model was loaded is taken from the "
    "peer alone; torch for CUDA holds more of it than its CPU build."
)


def memories(results):
    lines = []
    for row, result in results:
        ours, peer = column(result["ours"], "peak_bytes"), column(result["peer"], "peak_bytes")
        if not ours or not peer:
            continue
        ours, peer = statistics.median(ours), statistics.median(peer)
        # A copy loads no libraries, and reptune against itself has the same on both sides.
        with_libraries = row["peer"] and row["peer"][0] != "copy"
        libraries = statistics.median(column(result["peer"], "library_bytes")) if with_libraries else 0
        strict = ours / max(peer - libraries, 1)
        lines.append(
            [
                row["name"],
                f"{ours / MIB:.0f}",
                f"{peer / MIB:.0f}",
                f"{libraries / MIB:.0f}" if libraries else "-",
                f"{ours / peer:.2f}",
                f"{strict:.2f}" if libraries else "-",
                *judged(row["memory"], "at most", ours / peer, lambda r, t: r <= t),
            ]
        )
    head = [
        "row",
        "ours, MiB",
        "peer, MiB",
        "libraries, MiB",
        "ours / peer",
        "without libraries",
        "target",
        "met",
    ]
    return table(head, lines)


def agreements(results):
    lines = []
    for row, result in results:
        found = result["agreement"]
        if found:
            lines.append([row["name"], found["what"], found["words"], f"{found['allowed']:g}"])
        else:
            lines.append([row["name"], "not compared", "-", "-"])
    return table(["row", "outputs", "found", "allowed"], lines)


FLOOR_NOTE = (
    "GFLOP: the operations of a step, or of the whole of tune-run; of ours as `reptune plan` counts them, of the peer "
    "as torch does. Their ratio is what less work alone would give, if both sides did as many operations a second; "
    "a target beyond it asks that ours do more, in products of fewer rows. GFLOP/s: what both sides reached, with all "
    "that is no product in it, and torch's products alone with as many rows as a step of ours has, by the weights of "
    "the model one after the other, forward and backward. The floor is our work as nothing but such products, at that "
    "rate or, in brackets, at the better f32 rate above, which takes more rows; the last column is the ratios that "
    "would then be reached. GB: about the weights of a step's products, each read once; beside it how long the "
    "machine takes to read as much, which torch's rate has in it. -: not measured."
)


def floors(report, results):
    """What rows that tune would take if they were products alone, and what less work alone would give."""
    peak = max(report["machine"][key] for key in ("f32_gflops", "own_gflops")) * 1e9
    lines = []
    for row, result in results:
        counted = row["operations"]
        if not counted:
            continue
        flop, key = counted["ours"], row["ratio"]
        ours, peer = (statistics.median(column(result[side], key)) for side in ("ours", "peer"))
        there = products_gflops(counted["rows"], results)
        bounds = [flop / there / 1e9] if there else []
        bounds.append(flop / peak)
        lines.append(
            [
                row["name"],
                f"{flop / 1e9:.1f}",
                f"{counted['peer'] / 1e9:.1f}",
                f"{counted['peer'] / flop:.2f}",
                weights_read(report["machine"], counted, key),
                f"{flop / ours / 1e9:.0f}",
                f"{counted['peer'] / peer / 1e9:.0f}",
                f"{there:.0f}" if there else "-",
                last_in_brackets([f"{bound:.3f}" for bound in bounds]),
                last_in_brackets([f"{peer / bound:.2f}" for bound in bounds]),
            ]
        )
    head = [
        "row",
        "GFLOP, ours",
        "GFLOP, peer",
        "less work",
        "GB a step",
        "GFLOP/s, ours",
        "GFLOP/s, peer",
        "torch's products",
        "floor, s",
        "peer / floor",
    ]
    return table(head, lines) if lines else ""


def products_gflops(rows, results):
    """Torch's best rate with so many rows; several workloads may have as many."""
    same = (result for row, result in results if row["operations"] and row["operations"]["rows"] == rows)
    return max((result["products_gflops"] for result in same if "products_gflops" in result), default=None)


def misses(results):
    """What targets that are missed ask for, beside what was reached and what torch's products reach."""
    sentences = []
    for row, result in results:
        counted = row["operations"]
        if not counted or row["target"] is None:
            continue
        ours, peer = (column(result[side], row["ratio"]) for side in ("ours", "peer"))
        if statistics.median(p / o for o, p in zip(ours, peer)) >= row["target"]:
            continue
        asked = row["target"] * counted["ours"] / statistics.median(peer) / 1e9
        reached = counted["ours"] / statistics.median(ours) / 1e9
        words = f"{row['name']} misses {row['target']:g}, which asks for {asked:.0f} GFLOP/s in all it does"
        words += f"; {reached:.0f} were reached"
        there = products_gflops(counted["rows"], results)
        if there:
            words += f", {asked / there:.0%} and {reached / there:.0%} of torch's products alone ({there:.0f})"
        sentences.append(words + ".")
    return " ".join(sentences)


def last_in_brackets(texts):
    return " ".join([*texts[:-1], f"({texts[-1]})"])


def weights_read(machine, counted, key):
    """Billions of bytes of the f32 numbers by which a step's rows are multiplied, two operations each."""
    if key != "seconds_per_step":
        return "-"
    reads = 4 * counted["ours"] / (2 * counted["rows"]) / 1e9
    rate = machine.get("read_gbs")
    return f"{reads:.2f}" + (f" ({reads / rate:.3f} s)" if rate else "")


def slower_in_bf16(machine):
    return machine["bf16_gflops"] < machine["f32_gflops"]


def bf16(report, row, result):
    """What products in bf16 would take, and give."""
    m = report["machine"]
    flop, step = (statistics.median(column(result["ours"], key)) for key in ("flop_per_step", "seconds_per_step"))
    products = flop / max(m["f32_gflops"], m["own_gflops"]) / 1e9
    if slower_in_bf16(m):
        return (
            "The processor has no instructions for bf16: torch's product in it is "
            f"{m['f32_gflops'] / m['bf16_gflops']:.1f} times as slow here as in f32, and rows in bf16 are left out."
        )
    faster = m["bf16_gflops"] / m["f32_gflops"]
    then = flop / m["bf16_gflops"] / 1e9
    return (
        f"In bf16 torch's product is {faster:.1f} times as fast here as in f32. Neither candle nor its library of products multiplies "
        "bf16 on the CPU. It would take a kernel of our own on AVX-512 BF16 or AMX, which multiplies pairs of "
        "neighbours in the summed dimension and sums in f32; weights in bf16, half the memory, with such pairs "
        "side by side, which are other pairs in the forward than in the backward, so that one of the two packs "
        "them anew; activations and gradients rounded before each product; norms, softmax, losses and moments "
        f"left in f32. At torch's rate the products of {row['name']} would take {then:.3f} s for {products:.3f} s; "
        f"the other {max(step - products, 0):.3f} s of a step would stay."
    )


def arms_table(results):
    """Rows in which our program did both sides itself."""
    lines = []
    for row, result in results:
        above, below = row["arms"]
        ratios = [run[above] / run[below] for run in result["arms"]]
        medians = [
            f"{arm} {statistics.median(run[arm] for run in result['arms']):.3f}" for arm in result["arms"][0]
        ]
        ratio = statistics.median(ratios)
        spread = f"{ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        lines.append([row["name"], ", ".join(medians), f"{above} / {below}", spread])
        lines[-1] += judged(row["target"], "at least", ratio, lambda r, t: r >= t)
    return table(["row", "seconds", "ratio of", "ratio (least - most)", "target", "met"], lines)


def judged(target, words, ratio, holds):
    """The cells of a target and of whether it is met."""
    if target is None:
        return ["-", "-"]
    return [f"{words} {target:g}", "yes" if holds(ratio, target) else "NO"]


def column(runs, key):
    return [run[key] for run in runs if run.get(key) is not None]


def table(head, rows):
    """An aligned Markdown table."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    widths = [max(width, 3) for width in widths]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


if __name__ == "__main__":
    print(folder(machine({})))
