#!/usr/bin/env python3
"""`./dev gpu`: is the engine right on this machine's GPU, and how far is it from the card's limits?

usage: gpu.py BUILD [part...] [--refmodels DIR] [--json FILE] [--plugin FILE] [--emulated] [--layers N]

Parts (all by default, within eight minutes): ceilings, ops, models, determinism, bench. Each has a time box: what passes it is ended and
reported, and the rest goes on. Correctness parts decide the exit status; a part that cannot run is skipped, with the reason. The last
output is one table; the same goes to a JSON file. --emulated checks ops, models and determinism on the emulator, without a GPU.
"""
import argparse
import datetime
import glob
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BOXES = {"ceilings": 60, "ops": 100, "models": 60, "determinism": 45, "bench": 210}  # seconds; together under eight minutes
CORRECTNESS = ("ops", "models", "determinism")
# Llama-3.1-8B: weights that a decoded token reads (blocks and head), multiply-adds of a prefilled one. engines.md, section 3.
PARAMETERS = 6.979e9 + 0.525e9
FLOP_PREFILL = 2 * 6.979e9
BITS = {"bf16": 16, "q8_0": 8.5, "q4_k_m": 4.93}


class Gpu:
    def __init__(self, args):
        self.args = args
        self.build = pathlib.Path(args.build).resolve()
        name = "libgatehouse-cuda-emulated.so" if args.emulated else "libgatehouse-cuda.so"
        self.plugin = pathlib.Path(args.plugin or self.build / "engine/cuda" / name)
        self.rows, self.results, self.ceilings = [], {}, {}
        self.failed = False
        self.deadline = None  # of the part that runs
        self.env = dict(os.environ, GH_SOURCE_ROOT=str(ROOT), GH_BUILD_ROOT=str(self.build), GH_TEST_PLUGIN=str(self.plugin))
        if args.refmodels:
            self.env["GH_REFMODELS"] = str(pathlib.Path(args.refmodels).resolve())

    # ---- running ----

    def run(self, command, seconds):
        """(exit status, output); the status is None when the time box ended it."""
        if self.deadline is not None:
            seconds = min(seconds, self.deadline - time.monotonic())
            if seconds <= 0:
                return None, "the time box of this part is used up"
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", env=self.env, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                output, _ = process.communicate(timeout=5)
            except subprocess.TimeoutExpired as e:  # a driver that hangs holds its process even then: it must not hold this one
                output = (e.stdout or b"").decode(errors="replace")
            return None, output
        except BaseException:  # an interrupt reaches this process alone: the child is in a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output

    def tool(self, name):
        return shutil.which(name) or next(iter(glob.glob(f"/usr/local/cuda/bin/{name}")), None)

    def row(self, part, what, figure, of="", verdict=""):
        self.rows.append((part, what, figure, of, verdict))
        self.results.setdefault(part, []).append({"what": what, "figure": figure, "of": of, "verdict": verdict})
        if verdict == "FAILED":
            self.failed = self.failed or part in CORRECTNESS
        print(f"  {part}: {what}: {figure} {of} {verdict}".rstrip(), flush=True)

    def skip(self, part, why):
        self.row(part, why, "", "", "skipped")

    def tap(self, part, what, command, seconds):
        """A test program: counts the cases that it was asked for."""
        status, output = self.run(command, seconds)
        cases = [c for c in re.findall(r"^(ok|not ok) \d+ - (\S+)(.*)$", output, re.M) if "not asked for" not in c[2]]
        bad = [c[1] for c in cases if c[0] == "not ok"]
        skipped = [c[1] for c in cases if "# SKIP" in c[2]]
        good = len(cases) - len(bad) - len(skipped)
        for line in re.findall(r"^# (.*max .*)$", output, re.M):
            print(f"    {line}")
        if status is None:
            self.row(part, what, f"{good} passed", f"ended after {seconds:.0f} s", "FAILED")
        elif status == 0 and skipped and not bad and good == 0:
            self.skip(part, f"{what}: {re.search('# SKIP (.*)', output)[1]}")
        elif bad or good == 0 or status != 0:
            print("\n".join("    " + line for line in output.splitlines()[-15:]))
            self.row(part, what, f"{good} passed, {len(bad)} failed", ", ".join(bad[:3]), "FAILED")
        else:
            self.row(part, what, f"{good} passed", f"{len(skipped)} skipped" if skipped else "", "ok")

    # ---- parts ----

    def part_ceilings(self, box):
        nvcc = self.tool("nvcc")
        if nvcc is None:
            return self.skip("ceilings", "no nvcc (looked in PATH and /usr/local/cuda/bin)")
        program = self.build / "ceilings"
        status, output = self.run([nvcc, "-O3", "-std=c++17", "-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a",
                                   "-gencode", "arch=compute_90,code=compute_90", "-cudart", "static", HERE / "ceilings.cu", "-o", program, "-ldl"], box)
        if status != 0:
            return self.row("ceilings", "build", "", output.strip().splitlines()[-1][:100] if output.strip() else "", "FAILED")
        wheels = [f for pattern in ("nvidia/cublas/lib", "nvidia/cu13/lib", "nvidia/cu12/lib")
                  for p in sys.path for f in glob.glob(f"{p}/{pattern}/libcublasLt.so*")]
        status, output = self.run([program] + (["--cublaslt", wheels[0]] if wheels else []), box)
        try:
            self.ceilings = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return self.skip("ceilings", output.strip().splitlines()[-1][:120] if output.strip() else "nothing was said")
        for key, what, unit, scale in (("copy_bytes_s", "device copy", "GB/s", 1e9), ("read_bytes_s", "device read", "GB/s", 1e9),
                                       ("bf16_flop_s", "BF16 product", "TFLOP/s", 1e12), ("fp8_flop_s", "FP8 product", "TFLOP/s", 1e12),
                                       ("h2d_bytes_s", "host to device", "GB/s", 1e9), ("d2h_bytes_s", "device to host", "GB/s", 1e9)):
            value = self.ceilings.get(key)
            self.row("ceilings", what, f"{value / scale:.1f} {unit}" if value else "none")
        for key, what in (("launch_s", "launch"), ("graph_launch_s", "launch in a graph")):
            if self.ceilings.get(key):
                self.row("ceilings", what, f"{self.ceilings[key] * 1e6:.2f} us")

    def part_ops(self, box):
        ops = self.build / "tests/gpu/gpu_ops"
        seed = str(int(time.time()) % 1000000)
        size = ["--small", "--rounds", "1"] if self.args.emulated else ["--rounds", "4"]
        status, output = self.run([ops, self.plugin, "--seed", seed] + size, box * 0.6)
        last = output.strip().splitlines()[-1].removeprefix("# ") if output.strip() else ""
        if status == 3:
            return self.skip("ops", last[:120])
        if status != 0:
            print("\n".join("    " + line for line in output.splitlines()[-12:]))
        self.row("ops", "against the CPU oracle", last[:60], "" if status is not None else f"ended after {box * 0.6:.0f} s", "ok" if status == 0 else "FAILED")
        tool = self.tool("compute-sanitizer")
        for check in () if self.args.emulated else ("memcheck", "racecheck"):
            if tool is None:
                self.skip("ops", f"{check}: compute-sanitizer is not there")
                continue
            status, output = self.run([tool, "--tool", check, "--error-exitcode", "9", ops, self.plugin, "--seed", seed, "--small", "--rounds", "1"], box * 0.2)
            errors = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$", output, re.M)
            if status is None:
                # It tells what it found at its end: without that, nothing was shown.
                self.skip("ops", f"{check}: not finished in {box * 0.2:.0f} s")
            else:
                self.row("ops", check, errors[-1] if errors else output.strip().splitlines()[-1][:80], "", "ok" if status == 0 else "FAILED")

    def part_models(self, box):
        test = self.build / "tests/unit/engine/cuda/test_cuda_model"
        self.tap("models", "logits and greedy tokens of nine families and variants", [test, "logits_and_greedy"], box * 0.4)
        self.tap("models", "every quantization", [test, "every_quantization"], box * 0.3)
        if not self.args.emulated:
            self.tap("models", "the engine's own tests on the device", [self.build / "tests/unit/engine/test_engine"], box * 0.3)

    def part_determinism(self, box):
        test = self.build / "tests/unit/engine/cuda/test_cuda_model"
        self.tap("determinism", "a prompt in pieces, bitwise", [test, "however_the_prompt_is_cut"], box / 2)
        self.tap("determinism", "requests in batches of 1 and 7 (64 on a device)" if self.args.emulated else "requests in batches of 1, 7 and 64", [test, "in_batches"], box / 2)
        self.skip("determinism", "with and without a prefix hit: the engine has no prefix cache yet")

    def rates(self, output):
        """The best of the repeats, as `pp512 123.4 t/s  tg64 12.3 t/s`."""
        found = re.findall(r"pp\d+ ([\d.]+) t/s\s+tg\d+ ([\d.]+) t/s", output)
        return (max(float(a) for a, _ in found), max(float(b) for _, b in found)) if found else (None, None)

    def part_bench(self, box):
        began = time.monotonic()
        left = lambda: box - 50 - (time.monotonic() - began)  # the rest is for transformers
        program = self.build / "engine/gatehouse-model"
        with tempfile.TemporaryDirectory(prefix="gatehouse-gpu-") as folder:
            for kind in ("q4_k_m", "q8_0", "bf16"):
                model = pathlib.Path(folder) / f"{kind}.gguf"
                layers = ["--layers", str(self.args.layers)] if self.args.layers else []
                if left() < 30:
                    self.skip("bench", f"{kind}: the time box is used up")
                    continue
                status, output = self.run([sys.executable, HERE / "make_model.py", "--type", kind, "--out", model] + layers, left())
                if status != 0:
                    self.skip("bench", f"{kind}: no model: {output.strip().splitlines()[-1][:90] if output.strip() else status}")
                    continue
                self.bench_model(kind, model, program, left)
                model.unlink()
            self.bench_transformers(left() + 50)

    def bench_model(self, kind, model, program, left):
        read = self.ceilings.get("copy_bytes_s")
        flop = self.ceilings.get("bf16_flop_s")
        share = (self.args.layers or 32) / 32
        bytes_per_token = (6.979e9 * share + 0.525e9) * BITS[kind] / 8
        base = [program, "bench", model, "--device", "cuda", "--plugin", self.plugin]
        for batch in (1, 8, 64):
            status, output = self.run(base + ["--pp", "128", "--tg", "32", "--repeat", "2", "--sequences", str(batch)], max(3, left()))
            rate = self.rates(output)[1]
            if rate is None:
                self.row("bench", f"{kind} decode, batch {batch}", "", output.strip().splitlines()[-1][:90] if output.strip() else "ended", "FAILED")
                continue
            opened = re.search(r"opened in ([\d.]+) s", output)
            if batch == 1 and opened:
                self.row("bench", f"{kind} cold start", f"{opened[1]} s", self.of_the_bus(model.stat().st_size / float(opened[1])))
            of = f"{rate / batch * bytes_per_token / read * 100:.0f} % of the copy bandwidth" if read else ""
            self.row("bench", f"{kind} decode, batch {batch}", f"{rate:.1f} t/s", of)
        for prompt in (512, 2048):
            status, output = self.run(base + ["--pp", str(prompt), "--tg", "1", "--repeat", "3"], max(3, left()))
            rate = self.rates(output)[0]
            if rate is None:
                self.row("bench", f"{kind} prefill {prompt}", "", output.strip().splitlines()[-1][:90] if output.strip() else "ended", "FAILED")
                continue
            of = f"{rate * FLOP_PREFILL * share / flop * 100:.0f} % of the BF16 product" if flop else ""
            self.row("bench", f"{kind} prefill {prompt}", f"{rate:.0f} t/s", of)
            self.row("bench", f"{kind} time to first token, {prompt}", f"{prompt / rate * 1e3:.1f} ms")

    def of_the_bus(self, rate):
        """From the start to ready: the driver's start, reading, rearranging, copying."""
        bus = self.ceilings.get("h2d_bytes_s")
        return f"{rate / 1e9:.1f} GB/s of file" + (f", {rate / bus * 100:.0f} % of host to device" if bus else "")

    def bench_transformers(self, seconds):
        layers = ["--layers", str(self.args.layers)] if self.args.layers else []
        status, output = self.run([sys.executable, HERE / "transformers_bench.py", "--seconds", str(int(seconds - 10))] + layers, seconds)
        try:
            figures = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return self.skip("bench", f"transformers: {output.strip().splitlines()[-1][:90] if output.strip() else 'nothing was said'}")
        for key, what in (("decode_1", "decode, batch 1"), ("decode_8", "decode, batch 8"), ("decode_64", "decode, batch 64"), ("prefill_512", "prefill 512"),
                          ("prefill_2048", "prefill 2048")):
            if figures.get(key):
                self.row("bench", f"transformers bf16 {what}", f"{figures[key]:.1f} t/s")

    # ---- the whole ----

    def report(self):
        widths = [max(len(str(r[i])) for r in self.rows) for i in range(4)] if self.rows else [0] * 4
        device = self.ceilings.get("name") or ("the emulator" if self.args.emulated else self.device())
        commit = self.first_line(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"])
        print(f"\n{device}, {datetime.date.today()}, commit {commit or 'unknown'}\n")
        for part, what, figure, of, verdict in self.rows:
            print(f"{part:<{widths[0]}}  {what:<{widths[1]}}  {figure:>{widths[2]}}  {of:<{widths[3]}}  {verdict}".rstrip())
        count = lambda verdict: sum(r[4] == verdict for r in self.rows)
        print(f"\n{count('ok')} passed, {count('FAILED')} failed, {count('skipped')} skipped")
        path = pathlib.Path(self.args.json or self.build / "gpu.json")
        path.write_text(json.dumps({"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": platform.node(),
                                    "device": device, "versions": self.versions(), "commit": commit, "ceilings": self.ceilings, "parts": self.results}, indent=1) + "\n")
        print(f"{path}")

    def first_line(self, command):
        """What a program says that may not be there."""
        try:
            status, output = self.run(command, 30)
        except OSError:
            return ""
        return output.strip().splitlines()[0] if status == 0 and output.strip() else ""

    def versions(self):
        found = {"python": platform.python_version(), "driver": self.first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])}
        nvcc = self.tool("nvcc")
        if nvcc:
            status, output = self.run([nvcc, "--version"], 30)
            release = re.search(r"release (\S+?),", output)
            found["nvcc"] = release[1] if status == 0 and release else ""
        for name in ("torch", "transformers"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = ""
        return found

    def device(self):
        _, output = self.run([self.build / "engine/gatehouse-model", "fit", "--plugin", self.plugin], 30)
        line = re.search(r"^cuda.*$", output, re.M)
        return line[0] if line else "no device"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(BOXES))
    parser.add_argument("--refmodels", help="folder of the reference models, as prepare.sh lays it out")
    parser.add_argument("--json", help="where the figures go (BUILD/gpu.json)")
    parser.add_argument("--plugin", help="another plug-in than the build's")
    parser.add_argument("--emulated", action="store_true", help="correctness parts on the emulator")
    parser.add_argument("--layers", type=int, help="bench: a model of fewer layers, for a small card")
    args = parser.parse_args()
    unknown = [p for p in args.parts if p not in BOXES]
    if unknown:
        parser.error(f"no part {unknown[0]}: there are {', '.join(BOXES)}")
    if args.refmodels and not os.path.isdir(args.refmodels):
        parser.error(f"--refmodels: no folder {args.refmodels}")
    gpu = Gpu(args)
    if not gpu.plugin.exists():
        sys.exit(f"{gpu.plugin} is not there: it is built where nvcc is found (CUDA 12.8 or later)")
    for part in args.parts or (CORRECTNESS if args.emulated else BOXES):
        print(f"{part} ...", flush=True)
        began = time.monotonic()
        box = BOXES[part] * (3 if args.emulated else 1)
        gpu.deadline = began + box
        try:
            getattr(gpu, f"part_{part}")(box)
        except Exception as e:  # a part that breaks must not take the others with it
            gpu.row(part, f"broke: {e}"[:100], "", "", "FAILED")
        gpu.deadline = None
        print(f"  {time.monotonic() - began:.0f} s")
    gpu.report()
    return 1 if gpu.failed else 0


if __name__ == "__main__":
    sys.exit(main())
