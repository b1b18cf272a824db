"""How fast torch multiplies as many rows as a step has by the weights of all blocks, one after the
other as a step does: `x W^T` of the forward, and `g W` of the backward."""

import torch
from measure import Stopwatch
from model import load

PASSES = 7


def run(args):
    model, _ = load(args.model, args.dtype)
    layers = [module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    weights = [layer.weight for layer in layers]
    rows = {side: torch.randn(args.rows, side, dtype=weights[0].dtype) for w in weights for side in w.shape}
    passes = [Stopwatch() for _ in range(PASSES)]
    for watch in passes:
        with watch, torch.inference_mode():
            for weight in weights:
                torch.nn.functional.linear(rows[weight.shape[1]], weight)
            for weight in reversed(weights):
                rows[weight.shape[0]] @ weight
    done = 4 * args.rows * sum(weight.numel() for weight in weights)
    return {"rows": args.rows, "gflops": done / min(watch.seconds for watch in passes) / 1e9}
