//! A library built by `gnn/cuda/build`, opened at run time. Everything unsafe of the workspace is here: each
//! function checks the lengths of its buffers, and a [`Graph`] the numbers it holds, before the library is called.

mod buffer;
mod functions;

use functions::Functions;
use parking_lot::{Mutex, MutexGuard};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;

/// What went wrong, in the device's words.
pub type Result<T> = std::result::Result<T, String>;

/// An opened library and the device behind it.
pub struct Library {
    functions: Functions,
    /// One computation at a time: buffers may be shared, the device is one.
    turn: Mutex<()>,
}

/// What a device says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Its maker's name for it.
    pub name: String,
    /// Its memory in bytes.
    pub total: u64,
    /// What of that is free.
    pub free: u64,
}

/// Numbers in the device's memory, given back when dropped.
pub struct Buffer {
    library: Arc<Library>,
    pointer: *mut c_void,
    length: usize,
}

// SAFETY: the pointer is the device's, and is only given to the library, during the library's turn.
unsafe impl Send for Buffer {}
// SAFETY: as above; what is written to is borrowed mutably.
unsafe impl Sync for Buffer {}

/// A graph in the device's memory: incoming edges by target.
pub struct Graph {
    offsets: Buffer,
    sources: Buffer,
    nodes: usize,
    edges: usize,
}

/// How neighbours become one row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Gather<'a> {
    Mean,
    Sum,
    Max,
    /// GCN's: with weights of the edges, if any, and 1/√degree of the nodes.
    Symmetric {
        weights: Option<&'a Buffer>,
        roots: &'a Buffer,
    },
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Buffer {}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.length)
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({}, {})", self.nodes, self.edges)
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Start<'a> {
    Bias(&'a Buffer),
    Zero,
    /// What the output holds.
    Held,
}

/// What attention scores with.
pub struct Scores<'a> {
    /// GAT: of each row and head. GATv2: each row's `heads × channels`.
    pub source: &'a Buffer,
    /// The same for the targets.
    pub target: &'a Buffer,
    /// GATv2: `heads × channels`.
    pub vector: Option<&'a Buffer>,
    /// Features of the edges, those of each node's added loop, and their weight; and how many there are.
    pub edges: Option<(&'a Buffer, &'a Buffer, &'a Buffer, usize)>,
    /// How many heads.
    pub heads: usize,
    /// How many numbers a head has.
    pub channels: usize,
    /// Of the scores' activation below 0.
    pub slope: f32,
    /// Whether each node hears itself, once.
    pub loops: bool,
}

impl Library {
    /// Opens a library, and the device behind it.
    ///
    /// # Errors
    /// If the file is not there, is another library, or finds no device; in words for people.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        // SAFETY: the operator's own file beside the program, as trusted as the program.
        let library = unsafe { libloading::Library::new(path) }
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // SAFETY: the functions are declared as in gnn/cuda/kernels.cu of the same ABI number, which is looked at first.
        let functions =
            unsafe { Functions::load(library) }.map_err(|error| format!("{}: {error}", path.display()))?;
        let library = Arc::new(Self { functions, turn: Mutex::new(()) });
        library.describe()?;
        Ok(library)
    }

    /// What the device says about itself now.
    ///
    /// # Errors
    /// If there is none.
    pub fn describe(&self) -> Result<Description> {
        let _turn = self.enter()?;
        let mut name = [0 as c_char; 256];
        let mut description = Description::default();
        // SAFETY: the name's length is given, and the library ends it with 0.
        self.check(unsafe {
            (self.functions.describe)(
                name.as_mut_ptr(),
                256,
                &raw mut description.total,
                &raw mut description.free,
            )
        })?;
        // SAFETY: as above.
        description.name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(description)
    }

    /// Numbers that are not set.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn floats(self: &Arc<Self>, length: usize) -> Result<Buffer> {
        let _turn = self.enter()?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        self.check(unsafe { (self.functions.allocate)(4 * length as u64, &raw mut pointer) })?;
        Ok(Buffer { library: Arc::clone(self), pointer, length })
    }

    /// Numbers copied to the device.
    ///
    /// # Errors
    /// If memory runs out, or the device is lost.
    pub fn upload(self: &Arc<Self>, values: &[f32]) -> Result<Buffer> {
        // SAFETY: any f32 is four bytes.
        unsafe { self.put(values.as_ptr().cast(), values.len()) }
    }

    /// # Safety
    /// `from` has to hold `length` numbers of four bytes.
    unsafe fn put(self: &Arc<Self>, from: *const c_void, length: usize) -> Result<Buffer> {
        let buffer = self.floats(length)?;
        let _turn = self.enter()?;
        // SAFETY: both have the length.
        self.check(unsafe { (self.functions.put)(buffer.pointer, from, 4 * length as u64) })?;
        Ok(buffer)
    }

    /// A graph copied to the device.
    ///
    /// # Errors
    /// If it is no graph, memory runs out, or the device is lost.
    pub fn graph(self: &Arc<Self>, offsets: &[u32], sources: &[u32]) -> Result<Graph> {
        let nodes = offsets.len().checked_sub(1).ok_or("a graph needs offsets")?;
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !rising
            || offsets[0] != 0
            || offsets[nodes] as usize != sources.len()
            || sources.iter().any(|source| *source as usize >= nodes)
        {
            return Err("offsets and sources are no graph".to_owned());
        }
        // SAFETY: any u32 is four bytes.
        let (offsets, list) = unsafe {
            (self.put(offsets.as_ptr().cast(), nodes + 1)?, self.put(sources.as_ptr().cast(), sources.len())?)
        };
        Ok(Graph { offsets, sources: list, nodes, edges: sources.len() })
    }

    fn enter(&self) -> Result<MutexGuard<'_, ()>> {
        let turn = self.turn.lock();
        // SAFETY: it takes nothing.
        self.check(unsafe { (self.functions.enter)() })?;
        Ok(turn)
    }

    fn check(&self, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a text of the calling thread that ends with 0.
        Err(unsafe { CStr::from_ptr((self.functions.error)()) }.to_string_lossy().into_owned())
    }
}

impl Graph {
    /// How many nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// How many edges.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.edges
    }
}
