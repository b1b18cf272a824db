"""Greedy generation with transformers' own `generate`."""

import torch
from measure import Stopwatch, peak_bytes
from model import load
from transformers import GenerationConfig
from workload import PAD, batches_by_length, left_padded, read_work


@torch.inference_mode()
def run(args):
    work = read_work(args.work, "generate")
    prompts, new = work["prompts"], work["max_new_tokens"]
    model, load_seconds = load(args.model, args.dtype)
    greedy(model, prompts[:1], 2)  # warm-up
    watch = Stopwatch()
    with watch:
        tokens = greedy(model, prompts, new, args.batch)
    return {
        "seconds": watch.seconds,
        "tokens_per_second": len(prompts) * new / watch.seconds,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
        "tokens": tokens,
    }


def greedy(model, sequences, new, batch=None):
    """`new` tokens after each sequence, whatever they are: no token ends a text early."""
    # The checkpoint's own generation config would bring its end-of-text tokens back in.
    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, max_new_tokens=new, eos_token_id=None, pad_token_id=PAD
    )
    tokens = [None] * len(sequences)
    for numbers in batches_by_length(sequences, batch):
        inputs = left_padded([sequences[n] for n in numbers])
        inputs.pop("position_ids", None)  # generate makes them of the mask
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        texts = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].tolist()
        for number, text in zip(numbers, texts):
            tokens[number] = text
    return tokens
