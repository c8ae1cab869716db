#!/usr/bin/python3
"""Turns a checkpoint of train.c into a GGUF file.

  export.py CHECKPOINT TOKENIZER.json OUTPUT.gguf
"""
import struct
import sys

import numpy as np

import gguf
import tokenizer

TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|im_start|>assistant\\n' }}{% endif %}")


def main():
    checkpoint, vocabulary, output = sys.argv[1:]
    with open(checkpoint, "rb") as f:
        magic, step, seen, _, epoch, *shape = struct.unpack("<IIQQQ8I", f.read(64))
        vocab, dim, layers, heads, kv_heads, head_dim, ffn, params = shape
        if magic != 0x31444847:
            sys.exit("not a checkpoint of train.c")
        flat = np.frombuffer(f.read(4 * params), "<f4")
    at = 0

    def take(*size):
        nonlocal at
        n = int(np.prod(size))
        at += n
        return flat[at - n:at].reshape(size)

    q, kv = heads * head_dim, kv_heads * head_dim
    tensors = [("token_embd.weight", take(vocab, dim))]
    for i in range(layers):
        # The order is that of the offsets in train.c.
        for name, size in (("attn_norm", (dim,)), ("attn_q", (q, dim)), ("attn_k", (kv, dim)),
                           ("attn_v", (kv, dim)), ("attn_output", (dim, q)), ("ffn_norm", (dim,)),
                           ("ffn_gate", (ffn, dim)), ("ffn_up", (ffn, dim)), ("ffn_down", (dim, ffn))):
            tensors.append(("blk.%d.%s.weight" % (i, name), take(*size)))
    tensors.append(("output_norm.weight", take(dim)))
    assert at == params

    words = tokenizer.load(vocabulary)
    assert len(words.tokens) == vocab
    normal, control = 1, 3
    kinds = [control if t in tokenizer.CONTROL else normal for t in words.tokens]
    end, stop = words.id["<|im_end|>"], words.id["<|endoftext|>"]
    u32, string = gguf.U32, gguf.STRING
    metadata = [
        ("general.architecture", string, "llama"),
        ("general.name", string, "Gatehouse demo"),
        ("general.license", string, "apache-2.0"),
        ("general.file_type", u32, 7),  # mostly Q8_0
        ("general.alignment", u32, gguf.ALIGN),
        ("llama.context_length", u32, 1024),
        ("llama.embedding_length", u32, dim),
        ("llama.block_count", u32, layers),
        ("llama.feed_forward_length", u32, ffn),
        ("llama.attention.head_count", u32, heads),
        ("llama.attention.head_count_kv", u32, kv_heads),
        ("llama.attention.layer_norm_rms_epsilon", gguf.FLOAT, 1e-5),
        ("llama.rope.dimension_count", u32, head_dim),
        ("llama.rope.freq_base", gguf.FLOAT, 10000.0),
        ("llama.vocab_size", u32, vocab),
        ("tokenizer.ggml.model", string, "gpt2"),
        ("tokenizer.ggml.pre", string, "qwen2"),
        ("tokenizer.ggml.tokens", (gguf.ARRAY, string), words.tokens),
        ("tokenizer.ggml.token_type", (gguf.ARRAY, gguf.I32), kinds),
        ("tokenizer.ggml.merges", (gguf.ARRAY, string), [a + " " + b for a, b in words.merges]),
        ("tokenizer.ggml.bos_token_id", u32, stop),
        ("tokenizer.ggml.eos_token_id", u32, end),
        ("tokenizer.ggml.padding_token_id", u32, stop),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, False),
        ("tokenizer.chat_template", string, TEMPLATE),
    ]
    gguf.write(output, metadata, tensors)
    print(output, "from step", step, "after", seen, "tokens, epoch", epoch)


if __name__ == "__main__":
    main()
