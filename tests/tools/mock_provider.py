#!/usr/bin/env python3
"""A mock OpenAI-compatible provider over TLS: for `./dev run --demo-provider` and the tests. Speaks the real wire format.

The model name may carry a fault: "gpt-mock:FAULT". Faults: status-500, status-429, status-401, hang (no byte), stall (half an answer, then
nothing), cut (half an answer, then the connection closes), no-finish (a clean end without finish_reason), error-event, bad-json, html,
redirect, late (7 s before the first byte), split-utf8 (every byte its own write), slow (a word every 300 ms), huge-line, echo (the answer repeats the last user message),
card (the answer holds a card number in pieces), key (it holds a private key).
Every request's JSON body and headers go to the --record file, one line each, with the API key's presence but not its value.
Standard library only.
"""
import argparse
import http.server
import json
import ssl
import sys
import threading
import time

ANSWER = "This is the mock provider. It repeats no secrets and knows nothing, but it streams like a real one: one word at a time."
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    record = None

    def log_message(self, *args):
        pass

    def refuse(self, status, code):
        body = json.dumps({"error": {"message": f"mock says {status}", "type": "mock_error", "param": None, "code": code}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 429:
            self.send_header("retry-after", "2")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.refuse(404, "not_found")

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(length)
        with lock:
            if Handler.record:
                headers = {k.lower(): v for k, v in self.headers.items() if k.lower() != "authorization"}
                line = {"path": self.path, "headers": headers, "has_key": "authorization" in self.headers, "body": json.loads(raw)}
                with open(Handler.record, "a") as f:
                    f.write(json.dumps(line) + "\n")
        request = json.loads(raw)
        self.model, _, self.fault = request["model"].partition(":")
        if not self.path.endswith("/chat/completions"):
            self.refuse(404, "not_found")
        elif self.fault.startswith("status-"):
            self.refuse(int(self.fault[7:]), "mock_fault")
        elif self.fault == "redirect":
            self.send_response(302)
            self.send_header("location", "https://localhost:1/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.fault == "hang":
            time.sleep(60)
        else:
            if self.fault == "late":
                time.sleep(7)
            self.stream(request)

    # ---- streaming ----

    def put(self, data):
        if self.fault == "split-utf8":
            for i in range(len(data)):
                self.raw(data[i:i + 1])
        else:
            self.raw(data)

    def raw(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, delta, finish=None, usage=None, choices=True):
        chunk = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": int(time.time()), "model": self.model,
                 "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}] if choices else []}
        if usage:
            chunk["usage"] = usage
        self.put(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")

    def answer_pieces(self, request):
        last = [m["content"] for m in request["messages"] if m["role"] == "user"][-1:] or [""]
        if self.fault == "echo":
            return [last[0][i:i + 3] for i in range(0, len(last[0]), 3)]
        if self.fault == "card":
            return ["The card is ", "4111", " 1111", " 11", "11 1", "111", ", keep it", " safe."]
        if self.fault == "key":
            return ["Here it is: ", "-----BEGIN", " PRIVATE KEY", "-----\nMIIEvQIBADAN", "BgkqhkiG9w0B\n", "-----END PRIVATE KEY-----", " done."]
        if self.fault == "split-utf8":
            return ["Grüße, ", "世界 ", "👋🏽."]
        return [w + " " for w in ANSWER.split()]

    def stream(self, request):
        self.send_response(200)
        self.send_header("content-type", "text/html" if self.fault == "html" else "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if self.fault == "html":
            self.raw(b"<html>it works</html>")
            self.raw(b"")
            return
        if self.fault == "huge-line":
            self.raw(b"data: " + b"x" * (6 << 20))
        pieces = self.answer_pieces(request)
        limit = request.get("max_tokens") or len(pieces)
        self.event({"role": "assistant", "content": ""})
        for i, piece in enumerate(pieces[:limit]):
            if i == len(pieces) // 2 and self.fault in ("stall", "cut", "error-event", "bad-json", "no-finish"):
                if self.fault == "stall":
                    time.sleep(60)
                if self.fault == "cut":
                    self.close_connection = True
                    self.connection.close()
                    return
                if self.fault == "error-event":
                    self.put(b'data: {"error":{"message":"mock broke","type":"server_error","code":"mock_broke"}}\n\n')
                if self.fault == "bad-json":
                    self.put(b"data: {nonsense\n\n")
                break
            self.event({"content": piece})
            time.sleep(0.3 if self.fault == "slow" else 0.002)
        if self.fault not in ("no-finish", "error-event", "bad-json"):
            self.event({}, "length" if limit < len(pieces) else "stop")
            prompt = sum(len(m["content"].split()) for m in request["messages"])
            used = min(limit, len(pieces))
            self.event({}, usage={"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used}, choices=False)
            self.put(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that leaves is no event


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--record")
    args = parser.parse_args()
    Handler.record = args.record
    server = Server(("127.0.0.1", args.port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.cert, args.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
