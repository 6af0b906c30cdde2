"""See `run`."""

import argparse
import atexit
import contextlib
import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import neo4j

from load import Load

HERE = pathlib.Path(__file__).resolve().parent
RIG = HERE.parent / "rig" / "neo4j"
# No request waits longer, in seconds, whatever happens. A Neo4j that has just started may need long for its first answer.
HANG = 60
DRAIN = 30
# From the first answer that a new Neo4j gives directly to the first that it gives through Sidebolt.
RECOVERY = 5


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, condition, seconds):
    """Waits until `condition` gives something; the seconds that took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(0.002)
    return time.monotonic() - started


class Neo4j:
    """A server of this run's own, or the one that the caller named."""

    def __init__(self, own):
        self.named = None if own else os.environ.get("SOAK_NEO4J")
        self.auth = ("neo4j", os.environ.get("SOAK_PASSWORD", "password"))
        self.home = None

    def __enter__(self):
        if self.named:
            self.address = self.named
        else:
            self.version = os.environ.get("NEO4J_VERSION") or self.rig("versions").split()[-1]
            self.home = tempfile.mkdtemp(prefix="soak-neo4j-")
            self.start(0)
            self.address = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        if self.home:
            self.rig("stop", self.home)
            shutil.rmtree(self.home)

    def rig(self, *arguments):
        return subprocess.run([RIG, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self, port):
        said = json.loads(self.rig("start", self.version, "--home", self.home, "--port", str(port)))
        self.pid, self.port, self.auth = said["pid"], said["port"], ("neo4j", said["password"])

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        # Its parent, the rig, has ended: init reaps it.
        until("the killed server is gone", lambda: not running(self.pid), 10)

    def driver(self):
        return neo4j.GraphDatabase.driver(f"bolt://{self.address}", auth=self.auth)


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Sidebolt:
    """`sidebolt run` on ports that stay the same when it is started again."""

    def __init__(self, folder, server):
        self.port, self.admin, self.server = free_port(), free_port(), server
        self.config, self.log = pathlib.Path(folder) / "proxy.yaml", pathlib.Path(folder) / "sidebolt.log"
        self.process = None

    def configure(self, text):
        """Puts another file in the place of the configuration, at once."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.rename(self.config)

    def usual(self, pool=16, acquisition="20s", level="info"):
        return (f"listen:\n  address: 127.0.0.1:{self.port}\nadmin:\n  address: 127.0.0.1:{self.admin}\n"
                f"upstream:\n  uri: bolt://{self.server.address}\n"
                f"pool:\n  max_connection_pool_size: {pool}\n  connection_acquisition_timeout: {acquisition}\n"
                f"log:\n  level: {level}\nshutdown:\n  drain_timeout: {DRAIN}s\n")

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([os.environ["SIDEBOLT"], "run", "--config", self.config],
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        # Whatever happens here, it does not outlive this program.
        atexit.register(self.process.kill)
        for _ in range(2):
            line = self.process.stdout.readline()
            if not line.startswith("listening"):
                raise SystemExit(f"sidebolt did not start:\n{self.log.read_text()[-3000:]}")

    def terminate(self):
        """SIGTERM; the exit code and the seconds that the drain took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DRAIN + 10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "none: killed"
        self.process.stdout.close()
        return code, time.monotonic() - started

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def total(self, pattern):
        return int(sum(value for name, value in self.metrics().items() if re.search(pattern, name)))

    def rss(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) // 1024

    def panics(self):
        return self.log.read_text(errors="replace").count("panicked")


class Report:
    """Figures, and the promises among them."""

    def __init__(self, title):
        self.title, self.lines, self.broken = title, [], []

    def figure(self, name, value, promise=None, kept=True, details=()):
        self.lines.append(f"| {name} | {value} | {'' if promise is None else promise} |")
        if not kept:
            self.broken.append(f"{name}: {value}, promised {promise}")
            self.broken.extend(f"    {detail}" for detail in list(details)[:5])

    def none(self, name, things):
        self.figure(name, len(things), "0", not things, things)

    def print(self):
        print(f"\n### {self.title}\n\n| figure | value | promised |\n|---|---|---|")
        print("\n".join(self.lines), flush=True)
        for line in self.broken:
            print(f"BROKEN {line}", flush=True)
        return not self.broken


def common(report, load, server, bolt, unknown=None):
    """What every soak shows; `unknown`: how many attempts without an answer may turn out to be commits."""
    book = load.book
    report.figure("transactions / auto-commit writes / reads done",
                  f"{book.transactions} / {book.auto_commits} / {book.reads}", "> 0",
                  min(book.transactions, book.auto_commits, book.reads) > 0)
    report.none("wrong answers", book.wrong)
    report.figure("clients that hang at the end", load.hung(), "0", load.hung() == 0)
    with server.driver() as driver:
        problems, committed = load.verify(driver)
        report.none("differences between what was acknowledged and the database", problems)
        report.figure("writes without an answer, committed all the same", f"{committed} of {len(book.unknown)}",
                      unknown, unknown is None or committed <= unknown)
        load.clean_up(driver)
    report.figure("errors seen", json.dumps(book.codes) if book.codes else "none")
    report.figure("slowest request", f"{book.slowest:.2f} s")
    report.figure("panics", bolt.panics(), "0", bolt.panics() == 0)


def at_rest(report, bolt, pool):
    """No lease is left over."""
    # The clients are gone; what they held is cleaned up in its own time.
    rest = lambda: bolt.total("^sidebolt_pinned_connections") == 0 and bolt.total("^sidebolt_clients$") == 0
    with contextlib.suppress(SystemExit):
        until("nothing is held", rest, 15)
    report.figure("connections held at rest", bolt.total("^sidebolt_pinned_connections"), "0",
                  bolt.total("^sidebolt_pinned_connections") == 0)
    opened, idle = (bolt.total(f'^sidebolt_pool_connections.*"{state}"') for state in ("open", "idle"))
    report.figure("pool: open, idle", f"{opened}, {idle}", f"equal, at most {pool}", opened == idle <= pool)


def sigterm(folder, args):
    times, chance, report = args.times or 100, random.Random(1), Report("SIGTERM under load")
    with Neo4j(own=False) as server:
        bolt, drains, codes = Sidebolt(folder, server), [], []
        bolt.configure(bolt.usual())
        bolt.start()
        with Load(f"bolt://127.0.0.1:{bolt.port}", server.auth, args.clients) as load:
            for turn in range(times):
                before = load.done()
                until("the load runs again", lambda: load.done() >= before + 2 * args.clients, HANG)
                time.sleep(chance.uniform(0, 0.1))
                code, drain = bolt.terminate()
                codes.append(code)
                drains.append(drain)
                bolt.start()
                if turn % 20 == 19:
                    say(f"sigterm {turn + 1}/{times}")
            until("the load runs at the end", lambda: load.done() >= before + 2 * args.clients, HANG)
        report.figure("SIGTERMs", times)
        report.none("transactions that had begun and failed", load.book.begun_failed)
        report.figure("exit codes", sorted(set(map(str, codes))), "0", set(codes) == {0})
        report.figure("drain, median / max",
                      f"{sorted(drains)[len(drains) // 2] * 1000:.0f} / {max(drains) * 1000:.0f} ms",
                      f"max {DRAIN} s", max(drains) < DRAIN)
        report.figure("attempts at new work that found no connection", load.book.connection_errors, "retryable")
        report.none("errors that a driver does not retry", load.book.fatal)
        common(report, load, server, bolt, unknown=0)
        at_rest(report, bolt, 16)
        bolt.terminate()
    return report


def bad_file(bolt, turn):
    """A file that must be refused."""
    return [bolt.usual() + "no_such_key: 1\n", bolt.usual(acquisition="soon"), "listen: [\n",
            bolt.usual().replace("size: 16", "size: -1")][turn % 4]


def reload(folder, args):
    times, report = args.times or 1000, Report("Reloads under load")
    levels = ["info", "warn", "info,sidebolt::upstream=debug"]
    with Neo4j(own=False) as server:
        bolt, expected, bad = Sidebolt(folder, server), {"applied": 0, "refused": 0}, False
        bolt.configure(bolt.usual())
        bolt.start()
        counted = lambda: {outcome: bolt.total(f'^sidebolt_config_reloads.*"{outcome}"') for outcome in expected}
        with Load(f"bolt://127.0.0.1:{bolt.port}", server.auth, args.clients) as load:
            until("the load runs", lambda: load.done() > 50 * args.clients, HANG)
            accepted = lambda: bolt.total('^sidebolt_listener_connections.*"accepted"')
            before, rss, failures = accepted(), bolt.rss(), 0
            for turn in range(times):
                # A new file every other time, SIGHUP in between; every third file is bad.
                if turn % 2 == 0:
                    bad = turn // 2 % 3 == 2
                    good = bolt.usual(pool=[4, 16, 8, 12, 2][turn // 2 % 5], acquisition=["20s", "25s"][turn // 4 % 2],
                                      level=levels[turn // 6 % 3])
                    bolt.configure(bad_file(bolt, turn // 6) if bad else good)
                else:
                    bolt.process.send_signal(signal.SIGHUP)
                expected["refused" if bad else "applied"] += 1
                with contextlib.suppress(SystemExit):
                    until("the reload is counted", lambda: sum(counted().values()) >= turn + 1, HANG)
                if counted() != expected:
                    failures += 1
                    if failures == 1:
                        say(f"reload {turn}: {counted()} instead of {expected}")
                if turn % 100 == 99:
                    say(f"reload {turn + 1}/{times}")
            after, rss_after = accepted(), bolt.rss()
        report.figure("reloads", times)
        report.figure("applied, refused", ", ".join(map(str, counted().values())),
                      ", ".join(map(str, expected.values())), counted() == expected and not failures)
        failed = load.book.begun_failed + load.book.fatal
        report.none("failed transactions", failed)
        report.figure("failed queries, connection errors", load.book.connection_errors, "0",
                      load.book.connection_errors == 0, load.book.codes)
        report.figure("client connections made anew", after - before, "0", after == before)
        report.figure("RSS before / after", f"{rss} / {rss_after} MiB", "grows by at most 32 MiB", rss_after <= rss + 32)
        common(report, load, server, bolt)
        at_rest(report, bolt, 16)
        code, _ = bolt.terminate()
        report.figure("exit code", code, "0", code == 0)
    return report


def kill(folder, args):
    times, chance, report = args.times or 20, random.Random(2), Report("Neo4j killed under load")
    with Neo4j(own=True) as server:
        bolt, starts, recoveries, longest = Sidebolt(folder, server), [], [], 0.0
        bolt.configure(bolt.usual())
        bolt.start()
        with Load(f"bolt://127.0.0.1:{bolt.port}", server.auth, args.clients) as load:
            for turn in range(times):
                before = load.done()
                until("the load runs again", lambda: load.done() >= before + 10 * args.clients, HANG)
                time.sleep(chance.uniform(0, 0.3))
                server.kill()
                server.start(server.port)
                before, up = load.done(), time.monotonic()
                with server.driver() as driver:
                    driver.execute_query("RETURN 1")
                direct, first = time.monotonic(), load.book.last_success
                if load.done() == before:
                    with contextlib.suppress(SystemExit):
                        until("a request succeeds", lambda: load.done() > before, HANG)
                    first = time.monotonic()
                recoveries.append(max(0.0, first - direct))
                starts.append(direct - up)
                longest = max(longest, load.longest_wait())
                say(f"kill {turn + 1}/{times}: {recoveries[-1]:.2f} s")
        book = load.book
        report.figure("kills", times)
        report.figure("Neo4j's own time to its first answer after it listened, max", f"{max(starts):.2f} s")
        report.figure("first success through Sidebolt after that, median / max",
                      f"{sorted(recoveries)[times // 2]:.2f} / {max(recoveries):.2f} s", f"max {RECOVERY} s",
                      max(recoveries) < RECOVERY)
        report.figure("transactions cut by a kill", len(book.begun_failed))
        report.figure("other requests that failed", book.connection_errors)
        report.none("errors that a driver does not retry", book.fatal)
        report.figure("longest wait seen", f"{max(longest, book.slowest):.2f} s", f"max {HANG} s",
                      max(longest, book.slowest) < HANG)
        common(report, load, server, bolt)
        at_rest(report, bolt, 16)
        code, drain = bolt.terminate()
        report.figure("exit code, drain", f"{code}, {drain * 1000:.0f} ms", "0", code == 0)
    return report


def main():
    parser = argparse.ArgumentParser(prog="run", description="Soak tests with real Neo4j; see the head of `run`.")
    soaks = {"sigterm": sigterm, "reload": reload, "kill": kill}
    parser.add_argument("what", nargs="?", default="all", choices=[*soaks, "all"])
    parser.add_argument("--times", type=int, help="instead of 100 SIGTERMs, 1000 reloads, 20 kills")
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    # The driver's warnings of every connection that breaks: they are counted instead.
    logging.getLogger("neo4j").setLevel(logging.CRITICAL)
    kept = True
    for name in soaks if args.what == "all" else [args.what]:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            try:
                kept &= soaks[name](folder, args).print()
            finally:
                if os.environ.get("SOAK_LOG"):
                    shutil.copy(pathlib.Path(folder) / "sidebolt.log", os.environ["SOAK_LOG"])
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
