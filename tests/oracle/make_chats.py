"""Write tests/fixtures/chats.json: chat templates, conversations, and what transformers makes of them.

    pip install transformers==5.24.0 jinja2==3.1.6       # no torch
    python tests/oracle/make_chats.py

Each case is one feature of templates that published models use, in a wording of our own. The
tokenizer is that of tests/fixtures/tiny-llama2. "Today" is 26 July 2024 in every case, as it is
for reptune.
"""

import datetime
import json
import tempfile
from pathlib import Path

import transformers
import transformers.utils.chat_template_utils as chat_template_utils
from made_from import made_from

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "fixtures" / "tiny-llama2"

SYSTEM = {"role": "system", "content": "You are kind."}
USER = {"role": "user", "content": "Is ice cold?"}
ANSWER = {"role": "assistant", "content": "Yes."}
AGAIN = {"role": "user", "content": " And \"fire\" <hot> & bright? "}
LONG = [SYSTEM, USER, ANSWER, AGAIN]
SHORT = [USER]

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
# Every message is written somewhere: reptune refuses templates that drop one.
ALL = "{{ messages[0].content }}{{ messages[-1].content }}"
ASK = "{% if add_generation_prompt %}<assistant>{% endif %}"

# name: (template, conversation, changes of tokenizer_config.json)
CASES = {
    "bos written": ("{{ bos_token }}" + TURNS + ASK, LONG, {}),
    "no bos written": (TURNS + ASK, LONG, {}),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
        LONG, {},
    ),
    "generation, trimmed": (
        "{%- for m in messages %}\n  {%- if m.role == 'assistant' %}\n  {%- generation %}\n  {{- m.content }}\n"
        "  {%- endgeneration %}\n  {%- else %}\n  {{- '[' + m.content + ']' }}\n  {%- endif %}\n{%- endfor %}",
        LONG, {},
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}({{ m.content }})"
        "{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}" + ASK + ALL,
        LONG, {},
    ),
    "string methods": (
        "{% for m in messages %}{% set t = m.content.strip() %}{% if t.startswith('You') %}{{ t.upper() }}"
        "{% elif t.endswith('?') %}{{ t.split(' ')[-1].replace('?', '!') }}{% else %}{{ t.lower().rstrip('.') }}"
        "{% endif %}|{% endfor %}{{ messages[-1]['content'].lstrip() }}" + ALL,
        LONG, {},
    ),
    "slices": (
        "{% for m in messages[1:] %}{{ m.content[:3] }}/{% endfor %}{{ messages[-1].content[-8:] }}"
        "{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}" + ALL,
        LONG, {},
    ),
    "tools is not none": (
        "{% if tools is not none %}TOOLS: {{ tools | tojson }}{% endif %}"
        "{% if documents is not none %}DOCUMENTS{% endif %}" + TURNS + ASK,
        LONG, {},
    ),
    "tools defined": ("{% if tools is defined and tools %}TOOLS{% endif %}" + TURNS + ASK, LONG, {}),
    "date": (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '1 Jan 2020' %}{% endif %}"
        "{% endif %}Today: {{ date_string }}\n" + TURNS + ASK,
        SHORT, {},
    ),
    "formats of dates": (
        "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%A, %B %d') }} {{ strftime_now('%y%j %H:%M') }}" + TURNS,
        SHORT, {},
    ),
    "enable_thinking": (
        TURNS + ASK + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}",
        SHORT, {},
    ),
    "ends in think": (TURNS + "{% if add_generation_prompt %}<assistant><think>\n{% endif %}", SHORT, {}),
    "ends in a blank": (TURNS + "{% if add_generation_prompt %}Answer: {% endif %}", SHORT, {}),
    "unk and pad": (
        "{{ unk_token }}{{ pad_token }}" + TURNS + "{{ eos_token }}" + ASK,
        SHORT, {"unk_token": "<s>", "pad_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False,
                                                   "normalized": False, "rstrip": False, "single_word": False,
                                                   "special": True}},
    ),
    "namespace": (
        "{% set ns = namespace(n=0, seen='') %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen ~ loop.index0 ~ ',' %}{% endif %}{% endfor %}"
        "{{ ns.n }} of {{ messages | length }}: {{ ns.seen }}" + TURNS + ASK,
        LONG, {},
    ),
    "macro": (
        "{% macro turn(m, last=false) %}{{ '<' ~ m['role'] ~ '>' }}{{ m['content'] | trim }}"
        "{{ '' if last else '\n' }}{% endmacro %}{% for m in messages %}{{ turn(m, last=loop.last) }}{% endfor %}" + ASK,
        LONG, {},
    ),
    "tojson": (
        "{{ messages | tojson }}\n{{ {'a': [1, 2.5, none, true], 'b': 'é<>&'} | tojson(indent=2) }}"
        "{{ messages[-1].content }}",
        LONG, {},
    ),
    "printed values": ("{{ none }} {{ true }} {{ false }} {{ 1.0 }} {{ 3 / 2 }} {{ [1, 'a'] }}" + TURNS, SHORT, {}),
    "filters": (
        "{% set system = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% if system | length > 0 %}{{ system[0].content | upper }}{% endif %}"
        "{% for m in messages | rejectattr('role', 'equalto', 'system') %}{{ m.role | capitalize }}: "
        "{{ m.content | trim | replace('ice', 'snow') }}\n{% endfor %}"
        "{{ messages | map(attribute='role') | join('+') }}" + ALL,
        LONG, {},
    ),
    "blocks are trimmed": (
        "{% for m in messages %}\n    {% if m.role != 'system' %}\n<{{ m.role }}>\n{{ m.content }}\n    {% endif %}\n"
        "{% endfor %}\n{{ messages[0].content }}\n" + ASK,
        LONG, {},
    ),
    "content of parts": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.text }}{% endfor %}{% endif %};{% endfor %}{% if messages is iterable and messages is not mapping %}ok{% endif %}",
        LONG, {},
    ),
    "items and get": (
        "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }} {% endfor %}{{ m.get('name', 'nobody') }}\n"
        "{% endfor %}" + ASK,
        LONG, {},
    ),
    "several templates": (
        [{"name": "tool_use", "template": "TOOLS"}, {"name": "default", "template": "{{ bos_token }}" + TURNS + ASK}],
        LONG, {},
    ),
    "alternating roles": (
        "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}{% set rest = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.first and first %}{{ first + '\n\n' }}{% endif %}{{ '[' + m['content'].strip() + ']' }}{% endfor %}",
        LONG, {},
    ),
}


class Today(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 0, 0, 0, tzinfo=tz)


def main():
    chat_template_utils.datetime = Today
    cases = []
    for name, (template, messages, changes) in CASES.items():
        with tempfile.TemporaryDirectory() as room:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (Path(room) / file).write_bytes((MODEL / file).read_bytes())
            config = json.loads((MODEL / "tokenizer_config.json").read_text())
            config |= {"chat_template": template, **changes}
            (Path(room) / "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = transformers.AutoTokenizer.from_pretrained(room)
            how = {"add_generation_prompt": True}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how)
        cases.append({"name": name, "template": template, "config": changes, "messages": messages, "text": text, "ids": ids})
    meta = made_from(["tests/oracle/make_chats.py", "tests/fixtures/tiny-llama2/tokenizer.json"], ["transformers", "jinja2"])
    out = ROOT / "fixtures" / "chats.json"
    out.write_text(json.dumps({**meta, "cases": cases}, indent=1, ensure_ascii=False) + "\n")
    print(f"{out}: {len(cases)} cases")


if __name__ == "__main__":
    main()
