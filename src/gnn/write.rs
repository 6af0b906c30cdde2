//! Embeddings written to their nodes, in batches; in the caller's transaction if there is one. The vector index is made sure of.

use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::packstream::{Value, encode};
use bytes::{BufMut, BytesMut};
use tokio::time::{Instant, sleep, timeout};

use super::fetch::Ended;
use super::rows::{Embeddings, Output, Rows, Statement, put_list};
use super::settings::{Settings, name};
use super::spec::escaped;
use super::{Caller, Gnn, Trouble, count, fetch, millis};
use crate::cache::Changes;
use crate::statement::{Footprint, Mark};
use crate::upstream::Lease;

/// Times that a batch is tried which Neo4j refuses for the moment.
const TRIES: u32 = 5;
/// How long before the second time; doubled after each.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that write at once, where they can be had without waiting.
const LANES: usize = 2;

/// Sets one batch.
const SET: &str =
    "UNWIND $rows AS r MATCH (n) WHERE id(n) = r[0] CALL db.create.setNodeVectorProperty(n, $property, r[1])";

/// Where embeddings are written to.
pub(super) struct Target {
    property: String,
    /// A vector index is wanted.
    index: bool,
    /// Its name.
    name: Option<String>,
    similarity: &'static str,
}

impl Target {
    pub(super) fn read(map: &mut Settings) -> Result<Self, Trouble> {
        let property = map.take("writeProperty");
        let property = name("writeProperty", property.as_ref())?;
        let index = map.boolean("createIndex", true)?;
        let index_name = map.string("indexName")?;
        let similarity = map.word("similarityFunction", &["cosine", "euclidean"])?.unwrap_or("cosine");
        Ok(Self { property, index, name: index_name, similarity })
    }
}

/// How long it took until here.
pub(super) struct Times {
    pub(super) before: Duration,
    pub(super) computed: Duration,
}

fn whole_millis(span: Duration) -> Value {
    Value::Integer(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
}

impl Gnn {
    pub(super) async fn write(
        &self,
        caller: &Caller,
        embeddings: Embeddings,
        target: Target,
        times: Times,
        configuration: Value,
    ) -> Result<Output, Trouble> {
        if caller.in_transaction {
            return self.write_in_transaction(caller, &embeddings, &target, &times, &configuration);
        }
        let since = Instant::now();
        let index =
            if target.index { make_indexes(caller, &embeddings, &target).await? } else { Value::Null };
        let embeddings = Arc::new(embeddings);
        let (written, bookmark) = write_all(caller, &embeddings, &target.property).await?;
        let mut rows = Rows::table(vec![vec![
            count(embeddings.graph.ids.len()),
            count(written),
            whole_millis(times.before),
            whole_millis(times.computed),
            millis(since),
            index,
            configuration,
        ]]);
        (rows.wrote, rows.bookmark) = (true, bookmark);
        Ok(Output::Rows(rows))
    }

    /// All in one statement, which goes where the caller's transaction is. An index cannot be made there.
    fn write_in_transaction(
        &self,
        caller: &Caller,
        embeddings: &Embeddings,
        target: &Target,
        times: &Times,
        configuration: &Value,
    ) -> Result<Output, Trouble> {
        let most = caller.shared.config.load().gnn.max_rows;
        let rows = embeddings.len();
        if rows > most {
            return Err(Trouble::wrong(format!(
                "{rows} nodes are too many to be written in one transaction (gnn.max_rows is {most}): call it outside of a transaction, where it \
                 writes in batches, or raise gnn.max_rows."
            )));
        }
        let reserved = self.catalog.budget.take(rows * (16 + 9 * embeddings.matrix.columns()))?;
        let mut parameters = vec![
            ("__gnnRows", BytesMut::new()),
            ("__gnnProperty", BytesMut::new()),
            ("__gnnConfiguration", BytesMut::new()),
        ];
        if let [(_, list), (_, property), (_, shown)] = parameters.as_mut_slice() {
            put_rows(embeddings, 0..rows, list);
            encode::string(&target.property, property);
            configuration.encode(shown);
        }
        let set = SET.replace("$rows", "$__gnnRows").replace("$property", "$__gnnProperty");
        let whole = |span: Duration| span.as_millis().to_string();
        Ok(Output::Statement(Statement {
            text: format!(
                "WITH datetime.realtime().epochMillis AS __gnnSince {set} WITH __gnnSince, count(*) AS __gnnWritten"
            ),
            expressions: vec![
                embeddings.graph.ids.len().to_string(),
                "__gnnWritten".to_owned(),
                whole(times.before),
                whole(times.computed),
                "datetime.realtime().epochMillis - __gnnSince".to_owned(),
                "null".to_owned(),
                "$__gnnConfiguration".to_owned(),
            ],
            parameters,
            _reserved: reserved,
        }))
    }
}

/// Appends the ids and embeddings of these rows as a list.
fn put_rows(embeddings: &Embeddings, rows: std::ops::Range<usize>, out: &mut BytesMut) {
    encode::list_header(rows.len(), out);
    for row in rows {
        encode::list_header(2, out);
        encode::integer(embeddings.id(row), out);
        put_list(embeddings.matrix.row(row), out);
    }
}

/// Writes everything in batches, over as many connections as can be had at once; how many were written, and the newest bookmark.
async fn write_all(
    caller: &Caller,
    embeddings: &Arc<Embeddings>,
    property: &str,
) -> Result<(usize, Option<Box<str>>), Trouble> {
    let size = caller.shared.config.load().gnn.write_batch;
    caller.task.step("Writing", embeddings.len());
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let lane = |lease: Lease| {
        let (next, embeddings, caller, property) = (Arc::clone(&next), embeddings, caller, property);
        async move {
            let (mut lease, mut written, mut bookmark) = (lease, 0, None);
            loop {
                let first = next.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
                if first >= embeddings.len() || caller.cancel.is_cancelled() {
                    return Ok::<_, Trouble>((written, bookmark));
                }
                let rows = first..embeddings.len().min(first + size);
                let (count, ended) = batch(caller, &mut lease, embeddings, rows, property).await?;
                written += count;
                bookmark = ended.bookmark.or(bookmark);
            }
        }
    };
    let first = caller.lease().await?;
    let second = if LANES > 1 && embeddings.len() > size {
        caller.shared.upstream.try_lease(&caller.need)
    } else {
        None
    };
    let (one, two) = match second {
        Some(second) => tokio::try_join!(lane(first), lane(second))?,
        None => (lane(first).await?, (0, None)),
    };
    Ok((one.0 + two.0, two.1.or(one.1)))
}

/// Writes one batch; what Neo4j refuses for the moment is tried again.
async fn batch(
    caller: &Caller,
    lease: &mut Lease,
    embeddings: &Embeddings,
    rows: std::ops::Range<usize>,
    property: &str,
) -> Result<(usize, Ended), Trouble> {
    let mut parameters = BytesMut::new();
    encode::map_header(2, &mut parameters);
    encode::string("rows", &mut parameters);
    put_rows(embeddings, rows, &mut parameters);
    encode::string("property", &mut parameters);
    encode::string(property, &mut parameters);
    let text = format!("{SET} RETURN count(*)");
    let mut pause = PAUSE;
    for tries in 1.. {
        let ticket = caller.shared.cache.begin();
        let mut written = 0;
        let asked = caller.ask(lease.connection_mut(), &text, &parameters, false, |walker| {
            written = usize::try_from(walker.integer().unwrap_or_default()).unwrap_or_default();
            Ok(())
        });
        match asked.await {
            Ok(ended) => {
                if let Some(ticket) = ticket {
                    let sets = caller.shared.upstream.counts_sets(&caller.need.key);
                    ticket.committed(&changes(property, written), ended.bookmark.as_deref(), sets);
                }
                caller.shared.metrics.gnn.written.inc_by(written as u64);
                caller.task.more(written);
                return Ok((written, ended));
            }
            Err(Trouble::Neo4j(payload)) if tries < TRIES && is_passing(&payload) => {
                if let Some(ticket) = ticket {
                    ticket.nothing();
                }
                recover(caller, lease).await?;
                sleep(pause).await;
                pause *= 2;
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Err(Trouble::Passing("Neo4j refuses to write for the moment; try again".to_owned()))
}

/// Cleans a connection on which something failed.
async fn recover(caller: &Caller, lease: &mut Lease) -> Result<(), Trouble> {
    let limit = caller.shared.config.load().pool.reset_timeout;
    let connection = lease.connection_mut();
    connection.queue_own(Tag::RESET);
    match timeout(limit, connection.drain(&caller.shared.buffers, |_, _, _| ())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(fetch::lost(&error.to_string())),
        Err(_) => Err(fetch::lost("it does not answer")),
    }
}

fn is_passing(payload: &[u8]) -> bool {
    let summary = bolt_wire::message::Summary::parse(payload).ok();
    let code = summary.as_ref().and_then(|summary| summary.code());
    code.is_some_and(|code| code.starts_with("Neo.TransientError."))
}

/// What a batch has changed: this property, of so many nodes.
fn changes(property: &str, written: usize) -> Changes {
    let mut changes = Changes::default();
    changes.ask(Footprint(Some([Mark::Key(property.into())].into())));
    let stats = Value::map([("contains-updates", (written > 0).into()), ("properties-set", count(written))])
        .to_bytes();
    let stats = bolt_wire::packstream::MapView::parse(&stats).ok();
    changes.did(stats.as_ref(), false);
    changes
}

/// Makes sure of a vector index for each label; gives their names.
async fn make_indexes(caller: &Caller, embeddings: &Embeddings, target: &Target) -> Result<Value, Trouble> {
    let labels = &embeddings.graph.spec.labels;
    if labels.is_empty() {
        return Ok(Value::Null);
    }
    if target.name.is_some() && labels.len() > 1 {
        return Err(Trouble::wrong(
            "`indexName` names one index, and the graph has several labels, each of which gets its own: leave it out.",
        ));
    }
    let mut lease = caller.lease().await?;
    let mut names = Vec::new();
    for label in labels {
        names.push(make_index(caller, &mut lease, label, embeddings.matrix.columns(), target).await?);
    }
    Ok(names.join(", ").as_str().into())
}

/// Makes sure of one; gives its name.
async fn make_index(
    caller: &Caller,
    lease: &mut Lease,
    label: &str,
    width: usize,
    target: &Target,
) -> Result<String, Trouble> {
    if let Some(known) = known_index(caller, lease, label, &target.property, width).await? {
        return Ok(known);
    }
    let name = target.name.clone().unwrap_or_else(|| {
        let plain = |text: &str| text.replace(|letter: char| !letter.is_alphanumeric() && letter != '_', "_");
        format!("gnn_{}_{}", plain(label), plain(&target.property))
    });
    let text = format!(
        "CREATE VECTOR INDEX {} IF NOT EXISTS FOR (n:{}) ON (n.{}) \
         OPTIONS {{indexConfig: {{`vector.dimensions`: {width}, `vector.similarity_function`: '{}'}}}}",
        escaped(&name),
        escaped(label),
        escaped(&target.property),
        target.similarity
    );
    let ticket = caller.shared.cache.begin();
    // Dropped without an end, the ticket says that anything may have changed: so it is with a schema.
    let made = caller.ask(lease.connection_mut(), &text, &[0xA0], false, |_| Ok(())).await;
    drop(ticket);
    made?;
    let known = known_index(caller, lease, label, &target.property, width).await?;
    known.ok_or_else(|| {
        Trouble::wrong(format!(
            "There is an index `{name}` already, on something else than the property `{}` of :{label}: give another `indexName`, or \
             createIndex: false.",
            target.property
        ))
    })
}

/// The vector index on a property of a label, if there is one; an error if its vectors have another width.
async fn known_index(
    caller: &Caller,
    lease: &mut Lease,
    label: &str,
    property: &str,
    width: usize,
) -> Result<Option<String>, Trouble> {
    const TEXT: &str = "SHOW VECTOR INDEXES YIELD name, entityType, labelsOrTypes, properties, options \
                        WHERE entityType = 'NODE' AND labelsOrTypes = [$label] AND properties = [$property] \
                        RETURN name, options.indexConfig.`vector.dimensions`";
    let parameters = Value::map([("label", label.into()), ("property", property.into())]).to_bytes();
    let mut found = None;
    caller
        .ask(lease.connection_mut(), TEXT, &parameters, true, |walker| {
            let name = walker.string().unwrap_or_default().to_owned();
            found = Some((name, walker.integer().ok()));
            Ok(())
        })
        .await?;
    match found {
        Some((name, Some(known))) if usize::try_from(known) != Ok(width) => Err(Trouble::wrong(format!(
            "The vector index `{name}` on the property `{property}` of :{label} has {known} dimensions, and these embeddings have {width}: drop it, \
             write another property, choose {known} dimensions, or give createIndex: false."
        ))),
        found => Ok(found.map(|(name, _)| name)),
    }
}

/// A map of parameters with more entries.
pub(crate) fn with_parameters(parameters: &[u8], more: &[(&'static str, BytesMut)]) -> BytesMut {
    let own =
        bolt_wire::packstream::MapView::parse(parameters).unwrap_or(bolt_wire::packstream::MapView::EMPTY);
    let size: usize = more.iter().map(|(_, value)| value.len() + 32).sum();
    let mut out = BytesMut::with_capacity(parameters.len() + size);
    encode::map_header(own.iter().count() + more.len(), &mut out);
    for (name, value) in own.iter() {
        encode::string(name, &mut out);
        out.put_slice(value);
    }
    for (name, value) in more {
        encode::string(name, &mut out);
        out.put_slice(value);
    }
    out
}
