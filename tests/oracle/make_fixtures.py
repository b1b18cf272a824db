"""Write tests/fixtures/: two tiny models, a PEFT adapter, and what torch says they compute.

    $REPTUNE_PYTHON tests/oracle/make_fixtures.py [OUT_DIR]

Conventions. Layer l is the OUTPUT of decoder block l, before the final norm, taken by a
hook on `model.model.layers[l]`. Every prompt runs alone, unpadded. A mean over prompts is
the mean of equals, so gradients of the batch are means of these too. Row offset k counts
back from the last prompt token: row T - 1 - k.

    representation, tune in    m (1 - cos(h, d)) / 2     mean over LAYERS and prompts
    representation, tune out   |cos(h, d)|               the same
    token, hard                cross-entropy of the label at row T - 1, mean over prompts
    token, soft                cross-entropy against one half on each letter, the same
"""

import sys
from pathlib import Path

from base_model import block_rows, load_f32, logits_of, with_rows

import numpy as np
import peft
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from made_from import made_from
from safetensors.torch import save_file
from tiny_llama import BOS, EOS, HIDDEN, LAYERS, write_json, write_tiny_llama2, write_tiny_llama32

SEED_LLAMA2, SEED_LLAMA32, SEED_DIRECTIONS, SEED_ADAPTER = 25, 10, 20, 11

# 5, 12 and 40 tokens; the first two share 4, the third shares only <s> with them.
TEXTS = ["Is a", "Is it true?", "[INST] Ice is very cold. A) True B) False [/INST] "]
NEW_TOKENS = 24
# Greedy choices closer than this could fall either way in another runtime.
LEAST_MARGIN = 1e-2

COEFF = 3.0
TUNED_LAYERS = [1, 2]
OFFSET = 2
HOW_FAR_IN = 1.0
LETTERS = (65, 66)
LABELS = [65, 66, 65]
TOKEN_DIVISOR = 100.0


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures"
    write_tiny_llama2(out / "tiny-llama2", SEED_LLAMA2)
    write_tiny_llama32(out / "tiny-llama32", SEED_LLAMA32)

    prompts = prompt_ids(out / "tiny-llama2")
    if prompts != prompt_ids(out / "tiny-llama32"):
        raise SystemExit("the two tokenizers disagree")

    llama32 = load_f32(out / "tiny-llama32")
    save(out / "oracle-llama32.safetensors", base_tensors(llama32, prompts))

    llama2 = load_f32(out / "tiny-llama2")
    tensors = base_tensors(llama2, prompts)
    directions = unit_directions()
    tensors |= {f"direction.{layer}": d for layer, d in enumerate(directions)}
    tensors |= steered_tensors(llama2, prompts[2], directions)
    tensors |= tuned_tensors(llama2, prompts, directions, out / "peft-adapter")
    save(out / "oracle-llama2.safetensors", tensors)


def prompt_ids(directory):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    if [len(i) for i in ids] != [5, 12, 40] or ids[0][:4] != ids[1][:4] or ids[0][4] == ids[1][4]:
        raise SystemExit(f"prompts are not as promised: {ids}")
    return ids


def save(path, tensors):
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SystemExit(f"{path.name}: {name} is not finite")
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    scripts = [f"tests/oracle/{name}.py" for name in ("make_fixtures", "base_model", "tiny_llama")]
    save_file(plain, str(path), metadata=made_from(scripts, ["torch", "transformers", "peft", "tokenizers"]))
    print(f"{path.name}: {len(plain)} tensors, {path.stat().st_size} bytes")


# ---- base -------------------------------------------------------------------------


class Recorder:
    """While open, keeps the rows (T, H) that each decoder block puts out."""

    def __init__(self, blocks):
        self.blocks = blocks
        self.rows = {}

    def __enter__(self):
        self.handles = [b.register_forward_hook(self.keeper(i)) for i, b in enumerate(self.blocks)]
        return self

    def keeper(self, layer):
        def keep(_module, _inputs, output):
            self.rows[layer] = block_rows(output)

        return keep

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def base_tensors(model, prompts):
    tensors = {}
    for i, ids in enumerate(prompts):
        with Recorder(model.model.layers) as recorder:
            logits = logits_of(model, ids)
        tensors[f"prompt.{i}.ids"] = torch.tensor(ids)
        tensors[f"prompt.{i}.input"] = model.model.embed_tokens(torch.tensor(ids))
        tensors |= {f"prompt.{i}.layer.{layer}": rows for layer, rows in recorder.rows.items()}
        tensors[f"prompt.{i}.logits"] = logits
        tensors[f"prompt.{i}.greedy"] = greedy(model, ids)
        norms = [f"{rows.norm(dim=1).mean():.2f}" for rows in recorder.rows.values()]
        print(f"  prompt {i}: mean residual norm {norms}, largest logit {logits.abs().max():.2f}")
    return tensors


@torch.no_grad()
def greedy(model, ids):
    """The tokens that `generate` appends, checked against argmax without a cache."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = EOS
    batch = torch.tensor([ids])
    whole = model.generate(
        batch, attention_mask=torch.ones_like(batch), do_sample=False,
        max_new_tokens=NEW_TOKENS, min_new_tokens=None,
    )[0].tolist()
    new = whole[len(ids):]
    last = logits_of(model, whole[:-1])[len(ids) - 1:]
    top = last.topk(2, dim=1)
    margin = (top.values[:, 0] - top.values[:, 1]).min().item()
    if len(new) != NEW_TOKENS or top.indices[:, 0].tolist() != new or EOS in new or BOS in new:
        raise SystemExit(f"greedy tokens are not plain: {new}")
    if margin < LEAST_MARGIN:
        raise SystemExit(f"greedy choice too close ({margin:.1e}): take another seed")
    print(f"  greedy margin {margin:.4f}")
    return torch.tensor(new)


# ---- steering ---------------------------------------------------------------------


def unit_directions():
    rows = np.random.RandomState(SEED_DIRECTIONS).standard_normal((LAYERS, HIDDEN))
    rows = torch.from_numpy((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return list(rows)


def change_output(model, layer, rule):
    """Hook: the output rows of block `layer` become rule(rows)."""
    return model.model.layers[layer].register_forward_hook(
        lambda _module, _inputs, output: with_rows(output, rule(block_rows(output)))
    )


def change_input(model, layer, rule):
    """Hook: the input rows of block `layer` become rule(rows)."""
    return model.model.layers[layer].register_forward_pre_hook(
        lambda _module, inputs: with_rows(inputs, rule(block_rows(inputs)))
    )


@torch.no_grad()
def steered_tensors(model, ids, directions):
    d1, d2 = directions[1], directions[2]

    def last3(rows):
        return torch.cat([rows[:-3], rows[-3:] + COEFF * d2])

    cases = {
        "add": [(change_output, 2, lambda rows: rows + COEFF * d2)],
        "add2": [
            (change_output, 1, lambda rows: rows + COEFF / 2 * d1),
            (change_output, 2, lambda rows: rows + COEFF / 2 * d2),
        ],
        "ablate": [(change_output, 1, lambda rows: rows - (rows @ d1).unsqueeze(1) * d1)],
        "last3": [(change_output, 2, last3)],
        "input": [(change_input, 2, lambda rows: rows + COEFF * d2)],
    }
    base = logits_of(model, ids)
    tensors = {}
    for name, hooks in cases.items():
        handles = [hook(model, layer, rule) for hook, layer, rule in hooks]
        logits = logits_of(model, ids)
        for handle in handles:
            handle.remove()
        print(f"  steered {name}: logits move by {(logits - base).abs().max():.3f}")
        tensors[f"steered.{name}.logits"] = logits
    if not torch.equal(logits_of(model, ids), base):
        raise SystemExit("a steering hook was left on")
    return tensors


# ---- tuning -----------------------------------------------------------------------


def random_adapter(model):
    """`model` under a PEFT LoRA whose A and B are both random (B = 0 would hide half the gradients)."""
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["v_proj", "o_proj"],
        layers_to_transform=TUNED_LAYERS, task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config)
    random = np.random.RandomState(SEED_ADAPTER)
    for name, weight in low_rank(model).items():
        std = 1.0 / np.sqrt(HIDDEN) if name.endswith("lora_A") else 0.15
        values = random.standard_normal(tuple(weight.shape)) * std
        weight.data.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def low_rank(model):
    """`{module}.lora_A` / `.lora_B` -> parameter, e.g. `model.layers.1.self_attn.v_proj.lora_A`."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            name = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            found[name] = parameter
    return dict(sorted(found.items()))


def save_adapter(model, directory):
    """PEFT's own files; only machine-dependent things are put straight afterwards."""
    model.peft_config["default"].base_model_name_or_path = "tiny-llama2"
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    config = peft.LoraConfig.from_pretrained(directory).to_dict()
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order is by chance
    write_json(directory / "adapter_config.json", {k: config[k] for k in sorted(config)})


class Losses:
    """Every loss of the method for one forward of every prompt."""

    def __init__(self, model, prompts, directions):
        self.logits, cosines, last = [], [], []
        self.rows = []
        for ids in prompts:
            with Recorder(model.base_model.model.model.layers) as recorder:
                logits = logits_of(model, ids)
            self.logits.append(logits)
            self.rows.append(dict(recorder.rows))
            last.append(logits[-1])
            chosen = [recorder.rows[layer][len(ids) - 1 - OFFSET] for layer in TUNED_LAYERS]
            cosines.append(torch.stack([
                F.cosine_similarity(h, directions[layer], dim=0) for h, layer in zip(chosen, TUNED_LAYERS)
            ]))
        self.cosines = torch.stack(cosines)  # (prompts, layers)
        self.last = torch.stack(last)  # (prompts, V)

        other = [LETTERS[1] if label == LETTERS[0] else LETTERS[0] for label in LABELS]
        half = torch.zeros_like(self.last)
        half[:, list(LETTERS)] = 0.5
        self.tune_in = (HOW_FAR_IN * (1 - self.cosines) / 2).mean()
        self.tune_in_negative = (HOW_FAR_IN * (1 + self.cosines) / 2).mean()
        self.tune_out = self.cosines.abs().mean()
        self.hard = F.cross_entropy(self.last, torch.tensor(LABELS))
        self.hard_lie = F.cross_entropy(self.last, torch.tensor(other))
        self.soft = -(half * F.log_softmax(self.last, dim=1)).sum(dim=1).mean()

    def by_mode(self):
        return {
            "truth": self.hard,
            "lie": self.hard_lie,
            "in+": self.tune_in + self.soft / TOKEN_DIVISOR,
            "in-": self.tune_in_negative + self.soft / TOKEN_DIVISOR,
            "in+ & truth": self.tune_in + self.hard / TOKEN_DIVISOR,
            "in- & lie": self.tune_in_negative + self.hard_lie / TOKEN_DIVISOR,
            "out": self.tune_out + self.hard / TOKEN_DIVISOR,
        }


def tuned_tensors(base, prompts, directions, adapter_directory):
    model = random_adapter(base)
    save_adapter(model, adapter_directory)
    parameters = low_rank(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    if len(parameters) != 8 or len(trained) != 8:
        raise SystemExit(f"expected A and B of four modules to train, got {list(parameters)}")

    losses = Losses(model, prompts, directions)
    tensors = {f"tuned.{i}.logits": logits for i, logits in enumerate(losses.logits)}
    for i, rows in enumerate(losses.rows):
        tensors |= {f"tuned.{i}.layer.{layer}": r for layer, r in rows.items()}
    tensors |= {
        "labels": torch.tensor(LABELS),
        "representation.cosines": losses.cosines,
        "representation.in": losses.tune_in,
        "representation.in_negative": losses.tune_in_negative,
        "representation.out": losses.tune_out,
        "token.hard": losses.hard,
        "token.hard_lie": losses.hard_lie,
        "token.soft": losses.soft,
    }
    print(f"  cosines {losses.cosines.tolist()}")
    if losses.cosines.abs().min() < 0.05 or (losses.cosines > 0).all() or (losses.cosines < 0).all():
        raise SystemExit("cosines must be of both signs and off zero, or |cos| is not tested: take another seed")
    for mode, loss in losses.by_mode().items():
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        tensors[f"mode.{mode}.loss"] = loss
        tensors |= {f"mode.{mode}.grad.{name}": g for name, g in zip(parameters, gradients)}
        print(f"  mode {mode}: loss {loss.item():.6f}, largest gradient {max(g.abs().max() for g in gradients):.5f}")
    return tensors | adamw_tensors(model, prompts, directions, parameters)


def adamw_tensors(model, prompts, directions, parameters):
    """Five AdamW steps on "in+ & truth"; `adamw.{k}.loss` is the loss before step k."""
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1
    )
    tensors = {}
    for step in range(5):
        loss = Losses(model, prompts, directions).by_mode()["in+ & truth"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tensors[f"adamw.{step}.loss"] = loss
    print(f"  adamw losses {[round(t.item(), 5) for t in tensors.values()]}")
    return tensors | {f"adamw.final.{name}": p for name, p in parameters.items()}


if __name__ == "__main__":
    main()
