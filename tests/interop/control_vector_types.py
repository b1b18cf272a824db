"""Write a control vector whose tensors have other types and shapes than llama.cpp takes.

    $REPTUNE_PYTHON tests/interop/control_vector_types.py

Writes llama_cpp/types.gguf for tiny-llama2, with a layer more than it has, and in
llama_cpp/types.safetensors the numbers that the reader of the gguf package finds in it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from made_from import made_from
from safetensors.numpy import save_file

OUT = HERE / "fixtures" / "llama_cpp"
SCRIPTS = ["tests/interop/control_vector_types.py"]
WIDTH, LAYERS = 32, 4


def main():
    rows = np.random.default_rng(7).normal(size=(LAYERS + 1, WIDTH)) * 3
    path = OUT / "types.gguf"
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama-3.1")
    writer.add_uint32("controlvector.layer_count", LAYERS)
    writer.add_tensor("direction.1", rows[1].astype(np.float16))
    bfloat = gguf.quants.quantize(rows[2].astype(np.float32).reshape(WIDTH, 1), Type.BF16)
    writer.add_tensor("direction.2", bfloat, raw_dtype=Type.BF16)
    writer.add_tensor("direction.3", rows[3].reshape(1, WIDTH))
    writer.add_tensor("direction.4", rows[4].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    numbers = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = tensor.data
        if tensor.tensor_type != Type.F64:
            data = gguf.quants.dequantize(data, tensor.tensor_type)
        print(tensor.name, tensor.tensor_type.name, tensor.shape.tolist())
        numbers[tensor.name] = np.ascontiguousarray(data.reshape(-1).astype(np.float32))
    save_file(numbers, OUT / "types.safetensors", metadata=made_from(SCRIPTS, ["gguf"]))


if __name__ == "__main__":
    main()
