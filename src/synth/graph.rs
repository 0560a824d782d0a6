//! An append-only, hash-consed arena of dims: equal dims are the same number, children point backwards.

use super::Folded;
use super::prim::Prim;
use super::size::{Size, Variables};

/// One axis of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(pub u32);

/// The arena. Dims never change; partial operators share them.
#[derive(Clone, Debug)]
pub struct Graph {
    variables: Variables,
    dims: Vec<(Prim, Size)>,
    known: Folded<(Prim, Size), Dim>,
}

impl Graph {
    pub fn new(variables: Variables) -> Graph {
        Graph { variables, dims: Vec::new(), known: Folded::default() }
    }

    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Dims made so far.
    pub fn n_dims(&self) -> usize {
        self.dims.len()
    }

    /// A leaf (output axis or summed axis) of a given size.
    pub fn leaf(&mut self, prim: Prim, size: Size) -> Dim {
        debug_assert!(matches!(prim, Prim::Output(_) | Prim::Reduce(_)));
        self.intern(prim, size)
    }

    /// The dim that a primitive makes, its size by the shape rule.
    pub fn make(&mut self, prim: Prim) -> Dim {
        let size = prim.size(self).expect("a leaf is made by Graph::leaf");
        self.intern(prim, size)
    }

    fn intern(&mut self, prim: Prim, size: Size) -> Dim {
        let next = Dim(self.dims.len() as u32);
        let dim = *self.known.entry((prim, size)).or_insert(next);
        if dim == next {
            self.dims.push((prim, size));
        }
        dim
    }

    pub fn prim(&self, d: Dim) -> Prim {
        self.dims[d.0 as usize].0
    }

    pub fn size(&self, d: Dim) -> Size {
        self.dims[d.0 as usize].1
    }

    /// `of` and everything below it (towards the output), each once.
    pub fn below(&self, of: Dim) -> Vec<Dim> {
        let mut seen = vec![of];
        let mut next = 0;
        while next < seen.len() {
            for d in self.prim(seen[next]).consumed() {
                if !seen.contains(&d) {
                    seen.push(d);
                }
            }
            next += 1;
        }
        seen
    }

    /// Is `what` below `of`, or `of` itself?
    pub fn depends(&self, of: Dim, what: Dim) -> bool {
        of == what || self.prim(of).consumed().any(|d| self.depends(d, what))
    }
}
