//! gnn/cuda/kernels.cu compiled as plain C, so that tests run it without a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a text into a library in `place`.
pub(crate) fn compile(place: &Path, name: &str, text: &str, options: &[&str]) -> PathBuf {
    let (source, library) = (place.join(format!("{name}.c")), place.join(format!("lib{name}.so")));
    std::fs::write(&source, text).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-DGNN_EMULATE"]).args(options);
    let output = cc
        .arg("-o")
        .arg(&library)
        .arg(&source)
        .arg("-lm")
        .output()
        .expect("a C compiler, which Rust needs, too");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

pub(crate) fn kernels() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/kernels.cu")).unwrap()
}
