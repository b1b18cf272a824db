"""A workload directory, read, and its prompts as the batches that transformers takes.

`reptune-bench` writes the directory: `work.json`, and where the work needs them
`directions.safetensors` and a PEFT directory `adapter/`.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

PAD = 0


def read_work(directory, kind):
    """The workload in `directory`, which must be of `kind`."""
    work = json.loads((Path(directory) / "work.json").read_text(encoding="utf-8"))
    if work.get("kind") != kind:
        raise SystemExit(f"{directory}: a workload of kind {work.get('kind')}, expected {kind}")
    return work


def read_directions(directory):
    """{layer: (H,) float32}; layer i is the output of decoder block i, counted from 0.

    On the device where new tensors are.
    """
    tensors = load_file(Path(directory) / "directions.safetensors")
    device = torch.get_default_device()
    return {int(name.removeprefix("layer.")): t.float().to(device) for name, t in tensors.items()}


def batches_by_length(sequences, size):
    """Numbers of the sequences, `size` at a time, neighbours in length: the least padding."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    size = size or max(len(order), 1)
    return [order[start : start + size] for start in range(0, len(order), size)]


def left_padded(sequences):
    """Keyword arguments of a forward over `sequences`: (B, T), every last token in column T - 1.

    Padding on the left lets `logits_to_keep=1` and rows counted from the end serve all prompts at
    once. Without padding there is no mask: attention then takes its faster, causal way.
    """
    longest = max(map(len, sequences))
    ids = torch.tensor([[PAD] * (longest - len(s)) + s for s in sequences])
    if all(len(s) == longest for s in sequences):
        return {"input_ids": ids}
    mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
