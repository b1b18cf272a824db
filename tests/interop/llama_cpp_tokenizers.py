"""Write vocabularies and what llama.cpp cuts texts into with them.

    $REPTUNE_PYTHON tests/interop/llama_cpp_tokenizers.py

Writes tests/interop/fixtures/llama_cpp/tokenizers.json: for each kind of tokenizer its
fields as a GGUF holds them, and texts with their token ids. The merges are learnt from the
texts themselves, so all of them are used.
"""

import collections
import json
import re
import tempfile
from pathlib import Path

OUT = Path(__file__).resolve().parent / "fixtures" / "llama_cpp" / "tokenizers.json"
TEXTS = [
    "Is it true that the year's number is 1234567? It's $5+$6=~11|12 <^>.",
    "  two  spaces,\n\n\ttabs and DON'T they'll we'Ve\r\n ",
    "ö ß é \U0001f600 \u4f60\u597d e\u0301 12\u00b2",
    "a<s>b</s> c",
    "The residual stream is a table, the stream of the residual table is true.",
]
MERGES = 120


def byte_alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    borrowed = iter(range(256, 512))
    return [chr(b) if b in own else chr(next(borrowed)) for b in range(256)]


def learn(words):
    """Pairs of pieces in the order of how often they stand side by side."""
    split = {word: list(word) for word in words}
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, pieces in split.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        (left, right), _ = max(pairs.items(), key=lambda entry: (entry[1], entry[0]))
        merges.append((left, right))
        for pieces in split.values():
            at = 0
            while at + 1 < len(pieces):
                if (pieces[at], pieces[at + 1]) == (left, right):
                    pieces[at : at + 2] = [left + right]
                at += 1
    return merges


def byte_level(pre):
    alphabet = byte_alphabet()
    cut = re.findall(r" ?\w+| ?[^\w\s]+|\s+", "\n".join(TEXTS))
    words = collections.Counter("".join(alphabet[b] for b in word.encode()) for word in cut)
    merges = learn(words)
    tokens = [*alphabet, *dict.fromkeys(left + right for left, right in merges), "<s>", "</s>"]
    return {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": [" ".join(m) for m in merges],
        "token_type": [1] * (len(tokens) - 2) + [3, 3],
        "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "add_bos_token": True,
    }


def pieces():
    words = collections.Counter("\u2581" + word for text in TEXTS for word in text.split())
    merges = list(dict.fromkeys(left + right for left, right in learn(words)))
    letters = sorted({letter for word in words for letter in word})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *merges, *letters]
    ranked = len(merges) + len(letters)
    return {
        "model": "llama", "tokens": tokens, "token_type": [2, 3, 3] + [6] * 256 + [1] * ranked,
        "scores": [0.0] * 259 + [-float(i) for i in range(ranked)],
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
    }


def write(path, fields):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for add, number in [
        (writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, 32),
        (writer.add_feed_forward_length, 32), (writer.add_head_count, 4), (writer.add_layer_norm_rms_eps, 1e-5),
    ]:
        add(number)
    for key, value in fields.items():
        add = {
            str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array,
        }[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    import llama_cpp

    kinds = {"pieces": pieces()} | {pre: byte_level(pre) for pre in ["gpt-2", "llama-bpe", "default"]}
    for name, fields in kinds.items():
        with tempfile.TemporaryDirectory() as room:
            path = str(Path(room) / "vocabulary.gguf")
            write(path, fields)
            model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
            ids = [model.tokenize(text.encode(), add_bos=True, special=True) for text in TEXTS]
        kinds[name] = {"fields": fields, "texts": [{"text": t, "ids": i} for t, i in zip(TEXTS, ids)]}
    OUT.write_text(json.dumps(kinds, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
