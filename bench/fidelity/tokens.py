"""Reads a JSON list of texts from standard input and writes their token ids, without special tokens."""

import json
import sys

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.load(sys.stdin)
json.dump([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], sys.stdout)
