"""Capture: the last rows of the residual stream at many layers, of many prompts, in memory."""

import torch
from measure import Stopwatch, peak_bytes
from model import load
from workload import batches_by_length, left_padded, read_work

# Enough rows to keep two cores busy; more only costs memory.
BATCH = 8


@torch.inference_mode()
def run(args):
    work = read_work(args.work, "capture")
    prompts, layers, last = work["prompts"], work["layers"], work["last"]
    if min(map(len, prompts)) < last:
        raise SystemExit(f"a prompt is shorter than the last {last} tokens")
    model, load_seconds = load(args.model, args.dtype)
    decoder = model.model  # no output head
    del decoder.layers[max(layers) + 1 :]  # nor a block above the last captured
    decoder.config.num_hidden_layers = len(decoder.layers)
    captured = torch.empty(len(prompts), len(layers), last, decoder.config.hidden_size)
    under_way = []  # numbers of the prompts that the forward is over

    def keep(place):
        def hook(_block, _inputs, output):
            captured[under_way, place] = output[:, -last:].float()

        return hook

    def forward(numbers):
        under_way[:] = numbers
        decoder(**left_padded([prompts[n] for n in numbers]), use_cache=False)

    for place, layer in enumerate(layers):
        decoder.layers[layer].register_forward_hook(keep(place))
    batches = batches_by_length(prompts, args.batch or BATCH)
    forward(batches[-1])  # warm-up
    watch = Stopwatch()
    with watch:
        for numbers in batches:
            forward(numbers)
    return {
        "seconds": watch.seconds,
        "tokens_per_second": sum(map(len, prompts)) / watch.seconds,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
        "digest": [digest(layer, captured[:, place]) for place, layer in enumerate(layers)],
    }


def digest(layer, values):
    """[layer, sum, L2 norm], summed in float64: what two runtimes can be compared by."""
    values = values.double()
    return [layer, values.sum().item(), values.norm().item()]
