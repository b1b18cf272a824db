"""Say what Hugging Face transformers computes with a checkpoint that reptune merged.

    $REPTUNE_PYTHON tests/interop/merged_checkpoint.py MODEL IDS.json OUT.safetensors

OUT gets `prompt.{i}` (T, V) in float32 for each list of IDS.json. transformers must place
every tensor of the checkpoint, and have one for every parameter: alone it would leave a
missing one at a random value with a warning.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))

from base_model import load_f32, logits_of

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main():
    if len(sys.argv) != 4:
        raise SystemExit("usage: merged_checkpoint.py MODEL IDS.json OUT.safetensors")
    directory, ids_file, out = sys.argv[1:]
    _, placed = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    wrong = {what: list(names) for what, names in placed.items() if names}
    if wrong:
        raise SystemExit(f"{directory}: {wrong}")
    model = load_f32(directory)
    prompts = json.loads(Path(ids_file).read_text(encoding="utf-8"))
    with torch.no_grad():
        save_file({f"prompt.{i}": logits_of(model, ids).contiguous() for i, ids in enumerate(prompts)}, out)


if __name__ == "__main__":
    main()
