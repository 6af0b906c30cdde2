//! `gnn.model.…`, `gnn.device` and `gnn.similar`.

use std::sync::Arc;

use bolt_wire::packstream::Value;

use super::embed::position;
use super::embeddings::everything;
use super::models::Loaded;
use super::project::blocking;
use super::rows::{Output, Rows};
use super::settings::{Settings, name};
use super::{Caller, Gnn, Trouble, count};
use crate::sight::moment;

/// Most nodes that are alike.
const ALIKE: usize = 100_000;

impl Gnn {
    pub(super) fn model_list(&self, wanted: Option<Value>) -> Result<Output, Trouble> {
        let wanted = match wanted {
            None | Some(Value::Null) => None,
            given => Some(name("modelName", given.as_ref())?),
        };
        let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        let (models, broken) = self.models.list();
        let mut rows: Vec<Vec<Value>> = models
            .iter()
            .filter(|(name, ..)| is_wanted(name))
            .map(|(name, loaded, newest)| row(name, loaded, *newest))
            .collect();
        for (name, why) in broken.iter().filter(|(name, _)| is_wanted(name)) {
            let mut row = vec![Value::Null; 9];
            if let Some(place) = row.first_mut() {
                *place = name.as_str().into();
            }
            if let Some(place) = row.get_mut(5) {
                *place = false.into();
            }
            if let Some(place) = row.last_mut() {
                *place = why.as_str().into();
            }
            rows.push(row);
        }
        Ok(Output::Rows(Rows::table(rows)))
    }

    pub(super) fn model_info(&self, wanted: Option<Value>) -> Result<Output, Trouble> {
        let named = name("modelName", wanted.as_ref())?;
        let loaded = self.models.find(&named)?;
        let plain = named.split('@').next().unwrap_or(&named);
        let newest = self.models.find(plain).is_ok_and(|newest| Arc::ptr_eq(&newest, &loaded));
        Ok(Output::Rows(Rows::table(vec![row(plain, &loaded, newest)])))
    }

    pub(super) async fn model_load(&self, caller: &Caller, wanted: Option<Value>) -> Result<Output, Trouble> {
        let named = name("modelName", wanted.as_ref())?;
        let config = caller.shared.config.load_full();
        let folder = config.gnn.models.clone().ok_or_else(|| {
            Trouble::wrong(
                "There is no folder with models: set gnn.models to one in which each folder is a model.",
            )
        })?;
        let before = self.models.find(&named).ok();
        let shared = Arc::clone(&caller.shared);
        let wanted = named.clone();
        let loaded =
            blocking(move || shared.gnn.models.load(&folder, &wanted, &shared.metrics.gnn)).await??;
        Ok(Output::Rows(Rows::table(vec![vec![
            named.into(),
            loaded.model.version().into(),
            before.map_or(Value::Null, |before| before.model.version().into()),
            Value::Integer(i64::try_from(loaded.warmup.as_millis()).unwrap_or(i64::MAX)),
        ]])))
    }

    pub(super) fn model_drop(&self, caller: &Caller, wanted: Option<Value>) -> Result<Output, Trouble> {
        let named = name("modelName", wanted.as_ref())?;
        let loaded = self.models.find(&named)?;
        self.models.drop(&named);
        tracing::info!(model = named, user = %caller.need.principal.name, "A model was dropped by hand.");
        Ok(Output::Rows(Rows::table(vec![row(&named, &loaded, false)])))
    }

    pub(super) fn device(&self) -> Output {
        let row = |device: gnn::Device| {
            vec![
                device.kind.to_string().into(),
                device.name.as_str().into(),
                device.usable.into(),
                device.used.into(),
                count(device.threads),
                whole(device.memory_total),
                whole(device.memory_free),
                whole(device.memory_allocated()),
                device.memory_utilization().map_or(Value::Null, Value::Float),
                device.reason.as_str().into(),
            ]
        };
        Output::Rows(Rows::table(gnn::devices().into_iter().map(row).collect()))
    }

    /// The nodes whose embeddings are most like one node's.
    pub(super) async fn similar(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        node: Option<Value>,
        configuration: Option<Value>,
    ) -> Result<Output, Trouble> {
        let graph = name("graphName", graph.as_ref())?;
        let mut map = Settings::of(configuration)?;
        let k = map.size("topK", 10, ALIKE)?;
        let model = self.model_of(&mut map, caller)?;
        everything(&mut map)?;
        map.done()?;
        let owner = self.catalog.owner(caller).await?;
        let graph = self.catalog.current(caller, &owner, &graph).await?;
        let at = position(&graph, &node.unwrap_or(Value::Null))?;
        let ready = self.ready(&graph, &model.model).await?;
        let whole = self.whole(caller, &ready).await?;
        let (matrix, cancel) = (Arc::clone(&whole.matrix), caller.cancel.clone());
        let alike =
            blocking(move || gnn::nearest(&matrix, matrix.row(at as usize), k + 1, &cancel)).await??;
        let rows = alike.into_iter().filter(|(other, _)| *other != at).take(k).map(|(other, score)| {
            let id = graph.ids.get(other as usize).copied().unwrap_or_default();
            vec![Value::Integer(id), graph.element_id(id).into(), Value::Float(f64::from(score))]
        });
        Ok(Output::Rows(Rows::table(rows.collect())))
    }
}

/// Bytes; null = not known.
fn whole(bytes: u64) -> Value {
    if bytes == 0 { Value::Null } else { Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX)) }
}

/// What is known of a model.
fn row(name: &str, loaded: &Loaded, newest: bool) -> Vec<Value> {
    let info = loaded.model.info();
    let properties = info.feature_properties.iter().map(|property| Value::from(property.as_str())).collect();
    vec![
        name.into(),
        info.kind.to_string().into(),
        Value::map([
            ("inChannels", count(info.in_channels)),
            ("hiddenChannels", count(info.hidden_channels)),
            ("numLayers", count(info.layers)),
            ("aggregator", info.aggregator.as_str().into()),
            ("heads", count(info.heads)),
            ("parameters", count(info.parameters)),
            ("featureProperties", Value::List(properties)),
        ]),
        count(info.out_channels),
        info.version.as_str().into(),
        true.into(),
        newest.into(),
        moment(loaded.since).as_str().into(),
        Value::Null,
    ]
}
