#!/usr/bin/env python3
"""Random HTTP/2 frames and HTTP/1.1 requests, cut off anywhere, against the echo_server of this build (with its sanitizers, if any):
it must not crash, leak, keep a handler running, or write to stderr. Seconds by the first argument (6), seed by the second (1)."""
import os, random, ssl, struct, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_http_abuse as abuse
from test_http_abuse import (CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, POST, PRIORITY, RST, SETTINGS, WINDOW,
                             frame, get, literal)

PATHS = [b"/echo", b"/slow?ms=20", b"/stream?n=20&ms=2&size=3000", b"/abort", b"/flood", b"/cookie", b"/nope", b"/slow?ms=900"]
SMALL = dict(body_bytes_max=100000, connection_body_bytes_max=300000, buffers_total_max=1000000, requests_per_second=400,
             request_timeout_ms=700, write_timeout_ms=700, handshake_timeout_ms=700)


def glance(r, s):
    """Reads a little, sometimes."""
    if r.random() < 0.2:
        s.settimeout(0.005)
        try:
            s.recv(100000)
        except OSError:
            pass
        s.settimeout(5)


def http1(r, server):
    s = abuse.tls_connect(server, "http/1.1") if r.random() < 0.5 else abuse.plain_connect(server)
    for _ in range(r.randint(1, 6)):
        path = r.choice(PATHS)
        if r.random() < 0.5:
            s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            n = r.choice([0, 10, 5000, 99999, 100001, 1500000])
            s.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + r.choice([b"", b"Expect: 100-continue\r\n"]) +
                      b"Content-Length: %d\r\n\r\n" % n + b"y" * r.choice([n, n // 2]))
        glance(r, s)
    return s


def random_headers(r, sid):
    flags = r.choice([END_HEADERS, END_HEADERS | END_STREAM, END_HEADERS | END_STREAM]) if r.random() < 0.95 else 0
    block = get(r.choice(PATHS)) if r.random() < 0.6 else POST
    if r.random() < 0.3:
        block += literal(b"content-length", r.choice([b"5", b"200000"]))
    return frame(HEADERS, flags, sid, block)


def random_frame(r, sid):
    """One frame; sid is the next stream to open."""
    known, k = r.randrange(1, sid + 2, 2), r.random()
    if k < 0.46:
        return frame(DATA, r.choice([0, 0, 0, END_STREAM]), known, b"z" * r.choice([0, 1, 5, 1000, 16384, 16384]))
    if k < 0.62:
        return frame(RST, 0, known, struct.pack(">I", 8))
    if k < 0.77:
        return frame(WINDOW, 0, r.choice([0, known]), struct.pack(">I", r.choice([0, 1, 100, 100000, 0x7fffffff])))
    if k < 0.85:
        return frame(PRIORITY, 0, r.randrange(1, sid + 6, 2), struct.pack(">IB", r.randrange(sid + 4), r.randrange(256)))
    if k < 0.90:
        return frame(SETTINGS, r.choice([0, 1]), 0, r.choice([b"", b"\0\4\0\1\0\0", b"\0\4\0\0\0\0"]))
    if k < 0.93:
        return frame(PING, 0, 0, b"12345678")
    if k < 0.96:
        return frame(r.randrange(10, 256), r.randrange(256), r.randrange(10), b"q" * r.randrange(50))
    if k < 0.98:
        return frame(CONTINUATION, r.choice([0, END_HEADERS]), max(sid - 2, 1), b"\x90" * r.randrange(10))
    return bytes(r.randrange(256) for _ in range(20))


def http2(r, server):
    s = abuse.h2_connect(server, r.choice([b"", b"\0\4\0\0\0\0", b"\0\4\0\0\0\x10", b"\0\4\0\1\0\0"]))
    sid = 1
    for _ in range(r.randint(1, 80)):
        if r.random() < 0.35:
            s.sendall(random_headers(r, sid))
            sid += 2
        else:
            s.sendall(random_frame(r, sid))
        glance(r, s)
    return s


def run(server, seconds, r):
    kept, n, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end and server.process.poll() is None:
        try:
            s = http1(r, server) if r.random() < 0.2 else http2(r, server)
            kept.append(s)
            if r.random() < 0.9 or len(kept) > 30:
                kept.pop(r.randrange(len(kept))).close()
        except (OSError, ssl.SSLError):
            pass
        n += 1
    for s in kept:
        s.close()
    return n


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 6
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    os.environ["LSAN_OPTIONS"] = "print_suppressions=0:" + os.environ.get("LSAN_OPTIONS", "")
    abuse.LIMITS.update(SMALL)
    server = abuse.Server(os.environ.get("GH_BUILD_ROOT", "build") + "/tests/tools/echo_server")
    print("1..1")
    n = run(server, seconds, random.Random(seed))
    running = -1
    for _ in range(40):
        if server.process.poll() is not None:
            break
        running = server.stats()["running"]
        if running == 0:
            break
        time.sleep(0.1)
    code, text = server.stop()
    bad = code != 0 or text or running != 0
    print("# %d connections, seed %d, %d handlers left, exit %d" % (n, seed, running, code))
    for line in text.splitlines()[:60]:
        print("# " + line)
    print("%s 1 - random_http_is_survived" % ("not ok" if bad else "ok"))
    return bool(bad)


sys.exit(main())
