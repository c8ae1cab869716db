#!/usr/bin/env python3
"""Checks libgatehouse-cuda.so: code for sm_80, code for sm_90a and PTX, the same kernels in each, and nothing that it needs or shows beyond
what it says. Prints TAP. Usage: check_cubin.py LIBRARY

Reads ELF and NVIDIA's fat binary itself, since cuobjdump is not in every toolkit. The fat binary is not documented; what is read here was seen in
what nvcc 13 writes with --no-compress: modules (magic, header size, size), in each entries (kind, header size, size, architecture, flags).
"""
import os
import pathlib
import re
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tap  # noqa: E402

MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
ACCELERATED = 1 << 20  # the "a" of sm_90a
COMPRESSED = 0x2000 | 0x8000
MAY_NEED = re.compile(r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so|ld-linux")
MAY_SHOW = {"gatehouse_engine_plugin", "gpu_set_watchdog"}


def name_at(data, at):
    return data[at:data.index(b"\0", at)].decode()


def sections(elf):
    """[(name, type, bytes, link)] of a 64-bit little-endian ELF file."""
    tap.equal(elf[:6], b"\x7fELF\x02\x01", "ELF header")
    first, = struct.unpack_from("<Q", elf, 0x28)
    each, n, names = struct.unpack_from("<HHH", elf, 0x3A)
    raw = [struct.unpack_from("<IIQQQQIIQQ", elf, first + i * each) for i in range(n)]
    return [(name_at(elf, raw[names][4] + s[0]), s[1], elf[s[4]:s[4] + s[5]] if s[1] != 8 else b"", s[6]) for s in raw]


def section(elf, wanted):
    found = [data for name, _, data, _ in sections(elf) if name == wanted]
    tap.check(found, f"no section {wanted}")
    return found[0]


def entries(fat):
    """(module, kind, architecture as nvcc calls it, payload) of each entry."""
    at = module = 0
    while at + 16 <= len(fat):
        magic, _, header, size = struct.unpack_from("<IHHQ", fat, at)
        if magic != MAGIC:  # between modules
            tap.equal(fat[at:at + 8], bytes(8), "padding")
            at += 8
            continue
        entry, end = at + header, at + header + size
        tap.check(end <= len(fat), "a module past the section's end")
        while entry < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", fat, entry)
            arch, = struct.unpack_from("<I", fat, entry + 28)
            flags, = struct.unpack_from("<Q", fat, entry + 40)
            tap.check(header >= 64 and entry + header + size <= end, "an entry past its module's end")
            tap.check(not flags & COMPRESSED, "compressed code: it is built with --no-compress")
            yield module, kind, f"{arch}{'a' if flags & ACCELERATED else ''}", fat[entry + header:entry + header + size]
            entry += header + size
        at = end
        module += 1


def kernels(kind, payload):
    if kind == PTX:
        return set(re.findall(r"\.entry\s+(\w+)", payload.decode(errors="replace")))
    return {name[6:] for name, _, data, _ in sections(payload) if name.startswith(".text.") and data}


def by_target(library):
    """{(kind, architecture): kernels}; the runtime's own module, which has none of ours, is left out."""
    found, modules = {}, {}
    for module, kind, arch, payload in entries(section(library, ".nv_fatbin")):
        modules.setdefault(module, []).append((kind, arch, payload))
        if kind == CUBIN:  # the entry's word against the code's own
            flags, = struct.unpack_from("<I", payload, 48)
            tap.equal(f"{flags >> 8 & 0xFF}", arch.rstrip("a"), "architecture in a cubin's header")
    for parts in modules.values():
        if {arch for _, arch, _ in parts} == {"75"}:
            continue
        for kind, arch, payload in parts:
            found.setdefault((kind, arch), set()).update(kernels(kind, payload))
    return found


@tap.case
def test_targets__sm_80_sm_90a_and_ptx(library):
    found = by_target(library)
    tap.equal(set(found), {(CUBIN, "80"), (CUBIN, "90a"), (PTX, "90")}, "targets")
    tap.note(", ".join(f"{'PTX' if kind == PTX else 'sm'} {arch}: {len(names)} kernels" for (kind, arch), names in sorted(found.items())))


@tap.case
def test_targets__each_has_every_kernel(library):
    found = by_target(library)
    names = found.get((CUBIN, "80"), set())
    tap.check(len(names) >= 10, f"only {len(names)} kernels")
    for target, others in found.items():
        tap.equal(sorted(others ^ names), [], f"kernels of {target} that sm_80 has not, or the other way round")
    for part in ("embed", "rms_norm", "place", "silu", "attend", "sample"):
        tap.check(any(part in name for name in names), f"no kernel of {part}")


@tap.case
def test_library__needs_no_cuda_library(library):
    strings = section(library, ".dynstr")
    dynamic = section(library, ".dynamic")
    needed = [name_at(strings, value) for tag, value in struct.iter_unpack("<qQ", dynamic[:len(dynamic) // 16 * 16]) if tag == 1]
    tap.check(needed, "it needs nothing at all?")
    tap.equal([n for n in needed if not MAY_NEED.match(n)], [], "needed")


@tap.case
def test_library__shows_its_interface_alone(library):
    strings = section(library, ".dynstr")
    shown = set()
    for name, info, _, index, _, _ in struct.iter_unpack("<IBBHQQ", section(library, ".dynsym")):
        if index != 0 and info >> 4 in (1, 2):
            shown.add(name_at(strings, name))
    tap.equal(shown, MAY_SHOW, "symbols")


if __name__ == "__main__":
    path = sys.argv.pop(1) if len(sys.argv) > 1 else str(tap.BUILD / "engine/cuda/libgatehouse-cuda.so")
    if not os.path.exists(path):
        print("1..1\nok 1 - check_cubin # SKIP nvcc was not found, so that there is no libgatehouse-cuda.so")
        sys.exit(0)
    sys.exit(tap.run(pathlib.Path(path).read_bytes()))
