//! Texts and what they are taken for.

use super::{Class, Kind, Requirement, Shape, Statement, Statements, Way};

/// The kind of a shape; `write: reason`; `other: reason`.
fn verdict(text: &str) -> String {
    match Statement::parse(text).class {
        Class::Write { shape: Ok(shape) } => format!("{:?}", shape.kind),
        Class::Write { shape: Err(reason) } => format!("write: {reason}"),
        Class::Other(reason) => format!("other: {reason}"),
    }
}

fn shape(text: &str) -> Box<Shape> {
    match Statement::parse(text).class {
        Class::Write { shape: Ok(shape) } => shape,
        other => panic!("{text}: {other:?}"),
    }
}

#[track_caller]
fn all(expected: &str, texts: &[&str]) {
    for text in texts {
        let found = verdict(text);
        assert!(found.starts_with(expected), "{text:?} is {found:?}, not {expected:?}");
    }
}

#[test]
fn one_node_by_its_key() {
    all(
        "NodeMerge",
        &[
            "MERGE (n:L {k: $k})",
            "merge (n:L {k: $k})",
            "MERGE (:L {k: $k})",
            "MERGE (n:L:M {k: $k, j: $j})",
            "MERGE (n:`L l` {`k k`: $`p p`})",
            "MERGE (row:L {k: $row}) SET row.i = $i",
            "MERGE (n:L {k: 1}) SET n.x = 'MATCH (n) DETACH DELETE n'",
            "MERGE (n:L {k: 'CALL db.labels()'})",
            "MERGE (n:L {k: $p.id}) SET n += $p",
            "MERGE (n:L {k: $k}) SET n = $map RETURN n.x, n.y AS `a b`, $k, 1, elementId(n)",
            "MERGE (n:L {k: $k}) ON CREATE SET n.x = $x, n:M ON MATCH SET n.y = 2 SET n.z = true REMOVE n.w RETURN id(n)",
            "MERGE (n:L {k: $k}) ON CREATE SET n = $m ON MATCH SET n += $m",
            "MERGE (n:L {k: $k}) SET n.at = timestamp(), n.on = datetime(), n.u = randomUUID()",
            "MERGE (n:L {k: $k}) SET n.k = $k",
            "MERGE (n:L {k: -5}) SET n.x = 1.5, n.y = -2.25",
            "MERGE (n:L {k: $k}) SET n += {a: $a, b: 1} REMOVE n.c, n:Old SET n:New",
            "// a comment\nMERGE (n:L /* here */ {k: $k}) // DELETE n\n",
            "MERGE (n:Order {end: $all, `call`: $match}) SET n.limit = $set.create.call RETURN n.count",
            "  \n\tMERGE\n(n:L\n{k:$k})\n",
            "MERGE (n:L {k: $k}) RETURN n . x",
            "MERGE (n:L {k: $0})",
            "MERGE (n:L {k: \"it's\"}) SET n.x = 'say \\\"x\\\" \\\\ \\n'",
        ],
    );
    all(
        "NodeCreate",
        &[
            "CREATE (n:L {k: $k})",
            "CREATE (:L)",
            "CREATE (n:L $map)",
            "CREATE (n:L {k: $k, x: null})",
            "CREATE (n:L:M {k: $k}) SET n.x = 1, n:O RETURN elementId(n)",
            "CREATE (n:L {at: datetime()}) RETURN n.at",
            "CREATE (n:L {x: $x}) SET n += $m, n.z = 1 RETURN $m.a, n.z",
        ],
    );
    all(
        "NodeUpdate",
        &[
            "MATCH (n:L {k: $k}) SET n.x = $x",
            "MATCH (n:L) WHERE n.k = $k SET n.x = $x",
            "MATCH (n:L) WHERE (n.k = $k AND n.j = 2) SET n += $m RETURN n.x",
            "MATCH (n:L {k: $k}) WHERE n.j = $j REMOVE n.x, n:M",
            "MATCH (n:L {k: $k}) REMOVE n.x SET n.x = $x",
            "match (n:L {k: $k}) set n:M return n.k as k",
            "MATCH (n:L {k: $k}) SET n = {k: $k, x: 1}",
        ],
    );
}

#[test]
fn one_relationship_between_keyed_nodes() {
    all(
        "RelationshipMerge",
        &[
            "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T]->(b)",
            "MATCH (a:X {k: $a}) MATCH (b:Y {k: $b}) MERGE (a)-[r:T]->(b) SET r += $m",
            "MATCH (a:X), (b:Y) WHERE a.k = $a AND b.k = $b MERGE (b)<-[r:T]-(a) ON CREATE SET r.x = 1 ON MATCH SET r.y = 2 RETURN r.x, type(r), a.k",
            "MATCH (a:X {k: $a}), (b:X {k: $b}) MERGE (b)-[r:T {since: $s}]->(a) REMOVE r.x RETURN elementId(r)",
        ],
    );
    all(
        "RelationshipCreate",
        &[
            "MATCH (a:X {k: $a}), (b:Y {k: $b}) CREATE (a)-[:T]->(b)",
            "MATCH (a:X {k: $a}), (b:Y {k: $b}) CREATE (a)-[r:T $m]->(b) SET r.x = 1",
            "MATCH (a:X {k: $a}), (b:Y {k: $b}) CREATE (a)<-[r:T {at: timestamp()}]-(b) RETURN id(r), $a AS a",
        ],
    );
}

#[test]
fn rows_that_must_run_one_after_the_other() {
    let ways = [
        (Way::Unwind, "MERGE (n:L {k: $k}) SET n.x = $x + 1"),
        (Way::Unwind, "CREATE (n:L {k: $k}), (m:L)"),
        (Way::Unwind, "CREATE (a:X)-[:T]->(b:Y)"),
        (Way::Rows, "MERGE (n:L {k: $k}) SET n.x = n.x + 1"),
        (Way::Rows, "MERGE (n:L {k: $k}) MERGE (m:L {k: $j})"),
        (Way::Rows, "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[r:T]->(b) SET a.x = 1"),
        (Way::Rows, "MATCH (a:X {k: $a}), (b:Y {k: $b}) SET a.x = 1"),
        (Way::Rows, "MATCH (a:X {k: $a}), (b:Y {k: $b}), (c:Z {k: 1}) MERGE (a)-[:T]->(b)"),
        (Way::Rows, "MATCH (a:X {k: $a}) CREATE (a)-[:T]->(b:X {k: $b})"),
        (Way::Rows, "MERGE (a:X {k: $a}) MERGE (b:X {k: $b}) MERGE (a)-[r:T]->(b) SET r += $m"),
    ];
    for (way, text) in ways {
        let shape = shape(text);
        assert_eq!(shape.way, way, "{text}");
        let merges = text.contains("MERGE");
        assert_eq!(shape.key.distinct, way == Way::Unwind && merges, "{text}");
    }
}

#[test]
fn nulls_where_they_can_be_counted() {
    let check = |text, path: &str| {
        let shape = shape(text);
        let mut found = shape.checks.iter().filter(|check| *check.path == [Box::from(path)]);
        found.next().map(|check| format!("{:?}", check.requirement)).unwrap_or_default()
    };
    assert_eq!(check("MERGE (n:L {k: $k}) SET n.a = $a", "a"), "Nullable");
    assert_eq!(check("MERGE (n:L {k: $k}) SET n.a = $a", "k"), "Key");
    assert_eq!(check("MERGE (n:L {k: $k}) SET n.a = $a, n.b = $b", "a"), "Property");
    assert_eq!(check("MERGE (n:L {k: $k}) SET n += $m, n.a = $a", "a"), "Property");
    assert_eq!(check("MERGE (n:L {k: $k}) REMOVE n.a SET n.a = $a", "a"), "Property");
    assert_eq!(check("MERGE (n:L {k: $k}) ON CREATE SET n.a = $a", "a"), "Property");
    assert_eq!(check("CREATE (n:L {a: $a})", "a"), "Nullable");
    assert_eq!(check("MERGE (n:L {k: $k}) RETURN $a", "a"), "Any");
}

#[test]
fn a_map_may_not_change_the_key() {
    let same = |text: &str| {
        let shape = shape(text);
        let found = shape.checks.iter().find_map(|check| match &check.requirement {
            Requirement::Map { same } => {
                Some(same.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>())
            }
            _ => None,
        });
        found.expect("a map")
    };
    assert_eq!(same("MERGE (n:L {k: $k, j: 1}) SET n += $m"), ["k", "j"]);
    assert_eq!(same("MERGE (n:L {k: $m.k}) SET n += $m"), [""; 0]);
    assert_eq!(same("MERGE (n:L {k: $m.j}) SET n += $m"), ["k"]);
    assert_eq!(same("MERGE (n:L {k: $m.a.k}) SET n += $m.a"), [""; 0]);
    assert_eq!(same("CREATE (n:L {k: $k}) SET n += $m"), [""; 0]);
    assert_eq!(same("MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[r:T {s: 1}]->(b) SET r = $m"), ["s"]);
}

#[test]
fn writes_without_a_shape() {
    all("write: ", SHAPELESS);
}

const SHAPELESS: &[&str] = &[
    "MERGE (n:L {k: $k});",
    "MERGE (n {k: $k})",
    "MERGE (n:L)",
    "MERGE (n:L $map)",
    "MERGE (n:L {k: null})",
    "MERGE (n:L {k: 1.5})",
    "MERGE (n:L {k: $k + 1})",
    "MERGE (n:L {k: [$k]})",
    "MERGE (n:L {k: timestamp()})",
    "MERGE (n:L {k: $k, k: $j})",
    "MERGE (n:L:L {k: $k})",
    "MERGE (n:L|M {k: $k})",
    "MERGE (n:L&M {k: $k})",
    "MERGE (n IS L {k: $k})",
    "MERGE (n:L {k: 0x10})",
    "MERGE (n:L {k: 007})",
    "MERGE (n:L {k: 99999999999999999999})",
    "MERGE (n:L {k: 'a''b'})",
    "MERGE (n:L {k: $k}) SET n.k = 2",
    "MERGE (n:L {k: $k}) SET n.x = null",
    "MERGE (n:L {k: $k}) SET n.x = $x, n.x = $y",
    "MERGE (n:L {k: $k}) SET n.x = $x SET m.y = 1",
    "MERGE (n:L {k: $k}) SET n[$key] = 1",
    "MERGE (n:L {k: $k}) SET n += n",
    "MERGE (n:L {k: $k}) SET n.x = n.y + 1",
    "MERGE (n:L {k: $k}) SET n.x = n.x + 1, n.y = 2",
    "MERGE (n:L {k: $k}) SET n.x = n.x + 1, n += $m",
    "MERGE (n:L {k: $k}) SET n.x = n.x + 1 SET n.x = 2",
    "MERGE (n:L {k: $k}) SET n.x = coalesce(n.x, null) + 1",
    "MERGE (n:L {k: $k}) SET n.x = n.x + 'more'",
    "MERGE (n:L {k: $k}) SET n.x = n.x / 2",
    "MERGE (n:L {k: $k}) SET n.x = toUpper($x)",
    "MERGE (n:L {k: $k}) SET n.k = n.k + 1",
    "MERGE (a:X {k: $a}) MERGE (b:Y {k: $b}) SET a.x = 1, b.x = 2",
    "MERGE (a:X {k: $a}) MERGE (b:Y {k: $b}) SET a.x = 1 SET b.x = 2",
    "MERGE (a:X {k: $a}) MATCH (b:Y {k: $b}) MERGE (a)-[:T]->(b)",
    "MATCH (a:X {k: $a}) SET a.x = 1 MATCH (b:Y {k: $b}) SET b.x = 1",
    "MERGE (a:X {k: $a}) MERGE (a)-[:T]->(b:Y {k: $b})",
    "MATCH (a:X {k: $a}) CREATE (a)-[:T]->(c)",
    "MERGE (n:L {k: $k}) SET n.x = 1 SET n = $m",
    "MERGE (n:L {k: $k}) SET n += $m REMOVE n.x",
    "MERGE (n:L {k: $k}) REMOVE n.k",
    "MERGE (n:L {k: $k}) SET n:M REMOVE n:M",
    "MERGE (n:L {k: $k}) ON MATCH SET n:M",
    "MERGE (n:L {k: $k}) ON MATCH SET n = $m",
    "MERGE (n:L {k: $k}) RETURN n",
    "MERGE (n:L {k: $k}) RETURN *",
    "MERGE (n:L {k: $k}) RETURN count(*)",
    "MERGE (n:L {k: $k}) RETURN n.x, n.x",
    "MERGE (n:L {k: $k}) RETURN DISTINCT n.x",
    "MERGE (n:L {k: $k}) RETURN n.x ORDER BY n.x",
    "MERGE (n:L {k: $k}) RETURN n.x LIMIT 1",
    "MERGE (n:L {k: $k}) RETURN n {.x}",
    "MERGE (n:L {k: $k}) RETURN n.x.y",
    "MERGE (n:L {k: $k}) RETURN labels(n)",
    "MERGE (n:L {k: $k}) RETURN m.x",
    "MERGE (n:L {k: $k}) WITH n RETURN n.x",
    "MERGE (n:L {k: $k}) DELETE n",
    "MERGE p = (n:L {k: $k})",
    "MERGE (true:L {k: $k}) SET true.x = 1",
    "MERGE (a:X {k: $a})-[:T]->(b:Y {k: $b})",
    "MERGE (ü:L {k: $k})",
    "MERGE (n:L {k: $ k})",
    "CREATE (n {k: $k})",
    "CREATE (n:L $p.m)",
    "CREATE (n:$($label))",
    "MATCH (n:L {k: $k}) DETACH DELETE n",
    "MATCH (n:L {k: $k}) DELETE n",
    "MATCH (n) SET n.x = 1",
    "MATCH (n:L) SET n.x = 1",
    "MATCH (:L {k: $k}) SET n.x = 1",
    "MATCH (n:L {k: $k}) WHERE n.x > 1 SET n.y = 2",
    "MATCH (n:L {k: $k}) WHERE n.x = 1 OR n.y = 2 SET n.z = 3",
    "MATCH (n:L {k: $k}) WHERE NOT n.x = 1 SET n.z = 3",
    "MATCH (n:L {k: $k}) WHERE n.k = $j SET n.z = 3",
    "MATCH (n:L {k: $k} ) WHERE EXISTS { (n)--() } SET n.z = 3",
    "OPTIONAL MATCH (n:L {k: $k}) SET n.x = 1",
    "MATCH (n:L {k: $k}) USING INDEX n:L(k) SET n.x = 1",
    "MATCH (n:L {k: $v}) SET n.k = $w",
    "MATCH (n:L $m) SET n.x = 1",
    "MATCH (n:L WHERE n.k = $k) SET n.x = 1",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T]-(b)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T|U]->(b)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[]->(b)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T]->(a)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T]->(c)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[:T]->(b:Z)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[a:T]->(b)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[r:T $m]->(b)",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) MERGE (a)-[r:T {s: $s}]->(b) SET r.s = 2",
    "MATCH (a:X {k: $a}), (b:Y {k: $b}) CREATE (a)-[:T]->(b)-[:U]->(a)",
    "MATCH (a:X {k: $a}), (a:Y {k: $b}) MERGE (a)-[:T]->(a)",
    "MATCH (a:X {k: $a}), (b:Y) MERGE (a)-[:T]->(b)",
    "UNWIND $rows AS row MERGE (n:L {k: row.k})",
    "WITH 1 AS x CREATE (n:L {k: x})",
    "FOREACH (x IN $list | CREATE (:L {k: x}))",
    "CALL { MERGE (n:L {k: $k}) RETURN n } RETURN n",
    "CALL (*) { MERGE (n:L {k: $k}) } RETURN 1",
    "MATCH (n:L) CALL (n) { SET n.x = 1 } RETURN count(*)",
    "MATCH (n:L {k: $k}) SET n.x = 1 UNION MATCH (n:L {k: $k}) SET n.x = 1",
    "MATCH (call:L {k: 1}) SET call.use = 1, call.show = 2",
    "MERGE (n:L {k: $k}) SET n.load = n.csv",
];

#[test]
fn what_no_group_may_take() {
    all("other: it does not begin like a write", PREFIXED);
    all("other: it creates something else", SCHEMA);
    all("other: it calls a procedure", PROCEDURES);
    all("other: it commits on its own", OWN_COMMITS);
    all("other: it writes nothing", READS);
    all("other: ", REFUSED);
}

const PREFIXED: &[&str] = &[
    "RETURN 1",
    "EXPLAIN MERGE (n:L {k: 1})",
    "PROFILE MERGE (n:L {k: 1})",
    "cypher 5 MERGE (n:L {k: 1})",
    "CYPHER 25 MERGE (n:L {k: 1})",
    "CYPHER runtime=slotted MERGE (n:L {k: 1})",
    "USE neo4j MERGE (n:L {k: 1})",
    "use graph.byName('x') MERGE (n:L {k: 1})",
    "LOAD CSV FROM 'file:///x' AS row MERGE (n:L {k: row[0]})",
    "USING PERIODIC COMMIT LOAD CSV FROM 'x' AS r CREATE (:L)",
    "SHOW INDEXES",
    "SHOW TRANSACTIONS YIELD *",
    "TERMINATE TRANSACTION 'x'",
    "ALTER USER x SET PASSWORD 'y'",
    "ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'b'",
    "ALTER DATABASE x SET ACCESS READ ONLY",
    "DROP INDEX x",
    "DROP CONSTRAINT x IF EXISTS",
    "GRANT ROLE x TO y",
    "DENY WRITE ON GRAPH * TO x",
    "REVOKE ROLE x FROM y",
    "START DATABASE x",
    "STOP DATABASE x",
    "RENAME USER a TO b",
    "ENABLE SERVER 'x'",
    "DRYRUN REALLOCATE DATABASES",
    "DEALLOCATE DATABASES FROM SERVER 'x'",
    "FINISH",
    "LET x = 1 CREATE (:L {k: x})",
    "{ MERGE (n:L {k: 1}) }",
    "`MERGE` (n:L)",
    "(n:L)",
];

const SCHEMA: &[&str] = &[
    "CREATE INDEX x FOR (n:L) ON (n.k)",
    "CREATE INDEX FOR (n:L) ON (n.k)",
    "CREATE VECTOR INDEX x FOR (n:L) ON (n.v)",
    "CREATE FULLTEXT INDEX x FOR (n:L) ON EACH [n.k]",
    "CREATE TEXT INDEX x FOR (n:L) ON (n.k)",
    "CREATE POINT INDEX x FOR (n:L) ON (n.k)",
    "CREATE LOOKUP INDEX x FOR (n) ON EACH labels(n)",
    "CREATE CONSTRAINT x FOR (n:L) REQUIRE n.k IS UNIQUE",
    "create constraint if not exists for (n:L) require n.k is unique",
    "CREATE USER x SET PASSWORD 'y'",
    "CREATE OR REPLACE USER x SET PASSWORD 'y'",
    "CREATE ROLE x",
    "CREATE DATABASE x",
    "CREATE COMPOSITE DATABASE x",
    "CREATE ALIAS x FOR DATABASE y",
    "CREATE /* (n) */ INDEX x FOR (n:L) ON (n.k)",
];

const PROCEDURES: &[&str] = &[
    "CALL db.labels()",
    "CALL db.createLabel('x')",
    "CALL apoc.periodic.iterate('MATCH (n) RETURN n', 'DELETE n', {})",
    "MATCH (n:L) CALL db.labels() YIELD label SET n.x = label",
    "MATCH (n:L) SET n.x = 1 WITH n call `my`.proc(n) RETURN 1",
    "CALL { CALL db.labels() YIELD label RETURN label } CREATE (:L {x: label})",
    "MATCH (n) OPTIONAL CALL db.labels() YIELD label SET n.x = label",
    "CALL tx.setMetaData({a: 1})",
];

const OWN_COMMITS: &[&str] = &[
    "MATCH (n) CALL { WITH n DETACH DELETE n } IN TRANSACTIONS",
    "MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 10 ROWS",
    "MATCH (n) CALL (n) { SET n.x = 1 } IN 4 CONCURRENT TRANSACTIONS",
    "MATCH (n) CALL (n) { SET n.x = 1 } IN $c CONCURRENT TRANSACTIONS OF 1 ROW ON ERROR CONTINUE",
    "MATCH (n) CALL (n) { SET n.x = 1 } in /* x */ transactions",
];

const READS: &[&str] = &[
    "MATCH (n) RETURN n",
    "MATCH (n:Set {create: 1}) RETURN n.merge, n.set AS delete",
    "MATCH (n) RETURN 'CREATE (n)'",
    "MATCH (n) // SET n.x = 1\nRETURN n",
    "MATCH (n) /* SET n.x = 1 */ RETURN n",
    "MATCH (n:`SET n.x = 1`) RETURN n",
    "MATCH (set) RETURN set",
    "MATCH (n) WITH n AS merge RETURN merge",
    "WITH 1 AS x RETURN x",
    "UNWIND [1] AS x RETURN x",
    "CALL { RETURN 1 AS x } RETURN x",
    "CALL () { RETURN 1 AS x } RETURN x",
    "OPTIONAL MATCH (n) RETURN n.remove",
    "MATCH",
];

const REFUSED: &[&str] = &[
    "",
    "   ",
    ";",
    "// MERGE (n:L {k: 1})",
    "/* MERGE (n:L {k: 1}) */",
    "/* a /* b */ MERGE (n:L {k: 1}) */",
    "MERGE (n:L {k: 1}); MERGE (n:L {k: 2})",
    "MERGE (n:L {k: 1});;",
    "MERGE (n:L {k: '\\u0027 ) CREATE INDEX'})",
    "MERGE (n:L {k: 'x\\U00004A'})",
    "CR\\u0045ATE (n:L)",
    "MERGE (n:`a\\`b` {k: 1})",
    "MERGE (n:L {k: 'open})",
    "MERGE (n:`open {k: 1})",
    "MERGE (n:L {k: 1}) /* open",
    "MERGE (n:L {k: 1}) \u{0}",
    "MERGE (n:L {k: 1})\u{200b}",
    "MATCH (n) USE other SET n.x = 1",
    "CALL { USE other MATCH (n) RETURN n } CREATE (:L)",
    "CALL { LOAD CSV FROM 'x' AS r RETURN r } CREATE (:L)",
    "CALL { SHOW INDEXES YIELD name RETURN name } CREATE (:L)",
    "MATCH (n) TERMINATE TRANSACTIONS 'x' SET n.x = 1",
];

#[test]
fn a_table_keeps_what_it_has_seen() {
    let table = Statements::new();
    let first = table.get("MERGE (n:L {k: $k})");
    assert!(std::sync::Arc::ptr_eq(&first, &table.get("MERGE (n:L {k: $k})")));
    let long = format!("MERGE (n:L {{k: '{}'}})", "x".repeat(70 << 10));
    assert!(!std::sync::Arc::ptr_eq(&table.get(&long), &table.get(&long)), "long texts are not kept");
    assert!(matches!(table.get(&long).class, Class::Other(_)));
}

#[test]
fn parameters_by_name() {
    let names = |text| Statement::parse(text).parameters.to_vec();
    assert_eq!(
        names("MERGE (n:L {k: $k}) SET n += $m.x, n.y = $`a b`, n.z = $k, n.w = $0"),
        ["k", "m", "a b", "0"].map(Box::from)
    );
    assert_eq!(names("RETURN '$no', $ yes /* $no */, `$no`, $`b``c`"), ["yes", "b`c"].map(Box::from));
}

#[test]
fn columns_are_spelt_as_in_the_text() {
    let found = shape("MERGE (n:L {k: $k}) RETURN n . x, n.`y`, $k , elementId( n ) AS `my id`, -1, \"a\" ");
    assert_eq!(*found.columns, ["n . x", "n.`y`", "$k", "my id", "-1", "\"a\""].map(Box::from));
    assert_eq!(found.kind, Kind::NodeMerge);
}

const SAMPLES: &[&str] = &[
    "MERGE (n:L {k: $k, j: 'x'}) ON CREATE SET n.x = $x, n += $m ON MATCH SET n.y = -1.5 REMOVE n.z, n:M RETURN n.x AS `a b`, $p.q",
    "MATCH (a:X {k: $a}), (b:Y) WHERE b.k = 2 AND a.j = $j MERGE (a)<-[r:T {s: true}]-(b) SET r.c = coalesce(r.c, 0) + 1 RETURN id(r)",
    "CREATE (a:X $m)-[:T]->(b:Y {k: null}) SET a = {x: 1} // end\n",
    "MATCH (n) CALL (n) { WITH n DETACH DELETE n } IN TRANSACTIONS OF $x ROWS",
    "CALL db.labels() YIELD label /* x */ FOREACH (x IN [1, 2] | SET n.x = [y IN $l WHERE y > 1 | y * 2])",
];

const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "`",
    "\\",
    "\\u0041",
    "/*",
    "*/",
    "//",
    "\n",
    "$",
    "$`",
    ";",
    ":",
    "|",
    "&",
    "..",
    "->",
    "<-",
    "-",
    "+=",
    "=",
    "CREATE ",
    "MERGE ",
    "SET ",
    " IN ",
    "CALL ",
    "USE ",
    "0x",
    "1e9",
    "é",
    "\u{2028}",
    "\0",
    "CASE WHEN ",
    "NOT ",
    "EXISTS {",
    "(((((((((",
    "]]]]]]",
    "n.",
    "AS ",
    "🦀",
];

/// Whatever a client sends: an answer, no panic, and a shape's text is one that is judged a write again.
#[test]
fn any_text_is_judged() {
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..6_000 {
        let mut text: Vec<char> = random.choice(SAMPLES).copied().unwrap_or_default().chars().collect();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..=text.len());
            let end = (at + random.usize(0..6)).min(text.len());
            let piece = match random.u8(0..4) {
                0 => "",
                1 => {
                    let other = random.choice(SAMPLES).copied().unwrap_or_default();
                    let from = random.usize(0..other.len());
                    &other[from..(from + random.usize(0..20)).min(other.len())]
                }
                _ => random.choice(PIECES).copied().unwrap_or_default(),
            };
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Class::Write { shape: Ok(shape) } = Statement::parse(&text).class {
            let again = Statement::parse(&shape.batch);
            assert!(matches!(again.class, Class::Write { .. }), "{text}\n{}\n{:?}", shape.batch, again.class);
            assert_eq!(*again.parameters, [Box::from("rows")], "{text}\n{}", shape.batch);
        }
    }
}

/// Deep and long texts cost no more than their length.
#[test]
fn deep_texts_are_judged() {
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{a: ", "1", "}"),
        ("-", "1", ""),
        ("coalesce(", "1", ", 1)"),
        ("n.x + ", "1", ""),
    ] {
        for depth in [10, 200, 900, 5_000] {
            let text = format!(
                "MERGE (n:L {{k: $k}}) SET n.x = {}{middle}{}",
                open.repeat(depth),
                close.repeat(depth)
            );
            assert!(matches!(Statement::parse(&text).class, Class::Write { .. }), "{open} {depth} times");
        }
    }
}
