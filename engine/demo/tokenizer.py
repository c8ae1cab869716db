#!/usr/bin/python3
"""Byte-level BPE for the demo model: learns merges, encodes, decodes.

The text is cut as GGUF's `tokenizer.ggml.pre = "qwen2"` cuts it, bytes are
written with GPT-2's byte-to-unicode table, and the vocabulary is the 256 bytes,
then the merges in the order they were learned, then the control tokens.

  tokenizer.py train TEXT.jsonl TOKENIZER.json     learn
  tokenizer.py encode TEXT.jsonl TOKENIZER.json OUT_PREFIX   token files for train.c
"""
import collections
import json
import re
import sys
import unicodedata

import numpy as np

VOCAB = 1536
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

SPACE = r" \t\n\x0b\x0c\r"
PIECE = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^" + SPACE +
    r"A-Za-z0-9]+[\r\n]*|[" + SPACE + r"]*[\r\n]+|[" + SPACE + r"]+(?![^" + SPACE + r"])|[" +
    SPACE + r"]+")


def byte_table():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTE = byte_table()
UNBYTE = {c: b for b, c in BYTE.items()}


def shadow(char):
    """An ASCII stand-in of the same class, so that one ASCII pattern cuts any text."""
    if char.isascii():
        return char
    if char in "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= char <= "\u200a":
        return "\t"
    return {"L": "a", "N": "0"}.get(unicodedata.category(char)[0], "!")


def pieces(text):
    plain = text if text.isascii() else "".join(map(shadow, text))
    return [text[m.start():m.end()] for m in PIECE.finditer(plain)]


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.tokens = [BYTE[b] for b in range(256)] + [a + b for a, b in self.merges] + CONTROL
        self.id = {t: i for i, t in enumerate(self.tokens)}
        self.cache = {}

    def encode(self, text):
        out = []
        for piece in pieces(text):
            if piece not in self.cache:
                self.cache[piece] = self.encode_piece(piece)
            out += self.cache[piece]
        return out

    def encode_piece(self, piece):
        parts = [BYTE[b] for b in piece.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1),
                       key=lambda i: self.rank.get((parts[i], parts[i + 1]), 1 << 30))
            if (parts[best], parts[best + 1]) not in self.rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        return [self.id[p] for p in parts]

    def decode(self, ids):
        text = "".join(self.tokens[i] for i in ids if self.tokens[i] not in CONTROL)
        return bytes(UNBYTE[c] for c in text).decode("utf-8", "replace")

    def chat(self, messages):
        """Token ids of a conversation and, for each, whether the assistant says it."""
        start, end = self.id["<|im_start|>"], self.id["<|im_end|>"]
        ids, spoken = [], []
        for m in messages:
            head = [start, *self.encode(m["role"] + "\n")]
            body = [*self.encode(m["content"]), end]
            ids += head + body + self.encode("\n")
            spoken += [0] * len(head) + [int(m["role"] == "assistant")] * len(body) + [0]
        return ids[:-1], spoken[:-1]

    def prompt(self, messages):
        return (self.chat(messages)[0] + self.encode("\n") + [self.id["<|im_start|>"]] +
                self.encode("assistant\n"))


def learn(texts):
    counts = collections.Counter(p for t in texts for p in pieces(t))
    # Random strings for the copying exercises must not use up the vocabulary.
    words = [([BYTE[b] for b in p.encode()], n) for p, n in sorted(counts.items()) if n >= 20]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (parts, n) in enumerate(words):
        for pair in zip(parts, parts[1:]):
            pairs[pair] += n
            where[pair].add(i)
    merges = []
    while len(merges) < VOCAB - 256 - len(CONTROL):
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for i in sorted(where[best]):
            parts, n = words[i]
            for pair in zip(parts, parts[1:]):
                pairs[pair] -= n
                where[pair].discard(i)
            k = 0
            while k < len(parts) - 1:
                if (parts[k], parts[k + 1]) == best:
                    parts[k:k + 2] = [best[0] + best[1]]
                k += 1
            for pair in zip(parts, parts[1:]):
                pairs[pair] += n
                where[pair].add(i)
        del pairs[best]
    return merges


def load(path):
    with open(path) as f:
        return Tokenizer(json.load(f)["merges"])


def conversations(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def main():
    if sys.argv[1] == "train":
        chats = conversations(sys.argv[2])[:60000]
        merges = learn(m["content"] for c in chats for m in c)
        with open(sys.argv[3], "w") as f:
            json.dump({"merges": merges}, f, ensure_ascii=False)
        print(len(merges), "merges")
    elif sys.argv[1] == "encode":
        tokenizer = load(sys.argv[3])
        tokens, spoken, lengths = [], [], []
        for chat in conversations(sys.argv[2]):
            ids, said = tokenizer.chat(chat)
            if len(ids) > 1000:
                continue
            tokens += ids
            spoken += said
            lengths.append(len(ids))
        np.array(tokens, "<u2").tofile(sys.argv[4] + ".tokens")
        np.array(spoken, "u1").tofile(sys.argv[4] + ".spoken")
        np.array(lengths, "<u4").tofile(sys.argv[4] + ".lengths")
        print(len(lengths), "conversations,", len(tokens), "tokens,", max(lengths), "longest")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
