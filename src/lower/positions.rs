//! Index expressions and guards evaluated over all positions of some loops, row-major.

use super::index::Index;
use super::loops::{Guard, Loop};

fn each(loops: &[Loop], mut f: impl FnMut(&[i64])) {
    let n: i64 = loops.iter().map(|l| l.extent).product();
    let mut at = vec![0i64; loops.len()];
    for _ in 0..n {
        f(&at);
        for (i, l) in loops.iter().enumerate().rev() {
            at[i] += 1;
            if at[i] < l.extent {
                break;
            }
            at[i] = 0;
        }
    }
}

/// The index at every position, limited to `0..size` (positions outside are masked elsewhere).
pub(super) fn gathered(loops: &[Loop], index: &Index, size: i64) -> Vec<i64> {
    let mut out = Vec::new();
    each(loops, |at| out.push(index.eval(at).clamp(0, size - 1)));
    out
}

/// 1 where all guards hold, else 0.
pub(super) fn mask(loops: &[Loop], guards: &[Guard]) -> Vec<f32> {
    let mut out = Vec::new();
    each(loops, |at| out.push(f32::from(u8::from(guards.iter().all(|g| (0..g.extent).contains(&g.index.eval(at)))))));
    out
}
