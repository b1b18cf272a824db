"""Write tests/fixtures/tiny-llama2 as an f32 GGUF, laid out as llama.cpp's own converter does.

    $REPTUNE_PYTHON tests/interop/llama_cpp_model.py

What differs from the Hugging Face layout: tensor names; the rows of q and k, which go from
halves to pairs because llama.cpp rotates neighbours; the vocabulary as lists.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "fixtures" / "tiny-llama2"
OUT = HERE / "fixtures" / "llama_cpp" / "tiny-llama2.gguf"


def main():
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(OUT, "llama")
    hyperparameters(writer, config)
    vocabulary(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in sorted(load_file(MODEL / "model.safetensors").items()):
        tensor = tensor.astype(np.float32)
        if name.endswith("q_proj.weight"):
            tensor = pairs(tensor, config["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            tensor = pairs(tensor, config["num_key_value_heads"])
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")


def pairs(tensor, heads):
    """Rows of every head, (2, half) to (half, 2): what one rotation turns stands side by side."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def hyperparameters(writer, config):
    heads = config["num_attention_heads"]
    writer.add_name("tiny-llama2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def vocabulary(writer, config):
    """Byte-level BPE, as the tokenizer of the fixture is; a chat template."""
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    if [vocab[t] for t in tokens] != list(range(config["vocab_size"])):
        raise SystemExit("the vocabulary has gaps")
    kinds = [gguf.TokenType.CONTROL if vocab[t] in special else gguf.TokenType.NORMAL for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # The fixture has none, and llama.cpp wants a list that the gguf package only writes with
    # something in it: a merge that no text can ask for.
    writer.add_token_merges(merges or ["<reserved_8> <reserved_9>"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    settings = json.loads((MODEL / "tokenizer_config.json").read_text(encoding="utf-8"))
    writer.add_add_bos_token(settings["add_bos_token"])
    writer.add_add_eos_token(settings["add_eos_token"])
    writer.add_chat_template(settings["chat_template"])


if __name__ == "__main__":
    main()
