#!/usr/bin/python3
"""A gatehouse-sso that says what a test wants: a token is the reply, in base64url. Logs each request as a line of JSON.

"{"log": PATH}" of the configure request names the log; a reply's "delay_ms" is waited for, "die" ends the process.
"""
import base64
import json
import os
import socket
import struct
import threading
import time

sock = socket.socket(fileno=3)
lock = threading.Lock()
log = None


def exactly(n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def send(number, reply):
    body = json.dumps(reply).encode()
    try:
        with lock:
            sock.sendall(struct.pack("<IQ", 8 + len(body), number) + body)
    except OSError:
        os._exit(0)


def answer(number, request):
    token = request["token"]
    try:
        reply = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        reply = {"ok": False, "code": "refused", "check": "jwt.form", "detail": "no token of this test"}
    if not isinstance(reply, dict):
        send(number, reply)
        return
    if reply.pop("die", False):
        os._exit(1)
    if reply.pop("echo_binding", False):  # bound to a certificate or a key: only who proves it gets in
        if not request.get("client_cert_sha256") and not request.get("dpop"):
            reply = {"ok": False, "code": "refused", "check": "bearer.mtls", "detail": "bound"}
    time.sleep(reply.pop("delay_ms", 0) / 1000)
    send(number, reply)


while True:
    size, number = struct.unpack("<IQ", exactly(12))
    request = json.loads(exactly(size - 8))
    if request["op"] == "configure":
        log = open(request["log"], "a", buffering=1)
        send(number, {"ok": True, "providers": []})
        continue
    log.write(json.dumps(request) + "\n")
    threading.Thread(target=answer, args=(number, request), daemon=True).start()
