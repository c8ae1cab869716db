#!/usr/bin/env python3
"""A GGUF model of Llama-3.1-8B's shape with random weights, for measuring: the speed of a model does not depend on what it has learnt.

The weights are about normal with deviation 0.02, norms are 1, so that the logits of any text are finite and ordinary. Standard library only.
A pool of random blocks is made once and written round and round. Its length in blocks shares no factor with the blocks of a row, so that
each time round every row begins at another block: no two rows of a matrix are the same, and the logits have no ties.
The tokenizer is a stand-in: one token per byte and names without meaning.
"""
import argparse
import array
import json
import math
import os
import random
import statistics
import struct
import sys
import time

ALIGN = 32
DEVIATION = 0.02
POOL_BYTES = 32 << 20
VALUES_OF = {"U32": (4, "<I"), "F32": (6, "<f"), "BOOL": (7, "<?"), "I32": (5, "<i")}
STRING, ARRAY = 8, 9
# GGUF's number, values and bytes of a block.
TYPES = {"F32": (0, 1, 4), "BF16": (30, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}
FILE_TYPES = {"bf16": 32, "q8_0": 7, "q4_k_m": 15}
SHAPES = {
    "8b": dict(layers=32, embd=4096, heads=32, kv_heads=8, head=128, ff=14336, vocab=128256, context=8192),
    "tiny": dict(layers=2, embd=256, heads=4, kv_heads=2, head=64, ff=512, vocab=1024, context=8192),
}
ROPE_BASE = 500000.0


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def field(key, kind, value):
    if kind == STRING:
        return text(key) + struct.pack("<I", STRING) + text(value)
    number, fmt = VALUES_OF[kind]
    return text(key) + struct.pack("<I", number) + struct.pack(fmt, value)


def byte_letters():
    """The printable stand-ins of GPT-2's vocabulary for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, n = {}, 0
    for b in range(256):
        if b in plain:
            letters[b] = chr(b)
        else:
            letters[b] = chr(256 + n)
            n += 1
    return [letters[b] for b in range(256)]


def tokenizer_fields(vocab):
    tokens = byte_letters()
    merge = f"{tokens[ord(' ')]} t"
    tokens.append(merge.replace(" ", ""))
    tokens += [f"<unused{i}>" for i in range(len(tokens), vocab - 2)] + ["<|begin_of_text|>", "<|end_of_text|>"]
    kinds = [1] * (vocab - 2) + [3, 3]
    array_of = lambda key, kind, n: text(key) + struct.pack("<IIQ", ARRAY, kind, n)
    return [
        field("tokenizer.ggml.model", STRING, "gpt2"),
        field("tokenizer.ggml.pre", STRING, "llama-bpe"),
        array_of("tokenizer.ggml.tokens", STRING, vocab) + b"".join(map(text, tokens)),
        array_of("tokenizer.ggml.token_type", 5, vocab) + struct.pack(f"<{vocab}i", *kinds),
        array_of("tokenizer.ggml.merges", STRING, 1) + text(merge),
        field("tokenizer.ggml.bos_token_id", "U32", vocab - 2),
        field("tokenizer.ggml.eos_token_id", "U32", vocab - 1),
        field("tokenizer.ggml.add_bos_token", "BOOL", True),
    ]


def metadata(shape, kind):
    s = shape
    return [
        field("general.architecture", STRING, "llama"),
        field("general.name", STRING, "random weights"),
        field("general.file_type", "U32", FILE_TYPES[kind]),
        field("general.quantization_version", "U32", 2),
        field("general.alignment", "U32", ALIGN),
        field("llama.block_count", "U32", s["layers"]),
        field("llama.embedding_length", "U32", s["embd"]),
        field("llama.feed_forward_length", "U32", s["ff"]),
        field("llama.attention.head_count", "U32", s["heads"]),
        field("llama.attention.head_count_kv", "U32", s["kv_heads"]),
        field("llama.attention.key_length", "U32", s["head"]),
        field("llama.attention.value_length", "U32", s["head"]),
        field("llama.rope.dimension_count", "U32", s["head"]),
        field("llama.rope.freq_base", "F32", ROPE_BASE),
        field("llama.context_length", "U32", s["context"]),
        field("llama.vocab_size", "U32", s["vocab"]),
        field("llama.attention.layer_norm_rms_epsilon", "F32", 1e-5),
    ] + tokenizer_fields(s["vocab"])


def gets_more_bits(layer, layers):
    """The half of the layers whose attn_v and ffn_down are Q6_K in Q4_K_M: the first, the last, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def rope_divisors(head):
    """Llama 3.1's table: wavelengths past 8192 are divided by 8, those below a quarter of it kept, those between blended."""
    out = []
    for i in range(head // 2):
        turns = 8192 * ROPE_BASE ** (-2 * i / head) / (2 * math.pi)
        blend = min(max((turns - 1) / 3, 0), 1)
        out.append(1 / (blend + (1 - blend) / 8))
    return out


def tensor_list(shape, kind):
    """(name, type, (rows, cols) or (n,))"""
    s, plain = shape, {"bf16": "BF16", "q8_0": "Q8_0", "q4_k_m": "Q4_K"}[kind]
    better = "Q6_K" if kind == "q4_k_m" else plain
    d, ff, q, kv = s["embd"], s["ff"], s["heads"] * s["head"], s["kv_heads"] * s["head"]
    out = [("token_embd.weight", plain, (s["vocab"], d)), ("output_norm.weight", "F32", (d,)),
           ("output.weight", better, (s["vocab"], d)), ("rope_freqs.weight", "F32", (s["head"] // 2,))]
    for i in range(s["layers"]):
        mixed = better if gets_more_bits(i, s["layers"]) else plain
        out += [(f"blk.{i}.{name}.weight", t, dims) for name, t, dims in (
            ("attn_norm", "F32", (d,)), ("ffn_norm", "F32", (d,)),
            ("attn_q", plain, (q, d)), ("attn_k", plain, (kv, d)), ("attn_v", mixed, (kv, d)), ("attn_output", plain, (d, q)),
            ("ffn_gate", plain, (ff, d)), ("ffn_up", plain, (ff, d)), ("ffn_down", mixed, (d, ff)))]
    return out


def half_table(values):
    """Two tables for bytes.translate: 256 half-precision numbers, their low and their high bytes."""
    raw = struct.pack("<256e", *values)
    return raw[0::2], raw[1::2]


def put_halves(pool, at, block, which, values):
    low, high = half_table(values)
    pool[at::block] = which.translate(low)
    pool[at + 1::block] = which.translate(high)


def spread(mean):
    """256 numbers within an eighth of the mean."""
    return [mean * (0.875 + i / 1024) for i in range(256)]


def pool_bf16(rng, n):
    normal = statistics.NormalDist(0, DEVIATION)
    table = []
    for i in range(65536):
        bits = struct.unpack("<I", struct.pack("<f", normal.inv_cdf((i + 0.5) / 65536)))[0]
        table.append((bits + 0x7fff + (bits >> 16 & 1)) >> 16)
    out = array.array("H", map(table.__getitem__, array.array("H", rng.randbytes(2 * n))))
    return out.tobytes() if sys.byteorder == "little" else out.byteswap() or out.tobytes()


def pool_q8_0(rng, n):
    normal, sigma = statistics.NormalDist(), 48.0
    codes = [max(-127, min(127, round(sigma * normal.inv_cdf((i + 0.5) / 256)))) for i in range(256)]
    pool = bytearray(rng.randbytes(34 * n).translate(bytes(c & 255 for c in codes)))
    rms = math.sqrt(sum(c * c for c in codes) / 256)
    put_halves(pool, 0, 34, rng.randbytes(n), spread(DEVIATION / rms))
    return pool


def pool_q4_k(rng, n):
    """The minimum's code is the scale's and dmin is 7.5 d, so that the nibbles 0 to 15 lie around zero. Codes are 32 to 63."""
    pool = bytearray(rng.randbytes(144 * n))
    which = rng.randbytes(n)
    # A nibble's deviation is sqrt((16^2 - 1) / 12), a code's root mean square 48.4.
    scales = struct.unpack("<256e", struct.pack("<256e", *spread(DEVIATION / (math.sqrt(255 / 12) * 48.4))))
    put_halves(pool, 0, 144, which, scales)
    put_halves(pool, 2, 144, which, [7.5 * d for d in scales])
    upper = bytes(i | 0xa0 for i in range(256))  # bit 5 of this code, and of the one whose upper bits these are
    twice = bytes((i & 15) * 17 for i in range(256))
    for j in range(4):
        pool[4 + j::144] = pool[8 + j::144] = rng.randbytes(n).translate(upper)
        pool[12 + j::144] = rng.randbytes(n).translate(twice)
    return pool


def pool_q6_k(rng, n):
    pool = bytearray(rng.randbytes(210 * n))
    codes = [(8 + i % 16) * (1 if i < 128 else -1) for i in range(256)]
    table = bytes(c & 255 for c in codes)
    for j in range(16):
        pool[192 + j::210] = rng.randbytes(n).translate(table)
    rms = math.sqrt(sum(c * c for c in codes) / 256) * math.sqrt(4095 / 12)
    put_halves(pool, 208, 210, rng.randbytes(n), spread(DEVIATION / rms))
    return pool


POOLS = {"BF16": pool_bf16, "Q8_0": pool_q8_0, "Q4_K": pool_q4_k, "Q6_K": pool_q6_k}


class Source:
    """Blocks of one type, round and round."""

    def __init__(self, kind, rng, need_bytes):
        size = TYPES[kind][2]
        # Rows have 2^a or 7 * 2^a blocks: one more than a multiple of 14336 shares no factor with them.
        n = min(POOL_BYTES, need_bytes) // size // 14336 * 14336 + 1
        if need_bytes <= POOL_BYTES:
            n += 14336
        self.bytes, self.at = memoryview(POOLS[kind](rng, n)), 0

    def write(self, f, n):
        while n > 0:
            take = min(n, len(self.bytes) - self.at)
            f.write(self.bytes[self.at:self.at + take])
            self.at = (self.at + take) % len(self.bytes)
            n -= take


def tensor_bytes(kind, dims):
    _, values, size = TYPES[kind]
    return math.prod(dims) // values * size


def write_model(path, shape, kind, seed):
    rng = random.Random(seed)
    fields, tensors = metadata(shape, kind), tensor_list(shape, kind)
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields))
    offset, needs = 0, {}
    for name, t, dims in tensors:
        # GGUF names the fastest-running dimension first.
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *reversed(dims))
        head += struct.pack("<IQ", TYPES[t][0], offset)
        n = tensor_bytes(t, dims)
        needs[t] = needs.get(t, 0) + n
        offset += n + -n % ALIGN
    head += bytes(-len(head) % ALIGN)
    sources = {t: Source(t, rng, n) for t, n in needs.items() if t != "F32"}
    with open(path, "wb", buffering=1 << 20) as f:
        f.write(head)
        for name, t, dims in tensors:
            n = tensor_bytes(t, dims)
            if t != "F32":
                sources[t].write(f, n)
            elif name == "rope_freqs.weight":
                f.write(struct.pack(f"<{dims[0]}f", *rope_divisors(shape["head"])))
            else:
                f.write(struct.pack("<f", 1.0) * dims[0])
            f.write(bytes(-n % ALIGN))
    return len(head) + offset, sum(math.prod(dims) for _, _, dims in tensors)


def main():
    ap = argparse.ArgumentParser(description="Writes a GGUF model of Llama-3.1-8B's shape with random weights.")
    ap.add_argument("--type", required=True, choices=sorted(FILE_TYPES))
    ap.add_argument("--out", required=True, metavar="FILE")
    ap.add_argument("--shape", default="8b", choices=sorted(SHAPES))
    ap.add_argument("--layers", type=int, metavar="N", help="fewer layers than the shape has (1 to 128)")
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    shape = dict(SHAPES[a.shape])
    if a.layers is not None:
        if not 1 <= a.layers <= 128:
            ap.error("--layers must be from 1 to 128")
        shape["layers"] = a.layers
    start = time.monotonic()
    try:
        size, params = write_model(a.out, shape, a.type, a.seed)
    except OSError as e:
        if os.path.isfile(a.out):
            os.unlink(a.out)
        print(f"make_model: {a.out}: {e.strerror}", file=sys.stderr)
        return 3
    print(json.dumps({"file": a.out, "type": a.type, "shape": a.shape, "layers": shape["layers"], "bytes": size,
                      "params": params, "seconds": round(time.monotonic() - start, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
