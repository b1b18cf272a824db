"""Run one workload of reptune-bench with torch, transformers and PEFT, and print one JSON object.

    peer.py tune|capture|sweep|copy --model DIR --work W [options]

Written to win: sdpa attention, gradients of the LoRA factors alone, the output head on one row or
left out, hooks on the blocks that matter. Seconds leave out imports, loading and warm-up.
"""

import argparse
import importlib
import json
import os


def main():
    args = arguments()
    from measure import resident_bytes

    module = importlib.import_module({"copy": "copying"}.get(args.kind, args.kind))
    about = {"work": args.kind}
    if args.kind != "copy":
        about |= {"library_bytes": resident_bytes(), "versions": versions()}
    print(json.dumps(about | module.run(args)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["tune", "capture", "sweep", "copy"])
    parser.add_argument("--model", metavar="DIR", required=True)
    parser.add_argument("--work", metavar="W", required=True, help="workload directory (copy: where to copy to)")
    parser.add_argument(
        "--batch", type=int, help="prompts in one forward [all; capture: 8]; in tune, parts of a step"
    )
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", default="cpu", help="tune: such as cuda")
    parser.add_argument("--soft", choices=["twice", "once"], default="twice", help="tune: prompts of an item")
    parser.add_argument("--compile", action="store_true", help="tune: with torch.compile, untimed")
    parser.add_argument("--how", choices=["answers", "texts"], default="answers", help="sweep")
    return parser.parse_args()


def versions():
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))


if __name__ == "__main__":
    main()
