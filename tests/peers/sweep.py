"""Sweep: the same questions under many interventions, one cell each.

What people do today is generate an answer in every cell and read it (`--how generate`); reading
the log-odds of the two answers off one forward (`--how letters`) is the better peer.
"""

import torch
from generate import greedy
from measure import Stopwatch, peak_bytes
from model import load, steered
from workload import batches_by_length, left_padded, read_directions, read_work


@torch.inference_mode()
def run(args):
    work = read_work(args.work, "sweep")
    questions, cells = work["questions"], work["cells"]
    directions = read_directions(args.work)
    model, load_seconds = load(args.model, args.dtype)

    def answers(questions, cell, new):
        block = model.model.layers[cell["layer"]]
        with steered(block, cell["way"], cell["coeff"], directions[cell["layer"]]):
            if args.how == "letters":
                return log_odds(model, questions, args.batch)
            return texts(model, questions, new, args.batch)

    answers(questions[: args.batch], cells[0], 2)  # warm-up
    watch = Stopwatch()
    with watch:
        found = [answers(questions, cell, work["max_new_tokens"]) for cell in cells]
        if args.how == "generate":
            decisions = [decide(questions, tokens) for tokens in found]
    result = {
        "seconds": watch.seconds,
        "cells": len(cells),
        "cells_per_second": len(cells) / watch.seconds,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
    }
    if args.how == "letters":
        return result | {"log_odds": found}
    return result | {"tokens": found, "decisions": decisions}


def log_odds(model, questions, batch):
    """Of the right label over the other one, at the last row of every question."""
    found = [None] * len(questions)
    for numbers in batches_by_length([q["ids"] for q in questions], batch):
        chosen = [questions[n] for n in numbers]
        inputs = left_padded([q["ids"] for q in chosen])
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        labels = torch.tensor([[q["labels"][q["right"]], q["labels"][1 - q["right"]]] for q in chosen])
        right, wrong = logits.gather(1, labels).unbind(dim=1)
        for number, odds in zip(numbers, (right - wrong).tolist()):
            found[number] = odds
    return found


def texts(model, questions, new, batch):
    return greedy(model, [q["ids"] for q in questions], new, batch)


def decide(questions, texts):
    """Number of the label that each text names first, or None."""
    return [
        next((q["labels"].index(token) for token in text if token in q["labels"]), None)
        for q, text in zip(questions, texts)
    ]
