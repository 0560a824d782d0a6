//! How many evaluations a search needs: tree search, regularised evolution and random search with a made-up evaluator.
//!
//! `cargo run --release --example search_quality -- words 4000 20` prints one JSON line per search and seed, and a table of
//! medians on stderr; names of searches after the numbers (`mcts,random`, or `all`) run those alone, and one more number is
//! the first seed, 1 unless told. A search has arrived when its front has 95 % of the hypervolume of the best front known
//! (of all searches of the run together); one that has not after all its evaluations counts as that many, so its median is
//! a lower bound. Random search and evolution get ten times the evaluations of the tree searches. The columns `at 50` and
//! so on are medians of the share of the best hypervolume that there was after so many evaluations.

mod conv;
mod words;

use std::collections::BTreeMap;
use syntune::search::evolve::Evolution;
use syntune::search::mcts::{Constants, Search};
use syntune::search::operators::Operators;
use syntune::search::reward::{Front, Point, Scale, syno, weighted_sum};
use syntune::search::tree::{FinalId, Tree};
use words::Words;

const ENOUGH: f64 = 0.95;
/// Evaluations of random search and evolution for one of a tree search.
const CHEAP: usize = 10;
/// Evaluations after which fronts are compared: a search for real affords some 20 to 100.
const EARLY: [usize; 5] = [20, 50, 100, 200, 300];
/// Accuracy that the fastest operator may lose.
const DROP: f64 = 0.01;

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Front,
    Accuracy,
    Sum,
}

#[derive(Clone, Copy)]
enum Method {
    Tree(Constants),
    Evolution,
    Random,
}

enum Searcher<T: Tree> {
    Tree(Box<Search<T>>),
    Other(Box<Evolution<T>>),
}

pub trait Problem: Tree {
    fn fresh() -> Self;
    fn scale(&self) -> Scale;
    fn truth(&self, id: FinalId) -> Point;
}

impl Problem for Words {
    fn fresh() -> Words {
        Words::new(9)
    }
    fn scale(&self) -> Scale {
        Words::scale()
    }
    fn truth(&self, id: FinalId) -> Point {
        Words::truth(self, id)
    }
}

/// After each evaluation: the hypervolume, and the baseline's seconds over those of the fastest that keeps the accuracy.
type Trace = Vec<(f64, f64)>;

fn run<P: Problem>(method: Method, rule: Rule, n: usize, seed: u64) -> Trace {
    let tree = P::fresh();
    let scale = tree.scale();
    let mut searcher = match method {
        Method::Tree(constants) => Searcher::Tree(Box::new(Search::new(tree, constants, seed))),
        Method::Evolution => Searcher::Other(Box::new(Evolution::new(tree, seed))),
        Method::Random => Searcher::Other(Box::new(Evolution::random(tree, seed))),
    };
    let mut front = Front::new(scale);
    let mut points: BTreeMap<FinalId, Point> = BTreeMap::new();
    let mut fastest = 0.0f64;
    let mut trace = Trace::new();
    let value = |front: &Front, p: Point| match rule {
        Rule::Front => front.rewards([p])[0],
        Rule::Accuracy => syno(p.accuracy, scale.least, scale.baseline.accuracy),
        Rule::Sum => weighted_sum(&scale, p),
    };
    while trace.len() < n {
        let (id, ticket) = match &mut searcher {
            Searcher::Tree(search) => match search.ask() {
                Some(ticket) => (ticket.id, Some(ticket)),
                None => break,
            },
            Searcher::Other(search) => match search.ask() {
                Some(id) => (id, None),
                None => break,
            },
        };
        let p = match &searcher {
            Searcher::Tree(s) => s.tree().truth(id),
            Searcher::Other(s) => s.tree().truth(id),
        };
        points.insert(id, p);
        let moved = front.push(p);
        if p.accuracy >= scale.baseline.accuracy - DROP {
            fastest = fastest.max(scale.baseline.secs / p.secs);
        }
        let reward = value(&front, p);
        let again = |id: FinalId| points.get(&id).map_or(0.0, |&p| value(&front, p));
        let moved = moved && rule == Rule::Front;
        match (&mut searcher, ticket) {
            (Searcher::Tree(search), Some(ticket)) => {
                search.tell(&ticket, reward);
                if moved {
                    search.rescore(again);
                }
            }
            (Searcher::Other(search), _) => {
                search.tell(id, reward);
                if moved {
                    search.rescore(again);
                }
            }
            (Searcher::Tree(_), None) => {}
        }
        trace.push((front.hypervolume(), fastest));
    }
    trace
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// The evaluation after which a trace is good for the first time.
fn arrival(trace: &Trace, good: impl Fn(&(f64, f64)) -> bool) -> Option<usize> {
    trace.iter().position(good).map(|i| i + 1)
}

/// What a few evaluations came to; all of them where there were fewer.
fn after(trace: &Trace, n: usize) -> f64 {
    trace.get(n - 1).or(trace.last()).map_or(0.0, |p| p.0)
}

fn bench<P: Problem>(problem: &str, n: usize, seeds: std::ops::Range<u64>, only: Option<&str>) {
    let ours = Constants::default();
    let searches = [
        ("mcts", Method::Tree(ours), Rule::Front),
        ("mcts syno", Method::Tree(Constants::syno()), Rule::Front),
        ("mcts accuracy^4", Method::Tree(ours), Rule::Accuracy),
        ("mcts weighted", Method::Tree(ours), Rule::Sum),
        ("syno accuracy^4", Method::Tree(Constants::syno()), Rule::Accuracy),
        ("evolution", Method::Evolution, Rule::Front),
        ("random", Method::Random, Rule::Front),
    ];
    let budget = |method: Method| if matches!(method, Method::Tree(_)) { n } else { CHEAP * n };
    let mut best = (0.0f64, 0.0f64);
    let mut all = Vec::new();
    for (name, method, rule) in searches.into_iter().filter(|s| only.is_none_or(|o| o.split(',').any(|o| o == s.0))) {
        let start = std::time::Instant::now();
        let traces: Vec<Trace> = seeds.clone().map(|seed| run::<P>(method, rule, budget(method), seed)).collect();
        let secs = start.elapsed().as_secs_f64();
        for t in traces.iter().filter_map(|t| t.last()) {
            best = (best.0.max(t.0), best.1.max(t.1));
        }
        all.push((name, budget(method), traces, secs));
    }
    eprintln!("{problem}: {n} evaluations, {} seeds; best hypervolume {:.4}, best speed-up {:.3}", seeds.clone().count(), best.0, best.1);
    let shares = EARLY.map(|n| format!("{:>6}", format!("at {n}"))).join(" ");
    eprintln!("{:<17} {:>10} {:>8} {shares} {:>12} {:>8} {:>8}", "search", "to 95 % hv", "arrived", "to 95 % fast", "arrived", "ms/ask");
    for (name, n, traces, secs) in &all {
        let n = *n;
        let hv: Vec<Option<usize>> = traces.iter().map(|t| arrival(t, |p| p.0 >= ENOUGH * best.0)).collect();
        let fast: Vec<Option<usize>> = traces.iter().map(|t| arrival(t, |p| p.1 >= ENOUGH * best.1)).collect();
        for ((seed, t), i) in seeds.clone().zip(traces).zip(0..) {
            let end = t.last().copied().unwrap_or_default();
            let moves: Vec<(usize, f64)> = (0..t.len()).filter(|&i| i == 0 || t[i].0 > t[i - 1].0).map(|i| (i + 1, t[i].0)).collect();
            let line = serde_json::json!({
                "v": 2, "problem": problem, "search": name, "seed": seed, "n": t.len(), "n_hypervolume": hv[i],
                "n_fastest": fast[i], "hypervolume": end.0, "speedup": end.1, "best_hypervolume": best.0, "best_speedup": best.1,
                "moves": moves,
            });
            println!("{line}");
        }
        let shown = |all: &[Option<usize>]| {
            let n_arrived = all.iter().flatten().count();
            let m = median(all.iter().map(|a| a.unwrap_or(n) as f64).collect()) as usize;
            (if m >= n { format!("> {n}") } else { m.to_string() }, format!("{n_arrived}/{}", all.len()))
        };
        let ((a, b), (c, d)) = (shown(&hv), shown(&fast));
        let early = EARLY.map(|n| format!("{:>6.3}", median(traces.iter().map(|t| after(t, n) / best.0).collect()))).join(" ");
        let n_asks: usize = traces.iter().map(Vec::len).sum();
        eprintln!("{name:<17} {a:>10} {b:>8} {early} {c:>12} {d:>8} {:>8.3}", secs * 1e3 / n_asks.max(1) as f64);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, otherwise: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(otherwise);
    let (n, n_seeds) = (number(1, 2000), number(2, 20) as u64);
    let only = args.get(3).map(String::as_str).filter(|o| *o != "all");
    let first = number(4, 1) as u64;
    let seeds = first..first + n_seeds;
    match args.first().map_or("words", String::as_str) {
        "words" => bench::<Words>("words", n, seeds, only),
        "conv" => bench::<Operators>("conv", n, seeds, only),
        other => {
            eprintln!("no problem {other}: words or conv");
            std::process::exit(2);
        }
    }
}
