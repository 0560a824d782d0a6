//! A made-up space with the shape of the real one: typed actions that commute between barriers, dead ends, and of the
//! order of 10⁹ finals.
//!
//! A word begins with up to three reductions in any order; letters of different plain kinds commute, letters of one kind
//! do not; nothing commutes with a barrier. A word can end when it has a barrier and two plain letters and its charge is
//! a multiple of four. Letters cost and serve, the dear ones mostly more; some pairs within a block serve or harm together.

use std::collections::HashMap;
use std::sync::LazyLock;
use syntune::search::reward::{Point, Scale};
use syntune::search::tree::{Arc, FinalId, Step, To, Tree};
use syntune::synth::{child_seed, stable_hash};

const REDUCE: u8 = 0;
const BARRIER: u8 = 5;
const END: u8 = 7;
const N_LETTERS: [u8; 6] = [6, 5, 5, 5, 5, 4];
const MOST: [usize; 6] = [3, 3, 3, 3, 3, 2];
/// One pair in so many serves, and one harms.
const PAIRS: u64 = 7;
/// Seconds that nothing can save.
const FLOOR: f64 = 0.15;
/// Worth at which half of the accuracy is there: three deviations above the mean of random words.
const USEFUL: f64 = 4.5;
const SLOPE: f64 = 1.5;

type Letter = (u8, u8);

pub struct Words {
    max_len: usize,
    seen: HashMap<FinalId, Vec<Letter>>,
}

/// A fixed number in 0..1 for a name.
fn unit(what: String) -> f64 {
    (child_seed(11, &what) >> 11) as f64 / (1u64 << 53) as f64
}

/// Charges of all letters by kind and number.
static CHARGES: LazyLock<Vec<Vec<u64>>> = LazyLock::new(|| {
    let charge = |kind: usize, letter: u8| child_seed(3, &format!("charge {kind} {letter}")) % 4;
    (0..6).map(|kind| (0..N_LETTERS[kind]).map(|letter| charge(kind, letter)).collect()).collect()
});

fn hash(seed: u8, word: &[Letter]) -> u64 {
    let bytes: Vec<u8> = [seed].into_iter().chain(word.iter().flat_map(|l| [l.0, l.1])).collect();
    stable_hash(&bytes)
}

fn count(word: &[Letter], kind: u8) -> usize {
    word.iter().filter(|l| l.0 == kind).count()
}

/// The end of the last block of letters that commute.
fn block(word: &[Letter]) -> usize {
    word.iter().rposition(|l| l.0 == BARRIER || l.0 == REDUCE).map_or(0, |i| i + 1)
}

fn push(word: &[Letter], letter: Letter) -> Vec<Letter> {
    let mut next = word.to_vec();
    next.push(letter);
    match letter.0 {
        REDUCE => next.sort_unstable(),
        BARRIER => {}
        _ => {
            let start = block(&next);
            next[start..].sort_by_key(|l| l.0);
        }
    }
    next
}

fn step(word: &[Letter], letter: Letter) -> Step {
    Step { kind: letter.0, key: u64::from(letter.1) + 16 * count(word, BARRIER) as u64 }
}

impl Words {
    pub fn new(max_len: usize) -> Words {
        Words { max_len, seen: HashMap::new() }
    }

    pub fn scale() -> Scale {
        Scale { baseline: Point { secs: 1.0, accuracy: 0.8 }, least: 0.5 }
    }

    pub fn truth(&self, id: FinalId) -> Point {
        let Some(word) = self.seen.get(&id) else { return Point { secs: f64::NAN, accuracy: f64::NAN } };
        let (mut cost, mut worth, mut n_barriers) = (0.0, 0.0, 0);
        let mut start = 0;
        for (i, &(kind, letter)) in word.iter().enumerate() {
            let ln = 1.2 * unit(format!("cost {kind} {letter}")) - 0.6;
            cost += ln;
            worth += 0.7 * ln + 1.0 * unit(format!("worth {kind} {letter} {n_barriers}")) - 0.5;
            for &(k, l) in &word[start..i] {
                match child_seed(5, &format!("pair {k} {l} {kind} {letter}")) % PAIRS {
                    0 => worth += 0.7,
                    1 => worth -= 0.7,
                    _ => {}
                }
            }
            if kind == BARRIER {
                (start, n_barriers) = (i + 1, n_barriers + 1);
            }
        }
        Point { secs: FLOOR + (1.0 - FLOOR) * f64::exp(cost), accuracy: 0.1 + 0.75 / (1.0 + (SLOPE * (USEFUL - worth)).exp()) }
    }
}

impl Tree for Words {
    type State = Vec<Letter>;

    fn root(&mut self) -> Vec<Letter> {
        Vec::new()
    }

    fn key(&self, word: &Vec<Letter>) -> u128 {
        (u128::from(hash(1, word)) << 64) | u128::from(hash(2, word))
    }

    fn children(&mut self, word: &Vec<Letter>) -> Vec<Arc<Vec<Letter>>> {
        let mut arcs = Vec::new();
        let n_plain = word.iter().filter(|l| l.0 != REDUCE && l.0 != BARRIER).count();
        let charge: u64 = word.iter().map(|l| CHARGES[l.0 as usize][l.1 as usize]).sum();
        if count(word, BARRIER) > 0 && n_plain > 1 && charge.is_multiple_of(4) {
            let id = hash(3, word);
            self.seen.entry(id).or_insert_with(|| word.clone());
            arcs.push(Arc { kind: END, key: 0, to: To::Final(id) });
        }
        if word.len() == self.max_len {
            return arcs;
        }
        for kind in 0..6u8 {
            let started = word.len() > count(word, REDUCE);
            if count(word, kind) == MOST[kind as usize] || (kind == REDUCE && started) {
                continue;
            }
            for letter in 0..N_LETTERS[kind as usize] {
                let last = word[block(word)..].iter().rfind(|l| l.0 == kind);
                if kind == REDUCE || last != Some(&(kind, letter)) {
                    let letter = (kind, letter);
                    let step = step(word, letter);
                    arcs.push(Arc { kind: step.kind, key: step.key, to: To::Partial(push(word, letter)) });
                }
            }
        }
        arcs
    }

    fn path(&mut self, id: FinalId) -> Vec<Vec<Step>> {
        let Some(word) = self.seen.get(&id) else { return Vec::new() };
        let mut blocks: Vec<Vec<Step>> = vec![Vec::new()];
        let mut before = REDUCE;
        for (i, &letter) in word.iter().enumerate() {
            let joins = letter.0 != BARRIER && before != BARRIER && (letter.0 == REDUCE) == (before == REDUCE);
            if !joins {
                blocks.push(Vec::new());
            }
            if let Some(block) = blocks.last_mut() {
                block.push(step(&word[..i], letter));
            }
            before = letter.0;
        }
        blocks.push(vec![Step { kind: END, key: 0 }]);
        blocks.retain(|b| !b.is_empty());
        blocks
    }
}
