//! Parse, match the verb, print, exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    match syntune::cli::run(std::env::args_os()) {
        Ok(done) => done.into(),
        Err(error) => syntune::cli::explain(&error).into(),
    }
}
