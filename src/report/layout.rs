//! Numbers with their units and spread, and texts in columns.

use crate::store::Timing;

/// `1.84 ms ± 0.03`: median and spread in one unit.
pub fn time(t: Timing) -> String {
    let (unit, name) = match t.median_secs {
        s if s >= 1.0 => (1.0, "s"),
        s if s >= 1e-3 => (1e-3, "ms"),
        _ => (1e-6, "µs"),
    };
    let (median, spread) = (t.median_secs / unit, t.spread_secs / unit);
    let digits = match median {
        m if m < 10.0 => 2,
        m if m < 100.0 => 1,
        _ => 0,
    };
    format!("{median:.digits$} {name} ± {spread:.digits$}")
}

/// `91.3 %` of a fraction.
pub fn percent(fraction: f64) -> String {
    if fraction.is_finite() { format!("{:.1} %", fraction * 100.0) } else { "–".into() }
}

/// `−0.4` points of a difference of fractions.
pub fn change(difference: f64) -> String {
    let text = format!("{:.1}", difference.abs() * 100.0);
    let sign = if text == "0.0" {
        ""
    } else if difference < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{text}")
}

/// `1.62× faster`, or slower.
pub fn faster(speedup: f64) -> String {
    if speedup >= 1.0 { format!("{speedup:.2}× faster") } else { format!("{:.2}× slower", 1.0 / speedup) }
}

/// `30.4 M`: a count to three digits.
pub fn count(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000 => return n.to_string(),
        1_000..1_000_000 => (n as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "G"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// `45 s`, `12.9 min`, `3.2 h`: how long something took.
pub fn duration(secs: f64) -> String {
    match secs {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A line of comma-separated values.
pub fn csv(cells: &[&str]) -> String {
    let quote = |cell: &&str| {
        if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_string() }
    };
    cells.iter().map(quote).collect::<Vec<_>>().join(",") + "\n"
}

/// Every line two spaces further in.
pub fn indent(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_string() } else { format!("  {line}\n") }).collect()
}

/// Texts in aligned columns, two spaces apart.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    pub fn plain() -> Table {
        Table { rows: Vec::new(), right: Vec::new() }
    }

    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        Table { rows: vec![header.map(String::from).to_vec()], right: Vec::new() }
    }

    /// These columns end at the same place instead of beginning there.
    pub fn right<const N: usize>(mut self, columns: [usize; N]) -> Table {
        self.right = columns.to_vec();
        self
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub fn print(&self) -> String {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| self.rows.iter().filter_map(|r| r.get(column)).map(|cell: &String| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if self.right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}
