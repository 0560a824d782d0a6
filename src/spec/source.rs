//! Faults of a spec's text, traced back to the line and key where they stand.

use std::path::Path;

use toml::de::{DeInteger, DeTable, DeValue};

use super::{DataSet, Network, Proposals, Strategy, example};
use crate::error::{Error, Result};

/// The fault of `key` (such as `slots.layers`) in the spec file, for rooms that know more than this one.
/// The line is looked up in the file; it is 1 where the key is left to its default.
pub fn refuse(file: &Path, key: &str, message: impl Into<String>) -> Error {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = DeTable::parse(&text).map_or(1, |table| line_at(&text, locate(table.get_ref(), key).unwrap_or(0)));
    Error::Spec { file: file.to_path_buf(), line, key: key.into(), message: message.into() }
}

/// The known name nearest to a mistyped one, if any is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = 1 + name.chars().count() / 3;
    known.into_iter().map(|k| (distance(name, k), k)).filter(|&(d, _)| d <= far).min().map(|(_, k)| k)
}

/// Edits (insert, delete, replace, swap neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            d[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = d[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(d[i - 1][j] + 1).min(d[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(d[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    d[a.len()][b.len()]
}

/// A spec's text, to which faults are traced back.
pub(super) struct Source<'a> {
    pub text: &'a str,
    pub file: &'a Path,
}

impl<'a> Source<'a> {
    pub fn table(&self) -> Result<DeTable<'a>> {
        let table = DeTable::parse(self.text).map_err(|e| Error::Spec {
            file: self.file.to_path_buf(),
            line: line_at(self.text, e.span().map_or(0, |span| span.start)),
            key: "TOML".into(),
            message: format!("{}; compare with examples/demo.toml", e.message().replace('\n', ", ")),
        })?;
        Ok(table.into_inner())
    }

    /// The fault of a key: the line is its own, or that of the nearest section around it.
    pub fn error(&self, table: &DeTable, key: &str, message: String) -> Error {
        self.error_at(locate(table, key).unwrap_or(0), key, message)
    }

    fn error_at(&self, offset: usize, key: &str, message: String) -> Error {
        Error::Spec { file: self.file.to_path_buf(), line: line_at(self.text, offset), key: key.into(), message }
    }

    /// Unknown keys, values of another type than the example's, and unknown names.
    pub fn walk(&self, table: &DeTable, example: &toml::Table, section: &str) -> Result<()> {
        for (key, value) in table {
            let path = join(section, key.get_ref());
            let error = |message| self.error_at(key.span().start, &path, message);
            let Some(wanted) = example.get(key.get_ref().as_ref()) else {
                return Err(error(unknown_key(key.get_ref(), section, example)));
            };
            match (wanted, value.get_ref()) {
                (toml::Value::Table(_), DeValue::Table(inner)) if path == "operator.coefficients" => {
                    for (name, value) in inner {
                        let path = join(&path, name.get_ref());
                        let error = |m| self.error_at(name.span().start, &path, m);
                        fit(&toml::Value::Integer(3), value.get_ref(), name.get_ref()).map_err(error)?;
                    }
                }
                (toml::Value::Table(wanted), DeValue::Table(inner)) => self.walk(inner, wanted, &path)?,
                (toml::Value::Table(_), _) => {
                    let example = if path == "operator.coefficients" { "{ k = 3 }" } else { "" };
                    let way_out = if example.is_empty() {
                        format!("[{path}] on a line of its own")
                    } else {
                        format!("{key} = {example}", key = key.get_ref())
                    };
                    return Err(error(format!("is a section, not a value; write {way_out}")));
                }
                (_, DeValue::Array(_)) if path == "slots.layers" => {
                    fit(&toml::Value::Array(vec!["".into()]), value.get_ref(), "layers").map_err(error)?;
                }
                (wanted, found) => fit(wanted, found, key.get_ref()).map_err(error)?,
            }
            let names = match path.as_str() {
                "backbone.name" => Network::NAMES,
                "data.name" => DataSet::NAMES,
                "operator.strategy" => Proposals::NAMES,
                "tune.strategy" => Strategy::NAMES,
                _ => continue,
            };
            let name = value.get_ref().as_str().unwrap_or_default();
            if !names.contains(&name) {
                let near = nearest(name, names.iter().copied()).map_or(String::new(), |n| format!("did you mean {n:?}? "));
                return Err(error(format!("unknown name {name:?}; {near}known: {}", names.join(", "))));
            }
        }
        Ok(())
    }

    /// What is left after [`Source::walk`]: numbers too large for their key.
    pub fn misfit(&self, table: &DeTable, e: &toml::de::Error) -> Error {
        let offset = e.span().map_or(0, |span| span.start);
        let key = key_at(table, offset, "").unwrap_or_else(|| "TOML".into());
        self.error_at(offset, &key, format!("{}; compare with examples/demo.toml", e.message()))
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_string() } else { format!("{section}.{key}") }
}

fn unknown_key(key: &str, section: &str, known: &toml::Table) -> String {
    let all = example();
    let home = all.iter().find(|(_, value)| value.as_table().is_some_and(|t| t.contains_key(key)));
    let top = all.contains_key(key).then_some("the top of the file, before the first section");
    if let Some(near) = nearest(key, known.keys().map(String::as_str)) {
        format!("unknown key; did you mean `{near}`?")
    } else if let Some(top) = top {
        format!("unknown key here; it belongs at {top}")
    } else if let Some((home, _)) = home {
        format!("unknown key here; it belongs in [{home}]")
    } else {
        let place = if section.is_empty() { "the top of the file".to_string() } else { format!("[{section}]") };
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        format!("unknown key; {place} may hold {}", known.join(", "))
    }
}

/// Whether a value is of the kind of the example; the message otherwise.
fn fit(wanted: &toml::Value, found: &DeValue, key: &str) -> Result<(), String> {
    use toml::Value as V;
    let refuse = |kind: &str, found: String| {
        let example = if let V::Array(_) = wanted { "[\"one\", \"two\"]".to_string() } else { wanted.to_string() };
        Err(format!("must be {kind}, not {found}; for example `{key} = {example}`"))
    };
    match (wanted, found) {
        (V::Integer(_), DeValue::Integer(n)) => match whole(n) {
            Some(n) if n < 0 => refuse("a whole number of at least 0", n.to_string()),
            Some(_) => Ok(()),
            None => refuse("a whole number up to 9223372036854775807", n.as_str().to_string()),
        },
        (V::Integer(_), _) => refuse("a whole number", describe(found)),
        (V::Float(_), DeValue::Float(_) | DeValue::Integer(_)) => Ok(()),
        (V::Float(_), _) => refuse("a number", describe(found)),
        (V::String(_), DeValue::String(_)) => Ok(()),
        (V::String(_), _) => refuse("a text in quotes", describe(found)),
        (V::Array(_), DeValue::Array(items)) => match items.iter().find(|item| !item.get_ref().is_str()) {
            Some(item) => refuse("a list of texts", format!("one with {}", describe(item.get_ref()))),
            None => Ok(()),
        },
        (V::Array(_), _) => refuse("a list of texts", describe(found)),
        _ => Ok(()),
    }
}

fn whole(n: &DeInteger) -> Option<i64> {
    i64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok()
}

fn describe(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(n) => format!("the number {}", n.as_str()),
        DeValue::Float(n) => format!("the number {}", n.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}

/// Where a dotted key stands, or the last section on the way to it.
fn locate(table: &DeTable, key: &str) -> Option<usize> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let inner = rest.and_then(|rest| locate(value.get_ref().as_table()?, rest));
    Some(inner.unwrap_or(key.span().start))
}

/// The key whose value stands at an offset.
fn key_at(table: &DeTable, offset: usize, section: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let path = join(section, key.get_ref());
        let inner = value.get_ref().as_table().and_then(|t| key_at(t, offset, &path));
        inner.or_else(|| value.span().contains(&offset).then_some(path))
    })
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}
