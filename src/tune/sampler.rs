//! Adaptive sampling: of many planned configs a few that stand for all are measured (Chameleon, Ahn et al. 2020, section 3.2).
//!
//! k-means over the places of *all* knobs, with more clusters until the loss hardly falls any more (the knee). Each cluster is
//! stood for by one of its own configs, the one nearest the centroid, so that everything measured is real and legal; what was
//! measured before gives way to the synthesized config of its cluster, the commonest value of each knob. (The published code
//! clusters two knobs only and draws the others at random from all candidates.)

use rand::Rng;
use std::collections::BTreeSet;

/// Clusters tried: from, to, by.
const CLUSTERS: (usize, usize, usize) = (8, 64, 8);
/// The knee: clusters are added while each addition lowers the loss by this factor (published code).
const KNEE: f64 = 2.5;
/// Iterations of k-means (Lloyd 1982), at most.
const ITERATIONS: usize = 100;

/// Which of the plans to measure: places of all knobs, scaled to 0..1 by `sizes`, none of `visited`. At most `most`.
pub fn sample(plans: &[Vec<usize>], sizes: &[usize], visited: &BTreeSet<Vec<usize>>, most: usize, rng: &mut impl Rng) -> Vec<Vec<usize>> {
    let scale = |places: &Vec<usize>| -> Vec<f64> {
        places.iter().zip(sizes).map(|(&p, &n)| p as f64 / (n.saturating_sub(1)).max(1) as f64).collect()
    };
    let points: Vec<Vec<f64>> = plans.iter().map(scale).collect();
    let mut chosen: Option<(f64, Vec<usize>, usize)> = None;
    let mut k = CLUSTERS.0;
    while k <= CLUSTERS.1.min(points.len()) {
        let (loss, members) = means(&points, k, rng);
        let gained = chosen.as_ref().is_none_or(|(before, ..)| loss * KNEE < *before);
        chosen = Some((loss, members, k));
        if !gained {
            break;
        }
        k += CLUSTERS.2;
    }
    // fewer plans than clusters: each for itself
    let (members, k) = chosen.map_or_else(|| ((0..points.len()).collect(), points.len()), |c| (c.1, c.2));
    let mut found: Vec<Vec<usize>> = Vec::new();
    for cluster in 0..k {
        let of: Vec<usize> = (0..points.len()).filter(|&i| members[i] == cluster).collect();
        let Some(centre) = centroid(&points, &of) else { continue };
        let near = of.iter().copied().min_by(|&a, &b| distance(&points[a], &centre).total_cmp(&distance(&points[b], &centre)));
        let common = (0..sizes.len()).map(|knob| mode(of.iter().map(|&i| plans[i][knob]))).collect::<Vec<_>>();
        let real = near.map(|i| plans[i].clone());
        let new = real.into_iter().chain([common]).find(|c| !visited.contains(c) && !found.contains(c));
        found.extend(new);
    }
    found.truncate(most);
    found
}

/// The loss (squared distances from the centroids), and the cluster of each point.
fn means(points: &[Vec<f64>], k: usize, rng: &mut impl Rng) -> (f64, Vec<usize>) {
    let mut centres = seeds(points, k, rng);
    let mut members = vec![usize::MAX; points.len()];
    for _ in 0..ITERATIONS {
        let nearest = |p: &Vec<f64>| (0..k).min_by(|&a, &b| distance(p, &centres[a]).total_cmp(&distance(p, &centres[b])));
        let next: Vec<usize> = points.iter().map(|p| nearest(p).unwrap_or(0)).collect();
        if next == members {
            break;
        }
        members = next;
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let of: Vec<usize> = (0..points.len()).filter(|&i| members[i] == cluster).collect();
            if let Some(moved) = centroid(points, &of) {
                *centre = moved;
            }
        }
    }
    (points.iter().zip(&members).map(|(p, &m)| distance(p, &centres[m])).sum(), members)
}

/// Far from each other: k-means++ (Arthur, Vassilvitskii 2007).
fn seeds(points: &[Vec<f64>], k: usize, rng: &mut impl Rng) -> Vec<Vec<f64>> {
    let mut centres = vec![points[rng.random_range(0..points.len())].clone()];
    while centres.len() < k {
        let far: Vec<f64> = points.iter().map(|p| centres.iter().map(|c| distance(p, c)).fold(f64::INFINITY, f64::min)).collect();
        let mut at = rng.random::<f64>() * far.iter().sum::<f64>();
        let next = far.iter().position(|d| {
            at -= d;
            at < 0.0
        });
        centres.push(points[next.unwrap_or_else(|| rng.random_range(0..points.len()))].clone());
    }
    centres
}

fn centroid(points: &[Vec<f64>], of: &[usize]) -> Option<Vec<f64>> {
    let first = *of.first()?;
    let mut sum = vec![0.0; points[first].len()];
    of.iter().for_each(|&i| sum.iter_mut().zip(&points[i]).for_each(|(s, p)| *s += p));
    Some(sum.into_iter().map(|s| s / of.len() as f64).collect())
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// The commonest value; of equals the least.
fn mode(values: impl Iterator<Item = usize>) -> usize {
    let mut counts = std::collections::BTreeMap::<usize, usize>::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    counts.into_iter().max_by_key(|&(value, n)| (n, std::cmp::Reverse(value))).map_or(0, |c| c.0)
}
