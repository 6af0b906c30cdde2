//! Embeddings of graph nodes, computed on the CPU.
//!
//! Contents, in the order in which a graph meets them:
//! - [`Csr`], [`Matrix`]: the graph by target, and rows of numbers.
//! - [`adapt()`]: features of one width for a model of another.
//! - [`FastRp`]: embeddings without a model.
//! - [`Model`]: GraphSAGE, GCN, GAT and GATv2 with weights from PyTorch Geometric.
//! - [`Training`]: GraphSAGE trained without labels.
//! - [`nearest()`]: which embeddings are most alike.
//! - [`open`], [`devices`]: what computes.
//!
//! All results depend on the input and the seed only, never on the number of threads.

mod accelerate;
mod adapt;
mod cancel;
mod csr;
mod device;
mod error;
mod fastrp;
mod kernel;
mod matrix;
mod model;
mod nearest;
mod random;
mod sample;
mod threads;
mod train;

pub use adapt::{Adapt, adapt};
pub use cancel::Cancel;
pub use csr::{Csr, Orientation};
pub use device::{Choice, Device, DeviceKind, devices, gpu_memory, open, open_with};
pub use error::Error;
pub use fastrp::FastRp;
pub use matrix::Matrix;
pub use model::{Activation, Aggr, Config, Info, Jump, Kind, Limits, Model, Norm, NormMode, Orient};
pub use nearest::nearest;
pub use threads::{set_threads, threads};
pub use train::{Epoch, Training};
