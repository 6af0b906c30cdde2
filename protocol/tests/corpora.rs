//! The fuzz targets' corpora as ordinary tests: what fuzzing once found interesting stays checked.

#[path = "../fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

use std::path::Path;

/// A corpus that is there but empty would check nothing.
const LEAST: usize = 10;

#[test]
fn every_corpus_passes_its_target() {
    for (name, body) in bodies::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(files.len() >= LEAST, "{} has only {} files", folder.display(), files.len());
        for file in files {
            // Shown when the body panics.
            println!("{}", file.display());
            body(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    for (name, _) in bodies::ALL {
        assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&program).unwrap();
        assert!(text.contains(&format!("bodies::{name}(data)")), "{}", program.display());
    }
}
