"""Makes tiny encoders with random weights and the heads of all classes in one file, with the logits of transformers,
and ONNX files of one of them, as Optimum exports them.

Run by hand, in an environment with torch (CPU), transformers 4.57 and optimum-onnx 0.1:

    python tools/encoders/make-heads.py test/fixtures
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from optimum.exporters.onnx import main_export
from safetensors.torch import save_file

LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
SIZES = dict(vocab_size=66, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SHARED = dict(
    max_position_embeddings=48, pad_token_id=0, id2label=LABELS, label2id={name: id for id, name in LABELS.items()}
)
SMALL = dict(vocab_size=66, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
MODERN = dict(local_attention=8, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)
FAMILIES = {
    "bert": ("Bert", {**SIZES, **SHARED}),
    "roberta": ("Roberta", {**SIZES, **SHARED, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "mpnet": ("MPNet", {**SIZES, **SHARED, "pad_token_id": 1}),
    "distilbert": ("DistilBert", {**SMALL, **SHARED}),
    "modernbert": (
        "ModernBert",
        {**SIZES, **SHARED, **MODERN, "attn_implementation": "eager", "reference_compile": False, "classifier_pooling": "mean"},
    ),
}
HEADS = {
    "classify": ("ForSequenceClassification", "text-classification"),
    "tag": ("ForTokenClassification", "token-classification"),
    "fill": ("ForMaskedLM", "fill-mask"),
}
# Names of tensors that are others, under a second name.
TIED = ("predictions.decoder.weight", "predictions.decoder.bias", "lm_head.decoder.weight", "lm_head.decoder.bias")
TIED_WHOLE = ("vocab_projector.weight", "decoder.weight")
CASES = [
    ([2, 7, 9, 3], [0] * 4),
    ([2] + [5 + (i * 7) % 60 for i in range(20)] + [3], [0] * 22),
    ([2, 4, 10, 3, 11, 12, 60, 3], [0] * 4 + [1] * 4),
]


def make(name: str, fixtures: Path) -> None:
    prefix, fields = FAMILIES[name]
    config = getattr(transformers, f"{prefix}Config")(**fields)
    tensors = {}
    models = {}
    for head, (suffix, _) in HEADS.items():
        model = getattr(transformers, prefix + suffix)(config).eval()
        # Fresh norms and biases are 1 and 0, which hides errors.
        for tensor in model.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.randn(tensor.shape) * 0.15)
        for key, tensor in model.state_dict().items():
            if key in tensors:
                tensor.copy_(tensors[key])
        model.tie_weights()
        for key, tensor in model.state_dict().items():
            tensors.setdefault(key, tensor.clone())
        models[head] = model
    folder = fixtures / "encoders" / f"{name}-heads"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        key: tensor.contiguous()
        for key, tensor in tensors.items()
        if not key.endswith(TIED) and key not in TIED_WHOLE and tensor.dtype == torch.float32
    }
    save_file(kept, folder / "model.safetensors")
    written = json.loads(config.to_json_string())
    for field in ("transformers_version", "dtype", "torch_dtype"):
        written.pop(field, None)
    written["architectures"] = [f"{prefix}ForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True))
    cases = [logits_of(models, ids, segments, name == "bert") for ids, segments in CASES]
    (folder / "golden.json").write_text(json.dumps({"cases": cases}))
    if name == "bert":
        for head, model in models.items():
            export(model, HEADS[head][1], fixtures / "encoders-onnx" / f"bert-{head}.onnx")


def logits_of(models: dict, ids: list, segments: list, has_segments: bool) -> dict:
    inputs = {"input_ids": torch.tensor([ids])}
    if has_segments:
        inputs["token_type_ids"] = torch.tensor([segments])
    with torch.no_grad():
        logits = {head: model(**inputs).logits[0] for head, model in models.items()}
    # Of the vocabulary's logits, those of the second token.
    logits["fill"] = logits["fill"][1]
    rounded = {head: [round(value, 6) for value in own.flatten().tolist()] for head, own in logits.items()}
    return {"input_ids": ids, "segments": segments if has_segments else [0] * len(ids), **rounded}


def export(model: torch.nn.Module, task: str, path: Path) -> None:
    # Exporting draws random numbers, too.
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        model.save_pretrained(folder)
        main_export(folder, f"{folder}/onnx", task=task, do_validation=False)
        shutil.copy(f"{folder}/onnx/model.onnx", path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fixtures", type=Path)
    torch.manual_seed(7)
    for family in FAMILIES:
        make(family, parser.parse_args().fixtures)
