import static org.neo4j.driver.Values.parameters;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.neo4j.driver.AccessMode;
import org.neo4j.driver.AuthToken;
import org.neo4j.driver.AuthTokens;
import org.neo4j.driver.Bookmark;
import org.neo4j.driver.Config;
import org.neo4j.driver.Driver;
import org.neo4j.driver.EagerResult;
import org.neo4j.driver.GraphDatabase;
import org.neo4j.driver.NotificationClassification;
import org.neo4j.driver.NotificationSeverity;
import org.neo4j.driver.QueryConfig;
import org.neo4j.driver.Result;
import org.neo4j.driver.RoutingControl;
import org.neo4j.driver.Session;
import org.neo4j.driver.SessionConfig;
import org.neo4j.driver.SimpleQueryRunner;
import org.neo4j.driver.Transaction;
import org.neo4j.driver.TransactionConfig;
import org.neo4j.driver.Value;
import org.neo4j.driver.exceptions.Neo4jException;
import org.neo4j.driver.summary.QueryType;

/** The scenarios with the official Java driver: Suite URI USER PASSWORD [SCENARIO…], one JSON line each. */
public final class Suite {
    /** Masked in the output, so that programs can run side by side; letters only, since digits of messages are masked. */
    private static final String RUN = "R" + letters();

    private static final String WHO = "SHOW CURRENT USER YIELD user";
    private static final String NOISY = "MATCH (a:RUNAbsent), (b:RUN) WHERE a.absentPropertyRUN = 1 RETURN a, b";
    private static final String OLD = "EXPLAIN MATCH (a:RUN) RETURN id(a) AS deprecated";
    private static final String SLOW = "UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 8 RETURN count(x) AS n";

    private final String uri;
    private final String user;
    private final String password;
    private final Driver driver;
    private final JsonObject cases;
    private final Map<String, Function<Normal, Object>> scenarios = new LinkedHashMap<>();

    private static final class Skipped extends RuntimeException {
        Skipped(String why) {
            super(why);
        }
    }

    private Suite(String uri, String user, String password) throws Exception {
        this.uri = uri;
        this.user = user;
        this.password = password;
        driver = open(AuthTokens.basic(user, password), c -> {});
        cases = JsonParser.parseString(Files.readString(Path.of("../cases.json"))).getAsJsonObject();
        register();
    }

    private static String letters() {
        var out = new StringBuilder();
        new java.security.SecureRandom().ints(12, 'a', 'z' + 1).forEach(c -> out.append((char) c));
        return out.toString();
    }

    private static String q(String cypher) {
        return cypher.replace("RUN", RUN);
    }

    private static List<Object> list(Object... items) {
        return Normal.list(items);
    }

    private static Map<String, Object> map(Object... pairs) {
        return Normal.map(pairs);
    }

    private Driver open(AuthToken auth, Consumer<Config.ConfigBuilder> configure) {
        var config = Config.builder();
        configure.accept(config);
        return GraphDatabase.driver(uri, auth, config.build());
    }

    private <T> T with(Driver own, Function<Driver, T> action) {
        try (own) {
            return action.apply(own);
        }
    }

    private static <T> T with(Session session, Function<Session, T> action) {
        try (session) {
            return action.apply(session);
        }
    }

    private <T> T session(Function<Session, T> action) {
        return with(driver.session(), action);
    }

    private static SessionConfig.Builder options() {
        return SessionConfig.builder();
    }

    /** In a transaction that is closed, not committed. */
    private static <T> T within(Transaction tx, Function<Transaction, T> action) {
        try (tx) {
            return action.apply(tx);
        }
    }

    /** The error that the action must raise. */
    private static Object fails(Runnable action) {
        try {
            action.run();
        } catch (Neo4jException | IllegalStateException e) {
            return Normal.error(e);
        }
        throw new AssertionError("an error was expected");
    }

    private static void drain(SimpleQueryRunner runner, String cypher, Object... pairs) {
        runner.run(q(cypher), parameters(pairs)).list();
    }

    private static Value only(SimpleQueryRunner runner, String cypher, Object... pairs) {
        return runner.run(q(cypher), parameters(pairs)).single().get(0);
    }

    private static Result run(SimpleQueryRunner runner, String cypher, Object... pairs) {
        return runner.run(q(cypher), parameters(pairs));
    }

    private static int count(SimpleQueryRunner runner) {
        return only(runner, "MATCH (n:RUN) RETURN count(n) AS n").asInt();
    }

    private int count() {
        return session(Suite::count);
    }

    private EagerResult eager(Driver on, String cypher, Map<String, Object> parameters, QueryConfig config) {
        return on.executableQuery(q(cypher)).withParameters(parameters).withConfig(config).execute();
    }

    private EagerResult eager(Driver on, String cypher) {
        return eager(on, cypher, Map.of(), QueryConfig.defaultConfig());
    }

    private static Object shape(Normal normal, EagerResult r) {
        return list(r.keys(), normal.rows(r.records()), Normal.summary(r.summary()));
    }

    private void clean() {
        session(s -> run(s, "MATCH (n:RUN) DETACH DELETE n").consume());
    }

    /** Makes names known to the server, so that no warning depends on who ran before. */
    private void prepare() {
        session(s -> {
            drain(s, "CREATE (n:RUN {p: 1, k: 1, name: '', since: 0})-[:KNOWS {since: 0}]->(:RUNOther) CREATE (:RUNUnique)");
            return run(s, "MATCH (n:RUN|RUNOther|RUNUnique) DETACH DELETE n").consume();
        });
    }

    private void register() {
        scenarios.put("server_info", this::serverInfo);
        scenarios.put("verify_authentication", this::verifyAuthentication);
        scenarios.put("wrong_password", this::wrongPassword);
        scenarios.put("second_user", this::secondUser);
        scenarios.put("session_auth", this::sessionAuth);
        for (var entry : cases.getAsJsonObject("values").entrySet()) {
            scenarios.put(entry.getKey(), n -> roundTrips(n, entry.getValue().getAsJsonArray(), ""));
        }
        for (var entry : cases.getAsJsonObject("values_cypher25").entrySet()) {
            scenarios.put(entry.getKey(), n -> {
                if (agent().startsWith("Neo4j/5.")) {
                    throw new Skipped("no Cypher 25");
                }
                return roundTrips(n, entry.getValue().getAsJsonArray(), "CYPHER 25 ");
            });
        }
        scenarios.put("values_bytes", this::valuesBytes);
        scenarios.put("values_graph", this::valuesGraph);
        scenarios.put("autocommit", this::autocommit);
        scenarios.put("empty_result", this::emptyResult);
        scenarios.put("managed_functions", this::managedFunctions);
        scenarios.put("execute_query", this::executeQuery);
        scenarios.put("console", this::console);
        scenarios.put("refusal", this::refusal);
        scenarios.put("gnn", this::gnn);
        scenarios.put("tx_commit", this::txCommit);
        scenarios.put("tx_rollback", this::txRollback);
        scenarios.put("tx_close", this::txClose);
        scenarios.put("bookmarks", this::bookmarks);
        scenarios.put("small_fetch_discard", this::smallFetchDiscard);
        scenarios.put("interleaved_results", this::interleavedResults);
        scenarios.put("large_result", this::largeResult);
        scenarios.put("large_parameter", this::largeParameter);
        scenarios.put("explain", this::explain);
        scenarios.put("profile", this::profile);
        scenarios.put("notifications", this::notifications);
        scenarios.put("notification_filter_driver", this::filterOfDriver);
        scenarios.put("notification_filter_session", this::filterOfSession);
        for (var entry : cases.getAsJsonObject("errors").entrySet()) {
            scenarios.put(entry.getKey(), n -> failing(n, entry.getValue().getAsJsonObject()));
        }
        scenarios.put("error_constraint", this::errorConstraint);
        scenarios.put("error_in_transaction", this::errorInTransaction);
        scenarios.put("tx_timeout", this::txTimeout);
        scenarios.put("tx_metadata", this::txMetadata);
        scenarios.put("read_mode_write", this::readModeWrite);
        scenarios.put("unknown_database", this::unknownDatabase);
        scenarios.put("impersonation", n -> refused(options().withImpersonatedUser("somebody").build()));
        scenarios.put("concurrency", this::concurrency);
    }

    // ---------------------------------------------------------------- connection

    private String agent() {
        return session(s -> s.run("RETURN 1").consume().server().agent());
    }

    private Object serverInfo(Normal normal) {
        driver.verifyConnectivity();
        var server = session(s -> s.run("RETURN 1").consume().server());
        return map("agent", server.agent(), "protocol", server.protocolVersion(), "multiDb", driver.supportsMultiDb(),
                "sessionAuth", driver.supportsSessionAuth(), "encrypted", driver.isEncrypted());
    }

    private Object verifyAuthentication(Normal normal) {
        return map("right", driver.verifyAuthentication(AuthTokens.basic(user, password)),
                "wrong", driver.verifyAuthentication(AuthTokens.basic(user, "not " + password)), "after", count());
    }

    private Object wrongPassword(Normal normal) {
        var first = with(open(AuthTokens.basic(user, "not-the-password"), c -> {}),
                d -> with(d.session(), s -> fails(() -> s.run("RETURN 1").consume())));
        var second = with(open(AuthTokens.basic("nobody", "not-the-password"), c -> {}), d -> fails(d::verifyConnectivity));
        return map("password", first, "user", second, "after", count());
    }

    private Object secondUser(Normal normal) {
        var system = SessionConfig.forDatabase("system");
        var out = map();
        try (var admin = driver.session(system)) {
            out.put("created", normal.result(run(admin, "CREATE USER RUNuser SET PASSWORD 'first-secret-1' CHANGE NOT REQUIRED")));
            try (var own = open(AuthTokens.basic(RUN + "user", "first-secret-1"), c -> {})) {
                out.put("shown", with(own.session(), s -> normal.result(run(s, "SHOW CURRENT USER YIELD user, passwordChangeRequired"))));
                out.put("counted", with(own.session(), Suite::count));
                with(own.session(system), s ->
                        run(s, "ALTER CURRENT USER SET PASSWORD FROM 'first-secret-1' TO 'other-secret-2'").consume());
            }
            out.put("changed", with(open(AuthTokens.basic(RUN + "user", "other-secret-2"), c -> {}),
                    d -> normal.rows(eager(d, WHO).records())));
            out.put("mine", normal.rows(eager(driver, WHO).records()));
            out.put("dropped", normal.result(run(admin, "DROP USER RUNuser")));
        }
        return out;
    }

    private Object sessionAuth(Normal normal) {
        var inSystem = QueryConfig.builder().withDatabase("system").build();
        var guest = AuthTokens.basic(RUN + "guest", "guest-secret-1");
        eager(driver, "CREATE USER RUNguest SET PASSWORD 'guest-secret-1' CHANGE NOT REQUIRED", Map.of(), inSystem);
        var seen = list();
        try {
            for (var auth : Arrays.asList(null, guest, null, guest, guest, null)) {
                var session = driver.session(Session.class, SessionConfig.defaultConfig(), auth);
                seen.add(with(session, s -> only(s, WHO).asString()));
                var query = driver.executableQuery(WHO);
                var result = auth == null ? query.execute() : query.withAuthToken(auth).execute();
                seen.add(result.records().get(0).get(0).asString());
            }
            var wrong = AuthTokens.basic(RUN + "guest", "wrong");
            var refused = with(driver.session(Session.class, wrong), s -> fails(() -> s.run(WHO).consume()));
            seen.add(session(s -> only(s, WHO).asString()));
            return map("seen", seen, "refused", refused);
        } finally {
            eager(driver, "DROP USER RUNguest", Map.of(), inSystem);
        }
    }

    // ---------------------------------------------------------------- values

    /** Each value as the server makes it, and again after the driver sent it back as a parameter. */
    private Object roundTrips(Normal normal, Iterable<com.google.gson.JsonElement> expressions, String prefix) {
        var out = list();
        try (var s = driver.session()) {
            for (var element : expressions) {
                var expression = element.getAsString();
                var made = s.run(prefix + "RETURN " + expression + " AS v").single().get(0);
                var cypher = prefix + "RETURN $v AS v, [$v] AS l, {k: $v} AS m";
                var back = within(s.beginTransaction(), tx -> normal.rows(tx.run(cypher, parameters("v", made)).list()));
                out.add(list(expression, normal.value(made), back));
            }
        }
        return out;
    }

    private Object valuesBytes(Normal normal) {
        var out = list();
        try (var s = driver.session()) {
            for (int size : new int[] {0, 1, 255, 256, 65535, 65536, 70000}) {
                var v = new byte[size];
                for (int i = 0; i < size; i++) {
                    v[i] = (byte) (i * 7);
                }
                out.add(list(size, normal.rows(run(s, "RETURN $v AS v, [$v] AS l", "v", v).list())));
            }
        }
        return out;
    }

    private Object valuesGraph(Normal normal) {
        return session(s -> {
            var out = map("made", normal.result(run(s, "CREATE p = (a:RUN:RUNOther {name: 'a', list: [1, 2], at: date('2024-01-01')})"
                    + "-[r:KNOWS {since: 2020}]->(b:RUN) RETURN a, r, b, p")));
            out.put("read", normal.result(run(s, "MATCH p = (b:RUN)<-[r:KNOWS]-(a:RUN) "
                    + "RETURN p, nodes(p) AS n, {a: a, r: [r]} AS m, [(a)-[x]->(b) | x] AS c")));
            out.put("single", normal.result(run(s, "MATCH p = (a:RUN {name: 'a'}) RETURN p")));
            var looked = run(s, "MATCH (a:RUN {name: 'a'}) RETURN a, elementId(a) AS id").single();
            var id = looked.get("a").asNode().elementId();
            out.put("same", id.equals(looked.get("id").asString()));
            out.put("found", only(s, "MATCH (a) WHERE elementId(a) = $id RETURN a.name AS name", "id", id).asString());
            return out;
        });
    }

    // ---------------------------------------------------------------- ways to run a query

    private Object autocommit(Normal normal) {
        return session(s -> map(
                "write", normal.result(run(s, "CREATE (n:RUN {p: $p}) RETURN n.p AS p", "p", 1)),
                "unread", Normal.summary(run(s, "CREATE (:RUN {p: 2})-[:KNOWS]->(:RUN {p: 3})").consume()),
                "read", normal.result(run(s, "MATCH (n:RUN) RETURN n.p AS p ORDER BY p")),
                "set", normal.result(run(s, "MATCH (n:RUN {p: 1}) SET n.k = 5, n:RUNOther REMOVE n.p RETURN n")),
                "deleted", normal.result(run(s, "MATCH (n:RUN) DETACH DELETE n"))));
    }

    private Object emptyResult(Normal normal) {
        return session(s -> list(
                normal.result(run(s, "MATCH (n:RUN) RETURN n.p AS first, n.k AS `second one`")),
                normal.result(run(s, "MATCH (n:RUN) DELETE n")),
                normal.result(run(s, "UNWIND [] AS x RETURN x"))));
    }

    private Object managedFunctions(Normal normal) {
        var create = "CREATE (n:RUN {p: $p}) RETURN n.p AS p";
        var read = "MATCH (n:RUN) RETURN n.p AS p ORDER BY p";
        return session(s -> {
            var written = s.executeWrite(tx -> {
                drain(tx, create, "p", 1);
                return normal.result(run(tx, create, "p", 2));
            });
            var seen = s.executeRead(tx -> normal.result(run(tx, read)));
            var own = fails(() -> s.executeWriteWithoutResult(tx -> {
                drain(tx, create, "p", 99);
                throw new IllegalStateException("of the application");
            }));
            return map("written", written, "read", seen, "own", own, "after", s.executeRead(tx -> normal.result(run(tx, read))));
        });
    }

    private Object executeQuery(Normal normal) {
        var reading = QueryConfig.builder().withRouting(RoutingControl.READ).withDatabase("neo4j").build();
        return map(
                "write", shape(normal, eager(driver, "CREATE (n:RUN {p: $p}) RETURN n.p AS p", Map.of("p", 1), QueryConfig.defaultConfig())),
                "read", shape(normal, eager(driver, "MATCH (n:RUN) RETURN n.p AS p", Map.of(), reading)),
                "empty", shape(normal, eager(driver, "MATCH (n:RUNOther) RETURN n")));
    }

    /** Sidebolt's own procedures: there through Sidebolt, unknown to Neo4j. Both have passed if nothing is thrown. */
    private Object console(Normal normal) {
        if (!"yes".equals(System.getenv("VIA_SIDEBOLT"))) {
            unknown("CALL sidebolt.coalesce()");
            return "as expected";
        }
        var eager = eager(driver, "CALL sidebolt.coalesce()");
        expect(eager.keys().get(0).equals("database") && eager.summary().queryType() == QueryType.READ_ONLY, eager.keys());
        with(driver.session(options().withFetchSize(1).build()), s -> {
            var names = column(s.run("CALL sidebolt.procedures()"));
            expect(names.size() > 2 && names.contains("sidebolt.coalesce"), names);
            var managed = s.executeRead(tx -> column(tx.run("CALL sidebolt.procedures() YIELD name")));
            expect(managed.equals(names), managed);
            var tx = s.beginTransaction();
            var numbers = tx.run("UNWIND ['a', 'b', 'c'] AS x RETURN x");
            var own = tx.run("CALL sidebolt.procedures()");
            var last = column(tx.run("RETURN 'd' AS x"));
            var seen = List.of(column(numbers), column(own), last);
            expect(seen.equals(List.of(List.of("a", "b", "c"), names, List.of("d"))), seen);
            tx.commit();
            tx.close();
            return null;
        });
        unknown("CALL sidebolt.nope()");
        return "as expected";
    }

    /** A limit and a rule of Sidebolt's: outside of a transaction a clear error, a managed one backs off and succeeds, the session stays. */
    private Object refusal(Normal normal) {
        if (!"yes".equals(System.getenv("VIA_SIDEBOLT"))) {
            return "as expected";
        }
        var own = TransactionConfig.builder().withMetadata(Map.of("app", "refusal " + RUN)).build();
        var denied = "RETURN 'guard denies this' AS x";
        with(driver.session(), s -> {
            expect(s.run("RETURN 1 AS x", Map.of(), own).single().get("x").asInt() == 1, "1");
            coded("Neo.TransientError.Request.NoThreadsAvailable", () -> s.run("RETURN 1 AS x", Map.of(), own).consume());
            expect(s.executeRead(tx -> tx.run("RETURN 1 AS x").single().get("x").asInt(), own) == 1, "1");
            coded("Neo.ClientError.Security.Forbidden", () -> s.run(denied).consume());
            try (var tx = s.beginTransaction()) {
                tx.run("RETURN 1").consume();
                coded("Neo.ClientError.Security.Forbidden", () -> tx.run(denied).consume());
            }
            expect(s.run("RETURN 2 AS x").single().get("x").asInt() == 2, "2");
            return null;
        });
        return "as expected";
    }

    /** Embeddings by Sidebolt's procedures: fetched in pieces, in a managed transaction with more Cypher behind YIELD, and a clear error. */
    private Object gnn(Normal normal) {
        if (!"yes".equals(System.getenv("VIA_SIDEBOLT"))) {
            return "as expected";
        }
        Map<String, Object> graph = Map.of("g", RUN);
        var call = "CALL gnn.fastRP.stream($g, {embeddingDimension: 4})";
        var rest = call + " YIELD elementId AS e MATCH (n:" + RUN + ") WHERE elementId(n) = e RETURN sum(n.p) AS p";
        with(driver.session(SessionConfig.builder().withFetchSize(2).build()), s -> {
            s.run("CREATE (:R {p: 1})-[:R]->(:R {p: 2})-[:R]->(:R {p: 3})".replace(":R", ":" + RUN)).consume();
            s.run("CALL gnn.graph.project($g, $g, $g)", graph).consume();
            var rows = s.run(call, graph).list();
            expect(rows.size() == 3 && rows.get(0).get("embedding").size() == 4, rows.toString());
            expect(s.executeWrite(tx -> tx.run(rest, graph).single().get("p").asInt()) == 6, "6");
            coded("Neo.ClientError.Statement.SyntaxError",
                    () -> s.run("MATCH (n) CALL gnn.graph.list() YIELD graphName RETURN graphName").consume());
            expect(s.run("CALL gnn.graph.drop($g)", graph).single().get("nodeCount").asInt() == 3, "3");
            s.run("MATCH (n:" + RUN + ") DETACH DELETE n").consume();
            return null;
        });
        return "as expected";
    }

    private static void coded(String code, Runnable action) {
        try {
            action.run();
        } catch (Neo4jException e) {
            expect(e.code().equals(code), e);
            return;
        }
        throw new AssertionError("an error was expected: " + code);
    }

    private static List<String> column(Result result) {
        return result.list(record -> record.get(0).asString());
    }

    private static void expect(boolean holds, Object seen) {
        if (!holds) {
            throw new AssertionError("unexpected: " + seen);
        }
    }

    private void unknown(String cypher) {
        try {
            eager(driver, cypher);
        } catch (Neo4jException e) {
            expect(e.code().equals("Neo.ClientError.Procedure.ProcedureNotFound"), e);
            return;
        }
        throw new AssertionError("an error was expected");
    }

    // ---------------------------------------------------------------- transactions

    private Object txCommit(Normal normal) {
        return session(s -> {
            var tx = s.beginTransaction();
            var first = normal.result(run(tx, "CREATE (n:RUN {p: 1}) RETURN n.p AS p"));
            var out = map("first", first, "inside", count(tx), "outside", count());
            tx.commit();
            tx.close();
            out.putAll(map("twice", fails(tx::commit), "open", tx.isOpen(), "after", count(s)));
            return out;
        });
    }

    private Object txRollback(Normal normal) {
        return session(s -> {
            var tx = s.beginTransaction();
            drain(tx, "CREATE (n:RUN)");
            var inside = count(tx);
            tx.rollback();
            tx.close();
            return map("inside", inside, "after", count(s), "used", fails(() -> tx.run("RETURN 1")));
        });
    }

    private Object txClose(Normal normal) {
        var after = session(s -> {
            within(s.beginTransaction(), tx -> run(tx, "CREATE (n:RUN)").consume());
            var seen = count(s);
            drain(s.beginTransaction(), "CREATE (n:RUN)");
            return seen;
        });
        return map("after", after, "sessionClosed", count());
    }

    /** Each session sees what the one before wrote. */
    private Object bookmarks(Normal normal) {
        var seen = list();
        var distinct = new HashSet<Bookmark>();
        Set<Bookmark> marks = Set.of();
        for (int i = 0; i < 10; i++) {
            int number = i;
            try (var s = driver.session(options().withBookmarks(marks).build())) {
                s.executeWriteWithoutResult(tx -> drain(tx, "CREATE (:RUN {p: $p})", "p", number));
                marks = s.lastBookmarks();
            }
            distinct.addAll(marks);
            try (var s = driver.session(options().withBookmarks(marks).build())) {
                seen.add(s.<Integer>executeRead(Suite::count));
                seen.add(s.lastBookmarks().size());
            }
        }
        var bad = with(driver.session(options().withBookmarks(Bookmark.from("not a bookmark")).build()),
                s -> fails(() -> s.run("RETURN 1").consume()));
        return map("seen", seen, "distinct", distinct.size(), "bad", bad);
    }

    private static List<Object> take(Result result, int most) {
        var out = list();
        while (out.size() < most && result.hasNext()) {
            out.add(result.next().get(0).asInt());
        }
        return out;
    }

    private Object smallFetchDiscard(Normal normal) {
        var cypher = "UNWIND range(1, 1000) AS x RETURN x";
        return with(driver.session(options().withFetchSize(3).build()), s -> {
            var out = map("all", Normal.digest(take(s.run(cypher), 2000).toString()));
            var result = s.run(cypher);
            out.put("some", take(result, 5));
            out.put("early", Normal.summary(result.consume()));
            out.put("atOnce", Normal.summary(s.run(cypher).consume()));
            out.put("peeked", s.run(cypher).peek().get(0).asInt());
            within(s.beginTransaction(), tx -> {
                out.put("dropped", take(tx.run(cypher), 4));
                return out.put("again", only(tx, "RETURN 'still fine' AS v").asString());
            });
            return out;
        });
    }

    private Object interleavedResults(Normal normal) {
        return with(driver.session(options().withFetchSize(2).build()), s -> within(s.beginTransaction(), tx -> {
            var one = tx.run("UNWIND range(1, 9) AS x RETURN x");
            var two = tx.run("UNWIND range(101, 109) AS x RETURN x");
            var pairs = list();
            while (one.hasNext() && two.hasNext()) {
                pairs.add(list(one.next().get(0).asInt(), two.next().get(0).asInt()));
            }
            var three = tx.run("UNWIND range(1, 50) AS x RETURN x");
            var out = map("pairs", pairs, "first", take(three, 1), "four", only(tx, "RETURN 4 AS x").asInt(), "rest", take(three, 100));
            tx.commit();
            return out;
        }));
    }

    private Object largeResult(Normal normal) {
        return session(s -> {
            var result = s.run("UNWIND range(1, 20000) AS x RETURN x, toString(x) AS s, {k: [x, x + 1]} AS m");
            long rows = 0;
            long total = 0;
            long length = 0;
            while (result.hasNext()) {
                var record = result.next();
                rows++;
                total += record.get("x").asLong() + record.get("m").get("k").get(1).asLong();
                length += record.get("s").asString().length();
            }
            return map("rows", rows, "total", total, "length", length, "summary", Normal.summary(result.consume()));
        });
    }

    private Object largeParameter(Normal normal) {
        var rows = new ArrayList<Map<String, Object>>();
        for (int i = 0; i < 5000; i++) {
            rows.add(Map.of("i", i, "t", "x".repeat(100)));
        }
        return session(s -> map(
                "text", normal.result(run(s, "RETURN $t AS t, size($t) AS n", "t", "0123456789abcdef".repeat(65536))),
                "rows", normal.result(run(s, "UNWIND $rows AS row RETURN sum(row.i) AS total, sum(size(row.t)) AS n", "rows", rows))));
    }

    // ---------------------------------------------------------------- plans and notifications

    private Object explain(Normal normal) {
        return session(s -> {
            drain(s, "CREATE (:RUN {p: 1})");
            return map("read", normal.result(run(s, "EXPLAIN MATCH (n:RUN) WHERE n.p = $p RETURN n.p AS p", "p", 1)),
                    "write", normal.result(run(s, "EXPLAIN CREATE (:RUN {p: 2})")), "after", count(s));
        });
    }

    private Object profile(Normal normal) {
        return session(s -> {
            drain(s, "UNWIND range(1, 5) AS x CREATE (:RUN {p: x})");
            return normal.result(run(s, "PROFILE MATCH (n:RUN) WHERE n.p > 2 RETURN n.p AS p ORDER BY p"));
        });
    }

    private Object notifications(Normal normal) {
        var constraint = "CREATE CONSTRAINT RUNc IF NOT EXISTS FOR (n:RUNUnique) REQUIRE n.k IS UNIQUE";
        var out = list();
        try (var s = driver.session()) {
            for (var cypher : list(NOISY, OLD, "MATCH (a) WHERE elementId(a) = '' RETURN a", constraint, constraint, "DROP CONSTRAINT RUNc")) {
                out.add(normal.result(run(s, (String) cypher)));
            }
        }
        return out;
    }

    private record Filter(NotificationSeverity severity, Set<NotificationClassification> disabled) {
        void ofDriver(Config.ConfigBuilder config) {
            if (severity != null) {
                config.withMinimumNotificationSeverity(severity);
            }
            if (disabled != null) {
                config.withDisabledNotificationClassifications(disabled);
            }
        }

        SessionConfig ofSession() {
            var options = options();
            if (severity != null) {
                options.withMinimumNotificationSeverity(severity);
            }
            if (disabled != null) {
                options.withDisabledNotificationClassifications(disabled);
            }
            return options.build();
        }
    }

    private static final List<Filter> FILTERS = List.of(
            new Filter(NotificationSeverity.OFF, null),
            new Filter(NotificationSeverity.WARNING, null),
            new Filter(NotificationSeverity.INFORMATION, null),
            new Filter(null, Set.of(NotificationClassification.UNRECOGNIZED)),
            new Filter(null, Set.of(NotificationClassification.PERFORMANCE, NotificationClassification.DEPRECATION)),
            new Filter(NotificationSeverity.WARNING, Set.of(NotificationClassification.UNRECOGNIZED)),
            new Filter(null, Set.of()));

    private static Object statusesUnder(Session s) {
        var summaries = List.of(run(s, NOISY).consume(), within(s.beginTransaction(), tx -> run(tx, NOISY).consume()), run(s, OLD).consume());
        return summaries.stream().map(x -> list(Normal.statuses(x), Normal.notes(x))).toList();
    }

    private Object filterOfDriver(Normal normal) {
        var out = list();
        for (var filter : FILTERS) {
            try (var own = open(AuthTokens.basic(user, password), filter::ofDriver)) {
                out.add(list(with(own.session(), Suite::statusesUnder), Normal.statuses(eager(own, NOISY).summary())));
            }
        }
        return out;
    }

    /** The filter of a session on drivers with and without a filter of their own. */
    private Object filterOfSession(Normal normal) {
        var out = list();
        for (var own : List.of(new Filter(null, null), FILTERS.get(0), FILTERS.get(3))) {
            try (var d = open(AuthTokens.basic(user, password), own::ofDriver)) {
                for (var filter : FILTERS) {
                    out.add(with(d.session(filter.ofSession()), Suite::statusesUnder));
                }
            }
        }
        return out;
    }

    // ---------------------------------------------------------------- errors

    /** The same error in each way to run a query; the session works on. */
    private Object failing(Normal normal, JsonObject wrong) {
        var cypher = wrong.get("cypher").getAsString();
        @SuppressWarnings("unchecked")
        Map<String, Object> parameters = Normal.GSON.fromJson(wrong.get("parameters"), Map.class);
        var rows = list();
        return with(driver.session(options().withFetchSize(2).build()), s -> {
            var errors = list(fails(() -> s.run(cypher, parameters).forEachRemaining(r -> rows.add(r.values(normal::value)))));
            var after = only(s, "RETURN 1 AS v").asInt();
            errors.add(fails(() -> s.executeWrite(tx -> tx.run(cypher, parameters).list())));
            errors.add(fails(() -> driver.executableQuery(cypher).withParameters(parameters).execute()));
            within(s.beginTransaction(), tx -> errors.add(list(fails(() -> tx.run(cypher, parameters).list()), tx.isOpen())));
            return map("errors", errors, "rows", rows, "after", after, "again", only(s, "RETURN 2 AS v").asInt());
        });
    }

    private Object errorConstraint(Normal normal) {
        return session(s -> {
            var out = map("made", normal.result(run(s, "CREATE CONSTRAINT RUNk FOR (n:RUN) REQUIRE n.k IS UNIQUE")));
            try {
                drain(s, "CREATE (:RUN {k: 1})");
                out.put("plain", fails(() -> drain(s, "CREATE (:RUN {k: 1})")));
                out.put("inside", within(s.beginTransaction(), tx -> {
                    drain(tx, "CREATE (:RUN {k: 2})");
                    return fails(() -> drain(tx, "CREATE (:RUN {k: 1})"));
                }));
                out.put("count", count(s));
            } finally {
                out.put("dropped", normal.result(run(s, "DROP CONSTRAINT RUNk")));
            }
            return out;
        });
    }

    private Object errorInTransaction(Normal normal) {
        return session(s -> {
            var out = within(s.beginTransaction(), tx -> {
                drain(tx, "CREATE (:RUN)");
                return map("failed", fails(() -> drain(tx, "RETURN 1 / 0 AS v")), "next", fails(() -> drain(tx, "RETURN 1 AS v")),
                        "commit", fails(tx::commit));
            });
            out.put("after", count(s));
            try (var tx = s.beginTransaction()) {
                drain(tx, "CREATE (:RUN)");
                out.put("again", fails(() -> drain(tx, "RETURN 1 / 0 AS v")));
                tx.rollback();
            }
            out.put("end", count(s));
            return out;
        });
    }

    private Object txTimeout(Normal normal) {
        var limit = TransactionConfig.builder().withTimeout(Duration.ofMillis(100)).build();
        return session(s -> map(
                "plain", fails(() -> s.run(SLOW, limit).consume()),
                "explicit", within(s.beginTransaction(limit), tx -> fails(() -> tx.run(SLOW).consume())),
                "managed", fails(() -> s.executeRead(tx -> tx.run(SLOW).consume(), limit)),
                "after", count(s)));
    }

    private Object txMetadata(Normal normal) {
        var meta = TransactionConfig.builder()
                .withMetadata(Map.of("app", RUN, "n", 42, "deep", Map.of("list", List.of(1, "two")))).build();
        var show = "SHOW TRANSACTIONS YIELD metaData, username, database, currentQuery WHERE metaData.app = $app RETURN *";
        Map<String, Object> app = Map.of("app", RUN);
        return session(s -> session(other -> {
            var out = map("own", normal.result(s.run(show, app, meta)));
            within(s.beginTransaction(meta), tx -> {
                drain(tx, "RETURN 1");
                return out.put("seen", normal.result(other.run(show, app)));
            });
            out.put("after", normal.result(other.run(show, app)));
            return out;
        }));
    }

    private Object readModeWrite(Normal normal) {
        var cypher = "CREATE (:RUN)";
        var reading = QueryConfig.builder().withRouting(RoutingControl.READ).build();
        var out = with(driver.session(options().withDefaultAccessMode(AccessMode.READ).build()), s -> map(
                "plain", fails(() -> drain(s, cypher)),
                "explicit", within(s.beginTransaction(), tx -> fails(() -> drain(tx, cypher))),
                "managed", fails(() -> s.executeRead(tx -> run(tx, cypher).list())),
                "eager", fails(() -> eager(driver, cypher, Map.of(), reading)),
                "allowed", Normal.counters(s.executeWrite(tx -> run(tx, cypher).consume()).counters())));
        out.put("count", count());
        return out;
    }

    /** What a session with this configuration answers to any query. */
    private Map<String, Object> refused(SessionConfig config) {
        return with(driver.session(config), s -> map(
                "plain", fails(() -> s.run("RETURN 1").consume()),
                "explicit", fails(() -> s.beginTransaction().run("RETURN 1").consume()),
                "after", count()));
    }

    private Object unknownDatabase(Normal normal) {
        var out = refused(SessionConfig.forDatabase("nosuchdb"));
        out.put("system", with(driver.session(SessionConfig.forDatabase("system")), s -> normal.result(run(s,
                "SHOW DATABASES YIELD name, type, access, role, writer, currentStatus, default RETURN * ORDER BY name"))));
        return out;
    }

    // ---------------------------------------------------------------- many at once

    private long step(int number, int i) {
        return session(s -> switch (i % 4) {
            case 0 -> only(s, "RETURN $p AS v", "p", number).asLong();
            case 1 -> {
                drain(s, "CREATE (:RUN {p: $p})", "p", number);
                yield 0L;
            }
            case 2 -> s.executeRead(tx -> only(tx, "UNWIND range(1, 10) AS x RETURN sum(x) AS v").asLong());
            default -> eager(driver, "MATCH (n:RUN {p: $p}) RETURN count(n) AS v", Map.of("p", number), QueryConfig.defaultConfig())
                    .records().get(0).get(0).asLong();
        });
    }

    private Object concurrency(Normal normal) {
        var pool = Executors.newFixedThreadPool(20);
        try {
            var workers = new ArrayList<Callable<Long>>();
            IntStream.range(0, 20).forEach(n -> workers.add(() -> IntStream.range(0, 20).mapToLong(i -> step(n, i)).sum()));
            var totals = list();
            for (var done : pool.invokeAll(workers)) {
                totals.add(done.get());
            }
            return map("totals", totals, "nodes", count());
        } catch (InterruptedException | java.util.concurrent.ExecutionException e) {
            throw new IllegalStateException(e);
        } finally {
            pool.shutdown();
        }
    }

    // ---------------------------------------------------------------- run

    private Map<String, Object> attempt(String name) {
        var line = map("scenario", name);
        try {
            line.put("result", scenarios.get(name).apply(new Normal()));
        } catch (Skipped e) {
            line.put("skipped", e.getMessage());
        } catch (Exception | AssertionError e) {
            var trace = new StringWriter();
            e.printStackTrace(new PrintWriter(trace));
            line.put("crash", trace.toString());
        }
        return line;
    }

    public static void main(String[] args) throws Exception {
        if (args.length < 3) {
            System.err.println("usage: Suite URI USER PASSWORD [SCENARIO…], in the folder of the program");
            System.exit(2);
        }
        var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        var suite = new Suite(args[0], args[1], args[2]);
        var wanted = args.length > 3
                ? Arrays.asList(args).subList(3, args.length)
                : Files.readAllLines(Path.of("../scenarios"));
        try (suite.driver) {
            suite.prepare();
            for (var name : wanted) {
                suite.clean();
                var line = suite.attempt(name);
                suite.clean();
                out.println(Normal.GSON.toJson(line).replace(RUN, "RUN"));
            }
        }
    }
}
