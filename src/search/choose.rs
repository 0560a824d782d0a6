//! Which candidates are worth the full effort, and which one wins.

/// What the choice is made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub number: u32,
    /// 0 to 1.
    pub accuracy: f64,
    pub secs: f64,
}

/// Is an accuracy at least the least asked for? Rounding of a percentage point must not decide.
pub fn keeps(accuracy: f64, least: f64) -> bool {
    accuracy >= least - 1e-9
}

/// The `n` candidates for full training. In turn: the fastest whose short training kept the accuracy, and the most accurate
/// of all that are left, because short trainings are noisy and a fast candidate that fails leaves nothing.
pub fn finalists(candidates: &[Candidate], baseline_accuracy: f64, drop: f64, n: usize) -> Vec<u32> {
    let mut left: Vec<&Candidate> = candidates.iter().collect();
    let mut chosen = Vec::new();
    while chosen.len() < n && !left.is_empty() {
        let good = left.iter().filter(|c| keeps(c.accuracy, baseline_accuracy - drop));
        let fastest = good.min_by(|a, b| a.secs.total_cmp(&b.secs).then(a.number.cmp(&b.number)));
        let accurate = left.iter().max_by(|a, b| a.accuracy.total_cmp(&b.accuracy).then(b.number.cmp(&a.number)));
        let turn = if chosen.len() % 2 == 0 { fastest.or(accurate) } else { accurate };
        let Some(number) = turn.map(|c| c.number) else { break };
        chosen.push(number);
        left.retain(|c| c.number != number);
    }
    chosen
}

/// The fastest candidate that keeps the accuracy and beats the baseline's time; `None` when none does.
pub fn winner(candidates: &[Candidate], baseline: Candidate, drop: f64) -> Option<u32> {
    let good = candidates.iter().filter(|c| keeps(c.accuracy, baseline.accuracy - drop) && c.secs < baseline.secs);
    good.min_by(|a, b| a.secs.total_cmp(&b.secs)).map(|c| c.number)
}
