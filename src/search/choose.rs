//! Which candidates are worth the full effort, and which one wins.

/// What the choice is made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub number: u32,
    /// 0 to 1.
    pub accuracy: f64,
    pub secs: f64,
}

/// Short trainings are noisy: a candidate may lose this much more than the budget in them, as a
/// fraction of all pictures.
pub const PROXY_MARGIN: f64 = 0.01;

/// The `n` candidates for full training. In turn: the fastest of those whose short training came within the allowed drop of
/// the baseline's, and the fastest of those that came within the margin of short trainings below it; places left go to
/// the most accurate of the rest.
pub fn finalists(candidates: &[Candidate], baseline_accuracy: f64, drop: f64, n: usize) -> Vec<u32> {
    let least = baseline_accuracy - drop - 1e-9;
    let fastest = |chosen: &dyn Fn(f64) -> bool| {
        let mut list: Vec<&Candidate> = candidates.iter().filter(|c| chosen(c.accuracy)).collect();
        list.sort_by(|a, b| a.secs.total_cmp(&b.secs).then(a.number.cmp(&b.number)));
        list
    };
    let good = fastest(&|a| a >= least);
    let near = fastest(&|a| a < least && a >= least - PROXY_MARGIN);
    let mut rest: Vec<&Candidate> = candidates.iter().filter(|c| c.accuracy < least - PROXY_MARGIN).collect();
    rest.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy).then(a.number.cmp(&b.number)));
    let n_turns = good.len().max(near.len());
    let in_turn = (0..n_turns).flat_map(|i| good.get(i).into_iter().chain(near.get(i)));
    in_turn.copied().chain(rest).take(n).map(|c| c.number).collect()
}

/// The fastest candidate that keeps the accuracy and beats the baseline's time; `None` when none does.
pub fn winner(candidates: &[Candidate], baseline: Candidate, drop: f64) -> Option<u32> {
    // rounding of a percentage point must not decide
    let good = candidates.iter().filter(|c| c.accuracy >= baseline.accuracy - drop - 1e-9 && c.secs < baseline.secs);
    good.min_by(|a, b| a.secs.total_cmp(&b.secs)).map(|c| c.number)
}
