"""A raw Bolt client: sends bytes as they are told, legal or not, and shows every byte that comes back."""

import socket
import struct


class Struct:
    """A PackStream struct: signature and fields."""

    def __init__(self, signature, *fields):
        self.signature, self.fields = signature, list(fields)

    def __repr__(self):
        return f"Struct({self.signature:#04x}, {self.fields})"


class Raw(bytes):
    """Bytes that are already PackStream."""


class Uuid(bytes):
    """The 16 bytes of a UUID (Bolt 6.1)."""


class Pairs(list):
    """A map as key-value pairs, for repeated keys."""


def sized(length, tiny, markers):
    if tiny is not None and length < 16:
        return bytes([tiny | length])
    for marker, form, top in zip(markers, (">B", ">H", ">I"), (0xFF, 0xFFFF, 0xFFFFFFFF)):
        if length <= top:
            return bytes([marker]) + struct.pack(form, length)
    raise ValueError(length)


def pack(value):
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Uuid):
        return b"\xe0" + value
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if -16 <= value < 128:
            return struct.pack(">b", value)
        for marker, form, bits in ((0xC8, ">b", 7), (0xC9, ">h", 15), (0xCA, ">i", 31), (0xCB, ">q", 63)):
            if -(1 << bits) <= value < 1 << bits:
                return bytes([marker]) + struct.pack(form, value)
    if isinstance(value, float):
        return b"\xc1" + struct.pack(">d", value)
    if isinstance(value, (bytes, bytearray)):
        return sized(len(value), None, (0xCC, 0xCD, 0xCE)) + value
    if isinstance(value, str):
        raw = value.encode()
        return sized(len(raw), 0x80, (0xD0, 0xD1, 0xD2)) + raw
    if isinstance(value, Pairs):
        return sized(len(value), 0xA0, (0xD8, 0xD9, 0xDA)) + b"".join(pack(k) + pack(v) for k, v in value)
    if isinstance(value, (list, tuple)):
        return sized(len(value), 0x90, (0xD4, 0xD5, 0xD6)) + b"".join(map(pack, value))
    if isinstance(value, dict):
        return pack(Pairs(value.items()))
    if isinstance(value, Struct):
        return bytes([0xB0 | len(value.fields), value.signature]) + b"".join(map(pack, value.fields))
    raise TypeError(type(value))


def unpack(data, at=0):
    """Gives (value, next position)."""
    marker = data[at]
    at += 1
    low = marker & 0x0F
    if marker < 0x80:
        return marker, at
    if marker >= 0xF0:
        return marker - 256, at
    if marker < 0x90:
        return text(data, at, low)
    if marker < 0xA0:
        return items(data, at, low)
    if marker < 0xB0:
        return entries(data, at, low)
    if marker < 0xC0:
        signature = data[at]
        fields, at = items(data, at + 1, low)
        return Struct(signature, *fields), at
    if marker == 0xE0:
        return Uuid(data[at : at + 16]), at + 16
    if marker in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[marker], at
    form = {0xC1: ">d", 0xC8: ">b", 0xC9: ">h", 0xCA: ">i", 0xCB: ">q"}.get(marker)
    if form:
        size = struct.calcsize(form)
        return struct.unpack(form, data[at : at + size])[0], at + size
    groups = {0xCC: raw_bytes, 0xD0: text, 0xD4: items, 0xD8: entries}
    base = marker & 0xFC
    if base not in groups or marker - base > 2:
        raise ValueError(f"marker {marker:#04x}")
    width = 1 << (marker - base)
    length = int.from_bytes(data[at : at + width], "big")
    return groups[base](data, at + width, length)


def raw_bytes(data, at, length):
    return bytes(data[at : at + length]), at + length


def text(data, at, length):
    return data[at : at + length].decode(), at + length


def items(data, at, length):
    values = []
    for _ in range(length):
        value, at = unpack(data, at)
        values.append(value)
    return values, at


def entries(data, at, length):
    found = {}
    for _ in range(length):
        key, at = unpack(data, at)
        found[key], at = unpack(data, at)
    return found, at


def chunked(payload, size=0xFFFF):
    """A payload as chunks of at most `size` bytes, with the end mark."""
    out = b""
    for at in range(0, len(payload), size):
        part = payload[at : at + size]
        out += struct.pack(">H", len(part)) + part
    return out + b"\0\0"


NAMES = {
    0x01: "HELLO", 0x02: "GOODBYE", 0x0F: "RESET", 0x10: "RUN", 0x11: "BEGIN", 0x12: "COMMIT", 0x13: "ROLLBACK",
    0x2F: "DISCARD", 0x3F: "PULL", 0x54: "TELEMETRY", 0x66: "ROUTE", 0x6A: "LOGON", 0x6B: "LOGOFF",
    0x70: "SUCCESS", 0x71: "RECORD", 0x7E: "IGNORED", 0x7F: "FAILURE",
}
TAGS = {name: tag for tag, name in NAMES.items()}

MAGIC = b"\x60\x60\xb0\x17"


def message(name, *fields):
    """The payload of a message."""
    return pack(Struct(TAGS[name], *fields))


class Connection:
    """One connection; `read` gives messages as ('message', payload, wire), ('noop', b'', wire), or ('eof',) / ('quiet',)."""

    def __init__(self, port, slots=None, version=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        if version:
            slots = [bytes([0, 0, version[1], version[0]])]
        if slots is not None:
            wire = MAGIC + b"".join(slots) + b"\0" * (16 - 4 * len(slots))
            self.send(wire)
            self.answer = self.exactly(4)
            if version and self.answer != slots[0]:
                raise RuntimeError(f"{version} was refused: {self.answer!r}")

    def send(self, wire):
        try:
            self.socket.sendall(wire)
        except OSError:
            pass

    def more(self, timeout):
        """True if bytes came, False at the end of the stream, None if it stays quiet."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 16)
        except socket.timeout:
            return None
        except OSError:
            return False
        self.buffer += data
        return bool(data)

    def exactly(self, count, timeout=10):
        while len(self.buffer) < count:
            if not self.more(timeout):
                break
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def read(self, timeout=30):
        payload, at = b"", 0
        while True:
            while len(self.buffer) < at + 2:
                more = self.more(timeout)
                if not more:
                    return ("quiet",) if more is None else ("eof",)
            length = int.from_bytes(self.buffer[at : at + 2], "big")
            if length == 0:
                wire, self.buffer = self.buffer[: at + 2], self.buffer[at + 2 :]
                return ("message", payload, wire) if payload else ("noop", b"", wire)
            while len(self.buffer) < at + 2 + length:
                more = self.more(timeout)
                if not more:
                    return ("quiet",) if more is None else ("eof",)
            payload += self.buffer[at + 2 : at + 2 + length]
            at += 2 + length

    def close(self):
        self.socket.close()
