#!/usr/bin/env python3
"""Writes a C file with the files of web/dist as byte arrays (gateway/assets.h). Usage: embed.py DIST OUT.c"""
import hashlib
import pathlib
import sys

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}


def main():
    dist, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    rows, arrays = [], []
    for i, file in enumerate(sorted(p for p in dist.rglob("*") if p.is_file())):
        if file.suffix not in TYPES:
            sys.exit(f"embed.py: {file} has no known content type")
        name = "/" + file.relative_to(dist).as_posix()
        data = file.read_bytes()
        etag = hashlib.sha256(data).hexdigest()[:20]
        body = ",".join(str(b) for b in data)
        arrays.append(f"static const unsigned char file_{i}[] = {{{body}{',' if data else ''}0}};")
        path = "/" if name == "/index.html" else name
        rows.append(f'    {{"{path}", "{TYPES[file.suffix]}", "\\"{etag}\\"", file_{i}, {len(data)}}},')
    if not rows:
        sys.exit(f"embed.py: no files in {dist}: run web/build.sh")
    out.write_text(
        '/* Made by web/embed.py from web/dist. */\n#include "gateway/assets.h"\n\n'
        + "\n".join(arrays)
        + "\n\nconst struct gw_asset gw_assets[] = {\n"
        + "\n".join(rows)
        + f"\n}};\nconst size_t gw_n_assets = {len(rows)};\n"
    )


main()
