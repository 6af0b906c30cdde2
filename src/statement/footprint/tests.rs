//! Texts and their footprints.

use bolt_wire::packstream::Value;

use super::Mark;
use crate::statement::{Footprint, Statement};

fn shown(footprint: &Footprint) -> String {
    let Some(marks) = &footprint.0 else { return "everything".to_owned() };
    let mut names: Vec<_> = marks
        .iter()
        .filter_map(|mark| match mark {
            Mark::Label(name) => Some(format!(":{name}")),
            Mark::Type(name) => Some(format!("-{name}")),
            Mark::Key(name) => Some(format!(".{name}")),
            Mark::AnyNode => Some("node".to_owned()),
            Mark::AnyLabel => Some("labels".to_owned()),
            Mark::AnyType => Some("rels".to_owned()),
            Mark::AnyKey => Some("keys".to_owned()),
            // They follow from the others in what is read.
            Mark::EveryLabel | Mark::EveryType | Mark::EveryKey => None,
        })
        .collect();
    names.sort();
    names.join(" ")
}

/// What a text reads; it may be kept.
fn reads(text: &str) -> String {
    let statement = Statement::parse(text);
    assert_eq!(statement.cacheable, Ok(()), "{text}");
    assert!(statement.reads_only, "{text}");
    assert_eq!(
        statement.touches(&Value::Map(Vec::new()).to_bytes()),
        Footprint(Some(Box::default())),
        "{text}"
    );
    shown(&statement.reads)
}

#[track_caller]
fn read_all(expected: &[(&str, &str)]) {
    let found: Vec<_> = expected.iter().map(|(text, _)| (*text, reads(text))).collect();
    let wrong: Vec<_> =
        found.iter().zip(expected).filter(|(found, expected)| found.1 != expected.1).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a text writes with these parameters.
fn writes(text: &str, parameters: &Value) -> String {
    let statement = Statement::parse(text);
    assert!(!statement.reads_only, "{text}");
    assert_eq!(statement.reads, Footprint::WHOLE, "{text}");
    assert!(statement.cacheable.is_err(), "{text}");
    let footprint = statement.touches(&parameters.to_bytes());
    let every = footprint.0.iter().flatten().any(|mark| *mark == Mark::EveryKey);
    shown(&footprint) + if every { " all" } else { "" }
}

fn parameters() -> Value {
    let row = |names: &[&str]| Value::map(names.iter().map(|name| (*name, Value::from(1))));
    Value::map([
        ("id", Value::from(1)),
        ("map", row(&["a", "b"])),
        ("p", Value::map([("inner", row(&["c"])), ("id", Value::from(1))])),
        ("rows", Value::List(vec![row(&["id", "x"]), row(&["id", "y"])])),
        ("deep", Value::List(vec![Value::map([("id", Value::from(1)), ("props", row(&["z"]))])])),
        ("wide", Value::map((0..100).map(|at| (["a", "b"][at % 2], Value::Null)))),
    ])
}

#[track_caller]
fn write_all(expected: &[(&str, &str)]) {
    let found: Vec<_> = expected.iter().map(|(text, _)| (*text, writes(text, &parameters()))).collect();
    let wrong: Vec<_> =
        found.iter().zip(expected).filter(|(found, expected)| found.1 != expected.1).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn lookups_and_hops() {
    read_all(&[
        ("RETURN 1", ""),
        ("RETURN $x AS x, $y.z", ""),
        ("MATCH (n:L {id: $id}) RETURN n.name", ".id .name :L"),
        ("match (n:L) where n.id = $id return n.name as name, id(n), elementId(n)", ".id .name :L"),
        ("MATCH (n:L {id: $id}) RETURN n", ".id :L keys labels"),
        ("MATCH (n:L {id: $id}) RETURN n;", ".id :L keys labels"),
        ("MATCH (n:L {id: $id}) RETURN n AS m", ".id :L keys labels"),
        ("MATCH (n:L {id: $id}) RETURN *", ".id :L keys labels"),
        ("MATCH (n:L) RETURN count(n)", ":L"),
        ("MATCH (n:L) RETURN count(*) AS c", ":L"),
        ("MATCH (n) RETURN count(*)", "node"),
        ("MATCH (n:A)-[:T]->(m:B) RETURN m.x", "-T .x :A :B"),
        (
            "MATCH (n:A {k: 1})-[r:T]->()-->(m) RETURN DISTINCT type(r), m.x ORDER BY m.y LIMIT 3",
            "-T .k .x .y :A rels",
        ),
        ("MATCH (a)-[r]->(b) RETURN count(r)", "rels"),
        ("MATCH (a)--(b) RETURN count(*)", "rels"),
        ("MATCH (a:A)-[:T|U]->(b) RETURN count(*)", "-T -U :A"),
        ("MATCH (a:A)-[:T|:U {since: 1}]->(b) RETURN count(*)", "-T -U .since :A"),
        ("MATCH (a:A)-[:!T]->(b) RETURN count(*)", ":A rels"),
        ("MATCH (a:A)-[:T*1..3]->(b) RETURN count(*)", "-T :A"),
        ("MATCH (a)-[:T*0..3]->(b) RETURN count(*)", "-T node"),
        ("MATCH (a)-[:T*]->(b) RETURN count(*)", "-T"),
        ("MATCH (a)-[:T*..2]->(b) RETURN count(*)", "-T"),
        ("MATCH (a:A)-[:T*0..]->(b) RETURN b.x", "-T .x :A"),
        ("MATCH (a) ((x)-[:T]->(y)){0,3} (b) RETURN count(*)", "-T node"),
        ("MATCH (a) ((x)-[:T]->(y WHERE y.k > 1))+ (b) RETURN count(*)", "-T .k"),
        ("MATCH (a:A)-[:T]->+(b:B) RETURN count(*)", "-T :A :B"),
        ("MATCH p = shortestPath((a:A {k: 1})-[:T*..5]-(b:A {k: 2})) RETURN length(p)", "-T .k :A"),
        ("MATCH p = (a:A)-[:T]->(b) RETURN p", "-T :A keys labels"),
        ("OPTIONAL MATCH (a:A) RETURN a.x", ".x :A"),
        ("MATCH (a:A) OPTIONAL MATCH (a)-[:T]->(b) RETURN a.x, collect(b.y)", "-T .x .y :A"),
        ("MATCH (a:A), (b) RETURN count(*)", ":A node"),
    ]);
}

#[test]
fn labels() {
    read_all(&[
        ("MATCH (n:A|B) RETURN count(*)", ":A :B"),
        ("MATCH (n:A:B) RETURN count(*)", ":A :B"),
        ("MATCH (n:A&!B) RETURN count(*)", ":A :B"),
        ("MATCH (n:!A) RETURN count(*)", ":A node"),
        ("MATCH (n:A|!B) RETURN count(*)", ":A :B node"),
        ("MATCH (n:%) RETURN count(*)", "labels node"),
        ("MATCH (n:!A)-[:T]->() RETURN count(*)", "-T :A"),
        ("MATCH (n:L) WHERE n:A OR NOT n:B RETURN count(*)", ":A :B :L"),
        ("MATCH (n:L) RETURN n:A AS a", ":A :L"),
        ("MATCH (n:L) RETURN labels(n)", ":L labels"),
        ("MATCH (n:L) RETURN labels(n)[0] AS first", ":L labels"),
        ("MATCH (n:L) WHERE 'A' IN labels(n) RETURN count(*)", ":L labels"),
        ("MATCH (n:`L l`) WHERE n.`a``b` = 1 RETURN count(*)", ".a`b :L l"),
    ]);
}

#[test]
fn what_expressions_see() {
    read_all(&[
        ("MATCH (n:L) RETURN keys(n)", ":L keys"),
        ("MATCH (n:L) RETURN properties(n)", ":L keys"),
        ("MATCH (n:L) RETURN n {.*}", ":L keys"),
        ("MATCH (n:L) RETURN n {.a, b: n.c}", ".a .c :L"),
        ("MATCH (n:L)-[:T]->(m) RETURN n {.a, m}", "-T .a :L keys labels"),
        ("MATCH (n:L) WHERE n[$k] = 1 RETURN n.a", ".a :L keys"),
        ("MATCH (n:L) RETURN n['a']", ":L keys labels"),
        ("MATCH (n:L) RETURN {node: n} AS row", ":L keys labels"),
        ("MATCH (n:L) WITH {node: n} AS row RETURN row.node.name", ".name .node :L keys labels"),
        ("MATCH (n:L) WITH collect(n) AS ns RETURN ns[0].name", ".name :L"),
        ("MATCH (n:L) WITH collect(n) AS ns RETURN head(ns)", ":L keys labels"),
        ("MATCH (n:L) WITH collect(n) AS ns UNWIND ns AS m RETURN m.a", ".a :L"),
        (
            "MATCH (n:L) WITH collect(n) AS ns RETURN size(ns), [x IN ns | x.a], [x IN ns WHERE x.b = 1 | 1]",
            ".a .b :L",
        ),
        ("MATCH (n:L) WITH collect(n) AS ns RETURN [x IN ns WHERE x.b = 1]", ".b :L keys labels"),
        ("MATCH p = (:A)-[:T]->(:B) RETURN [x IN nodes(p) | x.name]", "-T .name :A :B"),
        ("MATCH p = (:A)-[:T]->(:B) RETURN nodes(p)", "-T :A :B keys labels"),
        ("MATCH (a:A)-[r:T]->() RETURN startNode(r).x", "-T .x :A"),
        ("MATCH (a:A)-[r:T]->() RETURN endNode(r)", "-T :A keys labels"),
        ("MATCH (a:A), (b:A) WHERE a = b AND NOT a IN [b] RETURN a = b AS same", ":A"),
        ("MATCH (n:A) WITH n AS m, count(*) AS c ORDER BY c RETURN m.x, c", ".x :A"),
        ("MATCH (n:A) RETURN CASE WHEN n.x THEN 1 ELSE n END AS v", ".x :A keys labels"),
        ("MATCH (n:A) RETURN reduce(s = 0, x IN collect(n) | s + x.v) AS v", ".v :A"),
        ("MATCH (n:A) RETURN [(n)-[:T]->(m:B) WHERE m.k = 1 | m.name] AS names", "-T .k .name :A :B"),
        ("MATCH (n:A) RETURN [(n)-[:T]->(m) | m] AS ms", "-T :A keys labels"),
        ("MATCH (n:A) WHERE EXISTS { (n)-[:T]->(:B {k: 1}) } RETURN count(*)", "-T .k :A :B"),
        ("MATCH (n:A) WHERE EXISTS { MATCH (n)-[:T]->(:B {k: 1}) RETURN 1 } RETURN count(*)", "-T .k :A :B"),
        ("MATCH (n:A) WHERE EXISTS { p = (n)-[:T]->(:B) } RETURN count(*)", "-T :A :B"),
        (
            "MATCH (n:A) WHERE COUNT { (n)-[:T]->(:B) } > 1 AND date(n.at) > date('2020-01-01') RETURN n.x",
            "-T .at .x :A :B",
        ),
        ("MATCH (n:A) WHERE (n)-[:T]->() RETURN count(*)", "-T :A"),
        ("MATCH (n:A) WHERE NOT (n)--() RETURN count(*)", ":A rels"),
        ("MATCH (n:A) RETURN COUNT { (n)-[:T]->(m) WHERE m.k > 1 } AS c", "-T .k :A"),
        ("MATCH (n:A) RETURN COUNT { MATCH (m) RETURN m } AS c", ":A node"),
        ("MATCH (n:A) RETURN COLLECT { MATCH (n)-[:T]->(m) RETURN m.x } AS c", "-T .x :A"),
        ("MATCH (n:A) RETURN COLLECT { MATCH (n)-[:T]->(m) RETURN m } AS c", "-T :A keys labels"),
        ("MATCH (n:A) WHERE all(x IN n.list WHERE x > 1) AND exists(n.q) RETURN count(*)", ".list .q :A"),
        ("MATCH (n:A WHERE n.k > 1) RETURN n.x IS NOT NULL AS has", ".k .x :A"),
        ("MATCH (n:A) RETURN point.distance(n.loc, point({x: 1, y: 2})) AS d", ".loc :A"),
        ("MATCH (n:A) RETURN point(n) AS d", ":A keys labels"),
        ("MATCH (n:A) RETURN vector.similarity.cosine(n.emb, $v) AS d", ".emb :A"),
        ("MATCH (n:A) RETURN n.at.year AS y, toUpper(n.name) AS u", ".at .name :A"),
        ("UNWIND $rows AS row MATCH (n:A {id: row.id}) RETURN n.x, row.y, row['z']", ".id .x :A"),
        ("UNWIND range(0, 9) AS i RETURN [1, 2][i] AS v", ""),
        ("MATCH (n:A) RETURN n.x UNION MATCH (n:B) RETURN n.x", ".x :A :B"),
        ("MATCH (n:A) RETURN n.x AS v UNION ALL MATCH (n:B) RETURN n AS v", ".x :A :B keys labels"),
        ("MATCH (n:A) WITH n.name AS n RETURN n", ".name :A keys labels"),
        ("MATCH (n:A) WITH n.name AS name RETURN name", ".name :A"),
        ("MATCH (n:A) WITH * RETURN n.x", ".x :A"),
        ("MATCH (n:A) RETURN coalesce(n, 1) AS v", ":A keys labels"),
        ("MATCH (n:A) RETURN max(n.x), sum(n.y), avg(n.z)", ".x .y .z :A"),
        ("MATCH (n:A) RETURN n.x ORDER BY n.y SKIP $s LIMIT $l", ".x .y :A"),
        ("MATCH (n:A) WITH n ORDER BY n.y LIMIT 5 RETURN n.x", ".x .y :A"),
    ]);
}

#[test]
fn what_the_parser_does_not_know() {
    read_all(&[
        ("CYPHER 25 MATCH (n:A) RETURN n.x", ".x :A"),
        ("MATCH (n:A|B)-[:T]->(m:C|D)<-[:U]-(:E) RETURN n.x", "-T -U .x :A :B :C :D :E"),
        ("MATCH (n:A|B {k: 1}), (m:C) WHERE m:D|E RETURN n.x", ".k .x :A :B :C :D :E"),
        ("MATCH (n:A|!B {k: 1}) RETURN n.x", ".k .x :A :B node"),
        ("MATCH (n:A&B|C) RETURN reduce(t = 0, q IN n.l | t + q)", ".l :A :B :C"),
        ("MATCH (n:A) WHERE any(q IN labels(n) WHERE q = 'B') RETURN 1", ":A labels"),
        (
            "MATCH (n:A {k: 1} WHERE n.x > 1)-[r:T WHERE r.y = 1]->(m:B WHERE m.z = 1) RETURN 1",
            "-T .k .x .y .z :A :B",
        ),
        ("MATCH (n WHERE n:A) ((x)-[:T]->(y) WHERE x.v < y.w)+ (m:B) RETURN 1", "-T .v .w :A :B"),
        ("MATCH (n WHERE EXISTS { (n)-[:T]->(m WHERE m.k = 1) }) RETURN 1", "-T .k node"),
        ("MATCH (n:A) USING INDEX n:A(k) WHERE n.k = 1 RETURN n.x", ".k .x :A"),
        ("MATCH (n:A) USING TEXT INDEX SEEK n:A(k, j) WHERE n.k = 1 RETURN n.x", ".k .x :A"),
        (
            "MATCH (n:A)-[:T]->(m:B) USING SCAN n:A USING JOIN ON n, m WHERE n.k = 1 RETURN n.x",
            "-T .k .x :A :B",
        ),
        ("MATCH (n:A) CALL { WITH n MATCH (n)-[:T]->(m) RETURN m.y AS y } RETURN n.x, y", "-T .x .y :A"),
        ("MATCH (n:A) CALL (n) { MATCH (n)-[:T]->(m) RETURN m } RETURN n.x, m.y", "-T .x .y :A"),
        ("MATCH (n:A) CALL (n) { MATCH (n)-[:T]->(m) RETURN m } RETURN m", "-T :A keys labels"),
        ("MATCH (n:A) OPTIONAL CALL (*) { MATCH (n)-[:T]->(m) RETURN m.z AS z } RETURN z", "-T .z :A"),
        ("CALL { MATCH (n:A) RETURN n.x AS x UNION MATCH (n:B) RETURN n.x AS x } RETURN x", ".x :A :B"),
        ("CALL () { CALL () { MATCH (n:C) RETURN n.w AS w } RETURN w } RETURN w", ".w :C"),
    ]);
}

#[test]
fn what_is_not_kept() {
    for (text, reason) in [
        ("RETURN rand()", "it draws random values"),
        ("RETURN RandomUUID ( )", "it draws random values"),
        ("RETURN `rand`()", "it draws random values"),
        ("RETURN timestamp()", "it reads the clock"),
        ("MATCH (n:L) WHERE n.at < datetime() RETURN n", "it reads the clock, or may"),
        ("RETURN date()", "it reads the clock, or may"),
        ("RETURN date({timezone: 'Europe/Berlin'})", "it reads the clock, or may"),
        ("RETURN date($x)", "it reads the clock, or may"),
        ("RETURN datetime.realtime()", "it reads the clock"),
        ("RETURN localtime.statement('Z')", "it reads the clock"),
        ("RETURN date.truncate('day')", "it reads the clock"),
        ("RETURN /* x */ time . transaction ()", "it reads the clock"),
        ("MATCH (n:L) RETURN apoc.text.join([n.a], '')", "it calls a function that is not known"),
        ("RETURN graph.names()", "it chooses a graph"),
        ("RETURN file()", "it loads a file"),
        ("CALL db.labels()", "it calls a procedure"),
        ("CALL db.labels() YIELD label RETURN label", "it calls a procedure"),
        ("MATCH (n) CALL apoc.do(n) YIELD x RETURN x", "it calls a procedure"),
        ("LOAD CSV FROM 'file:///x' AS row RETURN row", "it loads a file"),
        ("USE neo4j MATCH (n) RETURN n", "it chooses a graph"),
        ("EXPLAIN MATCH (n) RETURN n", "it asks for a plan"),
        ("PROFILE MATCH (n) RETURN n", "it asks for a plan"),
        ("SHOW INDEXES", "it shows the state"),
        ("CYPHER runtime=slotted RETURN 1", "it begins with options"),
        ("MATCH (n:$($l)) RETURN n", "the parser does not know"),
        ("", "it is empty"),
        ("RETURN 1; RETURN 2", "the parser does not know"),
        ("RETURN 'a\\u0041'", "it has a Unicode escape"),
        ("RETURN 1 AS `a\\\\b`", "it has a backslash"),
        ("MATCH (n:A) WITH n AS set RETURN set.x", "it has a form"),
        ("MATCH (n:A) RETURN [q IN [1] WHERE n:B | n]", "it has a bar"),
        ("MATCH (n:A) RETURN [q IN [1] WHERE n:B|C | n]", "it has a bar"),
        ("MATCH (n:A) RETURN [q IN [1] WHERE n:(B|C) | n]", "it has a bar"),
        ("MATCH (n:A) RETURN [q IN [1] WHERE n:% | n]", "it has a bar"),
        ("MATCH (n:A) RETURN [q IN [1] WHERE n IS B | n]", "it has a bar"),
        ("MATCH (n) DETACH DELETE n", "it writes"),
        ("MATCH (n:A) SET n.x = 1 RETURN n", "it writes"),
        ("MATCH (n:A) CALL (n) { CREATE (:B) } RETURN n", "it writes"),
        ("MATCH (n:A) FOREACH (x IN [1] | SET n.x = x) RETURN n", "it writes"),
    ] {
        let found = Statement::parse(text).cacheable;
        assert!(found.is_err_and(|found| found.starts_with(reason)), "{text}: {found:?}");
    }
    for text in ["RETURN date('2020-01-01')", "RETURN datetime({year: 2020}) AS d", "RETURN duration('P1D')"]
    {
        assert_eq!(reads(text), "");
    }
    assert!(Statement::parse("RETURN rand()").reads_only);
    assert!(Statement::parse("MATCH (n:L) RETURN apoc.text.join([n.a], '')").reads_only);
    for text in
        ["CALL db.labels()", "SHOW INDEXES", "EXPLAIN MATCH (n) RETURN n", "", "CALL db.x() YIELD y RETURN y"]
    {
        let statement = Statement::parse(text);
        assert!(!statement.reads_only, "{text}");
        assert_eq!(statement.touches(&[0xA0]), Footprint::WHOLE, "{text}");
    }
}

#[test]
fn writes_of_properties_and_labels() {
    write_all(&[
        ("MATCH (n:A {id: $id}) SET n.x = 1", ".x keys"),
        ("MATCH (n:A {id: $id}) SET n.x = n.y, n.z = $z RETURN n", ".x .z keys"),
        ("MATCH (n:A) SET (n).x = 1 REMOVE n.q", ".q .x keys"),
        ("MATCH (n:A) SET n += {a: 1, b: n.c}", ".a .b keys"),
        ("MATCH (n:A) SET n += $map", ".a .b keys"),
        ("MATCH (n:A) SET n += $p.inner", ".c keys"),
        ("MATCH (n:A) SET n += $none", "keys all"),
        ("MATCH (n:A) SET n += $id", "keys all"),
        ("MATCH (n:A) SET n += $wide", ".a .b keys"),
        ("MATCH (n:A) SET n = $map", "keys all"),
        ("MATCH (n:A) SET n = {a: 1}", "keys all"),
        ("MATCH (n:A), (m:B) SET n += properties(m)", "keys all"),
        ("MATCH (n:A), (m:B) SET n += m", "keys all"),
        ("MATCH (n:A) SET n[$k] = 1", "keys all"),
        ("MATCH (n:A) SET n:B:C", ":B :C labels"),
        ("MATCH (n:A) REMOVE n:B, n.x", ".x :B keys labels"),
        ("MATCH (n:A) SET n:$($l)", "everything"),
        ("UNWIND $rows AS row MATCH (n:A {id: row.id}) SET n += row", ".id .x .y keys"),
        ("UNWIND $deep AS row MATCH (n:A {id: row.id}) SET n += row.props", ".z keys"),
        ("UNWIND $deep AS row WITH row MATCH (n:A {id: row.id}) SET n += row.props", ".z keys"),
        ("UNWIND $deep AS row WITH row AS r MATCH (n:A {id: r.id}) SET n += r.props", "keys all"),
        ("UNWIND $deep AS row WITH row.props AS row MATCH (n:A) SET n += row", "keys all"),
        ("UNWIND $map AS row MATCH (n:A {id: row.id}) SET n += row", "keys all"),
    ]);
}

#[test]
fn creations_and_deletions() {
    write_all(&[
        ("CREATE (n:A {x: 1})", ":A node"),
        ("CREATE (n:A $map)", ":A node"),
        ("CREATE (n)", "node"),
        ("CREATE (:A&B)", ":A :B node"),
        ("MERGE (n:A {id: $id})", ":A node"),
        ("MERGE (n:A {id: $id}) SET n += $map", ".a .b :A keys node"),
        (
            "MERGE (n:A {id: $id}) ON CREATE SET n.x = 1, n:B ON MATCH SET n.y = 2",
            ".x .y :A :B keys labels node",
        ),
        ("UNWIND $rows AS row MERGE (n:A {id: row.id}) SET n += row", ".id .x .y :A keys node"),
        ("MATCH (a:A), (b:B) CREATE (a)-[:T {x: 1}]->(b)", "-T rels"),
        ("MATCH (a:A) MATCH (b:B) MERGE (a)-[r:T]->(b) ON CREATE SET r.at = 1", "-T .at keys rels"),
        ("MATCH (a:A) CREATE (a)-[:T]->(:B)", "-T :B node rels"),
        ("CREATE (a:A), (a)-[:T]->(b:B), (b)-[:U]->(a)", "-T -U :A :B node rels"),
        ("MATCH (a:A) WITH count(*) AS c CREATE (a)-[:T]->(b:B)", "-T :B node rels"),
        ("MATCH (a:A) WITH a AS x, 1 AS y CREATE (x)-[:T]->(x)", "-T rels"),
        ("MATCH (a:A) WITH *, 1 AS y CREATE (a)-[:T]->(a)", "-T rels"),
        ("UNWIND $rows AS row MATCH (a:A {id: row.id}), (b:B {id: row.x}) MERGE (a)-[:T]->(b)", "-T rels"),
        ("MATCH (a:A WHERE any(x IN a.l WHERE x > 1)) CREATE (x)-[:T]->(a)", "-T node rels"),
        ("MATCH (a:A)-[r:T]->() DELETE r", "-T rels"),
        ("MATCH (a:A)-[r:T|U]->() WITH r DELETE r", "-T -U rels"),
        ("MATCH (a:A)-[r]->() DELETE r", "everything"),
        ("MATCH (a:A)-[r:!T]->() DELETE r", "everything"),
        ("MATCH (a:A)-[r:T]->() WITH a AS r DELETE r", "everything"),
        ("MATCH (a:A) DELETE a", "everything"),
        ("MATCH (a:A) DETACH DELETE a", "everything"),
        ("MATCH (a:A) FOREACH (x IN $list | SET a.x = x)", ".x keys"),
        (
            "MATCH p = (:A)-[:T]->(:B) FOREACH (n IN nodes(p) | SET n.seen = true CREATE (n)-[:U]->(:C))",
            "-U .seen :C keys node rels",
        ),
        ("FOREACH (x IN [1] | CREATE (n:A)) CREATE (n)-[:T]->(:B)", "-T :A :B node rels"),
        (
            "MATCH (a:A) FOREACH (x IN [[1]] | FOREACH (y IN x | SET a.y = y)) CREATE (a)-[:T]->(a)",
            "-T .y keys rels",
        ),
        ("MATCH (a:A) CALL (a) { CREATE (a)-[:T]->(:B) } RETURN a", "-T :B node rels"),
        ("MATCH (a:A) CALL { WITH a SET a.x = 1 } RETURN a", ".x keys"),
        ("MATCH (a:A) CALL { WITH a SET a.x = 1 } IN TRANSACTIONS", "everything"),
        ("MATCH (a:A) CALL db.x(a) YIELD y SET a.y = y", "everything"),
        ("CREATE INDEX x FOR (n:L) ON (n.k)", "everything"),
        ("CYPHER 25 MERGE (n:A {id: 1})", ":A node"),
    ]);
}

#[test]
fn long_and_deep_texts_do_no_harm() {
    let deep = format!("RETURN {}1{}", "(".repeat(1_000), ")".repeat(1_000));
    assert!(Statement::parse(&deep).cacheable.is_err());
    for chain in [
        format!("RETURN 1{}", " + 1".repeat(900)),
        format!("MATCH (n:A) RETURN {}n.x", "NOT ".repeat(1_500)),
        format!("MATCH (n:A) RETURN n{}", ".x".repeat(900)),
        format!("MATCH (n:A{}) RETURN 1", "|B".repeat(900)),
        format!("MATCH (n:A) WHERE n.a = 1{} RETURN 1", " AND n.a = 1".repeat(200)),
        format!("MATCH (n:A) RETURN {}1", "- ".repeat(1_900)),
        format!("MATCH (n:A) WITH n{} RETURN n", " WITH n".repeat(900)),
    ] {
        let statement = Statement::parse(&chain);
        let taken = statement.cacheable.is_ok() || statement.reads == Footprint::WHOLE;
        assert!(taken, "{chain}: {statement:?}");
    }
    let long = format!("RETURN 1{}", " + 1".repeat(2_000));
    assert_eq!(Statement::parse(&long).cacheable, Err("it is too long"));
}

#[test]
fn the_parameters_of_a_request_are_looked_at_with_care() {
    let text = "MATCH (n:A) SET n += $map";
    let many =
        Value::map([("map", Value::Map((0..100).map(|at| (format!("k{at}"), Value::Null)).collect()))]);
    assert_eq!(writes(text, &many).rsplit(' ').next(), Some("all"));
    let twice = Value::Map(vec![("map".to_owned(), Value::map([("a", Value::Null)])); 2]);
    assert_eq!(writes(text, &twice), "keys all");
    assert_eq!(
        Statement::parse(text).touches(&[]).0.map(|marks| marks.contains(&Mark::EveryKey)),
        Some(true)
    );
    let rows = Value::map([("rows", Value::List(vec![Value::Map(Vec::new()); 6_000]))]);
    assert_eq!(writes("UNWIND $rows AS row MATCH (n:A) SET n += row", &rows), "keys all");
}

#[test]
fn a_moment_out_of_a_parameter() {
    let text = "MATCH (n:A) WHERE n.at > datetime($since) AND n.on = date($p.day) RETURN n.x";
    let statement = Statement::parse(text);
    assert!(statement.cacheable.is_err() && statement.reads_only);
    assert_eq!(shown(&statement.reads), ".at .on .x :A");
    let keeps = |since: Value| {
        let day = Value::map([("day", Value::from("2020-01-01"))]);
        statement.keeps(&Value::map([("since", since), ("p", day)]).to_bytes())
    };
    assert_eq!(keeps(Value::from("2020-01-01T00:00")), Ok(()));
    assert_eq!(keeps(Value::Null), Ok(()));
    assert!(keeps(Value::map([("timezone", Value::from("Z"))])).is_err());
    assert!(statement.keeps(&[0xA0]).is_err());
    let both = Statement::parse("RETURN datetime($since), rand()");
    assert!(both.keeps(&Value::map([("since", Value::Null)]).to_bytes()).is_err());
    assert_eq!(Statement::parse("RETURN 1").keeps(&[0xA0]), Ok(()));
}
