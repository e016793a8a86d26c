//! What people see of a job.
//!
//! [`Summary`] is what scripts read (schema 1), [`JobResult`] holds everything that a report shows,
//! [`LiveView`] is the job as it runs. All of them are data: whoever shows them needs no cluster.

mod csv;
mod html;
mod junit;
mod live;
mod result;
#[cfg(test)]
mod sample;
mod summary;
mod terminal;

pub use csv::csv;
pub use html::html;
pub use junit::junit;
pub use live::{ExampleView, LiveStep, LiveView, ScaleView, ThresholdView};
pub use result::{EventRecord, JobResult, SeriesPoint};
pub use summary::{
    CheckSummary, GapView, GeneratorView, Latency, RowsView, SUMMARY_SCHEMA, StepSummary, Summary,
    SummaryInput, Totals, gap_view, rows_views,
};
pub use terminal::{
    aligned_duration, bytes, count, duration, job_time, plain, rate, share, shortened,
    summary_text, threshold_value,
};
