//! Replacements of a 3×3 convolution, judged by their structure: what they cost, and what they should learn.

use crate::Problem;
use syntune::lower::lower;
use syntune::search::operators::Operators;
use syntune::search::reward::{Point, Scale};
use syntune::search::tree::FinalId;
use syntune::synth::{Binding, Operator, Prim, Space};

const SIZES: &str = "N=1,Ci=64,Co=64,H=16,W=16,k=3,g=4";
/// Multiply-adds and elements of memory a second, and seconds to start a loop nest: one core's.
const MACS: f64 = 2e10;
const ELEMENTS: f64 = 2e9;
const START: f64 = 5e-6;
/// A unit of each action makes addresses dearer by this share.
const SLOWER: f64 = 0.04;

fn binding() -> Binding {
    Binding::parse(SIZES).unwrap_or_else(|e| panic!("{e}"))
}

/// Between 0 and 1: how much of a good thing is there.
fn share(x: f64) -> f64 {
    1.0 - (-x).exp()
}

fn judge(operator: &Operator) -> Option<Point> {
    let binding = binding();
    let nest = lower(operator, &binding).ok()?;
    let graph = operator.graph();
    let size = |d| graph.size(d).evaluate(operator.variables(), &binding).unwrap_or(1) as f64;
    let dims = operator.dims();
    let n_moves = dims.iter().filter(|&&d| !matches!(graph.prim(d), Prim::Output(_) | Prim::Reduce(_) | Prim::Unfold(..))).count();
    let elements: f64 = nest.tensors.iter().map(|t| t.n_elements() as f64).sum();
    let slower = 1.0 + SLOWER * n_moves as f64;
    let secs = nest.n_macs() as f64 / MACS * slower + elements / ELEMENTS + START * nest.stages.len() as f64;
    // how far each place sees: whole windows, and shifts on one side
    let sight = |place: usize| {
        let place = operator.outputs()[place];
        let sees = |&d: &syntune::synth::Dim| match graph.prim(d) {
            Prim::Unfold(main, window) if graph.depends(main, place) => size(window) - 1.0,
            Prim::Shift(x) if graph.depends(x, place) => 0.7,
            _ => 0.0,
        };
        operator.data().iter().flat_map(|&d| graph.below(d)).collect::<std::collections::BTreeSet<_>>().iter().map(sees).sum::<f64>()
    };
    // how many of the channels meet in one sum
    let mixed: f64 = operator.sums().iter().map(|&d| size(d)).filter(|&s| s > 3.0).product::<f64>().min(64.0) / 64.0;
    let params = operator.n_params(&binding).ok()? as f64 / (9.0 * 64.0 * 64.0);
    let both = share(1.2 * sight(2)) * share(1.2 * sight(3));
    let planted = if operator.weights().len() == 2 && both > 0.6 { 0.02 } else { 0.0 };
    let accuracy = 0.30 + 0.35 * both + 0.15 * share(3.0 * mixed) + 0.12 * share(6.0 * params) + planted;
    Some(Point { secs, accuracy })
}

impl Problem for Operators {
    fn fresh() -> Operators {
        let coefficients = ["k".to_owned(), "g".to_owned()];
        Space::of_conv(vec![binding()], &coefficients, 9, 2).and_then(Operators::new).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A convolution is a fixed point of the evaluator: 9 × 64 × 64 weights.
    fn scale(&self) -> Scale {
        let conv = Operator::parse("y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]");
        let baseline = conv.ok().and_then(|c| judge(&c)).unwrap_or(Point { secs: f64::NAN, accuracy: f64::NAN });
        Scale { baseline, least: baseline.accuracy - 0.3 }
    }

    fn truth(&self, id: FinalId) -> Point {
        let nothing = Point { secs: f64::NAN, accuracy: f64::NAN };
        self.operator(id).and_then(judge).unwrap_or(nothing)
    }
}
