//! The functions of gnn/cuda/kernels.cu, as they are declared there.

use std::ffi::{c_char, c_int, c_void};

/// What is expected of `gnn_abi`.
const ABI: c_int = 1;

/// `struct attention`.
#[repr(C)]
pub(crate) struct Attention {
    pub(crate) offsets: *const u32,
    pub(crate) sources: *const u32,
    pub(crate) source: *const f32,
    pub(crate) target: *const f32,
    pub(crate) vector: *const f32,
    pub(crate) edges: *const f32,
    pub(crate) loop_edges: *const f32,
    pub(crate) edge_weight: *const f32,
    pub(crate) edge_width: u64,
    pub(crate) heads: u64,
    pub(crate) channels: u64,
    pub(crate) slope: f32,
    pub(crate) loops: c_int,
}

/// Declares the functions, and finds each by its name.
macro_rules! functions {
    ($($field:ident: $name:literal ($($argument:ty),*) $(-> $result:ty)?;)+) => {
        pub(crate) struct Functions {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
            /// Kept open as long as the functions are there.
            _library: libloading::Library,
        }

        impl Functions {
            /// # Safety
            /// The library's functions have to be as they are declared here, if its ABI number is ours.
            pub(crate) unsafe fn load(library: libloading::Library) -> Result<Self, String> {
                // SAFETY: the caller says so; this one is the same in all versions.
                let abi = unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"gnn_abi\0") };
                // SAFETY: it takes nothing.
                let abi = unsafe { abi.map_err(|_| "is no library of gnn/cuda/build")?() };
                if abi != ABI {
                    return Err(format!("has the interface {abi}, this program wants {ABI}: build both from one source"));
                }
                // SAFETY: the caller says so.
                $(let $field = *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(|error| error.to_string())?;)+
                Ok(Self { $($field,)+ _library: library })
            }
        }
    };
}

functions! {
    error: "gnn_error"() -> *const c_char;
    enter: "gnn_enter"() -> c_int;
    describe: "gnn_describe"(*mut c_char, c_int, *mut u64, *mut u64) -> c_int;
    allocate: "gnn_allocate"(u64, *mut *mut c_void) -> c_int;
    free: "gnn_free"(*mut c_void);
    put: "gnn_put"(*mut c_void, *const c_void, u64) -> c_int;
    get: "gnn_get"(*mut c_void, *const c_void, u64) -> c_int;
    gather: "gnn_gather"(c_int, *const u32, *const u32, *const f32, *const f32, *const f32, u64, u64, *mut f32) -> c_int;
    dense: "gnn_dense"(*const f32, *const f32, *const f32, c_int, u64, u64, u64, *mut f32) -> c_int;
    activate: "gnn_activate"(c_int, u64, *mut f32) -> c_int;
    affine: "gnn_affine"(*const f32, *const f32, u64, u64, *mut f32) -> c_int;
    unit_rows: "gnn_unit_rows"(u64, u64, *mut f32) -> c_int;
    norm_rows: "gnn_norm_rows"(*const f32, *const f32, f32, u64, u64, *mut f32) -> c_int;
    merge: "gnn_merge"(c_int, *const f32, u64, *mut f32) -> c_int;
    head_scores: "gnn_head_scores"(*const f32, *const f32, u64, u64, u64, *mut f32) -> c_int;
    mean_edges: "gnn_mean_edges"(*const u32, *const u32, *const f32, u64, u64, *mut f32) -> c_int;
    shares: "gnn_shares"(*const Attention, u64, u64, *mut f32) -> c_int;
    attend: "gnn_attend"(*const u32, *const u32, *const f32, *const f32, *const f32, u64, u64, u64, u64, c_int, *mut f32) -> c_int;
}
