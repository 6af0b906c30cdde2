import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.temporal.TemporalAccessor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.stream.StreamSupport;
import org.neo4j.driver.Record;
import org.neo4j.driver.Result;
import org.neo4j.driver.Value;
import org.neo4j.driver.exceptions.Neo4jException;
import org.neo4j.driver.exceptions.RetryableException;
import org.neo4j.driver.summary.GqlNotification;
import org.neo4j.driver.summary.GqlStatusObject;
import org.neo4j.driver.summary.InputPosition;
import org.neo4j.driver.summary.Plan;
import org.neo4j.driver.summary.ProfiledPlan;
import org.neo4j.driver.summary.ResultSummary;
import org.neo4j.driver.summary.SummaryCounters;
import org.neo4j.driver.types.Entity;

/** Turns what the driver hands out into plain, comparable values with a type tag; one for each scenario. */
final class Normal {
    static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();

    /** Element ids are replaced by the order in which they were seen. */
    private final Map<String, Integer> seen = new HashMap<>();

    static String digest(String text) {
        try {
            var sum = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(sum, 0, 8);
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    static Object shorten(String text) {
        return text.length() <= 200 ? text : list(text.length(), digest(text));
    }

    /** Hides what differs between two runs: addresses and ids. */
    static String mask(String text) {
        return text == null ? null : text.replaceAll("[\\w.]+:\\d{4,5}\\b", "<address>").replaceAll("\\d+", "N");
    }

    static List<Object> list(Object... items) {
        return new ArrayList<>(Arrays.asList(items));
    }

    /** A map in the order in which it is written: map("a", 1, "b", 2). */
    static Map<String, Object> map(Object... pairs) {
        var out = new LinkedHashMap<String, Object>();
        for (int i = 0; i < pairs.length; i += 2) {
            out.put((String) pairs[i], pairs[i + 1]);
        }
        return out;
    }

    private static List<Object> sorted(List<Object> items) {
        items.sort(Comparator.comparing(GSON::toJson));
        return items;
    }

    String element(String id) {
        seen.putIfAbsent(id, seen.size() + 1);
        return id.replaceAll("\\d+$", "").replaceAll("[0-9a-f]{8}-[0-9a-f-]{27}", "<uuid>") + "#" + seen.get(id);
    }

    Object value(Value v) {
        var type = v.type().name();
        return switch (type) {
            case "STRING" -> list(type, shorten(v.asString()));
            case "BYTES" -> list(type, shorten(HexFormat.of().formatHex(v.asByteArray())));
            case "LIST OF ANY?", "LIST" -> ofList(v);
            case "MAP" -> list(type, properties(v.asMap(x -> x)));
            case "NODE" -> entity(type, v.asNode(), new TreeSet<>(labels(v)));
            case "RELATIONSHIP" -> {
                var r = v.asRelationship();
                var ends = list(element(r.startNodeElementId()), element(r.endNodeElementId()));
                yield list(entity(type, r, r.type()), ends);
            }
            case "PATH" -> path(v.asPath());
            case "POINT" -> list(type, v.asPoint().srid(), "" + v.asPoint().x(), "" + v.asPoint().y(), "" + v.asPoint().z());
            case "DURATION" -> {
                var d = v.asIsoDuration();
                yield list(type, d.months(), d.days(), d.seconds(), d.nanoseconds());
            }
            default -> scalar(type, v);
        };
    }

    private static Object scalar(String type, Value v) {
        var plain = v.asObject();
        if (plain instanceof org.neo4j.driver.types.Vector vector) {
            return list(type, vector.elementType().getSimpleName(), vector.length(), vector.toString());
        }
        boolean known = plain == null || plain instanceof Boolean || plain instanceof Number
                || plain instanceof TemporalAccessor || plain instanceof java.util.UUID;
        if (!known) {
            throw new IllegalStateException("no normal form for " + type + " " + plain.getClass());
        }
        return list(type, plain == null ? "null" : plain.getClass().getSimpleName(), String.valueOf(plain));
    }

    private static List<String> labels(Value node) {
        return StreamSupport.stream(node.asNode().labels().spliterator(), false).toList();
    }

    private Object ofList(Value v) {
        var items = new ArrayList<Object>(v.asList(this::value));
        return list("list", items.size() <= 40 ? items : list(items.size(), digest(GSON.toJson(items))));
    }

    private Object entity(String type, Entity e, Object kind) {
        return list(type, element(e.elementId()), kind, properties(e.asMap(x -> x)));
    }

    private Object path(org.neo4j.driver.types.Path p) {
        var nodes = new ArrayList<Object>();
        p.nodes().forEach(n -> nodes.add(value(org.neo4j.driver.Values.value(n))));
        var relationships = new ArrayList<Object>();
        p.relationships().forEach(r -> relationships.add(value(org.neo4j.driver.Values.value(r))));
        return list("path", nodes, relationships);
    }

    private Object properties(Map<String, Value> values) {
        var out = new TreeMap<String, Object>();
        values.forEach((key, v) -> out.put(key, value(v)));
        return out;
    }

    List<Object> rows(List<Record> records) {
        var rows = new ArrayList<Object>();
        for (var record : records) {
            rows.add(record.values(this::value));
        }
        return rows;
    }

    /** All records, keys and the summary of a result. */
    Object result(Result result) {
        var keys = result.keys();
        var rows = rows(result.list());
        return map("keys", keys, "rows", rows, "summary", summary(result.consume()));
    }

    private static Object position(InputPosition p) {
        return p == null ? null : list(p.line(), p.column(), p.offset());
    }

    private static Object plan(Plan p) {
        if (p == null) {
            return null;
        }
        var children = new ArrayList<Object>();
        p.children().forEach(child -> children.add(plan(child)));
        var rows = p instanceof ProfiledPlan profiled ? profiled.records() : null;
        return list(p.operatorType(), new TreeSet<>(p.identifiers()), rows, children);
    }

    static Object counters(SummaryCounters c) {
        var out = map("updates", c.containsUpdates(), "system", c.containsSystemUpdates());
        var counts = map("nodesCreated", c.nodesCreated(), "nodesDeleted", c.nodesDeleted(), "propertiesSet", c.propertiesSet(),
                "relationshipsCreated", c.relationshipsCreated(), "relationshipsDeleted", c.relationshipsDeleted(),
                "labelsAdded", c.labelsAdded(), "labelsRemoved", c.labelsRemoved(),
                "indexesAdded", c.indexesAdded(), "indexesRemoved", c.indexesRemoved(),
                "constraintsAdded", c.constraintsAdded(), "constraintsRemoved", c.constraintsRemoved(),
                "systemUpdates", c.systemUpdates());
        counts.forEach((name, count) -> {
            if (!Integer.valueOf(0).equals(count)) {
                out.put(name, count);
            }
        });
        return out;
    }

    static Object statuses(ResultSummary s) {
        var out = list();
        for (GqlStatusObject g : s.gqlStatusObjects()) {
            var line = list(g.gqlStatus(), g.statusDescription(), new TreeSet<>(g.diagnosticRecord().keySet()));
            if (g instanceof GqlNotification n) {
                line.addAll(list(position(n.position().orElse(null)), n.rawSeverity().orElse(null), n.rawClassification().orElse(null)));
            }
            out.add(line);
        }
        return sorted(out);
    }

    @SuppressWarnings("deprecation")
    static Object notes(ResultSummary s) {
        var out = list();
        s.notifications().forEach(n -> out.add(list(n.code(), n.title(), n.description(), n.rawSeverityLevel().orElse(null),
                n.rawCategory().orElse(null), position(n.position()))));
        return sorted(out);
    }

    @SuppressWarnings("deprecation")
    static Map<String, Object> summary(ResultSummary s) {
        return map("query", s.query().text(), "parameters", new TreeSet<>(s.query().parameters().asMap().keySet()),
                "type", s.queryType(), "database", s.database().name(), "counters", counters(s.counters()),
                "statuses", statuses(s), "notifications", notes(s),
                "plan", s.hasPlan() ? plan(s.plan()) : null, "profile", s.hasProfile() ? plan(s.profile()) : null,
                "server", list(s.server().agent(), s.server().protocolVersion()),
                "timed", list(s.resultAvailableAfter(TimeUnit.NANOSECONDS) >= 0, s.resultConsumedAfter(TimeUnit.NANOSECONDS) >= 0));
    }

    /** What an application can see of an error. */
    static Object error(Throwable e) {
        var out = map("type", e.getClass().getName(), "message", mask(e.getMessage()), "retryable", e instanceof RetryableException);
        if (e instanceof Neo4jException n) {
            out.putAll(map("code", n.code(), "gqlStatus", n.gqlStatus(), "description", mask(n.statusDescription()),
                    "classification", n.rawClassification().orElse(null), "diagnostics", new TreeSet<>(n.diagnosticRecord().keySet()),
                    "cause", n.gqlCause().map(Normal::error).orElse(null)));
        }
        return out;
    }
}
