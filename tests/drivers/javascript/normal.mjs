// Turns what the driver hands out into plain, comparable JSON with a type tag on every value.
import { createHash } from 'node:crypto'
import neo4j from 'neo4j-driver'

const digest = text => createHash('sha256').update(text).digest('hex').slice(0, 16)
const short = text => (text.length <= 200 ? text : [text.length, digest(text)])
const number = n => (Object.is(n, -0) ? '-0' : String(n))
const TEMPORAL = [neo4j.isDate, neo4j.isTime, neo4j.isLocalTime, neo4j.isDateTime, neo4j.isLocalDateTime, neo4j.isDuration]

export const mask = text =>
  text && text.replace(/[\w.]+:\d{4,5}\b/g, '<address>').replace(/\d+/g, 'N')

// Replaces element ids by the order in which they were seen; one for each scenario.
export class Normal {
  seen = new Map()

  element (id) {
    if (!this.seen.has(id)) this.seen.set(id, this.seen.size + 1)
    const shape = id.replace(/\d+$/, '').replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, '<uuid>')
    return `${shape}#${this.seen.get(id)}`
  }

  properties (map) {
    return Object.fromEntries(Object.keys(map).sort().map(k => [k, this.value(map[k])]))
  }

  value (v) {
    if (v === null || v === undefined) return [String(v)]
    if (typeof v === 'boolean') return ['boolean', v]
    if (typeof v === 'number') return ['float', number(v)]
    if (typeof v === 'bigint') return ['bigint', String(v)]
    if (typeof v === 'string') return ['string', short(v)]
    if (neo4j.isInt(v)) return ['integer', v.toString()]
    if (Array.isArray(v)) {
      const items = v.map(i => this.value(i))
      return ['list', items.length <= 40 ? items : [items.length, digest(JSON.stringify(items))]]
    }
    if (neo4j.isNode(v)) return ['node', this.element(v.elementId), [...v.labels].sort(), this.properties(v.properties)]
    if (neo4j.isRelationship(v)) return this.relationship(v)
    if (neo4j.isPath(v)) return this.path(v)
    if (neo4j.isPoint(v)) return ['point', v.srid.toString(), [v.x, v.y, v.z].map(number)]
    if (neo4j.isVector(v)) return ['vector', v.getType(), [...v.asTypedArray()].map(String)]
    if (neo4j.isUUID(v)) return ['uuid', v.toString()]
    if (neo4j.isDateTime(v)) return ['DateTime', v.toString(), String(v.timeZoneId), String(v.timeZoneOffsetSeconds)]
    if (TEMPORAL.some(is => is(v))) return [v.constructor.name, v.toString()]
    if (v instanceof Int8Array || v instanceof Uint8Array) return [v.constructor.name, short(Buffer.from(v).toString('hex'))]
    if (Object.getPrototypeOf(v) === Object.prototype) return ['map', this.properties(v)]
    throw new TypeError(`no normal form for ${v.constructor?.name}`)
  }

  relationship (r) {
    const ends = [r.startNodeElementId, r.endNodeElementId].map(id => this.element(id))
    return ['relationship', this.element(r.elementId), r.type, ends, this.properties(r.properties)]
  }

  path (p) {
    const steps = p.segments.map(s => [s.start, s.relationship, s.end].map(v => this.value(v)))
    return ['path', this.value(p.start), steps, this.value(p.end)]
  }

  // All records, keys and the summary of a query that was run.
  async result (promise) {
    const { records, summary } = await promise
    return { rows: this.rows(records), summary: normalSummary(summary) }
  }

  rows (records) {
    return records.map(r => r.keys.map((k, i) => [k, this.value(r.get(i))]))
  }
}

const position = p => (p && Object.keys(p).length ? [p.line, p.column, p.offset].map(Number) : null)

function plan (p) {
  if (!p) return null
  const rows = p.rows === undefined ? null : Number(p.rows)
  return [p.operatorType, [...p.identifiers].sort(), rows, p.children.map(plan)]
}

const sorted = list => list.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))

export function normalSummary (s) {
  const counters = Object.fromEntries(Object.entries(s.counters.updates()).filter(([, n]) => n !== 0))
  return {
    query: s.query.text,
    parameters: Object.keys(s.query.parameters ?? {}).sort(),
    type: s.queryType,
    database: s.database?.name,
    counters,
    updates: s.counters.containsUpdates(),
    system: [s.counters.containsSystemUpdates(), s.counters.systemUpdates()],
    statuses: sorted(s.gqlStatusObjects.map(g => [
      g.gqlStatus, g.statusDescription, position(g.position), g.rawClassification, g.rawSeverity, g.isNotification,
      Object.keys(g.diagnosticRecord).sort()
    ])),
    notifications: sorted(s.notifications.map(n => [
      n.code, n.title, n.description, n.rawSeverityLevel, n.rawCategory, position(n.position)
    ])),
    plan: plan(s.plan || null),
    profile: plan(s.profile || null),
    server: [s.server.agent, String(s.server.protocolVersion)],
    timed: [s.resultAvailableAfter, s.resultConsumedAfter].map(t => t !== undefined && t !== null)
  }
}

export function normalError (e) {
  return {
    type: e.constructor.name,
    name: e.name,
    code: e.code,
    gqlStatus: e.gqlStatus,
    description: mask(e.gqlStatusDescription),
    classification: e.classification,
    rawClassification: e.rawClassification,
    message: mask(e.message),
    retryable: e.retryable,
    cause: e.cause?.gqlStatus ? normalError(e.cause) : null
  }
}
