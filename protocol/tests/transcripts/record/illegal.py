"""Asks a running server what it answers to messages that are not legal, in every state and version.

    illegal.py NAME PORT PASSWORD OUT.json [VERSION...]
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from bolt import NAMES, Connection, Pairs, Raw, Struct, Uuid, chunked, message, pack, unpack

ALL = [(4, 4), (5, 0), (5, 1), (5, 2), (5, 3), (5, 4), (5, 6), (5, 7), (5, 8), (6, 0), (6, 1)]
AGENT = {"product": "recorder/1.0"}


def auth(password):
    return {"scheme": "basic", "principal": "neo4j", "credentials": password}


def hello_extra(version, password, **changes):
    extra = {"user_agent": "recorder/1.0"}
    if version >= (5, 3):
        extra["bolt_agent"] = AGENT
    if version <= (5, 0):
        extra.update(auth(password))
    extra.update(changes)
    return {key: value for key, value in extra.items() if value is not ABSENT}


ABSENT = object()


def plain(value):
    """A decoded value as JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Struct):
        return {"struct": f"{value.signature:#04x}", "fields": plain(value.fields)}
    if isinstance(value, (bytes, Uuid)):
        return {"bytes": value.hex()}
    if isinstance(value, str):
        return re.sub(r"bolt-\d+", "bolt-N", value)
    return value


def legal(version, password):
    """One well-formed message of each kind."""
    return {
        "HELLO": message("HELLO", hello_extra(version, password)),
        "LOGON": message("LOGON", auth(password)),
        "LOGOFF": message("LOGOFF"),
        "RESET": message("RESET"),
        "RUN": message("RUN", "RETURN 1", {}, {}),
        "BEGIN": message("BEGIN", {}),
        "COMMIT": message("COMMIT"),
        "ROLLBACK": message("ROLLBACK"),
        "PULL": message("PULL", {"n": -1}),
        "DISCARD": message("DISCARD", {"n": -1}),
        "PULL n=1": message("PULL", {"n": 1}),
        "ROUTE": message("ROUTE", {}, [], {}),
        "TELEMETRY": message("TELEMETRY", 0),
        "GOODBYE": message("GOODBYE"),
        "SUCCESS (0x70)": pack(Struct(0x70, {})),
        "unknown signature 0x33": pack(Struct(0x33, {})),
        "unknown signature 0x33, no field": pack(Struct(0x33)),
    }


def malformed():
    """Messages whose shape is wrong."""
    run = b"\xb3\x10" + pack("RETURN 1")
    return {
        "RUN with 0 fields": pack(Struct(0x10)),
        "RUN with 1 field": pack(Struct(0x10, "RETURN 1")),
        "RUN with 2 fields": pack(Struct(0x10, "RETURN 1", {})),
        "RUN with 4 fields": pack(Struct(0x10, "RETURN 1", {}, {}, {})),
        "RUN, text is an integer": message("RUN", 1, {}, {}),
        "RUN, text is null": message("RUN", None, {}, {}),
        "RUN, parameters are a list": message("RUN", "RETURN 1", [], {}),
        "RUN, parameters are null": message("RUN", "RETURN 1", None, {}),
        "RUN, extra is null": message("RUN", "RETURN 1", {}, None),
        "RUN, extra is a list": message("RUN", "RETURN 1", {}, []),
        "RUN, ends inside a value": run + b"\xa1\x81",
        "RUN, ends after the text": run,
        "RUN, bytes after the end": run + b"\xa0\xa0\xc0",
        "RUN, unknown marker C4": run + b"\xa1\x81x\xc4\xa0",
        "RUN, text is not UTF-8": b"\xb3\x10\x82\xff\xff\xa0\xa0",
        "RUN, empty text": message("RUN", "", {}, {}),
        "RUN, hostile list size": run + b"\xa1\x81x\xd6\xff\xff\xff\xff\xa0",
        "RUN, hostile string size": run + b"\xa1\x81x\xd2\x7f\xff\xff\xff\xa0",
        "RUN, integer key": run + b"\xa1\x01\x01\xa0",
        "RUN, duplicate key": message("RUN", "RETURN 1", Pairs([("a", 1), ("a", 2)]), {}),
        "RUN, a node as parameter": message("RUN", "RETURN 1", {"x": Struct(0x4E, 1, [], {}, "1")}, {}),
        "RUN, an unknown struct as parameter": message("RUN", "RETURN 1", {"x": Struct(0x01, 1)}, {}),
        "RUN, legacy DateTime as parameter": message("RUN", "RETURN 1", {"x": Struct(0x46, 0, 0, 0)}, {}),
        "RUN, UTC DateTime as parameter": message("RUN", "RETURN 1", {"x": Struct(0x49, 0, 0, 0)}, {}),
        "RUN, vector as parameter": message("RUN", "RETURN 1", {"x": Struct(0x56, b"\xc6", b"\0\0\0\0")}, {}),
        "RUN, UUID as parameter": message("RUN", "RETURN 1", {"x": Uuid(bytes(16))}, {}),
        "RUN, mode x": message("RUN", "RETURN 1", {}, {"mode": "x"}),
        "RUN, mode 1": message("RUN", "RETURN 1", {}, {"mode": 1}),
        "RUN, tx_timeout is a string": message("RUN", "RETURN 1", {}, {"tx_timeout": "1"}),
        "RUN, tx_timeout -1": message("RUN", "RETURN 1", {}, {"tx_timeout": -1}),
        "RUN, bookmarks is a string": message("RUN", "RETURN 1", {}, {"bookmarks": "x"}),
        "RUN, bookmarks holds null": message("RUN", "RETURN 1", {}, {"bookmarks": [None]}),
        "RUN, bookmark that is none": message("RUN", "RETURN 1", {}, {"bookmarks": ["x"]}),
        "RUN, db is an integer": message("RUN", "RETURN 1", {}, {"db": 1}),
        "RUN, db is unknown": message("RUN", "RETURN 1", {}, {"db": "nope"}),
        "RUN, tx_metadata is a list": message("RUN", "RETURN 1", {}, {"tx_metadata": []}),
        "RUN, imp_user": message("RUN", "RETURN 1", {}, {"imp_user": "x"}),
        "RUN, imp_user is an integer": message("RUN", "RETURN 1", {}, {"imp_user": 1}),
        "RUN, minimum severity FOO": message("RUN", "RETURN 1", {}, {"notifications_minimum_severity": "FOO"}),
        "RUN, minimum severity is an integer": message("RUN", "RETURN 1", {}, {"notifications_minimum_severity": 1}),
        "RUN, disabled categories is a string": message("RUN", "RETURN 1", {}, {"notifications_disabled_categories": "x"}),
        "RUN, disabled classifications is a string": message("RUN", "RETURN 1", {}, {"notifications_disabled_classifications": "x"}),
        "RUN, disabled categories FOO": message("RUN", "RETURN 1", {}, {"notifications_disabled_categories": ["FOO"]}),
        "RUN, disabled classifications FOO": message("RUN", "RETURN 1", {}, {"notifications_disabled_classifications": ["FOO"]}),
        "BEGIN with 0 fields": pack(Struct(0x11)),
        "BEGIN with 2 fields": pack(Struct(0x11, {}, {})),
        "BEGIN, extra is a list": message("BEGIN", []),
        "BEGIN, extra is null": message("BEGIN", None),
        "BEGIN, mode x": message("BEGIN", {"mode": "x"}),
        "BEGIN, tx_timeout is a string": message("BEGIN", {"tx_timeout": "1"}),
        "BEGIN, db is unknown": message("BEGIN", {"db": "nope"}),
        "BEGIN, bookmark that is none": message("BEGIN", {"bookmarks": ["x"]}),
        "BEGIN, tx_type is an integer": message("BEGIN", {"tx_type": 1}),
        "COMMIT with 1 field": pack(Struct(0x12, {})),
        "ROLLBACK with 1 field": pack(Struct(0x13, {})),
        "RESET with 1 field": pack(Struct(0x0F, {})),
        "GOODBYE with 1 field": pack(Struct(0x02, {})),
        "PULL with 0 fields": pack(Struct(0x3F)),
        "PULL without n": message("PULL", {}),
        "PULL n=0": message("PULL", {"n": 0}),
        "PULL n=-2": message("PULL", {"n": -2}),
        "PULL n is a string": message("PULL", {"n": "1"}),
        "PULL n is null": message("PULL", {"n": None}),
        "PULL, a list": message("PULL", []),
        "PULL qid=7": message("PULL", {"n": -1, "qid": 7}),
        "PULL qid is a string": message("PULL", {"n": -1, "qid": "x"}),
        "DISCARD without n": message("DISCARD", {}),
        "DISCARD n=0": message("DISCARD", {"n": 0}),
        "DISCARD with 0 fields": pack(Struct(0x2F)),
        "ROUTE with 0 fields": pack(Struct(0x66)),
        "ROUTE with 2 fields": pack(Struct(0x66, {}, [])),
        "ROUTE, context is null": message("ROUTE", None, [], {}),
        "ROUTE, context is a list": message("ROUTE", [], [], {}),
        "ROUTE, bookmarks is null": message("ROUTE", {}, None, {}),
        "ROUTE, bookmarks is a map": message("ROUTE", {}, {}, {}),
        "ROUTE, third is null": message("ROUTE", {}, [], None),
        "ROUTE, third is a string": message("ROUTE", {}, [], "neo4j"),
        "ROUTE, db is an integer": message("ROUTE", {}, [], {"db": 1}),
        "ROUTE, db is unknown": message("ROUTE", {}, [], {"db": "nope"}),
        "ROUTE, imp_user": message("ROUTE", {}, [], {"imp_user": "x"}),
        "TELEMETRY 4": message("TELEMETRY", 4),
        "TELEMETRY -1": message("TELEMETRY", -1),
        "TELEMETRY, a string": message("TELEMETRY", "x"),
        "TELEMETRY, null": message("TELEMETRY", None),
        "TELEMETRY with 0 fields": pack(Struct(0x54)),
        "LOGOFF with 1 field": pack(Struct(0x6B, {})),
        "LOGON with 0 fields": pack(Struct(0x6A)),
        "LOGON, a list": message("LOGON", []),
        "LOGON, null": message("LOGON", None),
        "LOGON, empty": message("LOGON", {}),
        "LOGON without scheme": message("LOGON", {"principal": "neo4j", "credentials": "x"}),
        "LOGON, scheme is an integer": message("LOGON", {"scheme": 1, "principal": "neo4j", "credentials": "x"}),
        "LOGON, scheme none": message("LOGON", {"scheme": "none"}),
        "LOGON, scheme bearer": message("LOGON", {"scheme": "bearer", "credentials": "x"}),
        "LOGON, scheme unknown": message("LOGON", {"scheme": "zzz", "principal": "neo4j", "credentials": "x"}),
        "LOGON without principal": message("LOGON", {"scheme": "basic", "credentials": "x"}),
        "LOGON without credentials": message("LOGON", {"scheme": "basic", "principal": "neo4j"}),
        "LOGON, principal is an integer": message("LOGON", {"scheme": "basic", "principal": 1, "credentials": "x"}),
        "LOGON, credentials is an integer": message("LOGON", {"scheme": "basic", "principal": "neo4j", "credentials": 1}),
        "LOGON, wrong password": message("LOGON", {"scheme": "basic", "principal": "nobody", "credentials": "x"}),
        "LOGON, realm unknown": message("LOGON", {"scheme": "basic", "principal": "nobody", "credentials": "x", "realm": "zzz"}),
        "LOGON of 9000 bytes": message("LOGON", {"scheme": "basic", "principal": "neo4j", "credentials": "x" * 9000}),
        "a string": pack("abc"),
        "a map": pack({}),
        "a single byte B1": b"\xb1",
        "a single byte 00": b"\x00",
        "a single byte C4": b"\xc4",
    }


def hellos(version, password):
    """HELLO messages that are wrong in one thing."""
    def hello(**changes):
        return message("HELLO", hello_extra(version, password, **changes))

    cases = {
        "HELLO, empty": message("HELLO", {}),
        "HELLO with 0 fields": pack(Struct(0x01)),
        "HELLO with 2 fields": pack(Struct(0x01, hello_extra(version, password), {})),
        "HELLO, a list": message("HELLO", []),
        "HELLO, null": message("HELLO", None),
        "HELLO without user_agent": hello(user_agent=ABSENT),
        "HELLO, user_agent is null": hello(user_agent=None),
        "HELLO, user_agent is an integer": hello(user_agent=1),
        "HELLO, user_agent is empty": hello(user_agent=""),
        "HELLO without bolt_agent": hello(bolt_agent=ABSENT),
        "HELLO, bolt_agent is null": hello(bolt_agent=None),
        "HELLO, bolt_agent is a string": hello(bolt_agent="x"),
        "HELLO, bolt_agent is empty": hello(bolt_agent={}),
        "HELLO, product is an integer": hello(bolt_agent={"product": 1}),
        "HELLO, product is null": hello(bolt_agent={"product": None}),
        "HELLO, product is empty": hello(bolt_agent={"product": ""}),
        "HELLO, platform is an integer": hello(bolt_agent={"product": "x", "platform": 1}),
        "HELLO, bolt_agent with an unknown key": hello(bolt_agent={"product": "x", "zzz": "x"}),
        "HELLO, routing is a string": hello(routing="x"),
        "HELLO, routing is null": hello(routing=None),
        "HELLO, routing holds an integer": hello(routing={"x": 1}),
        "HELLO, patch_bolt is a string": hello(patch_bolt="utc"),
        "HELLO, patch_bolt holds an integer": hello(patch_bolt=[1]),
        "HELLO, patch_bolt unknown": hello(patch_bolt=["zzz"]),
        "HELLO, patch_bolt utc": hello(patch_bolt=["utc"]),
        "HELLO, minimum severity FOO": hello(notifications_minimum_severity="FOO"),
        "HELLO, minimum severity is an integer": hello(notifications_minimum_severity=1),
        "HELLO, disabled categories is a string": hello(notifications_disabled_categories="x"),
        "HELLO, disabled classifications is a string": hello(notifications_disabled_classifications="x"),
        "HELLO, disabled categories FOO": hello(notifications_disabled_categories=["FOO"]),
        "HELLO, disabled classifications FOO": hello(notifications_disabled_classifications=["FOO"]),
        "HELLO, unknown key": hello(zzz=1),
        "HELLO, ends inside a value": b"\xb1\x01\xa1\x8auser_ag",
        "HELLO, bytes after the end": hello() + b"\xc0",
        "HELLO, user_agent of 9000 bytes": hello(user_agent="x" * 9000),
        "HELLO, user_agent of 8000 bytes": hello(user_agent="x" * 8000),
        "HELLO of 8192 bytes": sized_hello(version, password, 8192),
        "HELLO of 8193 bytes": sized_hello(version, password, 8193),
        "HELLO, user_agent announced as 65535 bytes": Raw(b"\xb1\x01\xa1\x8auser_agent\xd1\xff\xffxxxx"),
        "HELLO, map announced with 65535 entries": Raw(b"\xb1\x01\xd9\xff\xff\x8auser_agent\x81x"),
        "HELLO, list of 9000 small items": hello(zzz=[1] * 9000),
        "HELLO, list of 2000 small items": hello(zzz=[1] * 2000),
        "HELLO, nested 200 deep": hello(zzz=Raw(b"\x91" * 200 + b"\xc0")),
        "a chunk header of 65535 bytes": ("wire", b"\xff\xff" + b"\xb1\x01" + b"x" * 9000),
        "9000 NOOPs": ("wire", b"\0\0" * 9000 + chunked(hello())),
        "HTTP POST": ("wire", b"POST / HTTP/1.1\r\n\r\n"),
    }
    if version <= (5, 0):
        cases.update({
            "HELLO without scheme": hello(scheme=ABSENT),
            "HELLO, scheme is an integer": hello(scheme=1),
            "HELLO, scheme none": hello(scheme="none"),
            "HELLO, scheme unknown": hello(scheme="zzz"),
            "HELLO without principal": hello(principal=ABSENT),
            "HELLO without credentials": hello(credentials=ABSENT),
            "HELLO, principal is an integer": hello(principal=1),
            "HELLO, credentials is an integer": hello(credentials=1),
            "HELLO, wrong password": hello(principal="nobody", credentials="x"),
        })
    else:
        cases["HELLO with credentials in it"] = hello(**auth("x"))
    return cases


def sized_hello(version, password, size):
    base = len(message("HELLO", hello_extra(version, password, user_agent="")))
    # The string's header grows from one byte to three.
    return message("HELLO", hello_extra(version, password, user_agent="x" * (size - base - 2)))


class Probe:
    def __init__(self, port, version, password):
        self.connection = Connection(port, version=version)
        self.version, self.password = version, password

    def ask(self, *payloads):
        """Sends each payload and gives the summaries; stops at the end of the stream."""
        answers = []
        for payload in payloads:
            self.connection.send(chunked(payload))
            answers.append(self.summary())
        return answers

    def summary(self, timeout=3):
        while True:
            kind, *rest = self.connection.read(timeout)
            if kind != "message":
                if kind == "noop":
                    continue
                return kind
            value, _ = unpack(rest[0])
            if value.signature != 0x71:
                return value

    def to(self, state):
        """Takes the connection into a state."""
        if state == "NEGOTIATION":
            return
        self.must(message("HELLO", hello_extra(self.version, self.password)))
        if state == "AUTHENTICATION":
            return
        if self.version >= (5, 1):
            self.must(message("LOGON", auth(self.password)))
        steps = {
            "READY": [],
            "READY after a transaction": [message("BEGIN", {}), message("COMMIT")],
            "AUTHENTICATION after LOGOFF": [message("LOGOFF")],
            "STREAMING": [message("RUN", "UNWIND range(1, 5) AS x RETURN x", {}, {})],
            "TX_READY": [message("BEGIN", {})],
            "TX_STREAMING": [message("BEGIN", {}), message("RUN", "UNWIND range(1, 5) AS x RETURN x", {}, {})],
        }
        if state == "FAILED":
            self.ask(message("RUN", "RETURN 1/0 AS x", {}, {}), message("PULL", {"n": -1}))
        elif state == "FAILED in transaction":
            self.must(message("BEGIN", {}))
            self.ask(message("RUN", "THIS IS NO CYPHER", {}, {}))
        else:
            for step in steps[state]:
                self.must(step)

    def must(self, payload):
        (answer,) = self.ask(payload)
        if not isinstance(answer, Struct) or answer.signature != 0x70:
            raise RuntimeError(f"{self.version}: {payload[:40]!r} got {answer}")

    def fate(self):
        """closed or open, and what comes unasked."""
        extra = []
        while True:
            answer = self.summary(0.25)
            if answer == "eof":
                return "closed", extra
            if answer == "quiet":
                return "open", extra
            extra.append(answer)


def shown(answer):
    if isinstance(answer, str):
        return answer
    entry = {"message": NAMES.get(answer.signature, hex(answer.signature))}
    if answer.fields:
        entry["meta"] = plain(answer.fields[0])
    return entry


def one(port, version, password, state, case):
    probe = Probe(port, version, password)
    try:
        probe.to(state)
        wire = case[1] if isinstance(case, tuple) else chunked(case)
        probe.connection.send(wire)
        answer = probe.summary()
        fate, extra = ("closed", []) if answer == "eof" else probe.fate()
        result = {"answer": "none" if answer in ("eof", "quiet") else shown(answer), "connection": fate}
        if extra:
            result["then"] = [shown(item) for item in extra]
        if fate == "open" and state not in ("NEGOTIATION", "AUTHENTICATION", "AUTHENTICATION after LOGOFF"):
            # What state is it in now? PULL is IGNORED in FAILED and fatal in READY.
            (probe_answer,) = probe.ask(message("PULL", {"n": -1}))
            result["then PULL"] = shown(probe_answer) if isinstance(probe_answer, str) else NAMES[probe_answer.signature]
        return result
    finally:
        probe.connection.close()


STATES = ["NEGOTIATION", "AUTHENTICATION", "AUTHENTICATION after LOGOFF", "READY", "READY after a transaction", "FAILED",
          "FAILED in transaction", "STREAMING", "TX_READY", "TX_STREAMING"]


def jobs(version, password):
    for state in STATES:
        if "AUTHENTICATION" in state and version < (5, 1):
            continue
        for name, case in legal(version, password).items():
            yield state, name, case
    for name, case in hellos(version, password).items():
        yield "NEGOTIATION", name, case
    for name, case in malformed().items():
        yield "READY", name, case
        if name.startswith(("PULL", "DISCARD")):
            yield "STREAMING", name, case
            yield "TX_STREAMING", name, case
        if name.startswith(("LOGON", "RESET", "a ", "RUN with", "GOODBYE")) and version >= (5, 1):
            yield "AUTHENTICATION", name, case
            yield "AUTHENTICATION after LOGOFF", name, case
        if name.startswith(("RUN", "BEGIN", "COMMIT", "ROLLBACK", "RESET", "ROUTE w", "TELEMETRY", "a ", "LOG")):
            yield "FAILED", name, case
        if name.startswith(("RUN with", "RUN, ends", "RUN, ext", "RUN, mode", "RUN, a node", "COMMIT", "ROLLBACK", "a ")):
            yield "TX_READY", name, case


def main():
    name, port, password, out, *wanted = sys.argv[1:]
    table = {}
    for version in ALL:
        label = "%d.%d" % version
        if wanted and label not in wanted:
            continue
        try:
            Connection(int(port), version=version).close()
        except RuntimeError:
            continue
        found = {}
        with ThreadPoolExecutor(12) as pool:
            todo = [(s, n, pool.submit(one, int(port), version, password, s, c)) for s, n, c in jobs(version, password)]
            for state, case, future in todo:
                try:
                    found.setdefault(state, {})[case] = future.result()
                except Exception as error:  # noqa: BLE001 - shown in the table
                    found.setdefault(state, {})[case] = {"error": repr(error)}
        table[label] = found
        print(name, label, sum(map(len, found.values())), flush=True)
        with open(out, "w") as file:
            json.dump({name: table}, file, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
