#!/usr/bin/env python3
"""How fast Hugging Face transformers runs Llama-3.1-8B's shape on this device: the reference that users know.

Random BF16 weights made on the device, scaled-dot-product attention, greedy choice on the device, a plain loop (no generate(), whose work on
the host would count against it). One JSON object on the last line of standard output; progress on standard error; exit status 3 when
torch, transformers or a device is missing. What did not fit in the time is null.
"""
import argparse
import inspect
import json
import os
import signal
import statistics
import sys
import threading
import time

VOCAB, CONTEXT, ANSWER, WARM = 128256, 128, 32, 4
DECODES, PREFILLS = (1, 8, 64), (512, 2048)
HARD_AFTER = 10  # seconds past the time


class OutOfTime(BaseException):
    """Not an Exception: the libraries catch those and go on."""


def note(text):
    print(f"transformers_bench: {text}", file=sys.stderr, flush=True)


def missing(text):
    note(text)
    sys.exit(3)


def modules():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
    except ImportError as e:
        missing(f"no torch: {e}")
    try:
        import transformers
    except ImportError as e:
        missing(f"no transformers: {e}")
    for name in ("DynamicCache", "LlamaConfig", "LlamaForCausalLM", "StaticCache"):
        if not hasattr(transformers, name):
            missing(f"transformers {transformers.__version__} has no {name}")
    if not torch.cuda.is_available():
        missing("no device: torch.cuda.is_available() is false")
    return torch, transformers


class Bench:
    def __init__(self, torch, transformers, layers):
        self.torch, self.transformers, self.device = torch, transformers, torch.device("cuda", 0)
        self.config = transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
            num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
            bos_token_id=128000, eos_token_id=128001, attn_implementation="sdpa")
        torch.manual_seed(1)
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            self.model = transformers.LlamaForCausalLM(self.config).eval()
        torch.set_default_dtype(torch.float32)
        self.params = sum(p.numel() for p in self.model.parameters())
        wanted = {(torch.bfloat16, "cuda")}
        got = {(p.dtype, p.device.type) for p in self.model.parameters()}
        if got != wanted:
            raise RuntimeError(f"weights are {got}, not {wanted}")
        # Versions differ in who counts the positions.
        self.takes_positions = "cache_position" in inspect.signature(self.model.model.forward).parameters

    def ids(self, batch, n):
        return self.torch.randint(0, VOCAB, (batch, n), device=self.device)

    def cache(self, kind, batch, length):
        if kind == "dynamic":
            return self.transformers.DynamicCache()
        make = self.transformers.StaticCache
        try:
            return make(config=self.config, max_batch_size=batch, max_cache_len=length, device=self.device,
                        dtype=self.torch.bfloat16)
        except TypeError:  # later versions see batch and type when they are used
            return make(config=self.config, max_cache_len=length)

    def step(self, ids, cache, positions):
        """The next token of each row [batch, 1]; only the last position gets logits."""
        extra = {"cache_position": positions} if self.takes_positions else {"position_ids": positions[None]}
        out = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
        return self.model.lm_head(out.last_hidden_state[:, -1:]).argmax(-1)

    def prefill(self, n):
        """Seconds, the median of five."""
        torch, samples = self.torch, []
        ids, positions = self.ids(1, n), torch.arange(n, device=self.device)
        for i in range(-2, 5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            self.step(ids, self.cache("dynamic", 1, n), positions)
            torch.cuda.synchronize()
            if i >= 0:
                samples.append(time.perf_counter() - start)
        return statistics.median(samples)

    def decode(self, batch, kind, step):
        """Seconds of ANSWER tokens after CONTEXT, the better of two."""
        torch, best = self.torch, None
        for _ in range(2):
            cache = self.cache(kind, batch, CONTEXT + WARM + ANSWER + 4)
            positions = torch.arange(CONTEXT, device=self.device)
            token = self.step(self.ids(batch, CONTEXT), cache, positions)
            positions = positions[-1:] + 1
            for i in range(WARM + ANSWER):
                if i == WARM:
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                token = step(token, cache, positions)
                positions = positions + 1
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            best = seconds if best is None else min(best, seconds)
        return best

    def compiled_step(self):
        compiled = self.torch.compile(self.step, mode="reduce-overhead", dynamic=False)

        def step(ids, cache, positions):
            # A recorded graph writes its answer where it wrote the one before.
            self.torch.compiler.cudagraph_mark_step_begin()
            return compiled(ids, cache, positions).clone()
        return step


def attempt(torch, result, key, measure, way=""):
    """measure() gives tokens and seconds; the best of several ways stays. A failure leaves its reason. True: this way is the best."""
    name = f"{key}_{way}" if way else key
    try:
        tokens, seconds = measure()
    except Exception as e:  # whatever a version of these libraries cannot do
        reason = " ".join(str(e).split())[:200]
        result[f"{name}_why"] = f"{type(e).__name__}: {reason}"
        note(f"{name}: {result[f'{name}_why']}")
        torch.cuda.empty_cache()
        return False
    note(f"{name}: {tokens / seconds:.1f} tokens/s")
    if result[key] is not None and tokens / seconds <= result[key]:
        return False
    result[key], result[f"{key}_seconds"] = round(tokens / seconds, 2), round(seconds, 5)
    return True


def decode_best(bench, batch, result):
    key = f"decode_{batch}"
    for kind in ("dynamic", "static"):
        if attempt(bench.torch, result, key, lambda: (batch * ANSWER, bench.decode(batch, kind, bench.step)), kind):
            result[f"{key}_cache"] = kind


def measure_all(torch, transformers, layers, compile_too, result):
    note(f"torch {torch.__version__}, transformers {transformers.__version__}: making {layers} layers")
    bench = Bench(torch, transformers, layers)
    result["params"] = bench.params
    with torch.inference_mode():
        decode_best(bench, 1, result)
        for n in PREFILLS:
            attempt(torch, result, f"prefill_{n}", lambda: (n, bench.prefill(n)))
        for batch in DECODES[1:]:
            decode_best(bench, batch, result)
    if not compile_too:
        return
    with torch.no_grad():  # torch.compile and inference mode do not go together in every version
        for batch in DECODES:
            attempt(torch, result, f"compiled_decode_{batch}",
                    lambda: (batch * ANSWER, bench.decode(batch, "static", bench.compiled_step())))


def on_alarm(_signal, _frame):
    raise OutOfTime()


def main():
    ap = argparse.ArgumentParser(description="Speed of Hugging Face transformers with Llama-3.1-8B's shape, random BF16 weights.")
    ap.add_argument("--layers", type=int, default=32, metavar="N")
    ap.add_argument("--seconds", type=int, default=120, metavar="N", help="time for everything; what did not fit is null")
    ap.add_argument("--compile", action="store_true", help="decoding with torch.compile as well, last")
    a = ap.parse_args()
    if not 1 <= a.layers <= 128 or a.seconds < 1:
        ap.error("--layers must be from 1 to 128, --seconds at least 1")
    result = {f"decode_{n}": None for n in DECODES} | {f"prefill_{n}": None for n in PREFILLS}
    if a.compile:
        result |= {f"compiled_decode_{n}": None for n in DECODES}
    status = 0

    def end():
        print(json.dumps(result), flush=True)
        os._exit(status)  # threads of a compilation that was broken off would hold the process

    def end_hard():
        note("a call did not come back")
        result["out_of_time"] = True
        end()

    # The signal stops what runs in Python; the timer ends the process when a call inside the libraries does not come back.
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, a.seconds)
    timer = threading.Timer(a.seconds + HARD_AFTER, end_hard)
    timer.daemon = True
    timer.start()
    try:
        torch, transformers = modules()
        result |= {"torch": torch.__version__, "transformers": transformers.__version__, "device": torch.cuda.get_device_name(0),
                   "layers": a.layers}
        measure_all(torch, transformers, a.layers, a.compile, result)
    except OutOfTime:
        note(f"{a.seconds} s are over")
        result["out_of_time"] = True
    except Exception as e:
        note(f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        result["error"] = type(e).__name__
        status = 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    timer.cancel()
    end()


if __name__ == "__main__":
    main()
