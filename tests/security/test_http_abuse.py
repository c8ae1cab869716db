#!/usr/bin/env python3
"""Abuse of HTTP/1.1, HTTP/2 and TLS against echo_server, one loop thread.

For each attack: the memory of the server stays under BOUND_MB above idle (VmHWM, reset before each attack), a good client on another
connection is served all the while, and the abuser is cut. The program under test is built without sanitizers, so that its memory is
its own. Python's standard library alone; prints TAP.
"""
import json, os, select, socket, ssl, struct, subprocess, sys, tempfile, threading, time

BOUND_MB = 64
GOOD_LATENCY_MAX_S = 2.0  # the machine may be busy with other tests; a held loop shows as far more
LIMITS = {
    "requests_per_second": 200, "request_timeout_ms": 2000, "write_timeout_ms": 2000, "handshake_timeout_ms": 2000,
    "connections_per_address": 250, "body_bytes_max": 8 << 20, "connection_body_bytes_max": 16 << 20,
    "response_queue_max": 1 << 20, "buffers_total_max": 24 << 20,
}
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
GET = bytes([0x82, 0x87, 0x04, 5]) + b"/echo" + bytes([0x41, 1]) + b"x"
POST = bytes([0x83, 0x87, 0x04, 5]) + b"/echo" + bytes([0x41, 1]) + b"x"


def get(path):
    return bytes([0x82, 0x87, 0x04, len(path)]) + path + bytes([0x41, 1]) + b"x"


def literal(name, value):
    """A header field, never indexed, not Huffman-coded; both shorter than 127 bytes."""
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Server:
    def __init__(self, program):
        self.dir = tempfile.mkdtemp(prefix="gh-abuse-")
        cert, key = self.dir + "/cert.pem", self.dir + "/key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                        "-out", cert, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
        os.chmod(key, 0o600)
        args = [program, "threads=1", "cert=" + cert, "key=" + key] + ["%s=%d" % item for item in LIMITS.items()]
        self.stderr = open(self.dir + "/stderr", "w+")
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        words = self.process.stdout.readline().split()
        if not words or words[0] != "ready":
            raise RuntimeError("echo_server did not start")
        self.tls_port, self.plain_port = int(words[1]), int(words[2])

    def memory_kb(self, name):
        with open("/proc/%d/status" % self.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith(name))

    def reset_peak(self):
        with open("/proc/%d/clear_refs" % self.process.pid, "w") as f:
            f.write("5")

    def stats(self):
        with plain_connect(self, "127.0.0.3") as s:
            s.sendall(b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return json.loads(read_all(s).split(b"\r\n\r\n", 1)[1])

    def stop(self):
        self.process.terminate()
        code = self.process.wait(timeout=15)
        self.stderr.seek(0)
        text = self.stderr.read()
        self.stderr.close()
        for name in os.listdir(self.dir):
            os.unlink(self.dir + "/" + name)
        os.rmdir(self.dir)
        return code, text


def plain_connect(server, source="127.0.0.1", port=None):
    return socket.create_connection(("127.0.0.1", port or server.plain_port), timeout=10, source_address=(source, 0))


def tls_connect(server, protocol="h2", source="127.0.0.1", rcvbuf=None):
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    raw = socket.socket()
    if rcvbuf:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    raw.settimeout(10)
    raw.bind((source, 0))
    raw.connect(("127.0.0.1", server.tls_port))
    return context.wrap_socket(raw)


def h2_connect(server, settings=b"", source="127.0.0.1", rcvbuf=None):
    s = tls_connect(server, "h2", source, rcvbuf)
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
    return s


def read_all(s):
    data = b""
    try:
        while True:
            got = s.recv(65536)
            if not got:
                return data
            data += got
    except OSError:
        return data


def wait_until(holds, timeout=8):
    """Whether it came to hold in time."""
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_cut(s, timeout):
    """True when the peer ends the connection within the time."""
    s.settimeout(timeout)
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            if not s.recv(65536):
                return True
    except (socket.timeout, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return False


def duplex(s, pieces, enough=lambda data: False, timeout=5):
    """Sends the pieces as fast as the peer takes them and reads what it says: one thread, since a TLS socket is for one. Returns
    (cut, data): cut when the peer ends the connection, within the time after the last byte is sent."""
    s.setblocking(False)
    data, pending, pieces = b"", memoryview(b""), iter(pieces)
    end = None
    while end is None or time.monotonic() < end:
        try:
            while True:
                got = s.recv(65536)
                if not got:
                    return True, data
                data = data[-65536:] + got
                if enough(got):
                    return False, data
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError:
            return True, data
        try:
            if not pending:
                pending = memoryview(next(pieces, b""))
            if pending:
                pending = pending[s.send(pending):]
                continue
            end = end or time.monotonic() + timeout
            select.select([s], [], [], 0.1)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            select.select([s], [s], [], 0.1)
        except OSError:
            return True, data
    return False, data


def send_until_cut(s, pieces):
    return duplex(s, pieces)[0]


class GoodClient(threading.Thread):
    """Asks for /echo, again and again, over HTTP/1.1 on one kept TLS connection, and over a fresh HTTP/2 one."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.ended, self.asked, self.worst, self.error = server, threading.Event(), 0, 0.0, None

    def run(self):
        try:
            kept = tls_connect(self.server, "http/1.1", "127.0.0.2")
            while not self.ended.is_set():
                began = time.monotonic()
                kept.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\ngood")
                data = b""
                while not data.endswith(b"good"):
                    got = kept.recv(4096)
                    if not got:
                        raise RuntimeError("the good client was cut: %r" % data)
                    data += got
                if self.asked % 10 == 0:
                    self.fresh()
                self.worst = max(self.worst, time.monotonic() - began)
                self.asked += 1
                self.ended.wait(0.02)
        except Exception as e:  # noqa: BLE001 - whatever it is, the client was not served
            self.error = repr(e)

    def fresh(self):
        with h2_connect(self.server, source="127.0.0.2") as s:
            s.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET))
            data = b""
            while b"ok\n" not in data:
                got = s.recv(4096)
                if not got:
                    raise RuntimeError("the good client got no answer")
                data += got


# ---- attacks: each returns None, or what went wrong ----

def rapid_reset(server):
    before = server.stats()
    pairs = 100000
    blob, sid = [], 1
    for _ in range(pairs // 500):
        chunk = b""
        for _ in range(500):
            chunk += frame(HEADERS, END_STREAM | END_HEADERS, sid, GET) + frame(RST, 0, sid, struct.pack(">I", 8))
            sid += 2
        blob.append(chunk)
    if not send_until_cut(h2_connect(server), blob):
        return "not cut"
    after = server.stats()
    reached = after["requests"] - before["requests"]
    if reached > 2000:
        return "%d requests reached the handler" % reached
    return None if after["cut_rate"] > before["cut_rate"] else "cut_rate did not count it"


def rapid_reset_of_unfinished(server):
    """Without END_STREAM nothing reaches a handler, so that only the frames can be counted."""
    chunks, sid = [], 1
    for _ in range(100):
        chunk = b""
        for _ in range(500):
            chunk += frame(HEADERS, END_HEADERS, sid, POST) + frame(RST, 0, sid, struct.pack(">I", 8))
            sid += 2
        chunks.append(chunk)
    return None if send_until_cut(h2_connect(server), chunks) else "not cut"


def made_you_reset(server):
    """CVE-2025-8671: the server is made to reset its own streams (WINDOW_UPDATE of zero)."""
    before = server.stats()
    chunks, sid = [], 1
    for _ in range(100):
        chunk = b""
        for _ in range(500):
            chunk += frame(HEADERS, END_STREAM | END_HEADERS, sid, get(b"/slow?ms=60000")) + frame(WINDOW, 0, sid, struct.pack(">I", 0))
            sid += 2
        chunks.append(chunk)
    if not send_until_cut(h2_connect(server), chunks):
        return "not cut"
    if not wait_until(lambda: server.stats()["running"] == 0):
        return "%d handlers still run" % server.stats()["running"]
    after = server.stats()
    return None if after["requests"] - before["requests"] < 2000 else "too many requests reached the handler"


def header_block(sid, block):
    out = frame(HEADERS, END_STREAM, sid, block[:16384])
    at = 16384
    while at < len(block):
        out += frame(CONTINUATION, END_HEADERS if at + 16384 >= len(block) else 0, sid, block[at:at + 16384])
        at += 16384
    return out


def header_bomb(server):
    """400,000 one-byte indexed headers in one request."""
    before = server.stats()
    for _ in range(10):
        if not send_until_cut(h2_connect(server), [header_block(1, GET + b"\x90" * 400000)]):
            return "not cut"
    after = server.stats()
    return None if after["cut_headers"] >= before["cut_headers"] + 10 else "cut_headers did not count it"


def header_bomb_below_the_block_cap(server):
    """As many as pass the cap of the encoded block (120,000): decoded, they are refused first thing in the handler."""
    before = server.stats()
    for _ in range(10):
        if not send_until_cut(h2_connect(server), [header_block(1, GET + b"\x90" * 120000)]):
            return "not cut"
    return None if server.stats()["cut_headers"] >= before["cut_headers"] + 10 else "cut_headers did not count it"


def header_value_bomb(server):
    """A 4,000-byte value put into the table once and then named 100,000 times: 400 MB of headers if they were written out."""
    literal = b"\x40\x01x\x7f" + bytes([(4000 - 127) % 128 + 128, (4000 - 127) // 128]) + b"v" * 4000
    for _ in range(5):
        if not send_until_cut(h2_connect(server), [header_block(1, GET + literal + b"\xbe" * 100000)]):
            return "not cut"
    return None


def continuation_flood(server):
    """CVE-2024-27316: a header block that never ends; once in large frames, once in empty ones."""
    before = server.stats()
    for payload in (b"\x90" * 1024, b""):
        s = h2_connect(server)
        flood = [frame(HEADERS, END_STREAM, 1, GET)] + [frame(CONTINUATION, 0, 1, payload) * 50] * 2000
        if not send_until_cut(s, flood):
            return "not cut (%d-byte frames)" % len(payload)
    return None if server.stats()["cut_headers"] >= before["cut_headers"] + 2 else "cut_headers did not count it"


def unfinished_bodies(server):
    before = server.stats()
    piece = b"z" * 16384
    def flood():
        yield b"".join(frame(HEADERS, END_HEADERS, 2 * i + 1, POST) for i in range(100))
        for i in range(100):
            for _ in range(256):
                yield frame(DATA, 0, 2 * i + 1, piece)
    if not send_until_cut(h2_connect(server), flood()):
        return "not cut"
    return None if server.stats()["cut_body"] > before["cut_body"] else "cut_body did not count it"


def bodies_of_many_connections(server):
    """Each within its own limits, together far beyond what the process may hold: 60 times 7 MB, over HTTP/1.1 and HTTP/2."""
    before = server.stats()
    piece = b"z" * 16384

    def hoard(i):
        try:
            if i % 2:
                s = plain_connect(server, "127.0.0.%d" % (20 + i))
                s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
                for _ in range(430):
                    s.sendall(piece)
            else:
                s = h2_connect(server, source="127.0.0.%d" % (20 + i))
                s.sendall(frame(HEADERS, END_HEADERS, 1, POST))
                for _ in range(430):
                    s.sendall(frame(DATA, 0, 1, piece))
            is_cut(s, 3)
        except OSError:
            pass

    threads = [threading.Thread(target=hoard, args=(i,), daemon=True) for i in range(60)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    return None if server.stats()["cut_body"] >= before["cut_body"] + 20 else "cut_body did not count them"


def small_frames_flood(server):
    kinds = {
        "PING": frame(PING, 0, 0, b"12345678"), "SETTINGS": frame(SETTINGS, 0, 0, b"\x00\x04\x00\x01\x00\x00"),
        "PRIORITY": frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 1)), "RST_STREAM of closed streams": frame(RST, 0, 1, struct.pack(">I", 8)),
        "empty DATA": frame(DATA, 0, 3, b""), "unknown kind": frame(0x2a, 0, 0, b"abc"), "WINDOW_UPDATE": frame(WINDOW, 0, 3, struct.pack(">I", 1)),
    }
    for name, one in kinds.items():
        s = h2_connect(server)
        s.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET) + frame(HEADERS, END_HEADERS, 3, POST))
        if not send_until_cut(s, [one * 1000] * 200):
            return "not cut: " + name
    return None


def slow_bodies(server):
    """One byte at a time, for ever, over HTTP/2, HTTP/1.1 and TLS, and chunked."""
    before = server.stats()
    s2 = h2_connect(server)
    s2.sendall(frame(HEADERS, END_HEADERS, 1, POST))
    s1 = plain_connect(server)
    s1.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    st = tls_connect(server, "http/1.1")
    st.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n")
    open_ones = {"HTTP/2": (s2, frame(DATA, 0, 1, b"x")), "HTTP/1.1": (s1, b"x"), "TLS": (st, b"x")}
    end = time.monotonic() + 5
    while open_ones and time.monotonic() < end:
        for name, (s, byte) in list(open_ones.items()):
            try:
                s.sendall(byte)
                s.settimeout(0.01)
                while s.recv(4096):
                    pass
                del open_ones[name]
            except (socket.timeout, ssl.SSLWantReadError):
                s.settimeout(5)
            except OSError:
                del open_ones[name]
        time.sleep(0.2)
    if open_ones:
        return "not cut: " + ", ".join(open_ones)
    return None if server.stats()["cut_slow"] >= before["cut_slow"] + 3 else "cut_slow did not count them"


def slow_headers(server):
    """Slowloris: 200 connections that send a header line now and then, half of them in TLS; and handshakes that never begin."""
    before = server.stats()
    slow = []
    for i in range(100):
        s = plain_connect(server)
        s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n")
        slow.append(s)
    for i in range(50):
        s = tls_connect(server, "http/1.1")
        s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n")
        slow.append(s)
    for i in range(50):
        slow.append(plain_connect(server, port=server.tls_port))
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        for s in slow[:150]:
            try:
                s.sendall(b"X-A: b\r\n")
            except OSError:
                pass
        time.sleep(0.4)
    left = [i for i, s in enumerate(slow) if not is_cut(s, 0.5)]
    if left:
        return "%d of 200 not cut" % len(left)
    return None if server.stats()["cut_slow"] >= before["cut_slow"] + 200 else "cut_slow did not count them"


def readers_that_stop(server):
    """Clients that ask for endless answers and take nothing: a zero window, and a full socket. The handler writes while it may."""
    before = server.stats()
    socks = []
    for i in range(30):
        s = h2_connect(server, b"\x00\x04\x00\x00\x00\x00", rcvbuf=4096)  # initial window 0
        s.sendall(b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, get(b"/stream?n=99999&ms=1&size=500")) for n in range(4)))
        socks.append(s)
    for i in range(30):
        s = tls_connect(server, "http/1.1", rcvbuf=4096)
        s.sendall(b"GET /stream?n=99999&ms=1&size=2000 HTTP/1.1\r\nHost: x\r\n\r\n")
        socks.append(s)
    wait_until(lambda: server.stats()["running"] == 0)
    after = server.stats()
    for s in socks:
        s.close()
    if after["running"] != 0:
        return "%d handlers still run" % after["running"]
    # The HTTP/2 ones are cut by the server. The others fill the response queue first and are given up by the handler, or are cut.
    if after["cut_stalled"] < before["cut_stalled"] + 30 or after["closed"] < before["closed"] + 150:
        return "cut_stalled %d of 30, %d of 150 handlers ended" % (after["cut_stalled"] - before["cut_stalled"],
                                                                   after["closed"] - before["closed"])
    return None


def connection_flood(server):
    before = server.stats()
    socks = []
    for _ in range(600):
        s = socket.socket()
        s.settimeout(2)
        s.bind(("127.0.0.9", 0))
        try:
            s.connect(("127.0.0.1", server.plain_port))
        except OSError:
            pass
        socks.append(s)
    expected = 600 - LIMITS["connections_per_address"]
    wait_until(lambda: server.stats()["refused_address"] - before["refused_address"] >= expected)
    refused = server.stats()["refused_address"] - before["refused_address"]
    with plain_connect(server, "127.0.0.4") as s:  # a neighbour is not harmed
        s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        neighbour = read_all(s)
    for s in socks:
        s.close()
    if refused != expected:
        return "%d of 600 refused" % refused
    if not neighbour.endswith(b"ok\n"):
        return "another address was not served"
    def let_in():  # again, when the server has seen that the others are closed
        with plain_connect(server, "127.0.0.9") as s:
            try:
                s.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            except OSError:
                return False
            return read_all(s).endswith(b"ok\n")

    return None if wait_until(let_in) else "the address stays locked out"


def http1_requests_flood(server):
    s = plain_connect(server)
    if not send_until_cut(s, [b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" * 100] * 50):
        return "not cut"
    return None


def continuation_after_goaway(server):
    """libh2o loops for ever over a CONTINUATION that comes in a half-closed connection; our drain must not bring it there. Its own
    server, which is drained while a header block is open."""
    other = Server(server.program)
    try:
        s = h2_connect(other)
        s.sendall(frame(HEADERS, END_STREAM, 1, GET))
        time.sleep(0.2)
        other.process.terminate()
        for _ in range(20):
            time.sleep(0.1)
            try:
                s.sendall(frame(CONTINUATION, 0, 1, b"\x90"))
            except OSError:
                break
        try:
            other.process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            other.process.kill()
            return "the server hangs"
        return None if other.process.returncode == 0 else "it ended with %d" % other.process.returncode
    finally:
        other.stop()


def unclean_http2_requests(server):
    """Each is answered by 400, a reset or the connection's end; never by the handler."""
    base = bytes([0x82, 0x87, 0x41, 1]) + b"x"  # GET, https, authority
    path = bytes([0x04, 5]) + b"/echo"
    unclean = {
        "no path": base, "relative path": base + bytes([0x04, 4]) + b"echo", "empty path": base + bytes([0x04, 0]),
        "asterisk": base + bytes([0x04, 1]) + b"*", "absolute URL": base + bytes([0x04, 13]) + b"https://x/ech",
        "CR LF in the path": base + bytes([0x04, 9]) + b"/ec\r\nX: y", "NUL in the path": base + bytes([0x04, 6]) + b"/ech\0o",
        "CR LF in a value": base + path + literal(b"x-a", b"b\r\nx-c: d"), "NUL in a value": base + path + literal(b"x-a", b"b\0c"),
        "upper-case name": base + path + literal(b"X-A", b"b"), "space in a name": base + path + literal(b"x a", b"b"),
        "colon in a name": base + path + literal(b"x:a", b"b"), "pseudo-header at the end": base + literal(b"x-a", b"b") + path,
        "unknown pseudo-header": base + path + literal(b":other", b"b"), "connection header": base + path + literal(b"connection", b"close"),
        "transfer-encoding": base + path + literal(b"transfer-encoding", b"chunked"), "method with a space": bytes([0x02, 5]) + b"GET /"
        + base[1:] + path, "two paths": base + path + path,
    }
    problems = []
    for name, block in unclean.items():
        with h2_connect(server) as s:
            s.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
            _, data = duplex(s, [], lambda got: b"ok\n" in got or b"error" in got, 0.5)
            if b"ok\n" in data:
                problems.append(name)
    with h2_connect(server) as s:  # the twin
        s.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, base + path + literal(b"x-a", b"b")))
        if b"ok\n" not in duplex(s, [], lambda got: b"ok\n" in got)[1]:
            problems.append("a clean request was refused")
    return ", ".join(problems) or None


ATTACKS = [unclean_http2_requests, rapid_reset, rapid_reset_of_unfinished, made_you_reset, header_bomb, header_bomb_below_the_block_cap, header_value_bomb,
           continuation_flood, unfinished_bodies, bodies_of_many_connections, small_frames_flood, slow_bodies, slow_headers, readers_that_stop, connection_flood,
           http1_requests_flood, continuation_after_goaway]


def good_twin(server):
    """What is allowed passes: many streams, a body of several MB over HTTP/2, cookies in parts, unknown frames and priorities."""
    with h2_connect(server) as s:
        body = b"z" * (6 << 20)
        out = frame(0x10, 0, 0, b"\0\0\0\1u=1") + frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 10))
        out += frame(HEADERS, END_HEADERS, 1, POST)
        for at in range(0, len(body), 16384):
            out += frame(DATA, END_STREAM if at + 16384 >= len(body) else 0, 1, body[at:at + 16384])
        out += frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30)) + frame(WINDOW, 0, 1, struct.pack(">I", 1 << 30))
        got = 0

        def count(data):
            nonlocal got
            got += len(data)
            return got >= len(body)

        cut, _ = duplex(s, [out], count)
        if cut or got < len(body):
            return "%d bytes of %d came back" % (got, len(body))
    with h2_connect(server) as s:
        s.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, get(b"/cookie") + literal(b"cookie", b"a=1") + literal(b"cookie", b"b=2")))
        if b"a=1; b=2" not in duplex(s, [], lambda data: b"a=1; b=2" in data)[1]:
            return "the cookies were not joined"
    with h2_connect(server) as s:
        s.sendall(b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, GET) for i in range(64)))
        data = b""
        while data.count(b"ok\n") < 64:
            got = s.recv(65536)
            if not got:
                return "64 requests at once were cut"
            data += got
    return None


def run(server, attack):
    time.sleep(0.2)
    idle_kb = server.idle_kb  # of the fresh server: what an earlier attack left behind counts, too
    server.reset_peak()
    good = GoodClient(server)
    good.start()
    began = time.monotonic()
    try:
        problem = attack(server)
    except Exception as e:  # noqa: BLE001
        problem = "the test broke: %r" % e
    took = time.monotonic() - began
    patience = time.monotonic() + 5
    while good.asked < 3 and not good.error and time.monotonic() < patience:  # some attacks end at once
        time.sleep(0.05)
    good.ended.set()
    good.join(10)
    grown_mb = (server.memory_kb("VmHWM") - idle_kb) / 1024.0
    print("# %s: %.1f s, peak memory +%.1f MB, good client %d requests, slowest %.0f ms" % (
        attack.__name__, took, grown_mb, good.asked, good.worst * 1000))
    if problem is None and server.process.poll() is not None:
        problem = "the server died"
    if problem is None and grown_mb > BOUND_MB:
        problem = "memory grew by %.1f MB" % grown_mb
    if problem is None and (good.error or good.asked < 3 or good.is_alive()):
        problem = "the good client was not served: %s" % good.error
    if problem is None and good.worst > GOOD_LATENCY_MAX_S:
        problem = "the good client waited %.1f s" % good.worst
    return problem


def main():
    root = os.environ.get("GH_BUILD_ROOT", "build")
    program = next((p for p in (root + "/tests/tools/echo_server_plain", root + "/tests/tools/echo_server") if os.path.exists(p)), None)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = [good_twin] + ATTACKS
    print("1..%d" % (len(cases) + 1), flush=True)
    server = Server(program)
    server.program = program
    server.stats()
    server.idle_kb = server.memory_kb("VmRSS")
    print("# idle: %.1f MB" % (server.idle_kb / 1024.0))
    failed = 0
    for i, attack in enumerate(cases, 1):
        if wanted and wanted not in attack.__name__:
            print("ok %d - %s # SKIP not asked for" % (i, attack.__name__), flush=True)
            continue
        problem = run(server, attack)
        failed += problem is not None
        if problem:
            print("# " + problem)
        print("%s %d - %s" % ("not ok" if problem else "ok", i, attack.__name__), flush=True)
    code, text = server.stop()
    if code != 0 or text:
        failed += 1
        print("# exit %d, stderr: %s" % (code, text[:500]))
    print("%s %d - ends_clean_and_silent" % ("not ok" if code != 0 or text else "ok", len(cases) + 1))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
