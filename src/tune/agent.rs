//! Adaptive exploration: an agent that learns to walk to configs which the cost model takes for fast (Chameleon, Ahn et al. 2020,
//! section 3.1). Proximal policy optimization (Schulman et al. 2017) of an actor and a critic, both small networks.
//!
//! A state is the place of each knob among its values, an action moves every knob down, up or not at all, the reward is the
//! cost model's score of the config that this leads to. Hardware is never in the loop.
//!
//! Where the published code and this differ: advantages of equal episodes divide by nothing; a config is new or not by itself,
//! not by a number among placeholders.

use rand::Rng;

/// Constants of the published code; the paper's appendix is said to have a clip of 0.3 and an entropy weight of 0.1.
pub mod constants {
    /// Walks per round, each from a random start.
    pub const EPISODES: usize = 128;
    /// Steps of a walk, at most.
    pub const STEPS: usize = 500;
    /// A walk ends when this share of the knobs stays, or stands at an end that it is pushed to.
    pub const CONVERGED: f64 = 0.75;
    pub const WIDTH: usize = 20;
    pub const TEMPERATURE: f64 = 0.1;
    pub const LEARNING_RATE: f64 = 1e-3;
    pub const ADAM_EPSILON: f64 = 1e-5;
    /// Discount of later rewards, and of later advantages.
    pub const GAMMA: f64 = 0.9;
    pub const LAMBDA: f64 = 0.99;
    pub const CLIP: f64 = 0.2;
    pub const VALUE_WEIGHT: f64 = 1.0;
    pub const ENTROPY_WEIGHT: f64 = 0.3;
    /// Updates after each episode, each on so many of its steps, drawn with replacement.
    pub const EPOCHS: usize = 3;
    pub const MINIBATCH: usize = 32;
}
use constants::*;

/// Down, stay, up.
const MOVES: usize = 3;
/// The two dense layers of a knob's head.
const HEAD: usize = 3;

/// A dense layer, its gradient and what Adam (Kingma, Ba 2015) remembers of it.
struct Dense {
    n_in: usize,
    /// Row by row; the last column is the bias.
    weights: Vec<f64>,
    gradient: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    tanh: bool,
}

impl Dense {
    fn new(n_in: usize, n_out: usize, tanh: bool, rng: &mut impl Rng) -> Dense {
        let n = (n_in + 1) * n_out;
        // Glorot and Bengio 2010
        let most = (6.0 / (n_in + n_out) as f64).sqrt();
        let weights = (0..n).map(|i| if i % (n_in + 1) == n_in { 0.0 } else { rng.random_range(-most..most) }).collect();
        Dense { n_in, weights, gradient: vec![0.0; n], first: vec![0.0; n], second: vec![0.0; n], tanh }
    }

    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let row = |w: &[f64]| {
            let sum = w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + w[self.n_in];
            if self.tanh { sum.tanh() } else { sum }
        };
        self.weights.chunks_exact(self.n_in + 1).map(row).collect()
    }

    /// Adds to the gradient and gives that of the input; `y` is what [`Dense::forward`] made of `x`.
    fn backward(&mut self, x: &[f64], y: &[f64], of_y: &[f64]) -> Vec<f64> {
        let mut of_x = vec![0.0; self.n_in];
        let rows = self.weights.chunks_exact(self.n_in + 1).zip(self.gradient.chunks_exact_mut(self.n_in + 1));
        for ((w, g), (y, of_y)) in rows.zip(y.iter().zip(of_y)) {
            let of_sum = if self.tanh { of_y * (1.0 - y * y) } else { *of_y };
            for i in 0..self.n_in {
                g[i] += of_sum * x[i];
                of_x[i] += of_sum * w[i];
            }
            g[self.n_in] += of_sum;
        }
        of_x
    }

    fn step(&mut self, time: i32) {
        let (keep_first, keep_second) = (0.9f64, 0.999f64);
        let unbias = (1.0 - keep_second.powi(time)).sqrt() / (1.0 - keep_first.powi(time));
        for i in 0..self.weights.len() {
            let g = std::mem::take(&mut self.gradient[i]);
            self.first[i] = keep_first * self.first[i] + (1.0 - keep_first) * g;
            self.second[i] = keep_second * self.second[i] + (1.0 - keep_second) * g * g;
            self.weights[i] -= LEARNING_RATE * unbias * self.first[i] / (self.second[i].sqrt() + ADAM_EPSILON);
        }
    }
}

/// Dense layers in a row.
struct Chain(Vec<Dense>);

impl Chain {
    fn new(sizes: &[usize], last_tanh: bool, rng: &mut impl Rng) -> Chain {
        let n = sizes.len() - 1;
        Chain((0..n).map(|i| Dense::new(sizes[i], sizes[i + 1], last_tanh || i + 1 < n, rng)).collect())
    }

    /// The values between the layers, the input first.
    fn forward(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let mut values = vec![x.to_vec()];
        for layer in &self.0 {
            values.push(layer.forward(&values[values.len() - 1]));
        }
        values
    }

    fn backward(&mut self, values: &[Vec<f64>], mut of_y: Vec<f64>) -> Vec<f64> {
        for (i, layer) in self.0.iter_mut().enumerate().rev() {
            of_y = layer.backward(&values[i], &values[i + 1], &of_y);
        }
        of_y
    }

    fn step(&mut self, time: i32) {
        self.0.iter_mut().for_each(|layer| layer.step(time));
    }
}

/// One step of a walk.
struct Moment {
    state: Vec<f64>,
    /// Per knob.
    moves: Vec<usize>,
    /// The chance of each move when it was taken.
    chances: Vec<f64>,
    value: f64,
}

/// The actor and the critic of one space.
pub struct Agent {
    trunk: Chain,
    heads: Vec<Chain>,
    critic: Chain,
    n_updates: i32,
    /// Values of each knob.
    sizes: Vec<usize>,
}

impl Agent {
    /// For knobs of so many values each.
    pub fn new(sizes: &[usize], rng: &mut impl Rng) -> Agent {
        let n = sizes.len();
        Agent {
            trunk: Chain::new(&[n, WIDTH, WIDTH], true, rng),
            heads: sizes.iter().map(|_| Chain::new(&[WIDTH, HEAD, HEAD, MOVES], false, rng)).collect(),
            critic: Chain::new(&[n, WIDTH, WIDTH, WIDTH, 1], false, rng),
            n_updates: 0,
            sizes: sizes.to_vec(),
        }
    }

    fn state(&self, places: &[usize]) -> Vec<f64> {
        places.iter().zip(&self.sizes).map(|(&p, &n)| p as f64 / n.max(1) as f64).collect()
    }

    /// One round: walks, and what they teach. `score` gives the reward of each config of a walk, all at once. Returns all
    /// configs that were come by, with their scores.
    pub fn explore(&mut self, score: &mut dyn FnMut(&[Vec<usize>]) -> Vec<f64>, rng: &mut impl Rng) -> Vec<(f64, Vec<usize>)> {
        let mut seen = Vec::new();
        for _ in 0..EPISODES {
            let (moments, places) = self.walk(rng);
            let rewards = score(&places);
            self.learn(&moments, &rewards, rng);
            seen.extend(rewards.into_iter().zip(places));
        }
        seen
    }

    /// A walk from a random start: its steps, and where each one led.
    fn walk(&self, rng: &mut impl Rng) -> (Vec<Moment>, Vec<Vec<usize>>) {
        let mut places: Vec<usize> = self.sizes.iter().map(|&n| rng.random_range(0..n.max(1))).collect();
        let (mut moments, mut visited) = (Vec::new(), Vec::new());
        for _ in 0..STEPS {
            let state = self.state(&places);
            let features = self.trunk.forward(&state).pop().unwrap_or_default();
            let value = self.critic.forward(&state).pop().map_or(0.0, |v| v[0]);
            let (mut moves, mut chances, mut n_still) = (Vec::new(), Vec::new(), 0);
            for (knob, head) in self.heads.iter().enumerate() {
                let share = softmax(&head.forward(&features).pop().unwrap_or_default());
                let chosen = pick(&share, rng);
                let (before, last) = (places[knob], self.sizes[knob].saturating_sub(1));
                places[knob] = (before + chosen).saturating_sub(1).min(last);
                n_still += usize::from(places[knob] == before);
                moves.push(chosen);
                chances.push(share[chosen]);
            }
            moments.push(Moment { state, moves, chances, value });
            visited.push(places.clone());
            if n_still as f64 >= CONVERGED * self.sizes.len() as f64 {
                break;
            }
        }
        (moments, visited)
    }

    fn learn(&mut self, moments: &[Moment], rewards: &[f64], rng: &mut impl Rng) {
        // generalized advantages (Schulman et al. 2016); nothing follows the last step
        let (mut advantages, mut next, mut running) = (vec![0.0; moments.len()], 0.0, 0.0);
        for (i, moment) in moments.iter().enumerate().rev() {
            running = rewards[i] + GAMMA * next - moment.value + GAMMA * LAMBDA * running;
            (advantages[i], next) = (running, moment.value);
        }
        let returns: Vec<f64> = advantages.iter().zip(moments).map(|(a, m)| a + m.value).collect();
        let n = advantages.len() as f64;
        let mean = advantages.iter().sum::<f64>() / n;
        let deviation = (advantages.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / n).sqrt();
        advantages.iter_mut().for_each(|a| *a = (*a - mean) / (deviation + 1e-8));
        for _ in 0..EPOCHS {
            for _ in 0..MINIBATCH {
                let i = rng.random_range(0..moments.len());
                self.teach(&moments[i], advantages[i], returns[i]);
            }
            self.n_updates += 1;
            self.trunk.step(self.n_updates);
            self.critic.step(self.n_updates);
            self.heads.iter_mut().for_each(|head| head.step(self.n_updates));
        }
    }

    /// Adds the gradient of the loss of one step.
    fn teach(&mut self, moment: &Moment, advantage: f64, wanted: f64) {
        let scale = 1.0 / MINIBATCH as f64;
        let trunk = self.trunk.forward(&moment.state);
        let features = &trunk[trunk.len() - 1];
        let mut of_features = vec![0.0; features.len()];
        for (knob, head) in self.heads.iter_mut().enumerate() {
            let values = head.forward(features);
            let share = softmax(&values[values.len() - 1]);
            let chosen = moment.moves[knob];
            let ratio = share[chosen] / moment.chances[knob].max(1e-12);
            // the clipped part has no gradient
            let clipped = (advantage > 0.0 && ratio > 1.0 + CLIP) || (advantage < 0.0 && ratio < 1.0 - CLIP);
            let of_ratio = if clipped { 0.0 } else { advantage };
            let entropy: f64 = -share.iter().map(|p| p * p.max(1e-12).ln()).sum::<f64>();
            // of what is maximised, by the logits before they are divided by the temperature
            let of_logit = |j: usize| {
                let of_chance = ratio * (f64::from(u8::from(j == chosen)) - share[j]);
                let of_entropy = -share[j] * (share[j].max(1e-12).ln() + entropy);
                -scale * (of_ratio * of_chance + ENTROPY_WEIGHT * of_entropy) / TEMPERATURE
            };
            let of_input = head.backward(&values, (0..MOVES).map(of_logit).collect());
            of_features.iter_mut().zip(of_input).for_each(|(sum, part)| *sum += part);
        }
        self.trunk.backward(&trunk, of_features);
        let values = self.critic.forward(&moment.state);
        let error = values[values.len() - 1][0] - wanted;
        self.critic.backward(&values, vec![scale * VALUE_WEIGHT * 2.0 * error]);
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|l| ((l - most) / TEMPERATURE).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

fn pick(share: &[f64], rng: &mut impl Rng) -> usize {
    let mut at: f64 = rng.random();
    share
        .iter()
        .position(|p| {
            at -= p;
            at < 0.0
        })
        .unwrap_or(share.len() - 1)
}
