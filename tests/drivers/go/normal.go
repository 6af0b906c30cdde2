package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"sort"
	"strconv"
	"time"

	"github.com/neo4j/neo4j-go-driver/v6/neo4j"
)

type list = []any
type object = map[string]any

var (
	ownUUID   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
	lastID    = regexp.MustCompile(`\d+$`)
	addresses = regexp.MustCompile(`[\w.]+:\d{4,5}\b`)
	digits    = regexp.MustCompile(`\d+`)
)

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

func short(text string) any {
	if len(text) <= 200 {
		return text
	}
	return list{len(text), digest(text)}
}

// mask hides what differs between two runs: addresses and ids.
func mask(text string) string {
	return digits.ReplaceAllString(addresses.ReplaceAllString(text, "<address>"), "N")
}

func text(v any) string {
	return string(must(json.Marshal(v)))
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// Normal turns values into comparable JSON and element ids into the order in which they were seen.
type Normal struct{ seen map[string]int }

func (n *Normal) element(id string) string {
	if _, known := n.seen[id]; !known {
		n.seen[id] = len(n.seen) + 1
	}
	return fmt.Sprintf("%s#%d", ownUUID.ReplaceAllString(lastID.ReplaceAllString(id, ""), "<uuid>"), n.seen[id])
}

func (n *Normal) properties(m map[string]any) object {
	out := object{}
	for key, v := range m {
		out[key] = n.value(v)
	}
	return out
}

func (n *Normal) all(values []any) list {
	out := list{}
	for _, v := range values {
		out = append(out, n.value(v))
	}
	return out
}

func float(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func (n *Normal) value(v any) any {
	switch v := v.(type) {
	case nil:
		return list{"null"}
	case bool, int64:
		return list{fmt.Sprintf("%T", v), fmt.Sprint(v)}
	case float64:
		if math.IsNaN(v) {
			return list{"float64", "NaN"}
		}
		return list{"float64", float(v)}
	case string:
		return list{"string", short(v)}
	case []byte:
		return list{"bytes", short(hex.EncodeToString(v))}
	case []any:
		items := n.all(v)
		if len(items) > 40 {
			return list{"list", list{len(items), digest(text(items))}}
		}
		return list{"list", items}
	case map[string]any:
		return list{"map", n.properties(v)}
	case neo4j.Node:
		sort.Strings(v.Labels)
		return list{"node", n.element(v.ElementId), v.Labels, n.properties(v.Props)}
	case neo4j.Relationship:
		ends := list{n.element(v.StartElementId), n.element(v.EndElementId)}
		return list{"relationship", n.element(v.ElementId), v.Type, ends, n.properties(v.Props)}
	case neo4j.Path:
		return n.path(v)
	default:
		return n.scalar(v)
	}
}

func (n *Normal) path(p neo4j.Path) any {
	nodes, relationships := list{}, list{}
	for _, node := range p.Nodes {
		nodes = append(nodes, n.value(node))
	}
	for _, relationship := range p.Relationships {
		relationships = append(relationships, n.value(relationship))
	}
	return list{"path", nodes, relationships}
}

func (n *Normal) scalar(v any) any {
	switch v := v.(type) {
	case neo4j.Point2D:
		return list{"point", v.SpatialRefId, float(v.X), float(v.Y)}
	case neo4j.Point3D:
		return list{"point", v.SpatialRefId, float(v.X), float(v.Y), float(v.Z)}
	case neo4j.Date:
		return list{"date", v.Time().Format("2006-01-02")}
	case neo4j.OffsetTime:
		return list{"time", v.Time().Format("15:04:05.999999999Z07:00:00")}
	case neo4j.LocalTime:
		return list{"localtime", v.Time().Format("15:04:05.999999999")}
	case neo4j.LocalDateTime:
		return list{"localdatetime", v.Time().Format("2006-01-02T15:04:05.999999999")}
	case time.Time:
		return list{"datetime", v.Format("2006-01-02T15:04:05.999999999Z07:00:00"), v.Location().String()}
	case neo4j.Duration:
		return list{"duration", v.Months, v.Days, v.Seconds, v.Nanos}
	case neo4j.UUID:
		return list{"uuid", v.String()}
	case neo4j.Vector[int8], neo4j.Vector[int16], neo4j.Vector[int32], neo4j.Vector[int64], neo4j.Vector[float32], neo4j.Vector[float64]:
		return list{fmt.Sprintf("%T", v), fmt.Sprint(v)}
	default:
		panic(fmt.Sprintf("no normal form for %T", v))
	}
}

// result takes all records, keys and the summary of a result.
func (n *Normal) result(r neo4j.Result, err error) any {
	must(r, err)
	keys := must(r.Keys())
	rows := n.rows(must(r.Collect(ctx)))
	return object{"keys": keys, "rows": rows, "summary": summary(must(r.Consume(ctx)))}
}

func (n *Normal) rows(records []*neo4j.Record) list {
	rows := list{}
	for _, record := range records {
		rows = append(rows, n.all(record.Values))
	}
	return rows
}

func position(p neo4j.InputPosition) any {
	if p == nil {
		return nil
	}
	return list{p.Line(), p.Column(), p.Offset()}
}

func plan(p neo4j.Plan) any {
	if p == nil {
		return nil
	}
	children := list{}
	for _, child := range p.Children() {
		children = append(children, plan(child))
	}
	return list{p.Operator(), sortedStrings(p.Identifiers()), children}
}

func profile(p neo4j.QueryProfile) any {
	if p == nil {
		return nil
	}
	children := list{}
	for _, child := range p.Children() {
		children = append(children, profile(child))
	}
	rows, known := p.Rows()
	return list{p.Operator(), sortedStrings(p.Identifiers()), rows, known, children}
}

func sortedStrings(in []string) []string {
	out := append([]string{}, in...)
	sort.Strings(out)
	return out
}

func sortedByText(in list) list {
	sort.Slice(in, func(i, j int) bool { return text(in[i]) < text(in[j]) })
	return in
}

func counters(c neo4j.Counters) object {
	out := object{"updates": c.ContainsUpdates(), "system": c.ContainsSystemUpdates()}
	for name, count := range map[string]int{
		"nodesCreated": c.NodesCreated(), "nodesDeleted": c.NodesDeleted(), "propertiesSet": c.PropertiesSet(),
		"relationshipsCreated": c.RelationshipsCreated(), "relationshipsDeleted": c.RelationshipsDeleted(),
		"labelsAdded": c.LabelsAdded(), "labelsRemoved": c.LabelsRemoved(),
		"indexesAdded": c.IndexesAdded(), "indexesRemoved": c.IndexesRemoved(),
		"constraintsAdded": c.ConstraintsAdded(), "constraintsRemoved": c.ConstraintsRemoved(), "systemUpdates": c.SystemUpdates(),
	} {
		if count != 0 {
			out[name] = count
		}
	}
	return out
}

func statuses(s neo4j.ResultSummary) list {
	out := list{}
	for _, g := range s.GqlStatusObjects() {
		out = append(out, list{g.GqlStatus(), g.StatusDescription(), position(g.Position()), g.RawClassification(),
			g.RawSeverity(), g.IsNotification(), sortedKeys(g.DiagnosticRecord())})
	}
	return sortedByText(out)
}

func notes(s neo4j.ResultSummary) list {
	out := list{}
	for _, n := range s.Notifications() {
		out = append(out, list{n.Code(), n.Title(), n.Description(), n.RawSeverityLevel(), n.RawCategory(), position(n.Position())})
	}
	return sortedByText(out)
}

func summary(s neo4j.ResultSummary) object {
	return object{
		"query": s.Query().Text(), "parameters": sortedKeys(s.Query().Parameters()),
		"type": s.QueryType().String(), "database": s.Database().Name(), "counters": counters(s.Counters()),
		"statuses": statuses(s), "notifications": notes(s), "plan": plan(s.Plan()), "profile": profile(s.QueryProfile()),
		"server": list{s.Server().Agent(), s.Server().ProtocolVersion()},
		"timed":  list{s.ResultAvailableAfter() >= 0, s.ResultConsumedAfter() >= 0},
	}
}

// problem is what an application can see of an error.
func problem(err error) any {
	out := object{"type": fmt.Sprintf("%T", err), "retryable": neo4j.IsRetryable(err), "text": mask(err.Error())}
	var server *neo4j.Neo4jError
	if errors.As(err, &server) {
		out["server"] = serverError(server)
	}
	return out
}

func serverError(e *neo4j.Neo4jError) any {
	if e == nil {
		return nil
	}
	return object{
		"code": e.Code, "message": mask(e.Msg), "gqlStatus": e.GqlStatus, "description": mask(e.GqlStatusDescription),
		"classification": e.GqlRawClassification, "diagnostics": sortedKeys(e.GqlDiagnosticRecord), "cause": serverError(e.GqlCause),
	}
}
