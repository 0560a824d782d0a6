//! What stands in for the training worker in a build without libtorch.

use super::request::{Answer, Request};
use crate::child;
use crate::error::Result;

/// Refuses every request: this build has no libtorch.
pub fn serve() -> Result<()> {
    child::serve(|_: Request, answer: &mut dyn FnMut(&Answer)| {
        let message = "this syntune was built without libtorch: run scripts/setup and build with the feature `torch`".into();
        answer(&Answer::Refused { message });
    })
}
