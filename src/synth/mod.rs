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

pub use graph::{Dim, Graph};
pub use operator::{MAX_WEIGHTS, Operator};
pub use partial::{Action, Partial};
pub use prim::Prim;
pub use random::Synthesizer;
pub use size::{Binding, Size, Variables};
pub use space::Space;

/// FNV-1a, 64 bits: the one hash behind ids and seeds, the same everywhere and always.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A child seed for one purpose: a hash of the seed and what it is for.
pub fn child_seed(seed: u64, what: &str) -> u64 {
    stable_hash(format!("{seed}/{what}").as_bytes())
}
