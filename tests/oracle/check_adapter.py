"""Say what a real PEFT computes with an adapter that reptune wrote.

    check_adapter.py BASE ADAPTER IDS.json OUT.safetensors

BASE and ADAPTER are directories; IDS.json is a list of lists of token ids. OUT gets
`prompt.{i}.logits` (T, V) in float32 for each list, computed unmerged. Every tensor in
the adapter file must have found its place, and every place its tensor: PEFT alone would
leave a misnamed one at its initial value without a word.
"""

import json
import sys
from pathlib import Path

from base_model import load_f32, logits_of

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file


def main():
    if len(sys.argv) != 5:
        raise SystemExit("usage: check_adapter.py BASE ADAPTER IDS.json OUT.safetensors")
    base, adapter, ids_file, out = sys.argv[1:]
    model = PeftModel.from_pretrained(load_f32(base), adapter).eval()
    check_placed(model, Path(adapter) / "adapter_model.safetensors")
    prompts = json.loads(Path(ids_file).read_text(encoding="utf-8"))
    with torch.no_grad():
        logits = {f"prompt.{i}.logits": logits_of(model, ids).contiguous() for i, ids in enumerate(prompts)}
    save_file(logits, out)


def check_placed(model, file):
    """Exit unless the file's tensors are exactly those of the loaded adapter, name by name and value by value."""
    placed = get_peft_model_state_dict(model, save_embedding_layers=False)
    with safe_open(str(file), framework="pt") as stored:
        names = set(stored.keys())
        if names != set(placed):
            raise SystemExit(
                f"{file}: adapter tensors do not fit the model\n"
                f"  without a place: {sorted(names - set(placed))}\n"
                f"  missing: {sorted(set(placed) - names)}"
            )
        changed = [n for n in sorted(names) if not torch.equal(stored.get_tensor(n).to(placed[n].dtype), placed[n])]
    if changed:
        raise SystemExit(f"{file}: PEFT loaded other values for {changed}")


if __name__ == "__main__":
    main()
