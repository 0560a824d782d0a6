//! Targets: what a person writes, checked and completed.

use super::ffi::{cast, items, text};
use crate::call;
use crate::error::{Error, Result, invalid};
use serde_json::{Map, Value};
use tvm_ffi::Any;

/// A target as TVM's node and as its full JSON text.
#[derive(Clone)]
pub struct Target {
    pub node: Any,
    pub json: String,
    /// `num-cores`: how many threads the schedules are made for.
    pub n_cores: usize,
}

/// The CPU of this machine as LLVM names it, for that many threads, as JSON.
pub fn host_target(n_threads: usize) -> Result<String> {
    let cpu: tvm_ffi::String = cast(call!("tvm.codegen.llvm.GetHostCPUName")?, "CPU name")?;
    let triple: tvm_ffi::String = cast(call!("tvm.codegen.llvm.GetDefaultTargetTriple")?, "target triple")?;
    Ok(serde_json::json!({"kind": "llvm", "mcpu": cpu.as_str(), "mtriple": triple.as_str(), "num-cores": n_threads}).to_string())
}

/// Reads `llvm -mcpu=znver4 -num-cores 2`, JSON, or `host`.
///
/// # Errors
/// [`Error::Invalid`] for an unknown kind, CPU or option, listing near ones.
pub fn parse(target: &str, n_threads: usize) -> Result<Target> {
    let trimmed = target.trim();
    let mut options = match trimmed {
        "" => {
            return invalid("the target is empty: write 'host' or, for example, 'llvm -mcpu=znver4 -num-cores 2'");
        }
        "host" => json(&host_target(n_threads)?)?,
        _ if trimmed.starts_with('{') => json(trimmed)?,
        _ => options(trimmed)?,
    };
    let kind = options.get("kind").and_then(Value::as_str).unwrap_or_default().to_string();
    let kinds = names(&call!("target.ListTargetKinds")?)?;
    if !kinds.contains(&kind) {
        return invalid(format!("TVM knows no target kind {kind:?}; near ones: {}", near(&kind, &kinds)));
    }
    check_options(&kind, &options)?;
    if kind == "llvm" {
        let native = options.get("mcpu").and_then(Value::as_str) == Some("native");
        if native {
            let host = json(&host_target(n_threads)?)?;
            options.insert("mcpu".into(), host["mcpu"].clone());
        }
        options.entry("num-cores").or_insert_with(|| n_threads.into());
        check_cpu(&options)?;
    }
    let n_cores = options.get("num-cores").and_then(Value::as_u64).unwrap_or(n_threads as u64) as usize;
    let written = Value::Object(options).to_string();
    let node = call!("target.Target", call!("ffi.json.Parse", text(&written))?).map_err(|e| {
        Error::Invalid(format!("TVM does not take the target {target:?}: {e}; write, for example, 'llvm -mcpu=znver4 -num-cores 2'"))
    })?;
    let full: tvm_ffi::String = cast(call!("target.TargetAsJSON", node)?, "target")?;
    Ok(Target { node, json: full.as_str().to_string(), n_cores })
}

fn json(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => invalid("a target in JSON is an object such as {\"kind\": \"llvm\", \"mcpu\": \"znver4\"}"),
        Err(e) => invalid(format!("the target is not JSON: {e}; write an object such as {{\"kind\": \"llvm\", \"mcpu\": \"znver4\"}}")),
    }
}

/// `kind -name=value -name value …` as JSON: numbers as integers, `mattr` as a list.
fn options(text: &str) -> Result<Map<String, Value>> {
    let mut words = text.split_whitespace().peekable();
    let mut map = Map::new();
    map.insert("kind".into(), words.next().unwrap_or_default().into());
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix('-') else {
            return invalid(format!("target {text:?}: {word:?} is not an option; options are written -name=value"));
        };
        let name = name.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_string()),
            None => match words.next_if(|w| !w.starts_with('-')) {
                Some(value) => (name, value.to_string()),
                None => (name, "true".to_string()),
            },
        };
        let value = match (name, value.parse::<i64>(), value.as_str()) {
            ("mattr" | "keys" | "libs", ..) => Value::Array(value.split(',').map(Value::from).collect()),
            (_, Ok(number), _) => number.into(),
            (_, _, "true") => true.into(),
            (_, _, "false") => false.into(),
            _ => value.into(),
        };
        map.insert(name.into(), value);
    }
    Ok(map)
}

fn check_options(kind: &str, options: &Map<String, Value>) -> Result<()> {
    let mut known: Vec<String> = Vec::new();
    for (name, _) in super::ffi::entries(&call!("target.ListTargetKindOptionsFromName", text(kind))?)? {
        known.push(cast::<tvm_ffi::String>(name, "option name")?.as_str().to_string());
    }
    for common in ["kind", "keys", "tag", "device", "host", "model", "libs"] {
        known.push(common.into());
    }
    match options.keys().find(|name| !known.contains(name)) {
        Some(name) => invalid(format!("the target kind {kind} has no option {name:?}; near ones: {}", near(name, &known))),
        None => Ok(()),
    }
}

fn check_cpu(options: &Map<String, Value>) -> Result<()> {
    let Some(cpu) = options.get("mcpu").and_then(Value::as_str) else {
        return Ok(());
    };
    let mut bare = options.clone();
    bare.remove("mcpu");
    bare.remove("mattr");
    let target = call!("target.Target", call!("ffi.json.Parse", text(&Value::Object(bare).to_string()))?)
        .map_err(|e| Error::Invalid(format!("TVM does not take the target: {e}; check -mtriple, or leave it out for this machine")))?;
    let cpus = names(&call!("target.llvm_get_cpu_archlist", target)?)?;
    if cpus.is_empty() || cpus.iter().any(|c| c == cpu) {
        return Ok(());
    }
    invalid(format!("LLVM knows no CPU {cpu:?}; near ones: {}; 'host' is this machine", near(cpu, &cpus)))
}

fn names(array: &Any) -> Result<Vec<String>> {
    items(array)?.into_iter().map(|n| Ok(cast::<tvm_ffi::String>(n, "name")?.as_str().to_string())).collect()
}

/// The five nearest names by edit distance.
fn near(word: &str, known: &[String]) -> String {
    let mut ranked: Vec<(usize, &String)> = known.iter().map(|k| (distance(word, k), k)).collect();
    ranked.sort();
    ranked.iter().take(5).map(|(_, k)| k.as_str()).collect::<Vec<_>>().join(", ")
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
