"""The scenarios with the official Python driver: suite.py URI USER PASSWORD [SCENARIO…], one JSON line each."""

import json
import logging
import os
import pathlib
import sys
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from normal import Normal, error, summary

CASES = json.loads((pathlib.Path(__file__).resolve().parents[1] / "cases.json").read_text())
# Masked in the output, so that programs can run side by side; letters only, since digits of messages are masked.
RUN = "R" + "".join(chr(ord("a") + byte % 26) for byte in uuid.uuid4().bytes[:12])
SCENARIOS = {}


class Skipped(Exception):
    """The driver or the server cannot do this."""


class Suite:
    def __init__(self, uri, user, password):
        self.uri, self.user, self.password = uri, user, password
        self.driver = self.open()

    def open(self, auth=None, **options):
        return neo4j.GraphDatabase.driver(self.uri, auth=auth or (self.user, self.password), **options)

    def prepare(self):
        """Makes names known to the server, so that no warning depends on who ran before."""
        with self.driver.session() as s:
            s.run(f"CREATE (n:{RUN} {{p: 1, k: 1, name: '', since: 0}})-[:KNOWS {{since: 0}}]->(:{RUN}Other) "
                  f"CREATE (:{RUN}Unique)").consume()
            s.run(f"MATCH (n:{RUN}|{RUN}Other|{RUN}Unique) DETACH DELETE n").consume()

    def clean(self):
        with self.driver.session() as s:
            s.run(f"MATCH (n:{RUN}) DETACH DELETE n").consume()

    def count(self, session=None):
        query = f"MATCH (n:{RUN}) RETURN count(n) AS n"
        if session:
            return session.run(query).single()["n"]
        with self.driver.session() as s:
            return s.run(query).single()["n"]


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def fails(action):
    """The error that the action must raise. (`with` on a transaction would commit, hence `closing`.)"""
    try:
        action()
    except (Neo4jError, DriverError) as e:
        return error(e)
    raise AssertionError("an error was expected")


# ---------------------------------------------------------------- connection


@scenario
def server_info(suite, normal):
    suite.driver.verify_connectivity()
    info = suite.driver.get_server_info()
    return {
        "agent": info.agent,
        "protocol": list(info.protocol_version),
        "multi_db": suite.driver.supports_multi_db(),
        "session_auth": suite.driver.supports_session_auth(),
    }


@scenario
def verify_authentication(suite, normal):
    right = suite.driver.verify_authentication((suite.user, suite.password))
    wrong = suite.driver.verify_authentication((suite.user, "not " + suite.password))
    return {"right": right, "wrong": wrong, "after": suite.count()}


@scenario
def wrong_password(suite, normal):
    with suite.open(auth=(suite.user, "not-the-password")) as driver:
        with driver.session() as s:
            first = fails(lambda: s.run("RETURN 1").consume())
    with suite.open(auth=("nobody", "not-the-password")) as driver:
        second = fails(driver.verify_connectivity)
    return {"password": first, "user": second, "after": suite.count()}


@scenario
def second_user(suite, normal):
    name, password = f"{RUN}user", "first-secret-1"
    with suite.driver.session(database="system") as s:
        created = normal.result(s.run(f"CREATE USER {name} SET PASSWORD $p CHANGE NOT REQUIRED", p=password))
    try:
        with suite.open(auth=(name, password)) as driver, driver.session() as s:
            shown = [dict(r) for r in s.run("SHOW CURRENT USER YIELD user, passwordChangeRequired")]
            counted = suite.count(s)
            with driver.session(database="system") as system:
                system.run("ALTER CURRENT USER SET PASSWORD FROM $old TO $new", old=password, new="other-secret-2").consume()
        with suite.open(auth=(name, "other-secret-2")) as driver:
            changed = driver.execute_query("SHOW CURRENT USER YIELD user").records[0]["user"]
        mine = suite.driver.execute_query("SHOW CURRENT USER YIELD user").records[0]["user"]
    finally:
        with suite.driver.session(database="system") as s:
            dropped = normal.result(s.run(f"DROP USER {name}"))
    return {"created": created, "shown": shown, "counted": counted, "changed": changed, "mine": mine, "dropped": dropped}


@scenario
def session_auth(suite, normal):
    name, password = f"{RUN}guest", "guest-secret-1"
    who = "SHOW CURRENT USER YIELD user"
    suite.driver.execute_query(f"CREATE USER {name} SET PASSWORD $p CHANGE NOT REQUIRED", p=password, database_="system")
    try:
        seen = []
        for auth in (None, (name, password), None, (name, password), (name, password), None):
            with suite.driver.session(auth=auth) as s:
                seen.append(s.run(who).single()["user"])
            seen.append(suite.driver.execute_query(who, auth_=auth).records[0]["user"])
        with suite.driver.session(auth=(name, "wrong")) as s:
            refused = fails(lambda: s.run(who).consume())
        with suite.driver.session() as s:
            seen.append(s.run(who).single()["user"])
    finally:
        suite.driver.execute_query(f"DROP USER {name}", database_="system")
    return {"seen": seen, "refused": refused}


# ---------------------------------------------------------------- values


def round_trips(suite, normal, expressions, prefix=""):
    """Each value as the server makes it, and again after the driver sent it back as a parameter."""
    answer = []
    with suite.driver.session() as s:
        for expression in expressions:
            made = s.run(f"{prefix}RETURN {expression} AS v").single()["v"]
            with closing(s.begin_transaction()) as tx:
                back = tx.run(f"{prefix}RETURN $v AS v, [$v] AS l, {{k: $v}} AS m", v=made).single()
            answer.append([expression, normal.value(made), [normal.value(v) for v in back]])
    return answer


def value_scenarios():
    for name, expressions in CASES["values"].items():
        SCENARIOS[name] = lambda suite, normal, e=expressions: round_trips(suite, normal, e)
    for name, expressions in CASES["values_cypher25"].items():
        SCENARIOS[name] = lambda suite, normal, e=expressions: cypher25(suite, normal, e)


def cypher25(suite, normal, expressions):
    if suite.driver.get_server_info().agent.startswith("Neo4j/5."):
        raise Skipped("no Cypher 25")
    return round_trips(suite, normal, expressions, "CYPHER 25 ")


@scenario
def values_bytes(suite, normal):
    sizes = (0, 1, 255, 256, 65535, 65536, 70000)
    values = [bytes(i * 7 % 256 for i in range(size)) for size in sizes]
    with suite.driver.session() as s:
        return [[normal.value(v), normal.result(s.run("RETURN $v AS v, [$v] AS l", v=v))["rows"]] for v in values]


@scenario
def values_graph(suite, normal):
    with suite.driver.session() as s:
        made = normal.result(s.run(
            f"CREATE p = (a:{RUN}:{RUN}Other {{name: 'a', list: [1, 2], at: date('2024-01-01')}})"
            f"-[r:KNOWS {{since: 2020}}]->(b:{RUN}) RETURN a, r, b, p"))
        read = normal.result(s.run(
            f"MATCH p = (b:{RUN})<-[r:KNOWS]-(a:{RUN}) "
            "RETURN p, nodes(p) AS n, {a: a, r: [r]} AS m, [(a)-[x]->(b) | x] AS c"))
        single = normal.result(s.run(f"MATCH p = (a:{RUN} {{name: 'a'}}) RETURN p"))
        looked = s.run(f"MATCH (a:{RUN} {{name: 'a'}}) RETURN a, elementId(a) AS id").single()
        found = s.run("MATCH (a) WHERE elementId(a) = $id RETURN a.name AS name", id=looked["a"].element_id).single()
    return {"made": made, "read": read, "single": single, "same": looked["a"].element_id == looked["id"], "found": found["name"]}


# ---------------------------------------------------------------- ways to run a query


@scenario
def autocommit(suite, normal):
    with suite.driver.session() as s:
        write = normal.result(s.run(f"CREATE (n:{RUN} {{p: $p}}) RETURN n.p AS p", p=1))
        unread = summary(s.run(f"CREATE (:{RUN} {{p: 2}})-[:KNOWS]->(:{RUN} {{p: 3}})").consume())
        read = normal.result(s.run(f"MATCH (n:{RUN}) RETURN n.p AS p ORDER BY p"))
        single = s.run(f"MATCH (n:{RUN}) RETURN count(n) AS n").single(strict=True)["n"]
        merged = normal.result(s.run(f"MATCH (n:{RUN} {{p: 1}}) SET n.k = 5, n:{RUN}Other REMOVE n.p RETURN n"))
        deleted = normal.result(s.run(f"MATCH (n:{RUN}) DETACH DELETE n"))
    return {"write": write, "unread": unread, "read": read, "single": single, "set": merged, "deleted": deleted}


@scenario
def empty_result(suite, normal):
    with suite.driver.session() as s:
        return [
            normal.result(s.run(f"MATCH (n:{RUN}) RETURN n.p AS first, n.k AS `second one`")),
            normal.result(s.run(f"MATCH (n:{RUN}) DELETE n")),
            normal.result(s.run("UNWIND [] AS x RETURN x")),
        ]


@scenario
def managed_functions(suite, normal):
    def write(tx, value):
        tx.run(f"CREATE (:{RUN} {{p: $p}})", p=value).consume()
        return normal.result(tx.run(f"CREATE (n:{RUN} {{p: $p}}) RETURN n.p AS p", p=value + 1))

    def read(tx):
        return normal.result(tx.run(f"MATCH (n:{RUN}) RETURN n.p AS p ORDER BY p"))

    def broken(tx):
        tx.run(f"CREATE (:{RUN} {{p: 99}})").consume()
        raise ValueError("of the application")

    with suite.driver.session() as s:
        written = s.execute_write(write, 1)
        seen = s.execute_read(read)
        try:
            s.execute_write(broken)
            raise AssertionError("the application's own error was lost")
        except ValueError as e:
            own = str(e)
        return {"written": written, "read": seen, "own": own, "after": s.execute_read(read)["rows"]}


@scenario
def execute_query(suite, normal):
    run = suite.driver.execute_query
    write = run(f"CREATE (n:{RUN} {{p: $p}}) RETURN n.p AS p", p=1)
    read = run(f"MATCH (n:{RUN}) RETURN n.p AS p", routing_="r", database_="neo4j")
    graph = run(f"MATCH (n:{RUN}) RETURN n", result_transformer_=neo4j.Result.graph)
    empty = run(f"MATCH (n:{RUN}Other) RETURN n")
    return {
        "write": [write.keys, [r.data() for r in write.records], summary(write.summary)],
        "read": [read.keys, [r.data() for r in read.records], summary(read.summary)],
        "graph": [normal.value(n) for n in graph.nodes],
        "empty": [empty.keys, len(empty.records), summary(empty.summary)],
    }


@scenario
def console(suite, normal):
    """Sidebolt's own procedures: there through Sidebolt, unknown to Neo4j. Both have passed if nothing is raised."""
    if os.environ.get("VIA_SIDEBOLT") != "yes":
        unknown = fails(lambda: suite.driver.execute_query("CALL sidebolt.coalesce()"))
        assert unknown["code"] == "Neo.ClientError.Procedure.ProcedureNotFound", unknown
        return "as expected"
    eager = suite.driver.execute_query("CALL sidebolt.coalesce()")
    assert eager.keys[:2] == ["database", "text"] and eager.summary.query_type == "r", eager
    with suite.driver.session(fetch_size=1) as s:
        names = [r["name"] for r in s.run("CALL sidebolt.procedures()")]
        assert "sidebolt.coalesce" in names and len(names) > 2, names
        assert s.execute_read(lambda tx: [r["name"] for r in tx.run("CALL sidebolt.procedures() YIELD name")]) == names
        with s.begin_transaction() as tx:
            first, own, last = tx.run("UNWIND [1, 2, 3] AS x RETURN x"), tx.run("CALL sidebolt.procedures()"), tx.run("RETURN 4 AS x")
            seen = [r["x"] for r in first], [r["name"] for r in own], [r["x"] for r in last]
            assert seen == ([1, 2, 3], names, [4]), seen
            tx.commit()
    unknown = fails(lambda: suite.driver.execute_query("CALL sidebolt.nope()"))
    assert unknown["code"] == "Neo.ClientError.Procedure.ProcedureNotFound", unknown
    return "as expected"


@scenario
def refusal(suite, normal):
    """A limit and a rule of Sidebolt's: outside of a transaction a clear error, a managed one backs off and succeeds, the session stays."""
    if os.environ.get("VIA_SIDEBOLT") != "yes":
        return "as expected"
    own = {"app": f"refusal {RUN}"}

    @neo4j.unit_of_work(metadata=own)
    def work(tx):
        return tx.run("RETURN 1 AS x").single()["x"]

    with suite.driver.session() as s:
        def ask():
            return s.run(neo4j.Query("RETURN 1 AS x", metadata=own)).single()["x"]

        def denied(runner):
            code = fails(lambda: runner.run("RETURN 'guard denies this' AS x").consume())["code"]
            assert code == "Neo.ClientError.Security.Forbidden", code

        assert ask() == 1
        refused = fails(ask)
        assert refused["code"] == "Neo.TransientError.Request.NoThreadsAvailable", refused
        assert s.execute_read(work) == 1
        denied(s)
        with closing(s.begin_transaction()) as tx:
            tx.run("RETURN 1").consume()
            denied(tx)
        assert s.run("RETURN 2 AS x").single()["x"] == 2
    return "as expected"


@scenario
def gnn(suite, normal):
    """Embeddings by Sidebolt's procedures: fetched in pieces, in a managed transaction with more Cypher behind YIELD, and a clear error."""
    if os.environ.get("VIA_SIDEBOLT") != "yes":
        return "as expected"
    with suite.driver.session(fetch_size=2) as s:
        s.run(f"CREATE (:{RUN} {{p: 1}})-[:{RUN}]->(:{RUN} {{p: 2}})-[:{RUN}]->(:{RUN} {{p: 3}})").consume()
        s.run("CALL gnn.graph.project($g, $g, $g)", g=RUN).consume()
        rows = list(s.run("CALL gnn.fastRP.stream($g, {embeddingDimension: 4})", g=RUN))
        assert len(rows) == 3 and all(len(row["embedding"]) == 4 for row in rows), rows

        def work(tx):
            call = "CALL gnn.fastRP.stream($g, {embeddingDimension: 4}) YIELD elementId AS e"
            return tx.run(f"{call} MATCH (n:{RUN}) WHERE elementId(n) = e RETURN sum(n.p) AS p", g=RUN).single()["p"]

        assert s.execute_write(work) == 6
        refused = fails(lambda: s.run("MATCH (n) CALL gnn.graph.list() YIELD graphName RETURN graphName").consume())
        assert refused["code"] == "Neo.ClientError.Statement.SyntaxError", refused
        shown = [row["name"] for row in s.run("SHOW PROCEDURES YIELD name WHERE name CONTAINS '.graph.'")]
        assert "gnn.graph.drop" in shown, shown
        assert s.run("CALL gnn.graph.drop($g)", g=RUN).single()["nodeCount"] == 3
        s.run(f"MATCH (n:{RUN}) DETACH DELETE n").consume()
    return "as expected"


# ---------------------------------------------------------------- transactions


@scenario
def tx_commit(suite, normal):
    with suite.driver.session() as s:
        tx = s.begin_transaction()
        first = normal.result(tx.run(f"CREATE (n:{RUN} {{p: 1}}) RETURN n.p AS p"))
        inside = normal.result(tx.run(f"MATCH (n:{RUN}) RETURN count(n) AS n"))
        outside = suite.count()
        tx.commit()
        return {"first": first, "inside": inside, "outside": outside, "closed": tx.closed(), "after": suite.count(s)}


@scenario
def tx_rollback(suite, normal):
    with suite.driver.session() as s:
        tx = s.begin_transaction()
        tx.run(f"CREATE (n:{RUN})").consume()
        inside = tx.run(f"MATCH (n:{RUN}) RETURN count(n) AS n").single()["n"]
        tx.rollback()
        used = fails(lambda: tx.run("RETURN 1"))
        return {"inside": inside, "after": suite.count(s), "used": used}


@scenario
def tx_close(suite, normal):
    with suite.driver.session() as s:
        with closing(s.begin_transaction()) as tx:
            tx.run(f"CREATE (n:{RUN})").consume()
        after = suite.count(s)
        tx = s.begin_transaction()
        tx.run(f"CREATE (n:{RUN})")
    return {"after": after, "session_closed": suite.count()}


@scenario
def bookmarks(suite, normal):
    """Each session sees what the one before wrote."""
    seen, marks, distinct = [], None, set()
    for i in range(10):
        with suite.driver.session(bookmarks=marks) as s:
            s.execute_write(lambda tx: tx.run(f"CREATE (:{RUN} {{p: $p}})", p=i).consume())
            marks = s.last_bookmarks()
            distinct |= set(marks.raw_values)
        with suite.driver.session(bookmarks=marks) as s:
            seen.append(s.execute_read(lambda tx: tx.run(f"MATCH (n:{RUN}) RETURN count(n) AS n").single()["n"]))
            seen.append(len(s.last_bookmarks().raw_values))
    with suite.driver.session(bookmarks=neo4j.Bookmarks.from_raw_values(["not a bookmark"])) as s:
        bad = fails(lambda: s.run("RETURN 1").consume())
    return {"seen": seen, "distinct": len(distinct), "bad": bad}


@scenario
def small_fetch_discard(suite, normal):
    query = "UNWIND range(1, 1000) AS x RETURN x"
    with suite.driver.session(fetch_size=3) as s:
        all_rows = sum(r["x"] for r in s.run(query))
        result = s.run(query)
        some = [next(iter(result))["x"] for _ in range(5)]
        early = summary(result.consume())
        at_once = summary(s.run(query).consume())
        peeked = s.run(query).peek()["x"]
        fetched = [r["x"] for r in s.run(query).fetch(7)]
        with closing(s.begin_transaction()) as tx:
            dropped = [next(iter(tx.run(query)))["x"] for _ in range(3)]
            again = tx.run("RETURN 'still fine' AS v").single()["v"]
    return {"sum": all_rows, "some": some, "early": early, "at_once": at_once, "peeked": peeked, "fetched": fetched,
            "dropped": dropped, "again": again}


@scenario
def interleaved_results(suite, normal):
    with suite.driver.session(fetch_size=2) as s, s.begin_transaction() as tx:
        one = tx.run("UNWIND range(1, 9) AS x RETURN x")
        two = tx.run("UNWIND range(101, 109) AS x RETURN x")
        pairs = [[a["x"], b["x"]] for a, b in zip(one, two)]
        three = tx.run("UNWIND range(1, 50) AS x RETURN x")
        first = next(iter(three))["x"]
        four = tx.run("RETURN 4 AS x").single()["x"]
        rest = [r["x"] for r in three]
        tx.commit()
    return {"pairs": pairs, "first": first, "four": four, "rest": rest}


@scenario
def large_result(suite, normal):
    with suite.driver.session() as s:
        result = s.run("UNWIND range(1, 20000) AS x RETURN x, toString(x) AS s, {k: [x, x + 1]} AS m")
        count = total = length = 0
        for record in result:
            count, total, length = count + 1, total + record["x"] + record["m"]["k"][1], length + len(record["s"])
        return {"count": count, "total": total, "length": length, "summary": summary(result.consume())}


@scenario
def large_parameter(suite, normal):
    text = "0123456789abcdef" * 65536
    rows = [{"i": i, "t": "x" * 100} for i in range(5000)]
    with suite.driver.session() as s:
        back = normal.result(s.run("RETURN $t AS t, size($t) AS n", t=text))
        many = normal.result(s.run("UNWIND $rows AS row RETURN sum(row.i) AS total, sum(size(row.t)) AS n", rows=rows))
    return {"text": back, "rows": many}


# ---------------------------------------------------------------- plans and notifications


@scenario
def explain(suite, normal):
    with suite.driver.session() as s:
        s.run(f"CREATE (:{RUN} {{p: 1}})").consume()
        read = normal.result(s.run(f"EXPLAIN MATCH (n:{RUN}) WHERE n.p = $p RETURN n.p AS p", p=1))
        write = normal.result(s.run(f"EXPLAIN CREATE (:{RUN} {{p: 2}})"))
        return {"read": read, "write": write, "after": suite.count(s)}


@scenario
def profile(suite, normal):
    with suite.driver.session() as s:
        s.run(f"UNWIND range(1, 5) AS x CREATE (:{RUN} {{p: x}})").consume()
        return normal.result(s.run(f"PROFILE MATCH (n:{RUN}) WHERE n.p > 2 RETURN n.p AS p ORDER BY p"))


# Two warnings and an information of different categories.
NOISY = f"MATCH (a:{RUN}Absent), (b:{RUN}) WHERE a.absentProperty{RUN} = 1 RETURN a, b"


@scenario
def notifications(suite, normal):
    with suite.driver.session() as s:
        return [
            normal.result(s.run(NOISY)),
            normal.result(s.run(f"EXPLAIN MATCH (a:{RUN}) RETURN id(a) AS deprecated")),
            normal.result(s.run("MATCH (a) WHERE elementId(a) = '' RETURN a")),
            normal.result(s.run(f"CREATE CONSTRAINT {RUN}c IF NOT EXISTS FOR (n:{RUN}Unique) REQUIRE n.k IS UNIQUE")),
            normal.result(s.run(f"CREATE CONSTRAINT {RUN}c IF NOT EXISTS FOR (n:{RUN}Unique) REQUIRE n.k IS UNIQUE")),
            normal.result(s.run(f"DROP CONSTRAINT {RUN}c")),
        ]


FILTERS = [
    {"notifications_min_severity": "OFF"},
    {"notifications_min_severity": "WARNING"},
    {"notifications_min_severity": "INFORMATION"},
    {"notifications_disabled_classifications": ["UNRECOGNIZED"]},
    {"notifications_disabled_classifications": ["PERFORMANCE", "DEPRECATION"]},
    {"notifications_min_severity": "WARNING", "notifications_disabled_classifications": ["UNRECOGNIZED"]},
    {"notifications_disabled_classifications": []},
]


def statuses_under(session, normal):
    noisy = normal.result(session.run(NOISY))["summary"]
    with session.begin_transaction() as tx:
        inside = normal.result(tx.run(NOISY))["summary"]
    old = normal.result(session.run(f"EXPLAIN MATCH (a:{RUN}) RETURN id(a) AS deprecated"))["summary"]
    return [[s["statuses"], s["notifications"]] for s in (noisy, inside, old)]


@scenario
def notification_filter_driver(suite, normal):
    answer = []
    for options in FILTERS:
        with suite.open(**options) as driver, driver.session() as s:
            answer.append([options, statuses_under(s, normal)])
            eager = driver.execute_query(NOISY).summary
            answer.append(summary(eager)["statuses"])
    return answer


@scenario
def notification_filter_session(suite, normal):
    """The filter of a session on drivers with and without a filter of their own."""
    answer = []
    for driver_options in ({}, FILTERS[0], FILTERS[3]):
        with suite.open(**driver_options) as driver:
            for options in FILTERS:
                with driver.session(**options) as s:
                    answer.append([driver_options, options, statuses_under(s, normal)])
    return answer


# ---------------------------------------------------------------- errors


def error_scenarios():
    for name, case in CASES["errors"].items():
        SCENARIOS[name] = lambda suite, normal, c=case: failing(suite, c["cypher"], c["parameters"])


def failing(suite, cypher, parameters):
    """The same error in each way to run a query; the session works on."""
    rows = []

    def plain(session):
        rows.extend(record.values() for record in session.run(cypher, parameters))

    def managed(tx):
        for record in tx.run(cypher, parameters):
            record.value()

    with suite.driver.session(fetch_size=2) as s:
        first = fails(lambda: plain(s))
        after = s.run("RETURN 1 AS v").single()["v"]
        second = fails(lambda: s.execute_write(managed))
        third = fails(lambda: suite.driver.execute_query(cypher, parameters))
        with closing(s.begin_transaction()) as tx:
            fourth = fails(lambda: managed(tx))
            closed = tx.closed()
        again = s.run("RETURN 2 AS v").single()["v"]
    return {"errors": [first, second, third, fourth], "rows": rows, "after": after, "closed": closed, "again": again}


@scenario
def error_constraint(suite, normal):
    with suite.driver.session() as s:
        made = normal.result(s.run(f"CREATE CONSTRAINT {RUN}k FOR (n:{RUN}) REQUIRE n.k IS UNIQUE"))
        try:
            s.run(f"CREATE (:{RUN} {{k: 1}})").consume()
            plain = fails(lambda: s.run(f"CREATE (:{RUN} {{k: 1}})").consume())
            with closing(s.begin_transaction()) as tx:
                tx.run(f"CREATE (:{RUN} {{k: 2}})").consume()
                inside = fails(lambda: tx.run(f"CREATE (:{RUN} {{k: 1}})").consume())
            count = suite.count(s)
        finally:
            dropped = normal.result(s.run(f"DROP CONSTRAINT {RUN}k"))
    return {"made": made, "plain": plain, "inside": inside, "count": count, "dropped": dropped}


@scenario
def error_in_transaction(suite, normal):
    with suite.driver.session() as s:
        tx = s.begin_transaction()
        tx.run(f"CREATE (:{RUN})").consume()
        failed = fails(lambda: tx.run("RETURN 1 / 0 AS v").consume())
        next_one = fails(lambda: tx.run("RETURN 1 AS v").consume())
        commit = fails(tx.commit)
        tx.close()
        after = suite.count(s)
        with closing(s.begin_transaction()) as tx:
            tx.run(f"CREATE (:{RUN})").consume()
            lazy = fails(lambda: (tx.run("RETURN 1 / 0 AS v"), tx.run("RETURN 1 AS v").consume()))
            tx.rollback()
        return {"failed": failed, "next": next_one, "commit": commit, "lazy": lazy, "after": after, "end": suite.count(s)}


SLOW = "UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 8 RETURN count(x) AS n"


@scenario
def tx_timeout(suite, normal):
    with suite.driver.session() as s:
        plain = fails(lambda: s.run(neo4j.Query(SLOW, timeout=0.1)).consume())
        with closing(s.begin_transaction(timeout=0.1)) as tx:
            explicit = fails(lambda: tx.run(SLOW).consume())
        managed = fails(lambda: s.execute_read(neo4j.unit_of_work(timeout=0.1)(lambda tx: tx.run(SLOW).consume())))
        return {"plain": plain, "explicit": explicit, "managed": managed, "after": suite.count(s)}


@scenario
def tx_metadata(suite, normal):
    meta = {"app": RUN, "n": 42, "deep": {"list": [1, "two"]}}
    show = "SHOW TRANSACTIONS YIELD metaData, username, database, currentQuery WHERE metaData.app = $app RETURN *"
    with suite.driver.session() as s, suite.driver.session() as other:
        own = normal.result(s.run(neo4j.Query(show, metadata=meta), app=RUN))
        with closing(s.begin_transaction(metadata=meta)) as tx:
            tx.run("RETURN 1").consume()
            seen = normal.result(other.run(show, app=RUN))
        after = normal.result(other.run(show, app=RUN))
    return {"own": own, "seen": seen, "after": after}


@scenario
def read_mode_write(suite, normal):
    query = f"CREATE (:{RUN})"
    with suite.driver.session(default_access_mode="READ") as s:
        plain = fails(lambda: s.run(query).consume())
        with closing(s.begin_transaction()) as tx:
            explicit = fails(lambda: tx.run(query).consume())
        managed = fails(lambda: s.execute_read(lambda tx: tx.run(query).consume()))
        eager = fails(lambda: suite.driver.execute_query(query, routing_="r"))
        allowed = summary(s.execute_write(lambda tx: tx.run(query).consume()))["counters"]
    return {"plain": plain, "explicit": explicit, "managed": managed, "eager": eager, "allowed": allowed, "count": suite.count()}


@scenario
def unknown_database(suite, normal):
    with suite.driver.session(database="nosuchdb") as s:
        plain = fails(lambda: s.run("RETURN 1").consume())
        explicit = fails(lambda: s.begin_transaction().run("RETURN 1").consume())
    with suite.driver.session(database="system") as s:
        system = normal.result(s.run("SHOW DATABASES YIELD name, type, access, role, writer, currentStatus, default RETURN * ORDER BY name"))
    return {"plain": plain, "explicit": explicit, "system": system, "after": suite.count()}


@scenario
def impersonation(suite, normal):
    with suite.driver.session(impersonated_user="somebody") as s:
        plain = fails(lambda: s.run("RETURN 1").consume())
        explicit = fails(lambda: s.begin_transaction().run("RETURN 1").consume())
    return {"plain": plain, "explicit": explicit, "after": suite.count()}


# ---------------------------------------------------------------- many at once


@scenario
def concurrency(suite, normal):
    def worker(number):
        total = 0
        for i in range(20):
            with suite.driver.session() as s:
                match i % 4:
                    case 0:
                        total += s.run("RETURN $v AS v", v=number).single()["v"]
                    case 1:
                        s.run(f"CREATE (:{RUN} {{p: $p}})", p=number).consume()
                    case 2:
                        total += s.execute_read(lambda tx: tx.run("UNWIND range(1, 10) AS x RETURN sum(x) AS v").single()["v"])
                    case _:
                        query = f"MATCH (n:{RUN} {{p: $p}}) RETURN count(n) AS v"
                        total += suite.driver.execute_query(query, p=number).records[0]["v"]
        return total

    with ThreadPoolExecutor(20) as pool:
        totals = list(pool.map(worker, range(20)))
    return {"totals": totals, "nodes": suite.count()}


# ---------------------------------------------------------------- run


def run(suite, name):
    suite.clean()
    line = {"scenario": name}
    try:
        line["result"] = SCENARIOS[name](suite, Normal())
    except Skipped as e:
        line["skipped"] = str(e)
    except Exception:
        line["crash"] = traceback.format_exc()
    finally:
        suite.clean()
    print(json.dumps(line, ensure_ascii=False, default=repr).replace(RUN, "RUN"), flush=True)


def main():
    # Notifications are compared, not logged.
    logging.getLogger("neo4j").setLevel(logging.CRITICAL)
    logging.getLogger("neo4j").addHandler(logging.NullHandler())
    value_scenarios()
    error_scenarios()
    wanted = (pathlib.Path(__file__).resolve().parents[1] / "scenarios").read_text().split()
    suite = Suite(*sys.argv[1:4])
    suite.prepare()
    for name in sys.argv[4:] or wanted:
        run(suite, name)
    suite.driver.close()


if __name__ == "__main__":
    main()
