"""Makes a tiny model in the layouts of Qwen3-Embedding and Qwen3-Reranker, with the numbers of
sentence-transformers (embeddings) and of transformers, computed as Qwen's model card does (scores).

Run by hand, in an environment with torch (CPU), transformers and sentence-transformers:

    python tools/pooling/make-fixtures.py test/fixtures/pooling

`embedding` is a whole folder. `reranker` has the same weights, which are stored once.
"""

import argparse
import json
import shutil
from pathlib import Path

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
# Jinja drops a line break behind a block, and the last one of a template.
PAIR_TEMPLATE = (
    PREFIX + "<Instruct>: "
    "{% for message in messages if message.role == 'system' %}{{ message.content }}{% else %}" + INSTRUCTION + "{% endfor %}{{ '\\n' }}"
    "{% for message in messages if message.role == 'query' %}<Query>: {{ message.content }}{{ '\\n' }}{% endfor %}"
    "{% for message in messages if message.role == 'document' %}<Document>: {{ message.content }}{% endfor %}"
    + SUFFIX.rstrip("\n") + "{{ '\\n\\n' }}"
)
TEXTS = [
    "",
    "ship",
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other: 9.81 m/s².",
    "Größe, naïve, 北京, 😀 and\n\na second paragraph.",
    "<|im_end|> is a spelling of a control token",
    " ".join(f"word {i} of a long text" for i in range(60)),
]
QUERIES = ["What is the capital of China?", "Explain gravity"]
DOCUMENTS = [TEXTS[3], TEXTS[4], "yes", "Nobody knows what a no means, or 🐍.", TEXTS[7][:400]]


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[]
    )
    corpus = [*TEXTS, *QUERIES, *DOCUMENTS, PAIR_TEMPLATE, *["yes no"] * 40, *["no yes"] * 40, "yes", "no"] * 20
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["<think>", "</think>"])
    end = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"$A {end[0]}", pair=f"$A {end[0]} $B {end[0]}", special_tokens=[end]),
    ])
    return tokenizer


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_text(folder, tokenizer):
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
        additional_special_tokens=SPECIAL[1:],
    ).save_pretrained(folder)


def make_model(vocab_size, end):
    torch.manual_seed(11)
    config = Qwen3Config(
        vocab_size=vocab_size, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=end, bos_token_id=end, architectures=["Qwen3ForCausalLM"],
    )
    model = Qwen3Model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise if "embed" in name else 1.5 * noise / parameter.shape[-1] ** 0.5)
    return model.to(torch.bfloat16)


def transformer_module(kind):
    path = f"sentence_transformers.{'base' if kind else 'sentence_transformer'}.modules.transformer.Transformer"
    return {"idx": 0, "name": "0", "path": "", "type": path if kind else "sentence_transformers.models.Transformer"}


def make_embedding(folder, tokenizer):
    end = tokenizer.token_to_id("<|endoftext|>")
    model = make_model(tokenizer.get_vocab_size(), end)
    model.save_pretrained(folder)
    # The published checkpoint names its class as a language model.
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "architectures": ["Qwen3ForCausalLM"]})
    save_text(folder, tokenizer)
    write(folder / "modules.json", [
        transformer_module(None),
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])
    write(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False, "pooling_mode_lasttoken": True, "include_prompt": True,
    })
    write(folder / "config_sentence_transformers.json", {
        "prompts": {"query": f"Instruct: {INSTRUCTION}\nQuery:", "document": ""},
        "default_prompt_name": None, "similarity_fn_name": "cosine",
    })
    st = SentenceTransformer(str(folder), device="cpu", model_kwargs=dict(dtype=torch.float32))
    hf = st.tokenizer
    cases = [
        {"input": text, "input_ids": hf(prompt + text)["input_ids"], **({"prompt": name} if name else {}),
         "embedding": [round(float(x), 7) for x in st.encode([text], **({"prompt_name": name} if name else {}))[0]]}
        for name, prompt in (("", ""), ("query", f"Instruct: {INSTRUCTION}\nQuery:"))
        for text in (TEXTS if not name else QUERIES)
    ]
    return cases


def make_reranker(folder, embedding, tokenizer):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedding / name, folder)
    save_text(folder, tokenizer)
    write(folder / "chat_template.jinja", PAIR_TEMPLATE)
    write(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_LogitScore",
         "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"},
    ])
    write(folder / "sentence_bert_config.json", {
        "transformer_task": "text-generation",
        "modality_config": {"message": {"method": "forward", "method_output_name": "logits", "format": "flat"}},
        "module_output_name": "causal_logits",
    })
    ids = [tokenizer.token_to_id(word) for word in ("yes", "no")]
    assert None not in ids
    write(folder / "1_LogitScore" / "config.json", {"true_token_id": ids[0], "false_token_id": ids[1]})
    write(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "prompts": {}})
    return ids


def reference_scores(folder, ids, tokenizer):
    """Computes scores as Qwen's model card does, with transformers alone."""
    from transformers import Qwen3ForCausalLM
    from safetensors.torch import load_file

    config = Qwen3Config.from_pretrained(folder)
    model = Qwen3ForCausalLM(config).float().eval()
    weights = {f"model.{name}": value.float() for name, value in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    cases = []
    for query in QUERIES:
        for instruction in (None, "Find texts in the same language"):
            scores, tokens = [], []
            for document in DOCUMENTS:
                body = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
                parts = [tokenizer.encode(part, add_special_tokens=False).ids for part in (PREFIX, body, SUFFIX)]
                joined = sum(parts, [])
                with torch.no_grad():
                    logits = model(torch.tensor([joined])).logits[0, -1][ids]
                scores.append(round(float(torch.softmax(logits, 0)[0]), 7))
                tokens.append(len(joined))
            case = {"query": query, "documents": DOCUMENTS, "scores": scores, "tokens": tokens}
            cases.append({**case, "instruction": instruction} if instruction else case)
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    tokenizer = make_tokenizer()
    embedding, reranker = out / "embedding", out / "reranker"
    embeddings = make_embedding(embedding, tokenizer)
    ids = make_reranker(reranker, embedding, tokenizer)
    rankings = reference_scores(reranker, ids, tokenizer)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (reranker / name).unlink()
    source = (
        f"PyTorch {torch.__version__}, transformers {transformers.__version__}, "
        f"sentence-transformers {sentence_transformers.__version__}, float32"
    )
    write(out / "golden.json", json.dumps({"source": source, "embeddings": embeddings, "rankings": rankings}, ensure_ascii=False) + "\n")


main()
