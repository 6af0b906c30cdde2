//! What computes.

use crate::model::self_check;
use crate::{Error, threads};
use gnn_device::{Description, Library};
use parking_lot::Mutex;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Which device to take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    /// A GPU if there is one that can be used, else the processor.
    #[default]
    Auto,
    /// A GPU; an error if there is none.
    Cuda,
    /// The processor.
    Cpu,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::argument("device", format!("is `{text}`, but has to be auto, cuda or cpu"))),
        }
    }
}

/// A kind of device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA's.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A device as it is shown to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its maker's name for it.
    pub name: String,
    /// Whether it can compute.
    pub usable: bool,
    /// Whether whole graphs are computed by it.
    pub used: bool,
    /// Why it cannot, or why it was taken.
    pub reason: String,
    /// Its memory in bytes; 0 if that is not known.
    pub memory_total: u64,
    /// What of that is free now.
    pub memory_free: u64,
    /// How many threads compute, on a processor.
    pub threads: usize,
}

impl Device {
    /// What of its memory is in use now, by this process and others; 0 if that is not known.
    #[must_use]
    pub fn memory_allocated(&self) -> u64 {
        self.memory_total.saturating_sub(self.memory_free)
    }

    /// The same as a share of all.
    #[must_use]
    pub fn memory_utilization(&self) -> Option<f64> {
        (self.memory_total > 0).then(|| self.memory_allocated() as f64 / self.memory_total as f64)
    }

    /// How many nodes a request of some nodes is best cut into, from the memory that is free: 64 below 8 GiB,
    /// 128 below 16 GiB, else 256. To be bettered by measurement; halved when memory runs out.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        match self.memory_free >> 30 {
            0..8 => 64,
            8..16 => 128,
            _ => 256,
        }
    }
}

/// All devices, usable or not; the processor last. What is said about a GPU is from [`open`].
#[must_use]
pub fn devices() -> Vec<Device> {
    let gpu = gpu();
    let reason = if gpu.usable { "computes what the GPU does not" } else { "no other device can compute" };
    vec![gpu, cpu(reason)]
}

/// Chooses the device that is to compute whole graphs, for all callers together.
///
/// # Errors
/// If a GPU is asked for and cannot be used.
pub fn open(choice: Choice) -> Result<Device, Error> {
    open_with(choice, None)
}

/// As [`open`], with a library that `gnn/cuda/build` made; without one, it is looked for beside this program and
/// where the system's libraries are.
///
/// # Errors
/// If a GPU is asked for and cannot be used.
pub fn open_with(choice: Choice, library: Option<&Path>) -> Result<Device, Error> {
    if choice == Choice::Cpu {
        STATE.lock().used = false;
        return Ok(cpu("asked for"));
    }
    let known = STATE.lock().library.clone();
    let found = known.map_or_else(|| find(library), Ok);
    let mut state = STATE.lock();
    state.used = found.is_ok();
    match found {
        Ok(library) => state.library = Some(library),
        Err(reason) => state.reason = reason,
    }
    drop(state);
    let gpu = gpu();
    match choice {
        _ if gpu.usable => Ok(gpu),
        Choice::Cuda => Err(Error::argument("device", format!("cuda cannot be used: {}", gpu.reason))),
        _ => Ok(cpu(&format!("CUDA: {}", gpu.reason))),
    }
}

/// The library to compute with, if there is one.
pub(crate) fn active() -> Option<Arc<Library>> {
    let state = STATE.lock();
    state.library.clone().filter(|_| state.used)
}

/// A computation went to the processor: shown with the device.
pub(crate) fn fell_back(reason: String) {
    STATE.lock().reason = reason;
}

/// What is known about the GPU.
struct State {
    library: Option<Arc<Library>>,
    used: bool,
    /// Why there is no library, or why a computation went to the processor.
    reason: String,
}

/// Bytes of the GPU's memory, in all and free; `None` where none can compute. Cheaper than [`devices`].
#[must_use]
pub fn gpu_memory() -> Option<[u64; 2]> {
    let gpu = gpu();
    (gpu.usable && gpu.memory_total > 0).then_some([gpu.memory_total, gpu.memory_free])
}

fn find(library: Option<&Path>) -> Result<Arc<Library>, String> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(LIBRARY)));
    let places = match library {
        Some(library) => vec![library.to_owned()],
        None => beside.filter(|path| path.exists()).into_iter().chain([PathBuf::from(LIBRARY)]).collect(),
    };
    let mut reason = String::new();
    for place in places {
        match Library::open(&place).and_then(|library| self_check(&library).map(|()| library)) {
            Ok(library) => return Ok(library),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

fn gpu() -> Device {
    let state = STATE.lock();
    let used = state.used;
    let described = state.library.as_ref().map(|library| library.describe());
    let (usable, reason, description) = match described {
        Some(Ok(description)) if state.reason.is_empty() => (true, "can compute".to_owned(), description),
        Some(Ok(description)) => {
            (true, format!("can compute; its last failure: {}", state.reason), description)
        }
        Some(Err(reason)) => (false, reason, Description::default()),
        None if state.reason.is_empty() => (false, "was not looked for".to_owned(), Description::default()),
        None => (false, state.reason.clone(), Description::default()),
    };
    Device {
        kind: DeviceKind::Cuda,
        name: if description.name.is_empty() { "CUDA".to_owned() } else { description.name },
        usable,
        used: usable && used,
        reason,
        memory_total: description.total,
        memory_free: description.free,
        threads: 0,
    }
}

fn cpu(reason: &str) -> Device {
    let memory = |key| read_kib("/proc/meminfo", key) << 10;
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Device {
        kind: DeviceKind::Cpu,
        name: name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        usable: true,
        used: active().is_none(),
        reason: reason.to_owned(),
        memory_total: memory("MemTotal"),
        memory_free: memory("MemAvailable"),
        threads: threads(),
    }
}

/// A number of KiB from one of Linux's files; 0 where there is no such line.
fn read_kib(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

static STATE: Mutex<State> = Mutex::new(State { library: None, used: false, reason: String::new() });

const LIBRARY: &str = "libsidebolt_gnn_cuda.so";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_the_processor_computes_and_says_why() {
        let device = open(Choice::Auto).unwrap();
        assert_eq!((device.kind, device.usable), (DeviceKind::Cpu, true));
        assert!(device.reason.contains("CUDA"), "{}", device.reason);
        assert!(device.threads >= 1 && !device.name.is_empty());
        let error = open(Choice::Cuda).unwrap_err().to_string();
        assert!(error.starts_with("`device`: cuda cannot be used: "), "{error}");
        assert_eq!(gpu_memory(), None);
        assert_eq!(devices().iter().map(|device| device.usable).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_is_allocated_is_what_is_not_free() {
        let with = |total, free| Device { memory_total: total, memory_free: free, ..cpu("") };
        assert_eq!((with(80, 60).memory_allocated(), with(80, 60).memory_utilization()), (20, Some(0.25)));
        assert_eq!((with(0, 0).memory_allocated(), with(0, 0).memory_utilization()), (0, None));
    }

    #[test]
    fn batches_follow_the_memory() {
        let with = |gib: u64| Device { memory_free: gib << 30, ..cpu("") }.batch_size();
        assert_eq!([with(0), with(7), with(8), with(15), with(16), with(141)], [64, 64, 128, 128, 256, 256]);
        assert_eq!("cuda".parse(), Ok(Choice::Cuda));
        assert_eq!(
            "gpu".parse::<Choice>().unwrap_err().to_string(),
            "`device`: is `gpu`, but has to be auto, cuda or cpu"
        );
    }
}
