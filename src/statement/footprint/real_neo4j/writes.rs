//! Random texts that write, with their parameters.

use bolt_wire::packstream::Value;

use super::texts::{KEYS, Texts};

impl Texts {
    /// A text that writes.
    pub(super) fn write(&mut self) -> (String, Value) {
        let text = match self.random.u8(0..10) {
            0..4 => self.change(),
            4..7 => self.creation(),
            7 => self.deletion(),
            8 => self.rows(),
            _ => self.nested(),
        };
        (text, self.request())
    }

    fn request(&mut self) -> Value {
        let number = |texts: &mut Self| Value::from(texts.random.i64(0..3));
        let id = |texts: &mut Self| Value::from(texts.random.i64(0..26));
        let map = |texts: &mut Self| {
            let mut entries = Vec::new();
            for key in KEYS {
                if texts.chance(30) {
                    entries.push((key.to_owned(), number(texts)));
                }
            }
            if entries.is_empty() || texts.chance(20) {
                entries.push(("s".to_owned(), Value::from(texts.pick(&["abc", "b"]))));
            }
            entries
        };
        let mut rows = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let props = map(self);
            let mut row = vec![("id".to_owned(), id(self)), ("to".to_owned(), id(self))];
            row.push(("props".to_owned(), Value::Map(props)));
            rows.push(Value::Map(row));
        }
        let mut flat = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let mut row = map(self);
            row.push(("id".to_owned(), id(self)));
            flat.push(Value::Map(row));
        }
        let inner = Value::Map(map(self));
        let key = self.key();
        let label = self.label();
        Value::map([
            ("id", id(self)),
            ("to", id(self)),
            ("v", number(self)),
            ("map", Value::Map(map(self))),
            ("p", Value::map([("inner", inner)])),
            ("rows", Value::List(rows)),
            ("flat", Value::List(flat)),
            ("k", Value::from(key)),
            ("label", Value::from(label)),
        ])
    }

    /// A MATCH that finds some nodes as `n`.
    fn found(&mut self) -> String {
        let (label, other, types, key) = (self.label(), self.label(), self.edge_type(), self.key());
        match self.random.u8(0..9) {
            0 => format!("MATCH (n:{label} {{id: $id}})"),
            1 => "MATCH (n {id: $id})".to_owned(),
            2 => "MATCH (n) WHERE n.id = $id".to_owned(),
            3 => format!("MATCH (n:{label})"),
            4 => format!("MATCH (n:{label}) WHERE n.{key} = $v"),
            5 => format!("MATCH (n:{label}&!{other})"),
            6 => format!("MATCH (n)-[:{types}]->(m:{label})"),
            7 => format!("MATCH (n) WHERE n.id < 3 AND n:{label}"),
            _ => format!("MATCH (m:{label}) WITH m AS n WHERE n.{key} > 0"),
        }
    }

    /// A SET or REMOVE of `n`.
    fn set(&mut self) -> String {
        let (key, other, label) = (self.key(), self.key(), self.label());
        match self.random.u8(0..19) {
            15 => format!("SET n:{label}"),
            16 => format!("REMOVE n:{label}"),
            17 => format!("SET n:{label} REMOVE n:{}", self.label()),
            0..3 => format!("SET n.{key} = $v"),
            3 => format!("SET n.{key} = coalesce(n.{other}, 0) + 1"),
            4 => "SET n += $map".to_owned(),
            5 => "SET n += $p.inner".to_owned(),
            6 => format!("SET n += {{{key}: $v}}"),
            7 => "SET n = $map".to_owned(),
            8 => format!("SET n = {{id: n.id, {key}: 9}}"),
            9 => format!("SET n:{label}"),
            10 => format!("SET n:{label}, n.{key} = 7"),
            11 => format!("REMOVE n:{label}"),
            12 => format!("REMOVE n.{key}"),
            13 => "SET n[$k] = $v".to_owned(),
            14 => "SET n:$($label)".to_owned(),
            _ => format!("SET n.{key} = $v, n.{other} = null SET n.l = [1, 5]"),
        }
    }

    fn change(&mut self) -> String {
        if self.chance(20) {
            let types = self.edge_type();
            let set = self.pick(&["SET r.w = $v", "SET r += $map", "SET r.x = 5, r.w = 6", "REMOVE r.w"]);
            let found =
                self.pick(&["MATCH ()-[r:T]->()", "MATCH (a)-[r]-(b {id: $id})", "MATCH (:FpA)-[r:T]->()"]);
            return format!("{} {set}", found.replace(":T]", &format!(":{types}]")));
        }
        let tail = self.pick(&["", "", " RETURN n", " RETURN count(*)", " WITH n RETURN n.x"]);
        let (found, set) = (self.found(), self.set());
        format!("{found} {set}{tail}")
    }

    fn creation(&mut self) -> String {
        let (label, other, types, key) = (self.label(), self.label(), self.edge_type(), self.key());
        match self.random.u8(0..20) {
            0 => format!("CREATE (n:{label} {{id: $id, {key}: $v}})"),
            1 => "CREATE (n {id: $id, x: $v})".to_owned(),
            2 => format!("CREATE (n:{label}:{other} $map) RETURN n"),
            3 => format!("CREATE (a:{label} {{id: 50}})-[:{types} {{w: 1}}]->(b:{other} {{id: 51}})"),
            4 => format!("MATCH (a {{id: $id}}), (b {{id: $to}}) CREATE (a)-[r:{types} {{w: $v}}]->(b)"),
            5 => format!("MATCH (a:{label}), (b:{other}) WITH a, b LIMIT 2 CREATE (a)<-[:{types}]-(b)"),
            6 => {
                format!("MATCH (a {{id: $id}}) MATCH (b {{id: $to}}) MERGE (a)-[r:{types}]->(b) SET r.w = 5")
            }
            7 => format!(
                "MATCH (a {{id: $id}}), (b {{id: $to}}) MERGE (a)-[r:{types}]->(b) ON CREATE SET r.w = 1, a.{key} = 8 \
                 ON MATCH SET r.w = 2, b:{label}"
            ),
            8 => format!("MERGE (n:{label} {{id: $id}})"),
            9 => format!("MERGE (n:{label} {{id: $id}}) SET n += $map"),
            10 => format!(
                "MERGE (n:{label} {{id: $id}}) ON CREATE SET n.{key} = 1 ON MATCH SET n.{key} = 2, n:{other}"
            ),
            11 => format!("MERGE (n:{label} {{{key}: $v}}) ON MATCH SET n += $map"),
            12 => format!("MERGE (a:{label} {{id: $id}})-[:{types}]->(b:{other} {{{key}: $v}})"),
            13 => format!("MATCH (a {{id: $id}}) MERGE (a)-[:{types}]->(b:{label} {{{key}: 7}})"),
            14 => format!("MATCH (a:{label}) WITH count(*) AS c CREATE (a)-[:{types}]->(b {{x: c}})"),
            15 => format!("MATCH (a {{id: $id}}) WITH a AS b CREATE (b)-[:{types}]->(a)"),
            16 => format!("CREATE (a:{label}), (a)-[:{types}]->(b), (b)-[:{types}]->(a)"),
            17 => format!("MATCH (a {{id: $id}}) WITH *, 1 AS one CREATE (a)-[:{types} {{w: one}}]->(a)"),
            18 => {
                format!("MATCH (a WHERE any(q IN a.l WHERE q > 0)) WITH a LIMIT 1 CREATE (q)-[:{types}]->(a)")
            }
            _ => format!("CREATE (n:{label}) SET n.{key} = $v, n:{other}"),
        }
    }

    fn deletion(&mut self) -> String {
        let (label, types, other) = (self.label(), self.edge_type(), self.edge_type());
        match self.random.u8(0..10) {
            0..3 => format!("MATCH ()-[r:{types}]->() DELETE r"),
            3 => format!("MATCH (a {{id: $id}})-[r:{types}]-() DELETE r"),
            4 => format!("MATCH (a:{label})-[r:{types}|{other}]->() WITH DISTINCT r LIMIT 2 DELETE r"),
            5 => "MATCH (a {id: $id})-[r]-() DELETE r".to_owned(),
            6 => format!("MATCH (a:{label} {{id: $id}})-[r:!{types}]-() DELETE r"),
            7 => "MATCH (n {id: $id}) DETACH DELETE n".to_owned(),
            8 => format!("MATCH (n:{label}) WHERE NOT (n)--() DELETE n"),
            _ => format!("MATCH (a {{id: $id}})-[r:{types}]-(b) DELETE r SET a.x = 4"),
        }
    }

    fn rows(&mut self) -> String {
        let (label, types) = (self.label(), self.edge_type());
        match self.random.u8(0..7) {
            0 => format!("UNWIND $flat AS row MERGE (n:{label} {{id: row.id}}) SET n += row"),
            1 => format!("UNWIND $rows AS row MATCH (n:{label} {{id: row.id}}) SET n += row.props"),
            2 => "UNWIND $rows AS row MATCH (n {id: row.id}) WITH n, row SET n = row.props".to_owned(),
            3 => format!(
                "UNWIND $rows AS row MATCH (a {{id: row.id}}), (b {{id: row.to}}) CREATE (a)-[:{types}]->(b)"
            ),
            4 => format!(
                "UNWIND $rows AS row MATCH (a {{id: row.id}}) MATCH (b {{id: row.to}}) MERGE (a)-[r:{types}]->(b) SET r += row.props"
            ),
            5 => "UNWIND $rows AS row WITH row.props AS row MATCH (n {id: $id}) SET n += row".to_owned(),
            _ => format!("UNWIND $rows AS row CREATE (n:{label}) SET n = row.props"),
        }
    }

    fn nested(&mut self) -> String {
        let (label, types, key) = (self.label(), self.edge_type(), self.key());
        let (found, set) = (self.found(), self.set());
        match self.random.u8(0..8) {
            0 => format!("MATCH (n {{id: $id}}) FOREACH (q IN [1, 2] | SET n.{key} = q)"),
            1 => format!("MATCH (a:{label}) WITH collect(a) AS ns FOREACH (n IN ns | {set})"),
            2 => format!(
                "MATCH p = ({{id: $id}})-[:{types}]->() FOREACH (n IN nodes(p) | SET n.{key} = 7 CREATE (n)-[:{types}]->(:{label}))"
            ),
            3 => format!("FOREACH (q IN [1] | CREATE (n:{label})) CREATE (n)-[:{types}]->(m)"),
            4 => format!("{found} CALL (n) {{ {set} }}"),
            5 => format!("{found} CALL {{ WITH n {set} RETURN count(*) AS c }} RETURN c"),
            6 => format!(
                "{found} WITH n LIMIT 1 CALL (n) {{ CREATE (n)-[:{types}]->(o:{label}) RETURN o }} RETURN o"
            ),
            _ => format!(
                "MATCH (n {{id: $id}}) FOREACH (_ IN CASE WHEN n:{label} THEN [1] ELSE [] END | REMOVE n:{label} \
                 FOREACH (q IN [3] | SET n.{key} = q))"
            ),
        }
    }
}
