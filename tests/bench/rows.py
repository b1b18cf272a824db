"""The rows that `peers/compare` and `turns` measure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kind of work.

    `ours` are the arguments of reptune-bench. `peer` are those of peers/peer.py for the same work,
    or `against` those of another run of reptune-bench; a row with neither is for `turns` alone.
    `output` names what both sides compute and must agree on, within `tolerance`.
    """

    name: str
    words: str
    ours: tuple
    peer: tuple | None = None
    against: tuple | None = None
    peer_words: str = ""
    seconds: str = "seconds"  # the number that counts
    output: str | None = None
    tolerance: float = 1e-3
    model: str = "base"  # or a name of measuring.BAKED
    against_model: str = "base"
    cpu_flags: tuple = ()  # the row is measured only where the CPU has one of these


SHARED = ("--tokens", "72", "--shared", "30")
TUNE_4 = ("tune", "--prompts", "4", *SHARED, "--mode", "in+", "--steps", "12")
TUNE_16 = ("tune", "--prompts", "16", *SHARED, "--mode", "in+", "--steps", "12")
UNRELATED = ("tune", "--prompts", "16", "--tokens", "64-128", "--shared", "0", "--mode", "in+ & truth", "--steps", "6")
RUN = ("tune", *"--claims 48 --validation 24 --epochs 3 --prompts 16 --mode in+".split(), *SHARED)
# Layers 5 and 6 of 12 are on average as far from the first block as all twelve, in a sixth of the time.
SWEEP = ("sweep", "--questions", "16", *SHARED, "--layers", "5-6")
OURS_8 = ("generate", "--prompts", "8")
ENGINE = ("generate", "--arm", "engine")
ENGINE_8 = (*ENGINE, "--prompts", "8")
STEP = {"seconds": "seconds_per_step", "output": "losses"}
TORCH = "torch, transformers, PEFT"
COMPILED = f"{TORCH}, compiled"
Q4K = {"model": "q4k", "against_model": "q4k", "peer_words": "mistral.rs"}

ROWS = [
    Row("tune-4", "a tuning step on 4 prompts", TUNE_4, ("tune", "--compile"), peer_words=COMPILED, **STEP),
    Row("tune-16", "a tuning step on 16 prompts", TUNE_16, ("tune", "--compile"), peer_words=COMPILED, **STEP),
    Row(
        "tune-16-once",
        "the same; the peer sets both answers as targets of one prompt",
        TUNE_16,
        ("tune", "--compile", "--soft", "once"),
        peer_words=COMPILED,
        **STEP,
    ),
    Row(
        "tune-16-bf16",
        "the same; the peer in bf16",
        TUNE_16,
        ("tune", "--dtype", "bf16"),
        peer_words=TORCH,
        tolerance=5e-2,
        cpu_flags=("avx512_bf16", "amx_bf16"),
        **STEP,
    ),
    Row(
        "tune-unrelated",
        "a tuning step on 16 prompts without a common prefix",
        UNRELATED,
        ("tune", "--batch", "8"),
        peer_words=TORCH,
        **STEP,
    ),
    Row(
        "tune-run",
        "a whole tuning with validation",
        RUN,
        ("tune", "--compile"),
        peer_words=COMPILED,
        output="losses",
    ),
    Row(
        "capture",
        "residual stream of the last 22 tokens of 200 prompts, all layers",
        ("capture", "--pairs", "100", *SHARED, "--last", "22"),
        ("capture",),
        peer_words="torch, transformers",
        output="digest",
        tolerance=1e-4,
    ),
    Row(
        "sweep-answers",
        "log-odds of 16 questions under 26 interventions",
        (*SWEEP, "--coeffs", "6"),
        ("sweep", "--how", "answers", "--batch", "8"),
        peer_words="torch, transformers",
        output="log_odds",
    ),
    Row(
        "sweep-decisions",
        "16 questions decided under 10 interventions: ours by log-odds, the peer by 30 generated tokens",
        (*SWEEP, "--coeffs", "2"),
        ("sweep", "--how", "texts"),
        peer_words="torch, transformers",
    ),
    Row(
        "sweep-generate",
        "30 tokens for 16 questions under 10 interventions",
        (*SWEEP, "--coeffs", "2", "--generate", "30"),
        ("sweep", "--how", "texts"),
        peer_words="torch, transformers",
        output="tokens",
        tolerance=0.01,  # random models have near-ties, which another order of summation may turn
    ),
    Row("merge", "a merged checkpoint", ("merge",), ("copy",), peer_words="a copy of the checkpoint"),
    Row("generate-1", "32 tokens for 1 prompt", ("generate",), against=ENGINE, peer_words="mistral.rs"),
    Row("generate-8", "32 tokens for 8 prompts", OURS_8, against=ENGINE_8, peer_words="mistral.rs"),
    Row("generate-q4k-1", "32 tokens for 1 prompt, Q4K", ("generate",), against=ENGINE, **Q4K),
    Row("generate-q4k-8", "32 tokens for 8 prompts, Q4K", OURS_8, against=ENGINE_8, **Q4K),
    Row(
        "generate-steered",
        "32 tokens for 1 prompt, steered",
        ("generate", "--arm", "steered"),
        against=("generate",),
        peer_words="ours, not steered",
    ),
    Row(
        "baked",
        "mistral.rs with a direction baked in, Q4K",
        ENGINE,
        against=ENGINE,
        model="q4k-steered",
        against_model="q4k",
        peer_words="mistral.rs, not steered",
    ),
    Row("serve", "16 completions from the server, four at a time", ("serve",)),
]


def chosen(text, default):
    """The rows named in `text`, or those of `default`."""
    names = text.split(",") if text else default
    unknown = sorted(set(names) - {row.name for row in ROWS})
    if unknown:
        known = ", ".join(row.name for row in ROWS)
        raise SystemExit(f"--rows: no row named {', '.join(unknown)}; expected some of {known}")
    return [row for row in ROWS if row.name in names]
