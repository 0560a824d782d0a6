//! Named f32 tensors in a `.safetensors` file (little-endian length, JSON header, data).
//!
//! Names: `<layer>.weight` and `<layer>.bias` of convolutions, linear layers and batch norms, `<layer>.running_mean` and
//! `<layer>.running_var` of batch norms, `<slot>.w0`, `<slot>.w1`, … of a slot's weights in the nest's order.

use crate::error::{Context, Result, invalid};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// One tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    pub name: String,
    pub shape: Vec<i64>,
    pub values: Vec<f32>,
}

/// Headers and files beyond this are not ours.
const MOST_BYTES: u64 = 1 << 32;

/// Writes a file that is whole or absent. Errors: the folder cannot be written.
pub fn write(path: &Path, weights: &[Weight]) -> Result<()> {
    let mut header = Map::new();
    let mut at = 0;
    for w in weights {
        let end = at + 4 * w.values.len();
        header.insert(w.name.clone(), json!({"dtype": "F32", "shape": w.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let what = || format!("cannot write {}: choose a folder with room that you may write", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).context(what)?;
    let mut out = BufWriter::new(&file);
    out.write_all(&(text.len() as u64).to_le_bytes()).context(what)?;
    out.write_all(text.as_bytes()).context(what)?;
    for w in weights {
        let bytes: Vec<u8> = w.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes).context(what)?;
    }
    out.flush().context(what)?;
    drop(out);
    file.persist(path).map(|_| ()).map_err(|e| e.error).context(what)
}

/// Reads every tensor, in order of names. Errors: missing, damaged, or tensors that are not f32.
pub fn read(path: &Path) -> Result<Vec<Weight>> {
    let what = || format!("cannot read {}: train the operator again to write it", path.display());
    let mut all = Vec::new();
    File::open(path).context(what)?.take(MOST_BYTES).read_to_end(&mut all).context(what)?;
    let damaged = |why: &str| format!("{} is not a whole safetensors file ({why}): train the operator again to write it", path.display());
    let Some((length, rest)) = all.split_first_chunk::<8>() else { return invalid(damaged("no header")) };
    let Some(text) = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|n| rest.get(..n)) else {
        return invalid(damaged("its header is cut short"));
    };
    let data = &rest[text.len()..];
    let Ok(Value::Object(header)) = serde_json::from_slice(text) else { return invalid(damaged("its header cannot be read")) };
    let mut weights = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        if entry["dtype"] != "F32" {
            return invalid(format!("{}: {name} is {}, not F32: save the weights as f32", path.display(), entry["dtype"]));
        }
        let numbers = |v: &Value| v.as_array().and_then(|a| a.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>());
        let (Some(shape), Some(offsets)) = (numbers(&entry["shape"]), numbers(&entry["data_offsets"])) else {
            return invalid(damaged(&format!("{name} has no shape or place")));
        };
        let n = shape.iter().try_fold(4i64, |n, &s| n.checked_mul(s).filter(|n| *n >= 0));
        let place = <[i64; 2]>::try_from(offsets).ok().and_then(|[a, b]| Some((usize::try_from(a).ok()?, usize::try_from(b).ok()?)));
        let bytes = place.and_then(|(a, b)| data.get(a..b)).filter(|b| Some(b.len() as i64) == n);
        let Some(bytes) = bytes else { return invalid(damaged(&format!("{name} does not fit its place"))) };
        let data = bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
        weights.push(Weight { name: name.clone(), shape, values: data });
    }
    Ok(weights)
}
