package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/neo4j/neo4j-go-driver/v6/neo4j"
	"github.com/neo4j/neo4j-go-driver/v6/neo4j/config"
	"github.com/neo4j/neo4j-go-driver/v6/neo4j/notifications"
)

const (
	who   = "SHOW CURRENT USER YIELD user"
	noisy = "MATCH (a:RUNAbsent), (b:RUN) WHERE a.absentPropertyRUN = 1 RETURN a, b"
	old   = "EXPLAIN MATCH (a:RUN) RETURN id(a) AS deprecated"
	slow  = "UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 8 RETURN count(x) AS n"
)

func init() {
	for name, action := range map[string]scenario{
		"server_info": serverInfo, "verify_authentication": verifyAuthentication, "wrong_password": wrongPassword,
		"second_user": secondUser, "session_auth": sessionAuth, "values_bytes": valuesBytes, "values_graph": valuesGraph,
		"autocommit": autocommit, "empty_result": emptyResult, "managed_functions": managedFunctions, "execute_query": executeQuery,
		"console":   console,
		"refusal":   refusal,
		"gnn":       gnn,
		"tx_commit": txCommit, "tx_rollback": txRollback, "tx_close": txClose, "bookmarks": bookmarks,
		"small_fetch_discard": smallFetchDiscard, "interleaved_results": interleavedResults, "large_result": largeResult,
		"large_parameter": largeParameter, "explain": explain, "profile": profiled, "notifications": notified,
		"notification_filter_driver": filterOfDriver, "notification_filter_session": filterOfSession,
		"error_constraint": errorConstraint, "error_in_transaction": errorInTransaction, "tx_timeout": txTimeout,
		"tx_metadata": txMetadata, "read_mode_write": readModeWrite, "unknown_database": unknownDatabase,
		"impersonation": impersonation, "concurrency": concurrency,
	} {
		scenarios[name] = action
	}
}

func (n *Normal) run(r runner, cypher string, params map[string]any) any {
	return n.result(r.Run(ctx, q(cypher), params))
}

// ---------------------------------------------------------------- connection

func serverInfo(*Normal) any {
	check(driver.VerifyConnectivity(ctx))
	info := must(driver.GetServerInfo(ctx))
	return object{"agent": info.Agent(), "protocol": info.ProtocolVersion(), "encrypted": driver.IsEncrypted()}
}

func verifyAuthentication(*Normal) any {
	right, wrong := owner(), neo4j.BasicAuth(user, "not "+password, "")
	check(driver.VerifyAuthentication(ctx, &right))
	return object{"wrong": fails(driver.VerifyAuthentication(ctx, &wrong)), "after": countAlone()}
}

func wrongPassword(*Normal) any {
	out := object{}
	withDriver(neo4j.BasicAuth(user, "not-the-password", ""), func(d neo4j.Driver) {
		withSession(d, neo4j.SessionConfig{}, func(s neo4j.Session) { out["password"] = fails(drain(auto{s}, "RETURN 1", nil)) })
	})
	withDriver(neo4j.BasicAuth("nobody", "not-the-password", ""), func(d neo4j.Driver) {
		out["user"] = fails(d.VerifyConnectivity(ctx))
	})
	out["after"] = countAlone()
	return out
}

func secondUser(n *Normal) any {
	out := object{}
	system := neo4j.SessionConfig{DatabaseName: "system"}
	passwords := object{"old": "first-secret-1", "new": "other-secret-2"}
	withSession(driver, system, func(s neo4j.Session) {
		out["created"] = n.run(auto{s}, "CREATE USER RUNuser SET PASSWORD $old CHANGE NOT REQUIRED", passwords)
		defer func() { out["dropped"] = n.run(auto{s}, "DROP USER RUNuser", nil) }()
		withDriver(neo4j.BasicAuth(run+"user", "first-secret-1", ""), func(d neo4j.Driver) {
			withSession(d, neo4j.SessionConfig{}, func(s neo4j.Session) {
				out["shown"] = n.run(auto{s}, "SHOW CURRENT USER YIELD user, passwordChangeRequired", nil)
				out["counted"] = count(auto{s})
			})
			withSession(d, system, func(s neo4j.Session) {
				check(drain(auto{s}, "ALTER CURRENT USER SET PASSWORD FROM $old TO $new", passwords))
			})
		})
		withDriver(neo4j.BasicAuth(run+"user", "other-secret-2", ""), func(d neo4j.Driver) {
			out["changed"] = n.rows(must(eager(d, who, nil)).Records)
		})
		out["mine"] = n.rows(must(eager(driver, who, nil)).Records)
	})
	return out
}

func sessionAuth(*Normal) any {
	seen, guest, wrong := list{}, neo4j.BasicAuth(run+"guest", "guest-secret-1", ""), neo4j.BasicAuth(run+"guest", "wrong", "")
	inSystem := neo4j.ExecuteQueryWithDatabase("system")
	must(eager(driver, "CREATE USER RUNguest SET PASSWORD 'guest-secret-1' CHANGE NOT REQUIRED", nil, inSystem))
	defer func() { must(eager(driver, "DROP USER RUNguest", nil, inSystem)) }()
	mine := owner()
	for _, auth := range []*neo4j.AuthToken{nil, &guest, nil, &guest, &guest, nil} {
		withSession(driver, neo4j.SessionConfig{Auth: auth}, func(s neo4j.Session) { seen = append(seen, only(auto{s}, who, nil)) })
		used := mine
		if auth != nil {
			used = *auth
		}
		seen = append(seen, must(eager(driver, who, nil, neo4j.ExecuteQueryWithAuthToken(used))).Records[0].Values[0])
	}
	var refused any
	withSession(driver, neo4j.SessionConfig{Auth: &wrong}, func(s neo4j.Session) { refused = fails(drain(auto{s}, who, nil)) })
	session(func(s neo4j.Session) { seen = append(seen, only(auto{s}, who, nil)) })
	return object{"seen": seen, "refused": refused}
}

// ---------------------------------------------------------------- values

// roundTrips shows each value as the server makes it, and again after the driver sent it back as a parameter.
func roundTrips(n *Normal, expressions []string, prefix string) any {
	out := list{}
	session(func(s neo4j.Session) {
		for _, expression := range expressions {
			made := only(auto{s}, prefix+"RETURN "+expression+" AS v", nil)
			withTransaction(s, func(tx neo4j.ExplicitTransaction) {
				back := must(tx.Run(ctx, prefix+"RETURN $v AS v, [$v] AS l, {k: $v} AS m", object{"v": made}))
				out = append(out, list{expression, n.value(made), n.all(must(back.Single(ctx)).Values)})
			})
		}
	})
	return out
}

func valueScenarios() {
	for name, expressions := range cases.Values {
		scenarios[name] = func(n *Normal) any { return roundTrips(n, expressions, "") }
	}
	for name, expressions := range cases.Cypher25 {
		scenarios[name] = func(n *Normal) any {
			if strings.HasPrefix(must(driver.GetServerInfo(ctx)).Agent(), "Neo4j/5.") {
				panic(skipped("no Cypher 25"))
			}
			return roundTrips(n, expressions, "CYPHER 25 ")
		}
	}
}

func valuesBytes(n *Normal) any {
	out := list{}
	session(func(s neo4j.Session) {
		for _, size := range []int{0, 1, 255, 256, 65535, 65536, 70000} {
			v := make([]byte, size)
			for i := range v {
				v[i] = byte(i * 7)
			}
			out = append(out, list{n.value(v), n.rows(must(must(s.Run(ctx, "RETURN $v AS v, [$v] AS l", object{"v": v})).Collect(ctx)))})
		}
	})
	return out
}

func valuesGraph(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		out["made"] = n.run(auto{s}, "CREATE p = (a:RUN:RUNOther {name: 'a', list: [1, 2], at: date('2024-01-01')})"+
			"-[r:KNOWS {since: 2020}]->(b:RUN) RETURN a, r, b, p", nil)
		out["read"] = n.run(auto{s}, "MATCH p = (b:RUN)<-[r:KNOWS]-(a:RUN) "+
			"RETURN p, nodes(p) AS n, {a: a, r: [r]} AS m, [(a)-[x]->(b) | x] AS c", nil)
		out["single"] = n.run(auto{s}, "MATCH p = (a:RUN {name: 'a'}) RETURN p", nil)
		looked := must(must(s.Run(ctx, q("MATCH (a:RUN {name: 'a'}) RETURN a, elementId(a) AS id"), nil)).Single(ctx))
		id := looked.Values[0].(neo4j.Node).ElementId
		out["same"] = id == looked.Values[1]
		out["found"] = only(auto{s}, "MATCH (a) WHERE elementId(a) = $id RETURN a.name AS name", object{"id": id})
	})
	return out
}

// ---------------------------------------------------------------- ways to run a query

func autocommit(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		out["write"] = n.run(auto{s}, "CREATE (n:RUN {p: $p}) RETURN n.p AS p", object{"p": 1})
		unread := must(s.Run(ctx, q("CREATE (:RUN {p: 2})-[:KNOWS]->(:RUN {p: 3})"), nil))
		out["unread"] = summary(must(unread.Consume(ctx)))
		out["read"] = n.run(auto{s}, "MATCH (n:RUN) RETURN n.p AS p ORDER BY p", nil)
		out["set"] = n.run(auto{s}, "MATCH (n:RUN {p: 1}) SET n.k = 5, n:RUNOther REMOVE n.p RETURN n", nil)
		out["deleted"] = n.run(auto{s}, "MATCH (n:RUN) DETACH DELETE n", nil)
	})
	return out
}

func emptyResult(n *Normal) any {
	out := list{}
	session(func(s neo4j.Session) {
		for _, cypher := range []string{"MATCH (n:RUN) RETURN n.p AS first, n.k AS `second one`", "MATCH (n:RUN) DELETE n", "UNWIND [] AS x RETURN x"} {
			out = append(out, n.run(auto{s}, cypher, nil))
		}
	})
	return out
}

func managedFunctions(n *Normal) any {
	out := object{}
	create := "CREATE (n:RUN {p: $p}) RETURN n.p AS p"
	read := func(tx neo4j.ManagedTransaction) (any, error) {
		return n.run(tx, "MATCH (n:RUN) RETURN n.p AS p ORDER BY p", nil), nil
	}
	session(func(s neo4j.Session) {
		out["written"] = must(s.ExecuteWrite(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
			check(drain(tx, create, object{"p": 1}))
			return n.run(tx, create, object{"p": 2}), nil
		}))
		out["read"] = must(s.ExecuteRead(ctx, read))
		_, own := s.ExecuteWrite(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
			check(drain(tx, create, object{"p": 99}))
			return nil, fmt.Errorf("of the application")
		})
		out["own"] = fails(own)
		out["after"] = must(s.ExecuteRead(ctx, read))
	})
	return out
}

func executeQuery(n *Normal) any {
	shape := func(r *neo4j.EagerResult, err error) any {
		must(r, err)
		return list{r.Keys, n.rows(r.Records), summary(r.Summary)}
	}
	return object{
		"write": shape(eager(driver, "CREATE (n:RUN {p: $p}) RETURN n.p AS p", object{"p": 1})),
		"read": shape(eager(driver, "MATCH (n:RUN) RETURN n.p AS p", nil,
			neo4j.ExecuteQueryWithReadersRouting(), neo4j.ExecuteQueryWithDatabase("neo4j"))),
		"empty": shape(eager(driver, "MATCH (n:RUNOther) RETURN n", nil)),
	}
}

// refusal meets a limit and a rule of Sidebolt's: outside of a transaction a clear error, a managed one backs off and succeeds, the
// session stays.
func refusal(*Normal) any {
	if os.Getenv("VIA_SIDEBOLT") != "yes" {
		return "as expected"
	}
	own := neo4j.WithTxMetadata(map[string]any{"app": "refusal " + run})
	coded := func(code string, err error) {
		var failure *neo4j.Neo4jError
		if !errors.As(err, &failure) || failure.Code != code {
			panic(fmt.Sprintf("unexpected: %v", err))
		}
	}
	withSession(driver, neo4j.SessionConfig{}, func(s neo4j.Session) {
		ask := func() error {
			result, err := s.Run(ctx, "RETURN 1 AS x", nil, own)
			if err == nil {
				_, err = result.Single(ctx)
			}
			return err
		}
		check(ask())
		coded("Neo.TransientError.Request.NoThreadsAvailable", ask())
		must(s.ExecuteRead(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
			return nil, drain(tx, "RETURN 1 AS x", nil)
		}, own))
		coded("Neo.ClientError.Security.Forbidden", drain(auto{s}, "RETURN 'guard denies this' AS x", nil))
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			check(drain(tx, "RETURN 1", nil))
			coded("Neo.ClientError.Security.Forbidden", drain(tx, "RETURN 'guard denies this' AS x", nil))
		})
		check(drain(auto{s}, "RETURN 2 AS x", nil))
	})
	return "as expected"
}

// gnn asks Sidebolt's procedures for embeddings: fetched in pieces, in a managed transaction with more Cypher behind YIELD, and a clear
// error.
func gnn(*Normal) any {
	if os.Getenv("VIA_SIDEBOLT") != "yes" {
		return "as expected"
	}
	graph := map[string]any{"g": run}
	named := func(cypher string) string { return strings.ReplaceAll(cypher, "RUN", run) }
	expect := func(holds bool, seen any) {
		if !holds {
			panic(fmt.Sprintf("unexpected: %v", seen))
		}
	}
	withSession(driver, neo4j.SessionConfig{FetchSize: 2}, func(s neo4j.Session) {
		check(drain(auto{s}, named("CREATE (:RUN {p: 1})-[:RUN]->(:RUN {p: 2})-[:RUN]->(:RUN {p: 3})"), nil))
		check(drain(auto{s}, "CALL gnn.graph.project($g, $g, $g)", graph))
		call := "CALL gnn.fastRP.stream($g, {embeddingDimension: 4})"
		rows := must(must(s.Run(ctx, call, graph)).Collect(ctx))
		expect(len(rows) == 3 && len(rows[0].Values[2].([]any)) == 4, rows)
		rest := named(call + " YIELD elementId AS e MATCH (n:RUN) WHERE elementId(n) = e RETURN sum(n.p) AS p")
		sum := must(s.ExecuteWrite(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
			result, err := tx.Run(ctx, rest, graph)
			if err != nil {
				return nil, err
			}
			record, err := result.Single(ctx)
			if err != nil {
				return nil, err
			}
			return record.Values[0], nil
		}))
		expect(sum == int64(6), sum)
		err := drain(auto{s}, "MATCH (n) CALL gnn.graph.list() YIELD graphName RETURN graphName", nil)
		var failure *neo4j.Neo4jError
		expect(errors.As(err, &failure) && failure.Code == "Neo.ClientError.Statement.SyntaxError", err)
		check(drain(auto{s}, "CALL gnn.graph.drop($g)", graph))
		check(drain(auto{s}, named("MATCH (n:RUN) DETACH DELETE n"), nil))
	})
	return "as expected"
}

// console calls Sidebolt's own procedures: there through Sidebolt, unknown to Neo4j. Both have passed if nothing panics.
func console(*Normal) any {
	expect := func(holds bool, seen any) {
		if !holds {
			panic(fmt.Sprintf("unexpected: %v", seen))
		}
	}
	unknown := func(cypher string) {
		_, err := eager(driver, cypher, nil)
		var failure *neo4j.Neo4jError
		expect(errors.As(err, &failure) && failure.Code == "Neo.ClientError.Procedure.ProcedureNotFound", err)
	}
	if os.Getenv("VIA_SIDEBOLT") != "yes" {
		unknown("CALL sidebolt.coalesce()")
		return "as expected"
	}
	all := must(eager(driver, "CALL sidebolt.coalesce()", nil))
	expect(all.Keys[0] == "database" && all.Summary.QueryType() == neo4j.QueryTypeReadOnly, all.Keys)
	first := func(result neo4j.Result, err error) (values list) {
		for _, record := range must(must(result, err).Collect(ctx)) {
			values = append(values, record.Values[0])
		}
		return values
	}
	withSession(driver, neo4j.SessionConfig{FetchSize: 1}, func(s neo4j.Session) {
		names := first(s.Run(ctx, "CALL sidebolt.procedures()", nil))
		expect(len(names) > 2 && names[0] == "sidebolt.coalesce", names)
		managed := must(s.ExecuteRead(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
			return first(tx.Run(ctx, "CALL sidebolt.procedures() YIELD name", nil)), nil
		}))
		expect(fmt.Sprint(managed) == fmt.Sprint(names), managed)
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			numbers := must(tx.Run(ctx, "UNWIND [1, 2, 3] AS x RETURN x", nil))
			own := must(tx.Run(ctx, "CALL sidebolt.procedures()", nil))
			seen := list{first(tx.Run(ctx, "RETURN 4 AS x", nil)), first(own, nil), first(numbers, nil)}
			expect(fmt.Sprint(seen) == fmt.Sprint(list{list{4}, names, list{1, 2, 3}}), seen)
			check(tx.Commit(ctx))
		})
	})
	unknown("CALL sidebolt.nope()")
	return "as expected"
}

// ---------------------------------------------------------------- transactions

func txCommit(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		tx := must(s.BeginTransaction(ctx))
		out["first"] = n.run(tx, "CREATE (n:RUN {p: 1}) RETURN n.p AS p", nil)
		out["inside"], out["outside"] = count(tx), countAlone()
		check(tx.Commit(ctx))
		out["twice"], out["after"] = fails(tx.Commit(ctx)), count(auto{s})
	})
	return out
}

func txRollback(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		tx := must(s.BeginTransaction(ctx))
		check(drain(tx, "CREATE (n:RUN)", nil))
		out["inside"] = count(tx)
		check(tx.Rollback(ctx))
		out["after"], out["used"] = count(auto{s}), fails(drain(tx, "RETURN 1", nil))
	})
	return out
}

func txClose(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		withTransaction(s, func(tx neo4j.ExplicitTransaction) { check(drain(tx, "CREATE (n:RUN)", nil)) })
		out["after"] = count(auto{s})
		check(drain(must(s.BeginTransaction(ctx)), "CREATE (n:RUN)", nil))
	})
	out["sessionClosed"] = countAlone()
	return out
}

// bookmarks: each session sees what the one before wrote.
func bookmarks(n *Normal) any {
	seen, marks, distinct := list{}, neo4j.Bookmarks{}, map[string]bool{}
	for i := range 10 {
		withSession(driver, neo4j.SessionConfig{Bookmarks: marks}, func(s neo4j.Session) {
			must(s.ExecuteWrite(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
				return nil, drain(tx, "CREATE (:RUN {p: $p})", object{"p": i})
			}))
			marks = s.LastBookmarks()
		})
		for _, mark := range marks {
			distinct[mark] = true
		}
		withSession(driver, neo4j.SessionConfig{Bookmarks: marks}, func(s neo4j.Session) {
			seen = append(seen, must(s.ExecuteRead(ctx, func(tx neo4j.ManagedTransaction) (any, error) { return count(tx), nil })))
			seen = append(seen, len(s.LastBookmarks()))
		})
	}
	var bad any
	withSession(driver, neo4j.SessionConfig{Bookmarks: neo4j.BookmarksFromRawValues("not a bookmark")}, func(s neo4j.Session) {
		bad = fails(drain(auto{s}, "RETURN 1", nil))
	})
	return object{"seen": seen, "distinct": len(distinct), "bad": bad}
}

func take(r neo4j.Result, most int) list {
	out := list{}
	for len(out) < most && r.Next(ctx) {
		out = append(out, r.Record().Values[0])
	}
	check(r.Err())
	return out
}

func smallFetchDiscard(n *Normal) any {
	out := object{}
	cypher := "UNWIND range(1, 1000) AS x RETURN x"
	withSession(driver, neo4j.SessionConfig{FetchSize: 3}, func(s neo4j.Session) {
		out["all"] = digest(text(take(must(s.Run(ctx, cypher, nil)), 2000)))
		result := must(s.Run(ctx, cypher, nil))
		out["some"] = take(result, 5)
		out["early"] = summary(must(result.Consume(ctx)))
		out["atOnce"] = summary(must(must(s.Run(ctx, cypher, nil)).Consume(ctx)))
		out["peeked"] = must(s.Run(ctx, cypher, nil)).Peek(ctx)
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			out["dropped"] = take(must(tx.Run(ctx, cypher, nil)), 4)
			out["again"] = only(tx, "RETURN 'still fine' AS v", nil)
		})
	})
	return out
}

func interleavedResults(n *Normal) any {
	out, pairs := object{}, list{}
	withSession(driver, neo4j.SessionConfig{FetchSize: 2}, func(s neo4j.Session) {
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			one := must(tx.Run(ctx, "UNWIND range(1, 9) AS x RETURN x", nil))
			two := must(tx.Run(ctx, "UNWIND range(101, 109) AS x RETURN x", nil))
			for one.Next(ctx) && two.Next(ctx) {
				pairs = append(pairs, list{one.Record().Values[0], two.Record().Values[0]})
			}
			three := must(tx.Run(ctx, "UNWIND range(1, 50) AS x RETURN x", nil))
			out["first"], out["four"] = take(three, 1), only(tx, "RETURN 4 AS x", nil)
			out["rest"], out["pairs"] = take(three, 100), pairs
			check(tx.Commit(ctx))
		})
	})
	return out
}

func largeResult(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		result := must(s.Run(ctx, "UNWIND range(1, 20000) AS x RETURN x, toString(x) AS s, {k: [x, x + 1]} AS m", nil))
		var rows, total, length int64
		for result.Next(ctx) {
			values := result.Record().Values
			rows, total, length = rows+1, total+values[0].(int64), length+int64(len(values[1].(string)))
			total += values[2].(map[string]any)["k"].([]any)[1].(int64)
		}
		out["rows"], out["total"], out["length"], out["summary"] = rows, total, length, summary(must(result.Consume(ctx)))
	})
	return out
}

func largeParameter(n *Normal) any {
	rows := list{}
	for i := range 5000 {
		rows = append(rows, object{"i": i, "t": strings.Repeat("x", 100)})
	}
	out := object{}
	session(func(s neo4j.Session) {
		out["text"] = n.run(auto{s}, "RETURN $t AS t, size($t) AS n", object{"t": strings.Repeat("0123456789abcdef", 65536)})
		out["rows"] = n.run(auto{s}, "UNWIND $rows AS row RETURN sum(row.i) AS total, sum(size(row.t)) AS n", object{"rows": rows})
	})
	return out
}

// ---------------------------------------------------------------- plans and notifications

func explain(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		check(drain(auto{s}, "CREATE (:RUN {p: 1})", nil))
		out["read"] = n.run(auto{s}, "EXPLAIN MATCH (n:RUN) WHERE n.p = $p RETURN n.p AS p", object{"p": 1})
		out["write"] = n.run(auto{s}, "EXPLAIN CREATE (:RUN {p: 2})", nil)
		out["after"] = count(auto{s})
	})
	return out
}

func profiled(n *Normal) (out any) {
	session(func(s neo4j.Session) {
		check(drain(auto{s}, "UNWIND range(1, 5) AS x CREATE (:RUN {p: x})", nil))
		out = n.run(auto{s}, "PROFILE MATCH (n:RUN) WHERE n.p > 2 RETURN n.p AS p ORDER BY p", nil)
	})
	return
}

func notified(n *Normal) any {
	constraint := "CREATE CONSTRAINT RUNc IF NOT EXISTS FOR (n:RUNUnique) REQUIRE n.k IS UNIQUE"
	out := list{}
	session(func(s neo4j.Session) {
		for _, cypher := range []string{noisy, old, "MATCH (a) WHERE elementId(a) = '' RETURN a", constraint, constraint, "DROP CONSTRAINT RUNc"} {
			out = append(out, n.run(auto{s}, cypher, nil))
		}
	})
	return out
}

type filter struct {
	severity        notifications.NotificationMinimumSeverityLevel
	categories      notifications.NotificationDisabledCategories
	classifications notifications.NotificationDisabledClassifications
}

func filters() []filter {
	only := notifications.DisableClassifications
	return []filter{
		{severity: notifications.DisabledLevel},
		{severity: notifications.WarningLevel},
		{severity: notifications.InformationLevel},
		{categories: notifications.DisableCategories(notifications.Unrecognized)},
		{classifications: only(notifications.Performance, notifications.Deprecation)},
		{severity: notifications.WarningLevel, classifications: only(notifications.Unrecognized)},
		{classifications: notifications.DisableNoClassifications()},
	}
}

func (f filter) ofDriver(c *config.Config) {
	c.NotificationsMinSeverity, c.NotificationsDisabledCategories = f.severity, f.categories
	c.NotificationsDisabledClassifications = f.classifications
}

func (f filter) ofSession() neo4j.SessionConfig {
	return neo4j.SessionConfig{NotificationsMinSeverity: f.severity, NotificationsDisabledCategories: f.categories,
		NotificationsDisabledClassifications: f.classifications}
}

func statusesUnder(s neo4j.Session) any {
	out := list{}
	take := func(r neo4j.Result, err error) {
		kept := summary(must(must(r, err).Consume(ctx)))
		out = append(out, list{kept["statuses"], kept["notifications"]})
	}
	take(s.Run(ctx, q(noisy), nil))
	withTransaction(s, func(tx neo4j.ExplicitTransaction) { take(tx.Run(ctx, q(noisy), nil)) })
	take(s.Run(ctx, q(old), nil))
	return out
}

func filterOfDriver(n *Normal) any {
	out := list{}
	for _, f := range filters() {
		withDriver(owner(), func(d neo4j.Driver) {
			withSession(d, neo4j.SessionConfig{}, func(s neo4j.Session) { out = append(out, statusesUnder(s)) })
			out = append(out, statuses(must(eager(d, noisy, nil)).Summary))
		}, f.ofDriver)
	}
	return out
}

// filterOfSession: on drivers with and without a filter of their own.
func filterOfSession(n *Normal) any {
	out := list{}
	for _, own := range []filter{{}, filters()[0], filters()[3]} {
		withDriver(owner(), func(d neo4j.Driver) {
			for i, f := range filters() {
				withSession(d, f.ofSession(), func(s neo4j.Session) { out = append(out, list{i, statusesUnder(s)}) })
			}
		}, own.ofDriver)
	}
	return out
}

// ---------------------------------------------------------------- errors

func errorScenarios() {
	for name, wrong := range cases.Errors {
		scenarios[name] = func(n *Normal) any { return failing(n, wrong.Cypher, wrong.Parameters) }
	}
}

// failing: the same error in each way to run a query; the session works on.
func failing(n *Normal, cypher string, params map[string]any) any {
	errors, rows, out := list{}, list{}, object{}
	withSession(driver, neo4j.SessionConfig{FetchSize: 2}, func(s neo4j.Session) {
		result, err := s.Run(ctx, cypher, params)
		if err == nil {
			for result.Next(ctx) {
				rows = append(rows, n.all(result.Record().Values))
			}
			err = result.Err()
		}
		errors = append(errors, fails(err))
		out["after"] = only(auto{s}, "RETURN 1 AS v", nil)
		_, err = s.ExecuteWrite(ctx, func(tx neo4j.ManagedTransaction) (any, error) { return nil, drain(tx, cypher, params) })
		errors = append(errors, fails(err))
		_, err = eager(driver, cypher, params)
		errors = append(errors, fails(err))
		withTransaction(s, func(tx neo4j.ExplicitTransaction) { errors = append(errors, fails(drain(tx, cypher, params))) })
		out["again"] = only(auto{s}, "RETURN 2 AS v", nil)
	})
	out["errors"], out["rows"] = errors, rows
	return out
}

func errorConstraint(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		out["made"] = n.run(auto{s}, "CREATE CONSTRAINT RUNk FOR (n:RUN) REQUIRE n.k IS UNIQUE", nil)
		defer func() { out["dropped"] = n.run(auto{s}, "DROP CONSTRAINT RUNk", nil) }()
		check(drain(auto{s}, "CREATE (:RUN {k: 1})", nil))
		out["plain"] = fails(drain(auto{s}, "CREATE (:RUN {k: 1})", nil))
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			check(drain(tx, "CREATE (:RUN {k: 2})", nil))
			out["inside"] = fails(drain(tx, "CREATE (:RUN {k: 1})", nil))
		})
		out["count"] = count(auto{s})
	})
	return out
}

func errorInTransaction(n *Normal) any {
	out := object{}
	session(func(s neo4j.Session) {
		withTransaction(s, func(tx neo4j.ExplicitTransaction) {
			check(drain(tx, "CREATE (:RUN)", nil))
			out["failed"] = fails(drain(tx, "RETURN 1 / 0 AS v", nil))
			out["next"] = fails(drain(tx, "RETURN 1 AS v", nil))
			out["commit"] = fails(tx.Commit(ctx))
		})
		out["after"] = count(auto{s})
		tx := must(s.BeginTransaction(ctx))
		check(drain(tx, "CREATE (:RUN)", nil))
		out["again"] = fails(drain(tx, "RETURN 1 / 0 AS v", nil))
		out["rollback"] = fmt.Sprint(tx.Rollback(ctx) == nil)
		out["end"] = count(auto{s})
	})
	return out
}

func txTimeout(n *Normal) any {
	out := object{}
	limit := neo4j.WithTxTimeout(100 * time.Millisecond)
	session(func(s neo4j.Session) {
		result, err := s.Run(ctx, slow, nil, limit)
		if err == nil {
			_, err = result.Consume(ctx)
		}
		out["plain"] = fails(err)
		withTransaction(s, func(tx neo4j.ExplicitTransaction) { out["explicit"] = fails(drain(tx, slow, nil)) }, limit)
		_, err = s.ExecuteRead(ctx, func(tx neo4j.ManagedTransaction) (any, error) { return nil, drain(tx, slow, nil) }, limit)
		out["managed"] = fails(err)
		out["after"] = count(auto{s})
	})
	return out
}

func txMetadata(n *Normal) any {
	out := object{}
	meta := neo4j.WithTxMetadata(object{"app": run, "n": 42, "deep": object{"list": list{1, "two"}}})
	show := "SHOW TRANSACTIONS YIELD metaData, username, database, currentQuery WHERE metaData.app = $app RETURN *"
	app := object{"app": run}
	session(func(s neo4j.Session) {
		session(func(other neo4j.Session) {
			out["own"] = n.result(s.Run(ctx, show, app, meta))
			withTransaction(s, func(tx neo4j.ExplicitTransaction) {
				check(drain(tx, "RETURN 1", nil))
				out["seen"] = n.run(auto{other}, show, app)
			}, meta)
			out["after"] = n.run(auto{other}, show, app)
		})
	})
	return out
}

func readModeWrite(n *Normal) any {
	out := object{}
	cypher := "CREATE (:RUN)"
	work := func(tx neo4j.ManagedTransaction) (any, error) { return nil, drain(tx, cypher, nil) }
	withSession(driver, neo4j.SessionConfig{AccessMode: neo4j.AccessModeRead}, func(s neo4j.Session) {
		out["plain"] = fails(drain(auto{s}, cypher, nil))
		withTransaction(s, func(tx neo4j.ExplicitTransaction) { out["explicit"] = fails(drain(tx, cypher, nil)) })
		_, err := s.ExecuteRead(ctx, work)
		out["managed"] = fails(err)
		_, err = eager(driver, cypher, nil, neo4j.ExecuteQueryWithReadersRouting())
		out["eager"] = fails(err)
		must(s.ExecuteWrite(ctx, work))
	})
	out["count"] = countAlone()
	return out
}

// refused: what a session with this configuration answers to any query.
func refused(c neo4j.SessionConfig) object {
	out := object{}
	withSession(driver, c, func(s neo4j.Session) {
		out["plain"] = fails(drain(auto{s}, "RETURN 1", nil))
		tx, err := s.BeginTransaction(ctx)
		if err == nil {
			err = drain(tx, "RETURN 1", nil)
		}
		out["explicit"] = fails(err)
	})
	out["after"] = countAlone()
	return out
}

func unknownDatabase(n *Normal) any {
	out := refused(neo4j.SessionConfig{DatabaseName: "nosuchdb"})
	withSession(driver, neo4j.SessionConfig{DatabaseName: "system"}, func(s neo4j.Session) {
		out["system"] = n.run(auto{s}, "SHOW DATABASES YIELD name, type, access, role, writer, currentStatus, default RETURN * ORDER BY name", nil)
	})
	return out
}

func impersonation(n *Normal) any {
	return refused(neo4j.SessionConfig{ImpersonatedUser: "somebody"})
}

// ---------------------------------------------------------------- many at once

func worker(number int) (total int64) {
	p := object{"p": number}
	for i := range 20 {
		session(func(s neo4j.Session) {
			switch i % 4 {
			case 0:
				total += only(auto{s}, "RETURN $p AS v", p).(int64)
			case 1:
				check(drain(auto{s}, "CREATE (:RUN {p: $p})", p))
			case 2:
				total += must(s.ExecuteRead(ctx, func(tx neo4j.ManagedTransaction) (any, error) {
					return only(tx, "UNWIND range(1, 10) AS x RETURN sum(x) AS v", nil), nil
				})).(int64)
			default:
				total += must(eager(driver, "MATCH (n:RUN {p: $p}) RETURN count(n) AS v", p)).Records[0].Values[0].(int64)
			}
		})
	}
	return
}

func concurrency(n *Normal) any {
	var group sync.WaitGroup
	totals, troubles := make([]int64, 20), make([]any, 20)
	for i := range totals {
		group.Add(1)
		go func() {
			defer group.Done()
			defer func() { troubles[i] = recover() }()
			totals[i] = worker(i)
		}()
	}
	group.Wait()
	for _, trouble := range troubles {
		if trouble != nil {
			panic(trouble)
		}
	}
	return object{"totals": totals, "nodes": countAlone()}
}
