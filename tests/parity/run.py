"""Write tests/parity/parity.safetensors: what torch makes of the honest mini-Llama.

    tests/parity/make            (or: PYTHON tests/parity/run.py)

Reads recipe.toml, inputs.json (claims, the order of the batches, and ids to compare its own
prompts with) and adapter/ (the factors that every tuning starts from). Everything else is
worked out here: prompts by the tokenizer and chat template of the model, rows by hooks and
`hidden_states`, updates by PEFT, steps by torch.optim.AdamW.

Conventions. Layer l is the OUTPUT of decoder block l: what a hook on it sees, and
`hidden_states[l + 1]`. Offset k counts back from the last prompt token. Prompts of a batch are
padded on the right.

    direction          mean over pairs of (positive - negative), scaled to length 1
    steering           + fraction * mean length of the captured rows, along the direction, all rows
    in+, in-           (1 - cos) / 2 and (1 + cos) / 2 (times m), mean over prompts, layers, offsets
    out                |cos|, the same mean
    token loss         cross-entropy at the last prompt token: of the letter that is right, of the
                       other (`lie`), or against one half on each (`in+`, `in-`)
    minimised          representation + token_weight * token; `truth` and `lie`: token alone
    rate of step s     peak (s + 1) / w for s < w, then peak (T - s) / (T - w)

Written, all f32: `direction.{l}` (H,), `norm.{l}` and `residual_norm.{l}` (1,), `pairs` (asked,
kept), `base.logits` and `steered.logits` (prompts, V), and for every mode `{mode}.token_loss`,
`{mode}.representation_loss` (steps,) before each step, unweighted, and the final factors
`{mode}.{module}.lora_A` and `.lora_B`. The metadata names every file this was made from.
"""

import hashlib
import json
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

from base_model import block_rows, with_rows

import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

STEERED = 4  # prompts
BATCH = 32  # prompts of a forward that is not tuned on

MADE_FROM = [
    "models/honest-mini/model.safetensors",
    "models/honest-mini/config.json",
    "models/honest-mini/tokenizer.json",
    "models/honest-mini/tokenizer_config.json",
    "tests/parity/recipe.toml",
    "tests/parity/inputs.json",
    "tests/parity/adapter/adapter_config.json",
    "tests/parity/adapter/adapter_model.safetensors",
]


def main():
    recipe = tomllib.loads((HERE / "recipe.toml").read_text(encoding="utf-8"))
    inputs = json.loads((HERE / "inputs.json").read_text(encoding="utf-8"))
    directory = (HERE / recipe["model"]).resolve()
    prompts = Prompts(directory, recipe)
    tuned = [prompts.ids(recipe["prompt"]["system"], text) for text, _ in inputs["claims"][: len(inputs["prompts"])]]
    if tuned != inputs["prompts"] or prompts.letters != inputs["letters"]:
        raise SystemExit("token ids differ from those of inputs.json")

    model = load(directory)
    tensors, directions, norms = extract(model, prompts, recipe, inputs["claims"])
    tensors |= steer(model, tuned[:STEERED], recipe, directions, norms)
    truths = [truth for _, truth in inputs["claims"][: len(tuned)]]
    for mode in recipe["tuning"]["modes"]:
        tensors |= tune(directory, recipe["tuning"], mode, directions, tuned, truths, prompts.letters, inputs["batches"])
    save(tensors)


def save(tensors):
    path = HERE / "parity.safetensors"
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise SystemExit(f"{name} is not finite float32")
    hashes = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in MADE_FROM}
    versions = {module.__name__: str(module.__version__) for module in (torch, transformers, peft)}
    # One entry: safetensors writes several in an order that changes from run to run.
    save_file(tensors, str(path), metadata={"made_from": json.dumps({"files": hashes, "versions": versions})})
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def load(directory):
    """The model in f32, eager attention, eval mode."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, torch_dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


# ---- prompts ------------------------------------------------------------------------


class Prompts:
    """From claims to token ids."""

    def __init__(self, directory, recipe):
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.template = recipe["prompt"]["claim"]
        self.letters = [self.letter(label) for label in recipe["prompt"]["labels"]]

    def messages(self, system, claim):
        user = {"role": "user", "content": self.template.replace("{claim}", claim)}
        return [{"role": "system", "content": system}, user]

    def encode(self, messages, add_generation_prompt):
        return self.tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=add_generation_prompt
        )

    def ids(self, system, claim):
        return self.encode(self.messages(system, claim), True)

    def letter(self, label):
        """The token that follows a prompt when the assistant answers `label`."""
        messages = self.messages("Answer.", "One.")
        before = self.encode(messages, True)
        whole = self.encode(messages + [{"role": "assistant", "content": label}], False)
        if whole[: len(before)] != before or len(whole) != len(before) + 2:
            raise SystemExit(f"{label} is not one token after a prompt: {whole}")
        return whole[len(before)]


def padded(prompts):
    """Ids and attention mask (P, T), and the place of every last token (P,)."""
    lengths = torch.tensor([len(ids) for ids in prompts])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in prompts], batch_first=True)
    mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
    return ids, mask, lengths - 1


# ---- extraction ---------------------------------------------------------------------


def pairs_of(prompts, recipe, claims):
    """Pairs of sides (ids, letter); a side ends before its letter."""
    e, behaviour = recipe["extraction"], recipe["behaviour"]
    if e["pairing"] != "same-answer" or e["keep"] != "correct":
        raise SystemExit("only same-answer pairs, correct ones, are done here")
    a, b = prompts.letters
    true = [text for text, truth in claims if truth]
    false = [text for text, truth in claims if not truth]
    pairs = []
    for i, (t, f) in enumerate(zip(true, false)):
        honest = behaviour["positive"][i % len(behaviour["positive"])]
        liar = behaviour["negative"][i % len(behaviour["negative"])]
        pairs.append(((prompts.ids(honest, t), a), (prompts.ids(liar, f), a)))
        pairs.append(((prompts.ids(honest, f), b), (prompts.ids(liar, t), b)))
    return pairs[: e["pairs"]]


def offsets(positions):
    """`last:K` or `at:-1,-3` as offsets, counted back from the last prompt token."""
    form, value = positions.split(":")
    return list(range(int(value))) if form == "last" else [-1 - int(p) for p in value.split(",")]


@torch.no_grad()
def captured(model, prompts, offset):
    """Rows (L, P, H) of all block outputs at `offset`, and the greedy next tokens (P,)."""
    ids, mask, last = padded(prompts)
    which = torch.arange(len(prompts))
    rows = {}

    def keeper(layer):
        def keep(_module, _inputs, output):
            rows[layer] = (output[0] if isinstance(output, tuple) else output)[which, last - offset]

        return keep

    blocks = model.model.layers
    handles = [block.register_forward_hook(keeper(i)) for i, block in enumerate(blocks)]
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return torch.stack([rows[i] for i in range(len(blocks))]), logits[which, last].argmax(dim=1)


def extract(model, prompts, recipe, claims):
    pairs = pairs_of(prompts, recipe, claims)
    sides = [side for pair in pairs for side in pair]
    parts = [
        captured(model, [ids for ids, _ in sides[i : i + BATCH]], offsets(recipe["extraction"]["positions"])[0])
        for i in range(0, len(sides), BATCH)
    ]
    rows = torch.cat([rows for rows, _ in parts], dim=1).double()
    right = torch.cat([answers for _, answers in parts]) == torch.tensor([letter for _, letter in sides])
    kept = right[0::2] & right[1::2]
    positive, negative = rows[:, 0::2][:, kept], rows[:, 1::2][:, kept]  # (L, pairs, H)
    means = (positive - negative).mean(dim=1)
    lengths = means.norm(dim=1, keepdim=True)
    directions = (means / lengths).float()
    norms = torch.cat([positive, negative], dim=1).norm(dim=2).mean(dim=1)
    print(f"{kept.sum()} of {len(pairs)} pairs; lengths {lengths.flatten().tolist()}, of rows {norms.tolist()}")
    tensors = {"pairs": torch.tensor([float(len(pairs)), float(kept.sum())])}
    for layer, direction in enumerate(directions):
        tensors[f"direction.{layer}"] = direction.clone()
        tensors[f"norm.{layer}"] = lengths[layer].float()
        tensors[f"residual_norm.{layer}"] = norms[layer : layer + 1].float()
    return tensors, directions, norms


# ---- steering -----------------------------------------------------------------------


@torch.no_grad()
def steer(model, prompts, recipe, directions, norms):
    steering = recipe["steering"]
    (layer,), (fraction,) = steering["layers"], steering["fractions"]
    added = (fraction * norms[layer]).float() * directions[layer]

    def hook(_module, _inputs, output):
        return with_rows(output, block_rows(output) + added)

    def last_rows():
        # each prompt alone
        return torch.stack([model(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in prompts])

    base = last_rows()
    handle = model.model.layers[layer].register_forward_hook(hook)
    steered = last_rows()
    handle.remove()
    if not torch.equal(last_rows(), base):
        raise SystemExit("the steering hook was left on")
    print(f"steered by {fraction * norms[layer]:.4f}: logits move by {(steered - base).abs().max():.3f}")
    return {"base.logits": base, "steered.logits": steered}


# ---- tuning -------------------------------------------------------------------------

# mode -> representation loss, letter of the token loss
MODES = {
    "truth": (None, "right"),
    "lie": (None, "wrong"),
    "in+": ("in", "both"),
    "in-": ("in negative", "both"),
    "in+ & truth": ("in", "right"),
    "in- & lie": ("in negative", "wrong"),
    "out": ("out", "right"),
}


def losses(model, settings, mode, directions, prompts, truths, letters):
    """Token loss and representation loss (None in a mode without one) of a batch, unweighted."""
    representation, letter = MODES[mode]
    ids, mask, last = padded(prompts)
    which = torch.arange(len(prompts))
    output = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)

    right = torch.tensor([letters[0] if truth else letters[1] for truth in truths])
    wrong = torch.tensor([letters[1] if truth else letters[0] for truth in truths])
    logits = output.logits[which, last]
    if letter == "both":
        half = torch.zeros_like(logits)
        half[:, letters] = 0.5
        token = F.cross_entropy(logits, half)
    else:
        token = F.cross_entropy(logits, right if letter == "right" else wrong)
    if representation is None:
        return token, None

    cosines = torch.stack([
        F.cosine_similarity(output.hidden_states[layer + 1][which, last - offset], directions[layer].unsqueeze(0))
        for layer in settings["layers"]
        for offset in offsets(settings["positions"])
    ])
    if representation == "out":
        return token, cosines.abs().mean()
    sign = 1 if representation == "in" else -1
    return token, (settings["m"] * (1 - sign * cosines) / 2).mean()


def adapted(directory, settings):
    """The model under adapter/, its factors trainable, and these by name."""
    model = peft.PeftModel.from_pretrained(load(directory), str(HERE / "adapter"), is_trainable=True).eval()
    factors = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    modules = {
        f"model.layers.{layer}.self_attn.{projection}"
        for layer in settings["layers"]
        for projection in settings["target_modules"]
    }
    if set(factors) != {f"{module}.lora_{letter}" for module in modules for letter in "AB"}:
        raise SystemExit(f"other factors than the recipe's: {sorted(factors)}")
    config = model.peft_config["default"]
    if (config.r, config.lora_alpha) != (settings["rank"], settings["alpha"]):
        raise SystemExit("rank or alpha of the adapter is not that of the recipe")
    return model, factors


def tune(directory, settings, mode, directions, prompts, truths, letters, batches):
    model, factors = adapted(directory, settings)
    optimizer = torch.optim.AdamW(
        list(factors.values()), lr=settings["learning_rate"], betas=(0.9, 0.999),
        eps=settings["epsilon"], weight_decay=settings["weight_decay"],
    )
    steps, warmup = len(batches), settings["warmup"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warmup if s < warmup else (steps - s) / (steps - warmup)
    )
    start = {name: p.detach().clone() for name, p in factors.items()}
    tokens, representations = [], []
    for batch in batches:
        token, representation = losses(
            model, settings, mode, directions, [prompts[i] for i in batch], [truths[i] for i in batch], letters
        )
        tokens.append(token.item())
        total = token
        if representation is not None:
            representations.append(representation.item())
            total = representation + settings["token_weight"] * token
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()

    tensors = {f"{mode}.token_loss": torch.tensor(tokens)}
    if representations:
        tensors[f"{mode}.representation_loss"] = torch.tensor(representations)
    for name, p in factors.items():
        if torch.equal(p, start[name]):
            raise SystemExit(f"{mode}: {name} did not move")
        tensors[f"{mode}.{name}"] = p.detach().clone()
    first_last = [(round(x[0], 4), round(x[-1], 4)) for x in (tokens, representations) if x]
    print(f"{mode}: first and last losses {first_last}")
    return tensors


if __name__ == "__main__":
    main()
