"""Tuning: LoRA factors under the dual loss, with peft and torch's AdamW.

    token            cross-entropy of the label at the prompt's last row, mean over prompts
    in               m (1 - cos(h, d)) / 2      mean over layers, offsets and prompts
    in_negative      m (1 + cos(h, d)) / 2      the same
    out              |cos(h, d)|                the same
    total            representation + token_weight * token

The label "soft" asks for half of each answer. People, and the paper, make two prompts of every
item for it, each with one answer as its last token; `--soft once` states the same loss on one
prompt, which transformers does not offer but a few lines of torch do.
"""

import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import Stopwatch, peak_bytes
from model import KeptRows, load
from peft import PeftModel
from workload import batches_by_length, left_padded, read_directions, read_work

VALIDATION_ITEMS = 32


def run(args):
    work = read_work(args.work, "tune")
    model, load_seconds = load(args.model, args.dtype, args.device)
    started = time.perf_counter()
    tuning = Tuning(model, work, args)
    load_seconds += time.perf_counter() - started
    steps = work["steps"]
    warm_up = min(work["warm_up"], len(steps) - 1)
    validate_after = set(work["validate_after"])

    if args.compile:
        # Compilation is warm-up: of a step, which changes nothing yet, and of the validation.
        model.compile(dynamic=False)
        tuning.gradients([work["items"][n] for n in steps[0]])
        tuning.optimiser.zero_grad(set_to_none=True)
        if validate_after:
            tuning.validate(work["validation"])

    losses, validation, in_steps = [], [], []
    in_validation = Stopwatch()
    if 0 in validate_after:
        with in_validation if warm_up == 0 else Stopwatch():
            validation.append(tuning.validate(work["validation"]))
    for done, (numbers, rate) in enumerate(zip(steps, work["rates"]), start=1):
        watch = Stopwatch()
        with watch:
            losses.append(tuning.step([work["items"][n] for n in numbers], rate))
        in_steps.append(watch.seconds)
        if done in validate_after:
            with in_validation if done > warm_up else Stopwatch():
                validation.append(tuning.validate(work["validation"]))

    timed = in_steps[warm_up:]
    prompts = sum(len(numbers) for numbers in steps[warm_up:]) * (2 if work["label"] == "soft" else 1)
    return {
        "seconds": sum(timed) + in_validation.seconds,
        "steps": len(timed),
        "seconds_per_step": statistics.median(timed),
        "first_step_seconds": in_steps[0],
        "prompts_per_second": prompts / sum(timed),
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
        "losses": losses,
        "validation": validation,
    }


class Tuning:
    """A model with its adapter, the loss and the optimiser."""

    def __init__(self, model, work, args):
        self.label = work["label"]
        self.twice = self.label == "soft" and args.soft == "twice"
        self.kind = work["representation"]
        self.how_far_in = work["m"]
        self.token_weight = work["token_weight"]
        self.batch = args.batch

        # PEFT keeps the factors in float32 beside a bf16 model: in bf16 the steps would round away.
        adapted = PeftModel.from_pretrained(model, Path(args.work) / "adapter", is_trainable=True)
        adapted.eval()  # no dropout
        self.model = model  # peft put its layers into it; called directly, one wrapper less
        self.factors = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.factors,
            betas=(0.9, 0.999),
            eps=work["epsilon"],
            weight_decay=work["weight_decay"],
            fused=True,
        )

        # The row that says the answer: the one before it where the answer is part of the prompt.
        self.answer_row = -2 if self.twice else -1
        layers = work["representation_layers"] if self.kind else []
        places = [self.answer_row - offset for offset in work["offsets"]]
        self.kept = KeptRows(model.model.layers, layers, places)
        directions = read_directions(args.work) if self.kind else {}
        self.directions = {layer: directions[layer] for layer in layers}

    def step(self, items, rate):
        """One step of the optimiser over `items`; its losses before the step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self.gradients(items)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return losses

    def gradients(self, items):
        """Losses over `items`, their gradients left at the factors."""
        prompts = self.prompts(items)
        sums = [0.0, 0.0]
        # Parts of a step only where --batch asks: their gradients add up to the step's.
        for numbers in batches_by_length([ids for ids, _ in prompts], self.batch):
            share = len(numbers) / len(prompts)
            token, representation = self.losses([prompts[n] for n in numbers])
            total = token if representation is None else representation + self.token_weight * token
            (total * share).backward()
            add_share(sums, token, representation, share)
        return [sums[0], sums[1] if self.kind else None]

    @torch.inference_mode()
    def validate(self, items):
        """Mean losses over `items`."""
        sums = [0.0, 0.0]
        for numbers in batches_by_length([item["ids"] for item in items], VALIDATION_ITEMS):
            losses = self.losses(self.prompts([items[n] for n in numbers]))
            add_share(sums, *losses, len(numbers) / len(items))
        return [sums[0], sums[1] if self.kind else None]

    def prompts(self, items):
        """[(ids, targets)]: what is asked of each prompt's answer row, in equal parts."""
        if self.twice:
            return [(i["ids"] + [i[side]], [i[side]]) for i in items for side in ("right", "wrong")]
        sides = ("right", "wrong") if self.label == "soft" else (self.label,)
        return [(i["ids"], [i[side] for side in sides]) for i in items]

    def losses(self, prompts):
        """Token loss and representation loss (or None), each a mean over `prompts`."""
        answer_row = torch.tensor([self.answer_row])
        batch = left_padded([ids for ids, _ in prompts])
        self.kept.rows.clear()
        logits = self.model(**batch, use_cache=False, logits_to_keep=answer_row).logits[:, 0]
        targets = torch.tensor([targets for _, targets in prompts])
        token = -F.log_softmax(logits.float(), dim=-1).gather(1, targets).mean()
        if not self.kind:
            return token, None
        rows = [(row, d) for layer, d in self.directions.items() for row in self.kept.rows[layer]]
        cosines = torch.stack([F.cosine_similarity(row.float(), d, dim=-1) for row, d in rows])
        return token, self.representation(cosines).mean()

    def representation(self, cosines):
        if self.kind == "in":
            return self.how_far_in * (1 - cosines) / 2
        if self.kind == "in_negative":
            return self.how_far_in * (1 + cosines) / 2
        if self.kind == "out":
            return cosines.abs()
        raise SystemExit(f"representation {self.kind}: expected in, in_negative, out or null")


def add_share(sums, token, representation, share):
    """Adds a part's losses to the sums, by the part's share of the whole."""
    sums[0] += token.item() * share
    if representation is not None:
        sums[1] += representation.item() * share
