#!/usr/bin/env python3
"""The driver of `./dev gpu`: what it says without a GPU, when a part fails, hangs or cannot run. Suite engine."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import gpu  # noqa: E402
import tap  # noqa: E402
from tap import case, check, equal  # noqa: E402

BUILD = pathlib.Path(os.environ.get("GH_BUILD_ROOT", "."))


def command(*args):
    done = subprocess.run([sys.executable, str(HERE / "gpu.py"), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@case
def test_usage():
    status, text = command("--help")
    check(status == 0 and all(part in text for part in gpu.BOXES))
    status, text = command(BUILD, "speed")
    check(status == 2 and "no part speed" in text)
    status, text = command(BUILD, "--plugin", "/nonexistent.so")
    check(status == 1 and "is built where nvcc is found" in text)


@case
def test_emulated__a_part_passes_and_is_written_down():
    with tempfile.TemporaryDirectory() as folder:
        status, text = command(BUILD, "determinism", "--emulated", "--json", f"{folder}/gpu.json")
        figures = json.loads(pathlib.Path(folder, "gpu.json").read_text())
    equal(status, 0, text[-600:])
    check("prefix cache yet" in text and " 0 failed, " in text)
    equal(set(figures), {"date", "machine", "device", "versions", "commit", "ceilings", "parts"})
    check(all(row["verdict"] in ("ok", "skipped") for row in figures["parts"]["determinism"]))


@case
def test_no_device__ops_are_skipped_with_the_reason():
    plugin = BUILD / "tests/unit/engine/cuda/libbad_plugin_version.so"
    with tempfile.TemporaryDirectory() as folder:
        status, text = command(BUILD, "ops", "--plugin", plugin, "--json", f"{folder}/gpu.json")
    check(status == 0 and "skipped" in text and "of version 0.0.0-other" in text, text)


def fresh():
    args = types.SimpleNamespace(build=str(BUILD), plugin=None, emulated=True, refmodels=None, json=None, layers=None)
    return gpu.Gpu(args)


@case
def test_a_part_that_hangs_is_ended():
    g = fresh()
    g.tap("models", "hangs", ["sh", "-c", "echo 'ok 1 - first'; sleep 60"], 0.5)
    equal(g.rows[-1][2:], ("1 passed", "ended after 0 s", "FAILED"))
    check(g.failed)


@case
def test_a_part_that_fails_fails_the_whole__and_its_twin():
    g = fresh()
    g.tap("models", "good", ["sh", "-c", "echo 'ok 1 - a'; echo 'ok 2 - b # SKIP not asked for'"], 5)
    equal((g.rows[-1][2:], g.failed), (("1 passed", "", "ok"), False))
    g.tap("models", "bad", ["sh", "-c", "echo 'ok 1 - a'; echo 'not ok 2 - b'; exit 1"], 5)
    equal((g.rows[-1][2:], g.failed), (("1 passed, 1 failed", "b", "FAILED"), True))
    g = fresh()
    g.tap("models", "dies", ["sh", "-c", "echo 'ok 1 - a'; kill -9 $$"], 5)
    check(g.failed)
    g = fresh()
    g.tap("models", "nothing there", ["sh", "-c", "echo 'ok 1 - a # SKIP no shared reference data'"], 5)
    equal((g.rows[-1][4], g.failed), ("skipped", False))


@case
def test_skipped_cases_of_a_program_that_dies__fail():
    g = fresh()
    g.tap("models", "dies", ["sh", "-c", "echo 'ok 1 - a # SKIP no shared reference data'; kill -9 $$"], 5)
    equal((g.rows[-1][4], g.failed), ("FAILED", True))


@case
def test_a_part_has_one_deadline():
    g = fresh()
    g.deadline = time.monotonic() + 0.5
    began = time.monotonic()
    equal(g.run(["sleep", "60"], 60)[0], None)
    equal(g.run(["echo", "late"], 60), (None, "the time box of this part is used up"))
    check(time.monotonic() - began < 10)
    check(sum(gpu.BOXES.values()) < 480)


def script(folder, name, text):
    path = pathlib.Path(folder, name)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@case
def test_without_tools__skipped_with_the_reason():
    g = fresh()
    g.tool = lambda name: None
    g.args.emulated = False
    g.part_ceilings(5)
    equal((g.rows[-1][4], "no nvcc" in g.rows[-1][1]), ("skipped", True))
    with tempfile.TemporaryDirectory() as folder:
        g.build = pathlib.Path(folder)
        (g.build / "tests/gpu").mkdir(parents=True)
        script(folder, "tests/gpu/gpu_ops", "echo '3 ops checked, 0 failed, seed 1'")
        g.part_ops(5)
        equal([r[4] for r in g.rows[-3:]], ["ok", "skipped", "skipped"])
        check("compute-sanitizer is not there" in g.rows[-1][1] and not g.failed)
        # A check that did not end has shown nothing; one that found something fails.
        slow, bad = script(folder, "slow", "sleep 60"), script(folder, "bad", "echo '========= ERROR SUMMARY: 2 errors'; exit 9")
        g.tool = lambda name: slow
        g.part_ops(2)
        equal([r[4] for r in g.rows[-3:]], ["ok", "skipped", "skipped"])
        check("not finished" in g.rows[-1][1] and not g.failed)
        g.tool = lambda name: bad
        g.part_ops(5)
        equal([r[4] for r in g.rows[-3:]], ["ok", "FAILED", "FAILED"])
        check(g.failed)


@case
def test_the_report_needs_no_git():
    g = fresh()
    equal(g.first_line(["/nonexistent/git", "rev-parse"]), "")
    equal(g.first_line(["false"]), "")


@case
def test_figures_of_bench():
    g = fresh()
    equal(g.rates("CPU\npp512 10.0 t/s  tg64 3.5 t/s  (x)\npp512 12.0 t/s  tg64 3.0 t/s\n"), (12.0, 3.5))
    equal(g.rates("no figures"), (None, None))
    equal(g.of_the_bus(3.2e9), "3.2 GB/s of file")
    g.ceilings["h2d_bytes_s"] = 25.6e9
    equal(g.of_the_bus(3.2e9), "3.2 GB/s of file, 12 % of host to device")


if __name__ == "__main__":
    sys.exit(tap.run())
