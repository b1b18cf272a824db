"""Write control-vector.gguf and lora.gguf for llama.cpp, as its own tools lay them out.

    LLAMA_CPP_PYTHON tests/interop/llama_cpp_files.py

The control vector: the oracle's unit directions of layers 1 to 3. The LoRA: PEFT's adapter
fixtures/peft/plain; the rows of B of q and k go from halves to pairs, as the base weight's do.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from llama_cpp_model import MODEL, pairs
from safetensors import safe_open
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
FILES = HERE / "fixtures" / "llama_cpp"
ADAPTER = HERE / "fixtures" / "peft" / "plain"


def main():
    control_vector()
    lora()
    for file in ("control-vector.gguf", "lora.gguf"):
        print(f"{file}: {(FILES / file).stat().st_size} bytes")


def control_vector():
    writer = gguf.GGUFWriter(FILES / "control-vector.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 3)
    with safe_open(str(HERE.parent / "fixtures" / "oracle-llama2.safetensors"), framework="np") as oracle:
        for layer in (1, 2, 3):
            writer.add_tensor(f"direction.{layer}", oracle.get_tensor(f"direction.{layer}"))
    finish(writer)


def lora():
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    adapter = json.loads((ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(FILES / "lora.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter["lora_alpha"])
    for name, factor in sorted(load_file(ADAPTER / "adapter_model.safetensors").items()):
        module, letter = name.removeprefix("base_model.model.").removesuffix(".weight").split(".lora_")
        projection = module.rsplit(".", 1)[1]
        if letter == "B" and projection in heads:
            factor = pairs(factor, heads[projection])
        base = names.get_name(f"{module}.weight", (".weight",))
        writer.add_tensor(f"{base}.lora_{letter.lower()}", np.ascontiguousarray(factor))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
