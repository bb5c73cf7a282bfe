//! Which rows stand for all of them: k-means and its start, and greedy choices by kernel or by distance.
//!
//! Everything is deterministic for any number of threads: blocks depend on the shapes and the SIMD level alone, their
//! sums are combined in order, and of equal candidates the lowest row is taken.

mod greedy;
mod k_means;
mod packed;
mod plus_plus;
#[cfg(test)]
mod tests;

pub use greedy::{facility_location, farthest_points, herding};
pub use k_means::{KMeans, k_means};
pub use plus_plus::plus_plus;
