"""Write tests/fixtures/: a tiny model of each architecture but plain Llama, and what transformers computes.

    python tests/oracle/make_architectures.py [OUT_DIR]      # transformers 5.24.0, which has all of them

Conventions and names of tensors are those of make_fixtures.py. The prompts are shorter: 5, 8 and 16
tokens, of which two go past a window of 6; 64 greedy tokens
go past it in any case. A variant is one of the models with a changed config.json;
`{variant}.logits` and `{variant}.layer.{l}` are of the third prompt.
"""

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import make_fixtures
import numpy as np
import torch
import transformers
from base_model import load_f32, logits_of
from made_from import made_from
from safetensors.torch import save_file
from tiny_llama import BLOCK_GAIN, BOS, EOS, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB, write_json, write_tokenizer

MLP = 32
TEXTS = ["Is a", "Is it t", "Ice is very col"]
WINDOW = 6

QWEN = {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 2}
# name: (architecture, head_dim, tied, biased modules, norms of heads, seed, keys of its config.json)
MODELS = {
    "mistral": ("Mistral", 16, False, "", False, 34, {"head_dim": 16, "sliding_window": WINDOW}),
    "qwen2": ("Qwen2", 8, True, "qkv", False, 1, QWEN),
    "qwen3": ("Qwen3", 16, True, "qkvo", True, 5, {**QWEN, "head_dim": 16, "attention_bias": False}),
    "llama-bias": ("Llama", 8, False, "qkvomlp", False, 4, {"attention_bias": True, "mlp_bias": True}),
}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}
VARIANTS = {
    "mistral-no-window": ("mistral", {"sliding_window": None}),
    "llama-wide-heads": ("mistral", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}),
    "qwen2-window": ("qwen2", SLIDING),
    "qwen2-layer-types": ("qwen2", {**SLIDING, "layer_types": [f"{kind}_attention" for kind in
                                                               ("sliding", "full", "full", "sliding")]}),
    "qwen3-bias": ("qwen3", {"attention_bias": True}),
    "qwen3-window": ("qwen3", {**SLIDING, "max_window_layers": 0}),
    "llama-attention-bias": ("llama-bias", {"mlp_bias": False}),
    "llama-mlp-bias": ("llama-bias", {"attention_bias": False}),
}


def main():
    if transformers.__version__ != "5.24.0":
        raise SystemExit(f"transformers 5.24.0 is needed, this is {transformers.__version__}")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures"
    make_fixtures.NEW_TOKENS, make_fixtures.LEAST_MARGIN = 64, 4e-3
    for name, settings in MODELS.items():
        directory = out / f"tiny-{name}"
        write_model(directory, *settings)
        print(name)
        save(out / f"oracle-{name}.safetensors", make_fixtures.base_tensors(load_f32(directory), prompt_ids(directory)))
    tensors = {}
    for name, (model, changes) in VARIANTS.items():
        tensors |= variant(out / f"tiny-{model}", name, changes)
    save(out / "oracle-variants.safetensors", tensors)
    write_json(out / "variants.json", {
        name: {"model": f"tiny-{model}", "config": changes} for name, (model, changes) in VARIANTS.items()
    })


def prompt_ids(directory):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    if [len(i) for i in ids] != [5, 8, 16]:
        raise SystemExit(f"prompts are not as promised: {ids}")
    return ids


def save(path, tensors):
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    if not all(torch.isfinite(t).all() for t in plain.values()):
        raise SystemExit(f"{path.name}: numbers that are not finite")
    scripts = ("make_architectures", "make_fixtures", "base_model", "tiny_llama")
    save_file(plain, str(path), metadata=made_from([f"tests/oracle/{name}.py" for name in scripts], []))
    print(f"{path.name}: {len(plain)} tensors, {path.stat().st_size} bytes")


@torch.no_grad()
def variant(directory, name, changes):
    with tempfile.TemporaryDirectory() as room:
        room = Path(room) / name
        shutil.copytree(directory, room)
        write_json(room / "config.json", json.loads((room / "config.json").read_text()) | changes)
        model, ids = load_f32(room), prompt_ids(room)[2]
    with make_fixtures.Recorder(model.model.layers) as recorder:
        logits = logits_of(model, ids)
    plain = logits_of(load_f32(directory), ids)
    print(f"{name}: logits move by {(logits - plain).abs().max():.3f}")
    if torch.equal(logits, plain):
        raise SystemExit(f"{name} changes nothing")
    return {f"{name}.logits": logits} | {f"{name}.layer.{layer}": rows for layer, rows in recorder.rows.items()}


def write_model(directory, architecture, head_dim, tied, biased, head_norms, seed, keys):
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", {
        "architectures": [f"{architecture}ForCausalLM"],
        "model_type": architecture.lower(),
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **keys,
    })
    write_tokenizer(directory, 128)
    weights = random_weights(seed, head_dim, tied, biased, head_norms)
    save_file({name: w.to(torch.bfloat16) for name, w in weights.items()},
              str(directory / "model.safetensors"), metadata={"format": "pt"})


def random_weights(seed, head_dim, tied, biased, head_norms):
    random = np.random.RandomState(seed)

    def normal(*shape, std):
        return torch.from_numpy((random.standard_normal(shape) * std).astype(np.float32))

    def norm(width=HIDDEN):
        return 1.0 + normal(width, std=0.15)

    weights = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN, std=1 / math.sqrt(HIDDEN) if tied else 0.5)}
    for layer, gain in enumerate(BLOCK_GAIN):
        block = f"model.layers.{layer}."

        def linear(module, out_features, in_features, gain, has_bias):
            name = block + module
            weights[f"{name}.weight"] = normal(out_features, in_features, std=gain / math.sqrt(in_features))
            if has_bias:
                weights[f"{name}.bias"] = normal(out_features, std=0.4)

        weights[block + "input_layernorm.weight"] = norm()
        q, kv = HEADS * head_dim, KV_HEADS * head_dim
        linear("self_attn.q_proj", q, HIDDEN, 1.3, "qkv" in biased)
        linear("self_attn.k_proj", kv, HIDDEN, 1.3, "qkv" in biased)
        linear("self_attn.v_proj", kv, HIDDEN, 1.0, "qkv" in biased)
        linear("self_attn.o_proj", HIDDEN, q, gain, "o" in biased)
        if head_norms:
            weights[block + "self_attn.q_norm.weight"] = norm(head_dim)
            weights[block + "self_attn.k_norm.weight"] = norm(head_dim)
        weights[block + "post_attention_layernorm.weight"] = norm()
        linear("mlp.gate_proj", MLP, HIDDEN, 1.3, "mlp" in biased)
        linear("mlp.up_proj", MLP, HIDDEN, 1.3, "mlp" in biased)
        linear("mlp.down_proj", HIDDEN, MLP, gain, "mlp" in biased)
    weights["model.norm.weight"] = norm()
    if not tied:
        weights["lm_head.weight"] = normal(VOCAB, HIDDEN, std=1 / math.sqrt(HIDDEN))
    return weights


if __name__ == "__main__":
    main()
