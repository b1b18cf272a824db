"""Run one workload with torch, transformers and peft, and print one JSON object.

    peer.py tune|capture|sweep|generate|copy --model DIR --work W [flags]
    peer.py products --model DIR --rows N
    peer.py peak

The workload comes from `reptune bench`, which runs the same. Written to win: sdpa attention,
gradients of the LoRA factors alone, no output head where no logit is read and one row of it where
one is, hooks on the blocks that matter. Seconds leave out imports, loading and warm-up.
"""

import argparse
import importlib
import json
import os

MODULES = {
    "tune": "tune",
    "capture": "capture",
    "sweep": "sweep",
    "generate": "generate",
    "copy": "copying",
    "products": "products",
}


def main():
    args = arguments()
    if args.kind == "peak":
        report = peak()
    else:
        module = importlib.import_module(MODULES[args.kind])
        from measure import resident_bytes

        libraries = resident_bytes()
        report = {"work": args.kind, **module.run(args)}
        report |= {"library_bytes": libraries, "dtype": args.dtype, "threads": os.cpu_count()}
    print(json.dumps(report))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=[*MODULES, "peak"])
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--work", metavar="W", help="workload directory (copy: where to copy to)")
    parser.add_argument(
        "--batch", type=int, help="prompts in one forward [all; capture: some]; in tune, parts of a step"
    )
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", default="cpu", help="tune: where, such as cuda")
    parser.add_argument("--steps", type=int, help="tune: the first so many steps only")
    parser.add_argument(
        "--soft", choices=["twice", "once"], default="twice", help="tune: prompts of a soft item"
    )
    parser.add_argument("--how", choices=["letters", "generate"], default="letters", help="sweep")
    parser.add_argument("--rows", type=int, help="products: rows that are multiplied")
    parser.add_argument("--compile", action="store_true", help="tune: with torch.compile, untimed")
    parser.add_argument("--count", action="store_true", help="tune: count its operations, and time nothing")
    args = parser.parse_args()
    if args.kind == "products" and not (args.model and args.rows):
        parser.error("products: --model and --rows are needed")
    if args.kind not in ("peak", "products") and not (args.model and args.work):
        parser.error(f"{args.kind}: --model and --work are needed")
    if (args.compile or args.count) and args.kind != "tune":
        parser.error("--compile, --count: tune only")
    if args.device != "cpu" and args.kind != "tune":
        parser.error("--device: tune only")
    return args


def peak():
    """What torch reaches in a plain product here, and the versions that ran."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    return {
        "f32_gflops": product_gflops(torch.float32, 2048),
        "bf16_gflops": product_gflops(torch.bfloat16, 1024),
        "read_gbs": read_gbs(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def product_gflops(dtype, side, repeats=5):
    """Billions of operations per second in the fastest of some square products."""
    import torch
    from measure import Stopwatch

    rows, weight = torch.randn(2, side, side).to(dtype)
    watches = [Stopwatch() for _ in range(repeats)]
    for watch in watches:
        with watch, torch.inference_mode():
            torch.nn.functional.linear(rows, weight)
    return 2 * side**3 / min(watch.seconds for watch in watches) / 1e9


def read_gbs(numbers=100_000_000, repeats=5):
    """Billions of bytes per second in the fastest of some sums of f32 numbers that no cache holds."""
    import torch
    from measure import Stopwatch

    data = torch.ones(numbers)
    watches = [Stopwatch() for _ in range(repeats)]
    for watch in watches:
        with watch, torch.inference_mode():
            data.sum()
    return 4 * numbers / min(watch.seconds for watch in watches) / 1e9


if __name__ == "__main__":
    main()
