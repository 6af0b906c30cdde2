//! Random texts that read, and parts that texts which write have in common with them.

use bolt_wire::packstream::Value;

pub(super) const LABELS: [&str; 6] = ["FpA", "FpB", "FpC", "FpD", "FpE", "FpF"];
pub(super) const TYPES: [&str; 4] = ["FpT", "FpU", "FpV", "FpW"];
/// Properties of nodes that are numbers; relationships have `w` and `x`.
pub(super) const KEYS: [&str; 6] = ["x", "y", "z", "p", "q", "r"];

/// A source of random texts.
pub(super) struct Texts {
    pub(super) random: fastrand::Rng,
    /// Names that have been given.
    given: usize,
}

/// What can be spoken of at some place of a text.
#[derive(Clone, Debug, Default)]
struct Scope {
    nodes: Vec<String>,
    edges: Vec<String>,
    paths: Vec<String>,
    plain: Vec<String>,
}

/// The parameters of every read.
pub(super) fn parameters() -> Value {
    let rows = (0..3).map(|id| Value::map([("id", Value::from(id)), ("x", Value::from(1))]));
    Value::map([
        ("id", Value::from(3)),
        ("k", Value::from("y")),
        ("one", Value::from(1)),
        ("rows", Value::List(rows.collect())),
    ])
}

impl Texts {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), given: 0 }
    }

    pub(super) fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random.usize(0..list.len())]
    }

    fn one(&mut self, list: &[String]) -> String {
        list[self.random.usize(0..list.len())].clone()
    }

    pub(super) fn label(&mut self) -> &'static str {
        self.pick(&LABELS)
    }

    pub(super) fn edge_type(&mut self) -> &'static str {
        self.pick(&TYPES)
    }

    pub(super) fn key(&mut self) -> &'static str {
        self.pick(&KEYS)
    }

    fn name(&mut self) -> String {
        self.given += 1;
        format!("v{}", self.given)
    }

    /// A text that reads.
    pub(super) fn read(&mut self) -> String {
        self.given = 0;
        let mut text = self.query();
        if self.chance(6) {
            let (a, b) = (self.column_query(), self.column_query());
            let all = self.pick(&["", " ALL"]);
            text = format!("{a} UNION{all} {b}");
        }
        text
    }

    fn column_query(&mut self) -> String {
        let mut scope = Scope::default();
        let clauses = self.clauses(&mut scope);
        let column = self.column(&scope);
        format!("{clauses}RETURN {column} AS c")
    }

    fn query(&mut self) -> String {
        let mut scope = Scope::default();
        let clauses = self.clauses(&mut scope);
        let answer = self.answer(&scope);
        format!("{clauses}{answer}")
    }

    fn clauses(&mut self, scope: &mut Scope) -> String {
        let mut text = self.matching(scope);
        for _ in 0..self.pick(&[0, 0, 0, 0, 1, 1, 2]) {
            text += &match self.random.u8(0..12) {
                0..4 => self.matching(scope),
                4 | 5 => self.subquery(scope),
                6 => {
                    let name = self.name();
                    scope.plain.push(name.clone());
                    format!("UNWIND [0, 1, 2] AS {name} ")
                }
                7 => {
                    let name = self.name();
                    scope.plain.push(format!("{name}.x"));
                    format!("UNWIND $rows AS {name} MATCH (:{} {{id: {name}.id}}) ", self.label())
                }
                8 => self.collected(scope),
                _ => self.handed_on(scope),
            };
        }
        text
    }

    /// WITH some of the names, perhaps under others.
    fn handed_on(&mut self, scope: &mut Scope) -> String {
        if self.chance(20) {
            return "WITH * ".to_owned();
        }
        let mut items = Vec::new();
        let mut next = Scope::default();
        for node in scope.nodes.clone() {
            if next.nodes.is_empty() || self.chance(50) {
                let name = if self.chance(30) { self.name() } else { node.clone() };
                items.push(if name == node { node } else { format!("{node} AS {name}") });
                next.nodes.push(name);
            }
        }
        for edge in scope.edges.clone() {
            if self.chance(40) {
                items.push(edge.clone());
                next.edges.push(edge);
            }
        }
        let dropped: Vec<_> = scope.nodes.iter().filter(|node| !next.nodes.contains(node)).cloned().collect();
        if self.chance(50) {
            // Perhaps a name that has been a node's.
            let name = if dropped.is_empty() || self.chance(60) { self.name() } else { self.one(&dropped) };
            let value = if self.chance(60) { self.scalar(scope) } else { self.aggregate(scope) };
            items.push(format!("{value} AS {name}"));
            next.plain.push(name);
        }
        let condition =
            if self.chance(25) { format!("WHERE {} ", self.condition(&next)) } else { String::new() };
        *scope = next;
        let distinct = self.pick(&["", "", "DISTINCT "]);
        format!("WITH {distinct}{} {condition}", items.join(", "))
    }

    /// Nodes in a list or a map, and out of it again.
    fn collected(&mut self, scope: &mut Scope) -> String {
        let node = self.one(&scope.nodes);
        let (list, name, value) = (self.name(), self.name(), self.key());
        let own = Scope { nodes: vec![name.clone()], ..Scope::default() };
        match self.random.u8(0..4) {
            0 => {
                *scope = own;
                format!("WITH collect({node}) AS {list} UNWIND {list} AS {name} ")
            }
            1 => {
                *scope = Scope { plain: vec![format!("{list}.n.{value}"), format!("{list}.v")], ..own };
                format!("WITH {{n: {node}, v: {node}.{value}}} AS {list} WITH {list}, {list}.n AS {name} ")
            }
            2 => {
                let plain = vec![format!("[q IN {list} | q.{value}]"), format!("size({list})")];
                *scope = Scope { plain, ..own };
                format!("WITH collect(DISTINCT {node}) AS {list} UNWIND {list} AS {name} ")
            }
            _ => {
                let plain = vec![format!("{list}[0].{value}"), format!("head({list}).{value}")];
                *scope = Scope { plain, ..own };
                format!(
                    "WITH {node} ORDER BY {node}.id, elementId({node}) \
                     WITH collect({node}) AS {list} UNWIND {list} AS {name} "
                )
            }
        }
    }

    fn subquery(&mut self, scope: &mut Scope) -> String {
        let node = self.one(&scope.nodes);
        let name = self.name();
        let mut inner = Scope { nodes: vec![node.clone()], ..Scope::default() };
        let body = self.matching(&mut inner);
        let (value, is_node) = match self.random.u8(0..4) {
            0 => (self.one(&inner.nodes), true),
            1 => (self.aggregate(&inner), false),
            _ => (self.scalar(&inner), false),
        };
        (if is_node { &mut scope.nodes } else { &mut scope.plain }).push(name.clone());
        match self.random.u8(0..4) {
            0 => format!("CALL {{ WITH {node} {body}RETURN {value} AS {name} }} "),
            1 => format!("OPTIONAL CALL ({node}) {{ {body}RETURN {value} AS {name} }} "),
            2 => format!("CALL (*) {{ {body}RETURN {value} AS {name} }} "),
            _ => format!("CALL ({node}) {{ {body}RETURN {value} AS {name} }} "),
        }
    }

    fn matching(&mut self, scope: &mut Scope) -> String {
        let optional = self.pick(&["", "", "", "OPTIONAL "]);
        let pattern = match self.random.u8(0..14) {
            0 => {
                let (from, to, name) = (self.node_with_key(scope), self.node_with_key(scope), self.name());
                let types = self.types();
                scope.plain.push(format!("length({name})"));
                format!("{name} = shortestPath({from}-[{types}*..3]-{to})")
            }
            1 => self.quantified(scope),
            2 => format!("{}, {}", self.path(scope, 1), self.path(scope, 1)),
            _ => {
                let nodes = self.pick(&[1, 1, 2, 2, 2, 3]);
                self.path(scope, nodes)
            }
        };
        let condition =
            if self.chance(40) { format!("WHERE {} ", self.condition(scope)) } else { String::new() };
        format!("{optional}MATCH {pattern} {condition}")
    }

    fn node_with_key(&mut self, scope: &mut Scope) -> String {
        let (name, label, id) = (self.name(), self.label(), self.random.u8(0..20));
        scope.nodes.push(name.clone());
        format!("({name}:{label} {{id: {id}}})")
    }

    fn quantified(&mut self, scope: &mut Scope) -> String {
        let (a, b) = (self.name(), self.name());
        let types = self.types();
        let labels = [self.labels(), self.labels()];
        let key = self.key();
        scope.nodes.extend([a.clone(), b.clone()]);
        match self.random.u8(0..5) {
            0 => format!("({a}{}) (()-[{types}]->()){{0,2}} ({b}{})", labels[0], labels[1]),
            1 => format!(
                "({a}{}) ((q0)-[{types}]->(q1 WHERE q1.{key} > 0)){{1,2}} ({b}{})",
                labels[0], labels[1]
            ),
            2 => format!("({a}{})-[{types}]->{{0,2}}({b}{})", labels[0], labels[1]),
            3 => format!("({a}{})-[{types}]-{{1,2}}({b}{})", labels[0], labels[1]),
            _ => format!("({a}{})-[{types}*0..1]->({b}{})", labels[0], labels[1]),
        }
    }

    fn path(&mut self, scope: &mut Scope, nodes: usize) -> String {
        let mut text = String::new();
        let named = nodes > 1 && self.chance(20);
        for at in 0..nodes {
            if at > 0 {
                text += &self.edge(scope, named);
            }
            text += &self.node(scope);
        }
        if named {
            let name = self.name();
            text = format!("{name} = {text}");
            scope.paths.push(name);
        }
        text
    }

    fn node(&mut self, scope: &mut Scope) -> String {
        if !scope.nodes.is_empty() && self.chance(25) {
            return format!("({})", self.one(&scope.nodes));
        }
        let name = self.name();
        let labels = self.labels();
        let more = match self.random.u8(0..8) {
            0 => format!(" {{{}: {}}}", self.key(), self.random.u8(0..3)),
            1 => format!(" {{id: {}}}", self.random.u8(0..20)),
            2 => format!(" WHERE {name}.{} > 0", self.key()),
            _ => String::new(),
        };
        scope.nodes.push(name.clone());
        format!("({name}{labels}{more})")
    }

    fn edge(&mut self, scope: &mut Scope, named: bool) -> String {
        let types = self.types();
        let steps = if self.chance(15) { self.pick(&["*1..2", "*..2", "*0..1", "*2"]) } else { "" };
        let more = match self.random.u8(0..8) {
            0 => format!(" {{w: {}}}", self.random.u8(0..3)),
            _ => String::new(),
        };
        let name = if steps.is_empty() && !named && self.chance(50) {
            let name = self.name();
            scope.edges.push(name.clone());
            name
        } else {
            String::new()
        };
        let (left, right) = self.pick(&[("-", "->"), ("<-", "-"), ("-", "-")]);
        if name.is_empty() && types.is_empty() && steps.is_empty() && more.is_empty() && self.chance(50) {
            return format!("{left}{right}");
        }
        format!("{left}[{name}{types}{steps}{more}]{right}")
    }

    /// A label expression with what stands before it, or nothing.
    fn labels(&mut self) -> String {
        let (a, b) = (self.label(), self.label());
        match self.random.u8(0..20) {
            0 | 1 => String::new(),
            4 | 5 => format!(":{a}|{b}"),
            6 => format!(":{a}&{b}"),
            7 => format!(":{a}:{b}"),
            8 => format!(":{a}&!{b}"),
            9 if self.chance(40) => format!(":!{a}"),
            10 if self.chance(40) => ":%".to_owned(),
            11 if self.chance(40) => format!(":!({a}|{b})"),
            _ => format!(":{a}"),
        }
    }

    fn types(&mut self) -> String {
        let (a, b) = (self.edge_type(), self.edge_type());
        match self.random.u8(0..12) {
            0 => String::new(),
            2 | 3 => format!(":{a}|{b}"),
            4 if self.chance(50) => format!(":!{a}"),
            _ => format!(":{a}"),
        }
    }

    fn condition(&mut self, scope: &Scope) -> String {
        let Some(node) = (!scope.nodes.is_empty()).then(|| self.one(&scope.nodes)) else {
            return "true".to_owned();
        };
        let (key, label, types, value) = (self.key(), self.label(), self.types(), self.random.u8(0..3));
        let other = self.one(&scope.nodes);
        let first = match self.random.u8(0..24) {
            0..4 => format!("{node}.{key} = {value}"),
            4 => format!("{node}.{key} > {value}"),
            5 => format!("{node}:{label}"),
            6 => format!("NOT {node}:{label}"),
            7 => format!("{node}:{label}|!{}", self.label()),
            8 => format!("EXISTS {{ ({node})-[{types}]->() }}"),
            9 => format!("EXISTS {{ MATCH ({node})-[{types}]-(q:{label}) WHERE q.{key} = {value} }}"),
            10 => format!("COUNT {{ ({node})-[{types}]-() }} > 1"),
            11 => format!("({node})-[{types}]->(:{label})"),
            12 => format!("NOT ({node})-[{types}]-()"),
            13 => format!("any(q IN keys({node}) WHERE q = '{key}')"),
            14 => format!("'{label}' IN labels({node})"),
            15 => format!("{node}.s STARTS WITH 'a'"),
            16 => format!("{node}[$k] = {value}"),
            17 => format!("{node}['{key}'] = {value}"),
            18 => format!("{node} = {other}"),
            19 => format!("{node}.{key} IS NOT NULL"),
            20 => format!("size([({node})-[{types}]->(q) WHERE q.{key} > 0 | q]) > 0"),
            21 => format!("properties({node}).{key} = {value}"),
            22 => format!("COUNT {{ MATCH (q:{label}) WHERE q.{key} = {node}.{key} }} > 2"),
            _ => format!("all(q IN {node}.l WHERE q < 3)"),
        };
        if self.chance(25) {
            let word = self.pick(&["AND", "OR"]);
            return format!("{first} {word} {}", self.condition(scope));
        }
        first
    }

    /// A value that is neither a node nor a relationship, nor has one in it.
    fn scalar(&mut self, scope: &Scope) -> String {
        if !scope.edges.is_empty() && self.chance(20) {
            let edge = self.one(&scope.edges);
            return self.of_edge(&edge);
        }
        if !scope.paths.is_empty() && self.chance(30) {
            let path = self.one(&scope.paths);
            return self.of_path(&path);
        }
        if !scope.plain.is_empty() && (scope.nodes.is_empty() || self.chance(20)) {
            return self.one(&scope.plain);
        }
        if scope.nodes.is_empty() {
            return "$one".to_owned();
        }
        let node = self.one(&scope.nodes);
        self.of_node(&node)
    }

    fn of_edge(&mut self, edge: &str) -> String {
        let key = self.key();
        match self.random.u8(0..8) {
            0 => format!("type({edge})"),
            1 => format!("startNode({edge}).{key}"),
            2 => format!("properties({edge})"),
            3 => format!("{edge} {{.*}}"),
            4 => format!("elementId({edge})"),
            5 => format!("{edge}.x"),
            _ => format!("{edge}.w"),
        }
    }

    fn of_path(&mut self, path: &str) -> String {
        match self.random.u8(0..4) {
            0 => format!("length({path})"),
            1 => format!("[q IN nodes({path}) | q.{}]", self.key()),
            2 => format!("[q IN relationships({path}) WHERE q.w > 0 | type(q)]"),
            _ => format!("size([q IN nodes({path}) WHERE q:{}])", self.label()),
        }
    }

    fn of_node(&mut self, node: &str) -> String {
        let (key, other, label, types) = (self.key(), self.key(), self.label(), self.types());
        match self.random.u8(0..38) {
            29 => format!("[q IN keys({node}) | {node}[q]]"),
            30 => format!("properties({node})[$k]"),
            31 => format!("{{a: {{b: {node}}}}}.a.b.{key}"),
            32 => format!("[{{m: {node}}}][0].m.{key}"),
            33 => format!("CASE {node} WHEN {node} THEN {node}.{key} END"),
            34 => format!("{node} {{.*, x: 1}}.{key}"),
            35 => format!("[q IN [{node}] WHERE (q:{label}) | q {{.{key}}}]"),
            36 => format!("reduce(t = 0, q IN [{node}] | t + coalesce(q.{key}, 0))"),
            37 => format!("head([{node}]).{key}"),
            28 => format!("labels({node})"),
            0..6 => format!("{node}.{key}"),
            6 => format!("{node}.{key} + {node}.{other}"),
            7 => format!("{node} {{.{key}, .s}}"),
            8 => format!("{node} {{.*}}"),
            9 => format!("{node} {{.{key}, k: {node}.{other}}}"),
            10 => format!("properties({node})"),
            11 => format!("keys({node})"),
            12 => format!("labels({node})"),
            13 => format!("{{a: {node}}}.a.{key}"),
            14 => format!("elementId({node})"),
            15 => format!("[({node})-[{types}]->(q:{label}) | q.{key}]"),
            16 => format!("COUNT {{ ({node})-[{types}]-(q:{label}) WHERE q.{key} > 0 }}"),
            17 => format!("COLLECT {{ MATCH ({node})-[{types}]-(q) RETURN q.{key} }}"),
            18 => format!("coalesce({node}.{key}, {node}.{other})"),
            19 => format!("{node}:{label}"),
            20 => format!("CASE WHEN {node}:{label} THEN {node}.{key} ELSE {node}.{other} END"),
            21 => format!("toUpper({node}.s)"),
            22 => format!("{node}.l[0]"),
            23 => format!("size({node}.l)"),
            24 => format!("reduce(t = 0, q IN {node}.l | t + q)"),
            25 => format!("[{node}.{key}, {node}.id]"),
            26 => format!("EXISTS {{ ({node})-[{types}]->(:{label}) }}"),
            _ => format!("{node}.id"),
        }
    }

    fn aggregate(&mut self, scope: &Scope) -> String {
        if scope.nodes.is_empty() || self.chance(30) {
            return "count(*)".to_owned();
        }
        let (node, key) = (self.one(&scope.nodes), self.key());
        match self.random.u8(0..13) {
            10 => format!("[q IN collect({{m: {node}}}) | q.m.{key}]"),
            11 => format!("size([q IN collect({node}) WHERE q.{key} > 0])"),
            12 => format!("size(collect({{m: {node}}}))"),
            0 => format!("count({node})"),
            1 => format!("count(DISTINCT {node}.{key})"),
            2 => format!("sum({node}.{key})"),
            3 => format!("collect({node}.{key})"),
            4 => format!("max({node}.{key})"),
            5 => format!("avg({node}.{key})"),
            6 => format!("collect({node} {{.{key}}})"),
            7 => format!("[q IN collect({node}) | q.{key}]"),
            8 => format!("size(collect(DISTINCT {node}))"),
            _ => format!("collect({{a: {node}.{key}}})"),
        }
    }

    /// A value that shows whole nodes, relationships or paths.
    fn whole(&mut self, scope: &Scope) -> String {
        if !scope.paths.is_empty() && self.chance(40) {
            let path = self.one(&scope.paths);
            return self.pick(&["@", "nodes(@)", "relationships(@)", "last(nodes(@))"]).replace('@', &path);
        }
        if !scope.edges.is_empty() && self.chance(40) {
            let edge = self.one(&scope.edges);
            return self.pick(&["@", "[@]", "startNode(@)", "endNode(@)"]).replace('@', &edge);
        }
        if scope.nodes.is_empty() {
            return "1".to_owned();
        }
        let node = self.one(&scope.nodes);
        let forms = [
            "@",
            "@",
            "@",
            "[@]",
            "{a: @}",
            "collect(@)",
            "head([@])",
            "coalesce(@, 1)",
            "[q IN [@] | q]",
            "[(@)--(q) | q]",
            "CASE WHEN true THEN @ END",
            "COLLECT { MATCH (@)-->(q) RETURN q }",
            "{a: {b: [@]}}.a",
            "reduce(t = null, q IN [@] | q)",
            "[q IN [{m: @}] | q.m]",
            "[1] + @",
            "@ {.x, m: @}",
            "[{m: @}][0].m",
            "nullIf(@, 1)",
            "collect({m: @})",
        ];
        self.pick(&forms).replace('@', &node)
    }

    fn column(&mut self, scope: &Scope) -> String {
        match self.random.u8(0..10) {
            0 => self.whole(scope),
            1..4 => self.aggregate(scope),
            _ => self.scalar(scope),
        }
    }

    fn answer(&mut self, scope: &Scope) -> String {
        if self.chance(3) {
            return "RETURN *".to_owned();
        }
        if self.chance(10) && !scope.nodes.is_empty() {
            let (node, key) = (self.one(&scope.nodes), self.key());
            return format!(
                "RETURN DISTINCT {node}.{key} AS c0, elementId({node}) AS c1 ORDER BY c0, c1 LIMIT 5"
            );
        }
        let columns: Vec<_> =
            (0..self.pick(&[1, 1, 2, 3])).map(|at| format!("{} AS c{at}", self.column(scope))).collect();
        let distinct = self.pick(&["", "", "", "DISTINCT "]);
        let order = if self.chance(15) { " ORDER BY c0" } else { "" };
        format!("RETURN {distinct}{}{order}", columns.join(", "))
    }
}
