//! The crate stays without I/O, clocks and tasks: it has no dependency that could bring them.

#[test]
fn there_are_two_dependencies() {
    let manifest = include_str!("../Cargo.toml");
    let sections: Vec<&str> =
        manifest.lines().filter(|line| line.starts_with('[') && line.contains("dependencies")).collect();
    assert_eq!(sections, ["[dependencies]", "[dev-dependencies]"], "no build or target dependencies");
    let dependencies: Vec<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()))
        .collect();
    assert_eq!(dependencies, ["bytes", "thiserror"]);
}

/// What the dependencies cannot bring, the standard library could.
#[test]
fn no_source_names_sockets_clocks_or_threads() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for banned in
                ["std::net", "std::time", "std::thread", "std::fs", "std::io", "std::env", "std::process"]
            {
                assert!(!text.contains(banned), "{} names {banned}", path.display());
            }
        }
    }
    assert!(files > 10, "{files} files");
}
