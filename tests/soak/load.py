"""Clients that work without pause through official drivers, and the book of what they did and saw."""

import dataclasses
import random
import threading
import time
import uuid

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

# Long enough for a transaction to be open when something happens, short enough for many of them.
PAUSE = (0.005, 0.05)
FIRST = "CREATE (a:SoakFirst {soak: $soak, id: $id}) RETURN a.id AS id"
SECOND = "CREATE (b:SoakSecond {soak: $soak, id: $id}) RETURN b.id AS id"
SINGLE = "CREATE (a:SoakFirst {soak: $soak, id: $id}) CREATE (b:SoakSecond {soak: $soak, id: $id}) RETURN a.id AS id"


@dataclasses.dataclass
class Book:
    """What happened. A pair of nodes for each id that was acknowledged must be there at the end, and no half of one."""

    acknowledged: set = dataclasses.field(default_factory=set)
    # Attempts whose COMMIT, or auto-commit RUN, was not answered: they may be there or not.
    unknown: set = dataclasses.field(default_factory=set)
    # Attempts that cannot have been committed: they failed before their COMMIT.
    void: set = dataclasses.field(default_factory=set)
    transactions: int = 0
    auto_commits: int = 0
    reads: int = 0
    # A transaction whose BEGIN was answered, and that failed.
    begun_failed: list = dataclasses.field(default_factory=list)
    # New work that found its connection closed: what a driver tries again by itself.
    connection_errors: int = 0
    # Errors that a driver would not try again.
    fatal: list = dataclasses.field(default_factory=list)
    wrong: list = dataclasses.field(default_factory=list)
    codes: dict = dataclasses.field(default_factory=dict)
    slowest: float = 0.0
    last_success: float = 0.0


class Load:
    """`count` clients, each with a driver and a thread of its own."""

    def __init__(self, uri, auth, count):
        self.uri, self.auth = uri, auth
        self.soak = uuid.uuid4().hex
        self.book = Book()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(count)]
        # When each client's present request began: a hang is seen while it lasts.
        self.since = [None] * count

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=120)

    def hung(self):
        """How many clients have not come to an end."""
        return sum(thread.is_alive() for thread in self.threads)

    def longest_wait(self):
        now = time.monotonic()
        return max((now - since for since in self.since if since is not None), default=0.0)

    def done(self):
        with self.lock:
            return self.book.transactions + self.book.auto_commits + self.book.reads

    def work(self, number):
        chance = random.Random(number)
        # One attempt at a time: what a driver's own retries would hide is to be seen here.
        with neo4j.GraphDatabase.driver(self.uri, auth=self.auth, max_transaction_retry_time=0,
                                        connection_acquisition_timeout=60) as driver:
            kinds = [self.managed, self.explicit, self.auto_commit, self.read]
            while not self.stopping.is_set():
                started = time.monotonic()
                self.since[number] = started
                failed = kinds[chance.randrange(4)](driver, chance)
                self.since[number] = None
                with self.lock:
                    ended = time.monotonic()
                    self.book.slowest = max(self.book.slowest, ended - started)
                    if not failed:
                        self.book.last_success = ended
                if failed:
                    time.sleep(0.02)

    # Each of these makes one attempt and is true if it failed.

    def managed(self, driver, chance):
        id, state = uuid.uuid4().hex, ["new"]

        def both(tx):
            self.check(tx.run(FIRST, soak=self.soak, id=id).single()["id"], id)
            state[0] = "begun"
            time.sleep(chance.uniform(*PAUSE))
            self.check(tx.run(SECOND, soak=self.soak, id=id).single()["id"], id)
            state[0] = "committing"

        def attempt():
            with driver.session(database="neo4j") as session:
                session.execute_write(both)

        return self.note(attempt, id, state, "transactions")

    def explicit(self, driver, chance):
        id, state = uuid.uuid4().hex, ["new"]

        def attempt():
            with driver.session() as session, session.begin_transaction() as tx:
                state[0] = "begun"
                time.sleep(chance.uniform(*PAUSE))
                self.check(tx.run(FIRST, soak=self.soak, id=id).single()["id"], id)
                self.check(tx.run(SECOND, soak=self.soak, id=id).single()["id"], id)
                time.sleep(chance.uniform(*PAUSE))
                state[0] = "committing"
                tx.commit()

        return self.note(attempt, id, state, "transactions")

    def auto_commit(self, driver, _chance):
        id, state = uuid.uuid4().hex, ["single"]

        def attempt():
            with driver.session() as session:
                self.check(session.run(SINGLE, soak=self.soak, id=id).single()["id"], id)

        return self.note(attempt, id, state, "auto_commits")

    def read(self, driver, chance):
        count, word = chance.randrange(1, 300), uuid.uuid4().hex

        def attempt():
            with driver.session() as session:
                rows = session.run("UNWIND range(1, $n) AS i RETURN i, $word AS w", n=count, word=word).values()
                self.check(rows, [[i, word] for i in range(1, count + 1)])

        return self.note(attempt, None, ["read"], "reads")

    def check(self, got, expected):
        if got != expected:
            with self.lock:
                self.book.wrong.append(f"{str(got)[:200]} instead of {str(expected)[:200]}")

    def note(self, attempt, id, state, kind):
        """Makes the attempt and writes down what came of it."""
        try:
            attempt()
        except (DriverError, Neo4jError, OSError) as error:
            self.note_failure(error, id, state[0])
            return True
        with self.lock:
            setattr(self.book, kind, getattr(self.book, kind) + 1)
            if id:
                self.book.acknowledged.add(id)
        return False

    def note_failure(self, error, id, state):
        name = getattr(error, "code", None) or type(error).__name__
        with self.lock:
            book = self.book
            book.codes[name] = book.codes.get(name, 0) + 1
            if id:
                (book.unknown if state in ("committing", "single") else book.void).add(id)
            if state in ("begun", "committing"):
                book.begun_failed.append(f"{state}: {name}: {error}")
            else:
                book.connection_errors += 1
            if not error.is_retryable() and name != "IncompleteCommit":
                book.fatal.append(f"{state}: {name}: {error}")

    def verify(self, driver):
        """Compares the book with the database; gives what is wrong, and how many unknown outcomes were commits."""
        found = {}
        for label in ("SoakFirst", "SoakSecond"):
            query = f"MATCH (n:{label} {{soak: $soak}}) RETURN n.id AS id, count(*) AS n"
            found[label] = dict(driver.execute_query(query, soak=self.soak, result_transformer_=neo4j.Result.values))
        first, second = found["SoakFirst"], found["SoakSecond"]
        book, problems = self.book, []
        tell = lambda what, ids: problems.append(f"{len(ids)} {what}, such as {sorted(ids)[:3]}") if ids else None
        tell("acknowledged, but not there", book.acknowledged - (first.keys() & second.keys()))
        tell("there more than once", {id for id, n in [*first.items(), *second.items()] if n != 1})
        tell("half of a pair", first.keys() ^ second.keys())
        tell("there though they failed before COMMIT", first.keys() & book.void)
        tell("there though nobody sent them", first.keys() - book.acknowledged - book.unknown - book.void)
        return problems, len(book.unknown & first.keys())

    def clean_up(self, driver):
        for label in ("SoakFirst", "SoakSecond"):
            query = f"MATCH (n:{label} {{soak: $soak}}) WITH n LIMIT 5000 DELETE n RETURN count(*) AS n"
            while driver.execute_query(query, soak=self.soak).records[0]["n"]:
                pass
