// The scenarios with the official JavaScript driver: suite.mjs URI USER PASSWORD [SCENARIO…], one JSON line each.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import neo4j from 'neo4j-driver'
import { Normal, normalError, normalSummary } from './normal.mjs'

const [uri, user, password, ...chosen] = process.argv.slice(2)
const above = name => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8')
const CASES = JSON.parse(above('cases.json'))
// Masked in the output, so that programs can run side by side; letters only, since digits of messages are masked.
const RUN = 'R' + [...randomBytes(12)].map(b => String.fromCharCode(97 + (b % 26))).join('')
const SCENARIOS = {}
const int = neo4j.int

class Skipped extends Error {}

const basic = (name, secret) => neo4j.auth.basic(name, secret)
const open = (options = {}, auth = basic(user, password)) => neo4j.driver(uri, auth, options)
let driver

async function withSession (options, action, on = driver) {
  const session = on.session(options)
  try {
    return await action(session)
  } finally {
    await session.close()
  }
}

async function withDriver (options, auth, action) {
  const own = open(options, auth)
  try {
    return await action(own)
  } finally {
    await own.close()
  }
}

async function withTransaction (session, config, action) {
  const tx = await session.beginTransaction(config)
  try {
    return await action(tx)
  } finally {
    await tx.close()
  }
}

const only = async (runner, query, parameters) => (await runner.run(query, parameters)).records[0].get(0)
const countNodes = async runner => Number(await only(runner, `MATCH (n:${RUN}) RETURN count(n) AS n`))
const count = () => withSession({}, countNodes)

// The error that the action must raise.
async function fails (action) {
  try {
    await action()
  } catch (e) {
    if (e.gqlStatus === undefined && !(e instanceof neo4j.Neo4jError)) throw e
    return normalError(e)
  }
  throw new Error('an error was expected')
}

async function clean () {
  await withSession({}, s => s.run(`MATCH (n:${RUN}) DETACH DELETE n`))
}

// Makes names known to the server, so that no warning depends on who ran before.
async function prepare () {
  await withSession({}, async s => {
    await s.run(`CREATE (n:${RUN} {p: 1, k: 1, name: '', since: 0})-[:KNOWS {since: 0}]->(:${RUN}Other) CREATE (:${RUN}Unique)`)
    await s.run(`MATCH (n:${RUN}|${RUN}Other|${RUN}Unique) DETACH DELETE n`)
  })
}

// ---------------------------------------------------------------- connection

SCENARIOS.server_info = async () => {
  await driver.verifyConnectivity()
  const info = await driver.getServerInfo()
  return {
    agent: info.agent,
    protocol: String(info.protocolVersion),
    multiDb: await driver.supportsMultiDb(),
    transactionConfig: await driver.supportsTransactionConfig(),
    impersonation: await driver.supportsUserImpersonation(),
    sessionAuth: await driver.supportsSessionAuth(),
    encrypted: driver.isEncrypted()
  }
}

SCENARIOS.verify_authentication = async () => ({
  right: await driver.verifyAuthentication({ auth: basic(user, password) }),
  wrong: await driver.verifyAuthentication({ auth: basic(user, 'not ' + password) }),
  after: await count()
})

SCENARIOS.wrong_password = async () => ({
  password: await withDriver({}, basic(user, 'not-the-password'), d => withSession({}, s => fails(() => s.run('RETURN 1')), d)),
  user: await withDriver({}, basic('nobody', 'not-the-password'), d => fails(() => d.verifyConnectivity())),
  after: await count()
})

SCENARIOS.second_user = async normal => {
  const name = `${RUN}user`
  const system = { database: 'system' }
  const created = await withSession(system, s =>
    normal.result(s.run(`CREATE USER ${name} SET PASSWORD $p CHANGE NOT REQUIRED`, { p: 'first-secret-1' })))
  let answer, dropped
  try {
    answer = await withDriver({}, basic(name, 'first-secret-1'), async d => {
      const shown = await withSession({}, s => normal.result(s.run('SHOW CURRENT USER YIELD user, passwordChangeRequired')), d)
      const counted = await withSession({}, countNodes, d)
      await withSession(system, s => s.run('ALTER CURRENT USER SET PASSWORD FROM $old TO $new',
        { old: 'first-secret-1', new: 'other-secret-2' }), d)
      return { shown, counted }
    })
    answer.changed = await withDriver({}, basic(name, 'other-secret-2'), d => withSession({}, s => only(s, 'SHOW CURRENT USER YIELD user'), d))
    answer.mine = await withSession({}, s => only(s, 'SHOW CURRENT USER YIELD user'))
  } finally {
    dropped = await withSession(system, s => normal.result(s.run(`DROP USER ${name}`)))
  }
  return { created, ...answer, dropped }
}

SCENARIOS.session_auth = async () => {
  const name = `${RUN}guest`
  const who = 'SHOW CURRENT USER YIELD user'
  const guest = basic(name, 'guest-secret-1')
  await driver.executeQuery(`CREATE USER ${name} SET PASSWORD $p CHANGE NOT REQUIRED`, { p: 'guest-secret-1' }, { database: 'system' })
  try {
    const seen = []
    for (const auth of [undefined, guest, undefined, guest, guest, undefined]) {
      seen.push(await withSession({ auth }, s => only(s, who)))
      seen.push((await driver.executeQuery(who, {}, { auth })).records[0].get(0))
    }
    const refused = await withSession({ auth: basic(name, 'wrong') }, s => fails(() => s.run(who)))
    seen.push(await withSession({}, s => only(s, who)))
    return { seen, refused }
  } finally {
    await driver.executeQuery(`DROP USER ${name}`, {}, { database: 'system' })
  }
}

// ---------------------------------------------------------------- values

// Each value as the server makes it, and again after the driver sent it back as a parameter.
const roundTrips = (expressions, prefix = '') => normal => withSession({}, async s => {
  const answer = []
  for (const expression of expressions) {
    const made = await only(s, `${prefix}RETURN ${expression} AS v`)
    const back = await withTransaction(s, {}, tx => tx.run(`${prefix}RETURN $v AS v, [$v] AS l, {k: $v} AS m`, { v: made }))
    answer.push([expression, normal.value(made), normal.rows(back.records)])
  }
  return answer
})

for (const [name, expressions] of Object.entries(CASES.values)) SCENARIOS[name] = roundTrips(expressions)
for (const [name, expressions] of Object.entries(CASES.values_cypher25)) {
  SCENARIOS[name] = async normal => {
    if ((await driver.getServerInfo()).agent.startsWith('Neo4j/5.')) throw new Skipped('no Cypher 25')
    return roundTrips(expressions, 'CYPHER 25 ')(normal)
  }
}

SCENARIOS.values_bytes = normal => withSession({}, async s => {
  const answer = []
  for (const size of [0, 1, 255, 256, 65535, 65536, 70000]) {
    const v = Int8Array.from({ length: size }, (_, i) => i * 7 % 256)
    answer.push([normal.value(v), (await normal.result(s.run('RETURN $v AS v, [$v] AS l', { v }))).rows])
  }
  return answer
})

SCENARIOS.values_graph = normal => withSession({}, async s => {
  const made = await normal.result(s.run(
    `CREATE p = (a:${RUN}:${RUN}Other {name: 'a', list: [1, 2], at: date('2024-01-01')})` +
    `-[r:KNOWS {since: 2020}]->(b:${RUN}) RETURN a, r, b, p`))
  const read = await normal.result(s.run(
    `MATCH p = (b:${RUN})<-[r:KNOWS]-(a:${RUN}) RETURN p, nodes(p) AS n, {a: a, r: [r]} AS m, [(a)-[x]->(b) | x] AS c`))
  const single = await normal.result(s.run(`MATCH p = (a:${RUN} {name: 'a'}) RETURN p`))
  const looked = (await s.run(`MATCH (a:${RUN} {name: 'a'}) RETURN a, elementId(a) AS id`)).records[0]
  const found = await only(s, 'MATCH (a) WHERE elementId(a) = $id RETURN a.name AS name', { id: looked.get('a').elementId })
  return { made, read, single, same: looked.get('a').elementId === looked.get('id'), found }
})

// ---------------------------------------------------------------- ways to run a query

SCENARIOS.autocommit = normal => withSession({}, async s => ({
  write: await normal.result(s.run(`CREATE (n:${RUN} {p: $p}) RETURN n.p AS p`, { p: int(1) })),
  unread: normalSummary(await s.run(`CREATE (:${RUN} {p: 2})-[:KNOWS]->(:${RUN} {p: 3})`).summary()),
  read: await normal.result(s.run(`MATCH (n:${RUN}) RETURN n.p AS p ORDER BY p`)),
  float: normal.value(await only(s, 'RETURN $p AS p', { p: 1 })),
  set: await normal.result(s.run(`MATCH (n:${RUN} {p: 1}) SET n.k = 5, n:${RUN}Other REMOVE n.p RETURN n`)),
  deleted: await normal.result(s.run(`MATCH (n:${RUN}) DETACH DELETE n`))
}))

SCENARIOS.empty_result = normal => withSession({}, async s => {
  const answer = []
  for (const query of [`MATCH (n:${RUN}) RETURN n.p AS first, n.k AS \`second one\``, `MATCH (n:${RUN}) DELETE n`, 'UNWIND [] AS x RETURN x']) {
    const result = s.run(query)
    const keys = await result.keys()
    answer.push([keys, await normal.result(result)])
  }
  return answer
})

SCENARIOS.managed_functions = normal => withSession({}, async s => {
  const create = `CREATE (n:${RUN} {p: $p}) RETURN n.p AS p`
  const read = tx => normal.result(tx.run(`MATCH (n:${RUN}) RETURN n.p AS p ORDER BY p`))
  const written = await s.executeWrite(async tx => {
    await tx.run(create, { p: int(1) })
    // Not awaited in between: the driver sends both at once.
    const both = [tx.run(create, { p: int(2) }), tx.run(create, { p: int(3) })]
    return Promise.all(both.map(r => normal.result(r)))
  })
  const seen = await s.executeRead(read)
  let own
  try {
    await s.executeWrite(async tx => {
      await tx.run(create, { p: int(99) })
      throw new RangeError('of the application')
    })
  } catch (e) {
    own = [e.constructor.name, e.message]
  }
  return { written, read: seen, own, after: (await s.executeRead(read)).rows }
})

SCENARIOS.execute_query = async normal => {
  const shape = r => [r.keys, normal.rows(r.records), normalSummary(r.summary)]
  return {
    write: shape(await driver.executeQuery(`CREATE (n:${RUN} {p: $p}) RETURN n.p AS p`, { p: int(1) })),
    read: shape(await driver.executeQuery(`MATCH (n:${RUN}) RETURN n.p AS p`, {}, { routing: 'READ', database: 'neo4j' })),
    mapped: await driver.executeQuery(`MATCH (n:${RUN}) RETURN n.p AS p`, {}, {
      resultTransformer: neo4j.resultTransformers.mapped({ map: r => normal.value(r.get('p')), collect: (rows, s) => [rows, normalSummary(s)] })
    }),
    empty: shape(await driver.executeQuery(`MATCH (n:${RUN}Other) RETURN n`))
  }
}

// Sidebolt's own procedures: there through Sidebolt, unknown to Neo4j. Both have passed if nothing is thrown.
SCENARIOS.console = async normal => {
  const expect = (holds, seen) => { if (!holds) throw new Error(`unexpected: ${JSON.stringify(seen)}`) }
  const unknown = async cypher => {
    const seen = await fails(() => driver.executeQuery(cypher))
    expect(seen.code === 'Neo.ClientError.Procedure.ProcedureNotFound', seen)
  }
  if (process.env.VIA_SIDEBOLT !== 'yes') {
    await unknown('CALL sidebolt.coalesce()')
    return 'as expected'
  }
  const eager = await driver.executeQuery('CALL sidebolt.coalesce()')
  expect(eager.keys[0] === 'database' && eager.summary.queryType === 'r', eager.keys)
  await withSession({ fetchSize: 1 }, async s => {
    const column = async (runner, cypher) => (await runner.run(cypher)).records.map(r => r.get(0))
    const names = await column(s, 'CALL sidebolt.procedures()')
    expect(names.length > 2 && names.includes('sidebolt.coalesce'), names)
    const managed = await s.executeRead(tx => column(tx, 'CALL sidebolt.procedures() YIELD name'))
    expect(String(managed) === String(names), managed)
    const tx = await s.beginTransaction()
    const all = await Promise.all(['UNWIND [1, 2, 3] AS x RETURN x', 'CALL sidebolt.procedures()', 'RETURN 4 AS x'].map(c => column(tx, c)))
    expect(String(all[0]) === '1,2,3' && String(all[1]) === String(names) && String(all[2]) === '4', all)
    await tx.commit()
  })
  await unknown('CALL sidebolt.nope()')
  return 'as expected'
}

// A limit and a rule of Sidebolt's: outside of a transaction a clear error, a managed one backs off and succeeds, the session stays.
SCENARIOS.refusal = async normal => {
  const expect = (holds, seen) => { if (!holds) throw new Error(`unexpected: ${JSON.stringify(seen)}`) }
  if (process.env.VIA_SIDEBOLT !== 'yes') return 'as expected'
  const own = { metadata: { app: `refusal ${RUN}` } }
  await withSession({}, async s => {
    const ask = async () => Number((await s.run('RETURN 1 AS x', {}, own)).records[0].get('x'))
    const denied = async runner => {
      const seen = await fails(() => runner.run("RETURN 'guard denies this' AS x"))
      expect(seen.code === 'Neo.ClientError.Security.Forbidden', seen)
    }
    expect(await ask() === 1)
    const refused = await fails(ask)
    expect(refused.code === 'Neo.TransientError.Request.NoThreadsAvailable', refused)
    expect(Number(await s.executeRead(tx => only(tx, 'RETURN 1 AS x'), own)) === 1)
    await denied(s)
    await withTransaction(s, {}, async tx => {
      await tx.run('RETURN 1')
      await denied(tx)
    })
    expect(Number(await only(s, 'RETURN 2 AS x')) === 2)
  })
  return 'as expected'
}

// Embeddings by Sidebolt's procedures: fetched in pieces, in a managed transaction with more Cypher behind YIELD, and a clear error.
SCENARIOS.gnn = async normal => {
  const expect = (holds, seen) => { if (!holds) throw new Error(`unexpected: ${JSON.stringify(seen)}`) }
  if (process.env.VIA_SIDEBOLT !== 'yes') return 'as expected'
  const g = { g: RUN }
  await withSession({ fetchSize: 2 }, async s => {
    await s.run(`CREATE (:${RUN} {p: 1})-[:${RUN}]->(:${RUN} {p: 2})-[:${RUN}]->(:${RUN} {p: 3})`)
    await s.run('CALL gnn.graph.project($g, $g, $g)', g)
    const call = 'CALL gnn.fastRP.stream($g, {embeddingDimension: 4})'
    const rows = (await s.run(call, g)).records
    expect(rows.length === 3 && rows.every(row => row.get('embedding').length === 4), rows)
    const rest = `${call} YIELD elementId AS e MATCH (n:${RUN}) WHERE elementId(n) = e RETURN sum(n.p) AS p`
    expect(Number(await s.executeWrite(tx => only(tx, rest, g))) === 6)
    const refused = await fails(() => s.run('MATCH (n) CALL gnn.graph.list() YIELD graphName RETURN graphName'))
    expect(refused.code === 'Neo.ClientError.Statement.SyntaxError', refused)
    expect(Number((await s.run('CALL gnn.graph.drop($g)', g)).records[0].get('nodeCount')) === 3)
    await s.run(`MATCH (n:${RUN}) DETACH DELETE n`)
  })
  return 'as expected'
}

// ---------------------------------------------------------------- transactions

SCENARIOS.tx_commit = normal => withSession({}, async s => {
  const tx = await s.beginTransaction()
  const first = await normal.result(tx.run(`CREATE (n:${RUN} {p: 1}) RETURN n.p AS p`))
  const inside = await countNodes(tx)
  const outside = await count()
  await tx.commit()
  return { first, inside, outside, open: tx.isOpen(), after: await countNodes(s) }
})

SCENARIOS.tx_rollback = normal => withSession({}, async s => {
  const tx = await s.beginTransaction()
  await tx.run(`CREATE (n:${RUN})`)
  const inside = await countNodes(tx)
  await tx.rollback()
  return { inside, after: await countNodes(s), used: await fails(() => tx.run('RETURN 1')) }
})

SCENARIOS.tx_close = async () => {
  const after = await withSession({}, async s => {
    await withTransaction(s, {}, tx => tx.run(`CREATE (n:${RUN})`))
    const seen = await countNodes(s)
    const tx = await s.beginTransaction()
    await tx.run(`CREATE (n:${RUN})`)
    return seen
  })
  return { after, sessionClosed: await count() }
}

// Each session sees what the one before wrote.
SCENARIOS.bookmarks = async () => {
  const seen = []
  const distinct = new Set()
  let marks = []
  for (let i = 0; i < 10; i++) {
    marks = await withSession({ bookmarks: marks }, async s => {
      await s.executeWrite(tx => tx.run(`CREATE (:${RUN} {p: $p})`, { p: int(i) }))
      return s.lastBookmarks()
    })
    marks.forEach(m => distinct.add(m))
    await withSession({ bookmarks: marks }, async s => {
      seen.push(await s.executeRead(countNodes), s.lastBookmarks().length)
    })
  }
  const bad = await withSession({ bookmarks: ['not a bookmark'] }, s => fails(() => s.run('RETURN 1')))
  return { seen, distinct: distinct.size, bad }
}

async function take (result, n) {
  const taken = []
  for await (const record of result) {
    taken.push(Number(record.get(0)))
    if (taken.length === n) break
  }
  return taken
}

SCENARIOS.small_fetch_discard = () => withSession({ fetchSize: 3 }, async s => {
  const query = 'UNWIND range(1, 1000) AS x RETURN x'
  let sum = 0
  for await (const record of s.run(query)) sum += Number(record.get('x'))
  const some = await take(s.run(query), 5)
  const atOnce = normalSummary(await s.run(query).summary())
  const iterator = s.run(query)[Symbol.asyncIterator]()
  const peeked = Number((await iterator.peek()).value.get('x'))
  await iterator.return()
  const [dropped, again] = await withTransaction(s, {}, async tx => [await take(tx.run(query), 4), await only(tx, "RETURN 'still fine' AS v")])
  return { sum, some, atOnce, peeked, dropped, again }
})

SCENARIOS.interleaved_results = () => withSession({ fetchSize: 2 }, s => withTransaction(s, {}, async tx => {
  const [one, two] = [1, 101].map(from => tx.run('UNWIND range($f, $f + 8) AS x RETURN x', { f: int(from) })[Symbol.asyncIterator]())
  const pairs = []
  for (;;) {
    const [a, b] = [await one.next(), await two.next()]
    if (a.done || b.done) break
    pairs.push([a, b].map(r => Number(r.value.get('x'))))
  }
  const three = tx.run('UNWIND range(1, 50) AS x RETURN x')[Symbol.asyncIterator]()
  const first = Number((await three.next()).value.get('x'))
  const four = Number(await only(tx, 'RETURN 4 AS x'))
  const rest = []
  for (let step = await three.next(); !step.done; step = await three.next()) rest.push(Number(step.value.get('x')))
  await tx.commit()
  return { pairs, first, four, rest }
}))

SCENARIOS.large_result = () => withSession({}, async s => {
  const result = s.run('UNWIND range(1, 20000) AS x RETURN x, toString(x) AS s, {k: [x, x + 1]} AS m')
  let [rows, total, length] = [0, 0, 0]
  for await (const record of result) {
    rows++
    total += Number(record.get('x')) + Number(record.get('m').k[1])
    length += record.get('s').length
  }
  return { rows, total, length, summary: normalSummary(await result.summary()) }
})

SCENARIOS.large_parameter = normal => withSession({}, async s => {
  const rows = Array.from({ length: 5000 }, (_, i) => ({ i: int(i), t: 'x'.repeat(100) }))
  return {
    text: await normal.result(s.run('RETURN $t AS t, size($t) AS n', { t: '0123456789abcdef'.repeat(65536) })),
    rows: await normal.result(s.run('UNWIND $rows AS row RETURN sum(row.i) AS total, sum(size(row.t)) AS n', { rows }))
  }
})

// ---------------------------------------------------------------- plans and notifications

SCENARIOS.explain = normal => withSession({}, async s => {
  await s.run(`CREATE (:${RUN} {p: 1})`)
  return {
    read: await normal.result(s.run(`EXPLAIN MATCH (n:${RUN}) WHERE n.p = $p RETURN n.p AS p`, { p: 1 })),
    write: await normal.result(s.run(`EXPLAIN CREATE (:${RUN} {p: 2})`)),
    after: await countNodes(s)
  }
})

SCENARIOS.profile = normal => withSession({}, async s => {
  await s.run(`UNWIND range(1, 5) AS x CREATE (:${RUN} {p: x})`)
  return normal.result(s.run(`PROFILE MATCH (n:${RUN}) WHERE n.p > 2 RETURN n.p AS p ORDER BY p`))
})

const NOISY = `MATCH (a:${RUN}Absent), (b:${RUN}) WHERE a.absentProperty${RUN} = 1 RETURN a, b`
const OLD = `EXPLAIN MATCH (a:${RUN}) RETURN id(a) AS deprecated`

SCENARIOS.notifications = normal => withSession({}, async s => {
  const constraint = `CREATE CONSTRAINT ${RUN}c IF NOT EXISTS FOR (n:${RUN}Unique) REQUIRE n.k IS UNIQUE`
  const answer = []
  for (const query of [NOISY, OLD, "MATCH (a) WHERE elementId(a) = '' RETURN a", constraint, constraint, `DROP CONSTRAINT ${RUN}c`]) {
    answer.push(await normal.result(s.run(query)))
  }
  return answer
})

const FILTERS = [
  { minimumSeverityLevel: 'OFF' },
  { minimumSeverityLevel: 'WARNING' },
  { minimumSeverityLevel: 'INFORMATION' },
  { disabledCategories: ['UNRECOGNIZED'] },
  { disabledClassifications: ['PERFORMANCE', 'DEPRECATION'] },
  { minimumSeverityLevel: 'WARNING', disabledClassifications: ['UNRECOGNIZED'] },
  { disabledCategories: [] }
]

async function statusesUnder (session, normal) {
  const results = [
    await normal.result(session.run(NOISY)),
    await withTransaction(session, {}, tx => normal.result(tx.run(NOISY))),
    await normal.result(session.run(OLD))
  ]
  return results.map(r => [r.summary.statuses, r.summary.notifications])
}

SCENARIOS.notification_filter_driver = async normal => {
  const answer = []
  for (const notificationFilter of FILTERS) {
    answer.push([notificationFilter, await withDriver({ notificationFilter }, undefined, async d => [
      await withSession({}, s => statusesUnder(s, normal), d),
      normalSummary((await d.executeQuery(NOISY)).summary).statuses
    ])])
  }
  return answer
}

// The filter of a session on drivers with and without a filter of their own.
SCENARIOS.notification_filter_session = async normal => {
  const answer = []
  for (const own of [undefined, FILTERS[0], FILTERS[3]]) {
    await withDriver(own ? { notificationFilter: own } : {}, undefined, async d => {
      for (const notificationFilter of FILTERS) {
        answer.push([own, notificationFilter, await withSession({ notificationFilter }, s => statusesUnder(s, normal), d)])
      }
    })
  }
  return answer
}

// ---------------------------------------------------------------- errors

// The same error in each way to run a query; the session works on.
const failing = ({ cypher, parameters }) => () => withSession({ fetchSize: 2 }, async s => {
  const rows = []
  const plain = async () => {
    for await (const record of s.run(cypher, parameters)) rows.push(Number(record.get(0)))
  }
  const errors = [await fails(plain)]
  const after = Number(await only(s, 'RETURN 1 AS v'))
  errors.push(await fails(() => s.executeWrite(tx => tx.run(cypher, parameters))))
  errors.push(await fails(() => driver.executeQuery(cypher, parameters)))
  const open = await withTransaction(s, {}, async tx => {
    errors.push(await fails(() => tx.run(cypher, parameters)))
    return tx.isOpen()
  })
  return { errors, rows, after, open, again: Number(await only(s, 'RETURN 2 AS v')) }
})

for (const [name, wrong] of Object.entries(CASES.errors)) SCENARIOS[name] = failing(wrong)

SCENARIOS.error_constraint = normal => withSession({}, async s => {
  const made = await normal.result(s.run(`CREATE CONSTRAINT ${RUN}k FOR (n:${RUN}) REQUIRE n.k IS UNIQUE`))
  const create = k => `CREATE (:${RUN} {k: ${k}})`
  let answer, dropped
  try {
    await s.run(create(1))
    const plain = await fails(() => s.run(create(1)))
    const inside = await withTransaction(s, {}, async tx => {
      await tx.run(create(2))
      return fails(() => tx.run(create(1)))
    })
    answer = { plain, inside, count: await countNodes(s) }
  } finally {
    dropped = await normal.result(s.run(`DROP CONSTRAINT ${RUN}k`))
  }
  return { made, ...answer, dropped }
})

SCENARIOS.error_in_transaction = () => withSession({}, async s => {
  const tx = await s.beginTransaction()
  await tx.run(`CREATE (:${RUN})`)
  const failed = await fails(() => tx.run('RETURN 1 / 0 AS v'))
  const next = await fails(() => tx.run('RETURN 1 AS v'))
  const commit = await fails(() => tx.commit())
  await tx.close()
  const after = await countNodes(s)
  const pipelined = await withTransaction(s, {}, async second => {
    await second.run(`CREATE (:${RUN})`)
    const both = [second.run('RETURN 1 / 0 AS v'), second.run('RETURN 1 AS v')]
    return Promise.all(both.map(r => fails(() => r)))
  })
  return { failed, next, commit, pipelined, after, end: await countNodes(s) }
})

const SLOW = 'UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 8 RETURN count(x) AS n'

SCENARIOS.tx_timeout = () => withSession({}, async s => {
  const timeout = { timeout: 100 }
  return {
    plain: await fails(() => s.run(SLOW, {}, timeout)),
    explicit: await withTransaction(s, timeout, tx => fails(() => tx.run(SLOW))),
    managed: await fails(() => s.executeRead(tx => tx.run(SLOW), timeout)),
    after: await countNodes(s)
  }
})

SCENARIOS.tx_metadata = normal => withSession({}, s => withSession({}, async other => {
  const metadata = { app: RUN, n: int(42), deep: { list: [int(1), 'two'] } }
  const show = 'SHOW TRANSACTIONS YIELD metaData, username, database, currentQuery WHERE metaData.app = $app RETURN *'
  const own = await normal.result(s.run(show, { app: RUN }, { metadata }))
  const seen = await withTransaction(s, { metadata }, async tx => {
    await tx.run('RETURN 1')
    return normal.result(other.run(show, { app: RUN }))
  })
  return { own, seen, after: await normal.result(other.run(show, { app: RUN })) }
}))

SCENARIOS.read_mode_write = async () => {
  const query = `CREATE (:${RUN})`
  const answer = await withSession({ defaultAccessMode: neo4j.session.READ }, async s => ({
    plain: await fails(() => s.run(query)),
    explicit: await withTransaction(s, {}, tx => fails(() => tx.run(query))),
    managed: await fails(() => s.executeRead(tx => tx.run(query))),
    eager: await fails(() => driver.executeQuery(query, {}, { routing: 'READ' })),
    allowed: normalSummary((await s.executeWrite(tx => tx.run(query))).summary).counters
  }))
  return { ...answer, count: await count() }
}

SCENARIOS.unknown_database = async normal => ({
  plain: await withSession({ database: 'nosuchdb' }, s => fails(() => s.run('RETURN 1'))),
  explicit: await withSession({ database: 'nosuchdb' }, s => fails(async () => (await s.beginTransaction()).run('RETURN 1'))),
  system: await withSession({ database: 'system' }, s => normal.result(
    s.run('SHOW DATABASES YIELD name, type, access, role, writer, currentStatus, default RETURN * ORDER BY name'))),
  after: await count()
})

SCENARIOS.impersonation = async () => ({
  plain: await withSession({ impersonatedUser: 'somebody' }, s => fails(() => s.run('RETURN 1'))),
  explicit: await withSession({ impersonatedUser: 'somebody' }, s => fails(async () => (await s.beginTransaction()).run('RETURN 1'))),
  after: await count()
})

// ---------------------------------------------------------------- many at once

async function worker (number) {
  let total = 0
  for (let i = 0; i < 20; i++) {
    total += await withSession({}, async s => {
      switch (i % 4) {
        case 0: return Number(await only(s, 'RETURN $v AS v', { v: int(number) }))
        case 1: await s.run(`CREATE (:${RUN} {p: $p})`, { p: int(number) }); return 0
        case 2: return Number(await s.executeRead(tx => only(tx, 'UNWIND range(1, 10) AS x RETURN sum(x) AS v')))
        default: {
          const eager = await driver.executeQuery(`MATCH (n:${RUN} {p: $p}) RETURN count(n) AS v`, { p: int(number) })
          return Number(eager.records[0].get('v'))
        }
      }
    })
  }
  return total
}

SCENARIOS.concurrency = async () => ({
  totals: await Promise.all(Array.from({ length: 20 }, (_, i) => worker(i))),
  nodes: await count()
})

// ---------------------------------------------------------------- run

async function run (name) {
  const line = { scenario: name }
  await clean()
  try {
    line.result = await SCENARIOS[name](new Normal())
  } catch (e) {
    if (e instanceof Skipped) line.skipped = e.message
    else line.crash = e.stack ?? String(e)
  }
  await clean()
  console.log(JSON.stringify(line).replaceAll(RUN, 'RUN'))
}

driver = open()
await prepare()
for (const name of chosen.length ? chosen : above('scenarios').trim().split('\n')) await run(name)
await driver.close()
