"""A small GGUF (version 3) writer and reader with Q8_0, for the demo model only."""
import struct

import numpy as np

F32, Q8_0 = 0, 8
U32, FLOAT, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
ALIGN = 32


def quantize(a):
    """Rows of 32 values: one half-precision scale and 32 signed bytes."""
    blocks = np.asarray(a, np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    out = np.zeros(len(blocks), [("d", "<f2"), ("q", "i1", 32)])
    out["d"] = scale
    out["q"] = np.rint(blocks * inverse[:, None])
    return out.tobytes()


def dequantize(raw, shape):
    blocks = np.frombuffer(raw, [("d", "<f2"), ("q", "i1", 32)])
    return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    if kind == STRING:
        return text(v)
    return struct.pack({U32: "<I", FLOAT: "<f", BOOL: "<?", I32: "<i"}[kind], v)


def write(path, metadata, tensors):
    """metadata: (key, kind, value), a kind (ARRAY, k) for lists; tensors: (name, array)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, v in metadata:
        if isinstance(kind, tuple):
            head += text(key) + struct.pack("<IIQ", ARRAY, kind[1], len(v))
            head += b"".join(value(kind[1], x) for x in v)
        else:
            head += text(key) + struct.pack("<I", kind) + value(kind, v)
    body = b""
    for name, a in tensors:
        kind = Q8_0 if a.ndim == 2 else F32
        # GGUF names the fastest-running dimension first.
        head += text(name) + struct.pack("<I", a.ndim)
        head += b"".join(struct.pack("<Q", n) for n in reversed(a.shape))
        head += struct.pack("<IQ", kind, len(body))
        body += quantize(a) if kind == Q8_0 else a.astype("<f4").tobytes()
        body += bytes(-len(body) % ALIGN)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN) + body)


class Reader:
    """metadata: key to value; tensors: name to float32 array."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 4
        if self.data[:4] != b"GGUF" or self.take("<I") != 3:
            raise ValueError(path + " is not a GGUF file of version 3")
        count, keys = self.take("<Q"), self.take("<Q")
        self.metadata = {}
        for _ in range(keys):
            key = self.string()
            self.metadata[key] = self.item(self.take("<I"))
        found = []
        for _ in range(count):
            name = self.string()
            shape = [self.take("<Q") for _ in range(self.take("<I"))][::-1]
            found.append((name, shape, self.take("<I"), self.take("<Q")))
        base = self.at + -self.at % ALIGN
        self.tensors = {}
        for name, shape, kind, offset in found:
            n, at = int(np.prod(shape)), base + offset
            if kind == Q8_0:
                self.tensors[name] = dequantize(self.data[at:at + n // 32 * 34], shape)
            elif kind == F32:
                self.tensors[name] = np.frombuffer(self.data, "<f4", n, at).reshape(shape)
            else:
                raise ValueError("tensor type %d of %s" % (kind, name))

    def take(self, form):
        v, = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return v

    def string(self):
        n = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def item(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, n = self.take("<I"), self.take("<Q")
            return [self.item(inner) for _ in range(n)]
        return self.take({U32: "<I", FLOAT: "<f", BOOL: "<?", I32: "<i"}[kind])
