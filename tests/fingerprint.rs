//! Fingerprints: blind to how an operator is written, and to nothing else; against families of maps found with one-hot weights.

use crate::syno_operators::{Family, SHIPPED, set_a};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use syntune::lower::{self, Fingerprint, fingerprint, small_bindings};
use syntune::synth::library::{LIBRARY, resolve};
use syntune::synth::{Binding, Operator, Space, Synthesizer};

/// Slots as a small residual network has them.
fn slots() -> Vec<Binding> {
    let slot = |c: i64, o: i64, h: i64| {
        Binding::of(&[("N", 1), ("Ci", c), ("Co", o), ("C", c), ("H", h), ("W", h), ("L", h), ("g", 4), ("s", 2), ("k", 3)])
    };
    vec![slot(16, 16, 32), slot(16, 32, 16), slot(32, 64, 8)]
}

/// Small sizes that every known operator divides at, strided ones too.
fn library_sizes() -> Vec<Binding> {
    small_bindings(&slots().iter().map(|b| b.with("r", 2)).collect::<Vec<_>>()).unwrap()
}

/// Two sizes with a narrow image, so that H and W differ.
fn oblong() -> Vec<Binding> {
    let slot = |h, w| Binding::of(&[("N", 2), ("Ci", 8), ("Co", 16), ("H", h), ("W", w), ("g", 2), ("s", 2), ("k", 3)]);
    vec![slot(6, 10), slot(10, 4)]
}

fn of(text: &str, bindings: &[Binding]) -> Fingerprint {
    fingerprint(&Operator::parse_ordered(text).unwrap(), bindings).unwrap()
}

fn random_texts(n: usize) -> Vec<String> {
    let space = Space::of_conv(oblong(), &["g", "s", "k"].map(String::from), 12, 3).unwrap();
    let mut synthesizer = Synthesizer::new(space, 11).unwrap();
    (0..n).map(|_| synthesizer.next().unwrap().to_string()).collect()
}

// ---- texts, changed ----

/// The parts between commas that no bracket encloses.
fn commas(list: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts.iter().map(|p| p.trim().to_string()).collect()
}

/// What stands in the brackets of y, sum, x and the weights, in the order of the text.
fn brackets(text: &str) -> Vec<Vec<String>> {
    text.split('[').skip(1).map(|rest| commas(rest.split(']').next().unwrap_or(""))).collect()
}

fn written(lists: &[Vec<String>], has_sum: bool) -> String {
    let list = |i: usize| lists[i].join(", ");
    let x = if has_sum { 2 } else { 1 };
    let sum = if has_sum { format!("sum[{}] ", list(1)) } else { String::new() };
    let weights: String = (x + 1..lists.len()).map(|i| format!(" * w{}[{}]", i - x, list(i))).collect();
    format!("y[{}] = {sum}x[{}]{weights}", list(0), list(x))
}

/// The same operator with its sums, its weights and their axes in another order.
fn shuffled(text: &str, rng: &mut ChaCha8Rng) -> String {
    let has_sum = text.contains("sum[");
    let mut lists = brackets(text);
    let first = if has_sum { 3 } else { 2 };
    lists[first..].shuffle(rng);
    lists[first..].iter_mut().for_each(|axes| axes.shuffle(rng));
    if has_sum {
        lists[1].shuffle(rng);
    }
    written(&lists, has_sum)
}

/// The same operator with rows and columns exchanged, and H with W.
fn mirrored(text: &str) -> String {
    let has_sum = text.contains("sum[");
    let mut lists = brackets(text);
    for list in [0, if has_sum { 2 } else { 1 }] {
        lists[list].swap(2, 3);
    }
    let text = written(&lists, has_sum);
    text.chars()
        .map(|c| match c {
            'H' => 'W',
            'W' => 'H',
            c => c,
        })
        .collect()
}

#[test]
fn the_way_of_writing_does_not_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let cases = random_texts(150).into_iter().map(|t| (t, oblong()));
    let shipped = SHIPPED.iter().map(|o| (o.text.to_string(), vec![o.family.small()]));
    let library = LIBRARY.iter().map(|l| (l.2.to_string(), library_sizes()));
    for (text, bindings) in cases.chain(shipped).chain(library) {
        let expected = of(&text, &bindings);
        for _ in 0..3 {
            let other = shuffled(&text, &mut rng);
            assert_eq!(of(&other, &bindings), expected, "{text}\n{other}");
        }
    }
}

#[test]
fn rows_and_columns_may_change_places() {
    let small = small_bindings(&oblong()).unwrap();
    assert!(small.iter().all(|b| b.0["H"] != b.0["W"]), "{small:?}");
    let mut n_other = 0;
    for text in random_texts(150) {
        let other = mirrored(&text);
        assert_eq!(of(&text, &small), of(&other, &small), "{text}\n{other}");
        n_other += usize::from(Operator::parse(&text).unwrap() != Operator::parse(&other).unwrap());
    }
    assert!(n_other > 100, "{n_other} mirror images are other operators");
    // one variable for both
    for o in SHIPPED.iter().filter(|o| o.family != Family::Gpt) {
        assert_eq!(
            of(o.text, &[o.family.small()]),
            of(&mirrored(&o.text.replace('W', "H")).replace('W', "H"), &[o.family.small()]),
            "{}",
            o.name
        );
    }
    // a convolution along one axis of a sequence's two is not the one along the other
    let text = "y[n:N, h:H, o:Co] = sum[c:Ci, i:k] x[n, unfold(h, i), c] * w1[o, c, i]";
    let other = "y[n:N, h:H, o:Co] = sum[c:Ci, i:k] x[unfold(n, i), h, c] * w1[o, c, i]";
    assert_ne!(of(text, &small), of(other, &small));
}

#[test]
fn known_operators_differ() {
    let small = library_sizes();
    let mut known: BTreeMap<Fingerprint, &str> = BTreeMap::new();
    for (name, _, _) in LIBRARY {
        let same = known.insert(fingerprint(&resolve(name).unwrap(), &small).unwrap(), name);
        assert_eq!(same, (*name == "conv-w").then_some("conv-h"), "{name}");
    }
    let set_b = set_a().with("g", 4).with("Hin", 96).with("k1", 2).with("L", 3);
    let distinct: BTreeSet<Fingerprint> = SHIPPED.iter().map(|o| of(o.text, std::slice::from_ref(&set_b))).collect();
    assert_eq!(distinct.len(), SHIPPED.len());
}

#[test]
fn pairs_that_only_symbols_tell_apart_are_equal_where_those_are_1() {
    let text = |name: &str| SHIPPED.iter().find(|o| o.name.starts_with(name)).unwrap().text;
    let small = small_bindings(&[Family::DenseNet.layer(), Family::DenseNet.layer().with("Ci", 256).with("H", 14)]).unwrap();
    assert!(small.iter().all(|b| b.0["Co"] == b.0["g"]), "{small:?}");
    for (one, two) in [("07963", "08016"), ("07964", "07994")] {
        assert_eq!(of(text(one), &small), of(text(two), &small), "{one}");
        assert_ne!(of(text(one), &[Family::DenseNet.small()]), of(text(two), &[Family::DenseNet.small()]), "{one}");
    }
    assert_ne!(of(text("07961"), &small), of(text("07964"), &small));
}

#[test]
fn what_weights_can_reach_is_compared_not_how_many_there_are() {
    let small = small_bindings(&slots()).unwrap();
    let equal = [
        // a sum over one weight alone; a weight's axis with another name for its places; elements that multiply nothing
        ("y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c]", "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,r:g] x[n,c,h,w] * w1[o,c,r]"),
        (
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c]",
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[shift(o),outer(c,s),inner(c,s)]",
        ),
        ("y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c]", "y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[stride(o,s),c]"),
        (
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,r:s] x[n,c,h,w] * u[o,r] * v[r,c]",
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,r:s] x[n,c,h,w] * u[shift(r),c] * v[o,r]",
        ),
    ];
    for (one, two) in &equal {
        assert_eq!(of(one, &small), of(two, &small), "{two}");
    }
    let differ = [
        // the taps of one window, and of none
        (
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k] x[n,c,unfold(h,i),w] * w1[o,c,i]",
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k] x[n,c,unfold(h,i),w] * w1[o,c]",
        ),
        // one element for two channels
        ("y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c]", "y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,outer(c,s)]"),
        // not seen: the second weight could be absorbed by the first
        ("y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c]", "y[n:N,o:Co,h:H,w:W] = sum[c:Ci] x[n,c,h,w] * w1[o,c] * w2[c]"),
        // which of two weights has which axis
        (
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k,j:k] x[n,c,unfold(h,i),unfold(w,j)] * u[c,i] * v[o,c,j]",
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k,j:k] x[n,c,unfold(h,i),unfold(w,j)] * u[c,i,j] * v[o,c]",
        ),
        (
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k,j:k] x[n,c,unfold(h,i),unfold(w,j)] * u[c,i] * v[o,j]",
            "y[n:N,o:Co,h:H,w:W] = sum[c:Ci,i:k,j:k] x[n,c,unfold(h,i),unfold(w,j)] * u[o,i] * v[o,c,j]",
        ),
    ];
    for (one, two) in &differ {
        assert_ne!(of(one, &small), of(two, &small), "{two}");
    }
}

// ---- small sizes ----

#[test]
fn small_sizes_keep_what_divides_what_is_1_and_what_is_equal() {
    for real in [slots(), oblong(), vec![Family::DenseNet.layer()], vec![Family::Gpt.layer()]] {
        let small = small_bindings(&real).unwrap();
        let everywhere = |holds: &dyn Fn(&Binding) -> bool| real.iter().all(holds);
        assert_eq!(small.len(), 2, "{small:?}");
        for b in &small {
            for (name, &value) in &b.0 {
                if name.starts_with(char::is_lowercase) {
                    assert!(everywhere(&|r| r.0[name] == value), "{name} keeps its value");
                    continue;
                }
                for (other, &second) in &b.0 {
                    assert_eq!(value == second, everywhere(&|r| r.0[name] == r.0[other]), "{name} and {other} at {b}");
                    let coefficient = other.starts_with(char::is_lowercase);
                    assert!(!coefficient || value % second == 0 || !everywhere(&|r| r.0[name] % r.0[other] == 0), "{name}/{other} at {b}");
                }
            }
        }
        let free = |name: &str| small[0].0.get(name) != small[1].0.get(name);
        assert!(["H", "W", "Ci", "Hin"].iter().any(|name| free(name)), "{small:?}");
    }
    assert!(small_bindings(&[]).is_err());
}

#[test]
fn every_operator_of_a_space_divides_at_its_small_sizes() {
    let space = Space::of_conv(slots(), &["g", "s", "k"].map(String::from), 12, 2).unwrap();
    let mut synthesizer = Synthesizer::new(space, 2).unwrap();
    let small = small_bindings(&slots()).unwrap();
    for _ in 0..200 {
        let operator = synthesizer.next().unwrap();
        fingerprint(&operator, &small).unwrap();
    }
}

#[test]
fn sizes_that_do_not_divide_and_missing_sizes_are_errors() {
    let operator = resolve("grouped").unwrap();
    assert!(fingerprint(&operator, &[]).unwrap_err().to_string().contains("at least one binding"));
    let odd = set_a().with("Co", 7);
    assert!(fingerprint(&operator, &[odd]).unwrap_err().to_string().contains("Co/g"));
    assert!(fingerprint(&operator, &[Binding::of(&[("N", 1)])]).unwrap_err().to_string().contains("has no value"));
    let wide = Operator::parse("y[h:H, w:W] = x[split(h, w)]").unwrap();
    let large = Binding::of(&[("H", 1 << 20), ("W", 1 << 20)]);
    assert!(fingerprint(&wide, &[large]).unwrap_err().to_string().contains("smaller sizes"));
}

// ---- brute force ----

/// A linear map: the nonzero entries (place of y, place of x, count).
type Map = Vec<(usize, usize, u32)>;

/// Numbers for things, the same for equal things: exact in place of hashed.
#[derive(Default)]
struct Names<T: Ord>(BTreeMap<T, usize>);

impl<T: Ord> Names<T> {
    fn of(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }
}

/// Digits in one run of the interpreter: five of base 16 are exact in f32.
const DIGITS: usize = 5;

/// Every tuple of weight elements with the map it multiplies, by the interpreter with one-hot weights.
fn family(operator: &Operator, binding: &Binding) -> Vec<(Vec<usize>, Map)> {
    let nest = lower::lower_flat(operator, binding).unwrap();
    let n_x = nest.tensors[0].n_elements();
    let sizes: Vec<usize> = (0..operator.weights().len()).map(|w| nest.tensors[w + 1].n_elements()).collect();
    let mut found = Vec::new();
    for tuple in 0..sizes.iter().product() {
        let mut rest: usize = tuple;
        let elements: Vec<usize> = sizes
            .iter()
            .map(|&n| {
                let e = rest % n;
                rest /= n;
                e
            })
            .collect();
        let hot: Vec<Vec<f32>> =
            sizes.iter().zip(&elements).map(|(&n, &e)| (0..n).map(|i| f32::from(u8::from(i == e))).collect()).collect();
        let mut map = Map::new();
        for start in (0..n_x).step_by(DIGITS) {
            let x: Vec<f32> =
                (0..n_x).map(|i| if (start..start + DIGITS).contains(&i) { 16f32.powi((i - start) as i32) } else { 0.0 }).collect();
            let arguments: Vec<&[f32]> = std::iter::once(&x[..]).chain(hot.iter().map(Vec::as_slice)).collect();
            for (y, value) in lower::interp(&nest, &arguments).unwrap().into_iter().enumerate() {
                let digits = (0..DIGITS).map(|i| (start + i, value as u32 >> (4 * i) & 15));
                map.extend(digits.filter(|d| d.1 > 0).map(|(x, count)| (y, x, count)));
            }
        }
        if !map.is_empty() {
            map.sort_unstable();
            found.push((elements, map));
        }
    }
    found
}

/// Maps with the colours of the elements that multiply each.
type Row = Vec<(usize, Vec<usize>)>;

/// A number for the family, equal for equal ones: maps exact, twins joined, then colours refined three times and each order of
/// at most two weights tried.
#[derive(Default)]
struct Families {
    maps: Names<Map>,
    colours: Names<(usize, Row)>,
    whole: Names<Row>,
}

impl Families {
    fn of(&mut self, family: &[(Vec<usize>, Map)], n_weights: usize, image: (usize, usize)) -> usize {
        let (plain, mirror) = (
            |i: usize| i,
            |i: usize| {
                let (c, h, w) = (i / (image.0 * image.1), i / image.1 % image.0, i % image.1);
                c * image.0 * image.1 + w * image.0 + h
            },
        );
        let mut numbers = Vec::new();
        for turn in [&plain as &dyn Fn(usize) -> usize, &mirror] {
            let mut entries: Vec<(Vec<usize>, usize)> = Vec::new();
            for (elements, map) in family {
                let mut map: Map = map.iter().map(|&(y, x, n)| (turn(y), turn(x), n)).collect();
                map.sort_unstable();
                entries.push((elements.clone(), self.maps.of(map)));
            }
            let entries = without_twins(entries, n_weights);
            for backwards in [false, true] {
                let order: Vec<usize> = if backwards { (0..n_weights).rev().collect() } else { (0..n_weights).collect() };
                let entries: Vec<_> = entries.iter().map(|(e, m)| (order.iter().map(|&w| e[w]).collect::<Vec<_>>(), *m)).collect();
                numbers.push(self.refined(&entries, n_weights));
            }
        }
        numbers.into_iter().min().unwrap_or(0)
    }

    fn refined(&mut self, entries: &[(Vec<usize>, usize)], n_weights: usize) -> usize {
        let mut colours: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let seen = |colours: &BTreeMap<(usize, usize), usize>, (elements, map): &(Vec<usize>, usize)| {
            (*map, elements.iter().enumerate().map(|(w, &e)| colours.get(&(w, e)).copied().unwrap_or(0)).collect::<Vec<_>>())
        };
        for _ in 0..3 {
            let mut rows: BTreeMap<(usize, usize), Row> = BTreeMap::new();
            for entry in entries {
                for w in 0..n_weights {
                    rows.entry((w, entry.0[w])).or_default().push(seen(&colours, entry));
                }
            }
            colours = rows
                .into_iter()
                .map(|(element, mut row)| {
                    row.sort_unstable();
                    (element, self.colours.of((element.0, row)))
                })
                .collect();
        }
        let mut all: Vec<_> = entries.iter().map(|e| seen(&colours, e)).collect();
        all.sort_unstable();
        self.whole.of(all)
    }
}

/// One element of each weight for those that multiply the same.
fn without_twins(entries: Vec<(Vec<usize>, usize)>, n_weights: usize) -> Vec<(Vec<usize>, usize)> {
    let mut kept = entries.clone();
    for w in 0..n_weights {
        let mut rows: BTreeMap<usize, Vec<(Vec<usize>, usize)>> = BTreeMap::new();
        for (elements, map) in &entries {
            let others = elements.iter().enumerate().filter(|e| e.0 != w).map(|e| *e.1).collect();
            rows.entry(elements[w]).or_default().push((others, *map));
        }
        let mut seen = BTreeSet::new();
        let first: BTreeSet<usize> = rows
            .into_iter()
            .filter_map(|(e, mut row)| {
                row.sort_unstable();
                seen.insert(row).then_some(e)
            })
            .collect();
        kept.retain(|e| first.contains(&e.0[w]));
    }
    kept
}

#[test]
fn equal_exactly_where_families_found_by_one_hot_weights_are_equal() {
    let (mut n_compared, mut n_equal) = (0, 0);
    for (c, o, h, seed) in [(2, 2, 4, 1), (2, 4, 4, 2)] {
        let binding = Binding::of(&[("N", 1), ("Ci", c), ("Co", o), ("H", h), ("W", h), ("s", 2), ("k", 3)]);
        let mut space = Space::of_conv(vec![binding.clone()], &["s", "k"].map(String::from), 10, 2).unwrap();
        space.max_params = vec![80];
        let mut synthesizer = Synthesizer::new(space, seed).unwrap();
        let (mut families, mut known) = (Families::default(), Vec::new());
        while known.len() < 40 {
            let operator = synthesizer.next().unwrap();
            let n_tuples: i64 = operator
                .weights()
                .iter()
                .map(|w| w.iter().map(|&d| operator.graph().size(d).evaluate(operator.variables(), &binding).unwrap()).product::<i64>())
                .product();
            if n_tuples > 300 {
                continue;
            }
            // the space has few equal ones: rows and columns change places in one of four
            let mirror = (known.len() % 4 == 0).then(|| Operator::parse(&mirrored(&operator.to_string())).unwrap());
            for operator in std::iter::once(operator).chain(mirror) {
                let number = families.of(&family(&operator, &binding), operator.weights().len(), (h as usize, h as usize));
                let fingerprint = fingerprint(&operator, std::slice::from_ref(&binding)).unwrap();
                known.push((operator.to_string(), operator.weights().len(), number, fingerprint));
            }
        }
        for (i, a) in known.iter().enumerate() {
            for b in known[..i].iter().filter(|b| b.1 == a.1) {
                assert_eq!(a.2 == b.2, a.3 == b.3, "{}\n{}", a.0, b.0);
                n_compared += 1;
                n_equal += usize::from(a.2 == b.2);
            }
        }
    }
    assert!(n_compared > 500 && n_equal > 10, "{n_equal} of {n_compared} are equal");
}
