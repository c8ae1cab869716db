"""A real gatehouse-sso and the gateway's side of its socket, for tests. Standard library only. The messages: gateway/sso/proto.h."""
import itertools
import json
import os
import pathlib
import socket
import struct
import subprocess
import threading

FRAME_MAX = 1 << 20


class PeerGone(Exception):
    """The process closed its socket."""


class SsoPeer:
    """Starts the process; configure() first, then call(). Calls may come from several threads."""

    def __init__(self, program=None, stderr=None):
        build = os.environ.get("GH_BUILD_ROOT", ".")
        self.program = str(program or pathlib.Path(build) / "gateway/sso/gatehouse-sso")
        self.stderr = stderr
        self.process = self.sock = None
        self.ids = itertools.count(1)
        self.replies, self.changed, self.lock = {}, threading.Condition(), threading.Lock()
        self.gone = False

    def start(self):
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()

        def to_fd_3():
            os.dup2(fd, 3, inheritable=True)

        keep = {name: os.environ[name] for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS") if name in os.environ}
        self.process = subprocess.Popen([self.program], preexec_fn=to_fd_3, pass_fds=(3, fd), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.stderr, env=keep)
        theirs.close()
        self.sock = ours
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise PeerGone
            data += more
        return data

    def _read(self):
        try:
            while True:
                size, number = struct.unpack("<IQ", self._exactly(12))
                reply = json.loads(self._exactly(size - 8))
                with self.changed:
                    self.replies[number] = reply
                    self.changed.notify_all()
        except (PeerGone, OSError, ValueError):
            with self.changed:
                self.gone = True
                self.changed.notify_all()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, message):
        number = next(self.ids)
        body = json.dumps(message).encode()
        with self.lock:
            self.sock.sendall(struct.pack("<IQ", len(body) + 8, number) + body)
        return number

    def wait(self, number, timeout=20):
        with self.changed:
            if not self.changed.wait_for(lambda: number in self.replies or self.gone, timeout):
                raise TimeoutError(f"no reply to request {number}")
            if number not in self.replies:
                raise PeerGone
            return self.replies.pop(number)

    def call(self, op, timeout=20, **fields):
        return self.wait(self.send({"op": op, **{k: v for k, v in fields.items() if v is not None}}), timeout)

    def configure(self, providers, timeout=20):
        return self.call("configure", timeout, providers=providers)

    def mutate(self, check="", clock_offset_s=0):
        """Test builds (-Dmutations=true) alone: switches one check off, moves the clock."""
        return self.call("mutate", check=check, clock_offset_s=clock_offset_s)

    def stop(self):
        """The exit status."""
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.sock.close()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
