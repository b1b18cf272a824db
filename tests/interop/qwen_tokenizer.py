"""Write a vocabulary of Qwen and what transformers cuts texts into with it.

    $REPTUNE_PYTHON tests/interop/qwen_tokenizer.py

Writes tests/interop/fixtures/qwen_tokenizer.json: the fields as a GGUF holds them, and texts with
their token ids. llama.cpp is not the reference here, because it does not compose characters.
"""

import json
import tempfile
from pathlib import Path

from llama_cpp_tokenizers import TEXTS, byte_level
from transformers import Qwen2TokenizerFast

OUT = Path(__file__).resolve().parent / "fixtures" / "qwen_tokenizer.json"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main():
    fields = byte_level("qwen2")
    tokens = [*fields["tokens"][:-2], *SPECIALS]
    fields |= {
        "tokens": tokens, "token_type": [1] * (len(tokens) - 3) + [3] * 3,
        "bos_token_id": len(tokens) - 3, "eos_token_id": len(tokens) - 1, "add_bos_token": False,
    }
    with tempfile.TemporaryDirectory() as room:
        vocab, merges = Path(room) / "vocab.json", Path(room) / "merges.txt"
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        merges.write_text("\n".join(["#version: 0.2", *fields["merges"]]) + "\n", encoding="utf-8")
        tokenizer = Qwen2TokenizerFast(
            vocab_file=str(vocab), merges_file=str(merges), eos_token=SPECIALS[2],
            additional_special_tokens=SPECIALS, chat_template=TEMPLATE,
        )
    texts = [*TEXTS, "<|im_start|>user\n2024 caf\u00e9s, cafe\u0301s<|im_end|>\n<|im_start|>assistant\n"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    messages = [{"role": "system", "content": "Be honest."}, {"role": "user", "content": "Is it 12?"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    said = {
        "fields": fields, "texts": [{"text": t, "ids": i} for t, i in zip(texts, ids)],
        "template": TEMPLATE, "chat": chat,
    }
    OUT.write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
