//! Clusters of members in virtual time: rows of the scenarios, by their names.

mod deaths;
mod forming;
mod noise;
mod returning;
mod traffic;
mod world;
