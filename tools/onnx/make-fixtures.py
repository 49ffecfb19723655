"""Writes a tiny llama and a tiny qwen2 with small random weights, and ONNX files that other tools made of them. Run by
hand; needs what make-folders.py needs. pack.ts makes test/fixtures/onnx/files.br of OUT.

    python make-fixtures.py OUT TOKENIZER
    node --import tsx pack.ts OUT ../../test/fixtures/onnx/files.br

Weights are whole multiples of 1/128, so that they compress well, and are the same in float32 and float16.
"""

import os
import shutil
import sys

import onnx
import torch
import transformers
from onnx import helper
from safetensors.torch import save_file

folders = __import__("make-folders")

# The builder takes every product with as many outputs as the vocabulary for the head.
SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
SIZES |= dict(num_key_value_heads=1, vocab_size=96, max_position_embeddings=64, rms_norm_eps=1e-5)
KINDS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", dict(tie_word_embeddings=True)),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", dict(tie_word_embeddings=False)),
}
# Files of each checkpoint that are kept; others only repeat what these show.
KEPT = {
    "llama": ["", "_fp16", "_quantized", "_int8", "_q4", "_q4_asymmetric", "_q4f16", "_q4_gather", "_q4_qdq", "_bnb4"],
    "qwen2": ["_uint8", "_b8"],
}


def checkpoint(name, folder):
    config_class, model_class, more = KINDS[name]
    config = getattr(transformers, config_class)(**SIZES, **more, bos_token_id=1, eos_token_id=2)
    model = getattr(transformers, model_class)(config)
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        steps = torch.randint(-64, 65, value.shape, generator=generator).float()
        tensors[key] = (steps / 64 + 2 if key.endswith("norm.weight") else steps / 128).contiguous()
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    config.architectures = [model_class]
    config.save_pretrained(folder)


def merged(path, out):
    """Moves a graph into the branch of a choice, as older exports have it: with a past, or for a first step."""
    model = onnx.load(path)
    graph = model.graph
    outputs = [helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, None) for o in graph.output]
    with_past = helper.make_graph(list(graph.node), "with_past", [], outputs)
    nothing = [helper.make_node("Constant", [], [f"none_{i}"], value_float=0.0) for i in range(len(outputs))]
    nothing_outputs = [helper.make_tensor_value_info(f"none_{i}", onnx.TensorProto.FLOAT, None) for i in range(len(outputs))]
    first = helper.make_graph(nothing, "first", [], nothing_outputs)
    choice = helper.make_node(
        "If", ["use_cache_branch"], [o.name for o in graph.output], then_branch=with_past, else_branch=first
    )
    flag = helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    whole = helper.make_graph([choice], "merged", [*graph.input, flag], list(graph.output), list(graph.initializer))
    onnx.save(helper.make_model(whole, opset_imports=list(model.opset_import), ir_version=model.ir_version), out)


def keep(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)


def main(out, tokenizer):
    for name in KINDS:
        work, target = f"{out}-work/{name}", f"{out}/{name}"
        dense = f"{work}-dense"
        checkpoint(name, dense)
        folders.main(dense, work, tokenizer)
        optimum = f"{work}/optimum/onnx/model"
        for suffix in KEPT[name]:
            keep(f"{optimum}{suffix}.onnx", f"{target}/optimum/model{suffix}.onnx")
        if name == "llama":
            merged(f"{optimum}_quantized.onnx", f"{work}/merged.onnx")
            keep(f"{work}/merged.onnx", f"{target}/optimum/decoder_model_merged_quantized.onnx")
        precisions = {"llama": ["int4"], "qwen2": ["fp32", "fp16"]}[name]
        for precision in precisions:
            for file in ["model.onnx", "model.onnx.data"]:
                keep(f"{work}/builder-{precision}/{file}", f"{target}/builder-{precision}/{file}")
        keep(f"{dense}/model.safetensors", f"{target}/model.safetensors")
        shutil.copyfile(f"{dense}/config.json", f"{target}/config.json")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
