"""Records wire transcripts of a running Neo4j, for `protocol/tests/transcripts.rs` to replay.

    record.py PORT PASSWORD OUT_FOLDER VERSION... [--short | --noop]

Writes OUT_FOLDER/<bolt version>.txt for each version, and OUT_FOLDER/handshake.txt. With --short only what
sets a version apart is recorded, and no handshakes. With --noop only the scenario in which the server sends
NOOPs is recorded, to OUT_FOLDER/noop-<version>.txt: start the server with
server.bolt.connection_keep_alive=1s and server.bolt.connection_keep_alive_for_requests=ALL for that.

A transcript is text. A scenario begins with `## name`. `C` lines are what the client sent in one write, `S`
lines are what the server sent, one message or NOOP a line, in hex; `(78x70000)` is byte 78 repeated. `E` is
the end of the stream, `L` the whole of the scenario `log in`. `=` names the state that the server was then
in, told by its answer to a RUN that is not written down. Values that change from run to run are overwritten
in place (bookmarks, times, addresses, ids), lengths stay.
"""

import random
import re
import sys

from bolt import Connection, Struct, Uuid, chunked, message, pack, unpack
from illegal import auth, hello_extra

VOLATILE = {"t_first", "t_last", "connection_id", "bookmark", "addresses", "advertised_address", "address"}


class Recorder:
    """One connection whose traffic is written down."""

    def __init__(self, port, version, password):
        self.connection = Connection(port, version=version)
        self.version, self.password = version, password
        self.lines, self.closed = [], False

    def send(self, *payloads, wire=None):
        if wire is None:
            wire = b"".join(chunked(payload) for payload in payloads)
        self.lines.append("C " + shorten(mask_stream(wire)))
        self.connection.send(wire)

    def summary(self, timeout=60):
        """Reads up to the next summary; None at the end of the stream."""
        while not self.closed:
            kind, *rest = self.connection.read(timeout)
            if kind == "eof":
                self.lines.append("E")
                self.closed = True
                break
            if kind == "quiet":
                raise RuntimeError("the server says nothing:\n" + "\n".join(self.lines))
            payload, wire = rest
            self.lines.append("S " + shorten(mask(payload, wire) if payload else wire))
            if kind == "message" and payload[1] != 0x71:
                return unpack(payload)[0]
        return None

    def ask(self, *payloads):
        """Sends in one write and reads as many summaries."""
        self.send(*payloads)
        return [self.summary() for _ in payloads]

    def login(self, **changes):
        self.ask(message("HELLO", hello_extra(self.version, self.password, **changes)))
        if self.version >= (5, 1):
            self.ask(message("LOGON", auth(self.password)))

    def end(self):
        """Waits for what may still come: nothing, or the end of the stream."""
        while not self.closed:
            kind, *rest = self.connection.read(0.3)
            if kind == "quiet":
                break
            if kind == "eof":
                self.lines.append("E")
                self.closed = True
            else:
                self.lines.append("S " + shorten(mask(rest[0], rest[1]) if rest[0] else rest[1]))
        return self

    def state(self):
        """The server's state, told by its answer to a RUN."""
        if self.closed:
            return "CLOSED"
        self.connection.send(chunked(message("RUN", "RETURN 1", {}, {})))
        while True:
            kind, *rest = self.connection.read(20)
            if kind == "noop":
                continue
            if kind != "message":
                return "CLOSED" if kind == "eof" else kind
            value = unpack(rest[0])[0]
            if value.signature == 0x71:
                continue
            if value.signature == 0x7E:
                return "FAILED"
            meta = value.fields[0]
            if value.signature == 0x70:
                return "IN_TRANSACTION" if "qid" in meta else "READY"
            return re.search(r"in the (\w+) state", meta["message"])[1]


def positions(wire):
    """The place in the wire of every payload byte."""
    found, at = [], 0
    while at + 2 <= len(wire):
        length = int.from_bytes(wire[at : at + 2], "big")
        found.extend(range(at + 2, at + 2 + length))
        at += 2 + length
    return found


def mask_stream(wire):
    """Masks every message of a client's write."""
    out, at, start = b"", 0, 0
    while at + 2 <= len(wire):
        length = int.from_bytes(wire[at : at + 2], "big")
        at += 2 + length
        if length == 0:
            part = wire[start:at]
            places = positions(part)
            out += mask(bytes(part[place] for place in places), part) if places else part
            start = at
    return out + wire[start:]


def mask(payload, wire):
    """The wire with volatile values overwritten, lengths kept."""
    changed = bytearray(payload)
    try:
        overwrite(changed, 0, False)
    except (IndexError, ValueError, UnicodeDecodeError):
        return wire
    text = re.sub(rb"@[0-9a-f]{5,8}", lambda found: b"@" + b"0" * (len(found[0]) - 1), bytes(changed))
    wire = bytearray(wire)
    for place, byte in zip(positions(wire), text):
        wire[place] = byte
    return bytes(wire)


def overwrite(data, at, volatile):
    """Walks over the value at `at`, overwriting it if it is volatile, and gives the next place."""
    marker = data[at]
    if 0xB0 <= marker < 0xC0:
        signature, fields, at = data[at + 1], marker & 15, at + 2
        ids = {0x4E: {3}, 0x52: {5, 6, 7}, 0x72: {3}}.get(signature, set())
        for field in range(fields):
            at = overwrite(data, at, volatile or field in ids)
        return at
    if 0x90 <= marker < 0xB0 or 0xD4 <= marker <= 0xDA:
        count, at, pairs = header(data, at)
        for _ in range(count):
            key = None
            if pairs:
                key, at = unpack(data, at)
            at = overwrite(data, at, volatile or key in VOLATILE)
        return at
    _, end = unpack(bytes(data), at)
    if volatile:
        if 0x80 <= marker < 0x90:
            data[at + 1 : end] = b"x" * (end - at - 1)
        elif marker in (0xD0, 0xD1, 0xD2):
            head = at + 1 + (1 << (marker - 0xD0))
            data[head:end] = b"x" * (end - head)
        elif marker < 0x80:
            data[at] = 0
        elif 0xC8 <= marker <= 0xCB:
            data[at + 1 : end] = bytes(end - at - 1)
    return end


def header(data, at):
    marker = data[at]
    if marker < 0xB0:
        return marker & 15, at + 1, marker >= 0xA0
    width = 1 << (marker & 3)
    return int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width, marker >= 0xD8


def shorten(wire):
    """Hex, with long runs of one byte as (78x70000)."""
    parts, last = [], 0
    for run in re.finditer(rb"(.)\1{99,}", wire, re.S):
        parts.append(wire[last : run.start()].hex())
        parts.append("(%02xx%d)" % (run[0][0], len(run[0])))
        last = run.end()
    return "".join(parts) + wire[last:].hex()


RUN1 = message("RUN", "RETURN 1 AS x", {}, {})
ROWS = message("RUN", "UNWIND range(1, 5) AS x RETURN x", {}, {})
BAD = message("RUN", "RETURN nope", {}, {})
PULL = message("PULL", {"n": -1})
DISCARD = message("DISCARD", {"n": -1})
BEGIN, COMMIT, ROLLBACK, RESET = message("BEGIN", {}), message("COMMIT"), message("ROLLBACK"), message("RESET")
ROUTE, TELEMETRY, LOGOFF, GOODBYE = message("ROUTE", {}, [], {}), message("TELEMETRY", 0), message("LOGOFF"), message("GOODBYE")
LONG = message("RUN", "UNWIND range(1, 5000000) AS x RETURN x", {}, {})


def pull(n, **more):
    return message("PULL", {"n": n, **more})


def run(text, parameters=None, extra=None):
    return message("RUN", text, parameters or {}, extra or {})


SCENARIOS = {}


def scenario(name, since=(4, 4), until=(9, 9), login=True):
    def keep(steps):
        SCENARIOS[name] = (steps, since, until, login)
        return steps

    return keep


def simple(name, *bursts, **options):
    """A scenario that sends bursts and reads as many summaries as were asked for."""

    def steps(c):
        for burst in bursts:
            c.ask(*burst)

    SCENARIOS[name] = (steps, options.get("since", (4, 4)), options.get("until", (9, 9)), options.get("login", True))


simple("log in")
simple("RUN, then PULL", [RUN1], [PULL])
simple("RUN and PULL in one write", [RUN1, PULL])
simple("a result that is open", [ROWS])
simple("a result in three parts", [ROWS, pull(2)], [pull(2)], [pull(2)])
simple("a result of which the rest is discarded", [ROWS, pull(2)], [DISCARD])
simple("a result that is discarded", [ROWS, DISCARD])
simple("a result without records", [run("MATCH (n:Nothing) RETURN n"), PULL])
simple("one auto-commit request after another in one write", [RUN1, PULL, RUN1, PULL, RUN1, PULL])
simple("a bad one among auto-commit requests in one write", [RUN1, PULL, BAD, PULL, RUN1, PULL], [RESET], [RUN1, PULL])
simple("a transaction step by step", [BEGIN], [RUN1], [PULL], [COMMIT])
simple("a transaction in one write", [BEGIN, RUN1, PULL, COMMIT])
simple("a transaction that is open", [BEGIN])
simple("a transaction with a result that is open", [BEGIN, ROWS, pull(1)])
simple("a transaction that is rolled back", [BEGIN, run("CREATE (:T {x: 1})"), PULL], [ROLLBACK])
simple("two results in one transaction", [BEGIN], [ROWS], [ROWS], [pull(2, qid=0), pull(2, qid=1)], [pull(-1, qid=0)], [pull(-1, qid=1)], [COMMIT])
simple("an unknown qid", [BEGIN, ROWS], [pull(-1, qid=7)], [PULL], [RESET])
simple("PULL in a transaction without a result", [BEGIN], [PULL], [ROLLBACK], [RESET])
simple("COMMIT with records unread", [BEGIN, ROWS, pull(1), COMMIT])
simple("ROLLBACK with records unread", [BEGIN, ROWS, pull(1), ROLLBACK], [RUN1, PULL])
simple("a transaction in one write that fails", [BEGIN, BAD, PULL, COMMIT], [RESET])
simple("a transaction in one write that fails, and another behind it", [BEGIN, BAD, PULL, COMMIT, RESET, BEGIN, RUN1, PULL, COMMIT])
simple("an error in the middle of a stream", [run("UNWIND [1, 2, 0, 3] AS x RETURN 10 / x AS y"), PULL], [RESET])
simple("an error in the middle of a stream, in a transaction", [BEGIN, run("UNWIND [1, 2, 0, 3] AS x RETURN 10 / x AS y"), pull(1)], [PULL], [COMMIT], [RESET])
simple("BEGIN that fails", [message("BEGIN", {"db": "nope"})], [RUN1, PULL, COMMIT], [RESET])
simple("ROUTE that fails", [message("ROUTE", {}, [], {"db": "nope"})], [RUN1], [RESET])
simple("RUN with a bookmark that is none", [run("RETURN 1", {}, {"bookmarks": ["no bookmark"]}), PULL], [RESET])
simple("FAILED ignores", [BAD], [RUN1], [PULL], [DISCARD], [COMMIT], [ROLLBACK], [ROUTE], [RUN1, PULL, COMMIT])
simple("FAILED ignores TELEMETRY", [BAD], [TELEMETRY], since=(5, 4))
for name, forbidden, since in (("BEGIN", BEGIN, (4, 4)), ("LOGOFF", LOGOFF, (5, 1)), ("LOGON", message("LOGON", auth("password")), (5, 1))):
    simple(f"FAILED and {name}", [BAD], [forbidden], since=since)
    simple(f"FAILED in a transaction and {name}", [BEGIN, BAD], [forbidden], since=since)
simple("RESET in READY", [RESET], [RESET, RESET], [RUN1, PULL])
simple("RESET of an open result", [ROWS, pull(1)], [RESET], [RUN1, PULL])
simple("RESET of an open transaction", [BEGIN, run("CREATE (:Gone {x: 1})"), PULL], [RESET], [run("MATCH (n:Gone) RETURN count(n)"), PULL])
simple("RESET behind RUN and PULL in one write", [RUN1, PULL, RESET], [RUN1, PULL])
simple("two RESETs behind RUN and PULL in one write", [RUN1, PULL, RESET, RESET], [RUN1, PULL])
simple("RESET behind a whole transaction in one write", [BEGIN, RUN1, PULL, COMMIT, RESET], [RUN1, PULL])
simple("RESET behind two requests in one write", [RUN1, PULL, RUN1, PULL, RESET], [RUN1, PULL])
simple("RESET behind ROUTE in one write", [ROUTE, RESET], [RUN1, PULL])
for name, illegal, since in (("PULL", PULL, (4, 4)), ("DISCARD", DISCARD, (4, 4)), ("COMMIT", COMMIT, (4, 4)), ("ROLLBACK", ROLLBACK, (4, 4)),
                             ("LOGON", message("LOGON", auth("password")), (5, 1)), ("HELLO", None, (4, 4))):
    def steps(c, illegal=illegal):
        c.ask(illegal or message("HELLO", hello_extra(c.version, c.password)))

    SCENARIOS[f"READY and {name}"] = (steps, since, (9, 9), True)
    if name in ("COMMIT", "ROLLBACK", "LOGON", "HELLO"):
        def steps(c, illegal=illegal):
            c.ask(ROWS)
            c.ask(illegal or message("HELLO", hello_extra(c.version, c.password)))

        SCENARIOS[f"an open result and {name}"] = (steps, since, (9, 9), True)
    if name in ("LOGON", "HELLO"):
        def steps(c, illegal=illegal):
            c.ask(BEGIN)
            c.ask(illegal or message("HELLO", hello_extra(c.version, c.password)))

        SCENARIOS[f"an open transaction and {name}"] = (steps, since, (9, 9), True)
for name, illegal, since in (("RUN", RUN1, (4, 4)), ("BEGIN", BEGIN, (4, 4)), ("ROUTE", ROUTE, (4, 4)), ("TELEMETRY", TELEMETRY, (5, 4)), ("LOGOFF", LOGOFF, (5, 1))):
    simple(f"an open result and {name}", [ROWS], [illegal], since=since)
    simple(f"an open result and {name} in one write", [ROWS, illegal], since=since)
    if name != "RUN":
        simple(f"an open transaction and {name}", [BEGIN], [illegal], since=since)
        simple(f"an open transaction and {name} in one write", [BEGIN, RUN1, PULL, illegal], since=since)
simple("a second request behind a result that stays open", [ROWS, pull(1), RUN1, PULL])
simple("ROUTE", [ROUTE], [message("ROUTE", {"address": "example.org:7687"}, [], {})], [message("ROUTE", {}, [], {"db": "neo4j"})])
simple("ROUTE, RUN and PULL in one write", [ROUTE, RUN1, PULL])
simple("TELEMETRY", [TELEMETRY], [TELEMETRY, RUN1, PULL], [message("TELEMETRY", 3), BEGIN, RUN1, PULL, COMMIT], since=(5, 4))
simple("TELEMETRY of an unknown kind", [message("TELEMETRY", 4)], [RUN1], since=(5, 4))
simple("GOODBYE", [GOODBYE])
simple("GOODBYE behind a request in one write", [RUN1, PULL, GOODBYE])
simple("an unknown signature", [pack(Struct(0x33, {}))])
simple("an unknown signature behind a request", [RUN1, PULL], [pack(Struct(0x33))])
simple("a summary from the client", [pack(Struct(0x70, {}))])
simple("LOGOFF where there is none", [LOGOFF], until=(5, 0))
simple("TELEMETRY where there is none", [TELEMETRY], until=(5, 3))
simple("LOGOFF", [LOGOFF], since=(5, 1))
simple("LOGOFF and RUN", [LOGOFF], [RUN1], since=(5, 1))
simple("LOGOFF and RESET", [LOGOFF], [RESET], since=(5, 1))
simple("LOGOFF twice", [LOGOFF], [LOGOFF], since=(5, 1))
simple("LOGOFF and GOODBYE", [LOGOFF], [GOODBYE], since=(5, 1))
simple("RUN before HELLO", [RUN1], login=False)
simple("RESET before HELLO", [RESET], login=False)
simple("LOGON before HELLO", [message("LOGON", auth("password"))], login=False, since=(5, 1))
simple("GOODBYE before HELLO", [GOODBYE], login=False)


@scenario("LOGOFF, LOGON, RUN and PULL in one write", since=(5, 1))
def _(c):
    c.ask(LOGOFF, message("LOGON", auth(c.password)), run("SHOW CURRENT USER YIELD user"), PULL)


@scenario("LOGON, RUN and PULL before the answer to HELLO", since=(5, 1), login=False)
def _(c):
    c.ask(message("HELLO", hello_extra(c.version, c.password)), message("LOGON", auth(c.password)), RUN1, PULL)


@scenario("RUN and PULL before the answer to HELLO", until=(5, 0), login=False)
def _(c):
    c.ask(message("HELLO", hello_extra(c.version, c.password)), RUN1, PULL)


for late in ("RUN", "RESET", "LOGOFF", "PULL", "BEGIN", "ROUTE"):
    def steps(c, late={"RUN": RUN1, "RESET": RESET, "LOGOFF": LOGOFF, "PULL": PULL, "BEGIN": BEGIN, "ROUTE": ROUTE}[late]):
        c.ask(message("HELLO", hello_extra(c.version, c.password)))
        c.ask(late)

    SCENARIOS[f"{late} before LOGON"] = (steps, (5, 1), (9, 9), False)


@scenario("a wrong password", login=False)
def _(c):
    wrong = {"scheme": "basic", "principal": "nobody", "credentials": "x"}
    if c.version >= (5, 1):
        c.ask(message("HELLO", hello_extra(c.version, c.password)))
        c.ask(message("LOGON", wrong), RUN1, PULL)
    else:
        c.ask(message("HELLO", hello_extra(c.version, c.password, **wrong)), RUN1, PULL)


@scenario("a wrong password after LOGOFF", since=(5, 1))
def _(c):
    c.ask(LOGOFF, message("LOGON", {"scheme": "basic", "principal": "nobody", "credentials": "x"}), RUN1, PULL)


@scenario("the utc patch", until=(4, 4), login=False)
def _(c):
    c.login(patch_bolt=["utc"])
    c.ask(run("RETURN datetime('2020-01-02T03:04:05.6+01:00') AS a, datetime('2020-01-02T03:04:05[Europe/Paris]') AS b"), PULL)


@scenario("values of every type")
def _(c):
    c.ask(run("RETURN null, true, false, 1, -16, -17, -129, 40000, 9223372036854775807, 1.5, 'x', $bytes AS bytes, [1, 'a', null], {a: 1, b: [2]}",
              {"bytes": b"\1\2\3"}), PULL)
    c.ask(run("RETURN date('2020-01-02'), time('03:04:05.6+01:00'), localtime('03:04:05'), localdatetime('2020-01-02T03:04:05'), "
              "datetime('2020-01-02T03:04:05+01:00'), datetime('2020-01-02T03:04:05[Europe/Paris]'), duration('P1Y2M3DT4H5M6.7S'), "
              "point({x: 1, y: 2}), point({x: 1, y: 2, z: 3})"), PULL)
    c.ask(run("CREATE p = (a:A {x: 1})-[r:R {y: 2}]->(b:B) RETURN a, r, p"), PULL)


@scenario("counters, plan and notifications")
def _(c):
    c.ask(run("CREATE (:Counted {x: 1})-[:R]->(:Counted)"), PULL)
    c.ask(run("MATCH (n:Counted) DETACH DELETE n"), PULL)
    c.ask(run("EXPLAIN MATCH (a), (b) RETURN a, b"), PULL)
    c.ask(run("MATCH (n:NoSuchLabel) RETURN n.nope"), DISCARD)


@scenario("parameters of every type")
def _(c):
    values = {"a": None, "b": [True, 1, -2.5, "x", b"\0\1"], "c": {"d": {"e": list(range(20))}}, "long": "x" * 70000,
              "date": Struct(0x44, 1), "point": Struct(0x58, 7203, 1.0, 2.0), "duration": Struct(0x45, 1, 2, 3, 4)}
    c.ask(run("RETURN $a, $b, $c, size($long), $date, $point, $duration", values), PULL)


@scenario("records larger than a chunk")
def _(c):
    c.ask(run("RETURN $x AS x", {"x": "x" * 70000}), PULL)
    c.ask(run("UNWIND [65529, 65530, 65531, 65532, 200000] AS n RETURN left($x, n) AS x", {"x": "x" * 200000}), PULL)


@scenario("NOOPs from the client, and chunks of one byte")
def _(c):
    c.send(wire=b"\0\0\0\0" + chunked(RUN1) + b"\0\0" + chunked(PULL) + b"\0\0")
    c.summary(), c.summary()
    c.send(wire=chunked(RUN1, 1) + chunked(PULL, 1))
    c.summary(), c.summary()


@scenario("RESET while records are under way")
def _(c):
    c.ask(LONG)
    c.send(PULL)
    kind, payload, wire = c.connection.read()
    c.lines.append("S " + shorten(mask(payload, wire)))
    c.send(RESET)
    records = 1
    for _ in range(2):
        while True:
            kind, *rest = c.connection.read()
            if kind == "noop":
                c.lines.append("S 0000")
                continue
            payload, wire = rest
            if payload[1] != 0x71:
                c.lines.append("S " + shorten(mask(payload, wire)))
                break
            records += 1
            if records <= 3:
                c.lines.append("S " + shorten(wire))


@scenario("UUID and vector")
def _(c):
    if c.server.startswith("Neo4j/5"):
        return
    c.ask(run("CYPHER 25 RETURN vector([1, 2, 3], 3, FLOAT32) AS v, vector([1, 2], 2, INTEGER8) AS w"), PULL)
    c.ask(run("CYPHER 25 RETURN uuid() AS u"), PULL)


@scenario("a vector as a parameter", since=(5, 8))
def _(c):
    c.ask(run("RETURN $v AS v", {"v": Struct(0x56, b"\xc6", b"\x3f\x80\0\0")}))
    c.ask(PULL)


@scenario("a UUID as a parameter", since=(5, 8))
def _(c):
    c.ask(run("RETURN $u AS u", {"u": Uuid(bytes(range(16)))}))
    c.ask(PULL)


@scenario("a node as a parameter, RESET behind it")
def _(c):
    c.ask(run("RETURN $n", {"n": Struct(0x4E, 1, [], {})}))
    c.ask(RESET)
    c.ask(RUN1, PULL)


@scenario("PULL of nothing in an open result")
def _(c):
    c.ask(ROWS)
    c.ask(pull(0))
    c.ask(RESET)
    c.ask(RUN1, PULL)


@scenario("an unknown marker in a parameter, in a transaction")
def _(c):
    c.ask(BEGIN)
    c.ask(b"\xb3\x10" + pack("RETURN $x") + b"\xa1\x81x\xc4\xa0")
    c.ask(RESET)
    c.ask(RUN1, PULL)


SHORT = ["log in", "a result in three parts", "a transaction in one write that fails", "FAILED and BEGIN", "TELEMETRY", "ROUTE",
         "TELEMETRY where there is none", "LOGOFF where there is none", "LOGOFF, LOGON, RUN and PULL in one write",
         "RUN before LOGON", "READY and PULL", "counters, plan and notifications", "values of every type"]


def record(port, password, version, scenarios, server):
    lines = [f"# {server}, Bolt {version[0]}.{version[1]}", ""]
    for name, (steps, since, until, login) in scenarios.items():
        if not since <= version <= until:
            continue
        c = Recorder(port, version, password)
        c.server = server
        if login:
            c.login()
            # Written out in the first scenario only.
            if name != "log in":
                c.lines = ["L"]
        steps(c)
        c.end()
        lines += [f"## {name}", *c.lines, f"= {c.state()}", ""]
        c.connection.close()
    return lines


def handshake(port, lines):
    """Slots and what the server makes of them, then manifests and choices from them."""
    fixed = ["00000404", "00000304", "00000004", "00000003", "00000805", "00000605", "00000505", "00010505", "00090905",
             "00000905", "00000006", "00000106", "00020206", "00000206", "0000040400000805", "00080405", "000002ff",
             "000002ff000001ff00000405", "000001ff", "00000000", "000001ff000808050002040400000003", "01000404", "00000304000001ff",
             "0008080500020404000000030000ffff", "0000030400080405", "00ff0405", "00000805000804050000040400000000", "0000000400000805"]
    random.seed(7)
    for _ in range(120):
        slots = b""
        for _ in range(4):
            major = random.choice([0, 3, 4, 4, 5, 5, 5, 6, 7, 255])
            minor = random.randrange(12) if major != 255 else random.choice([1, 2, 3])
            spread = random.choice([0, 0, 0, random.randrange(minor + 1) if minor else 0, random.randrange(14)])
            slots += bytes([0 if random.random() < 0.97 else 1, 0 if major == 255 else spread, minor, major])
        fixed.append(slots.hex())
    for slots in dict.fromkeys(fixed):
        c = Connection(port)
        c.send(b"\x60\x60\xb0\x17" + bytes.fromhex(slots).ljust(16, b"\0"))
        answer = c.exactly(4, 5)
        more = c.more(0.05)
        if answer == b"\0\0\x01\xff":
            answer += c.buffer
        lines.append(f"{slots.ljust(32, '0')} {answer.hex() or '-'} {'open' if more is not False or c.buffer else 'closed'}")
        c.close()
    for choice in ("0000080500", "0000040400", "0000050500", "0000080501", "0001080500", "0100080500", "0000090500", "0000010600",
                   "00000405ff7f", "0000030400", "000008058000", "00000805808000"):
        c = Connection(port)
        c.send(b"\x60\x60\xb0\x17" + bytes.fromhex("000001ff").ljust(16, b"\0"))
        c.exactly(4, 5)
        c.more(0.2)
        c.buffer = b""
        c.send(bytes.fromhex(choice) + chunked(message("HELLO", hello_extra((5, 8), "x"))))
        kind, *_ = c.read(2)
        lines.append(f"choice {choice} {'accepted' if kind == 'message' else 'closed'}")
        c.close()
    return lines


def noops(c):
    """A request that takes longer than the keep-alive."""
    c.ask(run("UNWIND range(1, 15000) AS x UNWIND range(1, 3000) AS y RETURN count(x * y % 7) AS n"), PULL)


def main():
    port, password, out, *rest = sys.argv[1:]
    port, only_noop, short = int(port), "--noop" in rest, "--short" in rest
    versions = [tuple(map(int, version.split("."))) for version in rest if not version.startswith("--")]
    c = Connection(port, version=versions[0])
    c.send(chunked(message("HELLO", hello_extra(versions[0], password))))
    server = unpack(c.read()[1])[0].fields[0]["server"]
    c.close()
    if only_noop:
        for version in versions:
            wanted = {"log in": SCENARIOS["log in"], "NOOPs while a request is under way": (noops, (4, 4), (9, 9), True)}
            lines = record(port, password, version, wanted, server)
            open(f"{out}/noop-{version[0]}.{version[1]}.txt", "w").write("\n".join(lines))
        return
    wanted = {name: SCENARIOS[name] for name in SHORT} if short else SCENARIOS
    if not short:
        lines = handshake(port, [f"# {server}: slots, answer, connection"])
        open(f"{out}/handshake.txt", "w").write("\n".join(lines) + "\n")
    for version in versions:
        lines = record(port, password, version, wanted, server)
        open(f"{out}/{version[0]}.{version[1]}.txt", "w").write("\n".join(lines))
        print(server, version, sum(line.startswith("##") for line in lines), "scenarios", flush=True)


if __name__ == "__main__":
    main()
