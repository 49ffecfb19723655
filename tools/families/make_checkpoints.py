"""Makes random checkpoints of many shapes, with the numbers that transformers computes from them.

Run by hand, in an environment with torch (CPU) and transformers; see docs/families.md:

    python tools/families/make_checkpoints.py OUT [--only SUBSTRING] [--fixtures]

Each folder below OUT has a checkpoint and its golden.json in the format of test/fixtures/families. `--fixtures` makes
the checkpoints that the repository keeps instead of the shapes of the table.
"""

import argparse
import copy
import json
import math
import zlib
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

# Beyond every window of the table, and not a multiple of a page, a chunk or a tile.
LENGTHS = [1, 7, 40, 130, 301]
FIXTURE_LENGTHS = [1, 7, 40, 130]
GREEDY_TOKENS = 16

# Three key heads of 80 dimensions, a width that no tile divides, and experts of odd widths.
ODD = dict(
    vocab_size=131, hidden_size=210, intermediate_size=328, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=3, head_dim=80, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
TIED = dict(tie_word_embeddings=True)
UNTIED = dict(tie_word_embeddings=False)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = dict(
    rope_type="yarn", rope_theta=500000.0, factor=4.0, original_max_position_embeddings=128, beta_fast=16.0, beta_slow=1.0,
)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.5)


def longrope(pairs, **more):
    short = [1 + 0.02 * i for i in range(pairs)]
    long = [1.1 + 0.4 * i for i in range(pairs)]
    return dict(rope_type="longrope", rope_theta=10000.0, short_factor=short, long_factor=long, **more)


# Phi-3's heads have hidden_size / heads dimensions.
PHI = {**ODD, "hidden_size": 240, "num_attention_heads": 3, "num_key_value_heads": 3}
GEMMA4 = dict(global_head_dim=72, sliding_window=50, vocab_size_per_layer_input=131)
GEMMA4_EXPERTS = dict(enable_moe_block=True, num_experts=7, top_k_experts=3, moe_intermediate_size=72)
CAPS = dict(attn_logit_softcapping=5.0, final_logit_softcapping=20.0)
LFM = dict(hidden_size=240, num_attention_heads=3, norm_eps=1e-5)
DELTA = dict(
    num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2, linear_num_key_heads=3,
    linear_num_value_heads=6, linear_key_head_dim=20, linear_value_head_dim=28, linear_conv_kernel_dim=3,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
)
MIXTURE = dict(num_local_experts=5, num_experts_per_tok=2)
# The context is stretched, queries are of a low rank, and two layers of an expert's width are all tokens'.
LATENT = dict(
    num_key_value_heads=6, kv_lora_rank=48, q_lora_rank=44, qk_rope_head_dim=20, qk_nope_head_dim=28, v_head_dim=32,
    n_routed_experts=7, num_experts_per_tok=3, moe_intermediate_size=72, n_shared_experts=2, first_k_dense_replace=1,
    routed_scaling_factor=1.5, head_dim=20, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
)
SHAPES = {
    "llama-odd": ("llama", {**ODD, **UNTIED}),
    "llama-tied-biases": ("llama", {**ODD, **TIED, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("llama", {**ODD, **TIED, "rope_parameters": LLAMA3}),
    "llama-linear-rope": ("llama", {**ODD, **UNTIED, "rope_parameters": LINEAR}),
    "llama-longrope": ("llama", {**ODD, **UNTIED, "rope_parameters": longrope(40, original_max_position_embeddings=64)}),
    "llama-one-head": ("llama", {**ODD, **TIED, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 18}),
    "llama-wide-heads": ("llama", {**ODD, **UNTIED, "hidden_size": 212, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}),
    "mistral-window": ("mistral", {**ODD, **UNTIED, "sliding_window": 50}),
    "mistral-no-window": ("mistral", {**ODD, **TIED, "sliding_window": None}),
    "qwen2-odd": ("qwen2", {**ODD, **TIED}),
    "qwen2-window": ("qwen2", {
        **ODD, **UNTIED, "use_sliding_window": True, "sliding_window": 33, "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    }),
    "qwen3-odd": ("qwen3", {**ODD, **TIED}),
    "qwen3-window": ("qwen3", {
        **ODD, **UNTIED, "use_sliding_window": True, "sliding_window": 33,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }),
    "olmo2-odd": ("olmo2", {**ODD, **UNTIED, "hidden_size": 240}),
    "olmo2-tied": ("olmo2", {**ODD, **TIED, "hidden_size": 72, "num_attention_heads": 3, "head_dim": 24}),
    "granite-odd": ("granite", {
        **ODD, **UNTIED, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.0078125,
        "logits_scaling": 8.0, "hidden_size": 480,
    }),
    "granite-tied-biases": ("granite", {
        **ODD, **TIED, "embedding_multiplier": 3.0, "residual_multiplier": 1.5, "attention_multiplier": 0.2,
        "logits_scaling": 0.5, "attention_bias": True, "mlp_bias": True,
    }),
    "llama-yarn": ("llama", {**ODD, **UNTIED, "rope_parameters": YARN}),
    "olmo3-odd": ("olmo3", {
        **ODD, **UNTIED, "hidden_size": 240, "num_hidden_layers": 5, "sliding_window": 50,
        "rope_parameters": {"full_attention": YARN, "sliding_attention": dict(rope_type="default", rope_theta=500000.0)},
    }),
    # Behind the original context, queries have a factor by position.
    "ministral3-odd": ("ministral3", {
        **ODD, **TIED, "sliding_window": None,
        "rope_parameters": dict(
            rope_type="yarn", rope_theta=1000000.0, factor=16.0, original_max_position_embeddings=20, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1,
        ),
    }),
    "smollm3-odd": ("smollm3", {**ODD, **TIED, "num_hidden_layers": 5}),
    "smollm3-listed": ("smollm3", {**ODD, **UNTIED, "no_rope_layers": [0, 1, 0]}),
    "phi3-odd": ("phi3", {**PHI, **UNTIED}),
    "phi3-partial": ("phi3", {**PHI, **TIED, "rope_parameters": dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75)}),
    "phi3-longrope": ("phi3", {
        **PHI, **TIED, "original_max_position_embeddings": 64, "sliding_window": 50,
        "rope_parameters": longrope(30, partial_rotary_factor=0.75),
    }),
    "phi3-longrope-short": ("phi3", {
        **PHI, **UNTIED, "original_max_position_embeddings": 512, "rope_parameters": longrope(40, attention_factor=1.19),
    }),
    "gemma3-odd": ("gemma3_text", {**ODD, **TIED, "sliding_window": 50, "num_hidden_layers": 7, "query_pre_attn_scalar": 100}),
    "gemma3-linear-rope": ("gemma3_text", {
        **ODD, **TIED, "sliding_window": 33, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            "sliding_attention": dict(rope_type="default", rope_theta=10000.0),
        },
    }),
    "mixtral-odd": ("mixtral", {**ODD, **UNTIED, **MIXTURE, "sliding_window": None}),
    "mixtral-window": ("mixtral", {**ODD, **TIED, **MIXTURE, "num_experts_per_tok": 3, "sliding_window": 50}),
    "qwen3-moe-odd": ("qwen3_moe", {
        **ODD, **UNTIED, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 72, "norm_topk_prob": True,
    }),
    "qwen3-moe-dense-layers": ("qwen3_moe", {
        **ODD, **TIED, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": False,
        "mlp_only_layers": [1],
    }),
    "qwen2-moe-odd": ("qwen2_moe", {
        **ODD, **UNTIED, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 72,
        "shared_expert_intermediate_size": 88, "norm_topk_prob": False,
    }),
    "olmoe-odd": ("olmoe", {**ODD, **UNTIED, "num_experts": 7, "num_experts_per_tok": 2, "intermediate_size": 56, "hidden_size": 240,
                            "num_attention_heads": 3, "num_key_value_heads": 3}),
    "granitemoe-odd": ("granitemoe", {
        **ODD, **TIED, **MIXTURE, "hidden_size": 240, "num_attention_heads": 3, "num_key_value_heads": 3,
        "intermediate_size": 72, "embedding_multiplier": 6.0, "residual_multiplier": 0.5, "attention_multiplier": 0.05,
        "logits_scaling": 4.0,
    }),
    "granitemoeshared-odd": ("granitemoeshared", {
        **ODD, **TIED, **MIXTURE, "hidden_size": 240, "num_attention_heads": 3, "num_key_value_heads": 3,
        "intermediate_size": 72, "shared_intermediate_size": 104, "embedding_multiplier": 6.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.05, "logits_scaling": 4.0,
    }),
    "granite4-dense": ("granitemoehybrid", {
        **ODD, **TIED, "hidden_size": 240, "num_attention_heads": 3, "num_key_value_heads": 3, "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 328, "layer_types": ["attention"] * 3, "mamba_n_heads": 12,
        "position_embedding_type": "rope", "embedding_multiplier": 6.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.05, "logits_scaling": 4.0,
    }),
    "gemma2-odd": ("gemma2", {**ODD, **TIED, "sliding_window": 50, "num_hidden_layers": 5, "query_pre_attn_scalar": 100, **CAPS}),
    "gemma4-odd": ("gemma4_text", {
        **ODD, **TIED, **GEMMA4, "num_hidden_layers": 7, "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 48,
        "use_double_wide_mlp": True, "final_logit_softcapping": 30.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 2 + ["full_attention"],
    }),
    "gemma4-keys-are-values": ("gemma4_text", {
        **ODD, **TIED, **GEMMA4, "num_hidden_layers": 3, "hidden_size_per_layer_input": 0, "attention_k_eq_v": True,
        "num_global_key_value_heads": 1, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    }),
    "deepseek-v2-odd": ("deepseek_v2", {**ODD, **UNTIED, **LATENT}),
    "deepseek-v2-queries": ("deepseek_v2", {**ODD, **UNTIED, **LATENT, "q_lora_rank": None, "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 144}),
    "gemma4-experts-odd": ("gemma4_text", {
        **ODD, **TIED, **GEMMA4, **GEMMA4_EXPERTS, "num_hidden_layers": 3, "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True, "num_global_key_value_heads": 1,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    }),
    "deepseek-v3-odd": ("deepseek_v3", {**ODD, **UNTIED, **LATENT, "n_group": 1, "topk_group": 1, "norm_topk_prob": False}),
    "gpt-oss-odd": ("gpt_oss", {
        **ODD, **UNTIED, **MIXTURE, "num_hidden_layers": 4, "intermediate_size": 72, "sliding_window": 33,
        "rope_parameters": {**YARN, "beta_fast": 32.0, "truncate": False},
    }),
    "lfm2-odd": ("lfm2", {
        **ODD, **TIED, **LFM, "num_hidden_layers": 5, "block_auto_adjust_ff_dim": False, "conv_L_cache": 4,
        "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
    }),
    "lfm2-moe-odd": ("lfm2_moe", {
        **ODD, **TIED, **LFM, "num_hidden_layers": 4, "num_dense_layers": 2, "num_experts": 7, "num_experts_per_tok": 3,
        "moe_intermediate_size": 72, "use_expert_bias": True, "norm_topk_prob": True, "routed_scaling_factor": 1.5,
        "layer_types": ["conv", "full_attention", "full_attention", "conv"],
    }),
    "qwen3-5-odd": ("qwen3_5_text", {**ODD, **UNTIED, **DELTA}),
    "qwen3-5-moe-odd": ("qwen3_5_moe_text", {
        **ODD, **TIED, **DELTA, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 72,
        "shared_expert_intermediate_size": 88,
    }),
    "qwen3-next-odd": ("qwen3_next", {
        **ODD, **UNTIED, **DELTA, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 72,
        "shared_expert_intermediate_size": 88, "norm_topk_prob": True, "mlp_only_layers": [1],
    }),
    "granite4-h-odd": ("granitemoehybrid", {
        **ODD, **TIED, **MIXTURE, "hidden_size": 240, "num_attention_heads": 3, "num_key_value_heads": 1,
        "intermediate_size": 72, "shared_intermediate_size": 104, "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 12, "mamba_d_head": 40, "mamba_d_state": 24, "mamba_n_groups": 3, "mamba_d_conv": 3,
        "position_embedding_type": "nope", "embedding_multiplier": 6.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.05, "logits_scaling": 4.0,
    }),
}

SMALL = dict(
    vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
FIXTURES = {
    "gemma2": ("gemma2", {**SMALL, **TIED, **CAPS, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 20}),
    "deepseek-v2-low": ("deepseek_v2", {**SMALL, **UNTIED, **LATENT, "num_key_value_heads": 4, "intermediate_size": 96}),
    "glm4-moe-lite": ("glm4_moe_lite", {
        **SMALL, **UNTIED, **LATENT, "num_key_value_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2,
        "rope_parameters": dict(rope_type="default", rope_theta=1000000.0),
    }),
    "gemma4-sizes": ("gemma4_text", {
        **SMALL, **TIED, **GEMMA4, "vocab_size_per_layer_input": 128, "head_dim": 20, "global_head_dim": 36,
        "num_hidden_layers": 6, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16, "sliding_window": 24,
        "use_double_wide_mlp": True, "final_logit_softcapping": 30.0, "intermediate_size": 96,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    }),
    "gemma4-experts": ("gemma4_text", {
        **SMALL, **TIED, **GEMMA4, **GEMMA4_EXPERTS, "vocab_size_per_layer_input": 128, "head_dim": 20, "global_head_dim": 36,
        "hidden_size_per_layer_input": 16, "sliding_window": 24, "intermediate_size": 96,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    }),
    "phi3-longrope": ("phi3", {
        **SMALL, **TIED, "original_max_position_embeddings": 160, "sliding_window": 100,
        "rope_parameters": longrope(6, partial_rotary_factor=0.75),
    }),
}


def fill(model, name):
    """Gives every parameter random values that matter: the usual initialisation hides errors of scales and norms."""
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.dim() == 1:
                is_bias = key.endswith("bias")
                # Gemma's norms multiply by 1 + weight.
                has_offset = model.config.model_type in ("gemma2", "gemma3_text")
                parameter.copy_((0.0 if is_bias or has_offset else 1.0) + 0.2 * noise)
            elif "embed_tokens" in key:
                parameter.copy_(noise)
            else:
                parameter.copy_(1.5 * noise / math.sqrt(parameter.shape[-1]))
        for key, buffer in model.named_buffers():
            if key.endswith("layer_scalar"):
                buffer.copy_(1 + 0.2 * torch.randn(buffer.shape, generator=random))
            if key.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=random))


def chosen_once(config, is_long):
    """Makes transformers use the same LongRoPE factors at all lengths: by itself it switches as sequences grow."""
    config = copy.deepcopy(config)
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        rope["short_factor" if is_long else "long_factor"] = rope["long_factor" if is_long else "short_factor"]
    return config


def golden(model, name, lengths):
    random = torch.Generator().manual_seed(zlib.crc32(f"{name} prompts".encode()))
    cases = []
    for length in lengths:
        ids = torch.randint(3, model.config.vocab_size, (length,), generator=random).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
            greedy, gap = [], math.inf
            for _ in range(GREEDY_TOKENS):
                last = model(torch.tensor([ids + greedy]), use_cache=False).logits[0, -1]
                best = torch.topk(last, 2).values
                gap = min(gap, (best[0] - best[1]).item())
                greedy.append(int(last.argmax()))
        cases.append({
            "input_ids": ids,
            "last_logits": [round(x, 6) for x in logits[-1].tolist()],
            "mean_logsumexp": torch.logsumexp(logits, -1).mean().item(),
            "greedy_16": greedy,
            "smallest_gap": round(gap, 6),
        })
    source = f"PyTorch {torch.__version__}, transformers {transformers.__version__}, float32"
    return {"source": source, "cases": cases}


def load(folder, is_long):
    config = chosen_once(AutoConfig.from_pretrained(folder), is_long)
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def is_long_of(config):
    original = getattr(config, "original_max_position_embeddings", None) or config.rope_parameters.get(
        "original_max_position_embeddings", config.max_position_embeddings
    )
    return config.max_position_embeddings > original


def make(out, name, model_type, fields, lengths, has_short):
    folder = out / name
    config = AutoConfig.for_model(model_type, **copy.deepcopy(fields))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, name)
    model.save_pretrained(folder)
    is_long = is_long_of(config) if config.rope_parameters.get("rope_type") == "longrope" else False
    write(folder / "golden.json", golden(load(folder, is_long), name, lengths))
    if has_short:
        write(folder / "golden-short.json", golden(load(folder, False), name, lengths))
    print(name, flush=True)


def write(path, value):
    path.write_text(json.dumps(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--fixtures", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, (model_type, fields) in (FIXTURES if options.fixtures else SHAPES).items():
        if options.only in name:
            lengths = FIXTURE_LENGTHS if options.fixtures else LENGTHS
            make(options.out, name, model_type, fields, lengths, options.fixtures)


main()
