"""Makes a random layer that predicts a further token, for the fixture of Qwen 3.5, and the numbers that it gives.

Run by hand, in an environment with torch (CPU) and transformers, which reads such checkpoints without the layer; its own
decoder layer computes the numbers:

    python tools/families/make_next_layer.py test/fixtures/hybrids/qwen3-5 test/fixtures/next-layer
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

TOKENS = 24
DRAFTS = 3
# Ends of the texts whose drafts continue.
ENDS = [2, 9, 17]


def norm(like, generator):
    made = copy.deepcopy(like)
    made.weight.data = torch.randn(like.weight.shape, generator=generator) * 0.3
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    paths = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(paths.model, dtype=torch.float32).eval()
    config, decoder = model.config, model.model
    generator = torch.Generator().manual_seed(11)
    layer = qwen.Qwen3_5DecoderLayer(config, config.layer_types.index("full_attention")).eval()
    for name, tensor in layer.named_parameters():
        scale = 0.3 if "norm" in name else 1.5 / tensor.shape[-1] ** 0.5
        tensor.data = torch.randn(tensor.shape, generator=generator) * scale
    token_norm, state_norm, final_norm = (norm(decoder.norm, generator) for _ in range(3))
    # Drafts that seem sure are long.
    final_norm.weight.data += 3
    fusion = torch.randn(config.hidden_size, 2 * config.hidden_size, generator=generator) / (2 * config.hidden_size) ** 0.5

    ids = torch.randint(3, config.vocab_size, (1, TOKENS), generator=generator)
    states = []
    decoder.layers[-1].register_forward_hook(lambda _, __, output: states.append(output[0] if isinstance(output, tuple) else output))
    with torch.no_grad():
        model(ids)
        (state,) = states
        state = state.reshape(TOKENS, -1)

        def run(rows, tokens):
            """Computes the layer's states behind rows of states, each with the token that follows."""
            joined = torch.cat([token_norm(decoder.embed_tokens(tokens)), state_norm(rows)], dim=-1)
            positions = torch.arange(len(tokens))[None]
            mask = torch.full((1, 1, len(tokens), len(tokens)), float("-inf")).triu(1)
            hidden = (joined @ fusion.T)[None]
            out = layer(
                hidden, position_embeddings=decoder.rotary_emb(hidden, positions), attention_mask=mask, position_ids=positions
            )
            return (out[0] if isinstance(out, tuple) else out).reshape(len(tokens), -1)

        def logits(hidden):
            return [round(x, 5) for x in model.lm_head(final_norm(hidden)).tolist()]

        first = run(state[:-1], ids[0, 1:])
        chains = []
        for end in ENDS:
            rows, tokens, chain = state[: end + 1], ids[0, 1 : end + 2], []
            for draft in range(DRAFTS):
                own = run(rows, tokens)[-1]
                chain.append(logits(own))
                rows = torch.cat([rows, own[None]])
                tokens = torch.cat([tokens, ids[0, end + 2 + draft][None]])
            chains.append({"end": end, "logits": chain})
        golden = {"input_ids": ids[0].tolist(), "logits": [logits(row) for row in first], "chains": chains}

    paths.out.mkdir(parents=True, exist_ok=True)
    tensors = {f"mtp.layers.0.{name}": tensor.data for name, tensor in layer.named_parameters()}
    tensors["mtp.fc.weight"] = fusion
    for name, made in [("pre_fc_norm_embedding", token_norm), ("pre_fc_norm_hidden", state_norm), ("norm", final_norm)]:
        tensors[f"mtp.{name}.weight"] = made.weight.data
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, paths.out / "mtp.safetensors")
    (paths.out / "golden.json").write_text(json.dumps(golden) + "\n")


main()
