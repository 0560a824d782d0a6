//! The worker's side: one process trains, times or runs one model.

use super::data::{Data, Pictures};
use super::model::{Model, channels_last, failed};
use super::request::{Answer, Epoch, ForwardRequest, LatencyRequest, Precision, Recipe, Request, TrainRequest, check_slots};
use super::{cuda, weights};
use crate::child;
use crate::error::{Result, invalid};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Reduction, Tensor};

/// Answers requests on stdin until it closes. What cannot be met is answered, not returned.
pub fn serve() -> Result<()> {
    child::serve(|request: Request, answer: &mut dyn FnMut(&Answer)| {
        let done = match request {
            Request::Train(r) => train(&r, answer),
            Request::Latency(r) => latency(&r, answer),
            Request::Forward(r) => forward(&r, answer),
        };
        if let Err(error) = done {
            answer(&Answer::Refused { message: error.to_string() });
        }
    })
}

/// One training picture in so many is held out: as many as Fashion-MNIST and CIFAR have for tests, nearly.
const HELD_OUT: usize = 6;

/// At most every quarter of a second.
struct Pulse {
    last: Instant,
}

impl Pulse {
    fn beat(&mut self, n_seen: u64, answer: &mut dyn FnMut(&Answer)) {
        if self.last.elapsed() > Duration::from_millis(250) {
            self.last = Instant::now();
            answer(&Answer::Progress { n_seen });
        }
    }
}

/// Pictures in an endless shuffled order, normalised and varied, batch by batch.
struct Batches<'a> {
    pictures: &'a Pictures,
    /// By channel and byte.
    levels: Vec<[f32; 256]>,
    order: Vec<u32>,
    next: usize,
    rng: ChaCha8Rng,
}

fn levels(pictures: &Pictures) -> Vec<[f32; 256]> {
    let table = |(mean, std): (f32, f32)| std::array::from_fn(|p| (p as f32 / 255.0 - mean) / std);
    pictures.statistics().into_iter().map(table).collect()
}

impl Batches<'_> {
    fn fill(&mut self, recipe: &Recipe, pixels: &mut Vec<f32>, labels: &mut Vec<i64>) {
        pixels.clear();
        labels.clear();
        for _ in 0..recipe.batch {
            if self.next == 0 {
                self.order.shuffle(&mut self.rng);
            }
            let i = self.order[self.next] as usize;
            self.next = (self.next + 1) % self.order.len();
            let s = recipe.max_shift;
            let (down, right) = (self.rng.random_range(-s..=s), self.rng.random_range(-s..=s));
            let flip = self.rng.random::<bool>() && recipe.flip;
            picture(self.pictures, &self.levels, i, (down, right, flip), pixels);
            labels.push(i64::from(self.pictures.labels[i]));
        }
    }
}

/// Appends one picture, moved by whole pixels (black comes in) and then mirrored.
fn picture(from: &Pictures, levels: &[[f32; 256]], i: usize, (down, right, flip): (i64, i64, bool), out: &mut Vec<f32>) {
    let [_, height, width] = from.shape;
    let (h, w) = (height as i64, width as i64);
    for (plane, level) in from.pixels[i * from.stride()..(i + 1) * from.stride()].chunks_exact(height * width).zip(levels) {
        for y in 0..h {
            let row = y - down;
            let start = out.len();
            if (0..h).contains(&row) {
                let row = &plane[row as usize * width..(row as usize + 1) * width];
                out.extend((0..w).map(|x| level[usize::from(*row.get((x - right) as usize).unwrap_or(&0))]));
            } else {
                out.extend(std::iter::repeat_n(level[0], width));
            }
            if flip {
                out[start..].reverse();
            }
        }
    }
}

struct Sgd {
    momenta: Vec<Tensor>,
}

impl Sgd {
    /// Nesterov momentum as in PyTorch: `m ← μ·m + g`, `p ← p − lr·(g + μ·m)`.
    fn step(&mut self, model: &mut Model, recipe: &Recipe, lr: f64) -> Result<(), tch::TchError> {
        let trained = || model.variables.values().filter(|v| v.trained);
        if self.momenta.is_empty() {
            self.momenta = trained().map(|v| v.tensor.f_zeros_like()).collect::<Result<_, _>>()?;
        }
        for (v, momentum) in trained().zip(&mut self.momenta) {
            let mut gradient = v.tensor.grad();
            if !gradient.defined() {
                continue;
            }
            let mut tensor = v.tensor.shallow_clone();
            if v.decays {
                gradient = gradient.f_add(&tensor.f_mul_scalar(recipe.weight_decay)?)?;
            }
            let _ = momentum.f_mul_scalar_(recipe.momentum)?.f_add_(&gradient)?;
            let step = gradient.f_add(&momentum.f_mul_scalar(recipe.momentum)?)?;
            let _ = tensor.f_sub_(&step.f_mul_scalar(lr)?)?;
            let _ = v.tensor.grad().f_zero_()?;
        }
        Ok(())
    }
}

/// Rises linearly, then falls as a half cosine to zero.
fn rate(recipe: &Recipe, step: u64) -> f64 {
    let n = recipe.n_steps() as f64;
    let rise = (recipe.warm_up * n).max(1.0);
    let at = step as f64 + 0.5;
    if at < rise {
        recipe.lr * at / rise
    } else {
        recipe.lr * 0.5 * (1.0 + ((at - rise) / (n - rise).max(1.0) * std::f64::consts::PI).cos())
    }
}

fn train(request: &TrainRequest, answer: &mut dyn FnMut(&Answer)) -> Result<()> {
    let start = Instant::now();
    let recipe = &request.recipe;
    recipe.validate()?;
    check_slots(&request.backbone, &request.nests, recipe.batch)?;
    tch::set_num_threads(request.n_threads.max(1) as i32);
    let device = cuda::device();
    let mut data = request.data.read()?;
    if recipe.held_out {
        data.test = data.train.split_off(data.train.len() - data.train.len() / HELD_OUT);
        if data.test.is_empty() {
            return invalid(format!("{} training pictures are too few to hold some out: give at least {HELD_OUT}", data.train.len()));
        }
    }
    let shape = data.train.shape.map(|s| s as i64);
    if shape != request.backbone.input || request.data.set.n_classes() > request.backbone.n_classes {
        return invalid(format!(
            "backbone {} takes {:?} and {} classes, {} has {shape:?} and {}: choose a backbone for this data",
            request.backbone.name,
            request.backbone.input,
            request.backbone.n_classes,
            request.data.set.name(),
            request.data.set.n_classes()
        ));
    }
    let kind = kind(recipe.precision, device);
    let mut model = Model::new(&request.backbone, &request.nests, request.seed, device)?;
    let mut sgd = Sgd { momenta: vec![] };
    let levels = levels(&data.train);
    let mut batches = Batches {
        pictures: &data.train,
        levels: levels.clone(),
        order: (0..data.train.len() as u32).collect(),
        next: 0,
        rng: ChaCha8Rng::seed_from_u64(request.seed ^ 0x6461_7461),
    };
    let n_steps = recipe.n_steps();
    let steps_of = |n_seen: u64| n_seen.div_ceil(recipe.batch as u64).clamp(1, n_steps);
    let mut stops: Vec<u64> = (1..=recipe.n_evaluations).map(|i| (n_steps * i / recipe.n_evaluations).max(1)).collect();
    stops.extend(request.milestones.iter().map(|m| steps_of(m.0)));
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut pulse = Pulse { last: start };
    let (mut loss_sum, mut n_losses) = (0.0, 0u32);
    let shape = [recipe.batch, shape[0], shape[1], shape[2]];
    // on a GPU reading the loss waits for it: look less often
    let look_every = if device.is_cuda() { 16 } else { 1 };
    for step in 1..=n_steps {
        batches.fill(recipe, &mut pixels, &mut labels);
        let x = Tensor::from_slice(&pixels).f_view(shape).map_err(failed)?.to_device(device);
        let y = Tensor::from_slice(&labels).to_device(device);
        let logits = model.forward(&x, true, kind)?;
        let loss = logits.f_cross_entropy_loss(&y, None::<&Tensor>, Reduction::Mean, -100, recipe.label_smoothing).map_err(failed)?;
        loss.f_backward().map_err(failed)?;
        tch::no_grad(|| sgd.step(&mut model, recipe, rate(recipe, step - 1))).map_err(failed)?;
        let n_seen = step * recipe.batch as u64;
        if step % look_every == 0 || step == n_steps {
            let value = f64::try_from(&loss).map_err(failed)?;
            if !value.is_finite() {
                answer(&Answer::Diverged { n_seen });
                return Ok(());
            }
            loss_sum += value;
            n_losses += 1;
        }
        pulse.beat(n_seen, answer);
        if stops.contains(&step) {
            let n_test = if step == n_steps || recipe.n_test == 0 { data.test.len() } else { recipe.n_test.min(data.test.len()) };
            let accuracy = evaluate(&model, &data, &levels, shape, n_test, if step == n_steps { Kind::Float } else { kind }, &mut || {
                pulse.beat(n_seen, answer)
            })?;
            let loss = loss_sum / f64::from(n_losses.max(1));
            (loss_sum, n_losses) = (0.0, 0);
            answer(&Answer::Epoch(Epoch {
                n_seen,
                n_samples: recipe.n_samples,
                loss,
                accuracy,
                n_test,
                secs: start.elapsed().as_secs_f64(),
            }));
            let missed = |m: &&(u64, f64)| steps_of(m.0) == step && accuracy < m.1;
            if let Some(&(_, least)) = request.milestones.iter().find(missed) {
                answer(&Answer::StoppedEarly { n_seen, least, accuracy });
                return Ok(());
            }
        }
    }
    if let Some(path) = &request.save {
        weights::write(path, &model.weights()?)?;
    }
    answer(&Answer::Done);
    Ok(())
}

/// bf16 multiplies pay off where the processor has them; emulated they are slower than f32.
fn kind(precision: Precision, device: Device) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Auto if device.is_cuda() || std::arch::is_x86_feature_detected!("avx512bf16") => Kind::BFloat16,
        Precision::Auto => Kind::Float,
    }
}

/// Fraction of the first `n_test` test pictures classified correctly; the last batch is padded with the first picture.
fn evaluate(
    model: &Model,
    data: &Data,
    levels: &[[f32; 256]],
    shape: [i64; 4],
    n_test: usize,
    kind: Kind,
    beat: &mut dyn FnMut(),
) -> Result<f64> {
    let batch = shape[0] as usize;
    let device = model.device();
    let mut n_right = 0;
    let mut pixels = Vec::new();
    for first in (0..n_test).step_by(batch) {
        let here = batch.min(n_test - first);
        pixels.clear();
        for i in 0..batch {
            picture(&data.test, levels, if i < here { first + i } else { 0 }, (0, 0, false), &mut pixels);
        }
        let x = Tensor::from_slice(&pixels).f_view(shape).map_err(failed)?.to_device(device);
        let found = tch::no_grad(|| model.forward(&x, false, kind))?.f_argmax(1, false).map_err(failed)?.to_device(Device::Cpu);
        let found: Vec<i64> = Vec::try_from(found).map_err(failed)?;
        n_right += found[..here].iter().zip(&data.test.labels[first..first + here]).filter(|(a, b)| **a == i64::from(**b)).count();
        beat();
    }
    Ok(n_right as f64 / n_test.max(1) as f64)
}

/// Runs shorter than this are timed several at once.
const LEAST_SAMPLE_SECS: f64 = 2e-3;
/// Stable: the medians of the two latest halves differ by less.
const STABLE: f64 = 0.01;

fn latency(request: &LatencyRequest, answer: &mut dyn FnMut(&Answer)) -> Result<()> {
    check_slots(&request.backbone, &request.nests, request.n)?;
    tch::set_num_threads(request.n_threads.max(1) as i32);
    let mut model = Model::new(&request.backbone, &request.nests, 1, Device::Cpu)?;
    if let Some(path) = &request.weights {
        model.load(&weights::read(path)?)?;
    }
    let folded = tch::no_grad(|| model.folded())?;
    let [c, h, w] = request.backbone.input;
    let x = Tensor::f_randn([request.n, c, h, w], (Kind::Float, Device::Cpu)).map_err(failed)?;
    let _no_grad = tch::no_grad_guard();
    let mut pulse = Pulse { last: Instant::now() };
    let min_secs = request.min_secs.clamp(0.01, 60.0);
    let time = |x: &Tensor, n: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..n {
            drop(folded.forward(x)?);
        }
        Ok(start.elapsed().as_secs_f64() / n as f64)
    };
    // which memory layout is faster depends on the model: libtorch gets its better one
    let layouts = [x.shallow_clone(), channels_last(&x).map_err(failed)?];
    let mut onces = [f64::INFINITY; 2];
    let warm = Instant::now();
    while onces[1].is_infinite() || warm.elapsed().as_secs_f64() < min_secs / 2.0 {
        for (once, x) in onces.iter_mut().zip(&layouts) {
            *once = once.min(time(x, 1)?);
        }
        pulse.beat(0, answer);
    }
    let (once, x) = if onces[1] < onces[0] { (onces[1], &layouts[1]) } else { (onces[0], &layouts[0]) };
    let n = (LEAST_SAMPLE_SECS / once).ceil().clamp(1.0, 1e6) as usize;
    let start = Instant::now();
    let mut secs = Vec::new();
    loop {
        secs.push(time(x, n)?);
        pulse.beat(0, answer);
        let elapsed = start.elapsed().as_secs_f64();
        let half = secs.len() / 2;
        let stable = secs.len() >= 10 && (median(&secs[..half]) / median(&secs[half..]) - 1.0).abs() < STABLE;
        if (elapsed >= min_secs && stable) || elapsed >= 10.0 * min_secs {
            break;
        }
    }
    answer(&Answer::Latency { secs });
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn forward(request: &ForwardRequest, answer: &mut dyn FnMut(&Answer)) -> Result<()> {
    let [c, h, w] = request.backbone.input;
    let n = request.input.len() as i64 / (c * h * w).max(1);
    if n < 1 || n * c * h * w != request.input.len() as i64 {
        return invalid(format!("{} numbers are not whole pictures of {c}×{h}×{w}: pass all pixels", request.input.len()));
    }
    check_slots(&request.backbone, &request.nests, n)?;
    tch::set_num_threads(request.n_threads.max(1) as i32);
    let mut model = Model::new(&request.backbone, &request.nests, 1, Device::Cpu)?;
    model.load(&weights::read(&request.weights)?)?;
    let x = Tensor::from_slice(&request.input).f_view([n, c, h, w]).map_err(failed)?;
    let _no_grad = tch::no_grad_guard();
    let logits = if request.folded { model.folded()?.forward(&x)? } else { model.forward(&x, false, Kind::Float)? };
    let flat = logits.f_reshape([-1]).map_err(failed)?;
    answer(&Answer::Outputs { logits: Vec::try_from(flat).map_err(failed)? });
    Ok(())
}
