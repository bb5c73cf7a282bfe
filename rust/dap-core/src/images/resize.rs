//! Pillow's `Image.resize` on 8-bit planes, to the bit: fixed-point weights of 22 bits, one pass along rows and one along
//! columns, each rounded and clipped to 8 bits. A window of the result is computed without the rest.

use std::f64::consts::PI;
use std::ops::Range;

use super::plane::Plane;
use crate::error::Result;
use crate::memory::zeros;

/// 32 bits less 8 bits of a pixel and 2 bits for sums out of range.
const PRECISION_BITS: u32 = 22;
/// Half of the lowest bit that is kept.
const ROUND: i32 = 1 << (PRECISION_BITS - 1);
/// Rows that are resampled together, so that the compiler vectorises the loop over them.
const LANES: usize = 32;

/// The filter that weights the source pixels of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// The mean of the source pixels.
    Box,
    /// Keys' cubic with a = −0.5.
    Bicubic,
    /// Windowed sinc of three lobes.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let distance = x.abs();
        match self {
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// The samples of one axis: the first source pixel of each, and its weights.
struct Axis {
    samples: Vec<(usize, Vec<i32>)>,
}

impl Axis {
    /// Returns the samples in `window` of an axis that is resized from `from` to `to` pixels.
    fn new(filter: Filter, from: usize, to: usize, window: Range<usize>) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let sample = |index: usize| {
            let center = (index as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weight = |pixel: usize| filter.value((pixel as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let scaled = weight / total * f64::from(1 << PRECISION_BITS);
                (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            (first, weights.iter().map(fixed).collect())
        };
        Self { samples: window.map(sample).collect() }
    }

    /// Returns the range of source pixels of the samples.
    fn pixels(&self) -> Range<usize> {
        let first = self.samples.iter().map(|(first, _)| *first).min();
        let end = self.samples.iter().map(|(first, weights)| first + weights.len()).max();
        first.unwrap_or(0)..end.unwrap_or(0)
    }

    /// Resamples along rows of `width` values.
    #[inline(always)]
    fn along_rows(&self, rows: &[u8], width: usize) -> Result<Vec<u8>> {
        let count = self.samples.len();
        let mut narrow = zeros(rows.len() / width * count)?;
        let mut columns = vec![[0_u8; LANES]; width]; // a block of rows, transposed
        for (rows, out) in rows.chunks(LANES * width).zip(narrow.chunks_mut(LANES * count)) {
            for (lane, row) in rows.chunks_exact(width).enumerate() {
                columns.iter_mut().zip(row).for_each(|(column, value)| column[lane] = *value);
            }
            for (x, (first, weights)) in self.samples.iter().enumerate() {
                let mut sums = [ROUND; LANES];
                for (column, weight) in columns[*first..].iter().zip(weights) {
                    sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
                }
                out[x..].iter_mut().step_by(count).zip(sums).for_each(|(out, sum)| *out = clip(sum));
            }
        }
        Ok(narrow)
    }

    /// Resamples along columns; `rows` has rows of `width` values, the first with number `start`.
    #[inline(always)]
    fn along_columns(&self, rows: &[u8], width: usize, start: usize) -> Result<Vec<u8>> {
        let mut short = zeros(self.samples.len() * width)?;
        let mut sums = vec![0; width];
        for ((first, weights), out) in self.samples.iter().zip(short.chunks_exact_mut(width)) {
            sums.fill(ROUND);
            for (row, weight) in rows.chunks_exact(width).skip(first - start).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
            }
            out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = clip(*sum));
        }
        Ok(short)
    }
}

/// Resizes a plane to (width, height) and returns the window of these columns and rows.
pub(super) fn resize(
    plane: &Plane,
    filter: Filter,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
) -> Result<Plane> {
    // Pillow skips the pass of an axis that keeps its length; its weights are 1 and 0, so the result is the same.
    let across = Axis::new(filter, plane.width, width, columns);
    let down = Axis::new(filter, plane.height, height, rows);
    let down_first = down_first(plane, width, height);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this CPU has the feature.
        return unsafe { passes_avx2(plane, &across, &down, down_first) };
    }
    passes(plane, &across, &down, down_first)
}

/// [`passes`] with multiplication of vectors of 32-bit integers, which the baseline does not have.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn passes_avx2(plane: &Plane, across: &Axis, down: &Axis, down_first: bool) -> Result<Plane> {
    passes(plane, across, down, down_first)
}

#[inline(always)]
fn passes(plane: &Plane, across: &Axis, down: &Axis, down_first: bool) -> Result<Plane> {
    let (width, height) = (across.samples.len(), down.samples.len());
    let values = if down_first {
        across.along_rows(&down.along_columns(&plane.values, plane.width, 0)?, plane.width)?
    } else {
        let needed = down.pixels();
        let rows = &plane.values[needed.start * plane.width..needed.end * plane.width];
        down.along_columns(&across.along_rows(rows, plane.width)?, width, needed.start)?
    };
    Ok(Plane { width, height, values })
}

/// Returns whether columns are resampled before rows: Pillow 13 and later do so where it is less work, and the rounding
/// between the passes makes the order visible.
fn down_first(plane: &Plane, width: usize, height: usize) -> bool {
    height < plane.height && plane.height - height + 2 * width > 2 * plane.width
}

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Halves width and height with Pillow's box filter: means of 2 × 2 pixels if both sides are even.
pub(super) fn halve(plane: &Plane) -> Result<Plane> {
    let (width, height) = (plane.width / 2, plane.height / 2);
    if plane.width % 2 == 1 || plane.height % 2 == 1 {
        return resize(plane, Filter::Box, (width, height), 0..width, 0..height);
    }
    let mut values = zeros(width * height)?;
    let mean = |a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    let down_first = down_first(plane, width, height);
    for (lines, out) in plane.values.chunks_exact(2 * plane.width).zip(values.chunks_exact_mut(width)) {
        let (above, below) = lines.split_at(plane.width);
        let pairs = above.as_chunks().0.iter().zip(below.as_chunks().0);
        for (out, ([a, b], [c, d])) in out.iter_mut().zip(pairs) {
            let means = if down_first { [mean(*a, *c), mean(*b, *d)] } else { [mean(*a, *b), mean(*c, *d)] };
            *out = mean(means[0], means[1]);
        }
    }
    Ok(Plane { width, height, values })
}
