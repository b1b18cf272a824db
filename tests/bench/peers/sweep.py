"""Sweep: the same questions under many interventions, one cell each.

What people do today is generate an answer in every cell and read it (`--how texts`); reading
the log-odds of the two answers off one forward (`--how answers`) is the better peer.
"""

import torch
from measure import Stopwatch, peak_bytes
from model import load, steered
from transformers import GenerationConfig
from workload import PAD, batches_by_length, left_padded, read_directions, read_work


@torch.inference_mode()
def run(args):
    work = read_work(args.work, "sweep")
    questions, cells = work["questions"], work["cells"]
    directions = read_directions(args.work)
    model, load_seconds = load(args.model, args.dtype)

    def answers(questions, cell, new):
        block = model.model.layers[cell["layer"]]
        with steered(block, cell["operator"], cell["coeff"], directions[cell["layer"]]):
            if args.how == "answers":
                return log_odds(model, questions, args.batch)
            return texts(model, questions, new, args.batch)

    answers(questions[: args.batch], cells[0], 2)  # warm-up
    watch = Stopwatch()
    with watch:
        found = [answers(questions, cell, work["max_new_tokens"]) for cell in cells]
        if args.how == "texts":
            decisions = [decide(questions, tokens) for tokens in found]
    result = {
        "seconds": watch.seconds,
        "cells": len(cells),
        "cells_per_second": len(cells) / watch.seconds,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
    }
    if args.how == "answers":
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
    """`new` tokens after each question, whatever they are: no token ends a text early."""
    # The checkpoint's own generation config would bring its end-of-text tokens back in.
    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, max_new_tokens=new, eos_token_id=None, pad_token_id=PAD
    )
    sequences = [q["ids"] for q in questions]
    tokens = [None] * len(sequences)
    for numbers in batches_by_length(sequences, batch):
        inputs = left_padded([sequences[n] for n in numbers])
        inputs.pop("position_ids", None)  # generate makes them of the mask
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        found = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].tolist()
        for number, text in zip(numbers, found):
            tokens[number] = text
    return tokens


def decide(questions, texts):
    """Number of the label that each text names first, or None."""
    return [
        next((q["labels"].index(token) for token in text if token in q["labels"]), None)
        for q, text in zip(questions, texts)
    ]
