//! The same computation on a device: models, graphs and features stay there between calls.

use crate::kernel::dense::Packed;
use crate::kernel::gather::Aggregator;
use crate::model::config::{Activation, NormMode};
use crate::model::layer::{After, Attended, Conv, Layer, Linear, Normalization, Scoring};
use gnn_device::{Buffer, Gather, Graph, Library, Scores, Start};
use std::sync::{Arc, OnceLock};

/// In words for people: the caller goes on with the processor.
type Result<T> = std::result::Result<T, String>;

/// Something kept on the device once it was brought there; not copied with what it belongs to.
#[derive(Debug)]
pub(crate) struct Resident<T>(OnceLock<T>);

impl<T> Default for Resident<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Resident<T> {
    /// A failure is not kept: memory may be free the next time.
    pub(crate) fn get_or_bring(&self, bring: impl FnOnce() -> Result<T>) -> Result<&T> {
        if let Some(there) = self.0.get() {
            return Ok(there);
        }
        let brought = bring()?;
        Ok(self.0.get_or_init(|| brought))
    }
}

/// A graph on the device, with what its edges hold.
#[derive(Debug)]
pub(crate) struct DeviceGraph {
    pub(crate) graph: Graph,
    pub(crate) edges: Option<Buffer>,
    pub(crate) edge_width: usize,
    /// 1/√degree, for GCN.
    pub(crate) symmetric: Option<Buffer>,
}

/// A layer's weights on the device.
pub(crate) struct DeviceLayer {
    conv: DeviceConv,
    inputs: usize,
    width: usize,
    bias: Buffer,
    norm: DeviceNorm,
    after: (bool, i32, bool, bool),
}

enum DeviceConv {
    Aggregated {
        how: Aggregator,
        neighbour: Buffer,
        root: Option<Buffer>,
        project: Option<(Buffer, Buffer)>,
        first: bool,
    },
    Attended(Box<DeviceAttended>),
}

struct DeviceAttended {
    value: (Buffer, Option<Buffer>),
    source: Option<Buffer>,
    target: Buffer,
    target_linear: Option<(Buffer, Buffer)>,
    edge: Option<Buffer>,
    residual: Option<Buffer>,
    heads: usize,
    channels: usize,
    concat: bool,
    loops: bool,
    slope: f32,
}

enum DeviceNorm {
    None,
    Affine(Buffer, Buffer),
    Rows(Buffer, Buffer, f32),
}

impl DeviceLayer {
    pub(crate) fn bring(library: &Arc<Library>, layer: &Layer) -> Result<Self> {
        let conv = match &layer.conv {
            Conv::Aggregated { how, neighbour, root, project } => DeviceConv::Aggregated {
                how: *how,
                neighbour: weight(library, neighbour)?,
                root: root.as_ref().map(|root| weight(library, root)).transpose()?,
                project: project.as_ref().map(|linear| both(library, linear)).transpose()?,
                first: crate::model::layer::aggregates_first(*how, neighbour),
            },
            Conv::Attended(attended) => {
                DeviceConv::Attended(Box::new(DeviceAttended::bring(library, attended)?))
            }
        };
        let After { normalize, norm, activation, act_first, skip } = &layer.after;
        let norm = match norm {
            Normalization::None => DeviceNorm::None,
            Normalization::Affine { scale, shift } => {
                DeviceNorm::Affine(library.upload(scale)?, library.upload(shift)?)
            }
            Normalization::Layer { mode: NormMode::Node, weight, bias, epsilon } => {
                DeviceNorm::Rows(library.upload(weight)?, library.upload(bias)?, *epsilon)
            }
            Normalization::Layer { mode: NormMode::Graph, .. } => {
                return Err("a layer norm over all nodes is computed on the processor".to_owned());
            }
        };
        let after = (*normalize, number(*activation), *act_first, *skip);
        Ok(Self {
            conv,
            inputs: layer.inputs,
            width: layer.width,
            bias: library.upload(&layer.bias)?,
            norm,
            after,
        })
    }

    /// The layer's output for all nodes.
    pub(crate) fn forward(
        &self,
        library: &Arc<Library>,
        graph: &DeviceGraph,
        input: &Buffer,
    ) -> Result<Buffer> {
        let nodes = graph.graph.nodes();
        let mut out = library.floats(nodes * self.width)?;
        match &self.conv {
            DeviceConv::Aggregated { how, neighbour, root, project, first } => {
                let projected;
                let heard = match project {
                    None => input,
                    Some((weight, bias)) => {
                        let mut linear = library.floats(nodes * self.inputs)?;
                        linear.product(input, weight, Start::Bias(bias), self.inputs)?;
                        linear.activate(number(Activation::Relu))?;
                        projected = linear;
                        &projected
                    }
                };
                let how = gathering(*how, graph)?;
                if *first {
                    let mut aggregated = library.floats(nodes * self.inputs)?;
                    aggregated.gather(&graph.graph, how, heard, self.inputs)?;
                    out.product(&aggregated, neighbour, Start::Bias(&self.bias), self.inputs)?;
                } else {
                    let mut products = library.floats(nodes * self.width)?;
                    products.product(heard, neighbour, Start::Zero, self.inputs)?;
                    out.gather(&graph.graph, how, &products, self.width)?;
                    out.affine(&library.upload(&vec![1.0; self.width])?, &self.bias)?;
                }
                if let Some(root) = root {
                    out.product(input, root, Start::Held, self.inputs)?;
                }
            }
            DeviceConv::Attended(attended) => attended.forward(library, graph, input, self, &mut out)?,
        }
        self.after(input, &mut out)?;
        Ok(out)
    }

    fn after(&self, input: &Buffer, out: &mut Buffer) -> Result<()> {
        let (normalize, activation, act_first, skip) = self.after;
        if normalize {
            out.unit_rows(self.width)?;
        }
        if act_first {
            out.activate(activation)?;
        }
        match &self.norm {
            DeviceNorm::None => {}
            DeviceNorm::Affine(scale, shift) => out.affine(scale, shift)?,
            DeviceNorm::Rows(weight, bias, epsilon) => out.norm_rows(weight, bias, *epsilon)?,
        }
        if !act_first {
            out.activate(activation)?;
        }
        if skip { out.merge(input, false) } else { Ok(()) }
    }
}

impl DeviceAttended {
    fn bring(library: &Arc<Library>, layer: &Attended) -> Result<Self> {
        let value_bias =
            if layer.value.bias.is_empty() { None } else { Some(library.upload(&layer.value.bias)?) };
        let (source, target, target_linear, edge) = match &layer.scoring {
            Scoring::Added { source, target, edge } => (Some(library.upload(source)?), target, None, edge),
            Scoring::Activated { target, attention, edge } => {
                (None, attention, Some(both(library, target)?), edge)
            }
        };
        Ok(Self {
            value: (weight(library, &layer.value.weight)?, value_bias),
            source,
            target: library.upload(target)?,
            target_linear,
            edge: edge.as_ref().map(|edge| library.upload(edge)).transpose()?,
            residual: layer.residual.as_ref().map(|residual| weight(library, residual)).transpose()?,
            heads: layer.heads,
            channels: layer.channels,
            concat: layer.concat,
            loops: layer.loops,
            slope: layer.negative_slope,
        })
    }

    fn forward(
        &self,
        library: &Arc<Library>,
        graph: &DeviceGraph,
        input: &Buffer,
        layer: &DeviceLayer,
        out: &mut Buffer,
    ) -> Result<()> {
        let (nodes, wide) = (graph.graph.nodes(), self.heads * self.channels);
        let mut values = library.floats(nodes * wide)?;
        let start = self.value.1.as_ref().map_or(Start::Zero, Start::Bias);
        values.product(input, &self.value.0, start, layer.inputs)?;
        let (of_source, of_target);
        let (source, target, vector) = match (&self.source, &self.target_linear) {
            (Some(source), _) => {
                let mut first = library.floats(nodes * self.heads)?;
                first.head_scores(&values, source, self.heads)?;
                let mut second = library.floats(nodes * self.heads)?;
                second.head_scores(&values, &self.target, self.heads)?;
                (of_source, of_target) = (first, second);
                (&of_source, &of_target, None)
            }
            (None, Some((weight, bias))) => {
                let mut linear = library.floats(nodes * wide)?;
                linear.product(input, weight, Start::Bias(bias), layer.inputs)?;
                of_target = linear;
                (&values, &of_target, Some(&self.target))
            }
            (None, None) => return Err("attention without scores".to_owned()),
        };
        let loop_edges;
        let edges = match (&self.edge, &graph.edges) {
            (Some(weight), Some(edges)) => {
                let mut mean = library.floats(nodes * graph.edge_width)?;
                mean.mean_edges(&graph.graph, edges, graph.edge_width)?;
                loop_edges = mean;
                Some((edges, &loop_edges, weight, graph.edge_width))
            }
            _ => None,
        };
        let scores = Scores {
            source,
            target,
            vector,
            edges,
            heads: self.heads,
            channels: self.channels,
            slope: self.slope,
            loops: self.loops,
        };
        let mut shares = library.floats((graph.graph.edges() + nodes) * self.heads)?;
        shares.shares(&graph.graph, &scores)?;
        out.attend(&graph.graph, &shares, &values, &layer.bias, self.heads, self.concat)?;
        match &self.residual {
            Some(weight) => out.product(input, weight, Start::Held, layer.inputs),
            None => Ok(()),
        }
    }
}

fn gathering(how: Aggregator, graph: &DeviceGraph) -> Result<Gather<'_>> {
    Ok(match how {
        Aggregator::Mean => Gather::Mean,
        Aggregator::Sum => Gather::Sum,
        Aggregator::Max => Gather::Max,
        Aggregator::Symmetric => {
            let roots = graph.symmetric.as_ref().ok_or("the graph was brought without degrees")?;
            let weights = if graph.edge_width == 1 { graph.edges.as_ref() } else { None };
            Gather::Symmetric { weights, roots }
        }
    })
}

/// As the kernels read it: inputs × outputs.
pub(crate) fn weight(library: &Arc<Library>, packed: &Packed) -> Result<Buffer> {
    library.upload(&packed.unpacked())
}

fn both(library: &Arc<Library>, linear: &Linear) -> Result<(Buffer, Buffer)> {
    Ok((weight(library, &linear.weight)?, library.upload(&linear.bias)?))
}

/// The activation's number in gnn/cuda/kernels.cu.
fn number(activation: Activation) -> i32 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::LeakyRelu => 2,
        Activation::Elu => 3,
        Activation::Gelu => 4,
        Activation::Silu => 5,
        Activation::Sigmoid => 6,
        Activation::Tanh => 7,
    }
}
