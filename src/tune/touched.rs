//! What the loops of a module of TVM's touch, read from its JSON: as much of a loop nest as the roofline looks at.

use crate::lower::index::Index;
use crate::lower::{Access, Expr, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use serde_json::Value;

/// What TVM calls a loop whose turns do not depend on each other, and one that is summed over.
const DATA_PARALLEL: i64 = 0;
const COMM_REDUCE: i64 = 2;

/// Sums and products within each other in one index.
const DEEPEST: usize = 16;

/// TVM's graph of nodes, which name each other by their numbers.
struct Graph<'a>(&'a [Value]);

impl Graph<'_> {
    fn kind(&self, at: usize) -> &str {
        self.0.get(at).and_then(|node| node["type"].as_str()).unwrap_or_default()
    }

    /// The node that a field of another one names.
    fn field(&self, at: usize, name: &str) -> Option<usize> {
        Some(self.0.get(at)?["data"][name].as_u64()? as usize)
    }

    fn items(&self, array: usize) -> Option<Vec<usize>> {
        self.0.get(array)?["data"].as_array()?.iter().map(|item| Some(item.as_u64()? as usize)).collect()
    }

    /// Of a plain number, or of a constant of TVM's.
    fn integer(&self, at: usize) -> Option<i64> {
        match self.kind(at) {
            "int" => self.0[at]["data"].as_i64(),
            "ir.IntImm" => self.0.get(self.field(at, "value")?)?["data"].as_i64(),
            _ => None,
        }
    }

    /// `None` for what is no place of a tensor, and for expressions deeper than `most`.
    fn index(&self, at: usize, loops: &[usize], most: usize) -> Option<Index> {
        if let Some(number) = loops.iter().position(|&l| l == at) {
            return Some(Index::Var(number));
        }
        if let Some(constant) = self.integer(at) {
            return Some(Index::Const(constant));
        }
        let (a, b) = (self.field(at, "a")?, self.field(at, "b")?);
        let side = |of| self.index(of, loops, most.checked_sub(1)?);
        match (self.kind(at), self.integer(a), self.integer(b)) {
            ("prim.Add", ..) => Some(side(a)?.add(side(b)?)),
            ("prim.Sub", ..) => Some(side(a)?.add(side(b)?.times(-1))),
            ("prim.Mul", _, Some(factor)) => Some(side(a)?.times(factor)),
            ("prim.Mul", Some(factor), _) => Some(side(b)?.times(factor)),
            // places are not negative, so that both ways to round are the same
            ("prim.FloorDiv" | "prim.Div", _, Some(divisor)) if divisor > 0 => Some(side(a)?.over(divisor)),
            ("prim.FloorMod" | "prim.Mod", _, Some(divisor)) if divisor > 0 => Some(side(a)?.modulo(divisor)),
            _ => None,
        }
    }
}

/// The blocks of a module as stages: their loops, the tensors, and where sums read them. What is computed of that is left out.
/// Blocks without sums may read in ways that are not told. `None` where a block is of another kind.
pub fn nest(json: &str) -> Option<LoopNest> {
    let parsed: Value = serde_json::from_str(json).ok()?;
    let graph = Graph(parsed["nodes"].as_array()?);
    let mut known = Vec::new();
    let mut nest = LoopNest { name: "module".into(), tensors: vec![], stages: vec![] };
    for block in (0..graph.0.len()).filter(|&at| graph.kind(at) == "s_tir.SBlock") {
        let iters = graph.items(graph.field(block, "iter_vars")?)?;
        // that of the function as a whole
        if iters.is_empty() {
            continue;
        }
        let (mut loops, mut axes, mut sums) = (vec![], vec![], vec![]);
        for iter in iters {
            loops.push(graph.field(iter, "var")?);
            let extent = graph.integer(graph.field(graph.field(iter, "dom")?, "extent")?)?;
            let of = Loop { name: format!("i{}", loops.len()), extent };
            match graph.0[iter]["data"]["iter_type"].as_i64()? {
                DATA_PARALLEL if sums.is_empty() => axes.push(of),
                COMM_REDUCE => sums.push(of),
                _ => return None,
            }
        }
        let mut tensor = |region: usize| {
            let buffer = graph.field(region, "source")?;
            let place = known.iter().position(|&k| k == buffer);
            if place.is_none() {
                let shape = graph.items(graph.field(graph.field(buffer, "ty")?, "shape")?)?;
                let shape = shape.into_iter().map(|extent| graph.integer(extent)).collect::<Option<_>>()?;
                nest.tensors.push(Tensor { name: format!("t{}", known.len()), shape, role: Role::Temp });
                known.push(buffer);
            }
            place.or(known.len().checked_sub(1))
        };
        let [written] = graph.items(graph.field(block, "writes")?)?[..] else { return None };
        let output = tensor(written)?;
        let mut loads = Vec::new();
        for region in graph.items(graph.field(block, "reads")?)? {
            let from = tensor(region)?;
            if from == output {
                continue;
            }
            let ranges = graph.items(graph.field(region, "region")?)?;
            let index = ranges.into_iter().map(|range| match graph.integer(graph.field(range, "extent")?)? {
                1 => graph.index(graph.field(range, "min")?, &loops, DEEPEST),
                _ => None,
            });
            let index = match index.collect::<Option<Vec<Index>>>() {
                Some(index) => index,
                None if sums.is_empty() => vec![],
                None => return None,
            };
            loads.push(Expr::Load(Access { tensor: from, index }));
        }
        nest.stages.push(Stage { output, axes, sums, reduction: Reduction::Sum, guards: vec![], body: Expr::Mul(loads) });
    }
    Some(nest)
}
