//! Small spaces enumerated to the end: what the rules keep, and what they leave out.

#[path = "../examples/enumerate/census.rs"]
mod census;
#[path = "../examples/enumerate/loose.rs"]
mod loose;

use census::{Functions, Losing, REQUESTS, Row, census, rows};
use syntune::synth::canon::{ALTERNATIVES, APPROXIMATE, BOUNDS, EQUALITIES, LIMITS, Rule, RuleSet, SKIPS, STRUCTURE};
use syntune::synth::options::Options;

fn row(name: &str) -> Row {
    rows().into_iter().find(|r| r.name == name).unwrap()
}

#[test]
fn every_rule_is_of_one_kind_and_ours_takes_those_that_are_exact_or_meant() {
    let equalities = EQUALITIES.iter().flat_map(|e| e.1).copied().collect::<Vec<_>>();
    let kinds = [&LIMITS[..], &BOUNDS, &equalities, &APPROXIMATE, &ALTERNATIVES, &SKIPS, &STRUCTURE, &[Rule::NoOuter]];
    let mut all = kinds.concat();
    all.sort();
    assert_eq!(all, Rule::ALL);
    assert_eq!(Options::ours().off, RuleSet::of(&[&ALTERNATIVES[..], &APPROXIMATE, &[Rule::NoOuter]].concat()));
}

/// The first row, one of those with which others are compared, and the depth.
const CASES: [(usize, &str, usize); 5] =
    [(0, "none", 3), (0, "merges across", 4), (1, "merges across", 4), (2, "none", 3), (2, "merges across", 4)];

#[test]
fn no_function_is_lost_to_a_rule_that_is_an_equality() {
    // the two-dimensional space is too large without bounds
    for (request, from, depth) in CASES {
        let (request, rows) = (&REQUESTS[request], rows());
        let mut functions = Functions::new(&request.space(depth, &rows[0]).bindings);
        let mut first = census(&mut request.space(depth, &row(from)));
        for row in rows.iter().skip_while(|r| r.name != from).skip(1) {
            let found = census(&mut request.space(depth, row));
            match row.kind {
                Losing::Some => continue,
                Losing::Base => {
                    first = found;
                    continue;
                }
                Losing::Nothing => {}
            }
            let mut left = functions.classes(first.operators.keys());
            for class in functions.classes(found.operators.keys()) {
                left.remove(&class);
            }
            if !left.is_empty() {
                for class in functions.classes(census(&mut request.larger(depth, row)).operators.keys()) {
                    left.remove(&class);
                }
            }
            let lost = first.operators.iter().find(|o| left.contains(&functions.loose(o.0)));
            assert_eq!(lost, None, "{} of {depth} actions: {} classes are lost to {}", request.name, left.len(), row.name);
        }
    }
}

#[test]
fn small_spaces_have_as_many_states_operators_and_functions_as_ever() {
    let mut text = String::new();
    for request in &REQUESTS {
        let mut functions = Functions::new(&request.space(4, &row("none")).bindings);
        for row in rows().iter().skip(1) {
            let found = census(&mut request.space(4, row));
            let n_functions = functions.set(found.operators.keys()).len();
            let (states, operators) = (found.n_states, found.operators.len());
            text += &format!("{}, {}: {states} states, {operators} operators, {n_functions} functions\n", request.name, row.name);
            if ["ours", "coarse"].contains(&row.name) {
                assert_eq!(operators, n_functions, "{}: two operators of {} compute the same", request.name, row.name);
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_searchs_own_generator_finds_what_trying_everything_finds() {
    for request in &REQUESTS {
        let depth = 4;
        let tried = census(&mut request.space(depth, &row("ours")));
        let mut space = request.space(depth, &row("ours"));
        space.options.off = Options::ours().off;
        let count = space.count_by_depth(depth, usize::MAX);
        assert!(count.complete);
        assert_eq!(count.operators.iter().collect::<Vec<_>>(), tried.operators.keys().collect::<Vec<_>>(), "{}", request.name);
    }
}

/// The distance also knows what is left of sums and shared dims by rules that searches have on.
#[test]
fn no_operator_of_a_search_is_lost_to_the_bounds() {
    for (request, depth) in [(0, 5), (1, 5), (2, 5)] {
        let all = |off: &[Rule]| {
            let mut space = REQUESTS[request].space(depth, &row("coarse"));
            space.options.off = Options::coarse().off.with(&STRUCTURE).with(off);
            let count = space.count_by_depth(depth, usize::MAX);
            assert!(count.complete);
            (count.operators.clone(), count.levels.iter().map(|l| l.n_states).sum::<u64>())
        };
        let ((guided, n_guided), (unguided, n_unguided)) = (all(&[]), all(&BOUNDS));
        assert_eq!(guided, unguided, "{}", REQUESTS[request].name);
        assert!(n_guided < n_unguided && (guided.len() > 10 || request == 1), "{n_guided} {n_unguided} {}", guided.len());
    }
}
