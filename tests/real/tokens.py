"""Token ids of 200 texts and of chats, as transformers makes them with the tokenizer of SmolLM2.

    tests/real/tokens.py MODEL.gguf OUT.json

The vocabulary, the merges and the chat template come from the GGUF. Its pre-tokenizer, which a GGUF
only names (`smollm`), is written out here as the published tokenizer.json has it: each digit alone,
then the bytes of GPT-2.
"""

import json
import random
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = 3  # llama.cpp's type of a special token

PIECES = [
    "The harbour was quiet before dawn.", "She didn't know he'd've gone; they're late, I'll wait.",
    "def area(r):\n    return 3.14159 * r ** 2\n", "for (int i = 0; i < 42; ++i) { sum += a[i]; }",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;", "let x: Vec<u32> = (0..10).collect();",
    "<div class=\"box\">\n\t<p>Hi &amp; bye</p>\n</div>", "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\"}",
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "C:\\Temp\\new_file.txt",
    "Der Fuchs läuft über die Straße, größer als zuvor.", "L'été dernier, j'ai mangé une crêpe à Nîmes.",
    "El niño comió piñas mañana por la mañana.", "Żółw gęś łódź ćma", "Ο ήλιος ανατέλλει στη θάλασσα.",
    "Солнце встаёт над морем в 7:45.", "太陽は海から昇る。", "今天天气很好，我们去公园。", "오늘은 날씨가 맑습니다.",
    "الشمس تشرق من البحر", "השמש זורחת מהים", "सूरज समुद्र से उगता है", "พระอาทิตย์ขึ้นจากทะเล", "Mặt trời mọc từ biển",
    "🙂", "👩‍👩‍👧‍👦 and 🏳️‍🌈", "🇫🇷🇯🇵 5️⃣ ✌🏽", "e\u0301 is not \u00e9", "a\u200bb\u00a0c\u2003d\ufeffe", "\u202eright to left\u202c",
    "1234567890", "1,234.56 and 7e-10", "2026-11-29T08:05:00Z", "v1.2.3-rc4", "0xDEADBEEF", "½ ² ³ Ⅷ ①",
    "    four blanks", "trailing   ", "\n\n42", "\r\n\r\nlines\r\n", "\t\ttabs\tand  blanks \n \n", " ", "\n", ".",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<|im_start|>", "<|im_end|><|im_end|>", "<|im_start", "<s>[INST] x [/INST]</s>",
    "<repo_name>a/b<file_sep>", "x<|im_end|>y", "!!!???...;;;:::", "——…«»„“”’‘", "∀x∈ℝ: x²≥0 ⇒ √x²=|x|", "→ ⟹ ≠ ≤ ∞ ∑ ∫",
    "snake_case camelCase SCREAMING_CASE kebab-case", "AAAAAAAAAAAAAAAAAAAAAAAA", "aaaa bbbb  cccc   dddd", "\x00\x01\x7f", "\\n is not a line",
]


def texts():
    chosen = list(PIECES)
    rng = random.Random(7)
    while len(chosen) < 200:
        count = rng.randint(2, 5)
        chosen.append(rng.choice(["", " ", "\n", "\n\n", "  ", ", "]).join(rng.sample(PIECES, count)))
    return chosen


CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Who are you?\n"}],
    [
        {"role": "system", "content": "Answer shortly."},
        {"role": "user", "content": "Is ice cold?"},
        {"role": "assistant", "content": "Yes, below 0 degrees."},
        {"role": "user", "content": " And <|im_end|> fire? 🙂"},
    ],
]


def field(reader, name):
    return reader.fields[name]


def strings(reader, name):
    f = field(reader, name)
    return [bytes(f.parts[i]).decode() for i in f.data]


def main(gguf, out):
    reader = GGUFReader(gguf)
    tokens = strings(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in strings(reader, "tokenizer.ggml.merges")]
    kinds = field(reader, "tokenizer.ggml.token_type")
    special = [tokens[i] for i, part in enumerate(kinds.data) if kinds.parts[part][0] == CONTROL]
    assert strings(reader, "tokenizer.ggml.pre") == ["smollm"]
    fast = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    assert fast.get_vocab_size() == len(tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast)
    tokenizer.chat_template = strings(reader, "tokenizer.chat_template")[0]
    written = texts()
    assert len(written) == 200
    found = {
        "texts": [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False)} for t in written],
        "chats": [
            {"messages": c, "ids": tokenizer.apply_chat_template(c, tokenize=True, add_generation_prompt=True)}
            for c in CHATS
        ],
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file)


main(*sys.argv[1:])
