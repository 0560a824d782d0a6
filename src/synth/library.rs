//! Known operators by name, usable wherever an operator's text is.

use super::operator::Operator;
use crate::error::{Result, invalid};

/// `(name, what it is, text)`. Variables: N batch, Ci/Co channels in/out, H W image, L tokens, k window, g groups, s block,
/// r stride of the slot.
/// Those from Syno follow its hand-built samples and its two published results (Syno, section 9 and its artifact).
pub const LIBRARY: &[(&str, &str, &str)] = &[
    ("conv", "k×k convolution", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]"),
    ("conv1x1", "1×1 convolution (projection)", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci] x[n, c, h, w] * w1[o, c]"),
    ("conv-h", "k×1 convolution", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k] x[n, c, unfold(h, i), w] * w1[o, c, i]"),
    ("conv-w", "1×k convolution", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, j:k] x[n, c, h, unfold(w, j)] * w1[o, c, j]"),
    (
        "conv-dilated",
        "k×k convolution, taps k apart (not centred)",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, stride(i, k)), unfold(w, stride(j, k))] * w1[o, c, i, j]",
    ),
    (
        "grouped",
        "k×k convolution in g groups",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci/g, i:k, j:k] x[n, split(outer(o, Co/g), c), unfold(h, i), unfold(w, j)] * w1[o, c, i, j]",
    ),
    (
        "grouped-tied",
        "k×k convolution in s groups that share one weight",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci/s, i:k, j:k] x[n, split(outer(o, Co/s), c), unfold(h, i), unfold(w, j)] * w1[inner(o, Co/s), c, i, j]",
    ),
    (
        "grouped-low-rank",
        "grouped and point-wise with a small rank",
        "y[n:N, o:Co, h:H, w:W] = sum[m:g, c:Ci/g, r:Co/g/s, i:k, j:k] x[n, split(m, c), unfold(h, i), unfold(w, j)] * w1[r, split(m, c), i, j] * w2[o, m, r]",
    ),
    (
        "depthwise",
        "k×k depthwise convolution (C channels)",
        "y[n:N, o:C, h:H, w:W] = sum[i:k, j:k] x[n, o, unfold(h, i), unfold(w, j)] * w1[o, i, j]",
    ),
    (
        "separable",
        "depthwise, then 1×1",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[c, i, j] * w2[o, c]",
    ),
    ("low-rank", "1×1 convolution of rank g", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, m:g] x[n, c, h, w] * w1[c, m] * w2[m, o]"),
    (
        "spatial-low-rank",
        "k×1 then 1×k convolution through Ci/s channels",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, r:Ci/s, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[c, r, i] * w2[o, r, j]",
    ),
    ("shift", "shift by one in both directions, then 1×1", "y[n:N, o:Co, h:H, w:W] = sum[c:Ci] x[n, c, shift(h), shift(w)] * w1[o, c]"),
    (
        "conv-shift",
        "k×1 convolution, shifted sideways",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k] x[n, c, unfold(h, i), shift(w)] * w1[o, c, i]",
    ),
    (
        "conv-transposed",
        "k×1 convolution of the transposed image (H = W)",
        "y[n:N, o:Co, h:H, w:H] = sum[c:Ci, i:k] x[n, c, unfold(w, i), h] * w1[o, c, i]",
    ),
    (
        "pooled",
        "k×k convolution on s×s blocks",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k, p:s, q:s] x[n, c, split(unfold(outer(h, s), i), p), split(unfold(outer(w, s), j), q)] * w1[o, c, i, j]",
    ),
    (
        "pooled-h",
        "k×k convolution on blocks of s rows",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k, p:s] x[n, c, split(unfold(outer(h, s), i), p), unfold(w, j)] * w1[o, c, i, j]",
    ),
    ("sum-pool", "s×s sum pooling", "y[n:N, o:C, h:H/s, w:W/s] = sum[p:s, q:s] x[n, o, split(h, p), split(w, q)]"),
    (
        "pixel-shuffle",
        "depth to space",
        "y[n:N, o:C/s^2, h:s*H, w:s*W] = x[n, split(split(o, inner(h, s)), inner(w, s)), outer(h, s), outer(w, s)]",
    ),
    (
        "space-to-depth",
        "s×s blocks into channels",
        "y[n:N, o:C*s^2, h:H/s, w:W/s] = x[n, outer(o, s^2), split(h, outer(inner(o, s^2), s)), split(w, inner(inner(o, s^2), s))]",
    ),
    (
        "conv-strided",
        "k×k convolution of stride r",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[o, c, i, j]",
    ),
    (
        "grouped-strided",
        "k×k convolution of stride r in g groups",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci/g, i:k, j:k] x[n, split(outer(o, Co/g), c), unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[o, c, i, j]",
    ),
    (
        "depthwise-strided",
        "k×k depthwise convolution of stride r (C channels)",
        "y[n:N, o:C, h:H, w:W] = sum[i:k, j:k] x[n, o, unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[o, i, j]",
    ),
    (
        "separable-strided",
        "depthwise of stride r, then 1×1",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[c, i, j] * w2[o, c]",
    ),
    (
        "patches",
        "r×r convolution of stride r (patches side by side)",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, p:r, q:r] x[n, c, split(h, p), split(w, q)] * w1[o, c, p, q]",
    ),
    ("linear", "projection of a sequence", "y[n:N, t:L, o:Co] = sum[c:Ci] x[n, t, c] * w1[c, o]"),
    (
        "linear-low-rank",
        "projection of a sequence through Ci/s channels",
        "y[n:N, t:L, o:Co] = sum[c:Ci, r:Ci/s] x[n, t, c] * w1[c, r] * w2[o, r]",
    ),
    (
        "linear-grouped",
        "projection of a sequence in g groups (a block-diagonal matrix)",
        "y[n:N, t:L, o:Co] = sum[c:Ci/g] x[n, t, split(outer(o, Co/g), c)] * w1[o, c]",
    ),
    (
        "linear-grouped-tied",
        "projection of a sequence in s groups that share one weight",
        "y[n:N, t:L, o:Co] = sum[c:Ci/s] x[n, t, split(outer(o, Co/s), c)] * w1[inner(o, Co/s), c]",
    ),
    (
        "linear-shuffled",
        "projection of a sequence in g groups, each reading every g-th channel",
        "y[n:N, t:L, o:Co] = sum[c:Ci/g] x[n, t, split(c, outer(o, Co/g))] * w1[o, c]",
    ),
    (
        "linear-grouped-shift",
        "projection in g groups of the next token",
        "y[n:N, t:L, o:Co] = sum[c:Ci/g] x[n, shift(t), split(outer(o, Co/g), c)] * w1[o, c]",
    ),
    ("linear-shift", "projection of the next token", "y[n:N, t:L, o:Co] = sum[c:Ci] x[n, shift(t), c] * w1[o, c]"),
    ("conv1d", "convolution over k tokens", "y[n:N, t:L, o:Co] = sum[c:Ci, i:k] x[n, unfold(t, i), c] * w1[o, c, i]"),
    (
        "conv1d-grouped",
        "convolution over k tokens in g groups",
        "y[n:N, t:L, o:Co] = sum[c:Ci/g, i:k] x[n, unfold(t, i), split(outer(o, Co/g), c)] * w1[o, c, i]",
    ),
    (
        "conv1d-depthwise",
        "depthwise convolution over k tokens (C channels)",
        "y[n:N, t:L, o:C] = sum[i:k] x[n, unfold(t, i), o] * w1[o, i]",
    ),
    (
        "conv1d-separable",
        "depthwise over k tokens, then a projection",
        "y[n:N, t:L, o:Co] = sum[c:Ci, i:k] x[n, unfold(t, i), c] * w1[c, i] * w2[o, c]",
    ),
    (
        "syno-1",
        "Syno's Operator 1",
        "y[n:N, o:Co, h:H, w:W] = sum[m:g, c:Ci/g, i:k, j:k, r:Co/g/s] x[n, split(m, c), unfold(h, i), unfold(w, j)] * w1[o, m, i, j, r] * w2[split(m, c), j, r]",
    ),
    (
        "syno-2",
        "Syno's Operator 2",
        "y[n:N, o:Co, h:H, w:W] = sum[m:g, c:Ci/g, i:k, j:k, r:Co/g/s] x[n, split(m, c), shift(unfold(h, i)), unfold(w, j)] * w1[o, m, i, r] * w2[split(m, c), j, r]",
    ),
    (
        "syno-stacked",
        "Syno's stacked convolution",
        "y[n:N, o:Co, h:H, w:W] = sum[m:g, c:Ci/g, i:k, j:k, e:k, r:Co/g/s] x[n, split(m, c), unfold(h, i), unfold(unfold(w, j), e)] * w1[o, m, i, j, r] * w2[split(m, c), e, r]",
    ),
    (
        "syno-07923",
        "a hand-kept result of Syno's search",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, j:k, r:s] x[n, c, outer(shift(split(h, r)), s), unfold(w, j)] * w1[inner(shift(split(h, r)), s), o, c, j]",
    ),
    (
        "syno-07750",
        "a result of Syno's search",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci/s, i:k, r:s] x[n, split(inner(shift(split(h, r)), s), c), outer(shift(split(h, r)), s), shift(unfold(w, i))] * w1[r, c, i, o]",
    ),
];

/// The operator of that name, or the one that the text describes.
///
/// # Errors
/// Neither a known name (near ones are listed) nor a text that parses.
pub fn resolve(name_or_text: &str) -> Result<Operator> {
    let given = name_or_text.trim();
    if let Some(entry) = LIBRARY.iter().find(|e| e.0 == given) {
        return Operator::parse(entry.2);
    }
    if given.contains(['[', '=', ' ']) {
        return Operator::parse(given);
    }
    let names: Vec<_> = LIBRARY.iter().map(|e| e.0).collect();
    invalid(format!("no operator is called {given:?}: use a text y[…] = …, a trial of a store, or one of {}", names.join(", ")))
}
