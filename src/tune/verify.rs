//! One operator through every back end on the same random data, against the interpreter.

use super::config::{Config, Failure, Task};
use super::measure::{read_values, relative_error, tensor_seed, values};
use super::protocol::MeasureRequest;
use super::runner::{LocalRunner, Runner, program};
use crate::error::Result;
use crate::lower::torch::evaluate;
use crate::lower::{LoopNest, Role, interp};

/// Largest difference from the interpreter relative to the largest magnitude, or why there is none.
#[derive(Clone, Debug)]
pub struct Check {
    pub back_end: &'static str,
    pub result: std::result::Result<f64, String>,
}

/// Runs a nest in torch, in TE as it is written, and in the first schedule that MetaSchedule gives; kernels run in child
/// processes. `same` is another nest of the same operator (its one-stage form) that must agree as well.
///
/// # Errors
/// A target that TVM does not know, a missing library, a full disk.
pub fn verify(nest: &LoopNest, same: &LoopNest, target: &str, n_threads: usize) -> Result<Vec<Check>> {
    let task = &Task { computation: nest.clone().into(), target: target.into(), n_threads };
    let given = |nest: &LoopNest| -> Vec<Vec<f32>> {
        let tensors = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight));
        tensors.map(|t| values(nest.tensors[t].n_elements(), tensor_seed(t))).collect()
    };
    let data = given(nest);
    let slices: Vec<&[f32]> = data.iter().map(Vec::as_slice).collect();
    let expected = interp(nest, &slices)?;
    let against = |found: &[f32]| relative_error(found, &expected);
    let mut checks =
        vec![Check { back_end: "interpreter, one stage", result: interp(same, &slices).map(|f| against(&f)).map_err(|e| e.to_string()) }];
    checks.push(Check { back_end: "torch", result: evaluate(nest, &slices).map(|f| against(&f)).map_err(|e| e.to_string()) });
    let mut runner = LocalRunner::new(super::Limits::default())?;
    let scheduled = match runner.spaces(task) {
        Ok(spaces) if !spaces.is_empty() => {
            let proposal = super::Proposal::Random { space: spaces.len() - 1, seed: 1 };
            runner.probe(task, &[proposal])?.into_iter().flatten().next().map(|c| c.config)
        }
        Ok(_) => None,
        Err(error) => return Err(error),
    };
    checks.push(Check { back_end: "TE", result: compiled(&mut runner, task, None, &expected)?.map_err(|f| f.to_string()) });
    if let Some(config) = scheduled {
        checks.push(Check {
            back_end: "TE, scheduled",
            result: compiled(&mut runner, task, Some(&config), &expected)?.map_err(|f| f.to_string()),
        });
    }
    Ok(checks)
}

fn compiled(runner: &mut LocalRunner, task: &Task, config: Option<&Config>, expected: &[f32]) -> Result<std::result::Result<f64, Failure>> {
    let built = match runner.build(task, config)? {
        Ok(built) => built,
        Err(failure) => return Ok(Err(failure)),
    };
    let (program, outputs) = program(task, &built.library);
    let output = outputs[0];
    let file = built.library.with_file_name("output.f32");
    let request =
        MeasureRequest { program, expected: vec![(output, None)], tolerance: f64::MAX, save: vec![(output, file.clone())], effort: None };
    Ok(match runner.run(&request, task.n_threads, 120.0)? {
        Ok(_) => Ok(relative_error(&read_values(&file)?, expected)),
        Err(failure) => Err(failure),
    })
}
