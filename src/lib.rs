//! Syntune finds neural operators that make a model faster on your machine at the accuracy you ask for.
//!
//! The walk, in the order of the modules below. A [`spec::Spec`] says which model, data, machine and budgets. [`synth`] makes
//! operators: one line of text each, built from Syno's primitives. [`lower`] turns one into a loop nest and runs it in an
//! interpreter, in torch, or as a TVM tensor expression. [`tune`] finds a fast schedule, building and measuring in child
//! processes through [`tvm`]. [`train`] tells how well a model learns with it. [`search`] asks for operators, has them
//! evaluated and settles the winner, and [`store`] keeps everything known as soon as it is known. [`report`] shows it.
//!
//! ```
//! use syntune::lower;
//! use syntune::synth::{Binding, Operator};
//!
//! let shifted = Operator::parse("y[n:N, o:Co, h:H, w:W] = sum[c:Ci] x[n, c, shift(h), w] * w1[o, c]")?;
//! let sizes = Binding::parse("N=1,Ci=2,Co=1,H=2,W=1")?;
//! assert_eq!(shifted.formula(Some(&sizes)), "y[n,o,h,w] = Σ c: x[n,c,(h+1)%2,w] · w1[o,c]");
//!
//! let nest = lower::lower(&shifted, &sizes)?;
//! let y = lower::interp(&nest, &[&[1.0, 2.0, 30.0, 40.0], &[1.0, 10.0]])?;
//! assert_eq!(y, [2.0 + 400.0, 1.0 + 300.0]);
//! # Ok::<(), syntune::error::Error>(())
//! ```

pub mod error;

pub mod child;
pub mod spec;
pub mod synth;

#[cfg(feature = "tvm")]
pub mod tvm;
#[cfg(not(feature = "tvm"))]
#[path = "tvm/off.rs"]
pub mod tvm;

pub mod lower;

pub mod tune;

pub mod train;

pub mod store;

pub mod search;

pub mod report;

pub mod cli;
