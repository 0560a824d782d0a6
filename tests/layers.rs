//! The walk: a room uses only rooms that come before it.

use std::path::{Path, PathBuf};

/// The rooms in the order of the walk. `tvm` stands before `lower` because `lower::te` writes through it, and `tune` does.
const WALK: [&str; 15] =
    ["error", "child", "spec", "synth", "tvm", "lower", "tune", "train", "store", "search", "report", "plugin", "cli", "lib", "main"];

fn place(room: &str) -> Option<usize> {
    WALK.iter().position(|r| *r == room)
}

/// The code of a line: without strings and line comments.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut letters = line.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '\\' if in_string => drop(letters.next()),
            '"' => in_string = !in_string,
            '\'' if !in_string && letters.peek() == Some(&'"') => drop(letters.next()),
            '/' if !in_string && letters.peek() == Some(&'/') => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

/// The first names of `a::b, c` or `{a::b, c::{d, e}}` after a `crate::`.
fn firsts(path: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(inner) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in inner.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            c => items.last_mut().unwrap().push(c),
        }
    }
    items.iter().map(|item| word(item)).filter(|word| !word.is_empty()).collect()
}

/// Every use of a later room, and every room that the walk does not know, in a room's text.
fn offences(room: &str, text: &str) -> Vec<String> {
    let Some(here) = place(room) else { return vec![format!("{room} is no room of the walk: add it to tests/layers.rs")] };
    let text: String = text.lines().map(|line| code(line) + "\n").collect();
    let mut found = Vec::new();
    for root in ["crate::", "super::", "syntune::"] {
        for (at, _) in text.match_indices(root) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            for name in firsts(&text[at + root.len()..]) {
                // Functions and types of the crate's root have no place; modules are checked to have one below.
                if place(&name).is_some_and(|there| there > here) {
                    found.push(format!("{room} uses {name}, which comes later"));
                }
            }
        }
    }
    found
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn rooms_use_only_earlier_rooms() {
    let mut files = Vec::new();
    sources(&src(), &mut files);
    assert!(files.len() > 10, "{files:?}");
    let mut found = Vec::new();
    for file in files {
        let inside = file.strip_prefix(src()).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let text = std::fs::read_to_string(&file).unwrap();
        found.extend(offences(room, &text).into_iter().map(|o| format!("{}: {o}", inside.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn lib_lists_the_rooms_in_the_order_of_the_walk() {
    let text = std::fs::read_to_string(src().join("lib.rs")).unwrap();
    let rooms: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let places: Vec<usize> = rooms.iter().map(|r| place(r).unwrap_or_else(|| panic!("{r} is no room of the walk"))).collect();
    assert!(places.len() > 8 && places.is_sorted(), "{rooms:?} is not in the order of {WALK:?}");
}

#[test]
fn the_check_can_fail() {
    let offends = |text: &str| offences("lower", text).len();
    assert_eq!(offends("use crate::report::View;"), 1);
    assert_eq!(offends("use crate::{\n    error::Result,\n    synth::{Size, search},\n    search,\n    tune::Tuner,\n};"), 2);
    assert_eq!(offends("fn f() { let x = crate::store::Store::open(); }"), 1);
    assert_eq!(offends("pub(crate) use syntune::search::Study;"), 1);
    assert_eq!(offends("use crate::synth::Size;\nuse crate::error::Result;\nuse crate::lower::Loop;\nuse crate::tvm::te;"), 0);
    assert_eq!(offends("// see crate::report\n/// [`crate::search`]\nlet s = \"crate::report \\\" crate::search\";"), 0);
    assert_eq!(offends("let q = '\"'; use crate::report::View;"), 1);
    assert_eq!(offends("use super::super::report::View;"), 1);
    assert_eq!(offends("use othercrate::report::View; use super::loops::Loop;"), 0);
    assert_eq!(offences("attic", ""), ["attic is no room of the walk: add it to tests/layers.rs"]);
}
