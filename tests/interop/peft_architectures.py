"""Write an adapter of PEFT for a tiny model of each architecture, and what it computes merged.

    python tests/interop/peft_architectures.py      # transformers 5.24.0, which has all of them

Writes tests/interop/fixtures/peft_architectures: `{model}/` is the adapter as PEFT saves it, of every
linear layer of every block, with random factors; `logits.safetensors` has `{model}.{i}` (T, V) of the
first two prompts of the oracle after `merge_and_unload`.
"""

import shutil
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

from base_model import load_f32, logits_of
from made_from import made_from

import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft_adapters import tidy
from safetensors import safe_open
from safetensors.torch import save_file

OUT = HERE / "fixtures" / "peft_architectures"
MODELS = ["mistral", "qwen2", "qwen3", "llama-bias"]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = 2
SCRIPTS = ["tests/interop/peft_architectures.py", "tests/oracle/base_model.py"]


def main():
    if transformers.__version__ != "5.24.0":
        raise SystemExit(f"transformers 5.24.0 is needed, this is {transformers.__version__}")
    shutil.rmtree(OUT, ignore_errors=True)
    logits = {}
    for seed, name in enumerate(MODELS):
        base = HERE.parent / "fixtures" / f"tiny-{name}"
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=MODULES)
            model = get_peft_model(load_f32(base), config)
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.data = torch.randn_like(parameter) * 0.2
        model.peft_config["default"].base_model_name_or_path = base.name
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink(missing_ok=True)
        tidy(OUT / name / "adapter_config.json", name)
        with safe_open(str(HERE.parent / "fixtures" / f"oracle-{name}.safetensors"), framework="pt") as oracle:
            prompts = [oracle.get_tensor(f"prompt.{i}.ids").tolist() for i in range(PROMPTS)]
        merged, plain = model.merge_and_unload().eval(), load_f32(base)
        with torch.no_grad():
            for i, ids in enumerate(prompts):
                logits[f"{name}.{i}"] = logits_of(merged, ids).contiguous()
                far = (logits[f"{name}.{i}"] - logits_of(plain, ids)).abs().max().item()
                print(f"{name}.{i}: {far:.3f} from base at most")
                if far < 0.1:
                    raise SystemExit(f"the adapter of {name} does nothing")
    save_file(logits, OUT / "logits.safetensors", metadata=made_from(SCRIPTS, []))
    for file in sorted(OUT.rglob("*.*")):
        print(f"{file.relative_to(OUT)}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
