//! The layers of the library and the command line: a room imports only from the rooms below it.
//! ARCHITECTURE.md describes the rooms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the library, from the bottom up.
const LIBRARY: [&str; 31] = [
    "words",
    "named",
    "escape",
    "artifact",
    "progress",
    "workers",
    "linalg",
    "host",
    "files",
    "ggml",
    "modules",
    "forms",
    "linear",
    "checkpoint",
    "changes",
    "adapters",
    "model",
    "calibrate",
    "spectrum",
    "plan",
    "difference",
    "compress",
    "channels",
    "data",
    "eval",
    "distill",
    "search",
    "train",
    "gguf",
    "types",
    "report",
];

/// The rooms of the command line, from the bottom up.
const COMMAND_LINE: [&str; 15] = [
    "memory",
    "cache",
    "format",
    "verbosity",
    "output",
    "failure",
    "terminal",
    "devices",
    "args",
    "settings",
    "models",
    "demo_model",
    "shared",
    "commands",
    "verdict",
];

fn sources(crate_name: &str) -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_name).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let within = path.strip_prefix(&root).unwrap();
                let room = within.iter().next().unwrap().to_string_lossy();
                found.push((room.trim_end_matches(".rs").to_string(), path));
            }
        }
    }
    assert!(found.len() > 20, "{root:?} has the sources");
    found
}

/// The rooms that code names: after `crate::`, not in comments, and before the tests, which may
/// look into every room.
fn named_rooms(code: &str) -> Vec<String> {
    let code = code.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(code);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = Vec::new();
    for line in lines {
        for rest in line.split("crate::").skip(1) {
            // `use crate::{a, b::c};`
            let names =
                rest.strip_prefix('{').map_or(vec![rest], |group| group.split(',').collect());
            for name in names {
                let end = name.trim().find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = name.trim();
                rooms.push(name[..end.unwrap_or(name.len())].to_string());
            }
        }
    }
    rooms
}

fn check(crate_name: &str, floors: &[&str], entrances: &[&str]) {
    let floor: BTreeMap<&str, usize> =
        floors.iter().enumerate().map(|(i, room)| (*room, i)).collect();
    for (room, path) in sources(crate_name) {
        if entrances.contains(&room.as_str()) {
            continue;
        }
        let own = floor.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no floor"));
        for named in named_rooms(&fs::read_to_string(&path).unwrap()) {
            let Some(other) = floor.get(named.as_str()) else { continue };
            assert!(other <= own, "{}: {room} imports {named}, which is above it", path.display());
        }
    }
}

#[test]
fn rooms_of_the_library_import_only_from_below() {
    check("welore-burn", &LIBRARY, &["lib", "guides"]);
}

#[test]
fn rooms_of_the_command_line_import_only_from_below() {
    check("welore-cli", &COMMAND_LINE, &["main"]);
}

#[test]
fn commands_do_not_import_each_other() {
    for (room, path) in sources("welore-cli") {
        let code = fs::read_to_string(&path).unwrap();
        assert!(!code.contains("crate::commands"), "{}", path.display());
        let is_command = room == "commands" && path.parent().unwrap().ends_with("commands");
        if is_command && !path.ends_with("mod.rs") {
            assert!(!code.contains("use super::"), "{}", path.display());
        }
    }
}

#[test]
fn only_forms_match_on_a_form() {
    for crate_name in ["welore-burn", "welore-cli"] {
        for (room, path) in sources(crate_name).into_iter().filter(|(room, _)| room != "forms") {
            let code = fs::read_to_string(&path).unwrap();
            for variant in ["Form::Dense", "Form::Factors", "Form::Pivot", "Form::Blocks"] {
                assert!(!code.contains(variant), "{room}: {} in {}", variant, path.display());
            }
        }
    }
}

#[test]
fn the_library_speaks_no_command_line_words() {
    for (_, path) in sources("welore-burn") {
        let code = fs::read_to_string(&path).unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            let mut quoted = line.split("\"--").skip(1);
            let flag = quoted.any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(!flag, "{}: {line}", path.display());
        }
    }
}
