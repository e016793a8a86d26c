//! Statistics that merge exactly.
//!
//! A core counts into a [`Recorder`]; each window it hands over sparse [`Figures`]; the worker
//! numbers them as [`Delta`]s; whoever receives them counts each once ([`Watermark`]) and adds
//! them up, in any order. Percentiles are computed at the end of the way, from counts: they are
//! never averaged.
//!
//! ```
//! use hyperscale_stats::Histogram;
//! use std::time::Duration;
//!
//! let (mut a, mut b) = (Histogram::new(), Histogram::new());
//! a.record(Duration::from_millis(1));
//! b.record(Duration::from_millis(3));
//! a.merge(&b.to_sparse());
//! assert_eq!(a.percentile(100.0), Duration::from_millis(3));
//! ```

mod delta;
mod figures;
mod histogram;
mod judge;
mod recorder;
mod series;
mod watermark;

pub use delta::{Delta, Exchange, WindowFigures};
pub use figures::{CheckCounts, Figures, Merge, MetricFigures, Sample, StepFigures};
pub use histogram::{Histogram, InvalidHistogram, SparseHistogram};
pub use judge::{Judged, Scoped, ToSparse, judge};
pub use recorder::Recorder;
pub use series::{Point, Series};
pub use watermark::{Arrival, Watermark};
