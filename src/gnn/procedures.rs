//! Which procedures there are: names, arguments, columns, and what runs them.

use std::fmt::Write as _;

use super::Trouble;

/// A procedure.
#[derive(Debug)]
pub(crate) struct Procedure {
    pub(crate) name: &'static str,
    /// Its arguments, with their types and defaults.
    pub(crate) arguments: &'static [&'static str],
    /// So many of them must be given.
    pub(crate) least: usize,
    pub(crate) columns: &'static [Column],
    /// It writes to the database.
    pub(crate) writes: bool,
    pub(crate) runs: Runs,
    /// What it does, in a sentence.
    pub(crate) says: &'static str,
}

/// What runs a procedure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Runs {
    Project,
    ProjectCypher,
    List,
    Drop,
    FastRpStream,
    FastRpWrite,
    EmbedStream,
    EmbedWrite,
    EmbedStats,
    EmbedEstimate,
    Train,
    Similar,
    ModelList,
    ModelInfo,
    ModelLoad,
    ModelDrop,
    Device,
    Progress,
}

/// A column of an answer.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Its Cypher type.
    pub(crate) kind: &'static str,
    pub(crate) says: &'static str,
}

/// A column.
const fn column(name: &'static str, kind: &'static str, says: &'static str) -> Column {
    Column { name, kind, says }
}

const GRAPH_NAME: &str = "graphName :: STRING";
const CONFIGURATION: &str = "configuration = {} :: MAP";

/// The columns of embeddings.
const EMBEDDINGS: &[Column] = &[
    column("nodeId", "INTEGER", "what `id(n)` gives"),
    column("elementId", "STRING", "what `elementId(n)` gives"),
    column("embedding", "LIST<FLOAT>", "its numbers; a VECTOR with `embeddingType: 'vector'` from Bolt 6 on"),
];

/// The columns of a projection, of which the first two are the arguments.
const fn projected(nodes: &'static str, relationships: &'static str, kind: &'static str) -> [Column; 9] {
    [
        column(nodes, kind, "as it was given"),
        column(relationships, kind, "as it was given"),
        column("graphName", "STRING", "its name"),
        column("nodeCount", "INTEGER", "nodes"),
        column("relationshipCount", "INTEGER", "relationships"),
        column("projectMillis", "INTEGER", "time of reading"),
        column("featureCount", "INTEGER", "numbers of each node"),
        column("missingValues", "INTEGER", "values that were missing and replaced"),
        column("sizeInBytes", "INTEGER", "bytes that it takes here"),
    ]
}

/// The columns of what is known of models.
const MODELS: &[Column] = &[
    column("modelName", "STRING", "its name: that of its folder"),
    column("modelType", "STRING", "`graphsage`, `gcn`, `gat` or `gatv2`"),
    column("modelInfo", "MAP", "widths, layers, aggregator, heads, parameters, feature properties"),
    column("embeddingDimension", "INTEGER", "numbers of an embedding"),
    column("version", "STRING", "a hash of its weights and configuration; `name@version` names this one"),
    column("loaded", "BOOLEAN", "false: its folder cannot be used"),
    column("newest", "BOOLEAN", "it is meant by the name alone"),
    column("creationTime", "STRING", "when it was loaded, in UTC"),
    column("error", "STRING", "why its folder cannot be used; null = it can"),
];

/// The columns of a write.
const WRITTEN: &[Column] = &[
    column("nodeCount", "INTEGER", "nodes of the graph"),
    column("nodePropertiesWritten", "INTEGER", "nodes that got the property"),
    column("preProcessingMillis", "INTEGER", "time until there was something to compute"),
    column("computeMillis", "INTEGER", "time of computing"),
    column("writeMillis", "INTEGER", "time of writing"),
    column("index", "STRING", "the vector index on the property; null = none was made sure of"),
    column("configuration", "MAP", "the configuration as it was understood"),
];

/// All of them.
pub(crate) const ALL: &[Procedure] = &[
    Procedure {
        name: "gnn.graph.project",
        arguments: &[GRAPH_NAME, "nodeProjection :: ANY", "relationshipProjection :: ANY", CONFIGURATION],
        least: 3,
        columns: &projected("nodeProjection", "relationshipProjection", "ANY"),
        writes: false,
        runs: Runs::Project,
        says: "Reads a graph from Neo4j and keeps it in Sidebolt's memory under a name.",
    },
    Procedure {
        name: "gnn.graph.project.cypher",
        arguments: &[GRAPH_NAME, "nodeQuery :: STRING", "relationshipQuery :: STRING", CONFIGURATION],
        least: 3,
        columns: &projected("nodeQuery", "relationshipQuery", "STRING"),
        writes: false,
        runs: Runs::ProjectCypher,
        says: "The same by two queries that read: one returns `id` (of `id(n)`) and the features by their names, the other `source` and `target`, and the weight by its name.",
    },
    Procedure {
        name: "gnn.graph.list",
        arguments: &["graphName = null :: STRING"],
        least: 0,
        columns: &[
            column("graphName", "STRING", "its name"),
            column("database", "STRING", "the database that it was read from"),
            column("memoryUsage", "STRING", "bytes that it takes, in words"),
            column("sizeInBytes", "INTEGER", "bytes that it takes"),
            column("nodeCount", "INTEGER", "nodes"),
            column("relationshipCount", "INTEGER", "relationships"),
            column("featureCount", "INTEGER", "numbers of each node"),
            column("features", "LIST<STRING>", "what each of them is (at most 1,000)"),
            column("version", "INTEGER", "another one each time that it is read anew"),
            column("stale", "BOOLEAN", "Neo4j has changed since it was read; null = nobody knows"),
            column("creationTime", "STRING", "when it was read last, in UTC"),
            column("configuration", "MAP", "as it was given"),
        ],
        writes: false,
        runs: Runs::List,
        says: "The graphs of the user and the session's database.",
    },
    Procedure {
        name: "gnn.graph.drop",
        arguments: &[GRAPH_NAME, "failIfMissing = true :: BOOLEAN"],
        least: 1,
        columns: &[
            column("graphName", "STRING", "its name"),
            column("database", "STRING", "its database"),
            column("nodeCount", "INTEGER", "nodes that it had"),
            column("relationshipCount", "INTEGER", "relationships that it had"),
            column("sizeInBytes", "INTEGER", "bytes that are free again"),
        ],
        writes: false,
        runs: Runs::Drop,
        says: "Forgets a graph.",
    },
    Procedure {
        name: "gnn.fastRP.stream",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: EMBEDDINGS,
        writes: false,
        runs: Runs::FastRpStream,
        says: "Embeddings by fast random projection, which needs no model.",
    },
    Procedure {
        name: "gnn.fastRP.write",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: WRITTEN,
        writes: true,
        runs: Runs::FastRpWrite,
        says: "Writes them to the nodes as a vector property, and makes sure of a vector index.",
    },
    Procedure {
        name: "gnn.embed.stream",
        arguments: &["graphNameOrNodes :: STRING OR LIST<INTEGER OR STRING OR NODE>", CONFIGURATION],
        least: 1,
        columns: EMBEDDINGS,
        writes: false,
        runs: Runs::EmbedStream,
        says: "Embeddings by a model: of all nodes of a graph, of those in `nodes`, or, without a graph, of a list of nodes whose neighbourhood is read now.",
    },
    Procedure {
        name: "gnn.embed.write",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: WRITTEN,
        writes: true,
        runs: Runs::EmbedWrite,
        says: "Writes them to the nodes as a vector property, and makes sure of a vector index.",
    },
    Procedure {
        name: "gnn.embed.stats",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: &[
            column("nodeCount", "INTEGER", "nodes that were computed"),
            column("embeddingDimension", "INTEGER", "numbers of an embedding"),
            column("preProcessingMillis", "INTEGER", "time until there was something to compute"),
            column("computeMillis", "INTEGER", "time of computing"),
            column("configuration", "MAP", "the configuration as it was understood"),
        ],
        writes: false,
        runs: Runs::EmbedStats,
        says: "Computes them and shows how long that takes.",
    },
    Procedure {
        name: "gnn.embed.estimate",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: &[
            column("requiredMemory", "STRING", "bytes that computing takes, in words"),
            column("bytesMin", "INTEGER", "at least"),
            column("bytesMax", "INTEGER", "at most"),
            column("nodeCount", "INTEGER", "nodes of the graph"),
            column("relationshipCount", "INTEGER", "relationships of the graph"),
            column("device", "STRING", "what would compute"),
        ],
        writes: false,
        runs: Runs::EmbedEstimate,
        says: "What computing all of them would take.",
    },
    Procedure {
        name: "gnn.graphSage.train",
        arguments: &[GRAPH_NAME, CONFIGURATION],
        least: 1,
        columns: &[
            column("epoch", "INTEGER", "counted from 1; a row for each"),
            column("loss", "FLOAT", "how badly neighbours are told from others, on average"),
            column("modelName", "STRING", "the model's name"),
            column("version", "STRING", "its version, which has the epoch with the least loss"),
            column("trainMillis", "INTEGER", "time of it all"),
        ],
        writes: true,
        runs: Runs::Train,
        says: "Learns a GraphSAGE model (`modelName`) from a graph, without labels: neighbours are to be alike. It is written to `gnn.models`, if that is set.",
    },
    Procedure {
        name: "gnn.similar",
        arguments: &[GRAPH_NAME, "node :: INTEGER OR STRING OR NODE", CONFIGURATION],
        least: 2,
        columns: &[
            column("nodeId", "INTEGER", "what `id(n)` gives"),
            column("elementId", "STRING", "what `elementId(n)` gives"),
            column("score", "FLOAT", "(1 + cosine) / 2, as vector indexes give it"),
        ],
        writes: false,
        runs: Runs::Similar,
        says: "The nodes (`topK`, 10) whose embeddings by a model are most like one node's.",
    },
    Procedure {
        name: "gnn.model.list",
        arguments: &["modelName = null :: STRING"],
        least: 0,
        columns: MODELS,
        writes: false,
        runs: Runs::ModelList,
        says: "The models of `gnn.models`, and the folders there that are none.",
    },
    Procedure {
        name: "gnn.model.info",
        arguments: &["modelName :: STRING"],
        least: 1,
        columns: MODELS,
        writes: false,
        runs: Runs::ModelInfo,
        says: "One of them.",
    },
    Procedure {
        name: "gnn.model.load",
        arguments: &["modelName :: STRING"],
        least: 1,
        columns: &[
            column("modelName", "STRING", "its name"),
            column("version", "STRING", "the version that is loaded now"),
            column("previousVersion", "STRING", "the one that was before; null = none"),
            column("warmupMillis", "INTEGER", "time of loading it and running it once"),
        ],
        writes: false,
        runs: Runs::ModelLoad,
        says: "Loads a folder's model now, without waiting until its change is seen.",
    },
    Procedure {
        name: "gnn.model.drop",
        arguments: &["modelName :: STRING"],
        least: 1,
        columns: MODELS,
        writes: true,
        runs: Runs::ModelDrop,
        says: "Forgets a model until its files change or `gnn.model.load` is called.",
    },
    Procedure {
        name: "gnn.listProgress",
        arguments: &[],
        least: 0,
        columns: &[
            column("jobId", "STRING", "its number"),
            column("username", "STRING", "who called"),
            column("taskName", "STRING", "the procedure"),
            column(
                "step",
                "STRING",
                "what it does now: `Waiting`, `Nodes`, `Relationships`, `Computing`, `Training`, `Writing`",
            ),
            column("progress", "STRING", "how much of that is done, such as `12.5%`; `n/a` = nobody knows"),
            column("done", "INTEGER", "nodes, relationships or epochs of the step that are done"),
            column("total", "INTEGER", "of so many; null = not known"),
            column("loss", "FLOAT", "the last epoch's loss, in training"),
            column("timeStarted", "STRING", "when it was called, in UTC"),
            column("elapsedMillis", "INTEGER", "how long ago that was"),
        ],
        writes: false,
        runs: Runs::Progress,
        says: "What the user's calls are doing now.",
    },
    Procedure {
        name: "gnn.device",
        arguments: &[],
        least: 0,
        columns: &[
            column("kind", "STRING", "`cpu` or `cuda`"),
            column("name", "STRING", "its maker's name for it"),
            column("usable", "BOOLEAN", "it can compute"),
            column("inUse", "BOOLEAN", "it computes whole graphs"),
            column("threads", "INTEGER", "threads that compute, of a processor"),
            column("memoryTotal", "INTEGER", "its memory in bytes; null = not known"),
            column("memoryFree", "INTEGER", "what of that is free; null = not known"),
            column(
                "memoryAllocated",
                "INTEGER",
                "what of that is in use, by this process and others; null = not known",
            ),
            column("memoryUtilization", "FLOAT", "the same as a share of all, 0 to 1; null = not known"),
            column("reason", "STRING", "why it is used, or why not"),
        ],
        writes: false,
        runs: Runs::Device,
        says: "What computes.",
    },
];

impl Procedure {
    /// Its name and arguments.
    pub(crate) fn signature(&self) -> String {
        format!("{}({})", self.name, self.arguments.join(", "))
    }
}

/// The procedure of that name.
pub(crate) fn find(name: &str) -> Option<&'static Procedure> {
    ALL.iter().find(|procedure| procedure.name == name)
}

/// There is none of that name.
pub(crate) fn unknown(name: &str) -> Trouble {
    let near = crate::config::meant(name, ALL.iter().map(|procedure| procedure.name));
    let mean = near.map(|near| format!(" Did you mean `{near}`?")).unwrap_or_default();
    let known: Vec<_> = ALL.iter().map(|procedure| procedure.name).collect();
    let text = format!(
        "There is no procedure with the name `{name}` registered for this database instance: Sidebolt has {}.{mean}",
        known.join(", ")
    );
    bolt_wire::message::Failure::new("Neo.ClientError.Procedure.ProcedureNotFound", "42N08", text).into()
}

/// The table of procedures and their columns in Markdown, as the README has it.
pub(crate) fn reference_markdown() -> String {
    let mut table = String::from("| procedure | column | type | meaning |\n|---|---|---|---|\n");
    for procedure in ALL {
        let mode = if procedure.writes { " WRITE" } else { "" };
        let _ = writeln!(table, "| `{}`{mode} | | | {} |", procedure.signature(), procedure.says);
        for Column { name, kind, says } in procedure.columns {
            let _ = writeln!(table, "| | `{name}` | {kind} | {says} |");
        }
    }
    table
}
