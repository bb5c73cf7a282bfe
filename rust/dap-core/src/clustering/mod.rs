//! Choosing rows that represent all rows: k-means and its initialisation, and greedy selection by kernel or distance.
//!
//! Results do not depend on the number of threads: blocks depend on the shapes and the SIMD level only, their sums are
//! combined in order, and of equal candidates the lowest row is chosen.

mod greedy;
mod k_means;
mod packed_rows;
mod plus_plus;
#[cfg(test)]
mod tests;

pub use greedy::{facility_location, farthest_points, herding};
pub use k_means::{KMeans, k_means};
pub use plus_plus::plus_plus;
