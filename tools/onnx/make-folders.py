"""Writes folders with ONNX files as other tools make them, to compare the reader with. Run by hand.

    python make-folders.py CHECKPOINT OUT [TOKENIZER]

CHECKPOINT is a folder with config.json and safetensors; TOKENIZER a folder whose tokenizer files are copied if the
checkpoint has none. OUT gets one folder per exporter, with onnx/model*.onnx in all dtypes of transformers.js:

    optimum   optimum.exporters.onnx, quantised by onnxruntime's quantisers
    builder-* onnxruntime_genai.models.builder: fp32, fp16 and int4

Needs: torch, transformers, optimum-onnx[onnxruntime], onnxruntime-genai, onnx-ir, onnxconverter-common.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer, QuantFormat
from onnxruntime.transformers.float16 import convert_float_to_float16

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]


def attempt(name, make):
    """Runs one export; a failure of one tool leaves the others."""
    try:
        make()
        print("made", name, flush=True)
    except Exception:
        print("failed", name, flush=True)
        traceback.print_exc()


def with_old_rope(checkpoint, copy):
    """Copies a checkpoint, with RoPE also in the spelling that transformers 4 reads."""
    shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
    os.system(f"chmod -R u+w {copy}")
    with open(f"{copy}/config.json") as file:
        config = json.load(file)
    rope = config.get("rope_parameters")
    if rope is not None:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: rope[key] for key in rope if key != "rope_theta"})
    with open(f"{copy}/config.json", "w") as file:
        json.dump(config, file)


def optimum(checkpoint, out):
    from optimum.exporters.onnx import main_export

    source = f"{out}-source"
    with_old_rope(checkpoint, source)
    main_export(source, output=out, task="text-generation-with-past", device="cpu", do_validation=False)
    os.makedirs(f"{out}/onnx", exist_ok=True)
    for name in os.listdir(out):
        if name.startswith("model.onnx"):
            shutil.move(f"{out}/{name}", f"{out}/onnx/{name}")
    shutil.rmtree(source)


def builder(checkpoint, out, precision, tokenizer, *options):
    # The builder loads a tokenizer; the tiny checkpoints have none.
    source = f"{out}-source"
    shutil.copytree(checkpoint, source, dirs_exist_ok=True)
    for name in TOKENIZER_FILES:
        if os.path.exists(f"{tokenizer}/{name}") and not os.path.exists(f"{source}/{name}"):
            shutil.copyfile(f"{tokenizer}/{name}", f"{source}/{name}")
    os.system(f"chmod -R u+w {source}")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", out]
    command += ["-p", precision, "-e", "cpu", "-c", f"{out}-cache"]
    command += ["--extra_options", *options] if options else []
    # Its newest versions need a newer transformers than optimum, which may be in a folder of its own.
    paths = os.environ.get("BUILDER_PYTHONPATH", "")
    subprocess.run(command, check=True, env={**os.environ, **({"PYTHONPATH": paths} if paths else {})})
    shutil.copyfile(f"{checkpoint}/config.json", f"{out}/config.json")
    shutil.rmtree(source)
    shutil.rmtree(f"{out}-cache", ignore_errors=True)


def quantised(path):
    """Writes the other dtypes beside a float32 graph, as the scripts of transformers.js do."""
    def dynamic(suffix, weight_type, per_channel):
        quantize_dynamic(
            path,
            path.replace("model.onnx", f"model_{suffix}.onnx"),
            weight_type=weight_type,
            per_channel=per_channel,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )

    def n_bits(name, **options):
        quantizer = MatMulNBitsQuantizer(model=onnx.load(path), **options)
        quantizer.process()
        return onnx.save(quantizer.model.model, path.replace("model.onnx", f"model_{name}.onnx"))

    def half(source, name):
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
        onnx.save(model, path.replace("model.onnx", f"model_{name}.onnx"))

    def bnb4():
        quantizer = MatMulBnb4Quantizer(model=onnx.load(path), block_size=64, quant_type=1)
        quantizer.process()
        onnx.save(quantizer.model.model, path.replace("model.onnx", "model_bnb4.onnx"))

    attempt("q8", lambda: dynamic("quantized", QuantType.QInt8, False))
    attempt("int8", lambda: dynamic("int8", QuantType.QInt8, True))
    attempt("uint8", lambda: dynamic("uint8", QuantType.QUInt8, False))
    attempt("q4", lambda: n_bits("q4", block_size=32, is_symmetric=True))
    attempt("q4 asymmetric", lambda: n_bits("q4_asymmetric", block_size=32, is_symmetric=False))
    attempt("q4 of 64", lambda: n_bits("q4_block64", block_size=64, is_symmetric=False, accuracy_level=4))
    attempt("q4 with gather", lambda: n_bits("q4_gather", block_size=32, is_symmetric=True, op_types_to_quantize=("MatMul", "Gather")))
    attempt("q4 qdq", lambda: n_bits("q4_qdq", block_size=32, is_symmetric=True, quant_format=QuantFormat.QDQ))
    attempt("bits 8", lambda: n_bits("b8", bits=8, block_size=32, is_symmetric=False))
    attempt("fp16", lambda: half(path, "fp16"))
    attempt("q4f16", lambda: half(path.replace("model.onnx", "model_q4.onnx"), "q4f16"))
    attempt("bnb4", bnb4)


def main(checkpoint, out, tokenizer):
    os.makedirs(out, exist_ok=True)
    attempt("optimum", lambda: optimum(checkpoint, f"{out}/optimum"))
    quantised(f"{out}/optimum/onnx/model.onnx")
    for precision in ["fp32", "fp16", "int4"]:
        folder = f"{out}/builder-{precision}"
        attempt(folder, lambda: builder(checkpoint, folder, precision, tokenizer))
    folder = f"{out}/builder-int4-qdq"
    attempt(folder, lambda: builder(checkpoint, folder, "int4", tokenizer, "use_qdq=true"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else sys.argv[1])
