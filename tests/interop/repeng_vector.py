"""Write a control vector with repeng, and the logits of repeng's own steering with it.

    $REPTUNE_PYTHON tests/interop/repeng_vector.py

Writes repeng.gguf and repeng.safetensors (`repeng.{i}` (T, V) for the first two prompts) to
tests/interop/fixtures/llama_cpp. The vectors are the oracle's directions at layers 1 to 3,
each times another number, because repeng does not normalise either. If there is a
control-vector.gguf of reptune beside them, repeng must read the same from it.
"""

import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

from base_model import load_f32, logits_of

import torch
from made_from import made_from
from safetensors import safe_open
from safetensors.torch import save_file

try:
    import sklearn.decomposition
except ImportError:
    decomposition = types.ModuleType("sklearn.decomposition")
    decomposition.PCA = None
    sys.modules |= {"sklearn": types.ModuleType("sklearn"), "sklearn.decomposition": decomposition}

from repeng import ControlModel, ControlVector

FILES = HERE / "fixtures" / "llama_cpp"
PROMPTS = 2
SCRIPTS = ["tests/interop/repeng_vector.py", "tests/oracle/base_model.py"]
STRENGTH = 3.0
NORMS = {1: 1.0, 2: 0.5, 3: 2.0}


def main():
    with safe_open(str(HERE.parent / "fixtures" / "oracle-llama2.safetensors"), framework="pt") as oracle:
        prompts = [oracle.get_tensor(f"prompt.{i}.ids").tolist() for i in range(PROMPTS)]
        directions = {layer: (oracle.get_tensor(f"direction.{layer}") * norm).numpy() for layer, norm in NORMS.items()}
    vector = ControlVector(model_type="llama", directions=directions)
    vector.export_gguf(FILES / "repeng.gguf")
    model = ControlModel(load_f32(HERE.parent / "fixtures" / "tiny-llama2"), list(NORMS))
    model.set_control(vector, STRENGTH)
    with torch.no_grad():
        logits = {f"repeng.{i}": logits_of(model, ids).contiguous() for i, ids in enumerate(prompts)}
    save_file(logits, FILES / "repeng.safetensors", metadata=made_from(SCRIPTS, ["torch", "transformers", "repeng", "gguf"]))
    print(f"repeng.gguf: {(FILES / 'repeng.gguf').stat().st_size} bytes")

    ours = FILES / "control-vector.gguf"
    if ours.exists():
        read = ControlVector.import_gguf(ours)
        print(f"repeng reads control-vector.gguf: model {read.model_type!r}, layers {sorted(read.directions)}")
        for layer, values in read.directions.items():
            unit = directions[layer] / NORMS[layer]
            if abs(values - unit).max() > 1e-6:
                raise SystemExit(f"repeng reads other values at layer {layer}")


if __name__ == "__main__":
    main()
