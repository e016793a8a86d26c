//! What people see of a job.
//!
//! [`Summary`] is what scripts read (schema 1), [`JobResult`] holds everything that a report shows,
//! [`LiveView`] is the job as it runs. All of them are data: whoever shows them needs no cluster.

mod live;
mod result;
mod summary;
mod terminal;

pub use live::{LiveStep, LiveView, ThresholdView};
pub use result::{EventRecord, JobResult, SeriesPoint};
pub use summary::{
    CheckSummary, GapView, GeneratorView, Latency, SUMMARY_SCHEMA, StepSummary, Summary,
    SummaryInput, Totals, gap_view,
};
pub use terminal::{count, duration, rate, share, summary_text};
