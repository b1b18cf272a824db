"""Write adapters as PEFT writes them, and the logits that PEFT computes with them.

    $REPTUNE_PYTHON tests/interop/peft_adapters.py

Writes tests/interop/fixtures/peft/{case}/ and, in peft/logits.safetensors, `{case}.{i}` (T, V)
for each of the first two prompts of the oracle. Every adapter is saved, then loaded into a
fresh base model: the logits are those of what stands on disk. In the cases that reptune
refuses there are adapters only.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

from base_model import load_f32, logits_of

import peft
import torch
from made_from import made_from
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig, MontecloraConfig, VeloraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BASE = HERE.parent / "fixtures" / "tiny-llama2"
OUT = HERE / "fixtures" / "peft"
PROMPTS = 2
SCRIPTS = ["tests/interop/peft_adapters.py", "tests/oracle/base_model.py"]

# Patterns that only a reader of regular expressions gets right: several match, the first
# counts; an end of a path, behind a dot; a set; a whole path.
PATTERNS = {
    "rank_pattern": {"1.self_attn.q_proj": 3, "q_proj": 2, r"layers\.[23]\.mlp.*": 5},
    "alpha_pattern": {"^model.layers.2.self_attn.v_proj": 1, "v_proj": 12, "mlp.(up|down)_proj": 6},
}
ALL = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
CONVERTED = {"rank_pattern": {"down_proj": 3}, "alpha_pattern": {"down_proj": 2}}
TAKEN = {
    "patterns": dict(r=4, lora_alpha=8, target_modules=ALL, **PATTERNS),
    "rslora": dict(r=4, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True, **PATTERNS),
    "named": dict(r=2, lora_alpha=4, target_modules=["o_proj"], fan_in_fan_out=True),
    "plain": dict(r=4, lora_alpha=8, target_modules=[*ALL, "k_proj", "gate_proj"], layers_to_transform=[0, 3]),
    "bf16": dict(r=3, lora_alpha=-5, target_modules=["k_proj", "gate_proj"]),
}
# Kinds that differ from plain LoRA while they are trained only, and ways to name the modules.
VARIANTS = {
    "mica": dict(r=2, lora_alpha=4, target_modules=["o_proj"], init_lora_weights="mica"),
    "velora": dict(r=2, lora_alpha=4, target_modules=["v_proj"], velora_config=VeloraConfig(num_groups=8)),
    "monteclora": dict(r=2, lora_alpha=4, target_modules=["v_proj"], monteclora_config=MontecloraConfig(num_samples=2)),
    "converted": dict(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa", **CONVERTED),
    "olora": dict(r=2, lora_alpha=3, target_modules=["v_proj"], init_lora_weights="olora", use_rslora=True),
    "regex": dict(r=2, lora_alpha=8, target_modules=r".*\.[12]\.(self_attn|mlp)\.(k|up)_proj"),
    "excluded": dict(r=2, lora_alpha=8, target_modules="all-linear", exclude_modules=["q_proj", "model.layers.0.mlp.up_proj"]),
    "layer": dict(r=2, lora_alpha=8, target_modules=["o_proj", "gate_proj"], layers_to_transform=2, corda_config=CordaConfig()),
}
REFUSED = {
    "dora": dict(r=2, lora_alpha=4, target_modules=["o_proj"], use_dora=True),
    "lora_bias": dict(r=2, lora_alpha=4, target_modules=["o_proj"], lora_bias=True),
}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    with safe_open(str(HERE.parent / "fixtures" / "oracle-llama2.safetensors"), framework="pt") as oracle:
        prompts = [oracle.get_tensor(f"prompt.{i}.ids").tolist() for i in range(PROMPTS)]
    logits = {}
    for seed, (case, options) in enumerate({**TAKEN, **REFUSED, **VARIANTS}.items()):
        directory = write(case, options, seed)
        if case not in REFUSED:
            model = PeftModel.from_pretrained(load_f32(BASE), directory).eval()
            with torch.no_grad():
                logits |= {f"{case}.{i}": logits_of(model, ids).contiguous() for i, ids in enumerate(prompts)}
    base = load_f32(BASE)
    with torch.no_grad():
        for i, ids in enumerate(prompts):
            plain = logits_of(base, ids)
            for case in TAKEN | VARIANTS:
                far = (logits[f"{case}.{i}"] - plain).abs().max().item()
                if far < 0.1:
                    raise SystemExit(f"{case} changes the logits of prompt {i} by {far} only")
    save_file(logits, OUT / "logits.safetensors", metadata=made_from(SCRIPTS, ["torch", "transformers", "peft"]))
    for file in sorted(OUT.rglob("*.*")):
        print(f"{file.relative_to(OUT)}: {file.stat().st_size} bytes")


def write(case, options, seed):
    """Saves an adapter with random factors; returns its directory."""
    torch.manual_seed(seed)
    name = "honest" if case == "named" else "default"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_f32(BASE), LoraConfig(task_type="CAUSAL_LM", **options), adapter_name=name)
    start = tempfile.mkdtemp()
    model.save_pretrained(start)
    for parameter_name, parameter in model.named_parameters():
        if "lora_A" in parameter_name or "lora_B" in parameter_name:
            parameter.data = torch.randn_like(parameter) * 0.2
    model.peft_config[name].base_model_name_or_path = "tiny-llama2"
    # Relative to the changed base model of PiSSA and OLoRA, unless PEFT converts it.
    changed = options.get("init_lora_weights") in ["pissa", "olora"]
    model.save_pretrained(OUT / case, path_initial_model_for_weight_conversion=start if changed else None)
    shutil.rmtree(start)
    (OUT / case / "README.md").unlink(missing_ok=True)
    directory = OUT / case / ("" if name == "default" else name)
    (directory / "README.md").unlink(missing_ok=True)
    tidy(directory / "adapter_config.json", case)
    if case == "bf16":
        weights = directory / "adapter_model.safetensors"
        save_file({n: t.bfloat16() for n, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    return directory


def tidy(path, case):
    """Sets of the config in a fixed order; in the case "named", the key that PEFT takes back."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ["target_modules", "exclude_modules"]:
        if isinstance(config[key], list):
            config[key] = sorted(config[key])
    if case == "named":
        if config["fan_in_fan_out"]:
            raise SystemExit("PEFT keeps fan_in_fan_out for torch.nn.Linear now: look at what it means on disk")
        config["fan_in_fan_out"] = True
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
