//! Batches of random parts: each is resized bilinearly with antialiasing, mirrored, and changed in colour by an affine map.
//!
//! The weights are those of Pillow's and torch's antialiased bilinear filter; values stay floats, nothing is rounded.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::{self, Check};

/// The number of values that are summed in float32 before their sum is added in float64.
const RUN: usize = 2048;
const LANES: usize = 16;

/// The changes that make one image of the batch.
#[derive(Clone, Copy, Debug)]
pub struct ResizedCrop<'a> {
    /// Number of the source image.
    pub image: usize,
    /// Order in which vertical strips of the source image are put together, then that of horizontal ones. All have the
    /// same width but the last, which has the rest.
    pub strips: [&'a [i64]; 2],
    /// Top, left, height and width of the part.
    pub part: [usize; 4],
    /// Whether the part is mirrored left to right.
    pub flip: bool,
    /// For each channel of the result: the factors of the channels of the resized part, in [0, 255], then those of their
    /// means over the part, and a summand.
    pub colours: &'a [f32],
}

/// Writes an image of `size` × `size` pixels into `out` for each crop.
///
/// `images` holds images of `shape` (1 or 3 channels, height, width), `out` those of the crops.
///
/// # Errors
/// Lengths that do not match the shape, an image or a strip that does not exist, a part that is empty or not inside the
/// image, a bad number of threads, too little memory, or what `check` returns.
///
/// ```
/// use dap_core::images::{ResizedCrop, resized_crops};
/// let colours = [1.0, 0.0, 0.0]; // as they are
/// let crop = ResizedCrop { image: 0, strips: [&[0], &[0]], part: [0, 0, 1, 2], flip: true, colours: &colours };
/// let mut out = [0.0; 4];
/// resized_crops(&[1, 5, 9, 9], [1, 2, 2], &[crop], 2, &mut out, None, &mut || Ok(()))?;
/// assert_eq!(out, [5.0, 1.0, 5.0, 1.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn resized_crops(
    images: &[u8],
    shape: [usize; 3],
    crops: &[ResizedCrop],
    size: usize,
    out: &mut [f32],
    threads: Option<usize>,
    check: Check,
) -> Result<()> {
    let ([channels, height, width], count) = (shape, crops.len());
    let area = height.saturating_mul(width);
    let (bytes, floats) = (channels.saturating_mul(area), channels.saturating_mul(size.saturating_mul(size)));
    if !matches!(channels, 1 | 3) || bytes == 0 || floats == 0 {
        return Err(Error::ImageShape { shape, expected: "(1 or 3, height, width), none of them empty" });
    }
    let sources = images.len() / bytes;
    for (rows, columns, len) in [(sources, bytes, images.len()), (count, floats, out.len())] {
        if rows.checked_mul(columns) != Some(len) {
            return Err(Error::Shape { rows, columns, len });
        }
    }
    for crop in crops {
        let [top, left, part_height, part_width] = crop.part;
        if crop.image >= sources {
            return Err(Error::Row { row: crop.image, rows: sources });
        }
        let inside = |first: usize, len: usize, side: usize| len > 0 && first <= side && len <= side - first;
        if !inside(top, part_height, height) || !inside(left, part_width, width) {
            return Err(Error::Part { part: crop.part, height, width });
        }
        if crop.colours.len() != channels * (2 * channels + 1) {
            return Err(Error::Shape { rows: channels, columns: 2 * channels + 1, len: crop.colours.len() });
        }
    }
    let level = Level::detect();
    let parts: Vec<_> = out.chunks_exact_mut(floats).map(Mutex::new).collect();
    let task = |index: usize| {
        let crop = &crops[index];
        let [top, left, part_height, part_width] = crop.part;
        let rows = strip_order(crop.strips[1], height)?;
        let mut columns = Axis::new(part_width, size, &strip_order(crop.strips[0], width)?[left..]);
        if crop.flip {
            columns.mirror();
        }
        let narrow = zeros(part_height * size)?;
        let vertical: Vec<usize> = (0..part_height).collect();
        let mut out = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let work = Work {
            image: &images[crop.image * bytes..][..bytes],
            shape,
            source_rows: &rows[top..top + part_height],
            columns,
            rows: Axis::new(part_height, size, &vertical),
            colours: crop.colours,
            narrow,
            out: &mut out,
        };
        f32::run(level, work);
        Ok(())
    };
    tasks::try_run(count, threads, check, task, |_, ()| ())
}

/// Returns the source position of each position after strips were put into this order.
fn strip_order(order: &[i64], side: usize) -> Result<Vec<usize>> {
    let count = order.len();
    if count == 0 || count > side {
        return Err(Error::Count { count, rows: side });
    }
    let mut positions = Vec::with_capacity(side);
    for number in order {
        let number = usize::try_from(*number).ok().filter(|number| *number < count);
        let number = number.ok_or(Error::Row { row: count, rows: count })?;
        let start = side / count * number;
        positions.extend(start..if number + 1 == count { side } else { start + side / count });
    }
    if positions.len() == side { Ok(positions) } else { Err(Error::Count { count: positions.len(), rows: side }) }
}

/// The samples of one axis: `taps` source positions and their weights for each.
struct Axis {
    taps: usize,
    positions: Vec<usize>,
    weights: Vec<f32>,
}

impl Axis {
    /// Returns the samples of an axis that is resized from `from` to `to` positions; `source` has the source of each.
    fn new(from: usize, to: usize, source: &[usize]) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let window = |index: usize| {
            let center = (index as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            (center, first, ((center + support + 0.5) as usize).min(from))
        };
        let most = (0..to).map(|index| window(index).2 - window(index).1).max();
        let taps = most.unwrap_or(1).max(2);
        let (mut positions, mut weights) = (Vec::with_capacity(to * taps), Vec::with_capacity(to * taps));
        for index in 0..to {
            let (center, first, end) = window(index);
            let weight = |place: usize| (1.0 - ((place as f64 - center + 0.5) / support).abs()).max(0.0);
            let total: f64 = (first..end).map(weight).sum();
            for place in first..first + taps {
                positions.push(source[place.min(end - 1)]);
                weights.push(if place < end { (weight(place) / total) as f32 } else { 0.0 });
            }
        }
        Self { taps, positions, weights }
    }

    /// Reverses the order of the samples.
    fn mirror(&mut self) {
        self.positions.reverse();
        self.weights.reverse();
    }
}

/// The work for one image.
struct Work<'a> {
    image: &'a [u8],
    shape: [usize; 3],
    source_rows: &'a [usize],
    columns: Axis,
    rows: Axis,
    colours: &'a [f32],
    narrow: Vec<f32>,
    out: &'a mut [f32],
}

impl Vectorized<f32> for Work<'_> {
    type Output = ();

    // Plain loops: the compiler vectorises those over whole rows.
    #[inline(always)]
    fn run<S: Simd<Real = f32>, const Y: usize>(mut self, _: S) {
        let [channels, height, width] = self.shape;
        let area = self.out.len() / channels;
        let size = self.columns.positions.len() / self.columns.taps;
        for (plane, out) in self.image.chunks_exact(height * width).zip(self.out.chunks_exact_mut(area)) {
            for (row, narrow) in self.source_rows.iter().zip(self.narrow.chunks_exact_mut(size)) {
                narrowed(&plane[row * width..][..width], &self.columns, narrow);
            }
            let taps = self.rows.taps;
            let samples = self.rows.positions.chunks_exact(taps).zip(self.rows.weights.chunks_exact(taps));
            for ((positions, weights), out) in samples.zip(out.chunks_exact_mut(size)) {
                out.fill(0.0);
                for (position, weight) in positions.iter().zip(weights) {
                    let from = &self.narrow[position * size..][..size];
                    out.iter_mut().zip(from).for_each(|(out, value)| *out += value * weight);
                }
            }
        }
        let mut means = [0.0_f32; 3];
        for (mean, plane) in means.iter_mut().zip(self.out.chunks_exact(area)) {
            *mean = (sum(plane) / area as f64) as f32;
        }
        let summand = |factors: &[f32]| {
            let of_means = factors[channels..2 * channels].iter().zip(means);
            factors[2 * channels] + of_means.map(|(factor, mean)| factor * mean).sum::<f32>()
        };
        if channels == 1 {
            let (factor, shift) = (self.colours[0], summand(self.colours));
            return self.out.iter_mut().for_each(|value| *value = *value * factor + shift);
        }
        let factors: [&[f32]; 3] = [&self.colours[..7], &self.colours[7..14], &self.colours[14..21]];
        let [f0, f1, f2] = factors.map(|factors| [factors[0], factors[1], factors[2], summand(factors)]);
        let (red, rest) = self.out.split_at_mut(area);
        let (green, blue) = rest.split_at_mut(area);
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let (r, g, b) = (*red, *green, *blue);
            let mixed = |factors: [f32; 4]| factors[0] * r + factors[1] * g + factors[2] * b + factors[3];
            (*red, *green, *blue) = (mixed(f0), mixed(f1), mixed(f2));
        }
    }
}

/// Resamples one row.
#[inline(always)]
fn narrowed(row: &[u8], axis: &Axis, out: &mut [f32]) {
    if axis.taps == 2 {
        let (positions, weights) = (axis.positions.as_chunks::<2>().0, axis.weights.as_chunks::<2>().0);
        for ((out, [first, second]), [a, b]) in out.iter_mut().zip(positions).zip(weights) {
            *out = f32::from(row[*first]) * a + f32::from(row[*second]) * b;
        }
        return;
    }
    let samples = axis.positions.chunks_exact(axis.taps).zip(axis.weights.chunks_exact(axis.taps));
    for (out, (positions, weights)) in out.iter_mut().zip(samples) {
        *out = positions.iter().zip(weights).map(|(position, weight)| f32::from(row[*position]) * weight).sum();
    }
}

/// Returns the sum of values, in an order that is the same at every SIMD level.
#[inline(always)]
fn sum(values: &[f32]) -> f64 {
    let mut sum = 0.0;
    for run in values.chunks(RUN) {
        let mut lanes = [0.0_f32; LANES];
        for values in run.chunks(LANES) {
            lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += value);
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    sum
}
