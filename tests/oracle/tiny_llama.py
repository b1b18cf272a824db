"""Two tiny random Llama directories, as a hub would hold them.

Weights come from numpy's legacy RandomState, whose stream is frozen, so every torch
gives the same models. The JSON files are written by hand because transformers 5 no
longer writes the keys (`rope_theta`, `rope_scaling`) that runtimes read.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, MLP, VOCAB = 32, 4, 4, 2, 56, 272
HEAD = HIDDEN // HEADS
BOS, EOS = 256, 257
SPECIALS = ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]

# The residual stream grows from layer to layer: each block writes louder than the last.
BLOCK_GAIN = [0.6, 0.9, 1.3, 1.8]

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set preamble = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set preamble = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (preamble if loop.first else '') + (turn['content'] | trim) + ' [/INST]' }}"
    "{% elif turn['role'] == 'assistant' %}"
    "{{ ' ' + (turn['content'] | trim) + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns may follow the system turn') }}"
    "{% endif %}{% endfor %}"
)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def byte_alphabet():
    """The printable character that stands for each byte in a ByteLevel vocabulary."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    borrowed = iter(range(256, 512))
    return [chr(b) if b in own else chr(next(borrowed)) for b in range(256)]


def write_tokenizer(directory, max_length):
    """ByteLevel BPE without merges: token id = byte value (65 is "A"), specials from 256 on."""
    names = SPECIALS + [f"<reserved_{i}>" for i in range(VOCAB - 256 - len(SPECIALS))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bos_piece = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text, pair = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    write_json(directory / "tokenizer.json", {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + i, "content": name, **flags} for i, name in enumerate(names)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos_piece, text],
            "pair": [bos_piece, text, pair],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {char: byte for byte, char in enumerate(byte_alphabet())}
            | {name: 256 + i for i, name in enumerate(names)},
            "merges": [],
        },
    })
    write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    })
    write_json(directory / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False,
    })


def write_config(directory, **special):
    write_json(directory / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "use_cache": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **special,
    })


def random_weights(seed, tied):
    """State dict of a random Llama in float32; `lm_head.weight` left out when tied."""
    random = np.random.RandomState(seed)

    def normal(*shape, std):
        return torch.from_numpy((random.standard_normal(shape) * std).astype(np.float32))

    def projection(out_features, in_features, gain):
        return normal(out_features, in_features, std=gain / math.sqrt(in_features))

    def norm():
        return 1.0 + normal(HIDDEN, std=0.15)

    # A tied table is also the unembedding: normed rows have length sqrt(H), so
    # this std makes logits of std 1, whose largest is about 4.
    unembedding_std = 1.0 / math.sqrt(HIDDEN)
    weights = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN, std=unembedding_std if tied else 0.5)}
    for layer, gain in enumerate(BLOCK_GAIN):
        block = f"model.layers.{layer}."
        weights[block + "input_layernorm.weight"] = norm()
        weights[block + "self_attn.q_proj.weight"] = projection(HIDDEN, HIDDEN, 1.3)
        weights[block + "self_attn.k_proj.weight"] = projection(KV_HEADS * HEAD, HIDDEN, 1.3)
        weights[block + "self_attn.v_proj.weight"] = projection(KV_HEADS * HEAD, HIDDEN, 1.0)
        weights[block + "self_attn.o_proj.weight"] = projection(HIDDEN, HIDDEN, gain)
        weights[block + "post_attention_layernorm.weight"] = norm()
        weights[block + "mlp.gate_proj.weight"] = projection(MLP, HIDDEN, 1.3)
        weights[block + "mlp.up_proj.weight"] = projection(MLP, HIDDEN, 1.3)
        weights[block + "mlp.down_proj.weight"] = projection(HIDDEN, MLP, gain)
    weights["model.norm.weight"] = norm()
    if not tied:
        weights["lm_head.weight"] = normal(VOCAB, HIDDEN, std=unembedding_std)
    return weights


def write_sharded(directory, weights, shards):
    """`weights` over `shards` files in order, with the index that names each tensor's file."""
    total = sum(w.numel() * w.element_size() for w in weights.values())
    parts, filled = [{} for _ in range(shards)], 0
    for name, weight in weights.items():
        parts[min(filled * shards // total, shards - 1)][name] = weight
        filled += weight.numel() * weight.element_size()
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file(part, str(directory / file), metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / "model.safetensors.index.json", index)


def write_tiny_llama2(directory: Path, seed: int):
    """Llama 2 as it ships: float32 here, one file, untied."""
    directory.mkdir(parents=True, exist_ok=True)
    write_config(
        directory, torch_dtype="float32", tie_word_embeddings=False,
        max_position_embeddings=128, rope_theta=10000.0, rope_scaling=None,
    )
    write_tokenizer(directory, 128)
    save_file(random_weights(seed, tied=False), str(directory / "model.safetensors"), metadata={"format": "pt"})


def write_tiny_llama32(directory: Path, seed: int):
    """Llama 3.2 as it ships: bfloat16, sharded, tied, rope scaled by wavelength.

    With head size 8 the wavelengths are 6.3, 167, 4443 and 118 thousand. An original
    length of 256 puts them in all three bands of the scaling: kept (< 64), blended
    (64 to 256) and divided by the factor (> 256).
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_config(
        directory, torch_dtype="bfloat16", tie_word_embeddings=True, head_dim=HEAD,
        max_position_embeddings=2048, rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    )
    write_tokenizer(directory, 2048)
    weights = {name: w.to(torch.bfloat16) for name, w in random_weights(seed, tied=True).items()}
    write_sharded(directory, weights, shards=3)
