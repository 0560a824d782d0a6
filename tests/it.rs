//! One integration binary, one file per room, in walk order.

mod spec;
mod synth;
mod lower;
mod tune;
mod train;
mod store;
mod search;
mod report;
mod layers;
mod util;
