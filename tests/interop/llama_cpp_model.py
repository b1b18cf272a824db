"""Write a tiny model directory as an f32 GGUF, laid out as llama.cpp's own converter does.

    $REPTUNE_PYTHON tests/interop/llama_cpp_model.py [MODEL_DIR OUT.gguf]

Without arguments it writes fixtures/llama_cpp/tiny-llama2.gguf. Llama, Mistral (which llama.cpp
calls a llama too), Qwen2 and Qwen3 are known.

What differs from the Hugging Face layout: tensor names; the rows of q and k and of their biases,
which a llama has in pairs where Hugging Face has halves, because llama.cpp rotates neighbours in
this architecture alone; the vocabulary as lists.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def main():
    default = [HERE.parent / "fixtures" / "tiny-llama2", HERE / "fixtures" / "llama_cpp" / "tiny-llama2.gguf"]
    model, out = (Path(argument) for argument in sys.argv[1:] or default)
    config = read(model, "config.json")
    architecture = ARCHITECTURES[config["model_type"]]
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[architecture])
    hyperparameters(writer, config, model.name, architecture)
    vocabulary(writer, config, model, architecture)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors = {name: t for file in model.glob("*.safetensors") for name, t in load_file(file).items()}
    for name, tensor in sorted(tensors.items()):
        if architecture == gguf.MODEL_ARCH.QWEN3 and name.endswith(".bias"):
            continue  # the fixture has them for a variant, and its config says that they are not used
        tensor = tensor.float().numpy()
        if architecture == gguf.MODEL_ARCH.LLAMA and ".q_proj." in name:
            tensor = pairs(tensor, config["num_attention_heads"])
        if architecture == gguf.MODEL_ARCH.LLAMA and ".k_proj." in name:
            tensor = pairs(tensor, config["num_key_value_heads"])
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out.name}: {out.stat().st_size} bytes")


def read(model, name):
    return json.loads((model / name).read_text(encoding="utf-8"))


def pairs(tensor, heads):
    """Rows of every head, (2, half) to (half, 2): what one rotation turns stands side by side."""
    half = tensor.shape[0] // heads // 2
    return tensor.reshape(heads, 2, half, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def hyperparameters(writer, config, name, architecture):
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if architecture == gguf.MODEL_ARCH.LLAMA:
        writer.add_rope_dimension_count(width)
    if config.get("head_dim"):
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def vocabulary(writer, config, model, architecture):
    """Byte-level BPE, as the tokenizers of the fixtures are; a chat template."""
    tokenizer = read(model, "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    if [vocab[t] for t in tokens] != list(range(config["vocab_size"])):
        raise SystemExit("the vocabulary has gaps")
    kinds = [gguf.TokenType.CONTROL if vocab[t] in special else gguf.TokenType.NORMAL for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default" if architecture == gguf.MODEL_ARCH.LLAMA else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # A fixture without merges: llama.cpp wants a list that the gguf package only writes with
    # something in it, so a merge that no text can ask for.
    writer.add_token_merges(merges or ["<reserved_8> <reserved_9>"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    settings = read(model, "tokenizer_config.json")
    writer.add_add_bos_token(settings["add_bos_token"])
    writer.add_add_eos_token(settings["add_eos_token"])
    writer.add_chat_template(settings["chat_template"])


if __name__ == "__main__":
    main()
