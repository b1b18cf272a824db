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


TOOL = {"type": "function", "function": {"name": "weather", "description": "Says what the weather is \u00e9t\u00e9.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}}}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"town\": \"Oslo\", \"days\": 2}"}}]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "{\"sky\": \"grey\"}"}
TOOLED = (
    "{{ bos_token }}{% if tools is not none %}Tools:\n{% for tool in tools %}{{ tool | tojson(indent=4) }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{% if 'tool_calls' in m %}{% for c in m.tool_calls %}<tool_call>\n"
    "{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{% if m.tool_call_id is defined %} for {{ m.tool_call_id }}{% endif %}{% endfor %}" + ASK
)

# name: (template, body of a request in OpenAI's manner, changes of tokenizer_config.json)
REQUESTS = {
    "tools": (TOOLED, {"messages": SHORT, "tools": [TOOL]}, {}),
    "no tools": (TOOLED, {"messages": [USER | {"name": None}], "tools": None}, {}),
    "tool calls and results": (TOOLED, {"messages": [USER, CALL, RESULT], "tools": [TOOL]}, {}),
    "null and empty calls": (
        TOOLED, {"messages": [USER, ANSWER | {"tool_calls": None, "refusal": None}, AGAIN]}, {},
    ),
    "a template for tools": (
        [{"name": "tool_use", "template": "{{ tools | tojson }}" + TURNS}, {"name": "default", "template": TURNS}],
        {"messages": SHORT, "tools": [TOOL]}, {},
    ),
    "developer": (TURNS + ASK, {"messages": [SYSTEM | {"role": "developer"}, USER]}, {}),
    "thinking off": (
        TURNS + ASK + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}",
        {"messages": SHORT, "chat_template_kwargs": {"enable_thinking": False}}, {},
    ),
    "thinking by a field": (
        "{% if enable_thinking %}think {{ reasoning_effort }}{% endif %}" + TURNS + ASK,
        {"messages": SHORT, "enable_thinking": True, "reasoning_effort": "high"}, {},
    ),
    "a date": (
        "{% if date_string is defined %}{{ date_string }}{% else %}{{ strftime_now('%d %b %Y') }}{% endif %}" + TURNS + ASK,
        {"messages": SHORT, "chat_template_kwargs": {"date_string": "1 May 2025"}}, {},
    ),
    "a variable over a token": (
        "{{ bos_token }}" + TURNS + ASK, {"messages": SHORT, "chat_template_kwargs": {"bos_token": "</s>"}}, {},
    ),
    "no generation prompt": (TURNS + ASK, {"messages": LONG, "add_generation_prompt": False}, {}),
    "continued": (
        TURNS + "{{ eos_token }}" + ASK,
        {"messages": [USER, {"role": "assistant", "content": "It is "}], "continue_final_message": True}, {},
    ),
    "continued, trimmed": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>\n{% endfor %}" + ASK,
        {"messages": [USER, {"role": "assistant", "content": " It is, \n "}], "continue_final_message": True,
         "add_generation_prompt": False}, {},
    ),
    "parts": (
        "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{% if p.type == 'text' %}({{ p.text }}){% endif %}{% endfor %}{% endif %}{% endfor %}" + ASK,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Is ice"}, {"type": "text", "text": "cold?"}]}]}, {},
    ),
    "documents": (
        "{% if documents is not none %}{% for d in documents %}[{{ d.title }}: {{ d.text }}]{% endfor %}{% endif %}" + TURNS + ASK,
        {"messages": SHORT, "documents": [{"title": "Ice", "text": "It is cold."}]}, {},
    ),
    "reasoning": (
        "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.thinking | default('') }}{{ m.content }}{% endfor %}" + ASK,
        {"messages": [USER, ANSWER | {"reasoning": "Ice is frozen."}, AGAIN]}, {},
    ),
    "options of tojson": (
        "{{ tools | tojson(separators=(',', ':')) }}{{ tools | tojson(sort_keys=true) }}{{ tools | tojson(ensure_ascii=true) }}" + TURNS,
        {"messages": SHORT, "tools": [TOOL]}, {},
    ),
}


def asked(body):
    """What a request means in transformers' words."""
    body = json.loads(json.dumps(body))
    for message in body["messages"]:
        if message["role"] == "developer":
            message["role"] = "system"
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    how = {key: body.get(key) for key in ("tools", "documents")}
    how["continue_final_message"] = body.get("continue_final_message", False)
    how["add_generation_prompt"] = body.get("add_generation_prompt", not how["continue_final_message"])
    how |= {key: body[key] for key in ("enable_thinking", "reasoning_effort") if key in body}
    return body["messages"], how | body.get("chat_template_kwargs", {})


class Today(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 0, 0, 0, tzinfo=tz)


def rendered(template, changes, messages, how):
    """The text and the ids of a conversation."""
    with tempfile.TemporaryDirectory() as room:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (Path(room) / file).write_bytes((MODEL / file).read_bytes())
        config = json.loads((MODEL / "tokenizer_config.json").read_text())
        config |= {"chat_template": template, **changes}
        (Path(room) / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = transformers.AutoTokenizer.from_pretrained(room)
        text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how)
    return {"text": text, "ids": ids}


def main():
    chat_template_utils.datetime = Today
    cases, requests = [], []
    for name, (template, messages, changes) in CASES.items():
        made = rendered(template, changes, messages, {"add_generation_prompt": True})
        cases.append({"name": name, "template": template, "config": changes, "messages": messages, **made})
    for name, (template, body, changes) in REQUESTS.items():
        made = rendered(template, changes, *asked(body))
        requests.append({"name": name, "template": template, "config": changes, "body": body, **made})
    meta = made_from(["tests/oracle/make_chats.py", "tests/fixtures/tiny-llama2/tokenizer.json"], ["transformers", "jinja2"])
    out = ROOT / "fixtures" / "chats.json"
    out.write_text(json.dumps({**meta, "cases": cases, "requests": requests}, indent=1, ensure_ascii=False) + "\n")
    print(f"{out}: {len(cases)} cases, {len(requests)} requests")


if __name__ == "__main__":
    main()
