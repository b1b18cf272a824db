"""The model as an expert of transformers would load it, and hooks on its blocks.

Hooks rather than `output_hidden_states`: they keep the wanted rows only, and its last entry is
taken after the final norm.
"""

import os
import time
from contextlib import contextmanager

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def load(directory, dtype, device="cpu"):
    """The model, frozen, and the seconds that loading took. New tensors are on its device."""
    torch.set_num_threads(os.cpu_count())
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=DTYPES[dtype], attn_implementation="sdpa", local_files_only=True
    )
    model.to(device).eval().requires_grad_(False)
    torch.set_default_device(device)
    return model, time.perf_counter() - started


class KeptRows:
    """Rows of the residual stream at some layers, counted from the end, as the last forward left them.

    `rows[layer]` is a list of (B, H), one for each of `places` (-1 is the last column). Cleared before
    every forward, so that a compiled one always finds it empty, and compiles once.
    """

    def __init__(self, blocks, layers, places):
        self.rows = {}
        self.places = places
        for layer in layers:
            blocks[layer].register_forward_hook(self._keep(layer))

    def _keep(self, layer):
        def hook(_block, _inputs, output):
            self.rows[layer] = [output[:, place] for place in self.places]

        return hook


@contextmanager
def steered(block, operator, coeff, direction):
    """Within, the output of `block` is moved in every row: h + coeff d, or h - (h . d) d.

    In place, so that nothing is copied; for forwards without gradients.
    """

    def add(_block, _inputs, output):
        return output.add_(shift)

    def ablate(_block, _inputs, output):
        return output.sub_((output @ direction).unsqueeze(-1) * direction)

    direction = direction.to(next(block.parameters()).dtype)
    shift = coeff * direction
    handle = block.register_forward_hook({"add": add, "ablate": ablate}[operator])
    try:
        yield
    finally:
        handle.remove()
