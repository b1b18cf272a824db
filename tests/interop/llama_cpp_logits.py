"""Say what llama.cpp computes: alone, with a control vector, with a LoRA.

    $REPTUNE_PYTHON tests/interop/llama_cpp_logits.py

Reads from tests/interop/fixtures/llama_cpp: tiny-llama2.gguf, and control-vector.gguf, dose.gguf
and lora.gguf, which reptune wrote (`REPTUNE_INTEROP=write cargo test -p reptune-tests interop::`).
Writes there logits.safetensors with `{case}.{i}` (T, V) for the first two prompts of the
oracle. Everything is f32, the cache too; llama.cpp keeps it in f16 if not told otherwise.

A control vector's file is read here as llama.cpp's `common/common.cpp` reads it, with the
same refusals, for that reader is in none of its libraries; from the buffer on, llama.cpp
itself is at work. A LoRA's file llama.cpp reads alone.
"""

import ctypes
import math
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
FILES = HERE / "fixtures" / "llama_cpp"
PROMPTS = 2
STRENGTH = 3.0
F32 = 0  # ggml's number of the type


def main():
    llama_cpp.llama_backend_init()
    silence = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silence, None)
    with safe_open(str(HERE.parent / "fixtures" / "oracle-llama2.safetensors"), framework="np") as oracle:
        prompts = [oracle.get_tensor(f"prompt.{i}.ids").tolist() for i in range(PROMPTS)]
    model = llama_cpp.llama_model_load_from_file(
        str(FILES / "tiny-llama2.gguf").encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit("llama.cpp does not load tiny-llama2.gguf")
    check_vocabulary(model)
    layers = llama_cpp.llama_model_n_layer(model)
    cases = {
        "base": lambda context: None,
        "control_vector": lambda context: steer(model, context, "control-vector.gguf", 1, layers),
        "control_vector_2": lambda context: steer(model, context, "control-vector.gguf", 2, 2),
        "dose": lambda context: steer(model, context, "dose.gguf", 1, layers),
        "lora": lambda context: tune(model, context, 1.0),
        "lora_half": lambda context: tune(model, context, -0.5),
    }
    if (FILES / "repeng.gguf").exists():
        cases["repeng"] = lambda context: steer(model, context, "repeng.gguf", 1, layers)
    tensors = {}
    for case, change in cases.items():
        for i, ids in enumerate(prompts):
            tensors[f"{case}.{i}"] = logits(model, ids, change)
            far = float(np.abs(tensors[f"{case}.{i}"] - tensors[f"base.{i}"]).max())
            print(f"{case}.{i}: {far:.4f} from base at most")
            if case != "base" and far < 0.1:
                raise SystemExit(f"{case} does nothing")
    save_file(tensors, FILES / "logits.safetensors", metadata={"made_by": f"llama-cpp-python {llama_cpp.__version__}"})


def logits(model, ids, change):
    """(T, V) of one prompt in a context of its own."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 64
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise SystemExit("no context")
    change(context)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    if llama_cpp.llama_decode(context, batch):
        raise SystemExit("llama_decode failed")
    width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (width,)).copy() for i in range(len(ids))]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return np.stack(rows)


def steer(model, context, file, start, end):
    """Adds STRENGTH times the vectors of `file` to the outputs of blocks start to end."""
    width, layers = llama_cpp.llama_model_n_embd(model), llama_cpp.llama_model_n_layer(model)
    buffer = control_vector(FILES / file, width, layers) * np.float32(STRENGTH)
    data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if llama_cpp.llama_set_adapter_cvec(context, data, buffer.size, width, start, end):
        raise SystemExit(f"llama.cpp refuses {file}")


def control_vector(path, width, layers):
    """(layers - 1, width): the vector of layer 1 first, as `llama_set_adapter_cvec` takes them."""
    reader = gguf.GGUFReader(path)
    buffer = np.zeros((layers - 1, width), np.float32)
    for tensor in reader.tensors:
        prefix, _, number = tensor.name.rpartition(".")
        if prefix != "direction":
            continue
        layer = int(number)
        if layer < 1:
            raise SystemExit(f"{path.name}: {tensor.name}: llama.cpp refuses layers below 1")
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or tensor.data.shape != (width,):
            raise SystemExit(f"{path.name}: {tensor.name}: not {width} f32")
        if layer < layers:
            buffer[layer - 1] = tensor.data
    return buffer


def tune(model, context, scale):
    """The LoRA of lora.gguf, times scale."""
    adapter = llama_cpp.llama_adapter_lora_init(model, str(FILES / "lora.gguf").encode())
    if not adapter:
        raise SystemExit("llama.cpp refuses lora.gguf")
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    if llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(scale)):
        raise SystemExit("llama.cpp does not take lora.gguf")


def check_vocabulary(model):
    """The bytes of a text are its ids, behind <s>."""
    text = "Is it true?".encode()
    room = (llama_cpp.llama_token * 32)()
    count = llama_cpp.llama_tokenize(llama_cpp.llama_model_get_vocab(model), text, len(text), room, 32, True, True)
    if not (count == 12 and room[0] == 256 and math.isfinite(room[1])):
        raise SystemExit(f"llama.cpp tokenizes otherwise: {list(room[:max(count, 0)])}")
    print("tokens of llama.cpp:", list(room[:count]))


if __name__ == "__main__":
    main()
