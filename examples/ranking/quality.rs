//! How good a ranking is, from true seconds and guessed scores (higher is faster).

/// The best tenth is asked for.
const TENTH: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Kendall's τ-b without its correction for ties: pairs in the right order less pairs in the wrong one, as a share.
    pub tau: f64,
    pub spearman: f64,
    /// The share of the fastest tenth that is among the tenth guessed fastest.
    pub recall: f64,
    /// Seconds of the fastest of the 1 and of the 8 guessed fastest, over those of the fastest.
    pub regret: [f64; 2],
}

impl Quality {
    pub fn of(secs: &[f64], scores: &[f64]) -> Quality {
        let n = secs.len();
        let (mut right, mut n_pairs) = (0.0, 0.0);
        for i in 0..n {
            for j in 0..i {
                n_pairs += 1.0;
                let order = (secs[j] - secs[i]) * (scores[i] - scores[j]);
                right += if order > 0.0 {
                    1.0
                } else if order < 0.0 {
                    -1.0
                } else {
                    0.0
                };
            }
        }
        let (fast, slow) = (ranks(secs), ranks(&scores.iter().map(|s| -s).collect::<Vec<_>>()));
        let mean = (n as f64 - 1.0) / 2.0;
        let covariance: f64 = fast.iter().zip(&slow).map(|(a, b)| (a - mean) * (b - mean)).sum();
        let variance: f64 = (0..n).map(|i| (i as f64 - mean).powi(2)).sum();
        let order = |values: &[f64]| {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            order
        };
        let (truly, guessed) = (order(secs), order(&scores.iter().map(|s| -s).collect::<Vec<_>>()));
        let k = n.div_ceil(TENTH);
        let found = guessed[..k].iter().filter(|i| truly[..k].contains(i)).count();
        let regret = [1, 8].map(|m| guessed[..m.min(n)].iter().map(|&i| secs[i]).fold(f64::INFINITY, f64::min) / secs[truly[0]]);
        Quality { tau: right / n_pairs, spearman: covariance / variance, recall: found as f64 / k as f64, regret }
    }

    /// Arithmetic means, geometric ones of the regrets.
    pub fn mean(all: &[Quality]) -> Quality {
        let n = all.len().max(1) as f64;
        let mean = |f: &dyn Fn(&Quality) -> f64| all.iter().map(f).sum::<f64>() / n;
        let regret = [0, 1].map(|i| mean(&|q| q.regret[i].ln()).exp());
        Quality { tau: mean(&|q| q.tau), spearman: mean(&|q| q.spearman), recall: mean(&|q| q.recall), regret }
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quality { tau, spearman, recall, regret } = self;
        write!(f, "τ {tau:.3}  ρ {spearman:.3}  recall {recall:.3}  top-1 {:.3}  top-8 {:.3}", regret[0], regret[1])
    }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    order.iter().enumerate().for_each(|(rank, &i)| ranks[i] = rank as f64);
    ranks
}
