//! The controlling side: one child process per request, watched.

use super::request::{Answer, Epoch, ForwardRequest, LatencyRequest, Request, TrainRequest, check_slots};
use crate::child::{Child, Fault};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the stop flag is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Why a candidate could not be trained, timed or run. A value to be kept with its trial, never an error of the caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    /// The worker crashed, exited, hung or answered nonsense.
    Worker(Fault),
    /// The deadline passed.
    TooSlow { secs: f64, n_seen: u64 },
    /// The loss became infinite or not a number.
    Diverged { n_seen: u64 },
    /// The worker says why it cannot.
    Refused { message: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Worker(fault) => write!(f, "training: {fault}"),
            Failure::TooSlow { secs, n_seen } => write!(f, "training had seen {n_seen} pictures when its {secs:.0} s were over"),
            Failure::Diverged { n_seen } => write!(f, "training diverged after {n_seen} pictures"),
            Failure::Refused { message } => write!(f, "{message}"),
        }
    }
}

/// How a training ended. Epochs were handed to the callback as they came.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The accuracy on the whole test set.
    Done {
        accuracy: f64,
        secs: f64,
    },
    /// A milestone was missed.
    StoppedEarly {
        n_seen: u64,
        least: f64,
        accuracy: f64,
    },
    /// The stop flag was raised.
    Interrupted,
    Failed(Failure),
}

/// Freed memory that a worker keeps for its next step.
const MALLOC_BYTES: u64 = 4 << 30;

/// Runs requests in child processes.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// A training that takes longer is killed.
    pub deadline: Duration,
    /// A worker that says nothing for so long is killed.
    pub patience: Duration,
}

impl Default for Trainer {
    fn default() -> Trainer {
        Trainer { deadline: Duration::from_secs(3600), patience: Duration::from_secs(60) }
    }
}

impl Trainer {
    /// Trains; `on_epoch` is called as each evaluation is known. The stop flag is looked at several times a second.
    /// Errors: a request that cannot be met (backbone, slots, recipe); a worker that cannot be started.
    pub fn train(&self, request: TrainRequest, stop: &AtomicBool, on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>) -> Result<Outcome> {
        self.train_watched(request, stop, on_epoch, &mut |_| {})
    }

    /// [`Trainer::train`] that also reports pictures seen, about four times a second.
    pub fn train_watched(
        &self,
        request: TrainRequest,
        stop: &AtomicBool,
        on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<Outcome> {
        request.recipe.validate()?;
        check_slots(&request.backbone, &request.nests, request.recipe.batch)?;
        let start = Instant::now();
        let (mut seen, mut last) = (0, None);
        let mut failure = |answers: Result<Option<Answer>, Failure>| -> Result<Option<Outcome>> {
            Ok(Some(match answers {
                Ok(None) => Outcome::Interrupted,
                Err(failure) => Outcome::Failed(failure),
                Ok(Some(Answer::Progress { n_seen })) => {
                    seen = n_seen;
                    on_progress(n_seen);
                    if start.elapsed() < self.deadline {
                        return Ok(None);
                    }
                    Outcome::Failed(Failure::TooSlow { secs: self.deadline.as_secs_f64(), n_seen: seen })
                }
                Ok(Some(Answer::Epoch(epoch))) => {
                    on_epoch(&epoch)?;
                    last = Some(epoch);
                    return Ok(None);
                }
                Ok(Some(Answer::Done)) => match &last {
                    Some(epoch) => Outcome::Done { accuracy: epoch.accuracy, secs: epoch.secs },
                    None => Outcome::Failed(Failure::Refused { message: "training ended without an evaluation".into() }),
                },
                Ok(Some(Answer::StoppedEarly { n_seen, least, accuracy })) => Outcome::StoppedEarly { n_seen, least, accuracy },
                Ok(Some(Answer::Diverged { n_seen })) => Outcome::Failed(Failure::Diverged { n_seen }),
                Ok(Some(other)) => Outcome::Failed(unexpected(&other)),
            }))
        };
        let n_threads = request.n_threads;
        self.converse(&Request::Train(request), n_threads, stop, &mut failure)
    }

    /// Seconds of each sampled run of the whole model; `Ok(Err(_))` where the candidate fails.
    /// Errors: slots that do not fit; interrupted; a worker that cannot be started.
    pub fn latency(&self, request: LatencyRequest, stop: &AtomicBool) -> Result<Result<Vec<f64>, Failure>> {
        check_slots(&request.backbone, &request.nests, request.n)?;
        let n_threads = request.n_threads;
        self.converse(&Request::Latency(request), n_threads, stop, &mut |answer| match answer {
            Ok(None) => Err(Error::Interrupted),
            Ok(Some(Answer::Progress { .. })) => Ok(None),
            Ok(Some(Answer::Latency { secs })) => Ok(Some(Ok(secs))),
            Ok(Some(other)) => Ok(Some(Err(unexpected(&other)))),
            Err(failure) => Ok(Some(Err(failure))),
        })
    }

    /// Logits, `[n, classes]`, of given pictures with saved weights; `Ok(Err(_))` where the candidate fails. Errors: as [`Trainer::latency`].
    pub fn forward(&self, request: ForwardRequest, stop: &AtomicBool) -> Result<Result<Vec<f32>, Failure>> {
        let one: i64 = request.backbone.input.iter().product();
        check_slots(&request.backbone, &request.nests, request.input.len() as i64 / one.max(1))?;
        let n_threads = request.n_threads;
        self.converse(&Request::Forward(request), n_threads, stop, &mut |answer| match answer {
            Ok(None) => Err(Error::Interrupted),
            Ok(Some(Answer::Progress { .. })) => Ok(None),
            Ok(Some(Answer::Outputs { logits })) => Ok(Some(Ok(logits))),
            Ok(Some(other)) => Ok(Some(Err(unexpected(&other)))),
            Err(failure) => Ok(Some(Err(failure))),
        })
    }

    /// Sends a request and hands over answers until one settles it. `Ok(None)` is handed over when the stop flag is up.
    fn converse<T>(
        &self,
        request: &Request,
        n_threads: usize,
        stop: &AtomicBool,
        handle: &mut dyn FnMut(Result<Option<Answer>, Failure>) -> Result<Option<T>>,
    ) -> Result<T> {
        // libgomp reads both when it is loaded: threads that spin between kernels would slow every other process down, but
        // they are how libtorch is fastest, and that is what is timed
        let mut env = vec![("OMP_NUM_THREADS".to_string(), n_threads.max(1).to_string())];
        // glibc would give large tensors back to the kernel and fault them in again at every step: a third of the time
        env.push(("MALLOC_MMAP_THRESHOLD_".into(), MALLOC_BYTES.to_string()));
        env.push(("MALLOC_TRIM_THRESHOLD_".into(), MALLOC_BYTES.to_string()));
        if !matches!(request, Request::Latency(_)) {
            env.push(("OMP_WAIT_POLICY".into(), "PASSIVE".into()));
        }
        let mut child = Child::spawn("train", &env)?;
        let mut sent = child.send(request).map_err(Failure::Worker);
        let mut heard = Instant::now();
        loop {
            let answer = match std::mem::replace(&mut sent, Ok(())) {
                Err(failure) => Err(failure),
                Ok(()) if stop.load(Ordering::Relaxed) => Ok(None),
                Ok(()) => match child.poll::<Answer>(POLL) {
                    Ok(Some(answer)) => Ok(Some(answer)),
                    Ok(None) if heard.elapsed() < self.patience => continue,
                    Ok(None) => Err(Failure::Worker(Fault::TimedOut { secs: self.patience.as_secs_f64() })),
                    Err(fault) => Err(Failure::Worker(fault)),
                },
            };
            heard = Instant::now();
            let over = matches!(answer, Ok(None) | Err(_));
            if let Some(settled) = handle(answer)? {
                return Ok(settled);
            }
            if over {
                return Err(Error::Interrupted);
            }
        }
    }
}

fn unexpected(answer: &Answer) -> Failure {
    match answer {
        Answer::Refused { message } => Failure::Refused { message: message.clone() },
        other => Failure::Worker(Fault::Garbled { line: format!("{other:?}").chars().take(200).collect() }),
    }
}
