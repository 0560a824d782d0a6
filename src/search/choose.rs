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

/// What a full training will show, by a short one. Short trainings are noisy, and flatter small operators: what few weights cannot
/// learn shows late. From 29 operators that ten demo searches had trained in full, of 0.1 to 0.9 of the original's weights and
/// accuracies (full training) 0.1 points above to 4.7 below the original's: least squares, which leave 0.7 points of 1.15.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The expected difference of the accuracies after full training, candidate minus original; 0.01 is a point.
    pub gap: f64,
}

/// So much of a difference after short trainings remains.
const REMAINS: f64 = 0.46;
/// What half as many weights cost.
const HALVING: f64 = 0.0085;
/// The spread of full trainings around the forecast, each operator's forecast made without it (standard deviation).
const SPREAD: f64 = 0.008;

impl Forecast {
    /// From the difference after short trainings, and the candidate's weights as a share of the original's.
    pub fn new(short_gap: f64, weights: f64) -> Forecast {
        Forecast { gap: REMAINS * short_gap + HALVING * weights.clamp(f64::MIN_POSITIVE, 1.0).log2() }
    }

    /// How likely it is to lose at most `drop`, 0 to 1; the logistic distribution, whose tails are longer than the normal one's.
    pub fn chance(&self, drop: f64) -> f64 {
        let scale = SPREAD * 3f64.sqrt() / std::f64::consts::PI;
        1.0 / (1.0 + (-(self.gap + drop) / scale).exp())
    }
}

/// A candidate for full training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contender {
    pub number: u32,
    /// How often as fast as the original its slots are.
    pub speedup: f64,
    /// How likely it is to keep the accuracy after full training.
    pub chance: f64,
    /// It did so after the short one.
    pub kept: bool,
}

/// The `n` candidates for full training: those whose fastest that keeps the accuracy will most likely be the fastest, each next one
/// as much as it adds to those before (expected improvement of the logarithm of the speed-up). The second is the fastest whose short
/// training kept the accuracy, because the forecast may be wrong about fast operators.
pub fn finalists(contenders: &[Contender], n: usize) -> Vec<u32> {
    let mut left: Vec<Contender> = contenders.to_vec();
    let mut chosen: Vec<Contender> = Vec::new();
    while chosen.len() < n && !left.is_empty() {
        let fastest = left.iter().filter(|c| c.kept).max_by(|a, b| a.speedup.total_cmp(&b.speedup).then(b.number.cmp(&a.number)));
        let with = |c: &Contender| expected([&chosen[..], &[*c]].concat());
        let hopeful = left.iter().max_by(|a, b| {
            let chance = a.chance.total_cmp(&b.chance);
            with(a).total_cmp(&with(b)).then(chance).then(b.number.cmp(&a.number))
        });
        let turn = if chosen.len() == 1 { fastest.or(hopeful) } else { hopeful };
        let Some(next) = turn.copied() else { break };
        left.retain(|c| c.number != next.number);
        chosen.push(next);
    }
    chosen.iter().map(|c| c.number).collect()
}

/// The expected logarithm of the best speed-up among those that keep the accuracy, 0 where none does.
fn expected(mut contenders: Vec<Contender>) -> f64 {
    contenders.sort_by(|a, b| b.speedup.total_cmp(&a.speedup));
    let (mut sum, mut none_before) = (0.0, 1.0);
    for c in contenders {
        sum += none_before * c.chance * c.speedup.ln().max(0.0);
        none_before *= 1.0 - c.chance;
    }
    sum
}

/// The fastest candidate that keeps the accuracy and beats the baseline's time; `None` when none does.
pub fn winner(candidates: &[Candidate], baseline: Candidate, drop: f64) -> Option<u32> {
    let good = candidates.iter().filter(|c| keeps(c.accuracy, baseline.accuracy - drop) && c.secs < baseline.secs);
    good.min_by(|a, b| a.secs.total_cmp(&b.secs)).map(|c| c.number)
}
