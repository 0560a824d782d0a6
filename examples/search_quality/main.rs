//! How many evaluations a search needs: tree search, regularised evolution and random search with a made-up evaluator.
//!
//! `cargo run --release --example search_quality -- words 4000 20` prints one JSON line per search and seed, and a table of
//! medians on stderr; a search's name after the numbers runs that one alone. A search has arrived when its front has 95 % of
//! the hypervolume of the best front known (of all searches of the run together); one that has not after all its
//! evaluations counts as that many, so its median is a lower bound. Random search and evolution get ten times the
//! evaluations of the tree searches.

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

fn median(mut all: Vec<usize>) -> usize {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

fn bench<P: Problem>(problem: &str, n: usize, n_seeds: u64, only: Option<&str>) {
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
    for (name, method, rule) in searches.into_iter().filter(|s| only.is_none_or(|o| s.0 == o)) {
        let start = std::time::Instant::now();
        let traces: Vec<Trace> = (0..n_seeds).map(|seed| run::<P>(method, rule, budget(method), seed)).collect();
        let secs = start.elapsed().as_secs_f64();
        for t in traces.iter().filter_map(|t| t.last()) {
            best = (best.0.max(t.0), best.1.max(t.1));
        }
        all.push((name, budget(method), traces, secs));
    }
    eprintln!("{problem}: {n} evaluations, {n_seeds} seeds; best hypervolume {:.4}, best speed-up {:.3}", best.0, best.1);
    eprintln!("{:<17} {:>10} {:>10} {:>12} {:>10} {:>9}", "search", "to 95 % hv", "arrived", "to 95 % fast", "arrived", "ms/ask");
    for (name, n, traces, secs) in &all {
        let n = *n;
        let arrival = |t: &Trace, good: &dyn Fn(&(f64, f64)) -> bool| t.iter().position(good).map(|i| i + 1);
        let hv: Vec<Option<usize>> = traces.iter().map(|t| arrival(t, &|p| p.0 >= ENOUGH * best.0)).collect();
        let fast: Vec<Option<usize>> = traces.iter().map(|t| arrival(t, &|p| p.1 >= ENOUGH * best.1)).collect();
        for (seed, t) in traces.iter().enumerate() {
            let end = t.last().copied().unwrap_or_default();
            let line = serde_json::json!({
                "v": 1, "problem": problem, "search": name, "seed": seed, "n": t.len(), "n_hypervolume": hv[seed],
                "n_fastest": fast[seed], "hypervolume": end.0, "speedup": end.1, "best_hypervolume": best.0, "best_speedup": best.1,
            });
            println!("{line}");
        }
        let shown = |all: &[Option<usize>]| {
            let n_arrived = all.iter().flatten().count();
            let m = median(all.iter().map(|a| a.unwrap_or(n)).collect());
            (if m >= n { format!("> {n}") } else { m.to_string() }, format!("{n_arrived}/{}", all.len()))
        };
        let ((a, b), (c, d)) = (shown(&hv), shown(&fast));
        let n_asks: usize = traces.iter().map(Vec::len).sum();
        eprintln!("{name:<17} {a:>10} {b:>10} {c:>12} {d:>10} {:>9.3}", secs * 1e3 / n_asks.max(1) as f64);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, otherwise: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(otherwise);
    let (n, n_seeds) = (number(1, 2000), number(2, 20) as u64);
    match args.first().map_or("words", String::as_str) {
        "words" => bench::<Words>("words", n, n_seeds, args.get(3).map(String::as_str)),
        "conv" => bench::<Operators>("conv", n, n_seeds, args.get(3).map(String::as_str)),
        other => {
            eprintln!("no problem {other}: words or conv");
            std::process::exit(2);
        }
    }
}
