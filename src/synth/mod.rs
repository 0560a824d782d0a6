//! What operators exist: sizes, primitives, the arena of dims, finished operators and their text.

pub mod bound;
pub mod canon;
pub mod distance;
pub mod graph;
pub mod legal;
pub mod library;
pub mod operator;
pub mod options;
pub mod padding;
pub mod partial;
pub mod path;
pub mod prim;
pub mod random;
pub mod size;
pub mod space;
mod text;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub use graph::{Dim, Graph};
pub use operator::{MAX_WEIGHTS, Operator};
pub use partial::{Action, Partial};
pub use prim::Prim;
pub use random::Synthesizer;
pub use size::{Binding, Size, Variables};
pub use space::Space;

/// A hasher for short keys that nobody chooses to collide: words folded by multiplication.
#[derive(Clone, Copy, Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        // an odd constant with well spread bits (2^64 over the golden ratio)
        let product = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table that is only looked up.
type Folded<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// FNV-1a, 64 bits: the one hash behind ids and seeds, the same everywhere and always.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A child seed for one purpose: a hash of the seed and what it is for.
pub fn child_seed(seed: u64, what: &str) -> u64 {
    stable_hash(format!("{seed}/{what}").as_bytes())
}
