// The scenarios with the official Go driver: suite URI USER PASSWORD [SCENARIO…], one JSON line each.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/neo4j/neo4j-go-driver/v6/neo4j"
	"github.com/neo4j/neo4j-go-driver/v6/neo4j/config"
)

type scenario = func(n *Normal) any

type skipped string

var (
	ctx = context.Background()
	// run is masked in the output, so that programs can run side by side; letters only, since digits of messages are masked.
	run                 = "R" + letters(12)
	uri, user, password string
	driver              neo4j.Driver
	scenarios           = map[string]scenario{}
	cases               struct {
		Values   map[string][]string
		Cypher25 map[string][]string `json:"values_cypher25"`
		Errors   map[string]struct {
			Cypher     string
			Parameters map[string]any
		}
	}
)

func letters(n int) string {
	raw := make([]byte, n)
	must(rand.Read(raw))
	for i := range raw {
		raw[i] = 'a' + raw[i]%26
	}
	return string(raw)
}

// must hands on the value; an error that nobody expected ends the scenario.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// fails gives the error that an action must return.
func fails(err error) any {
	if err == nil {
		panic("an error was expected")
	}
	return problem(err)
}

// text in which RUN stands for this run's prefix.
func q(cypher string) string { return strings.ReplaceAll(cypher, "RUN", run) }

func open(auth neo4j.AuthToken, configure ...func(*config.Config)) neo4j.Driver {
	return must(neo4j.NewDriver(uri, auth, configure...))
}

func owner() neo4j.AuthToken { return neo4j.BasicAuth(user, password, "") }

func withDriver(auth neo4j.AuthToken, action func(neo4j.Driver), configure ...func(*config.Config)) {
	d := open(auth, configure...)
	defer d.Close(ctx)
	action(d)
}

func withSession(d neo4j.Driver, c neo4j.SessionConfig, action func(neo4j.Session)) {
	s := d.NewSession(ctx, c)
	defer s.Close(ctx)
	action(s)
}

func session(action func(neo4j.Session)) { withSession(driver, neo4j.SessionConfig{}, action) }

func withTransaction(s neo4j.Session, action func(neo4j.ExplicitTransaction), configure ...func(*neo4j.TransactionConfig)) {
	tx := must(s.BeginTransaction(ctx, configure...))
	defer tx.Close(ctx)
	action(tx)
}

type runner interface {
	Run(ctx context.Context, cypher string, params map[string]any) (neo4j.Result, error)
}

// auto lets a session be used where a transaction can.
type auto struct{ neo4j.Session }

func (a auto) Run(ctx context.Context, cypher string, params map[string]any) (neo4j.Result, error) {
	return a.Session.Run(ctx, cypher, params)
}

// drain runs a query, drops its records and gives its error, wherever it came up.
func drain(r runner, cypher string, params map[string]any) error {
	result, err := r.Run(ctx, q(cypher), params)
	if err == nil {
		_, err = result.Collect(ctx)
	}
	return err
}

func only(r runner, cypher string, params map[string]any) any {
	return must(must(r.Run(ctx, q(cypher), params)).Single(ctx)).Values[0]
}

func count(r runner) any { return only(r, "MATCH (n:RUN) RETURN count(n) AS n", nil) }

func countAlone() (n any) {
	session(func(s neo4j.Session) { n = count(auto{s}) })
	return
}

func eager(d neo4j.Driver, cypher string, params map[string]any, o ...neo4j.ExecuteQueryConfigurationOption) (*neo4j.EagerResult, error) {
	return neo4j.ExecuteQuery(ctx, d, q(cypher), params, neo4j.EagerResultTransformer, o...)
}

func clean() {
	session(func(s neo4j.Session) { check(drain(auto{s}, "MATCH (n:RUN) DETACH DELETE n", nil)) })
}

// prepare makes names known to the server, so that no warning depends on who ran before.
func prepare() {
	session(func(s neo4j.Session) {
		check(drain(auto{s}, "CREATE (n:RUN {p: 1, k: 1, name: '', since: 0})-[:KNOWS {since: 0}]->(:RUNOther) CREATE (:RUNUnique)", nil))
		check(drain(auto{s}, "MATCH (n:RUN|RUNOther|RUNUnique) DETACH DELETE n", nil))
	})
}

func attempt(name string) (line object) {
	line = object{"scenario": name}
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case skipped:
			line["skipped"] = string(reason)
		default:
			line["crash"] = fmt.Sprintf("%v\n%s", reason, debug.Stack())
		}
	}()
	action, known := scenarios[name]
	if !known {
		panic("no such scenario")
	}
	line["result"] = action(&Normal{seen: map[string]int{}})
	return
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: suite URI USER PASSWORD [SCENARIO…], in the folder of the program")
		os.Exit(2)
	}
	uri, user, password = os.Args[1], os.Args[2], os.Args[3]
	if len(os.Args) > 4 && os.Args[4] == "throughput" {
		throughput(append([]string{uri}, os.Args[5:]...))
		return
	}
	check(json.Unmarshal(must(os.ReadFile("../cases.json")), &cases))
	wanted := os.Args[4:]
	if len(wanted) == 0 {
		wanted = strings.Fields(string(must(os.ReadFile("../scenarios"))))
	}
	valueScenarios()
	errorScenarios()
	driver = open(owner())
	defer driver.Close(ctx)
	prepare()
	for _, name := range wanted {
		clean()
		line := attempt(name)
		clean()
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		check(encoder.Encode(line))
		fmt.Print(strings.ReplaceAll(out.String(), run, "RUN"))
	}
}
