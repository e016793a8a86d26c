//! A test: what is sent, how much of it when, and what must hold.
//!
//! [`compile`] turns a test file into a [`Plan`], the compiled form, which travels. [`Load`] says how much load is planned at each
//! instant, [`Slice`] divides it exactly. Nothing here knows of nodes or sockets.
//!
//! ```
//! use hyperscale_plan::{Load, Slice};
//! use std::time::Duration;
//!
//! let load = Load::ConstantVus { vus: 10, duration: Duration::from_secs(30) };
//! let shares: Vec<u64> = Slice::whole()
//!     .split_evenly(3)
//!     .iter()
//!     .map(|slice| slice.count(u64::from(load.vus_max())))
//!     .collect();
//! assert_eq!(shares, [4, 3, 3]);
//! ```
//!
//! A file with mistakes ends in all of them, each with its place:
//!
//! ```
//! use hyperscale_plan::{CompileOptions, compile};
//!
//! let options = CompileOptions {
//!     name: "shop.yaml",
//!     sets: &[],
//!     environment: &|_| None,
//!     read_file: &|_, _| Err("no files here".to_owned()),
//! };
//! let text = b"workflows:\n  front:\n    load: { vus: 50, duration: 30 }\n    steps: [ { get: http://h/ } ]\n";
//!
//! let errors = compile(text, &options).unwrap_err();
//!
//! assert!(errors.to_string().contains("shop.yaml:3:32"));
//! ```

mod compile;
mod context;
mod diagnostics;
pub mod expr;
mod hex_bytes;
mod ir;
mod keys;
mod load;
mod reference;
mod rows;
mod shape;
mod slice;
mod steering;
mod threshold;
mod units;
mod validate;
mod walk;
mod yaml;

pub use compile::{CompileOptions, Compiled, ReadFile, compile};
pub use context::{CONTEXT_BYTES_MAX, Context, Secrets};
pub use diagnostics::{
    DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Location, Paint, Severity, nearest,
};
pub use ir::*;
pub use load::{Arrivals, Distribution, Load, LoadKind, Stage};
pub use reference::{json_schema, reference};
pub use rows::{RowLease, UniqueRows};
pub use slice::Slice;
pub use steering::{Amount, LoadSteering, Pauses, ScaleError, Steering};
pub use threshold::{Aggregate, Comparison, DatacenterFilter, Filter, Threshold, ThresholdMetric};
pub use units::{UnitError, duration as parse_duration};
