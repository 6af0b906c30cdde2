//! How fast this machine computes embeddings: `cargo run --release -p sidebolt-gnn --example gnn-bench`.
//!
//! ```text
//! gnn-bench [--threads N] [--nodes N] [--edges N] [--runs N]    a random graph, GraphSAGE 64 → 64 → 64 → 128
//! gnn-bench --library FILE                                      with a library of gnn/cuda/build, where there is a GPU
//! gnn-bench [--threads N] --case FOLDER                         a model and case.safetensors; one forward for each
//!                                                               line read, answered with "wall cpu" in milliseconds
//! ```
//! tests/gnn/compare_pyg.py uses the second form to take turns with PyTorch Geometric.

use gnn::{Aggr, Cancel, Config, Csr, FastRp, Limits, Matrix, Model, Orientation, Training};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

fn main() {
    let options = Options::parse();
    gnn::set_threads(options.threads).expect("the threads start");
    if let Some(library) = &options.library {
        let device = gnn::open_with(gnn::Choice::Auto, Some(Path::new(library)))
            .expect("the processor can always compute");
        println!("device: {} {} ({})", device.kind, device.name, device.reason);
    }
    if let Some(folder) = &options.case {
        return serve(Path::new(folder));
    }
    let (nodes, edges) = (options.nodes, options.edges);
    let mut random = Random(1);
    let ends = |random: &mut Random| (0..edges).map(|_| random.below(nodes)).collect::<Vec<u32>>();
    let (sources, targets) = (ends(&mut random), ends(&mut random));
    let (graph, built) =
        timed(|| Csr::from_edges(nodes, &sources, &targets, None, Orientation::Natural).expect("edges fit"));
    let features =
        Matrix::new(nodes, 64, (0..nodes * 64).map(|_| random.number()).collect()).expect("sizes agree");
    let model = graph_sage(&mut random);
    println!(
        "{nodes} nodes, {edges} edges, {} threads; graph built in {built:.1} ms, {} MiB",
        gnn::threads(),
        graph.bytes() >> 20
    );
    full(&model, &graph, &features, options.runs);
    let machine = Machine::measure();
    machine.roofline(&model, &graph, &features, options.runs);
    for fan_out in [[25, 10, 5], [10, 10, 10]] {
        for count in [1, 64, 256] {
            sampled(&model, &graph, &features, count, &fan_out, &mut random);
        }
    }
    fast_rp(&graph, options.runs);
    training(&mut random);
}

/// The whole graph: time and memory.
fn full(model: &Model, graph: &Csr, features: &Matrix, runs: usize) {
    let before = memory("VmRSS");
    let cancel = Cancel::default();
    let (_, first) = timed(|| model.forward(graph, features, &cancel).expect("fits"));
    let extra = memory("VmHWM").saturating_sub(before);
    let cpu = cpu_ms();
    let mut walls: Vec<f64> =
        (0..runs).map(|_| timed(|| model.forward(graph, features, &cancel).expect("fits")).1).collect();
    let cpu = (cpu_ms() - cpu) / runs as f64;
    walls.sort_by(f64::total_cmp);
    println!(
        "full graph: first {first:.1} ms, then median {:.1} ms, least {:.1} ms, CPU {cpu:.0} ms a run",
        walls[runs / 2],
        walls[0]
    );
    println!("full graph: {} MiB more than before at its peak (embeddings included)", extra >> 10);
}

/// What the machine can do at most, by wall and by CPU time: on a busy machine only the latter says something.
struct Machine {
    copy: Rate,
    multiply: Rate,
}

/// How much of something in a millisecond.
#[derive(Clone, Copy)]
struct Rate {
    wall: f64,
    cpu: f64,
}

impl Rate {
    /// `work` does `amount`; the best wall time and the mean CPU time of 20 rounds.
    fn measure(amount: f64, mut work: impl FnMut()) -> Self {
        work();
        let before = cpu_ms();
        let wall = (0..20).map(|_| timed(&mut work).1).fold(f64::MAX, f64::min);
        Self { wall: amount / wall, cpu: amount * 20.0 / (cpu_ms() - before).max(1.0) }
    }
}

impl Machine {
    fn measure() -> Self {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(gnn::threads()).build().expect("threads start");
        let source = vec![1.0f32; 1 << 25];
        let mut target = vec![0.0f32; 1 << 25];
        let copy = || {
            pool.install(|| {
                let chunks = target.par_chunks_mut(1 << 16).zip(source.par_chunks(1 << 16));
                chunks.for_each(|(to, from)| to.copy_from_slice(from));
            });
        };
        let copy = Rate::measure(2.0 * 4.0 * f64::from(1 << 25), copy);
        let flop = gnn::threads() as f64 * Arch::new().dispatch(Peak);
        let multiply = Rate::measure(flop, || {
            pool.broadcast(|_| std::hint::black_box(Arch::new().dispatch(Peak)));
        });
        Self { copy, multiply }
    }

    /// Each layer's rows are gathered once an edge, read and written once, and multiplied twice.
    fn roofline(&self, model: &Model, graph: &Csr, features: &Matrix, runs: usize) {
        let widths = [(64.0, 64.0), (64.0, 64.0), (64.0, 128.0)];
        let (nodes, edges) = (graph.nodes() as f64, graph.edges() as f64);
        let bytes: f64 = widths.iter().map(|(a, b)| 4.0 * (edges * a + nodes * (a + b))).sum();
        let flop: f64 = widths.iter().map(|(a, b)| 4.0 * nodes * a * b).sum();
        let forward = || drop(model.forward(graph, features, &Cancel::default()).expect("fits"));
        let before = cpu_ms();
        let best = (0..runs).map(|_| timed(forward).1).fold(f64::MAX, f64::min);
        let cpu = (cpu_ms() - before) / runs as f64;
        let Self { copy, multiply } = self;
        println!("to do: {:.2} GB and {:.2} GFLOP", bytes / 1e9, flop / 1e9);
        for (clock, copy, multiply, took) in
            [("wall", copy.wall, multiply.wall, best), ("CPU", copy.cpu, multiply.cpu, cpu)]
        {
            let floor = bytes / copy + flop / multiply;
            println!(
                "roofline by {clock}: {:.1} GB/s, {:.0} GFLOP/s: {floor:.0} ms; took {took:.0} ms = {:.0} % of the roofline, {:.1} GFLOP/s",
                copy / 1e6,
                multiply / 1e6,
                100.0 * floor / took,
                flop / took / 1e6
            );
        }
    }
}

/// Independent multiply-adds in registers; gives how many operations one round has.
struct Peak;

impl WithSimd for Peak {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let mut sums = [simd.splat_f32s(0.5); 12];
        let factor = simd.splat_f32s(std::hint::black_box(0.999));
        for _ in 0..1 << 21 {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        std::hint::black_box(&sums);
        (1 << 21) as f64 * 12.0 * 2.0 * S::F32_LANES as f64
    }
}

fn sampled(
    model: &Model,
    graph: &Csr,
    features: &Matrix,
    count: usize,
    fan_out: &[usize],
    random: &mut Random,
) {
    let rounds = 60;
    let mut walls: Vec<f64> = (0..rounds)
        .map(|round| {
            let nodes: Vec<u32> = (0..count).map(|_| random.below(graph.nodes())).collect();
            timed(|| {
                model
                    .forward_nodes(graph, features, &nodes, fan_out, round, &Cancel::default())
                    .expect("fits")
            })
            .1
        })
        .collect();
    walls.sort_by(f64::total_cmp);
    println!(
        "{count} nodes, fan-out {fan_out:?}: median {:.2} ms, p90 {:.2} ms",
        walls[rounds as usize / 2],
        walls[rounds as usize * 9 / 10]
    );
}

fn fast_rp(graph: &Csr, runs: usize) {
    let run = || FastRp::default().run(graph, None, &Cancel::default()).expect("defaults are right");
    let cpu = cpu_ms();
    let mut walls: Vec<f64> = (0..runs).map(|_| timed(run).1).collect();
    let cpu = (cpu_ms() - cpu) / runs as f64;
    walls.sort_by(f64::total_cmp);
    println!("FastRP, 128 dimensions: median {:.1} ms, CPU {cpu:.0} ms a run", walls[runs / 2]);
}

/// Two epochs with the defaults on 10,000 nodes.
fn training(random: &mut Random) {
    let ends = |random: &mut Random| (0..60_000).map(|_| random.below(10_000)).collect::<Vec<u32>>();
    let (sources, targets) = (ends(random), ends(random));
    let graph =
        Csr::from_edges(10_000, &sources, &targets, None, Orientation::Undirected).expect("edges fit");
    let features =
        Matrix::new(10_000, 64, (0..640_000).map(|_| random.number()).collect()).expect("sizes agree");
    let training = Training { epochs: 2, ..Training::default() };
    let cpu = cpu_ms();
    let (_, wall) =
        timed(|| training.run(&graph, &features, &Cancel::default(), |_| {}).expect("it can be trained"));
    println!(
        "training, 10,000 nodes, 120,000 messages, 50 batches: {:.0} ms an epoch, CPU {:.0} ms",
        wall / 2.0,
        (cpu_ms() - cpu) / 2.0
    );
}

/// One forward of the case's model for each line of standard input.
fn serve(folder: &Path) {
    let model = Model::load(folder, &Limits::default()).expect("the model loads");
    let bytes = std::fs::read(folder.join("case.safetensors")).expect("the case is there");
    let file = SafeTensors::deserialize(&bytes).expect("the case is a safetensors file");
    let x = file.tensor("x").expect("x is there");
    let values = x.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let features = Matrix::new(x.shape()[0], x.shape()[1], values).expect("x is a matrix");
    let edges = file.tensor("edge_index").expect("edge_index is there");
    let ids: Vec<u32> =
        edges.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect();
    let (sources, targets) = ids.split_at(ids.len() / 2);
    let graph =
        Csr::from_edges(features.rows(), sources, targets, None, Orientation::Natural).expect("edges fit");
    drop(bytes);
    let before = memory("VmRSS");
    for (index, line) in std::io::stdin().lines().enumerate() {
        if line.is_err() {
            break;
        }
        let cpu = cpu_ms();
        let (out, wall) = timed(|| model.forward(&graph, &features, &Cancel::default()).expect("fits"));
        if index == 0 {
            // For the comparison of the numbers, and of the memory.
            let bytes: Vec<u8> = out.values().iter().flat_map(|value| value.to_le_bytes()).collect();
            std::fs::write(folder.join("out.f32"), bytes).expect("the folder can be written");
            println!("{wall} {} {}", cpu_ms() - cpu, memory("VmHWM").saturating_sub(before) >> 10);
        } else {
            println!("{wall} {}", cpu_ms() - cpu);
        }
        std::io::stdout().flush().expect("somebody reads");
    }
}

/// With random weights.
fn graph_sage(random: &mut Random) -> Model {
    let config = Config::graph_sage(64, 64, 128, 3, Aggr::Mean);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (layer, (inputs, outputs)) in [(64, 64), (64, 64), (64, 128)].into_iter().enumerate() {
        for (name, shape) in [
            ("lin_l.weight", vec![outputs, inputs]),
            ("lin_l.bias", vec![outputs]),
            ("lin_r.weight", vec![outputs, inputs]),
        ] {
            let count = shape.iter().product::<usize>();
            let bytes = (0..count).flat_map(|_| (0.2 * random.number()).to_le_bytes()).collect();
            tensors.insert(format!("convs.{layer}.{name}"), (shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("sizes agree"))
    });
    let file = safetensors::serialize(views, None).expect("tensors can be written");
    Model::from_parts("bench", config, file).expect("weights fit")
}

fn timed<R>(mut work: impl FnMut() -> R) -> (R, f64) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed().as_secs_f64() * 1e3)
}

/// This process's CPU time, in steps of 10 ms.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}

/// KiB, from /proc/self/status.
fn memory(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> u32 {
        ((u128::from(self.next()) * bound as u128) >> 64) as u32
    }

    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

struct Options {
    threads: usize,
    nodes: usize,
    edges: usize,
    runs: usize,
    case: Option<String>,
    library: Option<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options =
            Self { threads: 2, nodes: 169_343, edges: 1_166_243, runs: 9, case: None, library: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| panic!("{flag} wants a value"));
            let number = || value.parse().unwrap_or_else(|_| panic!("{flag} wants a number, not {value}"));
            match flag.as_str() {
                "--threads" => options.threads = number(),
                "--nodes" => options.nodes = number(),
                "--edges" => options.edges = number(),
                "--runs" => options.runs = number(),
                "--case" => options.case = Some(value),
                "--library" => options.library = Some(value),
                _ => panic!("no such option: {flag}"),
            }
        }
        options
    }
}
