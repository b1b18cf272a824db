"""Load a base model the one way the oracle does: from disk, in float32, on the CPU, eager attention.

Also hides the two places where transformers 4 and 5 differ: the name of the dtype
argument, and whether a decoder block returns a tensor or a tuple.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)


def load_f32(directory):
    """The model in `directory`, its stored weights upcast to float32, in eval mode."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    dtype = "dtype" if (major, minor) >= (4, 56) else "torch_dtype"
    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", local_files_only=True, **{dtype: torch.float32}
    )
    wrong = [name for name, p in model.named_parameters() if p.dtype != torch.float32]
    if wrong:
        raise SystemExit(f"{directory}: not float32 after loading: {wrong[:3]}")
    return model.eval()


def block_rows(output):
    """(T, H) rows of what a decoder block returned or was given, for a batch of one."""
    hidden = output[0] if isinstance(output, tuple) else output
    return hidden[0] if hidden.dim() == 3 else hidden


def with_rows(output, rows):
    """`output` with its rows replaced by `rows` (T, H), in the same wrapping."""
    if isinstance(output, tuple):
        return (rows.unsqueeze(0),) + tuple(output[1:])
    return rows.unsqueeze(0)


def logits_of(model, ids):
    """(T, V) logits of one prompt, without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0]
