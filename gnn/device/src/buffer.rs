//! What is computed with buffers: lengths are compared here, before the library is called.

use crate::functions::{Attention, Functions};
use crate::{Buffer, Gather, Graph, Result, Scores, Start};
use std::ffi::c_int;

/// An error unless all of these hold: a buffer of the wrong length never reaches the library.
macro_rules! fits {
    ($($what:expr),+ $(,)?) => {
        if !($($what)&&+) {
            return Err(format!("buffers do not fit: {}", stringify!($($what),+)));
        }
    };
}

impl Buffer {
    /// How many numbers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copied from the device.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn download(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; self.length];
        let _turn = self.library.enter()?;
        // SAFETY: both have the length.
        self.library.check(unsafe {
            (self.library.functions.get)(values.as_mut_ptr().cast(), self.pointer, 4 * self.length as u64)
        })?;
        Ok(values)
    }

    /// Sets it to the graph's nodes' aggregates of `input`, rows of `width`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn gather(&mut self, graph: &Graph, how: Gather, input: &Self, width: usize) -> Result<()> {
        let (code, weights, roots) = match how {
            Gather::Mean => (0, None, None),
            Gather::Sum => (1, None, None),
            Gather::Max => (2, None, None),
            Gather::Symmetric { weights, roots } => (3, weights, Some(roots)),
        };
        fits!(
            self.length == graph.nodes * width,
            input.length == self.length,
            weights.is_none_or(|weights| weights.length == graph.edges),
            roots.is_none_or(|roots| roots.length == graph.nodes),
        );
        self.call(|f, out| {
            let (nodes, width) = (graph.nodes as u64, width as u64);
            // SAFETY: lengths were compared, and the graph's numbers when it was made.
            unsafe {
                (f.gather)(
                    code,
                    graph.offsets.pointer.cast(),
                    graph.sources.pointer.cast(),
                    null(weights),
                    null(roots),
                    input.floats(),
                    nodes,
                    width,
                    out,
                )
            }
        })
    }

    /// Sets it to, or adds, rows of `inputs` times a weight of `inputs × outputs`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn product(&mut self, input: &Self, weight: &Self, start: Start, inputs: usize) -> Result<()> {
        fits!(inputs > 0, weight.length.is_multiple_of(inputs), input.length.is_multiple_of(inputs));
        let (rows, outputs) = (input.length / inputs, weight.length / inputs);
        let bias = if let Start::Bias(bias) = start { Some(bias) } else { None };
        fits!(self.length == rows * outputs, bias.is_none_or(|bias| bias.length == outputs));
        let held = c_int::from(matches!(start, Start::Held));
        self.call(|f, out| {
            // SAFETY: lengths were compared.
            unsafe {
                (f.dense)(
                    input.floats(),
                    weight.floats(),
                    null(bias),
                    held,
                    rows as u64,
                    inputs as u64,
                    outputs as u64,
                    out,
                )
            }
        })
    }

    /// Each number through an activation, by its number in gnn/cuda/kernels.cu.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn activate(&mut self, kind: i32) -> Result<()> {
        let length = self.length as u64;
        // SAFETY: its own length.
        self.call(|f, out| unsafe { (f.activate)(kind, length, out) })
    }

    /// Each column times a factor, plus a number.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn affine(&mut self, scale: &Self, shift: &Self) -> Result<()> {
        let width = scale.length;
        fits!(width > 0, shift.length == width, self.length.is_multiple_of(width));
        let rows = (self.length / width) as u64;
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe { (f.affine)(scale.floats(), shift.floats(), rows, width as u64, out) })
    }

    /// Rows made to have the length 1.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn unit_rows(&mut self, width: usize) -> Result<()> {
        fits!(width > 0, self.length.is_multiple_of(width));
        let rows = (self.length / width) as u64;
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe { (f.unit_rows)(rows, width as u64, out) })
    }

    /// A layer norm of each row alone.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn norm_rows(&mut self, weight: &Self, bias: &Self, epsilon: f32) -> Result<()> {
        let width = weight.length;
        fits!(width > 0, bias.length == width, self.length.is_multiple_of(width));
        let rows = (self.length / width) as u64;
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe {
            (f.norm_rows)(weight.floats(), bias.floats(), epsilon, rows, width as u64, out)
        })
    }

    /// Adds another one, or takes the greater number of both.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn merge(&mut self, other: &Self, greatest: bool) -> Result<()> {
        fits!(self.length == other.length);
        let length = self.length as u64;
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe { (f.merge)(c_int::from(greatest), other.floats(), length, out) })
    }

    /// For each row and head of `values`: the product of its channels with those of `vector`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn head_scores(&mut self, values: &Self, vector: &Self, heads: usize) -> Result<()> {
        fits!(
            heads > 0,
            vector.length > 0,
            vector.length.is_multiple_of(heads),
            values.length.is_multiple_of(vector.length)
        );
        let rows = values.length / vector.length;
        fits!(self.length == rows * heads);
        let channels = (vector.length / heads) as u64;
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe {
            (f.head_scores)(values.floats(), vector.floats(), rows as u64, heads as u64, channels, out)
        })
    }

    /// The mean of the features of each node's edges that are no loops.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn mean_edges(&mut self, graph: &Graph, edges: &Self, width: usize) -> Result<()> {
        fits!(self.length == graph.nodes * width, edges.length == graph.edges * width);
        self.call(|f, out| {
            let (nodes, width) = (graph.nodes as u64, width as u64);
            // SAFETY: lengths were compared.
            unsafe {
                (f.mean_edges)(
                    graph.offsets.pointer.cast(),
                    graph.sources.pointer.cast(),
                    edges.floats(),
                    nodes,
                    width,
                    out,
                )
            }
        })
    }

    /// The share of each edge and head, then that of each node's loop and head.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn shares(&mut self, graph: &Graph, scores: &Scores) -> Result<()> {
        let (wide, nodes) = (scores.heads * scores.channels, graph.nodes);
        let own = if scores.vector.is_some() { wide } else { scores.heads };
        fits!(
            self.length == (graph.edges + nodes) * scores.heads,
            scores.source.length == nodes * own,
            scores.target.length == nodes * own,
            scores.vector.is_none_or(|vector| vector.length == wide),
            scores.edges.is_none_or(|(edges, loops, weight, width)| {
                edges.length == graph.edges * width
                    && loops.length == nodes * width
                    && weight.length == own * width
            }),
        );
        let attention = Attention {
            offsets: graph.offsets.pointer.cast(),
            sources: graph.sources.pointer.cast(),
            source: scores.source.floats(),
            target: scores.target.floats(),
            vector: null(scores.vector),
            edges: null(scores.edges.map(|(edges, ..)| edges)),
            loop_edges: null(scores.edges.map(|(_, loops, ..)| loops)),
            edge_weight: null(scores.edges.map(|(_, _, weight, _)| weight)),
            edge_width: scores.edges.map_or(0, |(.., width)| width as u64),
            heads: scores.heads as u64,
            channels: scores.channels as u64,
            slope: scores.slope,
            loops: c_int::from(scores.loops),
        };
        // SAFETY: lengths were compared.
        self.call(|f, out| unsafe { (f.shares)(&raw const attention, nodes as u64, graph.edges as u64, out) })
    }

    /// The bias, plus the neighbours' `values` by their shares: heads side by side, or their mean.
    ///
    /// # Errors
    /// If lengths do not fit, or the device is lost.
    pub fn attend(
        &mut self,
        graph: &Graph,
        shares: &Self,
        values: &Self,
        bias: &Self,
        heads: usize,
        concat: bool,
    ) -> Result<()> {
        let (nodes, width) = (graph.nodes, bias.length);
        fits!(heads > 0, width > 0, !concat || width.is_multiple_of(heads));
        let channels = if concat { width / heads } else { width };
        fits!(
            self.length == nodes * width,
            values.length == nodes * heads * channels,
            shares.length == (graph.edges + nodes) * heads,
        );
        self.call(|f, out| {
            let (offsets, sources) = (graph.offsets.pointer.cast(), graph.sources.pointer.cast());
            let (edges, heads, channels) = (graph.edges as u64, heads as u64, channels as u64);
            // SAFETY: lengths were compared, and the graph's numbers when it was made.
            unsafe {
                (f.attend)(
                    offsets,
                    sources,
                    shares.floats(),
                    values.floats(),
                    bias.floats(),
                    nodes as u64,
                    edges,
                    heads,
                    channels,
                    c_int::from(concat),
                    out,
                )
            }
        })
    }

    fn call(&mut self, function: impl FnOnce(&Functions, *mut f32) -> c_int) -> Result<()> {
        let _turn = self.library.enter()?;
        let code = function(&self.library.functions, self.pointer.cast());
        self.library.check(code)
    }

    fn floats(&self) -> *const f32 {
        self.pointer.cast_const().cast()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _turn = self.library.turn.lock();
        // SAFETY: it was allocated by the library, and is given back once.
        unsafe {
            (self.library.functions.enter)();
            (self.library.functions.free)(self.pointer);
        }
    }
}

fn null(buffer: Option<&Buffer>) -> *const f32 {
    buffer.map_or(std::ptr::null(), Buffer::floats)
}
