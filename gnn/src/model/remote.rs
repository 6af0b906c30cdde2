//! The whole graph on a device.

use super::{Jump, Model};
use crate::accelerate::{DeviceGraph, DeviceLayer, weight};
use crate::{Cancel, Csr, Error, Matrix};
use gnn_device::{Buffer, Library, Start};
use std::sync::Arc;

/// A model's weights on a device.
pub(crate) struct DeviceModel {
    layers: Vec<DeviceLayer>,
    head: Option<(Vec<Buffer>, Buffer)>,
}

/// Why there is no result.
pub(crate) enum Remote {
    /// The caller does not want it any more.
    Cancelled,
    /// The processor can compute it.
    Failed(String),
}

impl From<String> for Remote {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl Model {
    /// All embeddings, computed by a device.
    pub(super) fn remote(
        &self,
        library: &Arc<Library>,
        graph: &Csr,
        features: &Matrix,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Remote> {
        let model = self.resident.get_or_bring(|| self.bring(library))?;
        let kept = if self.symmetric() { graph.resident_symmetric() } else { graph.resident() };
        let graph = kept.get_or_bring(|| bring_graph(library, graph, self.symmetric()))?;
        let features = features.resident().get_or_bring(|| library.upload(features.values()))?;
        let mut parts: Vec<Buffer> = Vec::new();
        let mut last: Option<Buffer> = None;
        for layer in &model.layers {
            if cancel.is_cancelled() {
                return Err(Remote::Cancelled);
            }
            let out = layer.forward(library, graph, last.as_ref().unwrap_or(features))?;
            match (self.config.jk, parts.first_mut()) {
                (Some(Jump::Max), Some(greatest)) => greatest.merge(&out, true)?,
                (Some(Jump::Cat), _) | (Some(Jump::Max), None) => {
                    let mut copy = library.upload(&vec![0.0; out.len()])?;
                    copy.merge(&out, false)?;
                    parts.push(copy);
                }
                _ => {}
            }
            last = Some(out);
        }
        let Some((weights, bias)) = &model.head else {
            return Ok(last.as_ref().map(Buffer::download).transpose()?.unwrap_or_default());
        };
        if parts.is_empty() {
            parts.extend(last);
        }
        let mut out = library.floats(graph.graph.nodes() * bias.len())?;
        for (index, (part, weight)) in parts.iter().zip(weights).enumerate() {
            let start = if index == 0 { Start::Bias(bias) } else { Start::Held };
            out.product(part, weight, start, self.config.hidden_channels)?;
        }
        Ok(out.download()?)
    }

    fn bring(&self, library: &Arc<Library>) -> Result<DeviceModel, String> {
        let layers =
            self.layers.iter().map(|layer| DeviceLayer::bring(library, layer)).collect::<Result<_, _>>()?;
        let head = match &self.head {
            None => None,
            Some(head) => {
                let parts = head.parts.iter().map(|part| weight(library, part)).collect::<Result<_, _>>()?;
                Some((parts, library.upload(&head.bias)?))
            }
        };
        Ok(DeviceModel { layers, head })
    }
}

fn bring_graph(library: &Arc<Library>, graph: &Csr, symmetric: bool) -> Result<DeviceGraph, String> {
    let hearing = graph.hearing();
    Ok(DeviceGraph {
        graph: library.graph(hearing.offsets, hearing.sources)?,
        edges: if graph.edge_width() > 0 { Some(library.upload(graph.edge_values())?) } else { None },
        edge_width: graph.edge_width(),
        symmetric: if symmetric { Some(library.upload(graph.symmetric())?) } else { None },
    })
}

/// Compares a device with the processor on a small model: one that computes wrongly is not used.
pub(crate) fn self_check(library: &Arc<Library>) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    let training = crate::Training { sample_sizes: vec![1, 1], seed: 11, ..Default::default() };
    let model = training.untrained(33).map_err(failed)?;
    let mut random = crate::random::Random::keyed(12, &[]);
    let nodes = 500;
    let mut ends = |count: usize| (0..count).map(|_| random.below(nodes) as u32).collect::<Vec<_>>();
    let graph = Csr::from_edges(nodes, &ends(3000), &ends(3000), None, crate::Orientation::Natural)
        .map_err(failed)?;
    let values = (0..nodes * 33).map(|_| random.uniform() - 0.5).collect();
    let features = Matrix::new(nodes, 33, values).map_err(failed)?;
    let cancel = Cancel::default();
    let here = model.forward_here(&graph, &features, &cancel).map_err(failed)?;
    let there = match model.remote(library, &graph, &features, &cancel) {
        Ok(there) => there,
        Err(Remote::Failed(reason)) => return Err(reason),
        Err(Remote::Cancelled) => return Err("the check was cancelled".to_owned()),
    };
    let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE;
    if there.len() == here.values().len() && here.values().iter().zip(&there).all(agrees) {
        return Ok(());
    }
    Err(format!("it does not compute what the processor does, within {TOLERANCE}"))
}

const TOLERANCE: f32 = 1e-4;
