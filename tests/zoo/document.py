"""The page "Which models work", written from the verdicts of a run."""

from __future__ import annotations

from collections import Counter

import transformers

# What people ask for: (family, types, kind of layers if it matters)
FAMILIES = [
    ("Llama 3, SmolLM2, Falcon 3, Yi, R1-Distill-Llama", ["llama"]),
    ("Llama 4", ["llama4"]),
    ("Llama 3.2 Vision", ["mllama"]),
    ("Qwen2, Qwen2.5, QwQ, R1-Distill-Qwen", ["qwen2"]),
    ("Qwen3; Qwen3 MoE", ["qwen3", "qwen3_moe"]),
    ("Qwen3-Next, Qwen3-Coder-Next", ["qwen3_next"]),
    ("Qwen3.5; Qwen3.5 MoE", ["qwen3_5", "qwen3_5_moe"]),
    ("Qwen2-VL; Qwen2.5-VL; Qwen3-VL", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]),
    ("Gemma 2; Gemma 3", ["gemma2", "gemma3"]),
    ("Gemma 3n (text); Gemma 4", ["gemma3n_text", "gemma4"]),
    ("PaliGemma", ["paligemma"]),
    ("Mistral 7B, Nemo, Small 3; Mixtral", ["mistral", "mixtral"]),
    ("Mistral Small 3.1, Ministral 3", ["mistral3", "ministral3"]),
    ("DeepSeek V2; V3, R1, V3.1, Kimi K2", ["deepseek_v2", "deepseek_v3"]),
    ("DeepSeek V3.2; V4", ["deepseek_v32", "deepseek_v4"]),
    ("Kimi Linear; Kimi K2.5", ["kimi_linear", "kimi_k25"]),
    ("gpt-oss", ["gpt_oss"]),
    ("Phi-1, 1.5, 2; Phi-3, 3.5, 4, 4-mini; Phi-3.5-MoE", ["phi", "phi3", "phimoe"]),
    ("GLM-4; GLM-4.5, 4.6; GLM-4.7-Flash; GLM-5",
     ["glm4", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"]),
    ("OLMo 2; OLMo 3; OLMoE; OLMo Hybrid", ["olmo2", "olmo3", "olmoe", "olmo_hybrid"]),
    ("SmolLM3", ["smollm3"]),
    ("Granite 3; Granite 4 H", ["granite", "granitemoehybrid"]),
    ("Nemotron 4, Minitron; Nemotron-H, Nano 2 and 3", ["nemotron", "nemotron_h"]),
    ("MiniMax-01, M1; M2", ["minimax", "minimax_m2"]),
    ("LFM2; LFM2 MoE", ["lfm2", "lfm2_moe"]),
    ("Jamba; Bamba; Falcon-H1; RecurrentGemma", ["jamba", "bamba", "falcon_h1", "recurrent_gemma"]),
    ("Zamba; Zamba 2", ["zamba", "zamba2"]),
    ("Mamba; Mamba 2; Falcon Mamba; RWKV; xLSTM",
     ["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"]),
    ("EXAONE 4; EXAONE MoE", ["exaone4", "exaone_moe"]),
    ("Command R; Command R7B, A", ["cohere", "cohere2"]),
    ("InternLM 3; InternVL", ["internlm3", "internvl"]),
    ("Hunyuan dense; MoE", ["hunyuan_v1_dense", "hunyuan_v1_moe"]),
    ("ERNIE 4.5; ERNIE 4.5 MoE", ["ernie4_5", "ernie4_5_moe"]),
    ("Ling, Ring (Bailing); LongCat", ["bailing_hybrid", "longcat_flash"]),
    ("Seed-OSS; Apertus; Arcee; StableLM; StarCoder 2; BitNet",
     ["seed_oss", "apertus", "arcee", "stablelm", "starcoder2", "bitnet"]),
    ("GPT-2; Pythia, GPT-NeoX; GPT-J; GPT-Neo; OPT; BLOOM; StarCoder 1",
     ["gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "bloom", "gpt_bigcode"]),
    ("Falcon 1; MPT; DBRX; CodeGen; Persimmon; MiniCPM 3",
     ["falcon", "mpt", "dbrx", "codegen", "persimmon", "minicpm3"]),
]  # fmt: skip

HEAD = """# Which models work

<!-- Written by `make zoo`; do not edit. -->

A model works if its layers match an entry of the table of layouts in `models/layouts.py`, whatever
it is called. Below is every causal type of transformers {version}, each as a tiny model with random
weights: three samples of 11, 37 and 90 tokens in one padded batch, solved the CPU's and the GPU's
way, against float64 autograd on the true weights, one sample at a time.

* **exact**: nuclear norm, Frobenius norm and first singular value of every gradient agree to 1e-4.
* **refused**: the model stops with a message that says why; nothing is measured.
* **not built**: transformers cannot make or run the type alone.

Layers without attention (state spaces, convolutions) are left out, and so are keys and values that
a layer takes from another; `layergrad preflight` says which. MLPs that route tokens to experts are
refused: no weight of a layer is used by all tokens. Curves keep the true numbers of the layers, and
a step of MAD goes from one measured layer to the next.

Models whose position encoding depends on the longest sample (longrope, dynamic) or that select
tokens for sparse attention are measured in batches of samples that they treat alike.
"""


def document(found: dict[str, dict[str, dict]]) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    found
        Verdicts of :func:`tests.zoo.check.check_type` by section (types, variants, multimodal) and
        name.
    """
    types = found["types"]
    everything = found["multimodal"] | types
    lines = [HEAD.format(version=transformers.__version__), "## Counts", ""]
    lines += ["| | q, k, v, o | MLP |", "|---|---|---|"]
    counts = {
        what: Counter(v[what]["verdict"] for v in types.values()) for what in ("attention", "mlp")
    }
    for verdict in ("exact", "refused", "not built", "wrong", "crash", "missing"):
        lines.append(f"| {verdict} | {counts['attention'][verdict]} | {counts['mlp'][verdict]} |")
    lines += ["", f"{len(types)} types in all.", "", "## Families", ""]
    lines += ["| family | type | q, k, v, o | MLP |", "|---|---|---|---|"]
    for family, names in FAMILIES:
        for i, name in enumerate(names):
            verdicts = everything[name]
            cells = _cell(verdicts["attention"]), _cell(verdicts["mlp"])
            lines.append(f"| {'' if i else family} | `{name}` | {cells[0]} | {cells[1]} |")
    for section, title in (
        ("multimodal", "Multimodal models, on text"),
        ("variants", "Shapes of published models"),
        ("types", "Every type"),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| model | q, k, v, o | MLP | why not |",
            "|---|---|---|---|",
        ]
        for name, verdicts in sorted(found[section].items(), key=lambda item: item[0].lower()):
            attention, mlp = verdicts["attention"], verdicts["mlp"]
            lines.append(f"| {name} | {_cell(attention)} | {_cell(mlp)} | {_why(attention, mlp)} |")
    return "\n".join(lines) + "\n"


def _cell(verdict: dict) -> str:
    if verdict["verdict"] != "exact":
        return verdict["verdict"]
    gaps = ", not in every layer" if verdict["lacking"] else ""
    return f"exact ({', '.join(verdict['projections'])}{gaps})"


def _why(attention: dict, mlp: dict) -> str:
    why = attention["message"] or mlp["message"]
    why = " ".join(why.split()).replace("|", "/").replace("*", r"\*")
    return why if len(why) <= 160 else f"{why[:157]}..."
