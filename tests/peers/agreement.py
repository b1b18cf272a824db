"""Whether two programs computed the same: numbers within a tolerance, tokens alike.

Anything missing, of another length or not a number is a difference without bound.
"""

import math
from dataclasses import dataclass

# Random models have near-ties, which fall either way in another order of summation.
SEQUENCES_THAT_MAY_DIFFER = 0.01


@dataclass(frozen=True)
class Agreement:
    what: str
    difference: float
    allowed: float
    words: str

    @property
    def holds(self):
        return self.difference <= self.allowed  # false of NaN


def agreement(what, ours, theirs, allowed):
    """Compares the outputs `what` names: losses, digest, log_odds or tokens."""
    if what == "tokens":
        return tokens(ours.get("tokens"), theirs.get("tokens"))
    if what == "digest":
        found = digests(ours.get("digest"), theirs.get("digest"))
    elif what == "losses":
        found = max(numbers(ours.get(k), theirs.get(k)) for k in ("losses", "validation"))
    else:
        found = numbers(ours.get(what), theirs.get(what))
    return Agreement(what, found, allowed, f"largest difference {found:.1e}")


def numbers(a, b):
    """Largest difference between numbers in the same places of nested lists: absolute up to 1,
    relative above. None agrees with None alone, a missing list with nothing."""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return math.inf
        return max((numbers(x, y) for x, y in zip(a, b)), default=0.0)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return bounded(abs(a - b) / max(1.0, abs(a), abs(b)))
    # the losses of nothing: a null inside a list
    return 0.0 if a is None and b is None else math.inf


def digests(a, b):
    """Largest difference of sums and norms by layer, relative to the norm."""
    if not a or not b or [row[0] for row in a] != [row[0] for row in b]:
        return math.inf
    pairs = [(x, y) for x, y in zip(a, b)]
    return max(bounded(abs(x[k] - y[k]) / x[2]) if x[2] else math.inf for x, y in pairs for k in (1, 2))


def bounded(difference):
    return difference if math.isfinite(difference) else math.inf


def tokens(a, b):
    """Share of sequences that differ anywhere."""
    ours, theirs = list(sequences(a)), list(sequences(b))
    if not any(ours) or len(ours) != len(theirs):
        words = f"{len(ours)} sequences against {len(theirs)}"
        return Agreement("tokens", math.inf, SEQUENCES_THAT_MAY_DIFFER, words)
    different = sum(x != y for x, y in zip(ours, theirs))
    words = f"{different} of {len(ours)} sequences differ"
    return Agreement("tokens", different / len(ours), SEQUENCES_THAT_MAY_DIFFER, words)


def sequences(nested):
    """The lists of tokens in lists of lists."""
    if nested and isinstance(nested[0], list):
        for inner in nested:
            yield from sequences(inner)
    elif nested is not None:
        yield nested
