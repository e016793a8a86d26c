//! What users, targets, disks, peers and terminals do wrong. Each time: the documented exit code,
//! words that say what is wrong, nothing lost without being counted, and an end in time.

mod files;
mod nodes;
mod places;
mod targets;
mod terminals;
