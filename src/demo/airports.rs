//! The demo's data: airports and routes between them, written through Bolt like any client would.

use bolt_wire::packstream::Value;

use crate::bolt_client::{BoltClient, ClientError};

const AIRPORTS: &str = include_str!("data/airports.tsv");
const ROUTES: &str = include_str!("data/routes.tsv");

/// Rows of one UNWIND.
const BATCH: usize = 500;

/// How many rows `seed` writes.
pub fn rows() -> usize {
    let data = |text: &str| text.lines().count() - 1;
    data(AIRPORTS) + data(ROUTES)
}

/// Writes the graph `(:Airport {iata, name, city, state, latitude, longitude})-[:ROUTE {flights}]->(:Airport)`; what is there already
/// stays. `progress` is told how many rows were written since it was last told.
pub async fn seed(client: &mut BoltClient, progress: impl Fn(usize)) -> Result<(), ClientError> {
    let constraint = "CREATE CONSTRAINT airport_iata IF NOT EXISTS FOR (a:Airport) REQUIRE a.iata IS UNIQUE";
    client.query(constraint).await?;
    let airports = "UNWIND $rows AS row MERGE (a:Airport {iata: row.iata}) SET a += row";
    write(client, AIRPORTS, airports, &progress).await?;
    let routes = "UNWIND $rows AS row MATCH (a:Airport {iata: row.origin}) MATCH (b:Airport {iata: row.destination}) \
                  MERGE (a)-[r:ROUTE]->(b) SET r.flights = row.flights";
    write(client, ROUTES, routes, &progress).await
}

async fn write(
    client: &mut BoltClient,
    table: &str,
    text: &str,
    progress: &impl Fn(usize),
) -> Result<(), ClientError> {
    let mut lines = table.lines();
    let keys: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let rows: Vec<Value> = lines
        .map(|line| {
            let cells = line.split('\t').enumerate();
            Value::map(cells.filter_map(|(at, cell)| Some((*keys.get(at)?, cell_value(cell)))))
        })
        .collect();
    for batch in rows.chunks(BATCH) {
        let params = Value::map([("rows", Value::List(batch.to_vec()))]);
        client.run(text, params, Value::Map(Vec::new())).await?;
        progress(batch.len());
    }
    Ok(())
}

/// An integer, a float, or else a string.
fn cell_value(cell: &str) -> Value {
    let number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match (number, cell.parse(), cell.parse()) {
        (true, Ok(integer), _) => Value::Integer(integer),
        (true, _, Ok(float)) => Value::Float(float),
        _ => Value::from(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_their_types_and_routes_their_airports() {
        assert_eq!(cell_value("-12"), Value::Integer(-12));
        assert_eq!(cell_value("40.6524"), Value::Float(40.6524));
        assert_eq!(cell_value("Infinity"), Value::from("Infinity"));
        let known: Vec<&str> = AIRPORTS.lines().filter_map(|line| line.split('\t').next()).collect();
        for line in ROUTES.lines().skip(1) {
            let mut cells = line.split('\t');
            assert!(cells.by_ref().take(2).all(|iata| known.contains(&iata)), "{line}");
        }
        assert_eq!(rows(), 305 + 5366);
    }
}
