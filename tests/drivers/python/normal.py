"""Turns what the driver hands out into plain, comparable JSON with a type tag on every value."""

import hashlib
import math
import re
import uuid

import neo4j.graph
import neo4j.spatial
import neo4j.time
import neo4j.vector


class Normal:
    """Replaces element ids by the order in which they were seen; one for each scenario."""

    def __init__(self):
        self.seen = {}

    def element(self, text):
        shape = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "<uuid>", re.sub(r"\d+$", "", text))
        return f"{shape}#{self.seen.setdefault(text, len(self.seen) + 1)}"

    def value(self, v):
        name = type(v).__name__
        if isinstance(v, str):
            return ["str", short(v)]
        if isinstance(v, float):
            return ["float", "NaN" if math.isnan(v) else repr(v)]
        if v is None or isinstance(v, (bool, int)):
            return [name, repr(v)]
        if isinstance(v, (bytes, bytearray)):
            return ["bytes", short(bytes(v).hex())]
        if isinstance(v, list):
            items = [self.value(i) for i in v]
            return ["list", items if len(items) <= 40 else [len(items), digest(repr(items))]]
        if isinstance(v, dict):
            return ["map", {k: self.value(v[k]) for k in sorted(v)}]
        if isinstance(v, neo4j.graph.Node):
            return ["node", self.element(v.element_id), sorted(v.labels), self.properties(v)]
        if isinstance(v, neo4j.graph.Relationship):
            ends = [self.element(n.element_id) for n in (v.start_node, v.end_node)]
            return ["relationship", self.element(v.element_id), v.type, ends, self.properties(v)]
        if isinstance(v, neo4j.graph.Path):
            return ["path", [self.value(n) for n in v.nodes], [self.value(r) for r in v.relationships]]
        if isinstance(v, neo4j.spatial.Point):
            return [name, v.srid, [repr(c) for c in v]]
        if isinstance(v, neo4j.vector.Vector):
            return ["vector", str(v.dtype), v.raw().hex()]
        if isinstance(v, neo4j.time.DateTime) and v.tzinfo is not None:
            return [name, v.iso_format(), str(getattr(v.tzinfo, "zone", None)), str(v.utcoffset())]
        if isinstance(v, (neo4j.time.Date, neo4j.time.Time, neo4j.time.DateTime, neo4j.time.Duration)):
            return [name, v.iso_format()]
        if isinstance(v, uuid.UUID):
            return [name, str(v)]
        raise TypeError(f"no normal form for {type(v)}")

    def properties(self, entity):
        return {k: self.value(v) for k, v in sorted(entity.items())}

    def result(self, result):
        """All records, keys and the summary of a result."""
        keys = result.keys()
        rows = [[self.value(v) for v in record.values()] for record in result]
        return {"keys": list(keys), "rows": rows, "summary": summary(result.consume())}


def digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def short(text):
    return text if len(text) <= 200 else [len(text), digest(text)]


def position(p):
    return p and [p.line, p.column, p.offset]


def plan(p):
    """The operators of a plan; of a profile also the rows."""
    if p is None:
        return None
    rows = p.get("args", {}).get("Rows")
    return [p["operatorType"], sorted(p.get("identifiers", [])), rows, [plan(c) for c in p.get("children", [])]]


def summary(s):
    counters = {k: v for k, v in vars(s.counters).items() if not k.startswith("_") and v}
    statuses = [
        [g.gql_status, g.status_description, position(g.position), g.raw_classification, g.raw_severity, g.is_notification,
         sorted(g.diagnostic_record)]
        for g in s.gql_status_objects
    ]
    notes = [
        [n.code, n.title, n.description, n.raw_severity_level, n.raw_category, position(n.position)]
        for n in s.summary_notifications
    ]
    return {
        "query": s.query, "parameters": sorted(s.parameters or {}), "type": s.query_type, "database": s.database,
        "counters": counters, "updates": s.counters.contains_updates, "system": s.counters.contains_system_updates,
        "statuses": sorted(statuses, key=repr), "notifications": sorted(notes, key=repr),
        "plan": plan(s.plan), "profile": plan(s.profile),
        "server": [s.server.agent, list(s.server.protocol_version)],
        "timed": [s.result_available_after is not None, s.result_consumed_after is not None],
    }


def error(e):
    """What an application can see of an error; digits are masked, they hold ids."""
    cause = e.__cause__ if isinstance(e, neo4j.exceptions.GqlError) else None
    return {
        "type": type(e).__name__,
        "code": getattr(e, "code", None),
        "gql_status": getattr(e, "gql_status", None),
        "gql_description": mask(getattr(e, "gql_status_description", None)),
        "classification": getattr(e, "gql_raw_classification", None),
        "message": mask(getattr(e, "message", None) or str(e)),
        "retryable": e.is_retryable() if hasattr(e, "is_retryable") else None,
        "cause": error(cause) if isinstance(cause, neo4j.exceptions.GqlError) else None,
    }


def mask(text):
    return text and re.sub(r"\d+", "N", re.sub(r"[\w.]+:\d{4,5}\b", "<address>", text))
