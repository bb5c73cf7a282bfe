//! Squared Euclidean distances of a tile of rows, reduced over the rows of y.

use crate::Matrix;
use crate::simd::Vectorized;

/// Rows of x in a tile.
pub(super) const X_ROWS: usize = 16;

/// Rows of x that share one reading of a row of y; with 16 lanes each their sums fit the registers of AVX2.
const GROUP: usize = 4;

/// Lanes of float32 sums; more than any register holds, so that the order of summation is the same at every level.
const LANES: usize = 16;

/// Σ_j value(‖x_i − y_j‖²) for at most [`X_ROWS`] rows of x; sums in float64, j ascending.
pub(super) struct Tile<'a, F> {
    pub x: Matrix<'a>,
    pub y: Matrix<'a>,
    pub value: &'a F,
}

impl<F: Fn(f64) -> f64> Vectorized for Tile<'_, F> {
    type Output = [f64; X_ROWS];

    #[inline(always)]
    fn run(self) -> [f64; X_ROWS] {
        let mut sums = [0.0; X_ROWS];
        let (groups, rest) = sums[..self.x.rows()].as_chunks_mut::<GROUP>();
        for (index, sums) in groups.iter_mut().enumerate() {
            self.add(std::array::from_fn(|row| self.x.row(index * GROUP + row)), sums);
        }
        let first = groups.len() * GROUP;
        for (index, sum) in rest.iter_mut().enumerate() {
            self.add([self.x.row(first + index)], std::array::from_mut(sum));
        }
        sums
    }
}

impl<F: Fn(f64) -> f64> Tile<'_, F> {
    #[inline(always)]
    fn add<const R: usize>(&self, x: [&[f32]; R], sums: &mut [f64; R]) {
        for row in 0..self.y.rows() {
            let squared = squared_distances(x, self.y.row(row));
            for (sum, squared) in sums.iter_mut().zip(squared) {
                *sum += (self.value)(f64::from(squared));
            }
        }
    }
}

/// ‖x_r − y‖² of R rows; the arithmetic of a pair does not depend on R.
#[inline(always)]
fn squared_distances<const R: usize>(x: [&[f32]; R], y: &[f32]) -> [f32; R] {
    let (y_chunks, y_tail) = y.as_chunks::<LANES>();
    let x = x.map(|row| row[..y.len()].as_chunks::<LANES>());
    let x_chunks = x.map(|(chunks, _)| &chunks[..y_chunks.len()]);
    let mut lanes = [[0.0_f32; LANES]; R];
    for (chunk, y_chunk) in y_chunks.iter().enumerate() {
        for (lanes, x_chunks) in lanes.iter_mut().zip(x_chunks) {
            let x_chunk = &x_chunks[chunk];
            for lane in 0..LANES {
                let difference = x_chunk[lane] - y_chunk[lane];
                lanes[lane] += difference * difference;
            }
        }
    }
    for (lanes, (_, x_tail)) in lanes.iter_mut().zip(x) {
        for (lane, (a, b)) in lanes.iter_mut().zip(x_tail.iter().zip(y_tail)) {
            *lane += (a - b) * (a - b);
        }
    }
    lanes.map(sum_lanes)
}

/// The sum of the lanes by halving, a fixed order.
#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn every_level_and_every_place_in_a_tile_gives_the_same_bits() {
        for columns in [0, 1, 15, 16, 17, 333] {
            let data: Vec<f32> = (0..23 * columns).map(|index| ((index * index) as f32 * 0.37).sin()).collect();
            let (x, y) = data.split_at(14 * columns);
            let (x, y) = (Matrix::new(x, 14, columns).unwrap(), Matrix::new(y, 9, columns).unwrap());
            let whole = Tile { x, y, value: &f64::sqrt }.run();
            for level in Level::available() {
                assert_eq!(level.run(Tile { x, y, value: &f64::sqrt }), whole, "{level:?}, {columns} columns");
            }
            for (row, sum) in whole.iter().enumerate().take(14) {
                let alone = Tile { x: x.block(row, 1), y, value: &f64::sqrt }.run();
                assert_eq!(alone[0], *sum, "row {row}, {columns} columns");
            }
        }
    }
}
