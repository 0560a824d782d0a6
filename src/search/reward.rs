//! How good a trial is: its accuracy and its measured seconds in one number, relative to what is known already.
//!
//! A search for a front is worth as much as the hypervolume it dominates, so a point is worth what the hypervolume would
//! lose without it (the exclusive contribution, as in SMS-EMOA: Beume, Naujoks, Emmerich 2007). That alone says nothing about
//! the many points that add nothing, so one half of the reward is a grade: how far the point is from adding something, as the
//! least shift of both coordinates that would do it (the additive ε-indicator: Zitzler et al. 2003). Both parts are in 0..=1
//! and the grade of a point that adds something is 1, so such a point always has more than any that does not.
//!
//! Syno's reward, a power of the accuracy, prefers accurate operators of any cost; a weighted sum goes to the ends of a
//! front that bends inwards. `examples/search_quality` compares the three.
//!
//! Rewards are functions of the raw points and the present front. When the front moves, all are computed anew
//! ([`crate::search::mcts::Search::rescore`]), so the order of trials leaves no trace in them.

/// A point this far from adding something, in units of the scale, has half of the grade. Operators at the baseline's
/// place are about one unit away from a good front.
const HALF_GRADE: f64 = 0.25;
/// The part of the reward that is the grade.
const GRADE: f64 = 0.5;

/// One trial as a search sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub secs: f64,
    /// 0 to 1.
    pub accuracy: f64,
}

/// What points are measured by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The model to beat.
    pub baseline: Point,
    /// The smallest accuracy that is of any use.
    pub least: f64,
}

impl Scale {
    /// The share of the baseline's time that is saved, and the share of its useful accuracy that is kept. The reference point
    /// (baseline's seconds, least accuracy) is (0, 0); worse is negative, and a better accuracy than the baseline's above 1.
    fn place(&self, p: Point) -> (f64, f64) {
        let useful = (self.baseline.accuracy - self.least).max(f64::MIN_POSITIVE);
        (1.0 - p.secs / self.baseline.secs, (p.accuracy - self.least) / useful)
    }
}

/// The points that no other one beats in both respects.
#[derive(Clone, Debug)]
pub struct Front {
    scale: Scale,
    /// Inside the scale, by rising share of time saved and falling accuracy.
    places: Vec<(f64, f64)>,
}

impl Front {
    pub fn new(scale: Scale) -> Front {
        Front { scale, places: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes a point in; says whether the front moved.
    pub fn push(&mut self, p: Point) -> bool {
        let new = self.scale.place(p);
        if !(new.0 > 0.0 && new.1 > 0.0) || self.places.iter().any(|q| q.0 >= new.0 && q.1 >= new.1) {
            return false;
        }
        self.places.retain(|q| q.0 > new.0 || q.1 > new.1);
        let at = self.places.partition_point(|q| q.0 < new.0);
        self.places.insert(at, new);
        true
    }

    /// The area that the front dominates, from the reference point on: 1 would be the baseline's accuracy in no time.
    pub fn hypervolume(&self) -> f64 {
        area(self.places.iter().copied())
    }

    /// The hypervolume that only this point gives or would give.
    pub fn gain(&self, p: Point) -> f64 {
        self.gain_of(self.scale.place(p))
    }

    fn gain_of(&self, new: (f64, f64)) -> f64 {
        if !(new.0 > 0.0 && new.1 > 0.0) {
            return 0.0;
        }
        // what of the new rectangle the others leave open: strips between their accuracies, from the slow end
        let (mut left, mut gain) = (0.0, 0.0);
        for q in self.places.iter().filter(|q| **q != new) {
            if left < new.0 {
                gain += (q.0.min(new.0) - left) * (new.1 - q.1).max(0.0);
            }
            left = q.0.max(left);
        }
        gain + (new.0 - left).max(0.0) * new.1
    }

    /// The least shift in both coordinates with which a point would add something; negative where it leads by that much.
    pub fn distance(&self, p: Point) -> f64 {
        let new = self.scale.place(p);
        let others = self.places.iter().filter(|q| **q != new);
        others.map(|q| (q.0 - new.0).min(q.1 - new.1)).fold((-new.0).max(-new.1), f64::max)
    }

    /// The rewards of points, each in 0..=1: half for the gain, as a share of the largest gain of a member, and half for
    /// the grade. Points whose numbers are not finite have 0.
    pub fn rewards(&self, points: impl IntoIterator<Item = Point>) -> Vec<f64> {
        let most = self.places.iter().map(|&q| self.gain_of(q)).fold(f64::MIN_POSITIVE, f64::max);
        let reward = |p: Point| {
            if !p.secs.is_finite() || !p.accuracy.is_finite() {
                return 0.0;
            }
            let grade = 1.0 / (1.0 + self.distance(p).max(0.0) / HALF_GRADE);
            (1.0 - GRADE) * (self.gain(p) / most).min(1.0) + GRADE * grade
        };
        points.into_iter().map(reward).collect()
    }
}

fn area(places: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut left, mut sum) = (0.0, 0.0);
    for (x, y) in places {
        sum += (x - left) * y;
        left = x;
    }
    sum
}

/// Syno's reward of an accuracy, between the bounds that it sets for each network; latency has no part in it.
pub fn syno(accuracy: f64, least: f64, most: f64) -> f64 {
    ((accuracy.max(least) - least) / (most - least)).clamp(0.0, 1.0).powi(4)
}

/// The sum of time saved and accuracy kept, half each, cut off at 0 and 1.
pub fn weighted_sum(scale: &Scale, p: Point) -> f64 {
    let (x, y) = scale.place(p);
    (0.5 * x.clamp(0.0, 1.0) + 0.5 * y.clamp(0.0, 1.0)).clamp(0.0, 1.0)
}
