#!/usr/bin/python3
"""A gatehouse-sso that misbehaves, for the gateway's side of the socket. What it does is its own name: silent, garbage, huge, dies, late,
wrong_id, twice. Started as the real one is: the socket is descriptor 3."""
import json
import os
import socket
import struct
import sys
import time

how = os.path.basename(sys.argv[0])
sock = socket.socket(fileno=3)


def exactly(n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def answer(number, message):
    body = json.dumps(message).encode()
    sock.sendall(struct.pack("<IQ", len(body) + 8, number) + body)


while True:
    size, number = struct.unpack("<IQ", exactly(12))
    request = json.loads(exactly(size - 8))
    if request["op"] == "configure":
        answer(number, {"ok": True, "providers": []})
    elif how == "garbage":
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" * 100)
    elif how == "huge":
        sock.sendall(struct.pack("<IQ", 1 << 30, number) + b"x" * 65536)
    elif how == "dies":
        sock.sendall(struct.pack("<IQ", 1000, number) + b'{"ok":')
        os._exit(9)
    elif how == "late":
        time.sleep(0.4)
        answer(number, {"ok": True, "late": request["op"]})
    elif how == "wrong_id":
        answer(number + 1000, {"ok": True})
        answer(number, {"ok": True, "right": True})
    elif how == "twice":
        answer(number, {"ok": True, "n": 1})
        answer(number, {"ok": True, "n": 2})
    elif how != "silent":
        sys.exit("no such way to misbehave: " + how)
