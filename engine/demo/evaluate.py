#!/usr/bin/python3
"""Measures the demo model on questions that are not in its training text.

  evaluate.py MODEL.gguf [--engine PATH] [--file heldout.tsv] [--show] [--ask "QUESTION"]

A line of the file is: topic, question, expected.  `expected` is one string that
the answer must contain, or several separated by " | " of which one must be there;
" & " joins strings that must all be there.  Case does not matter.  "\\n" in a
question is a line break, " >> " separates what the user says one after the other:
then the last answer counts (the decoder below only; an engine has no batch for it).
Topics that start with "do:" are instructions, counted separately: there the whole
answer must be equal, with case.

Without --engine the model runs in the decoder below, which shares nothing with
Gatehouse's engine; with it, PATH answers (`gatehouse-model`, one question per
line in, one answer per line out).  The exit status is 1 under 90 % of the facts.
"""
import argparse
import collections
import os
import subprocess
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np  # noqa: E402 (the thread count must be set first)

import gguf  # noqa: E402
import tokenizer  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
LONGEST = 160


class Decoder:
    """Greedy decoding of a llama-style GGUF with numpy and a key/value cache."""

    def __init__(self, path):
        file = gguf.Reader(path)
        meta, self.t = file.metadata, file.tensors
        self.layers = meta["llama.block_count"]
        self.heads = meta["llama.attention.head_count"]
        self.kv_heads = meta["llama.attention.head_count_kv"]
        self.head_dim = meta["llama.rope.dimension_count"]
        self.eps = meta["llama.attention.layer_norm_rms_epsilon"]
        self.base = meta["llama.rope.freq_base"]
        self.context = meta["llama.context_length"]
        self.words = tokenizer.Tokenizer(m.split(" ") for m in meta["tokenizer.ggml.merges"])
        assert self.words.tokens == meta["tokenizer.ggml.tokens"]
        self.end = meta["tokenizer.ggml.eos_token_id"]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.t[name + ".weight"]

    def rope(self, x, first):
        half = self.head_dim // 2
        angle = np.arange(first, first + len(x))[:, None] * self.base ** (-np.arange(half) / half)
        c, s = np.cos(angle)[:, None].astype("f"), np.sin(angle)[:, None].astype("f")
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
        out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
        return out

    def forward(self, ids, cache):
        x = self.t["token_embd.weight"][ids]
        past, n = len(cache[0][0]), len(ids)
        mask = np.triu(np.full((n, past + n), -np.inf, "f"), past + 1)
        for i in range(self.layers):
            def product(a, name):
                return a @ self.t["blk.%d.%s.weight" % (i, name)].T
            h = self.norm(x, "blk.%d.attn_norm" % i)
            q = self.rope(product(h, "attn_q").reshape(n, self.heads, -1), past)
            k = self.rope(product(h, "attn_k").reshape(n, self.kv_heads, -1), past)
            v = product(h, "attn_v").reshape(n, self.kv_heads, -1)
            cache[i] = k, v = np.concatenate([cache[i][0], k]), np.concatenate([cache[i][1], v])
            group = self.heads // self.kv_heads
            k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
            p = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_dim) + mask
            p = np.exp(p - p.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + product(np.einsum("hqk,khd->qhd", p, v).reshape(n, -1).astype("f"), "attn_output")
            h = self.norm(x, "blk.%d.ffn_norm" % i)
            gate = product(h, "ffn_gate")
            x = x + product(gate / (1 + np.exp(-gate)) * product(h, "ffn_up"), "ffn_down")
        return self.norm(x[-1], "output_norm") @ self.t["token_embd.weight"].T

    def answer(self, messages):
        empty = np.zeros((0, self.kv_heads, self.head_dim), "f")
        cache = [(empty, empty)] * self.layers
        ids, out = self.words.prompt(messages)[-(self.context - LONGEST):], []
        while len(out) < LONGEST:
            best = int(self.forward(ids, cache).argmax())
            if best == self.end:
                break
            out.append(best)
            ids = [best]
        return self.words.decode(out)


def talk(decoder, questions):
    """The answers of one conversation."""
    messages = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": decoder.answer(messages)})
    return [m["content"] for m in messages[1::2]]


def ask_engine(engine, model, questions):
    def escape(s):
        return s.replace("\\", "\\\\").replace("\n", "\\n")

    run = subprocess.run([engine, "chat", model, "--greedy", "--max-tokens", str(LONGEST), "--batch"],
                         input="".join(escape(q) + "\n" for q in questions), text=True,
                         stdout=subprocess.PIPE, check=True)
    answers = run.stdout.splitlines()
    if len(answers) != len(questions):
        sys.exit("the engine gave %d answers to %d questions" % (len(answers), len(questions)))
    return ["\\".join(part.replace("\\n", "\n") for part in a.split("\\\\")) for a in answers]


def right(topic, expected, answer):
    if topic.startswith("do:"):
        return any(answer.strip() == e for e in expected.split(" | "))
    low = answer.lower()
    return any(all(part in low for part in e.lower().split(" & ")) for e in expected.split(" | "))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--engine")
    options.add_argument("--file", default=os.path.join(HERE, "heldout.tsv"))
    options.add_argument("--show", action="store_true", help="print every wrong answer")
    options.add_argument("--ask", action="append", help="ask this instead, several times for one conversation")
    o = options.parse_args()
    if o.ask:
        for question, answer in zip(o.ask, talk(Decoder(o.model), o.ask)):
            print("> " + question + "\n" + answer)
        return 0
    with open(o.file) as f:
        cases = [line.rstrip("\n").replace("\\n", "\n").split("\t") for line in f if line.strip()]
    if o.engine:
        answers = ask_engine(o.engine, o.model, [c[1] for c in cases])
    else:
        decoder = Decoder(o.model)
        answers = [talk(decoder, c[1].split(" >> "))[-1] for c in cases]
    good, all_ = collections.Counter(), collections.Counter()
    for (topic, question, expected), answer in zip(cases, answers):
        ok = right(topic, expected, answer)
        good[topic] += ok
        all_[topic] += 1
        if o.show and not ok:
            print("%s: %s\n    expected %s\n    answered %s" % (topic, question, expected, answer))
    for topic in all_:
        print("%-18s %3d of %3d" % (topic, good[topic], all_[topic]))
    did = [t for t in all_ if t.startswith("do:")]
    facts = [t for t in all_ if not t.startswith("do:")]
    if did:
        x, y = sum(good[t] for t in did), sum(all_[t] for t in did)
        print("instructions: %d of %d (%.1f %%)" % (x, y, 100 * x / y))
    x, y = sum(good[t] for t in facts), sum(all_[t] for t in facts)
    print("facts: %d of %d (%.1f %%)" % (x, y, 100 * x / y))
    return 0 if x >= 0.9 * y else 1


if __name__ == "__main__":
    sys.exit(main())
