//! The one-line text of an operator, and its index formula.

use super::graph::{Dim, Graph};
use super::operator::Operator;
use super::prim::Prim;
use super::size::{Binding, Size, Variables};
use crate::error::{Error, Result};

const WHAT: &str = "operator";

// ---- printing ----

/// Names that summed axes get: those whose size holds a primary variable, then the others.
const PRIMARY_NAMES: [&str; 4] = ["c", "d", "e", "f"];
const COEFFICIENT_NAMES: [&str; 8] = ["i", "j", "l", "m", "p", "q", "u", "v"];

pub(super) fn names(operator: &Operator) -> Vec<(Dim, String)> {
    named(operator, &operator.sums)
}

fn named(operator: &Operator, sums: &[Dim]) -> Vec<(Dim, String)> {
    let outputs: &[&str] = match operator.outputs.len() {
        4 => &["n", "o", "h", "w"],
        3 => &["n", "t", "o"],
        2 => &["n", "o"],
        _ => &[],
    };
    let mut all = Vec::new();
    for (i, &d) in operator.outputs.iter().enumerate() {
        all.push((d, outputs.get(i).map_or_else(|| format!("a{i}"), |n| n.to_string())));
    }
    let (mut n_primary, mut n_coefficient) = (0, 0);
    for &d in sums {
        let coefficient = operator.graph.size(d).is_coefficient(operator.graph.variables());
        let (list, n): (&[&str], &mut usize) =
            if coefficient { (&COEFFICIENT_NAMES, &mut n_coefficient) } else { (&PRIMARY_NAMES, &mut n_primary) };
        all.push((d, list.get(*n).map_or_else(|| format!("{}{n}", list[0]), |n| n.to_string())));
        *n += 1;
    }
    all
}

pub(super) fn term(operator: &Operator, d: Dim, names: &[(Dim, String)]) -> String {
    let graph = &operator.graph;
    let inner = |d| term(operator, d, names);
    let size = |s: Size| s.print(graph.variables());
    match graph.prim(d) {
        Prim::Output(_) | Prim::Reduce(_) => names.iter().find(|n| n.0 == d).map_or("?".into(), |n| n.1.clone()),
        Prim::Split(l, r) => format!("split({}, {})", inner(l), inner(r)),
        Prim::Outer(x, block) => format!("outer({}, {})", inner(x), size(block)),
        Prim::Inner(x, block) => format!("inner({}, {})", inner(x), size(block)),
        Prim::Shift(x) => format!("shift({})", inner(x)),
        Prim::Stride(x, step) => format!("stride({}, {})", inner(x), size(step)),
        Prim::Unfold(main, window) => format!("unfold({}, {})", inner(main), inner(window)),
    }
}

/// The line with sums, weights and weight axes in their present order.
pub(super) fn print(operator: &Operator) -> String {
    let terms = |axes: &[Dim], names: &[(Dim, String)]| axes.iter().map(|&d| term(operator, d, names)).collect::<Vec<_>>();
    let names = named(operator, &operator.sums);
    let weights: Vec<_> = operator.weights.iter().map(|axes| terms(axes, &names)).collect();
    line(operator, &operator.sums, &names, &weights)
}

fn line(operator: &Operator, sums: &[Dim], names: &[(Dim, String)], weights: &[Vec<String>]) -> String {
    let axis = |&d: &Dim| {
        let name = names.iter().find(|n| n.0 == d).map_or("?", |n| &n.1);
        format!("{name}:{}", operator.graph.size(d).print(operator.graph.variables()))
    };
    let axes = |list: &[Dim]| list.iter().map(axis).collect::<Vec<_>>().join(", ");
    let sum = if sums.is_empty() { String::new() } else { format!("sum[{}] ", axes(sums)) };
    let data: Vec<_> = operator.data.iter().map(|&d| term(operator, d, names)).collect();
    let mut out = format!("y[{}] = {sum}x[{}]", axes(&operator.outputs), data.join(", "));
    for (i, terms) in weights.iter().enumerate() {
        out += &format!(" * w{}[{}]", i + 1, terms.join(", "));
    }
    out
}

/// The smallest line over all orders of equally large sums, with weights and their axes sorted.
pub(super) fn canonical(operator: &Operator) -> String {
    let mut sums = operator.sums.clone();
    sums.sort_by_key(|&d| (std::cmp::Reverse(operator.graph.size(d)), d));
    let mut best: Option<String> = None;
    permute_equal(&mut sums, 0, &|a, b| operator.graph.size(a) == operator.graph.size(b), &mut |sums| {
        let names = named(operator, sums);
        let mut weights: Vec<Vec<String>> = operator
            .weights
            .iter()
            .map(|axes| {
                let mut terms: Vec<_> = axes
                    .iter()
                    .map(|&d| (operator.outputs.iter().position(|&o| o == d).unwrap_or(usize::MAX), term(operator, d, &names)))
                    .collect();
                terms.sort();
                terms.into_iter().map(|t| t.1).collect()
            })
            .collect();
        weights.sort();
        let line = line(operator, sums, &names, &weights);
        if best.as_ref().is_none_or(|b| line < *b) {
            best = Some(line);
        }
    });
    best.unwrap_or_default()
}

/// Calls `f` with every order that keeps each element among its equals.
fn permute_equal(list: &mut [Dim], from: usize, equal: &impl Fn(Dim, Dim) -> bool, f: &mut impl FnMut(&[Dim])) {
    if from == list.len() {
        return f(list);
    }
    let end = (from..list.len()).take_while(|&i| equal(list[from], list[i])).last().map_or(from, |i| i);
    for i in from..=end {
        list.swap(from, i);
        permute_equal(list, from + 1, equal, f);
        list.swap(from, i);
    }
}

pub(super) fn formula(operator: &Operator, binding: Option<&Binding>) -> String {
    let values = binding.and_then(|b| operator.variables().values(b).ok());
    let printer = Formula { operator, values, names: names(operator) };
    let short = |list: &[Dim]| list.iter().map(|&d| printer.index(d).0).collect::<Vec<_>>().join(",");
    let sum = if operator.sums.is_empty() { String::new() } else { format!("Σ {}: ", short(&operator.sums)) };
    let mut out = format!("y[{}] = {sum}x[{}]", short(&operator.outputs), short(&operator.data));
    for (i, axes) in operator.weights.iter().enumerate() {
        out += &format!(" · w{}[{}]", i + 1, short(axes));
    }
    out
}

struct Formula<'a> {
    operator: &'a Operator,
    values: Option<Vec<i64>>,
    names: Vec<(Dim, String)>,
}

impl Formula<'_> {
    fn size(&self, s: Size) -> String {
        match self.values.as_ref().and_then(|v| s.whole(v)) {
            Some(n) => n.to_string(),
            None => s.print(self.operator.variables()),
        }
    }

    /// The index, and whether it needs brackets as a factor.
    fn index(&self, d: Dim) -> (String, bool) {
        let factor = |d| match self.index(d) {
            (text, true) => format!("({text})"),
            (text, false) => text,
        };
        let graph = &self.operator.graph;
        let times = |s: Size| match self.size(s) {
            n if n == "1" => String::new(),
            n if n.contains(['/', '*']) => format!("·({n})"),
            n => format!("·{n}"),
        };
        match graph.prim(d) {
            Prim::Output(_) | Prim::Reduce(_) => (self.names.iter().find(|n| n.0 == d).map_or("?".into(), |n| n.1.clone()), false),
            Prim::Split(l, r) => (format!("{}{}+{}", factor(l), times(graph.size(r)), self.index(r).0), true),
            Prim::Outer(x, block) => (format!("⌊{}/{}⌋", factor(x), bracket(self.size(block))), false),
            Prim::Inner(x, block) => (format!("{}%{}", factor(x), bracket(self.size(block))), true),
            Prim::Shift(x) => (format!("({}+1)%{}", self.index(x).0, bracket(self.size(graph.size(x)))), true),
            Prim::Stride(x, step) => (format!("{}{}", factor(x), times(step)), true),
            Prim::Unfold(main, window) => {
                let size = graph.size(window);
                let middle = match self.values.as_ref().and_then(|v| size.whole(v)) {
                    Some(0 | 1) => String::new(),
                    Some(n) => format!("-{}", n / 2),
                    None => format!("-⌊{}/2⌋", self.size(size)),
                };
                (format!("{}+{}{middle}", self.index(main).0, self.index(window).0), true)
            }
        }
    }
}

fn bracket(size: String) -> String {
    if size.contains(['/', '*']) { format!("({size})") } else { size }
}

// ---- reading ----

/// A name, a call, or a size, with its column (1-based).
struct Reader<'a> {
    line: &'a str,
    at: usize,
}

/// A term before it becomes a dim: sizes need the table of variables, which is known only after the whole line.
enum Term {
    Name(String, usize),
    Call { function: String, first: Box<Term>, second: Option<Second>, column: usize },
}

enum Second {
    Term(Box<Term>),
    Size(RawSize),
}

/// Factors of a size with their exponents: a variable's name, or a number.
type RawSize = Vec<(String, i32)>;
type Axis = (String, RawSize, usize);

struct Parsed {
    outputs: Vec<Axis>,
    sums: Vec<Axis>,
    data: Vec<Term>,
    weights: Vec<Vec<Term>>,
}

impl Reader<'_> {
    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        let column = self.line[..at.min(self.line.len())].chars().count() + 1;
        Err(Error::Parse { what: WHAT.into(), text: self.line.into(), column, message: message.into() })
    }

    fn skip(&mut self) {
        let rest = &self.line[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.line[self.at..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expect(&mut self, c: char, after: &str) -> Result<()> {
        if self.eat(c) {
            return Ok(());
        }
        let found = self.peek().map_or("the end of the line".to_string(), |f| format!("'{f}'"));
        self.fail(self.at, format!("expected '{c}' {after}, found {found}"))
    }

    fn name(&mut self, what: &str) -> Result<(String, usize)> {
        self.skip();
        let start = self.at;
        let rest = &self.line[start..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        if !name.starts_with(|c: char| c.is_alphabetic()) {
            let found = self.peek().map_or("the end of the line".to_string(), |f| format!("'{f}'"));
            return self.fail(start, format!("expected {what}, found {found}"));
        }
        self.at += end;
        Ok((name.to_string(), start))
    }

    fn number(&mut self) -> Result<i32> {
        self.skip();
        let start = self.at;
        let rest = &self.line[start..];
        let negative = rest.starts_with('-');
        let digits = &rest[usize::from(negative)..];
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        match digits[..end].parse::<i32>() {
            Ok(n) => {
                self.at += end + usize::from(negative);
                Ok(if negative { -n } else { n })
            }
            Err(_) => self.fail(start, "expected a whole number"),
        }
    }

    fn size(&mut self) -> Result<RawSize> {
        let mut factors = Vec::new();
        let mut sign = 1;
        loop {
            let start = {
                self.skip();
                self.at
            };
            let factor = match self.peek() {
                Some(c) if c.is_ascii_digit() => match self.number()? {
                    0 => return self.fail(start, "a size has no factor 0"),
                    n => n.to_string(),
                },
                _ => self.name("a variable or a number")?.0,
            };
            let power = if self.eat('^') { self.number()? } else { 1 };
            if !(-8..=8).contains(&power) {
                return self.fail(start, "expected a power between -8 and 8");
            }
            factors.push((factor, sign * power));
            sign = if self.eat('*') {
                1
            } else if self.eat('/') {
                -1
            } else {
                return Ok(factors);
            };
        }
    }

    fn axes(&mut self, what: &str) -> Result<Vec<Axis>> {
        self.expect('[', what)?;
        let mut axes = Vec::new();
        if self.eat(']') {
            return Ok(axes);
        }
        loop {
            let (name, column) = self.name("an axis name")?;
            if axes.iter().any(|a: &Axis| a.0 == name) {
                return self.fail(column, format!("the axis {name} is named twice"));
            }
            self.expect(':', "and a size after the axis name")?;
            axes.push((name, self.size()?, column));
            if self.eat(']') {
                return Ok(axes);
            }
            self.expect(',', "or ']' after an axis")?;
        }
    }

    fn terms(&mut self, what: &str) -> Result<Vec<Term>> {
        self.expect('[', what)?;
        let mut terms = Vec::new();
        if self.eat(']') {
            return Ok(terms);
        }
        loop {
            terms.push(self.term(0)?);
            if self.eat(']') {
                return Ok(terms);
            }
            self.expect(',', "or ']' after an index")?;
        }
    }

    fn term(&mut self, depth: usize) -> Result<Term> {
        if depth > 32 {
            return self.fail(self.at, "primitives are nested more than 32 deep");
        }
        let (name, column) = self.name("an axis or a primitive")?;
        if !self.eat('(') {
            return Ok(Term::Name(name, column));
        }
        let takes_size = match name.as_str() {
            "split" | "unfold" => Some(false),
            "outer" | "inner" | "stride" => Some(true),
            "shift" => None,
            _ => return self.fail(column, format!("{name} is no primitive: expected split, unfold, outer, inner, shift or stride")),
        };
        let first = Box::new(self.term(depth + 1)?);
        let second = match takes_size {
            None => None,
            Some(size) => {
                self.expect(',', &format!("and a second argument of {name}"))?;
                Some(if size { Second::Size(self.size()?) } else { Second::Term(Box::new(self.term(depth + 1)?)) })
            }
        };
        self.expect(')', &format!("after the arguments of {name}"))?;
        Ok(Term::Call { function: name, first, second, column })
    }

    fn operator(&mut self) -> Result<Parsed> {
        let (y, column) = self.name("'y'")?;
        if y != "y" {
            return self.fail(column, "expected 'y[…] = …': the output is called y");
        }
        let outputs = self.axes("after y")?;
        self.expect('=', "after the output")?;
        let (mut name, mut column) = self.name("'sum' or 'x'")?;
        let mut sums = Vec::new();
        if name == "sum" {
            sums = self.axes("after sum")?;
            if let Some(twice) = sums.iter().find(|s| outputs.iter().any(|o| o.0 == s.0)) {
                return self.fail(twice.2, format!("the axis {} is named twice", twice.0));
            }
            (name, column) = self.name("'x'")?;
        }
        if name != "x" {
            return self.fail(column, "expected 'x[…]': the data tensor is called x");
        }
        let data = self.terms("after x")?;
        let mut weights = Vec::new();
        while self.eat('*') {
            let (name, column) = self.name("a weight such as w1")?;
            if name == "x" || name == "y" {
                return self.fail(column, "expected a weight: an operator reads the data once");
            }
            weights.push(self.terms("after the weight's name")?);
        }
        match self.peek() {
            None => Ok(Parsed { outputs, sums, data, weights }),
            Some(c) => self.fail(self.at, format!("expected '*' and a weight, or the end of the line, found '{c}'")),
        }
    }
}

fn raw_variables(parsed: &Parsed) -> Vec<String> {
    fn of_term(term: &Term, found: &mut Vec<String>) {
        if let Term::Call { first, second, .. } = term {
            of_term(first, found);
            match second {
                Some(Second::Term(t)) => of_term(t, found),
                Some(Second::Size(s)) => of_size(s, found),
                None => {}
            }
        }
    }
    fn of_size(size: &RawSize, found: &mut Vec<String>) {
        found.extend(size.iter().filter(|f| !f.0.starts_with(|c: char| c.is_ascii_digit())).map(|f| f.0.clone()));
    }
    let mut found = Vec::new();
    parsed.outputs.iter().chain(&parsed.sums).for_each(|a| of_size(&a.1, &mut found));
    parsed.data.iter().chain(parsed.weights.iter().flatten()).for_each(|t| of_term(t, &mut found));
    found
}

fn resolve(size: &RawSize, variables: &Variables) -> Size {
    size.iter().fold(Size::ONE, |acc, (factor, power)| {
        let base = match factor.parse::<u32>() {
            Ok(n) => Size::number(n),
            Err(_) => variables.size(factor).unwrap_or(Size::ONE),
        };
        acc.times(base.power(*power))
    })
}

pub(super) fn parse(line: &str) -> Result<Operator> {
    let mut reader = Reader { line, at: 0 };
    let parsed = reader.operator()?;
    let variables = Variables::new(raw_variables(&parsed))?;
    let mut graph = Graph::new(variables.clone());
    let mut leaves: Vec<(String, Dim)> = Vec::new();
    let mut outputs = Vec::new();
    for (i, (name, size, _)) in parsed.outputs.iter().enumerate() {
        let d = graph.leaf(Prim::Output(i as u8), resolve(size, &variables));
        outputs.push(d);
        leaves.push((name.clone(), d));
    }
    let mut sums: Vec<Dim> = Vec::new();
    for (name, size, _) in &parsed.sums {
        let size = resolve(size, &variables);
        let nth = sums.iter().filter(|&&d| graph.size(d) == size).count();
        let d = graph.leaf(Prim::Reduce(nth as u8), size);
        sums.push(d);
        leaves.push((name.clone(), d));
    }
    let mut build = |terms: &[Term]| terms.iter().map(|t| make(t, &mut graph, &leaves, &variables, &reader)).collect::<Result<Vec<Dim>>>();
    let data = build(&parsed.data)?;
    let weights = parsed.weights.iter().map(|w| build(w)).collect::<Result<Vec<_>>>()?;
    let operator = Operator { graph, outputs, sums, data, weights };
    operator.check()?;
    Ok(operator)
}

fn make(term: &Term, graph: &mut Graph, leaves: &[(String, Dim)], variables: &Variables, reader: &Reader) -> Result<Dim> {
    match term {
        Term::Name(name, column) => match leaves.iter().find(|l| l.0 == *name) {
            Some(l) => Ok(l.1),
            None => {
                let known: Vec<_> = leaves.iter().map(|l| l.0.as_str()).collect();
                reader.fail(*column, format!("{name} is no axis: expected one of {}", known.join(", ")))
            }
        },
        Term::Call { function, first, second, column } => {
            let x = make(first, graph, leaves, variables, reader)?;
            let prim = match (function.as_str(), second) {
                ("split", Some(Second::Term(r))) => Prim::Split(x, make(r, graph, leaves, variables, reader)?),
                ("unfold", Some(Second::Term(r))) => Prim::Unfold(x, make(r, graph, leaves, variables, reader)?),
                ("outer", Some(Second::Size(s))) => Prim::Outer(x, resolve(s, variables)),
                ("inner", Some(Second::Size(s))) => Prim::Inner(x, resolve(s, variables)),
                ("stride", Some(Second::Size(s))) => Prim::Stride(x, resolve(s, variables)),
                ("shift", None) => Prim::Shift(x),
                _ => return reader.fail(*column, format!("wrong arguments of {function}")),
            };
            Ok(graph.make(prim))
        }
    }
}
