"""Write cvector.gguf as llama.cpp's cvector-generator lays it out.

    $REPTUNE_PYTHON tests/interop/cvector_layout.py

The generator counts what lies behind block i as direction i + 1, where llama.cpp applies
direction i + 1 behind block i + 1; so these are the oracle's directions of layers 0 to 2 under
the names 1 to 3. Its layer count is signed, unlike repeng's.
"""

from pathlib import Path

import gguf
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
FILE = HERE / "fixtures" / "llama_cpp" / "cvector.gguf"


def main():
    writer = gguf.GGUFWriter(FILE, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", 3)
    with safe_open(str(HERE.parent / "fixtures" / "oracle-llama2.safetensors"), framework="np") as oracle:
        for layer in (0, 1, 2):
            writer.add_tensor(f"direction.{layer + 1}", oracle.get_tensor(f"direction.{layer}"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
