//! Child processes that do what may crash, hang or leak: one JSON line per message, deadlines, and the whole process
//! group killed on drop. The child is this same program, run as `syntune worker ROLE`.

use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Lines of a child's stderr kept to explain its end.
const KEPT_STDERR_LINES: usize = 12;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Which program is run for children, where it is not the current one (tests, the plug-in). The first call counts.
pub fn set_program(path: impl Into<PathBuf>) {
    let _ = PROGRAM.set(path.into());
}

/// How a child failed its request. Afterwards the child is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fault {
    Crashed { signal: i32, stderr: String },
    Exited { code: i32, stderr: String },
    TimedOut { secs: f64 },
    Garbled { line: String },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Crashed { signal, stderr } => write!(f, "the worker was killed by signal {signal}{}", tail(stderr)),
            Fault::Exited { code, stderr } => write!(f, "the worker ended with code {code}{}", tail(stderr)),
            Fault::TimedOut { secs } => write!(f, "no answer within {secs:.1} s; the worker was killed"),
            Fault::Garbled { line } => write!(f, "the worker's answer cannot be read: {}", line.chars().take(200).collect::<String>()),
        }
    }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

/// A running child. Dropping it kills its process group.
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `syntune worker ROLE` with extra environment variables.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(role: &str, env: &[(String, String)]) -> Result<Child> {
        match PROGRAM.get() {
            Some(path) => Child::spawn_of(path, role, env),
            None => Child::spawn_of(&std::env::current_exe().context(|| "finding this program's own file".into())?, role, env),
        }
    }

    /// Starts `PROGRAM worker ROLE` with extra environment variables.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_of(program: &Path, role: &str, env: &[(String, String)]) -> Result<Child> {
        let mut process = Command::new(program)
            .args(["worker", role])
            .envs(env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0) // Ctrl-C reaches the controller alone, which then decides
            .spawn()
            .context(|| format!("starting {} worker {role}", program.display()))?;
        let missing = || Error::Invalid("a worker was started without pipes: report this".into());
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().ok_or_else(missing)?;
        let errors = process.stderr.take().ok_or_else(missing)?;
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|l| l.ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = stderr.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).split(b'\n').map_while(|l| l.ok()) {
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                kept.push_back(String::from_utf8_lossy(&line).into_owned());
                if kept.len() > KEPT_STDERR_LINES {
                    kept.pop_front();
                }
            }
        });
        Ok(Child { process, stdin, answers, stderr })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends one request.
    pub fn send<Q: Serialize>(&mut self, request: &Q) -> Result<(), Fault> {
        let line = serde_json::to_string(request).map_err(|e| Fault::Garbled { line: e.to_string() })?;
        let sent = self.stdin.as_mut().is_some_and(|pipe| writeln!(pipe, "{line}").and_then(|()| pipe.flush()).is_ok());
        if sent { Ok(()) } else { Err(self.ended()) }
    }

    /// The next answer, within `timeout`; on any fault the child is killed.
    pub fn recv<A: DeserializeOwned>(&mut self, timeout: Duration) -> Result<A, Fault> {
        match self.answers.recv_timeout(timeout) {
            Ok(line) => serde_json::from_str(&line).map_err(|_| {
                self.kill();
                Fault::Garbled { line }
            }),
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                Err(Fault::TimedOut { secs: timeout.as_secs_f64() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// The next answer if one comes within `wait`; the child goes on otherwise. On any other fault it is killed.
    pub fn poll<A: DeserializeOwned>(&mut self, wait: Duration) -> Result<Option<A>, Fault> {
        match self.answers.recv_timeout(wait) {
            Ok(line) => serde_json::from_str(&line).map(Some).map_err(|_| {
                self.kill();
                Fault::Garbled { line }
            }),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// Sends a request and waits for its one answer.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, request: &Q, timeout: Duration) -> Result<A, Fault> {
        self.send(request)?;
        self.recv(timeout)
    }

    /// Kills the child and everything it started.
    pub fn kill(&mut self) {
        self.stdin = None;
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
    }

    fn ended(&mut self) -> Fault {
        // its pipes are closed: give it a moment to end by itself, so that its own code or signal is seen
        let mut status = None;
        for _ in 0..100 {
            status = self.process.try_wait().ok().flatten();
            if status.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        let stderr = self.stderr.lock().unwrap_or_else(|e| e.into_inner()).iter().cloned().collect::<Vec<_>>().join("\n");
        match status {
            Some(s) => match s.signal() {
                Some(signal) => Fault::Crashed { signal, stderr },
                None => Fault::Exited { code: s.code().unwrap_or(-1), stderr },
            },
            None => Fault::Crashed { signal: 9, stderr },
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The child's side: reads requests from stdin until it closes; the handler emits any number of answers to each.
/// What libraries print on stdout goes to stderr. When the parent dies, so does this process, busy or not.
///
/// # Errors
/// The pipes cannot be set up.
pub fn serve<Q: DeserializeOwned, A: Serialize>(mut handle: impl FnMut(Q, &mut dyn FnMut(&A))) -> Result<()> {
    let pipes = || "setting up the worker's pipes".to_string();
    let answers = rustix::io::dup(rustix::stdio::stdout()).map_err(std::io::Error::from).context(pipes)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(std::io::Error::from).context(pipes)?;
    let mut answers = File::from(answers);
    let (send, requests) = channel::<String>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(|l| l.ok()) {
            if send.send(line).is_err() {
                return;
            }
        }
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    while let Ok(line) = requests.recv() {
        let request = serde_json::from_str(&line)
            .map_err(|e| Error::Invalid(format!("a worker got a request it cannot read ({e}): are two versions of syntune mixed?")))?;
        handle(request, &mut |answer: &A| {
            let written = serde_json::to_string(answer).map(|text| writeln!(answers, "{text}").and_then(|()| answers.flush()));
            if !matches!(written, Ok(Ok(()))) {
                eprintln!("the worker cannot answer: its pipe is closed");
            }
        });
    }
    Ok(())
}
