"""Logits of SmolLM2 as transformers computes them, on weights that are proven to be those of its GGUF.

    tests/real/logits.py MODEL.gguf DIRECTORY PROMPTS.json OUT.safetensors

DIRECTORY is what `reptune convert MODEL.gguf --dequantize f32 -o DIRECTORY` wrote. Every tensor of it is
compared with the one that the gguf package dequantizes. PROMPTS.json is a list of lists of token ids.
OUT has the logits (T, V) of each, named by its number.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight"}


def name_of(tensor):
    if tensor in ENDS:
        return ENDS[tensor]
    _, layer, kind, _ = tensor.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.weight"


def check(gguf, directory):
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    ours = load_file(Path(directory) / "model.safetensors")
    for tensor in GGUFReader(gguf).tensors:
        name = name_of(tensor.name)
        theirs = dequantize(tensor.data, tensor.tensor_type)
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
        kind = tensor.name.split(".")[-2]
        if kind in heads:  # llama.cpp rotates neighbouring rows of a head
            rows, columns = theirs.shape
            heads = config[heads[kind]]
            theirs = theirs.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        off = numpy.abs(ours.pop(name).numpy() - theirs).max()
        assert off <= 1e-6 * numpy.abs(theirs).max(), f"{name}: {off}"
    assert not ours, f"tensors that the GGUF does not have: {list(ours)}"


def main(gguf, directory, prompts, out):
    check(gguf, directory)
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32)
    prompts = json.loads(Path(prompts).read_text(encoding="utf-8"))
    with torch.no_grad():
        logits = {str(i): model(torch.tensor([p])).logits[0].contiguous() for i, p in enumerate(prompts)}
    save_file(logits, out)


main(*sys.argv[1:])
