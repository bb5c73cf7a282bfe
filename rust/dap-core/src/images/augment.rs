//! Augmented batches: each image is shifted, mirrored, changed in colour and normalised, in one pass over it.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::{self, Check};

/// Red, green and blue of ITU-R 601's luma, as torchvision rounds them.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

/// The number of values that are summed in float32 before their sum is added in float64.
const RUN: usize = 2048;
const LANES: usize = 16;

/// The changes that make one image of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Number of the source image.
    pub image: usize,
    /// Row of the source image that becomes the first row; rows outside of the image are black.
    pub top: i64,
    /// Column of the source image that becomes the first column.
    pub left: i64,
    /// Whether the image is then mirrored left to right.
    pub flip: bool,
    /// Factors of brightness, contrast and saturation; `None` keeps the colours.
    pub factors: Option<[f32; 3]>,
}

/// Writes an image in [0, 1] into `out` for each change, normalised as (value − centre) / spread.
///
/// `images` and `out` hold images of `shape` (1 or 3 channels, height, width), `normal` the centre and the spread of each
/// channel.
///
/// # Errors
/// Lengths that do not match the shape, an image number out of range, a bad number of threads, too little memory, or what
/// `check` returns.
///
/// ```
/// use dap_core::images::{Change, augment};
/// let (keep, mut out) = (Change { image: 0, top: 0, left: 0, flip: true, factors: None }, [0.0; 2]);
/// augment(&[0, 255], [1, 1, 2], &[keep], &[[0.5, 0.5]], &mut out, None, &mut || Ok(()))?;
/// assert_eq!(out, [1.0, -1.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn augment(
    images: &[u8],
    shape: [usize; 3],
    changes: &[Change],
    normal: &[[f32; 2]],
    out: &mut [f32],
    threads: Option<usize>,
    check: Check,
) -> Result<()> {
    let ([channels, height, width], count) = (shape, changes.len());
    let size = channels.saturating_mul(height).saturating_mul(width);
    if !matches!(channels, 1 | 3) || size == 0 || normal.len() != channels {
        return Err(Error::ImageShape { shape, expected: "(1 or 3, height, width), none of them empty" });
    }
    let sources = images.len() / size;
    for (rows, len) in [(sources, images.len()), (count, out.len())] {
        if rows.checked_mul(size) != Some(len) {
            return Err(Error::Shape { rows, columns: size, len });
        }
    }
    if let Some(change) = changes.iter().find(|change| change.image >= sources) {
        return Err(Error::Row { row: change.image, rows: sources });
    }
    let level = Level::detect();
    let parts: Vec<_> = out.chunks_exact_mut(size).map(Mutex::new).collect();
    let task = |index: usize| {
        let change = &changes[index];
        let image = &images[change.image * size..][..size];
        let moved = shifted(image, height, width, change)?;
        let mut out = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        f32::run(level, Colours { values: &moved, factors: change.factors, normal, out: &mut out });
        Ok(())
    };
    tasks::try_run(count, threads, check, task, |_, ()| ())
}

/// Returns the image, shifted and mirrored.
fn shifted(image: &[u8], height: usize, width: usize, change: &Change) -> Result<Vec<u8>> {
    let mut moved = zeros(image.len())?;
    let (rows, columns) = (overlap(change.top, height), overlap(change.left, width));
    if columns.is_empty() {
        return Ok(moved);
    }
    let first = (columns.start as i64 + change.left) as usize; // inside the image, by `overlap`
    for (from, to) in image.chunks_exact(height * width).zip(moved.chunks_exact_mut(height * width)) {
        for row in rows.clone() {
            let from = &from[(row as i64 + change.top) as usize * width + first..][..columns.len()];
            let to = &mut to[row * width..][..width];
            if change.flip {
                let to = &mut to[width - columns.end..width - columns.start];
                to.iter_mut().rev().zip(from).for_each(|(to, from)| *to = *from);
            } else {
                to[columns.clone()].copy_from_slice(from);
            }
        }
    }
    Ok(moved)
}

/// Returns the positions of the result that lie inside the image, which has `side` positions and starts at `-offset`.
fn overlap(offset: i64, side: usize) -> std::ops::Range<usize> {
    let clamped = |value: i64| usize::try_from(value).unwrap_or(0).min(side);
    clamped(offset.saturating_neg())..clamped((side as i64).saturating_sub(offset))
}

/// Converts planes of bytes to planes of floats, with colour factors and normalisation.
struct Colours<'a> {
    values: &'a [u8],
    factors: Option<[f32; 3]>,
    normal: &'a [[f32; 2]],
    out: &'a mut [f32],
}

impl Vectorized<f32> for Colours<'_> {
    type Output = ();

    // Plain loops: the compiler vectorises the conversion of bytes to floats as well as explicit SIMD.
    #[inline(always)]
    fn run<S: Simd<Real = f32>, const Y: usize>(self, _: S) {
        let area = self.values.len() / self.normal.len();
        let Some([brightness, contrast, saturation]) = self.factors else {
            let planes = self.values.chunks_exact(area).zip(self.out.chunks_exact_mut(area));
            for ((from, to), [centre, spread]) in planes.zip(self.normal) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = (f32::from(*from) / 255.0 - centre) / spread);
            }
            return;
        };
        let scale = brightness / 255.0;
        let luma: &[f32] = if self.normal.len() == 3 { &LUMA } else { &[1.0] };
        let means = self.values.chunks_exact(area).zip(luma);
        let mean: f64 = means.map(|(plane, luma)| f64::from(*luma) * brightened(plane, scale) / area as f64).sum();
        let shift = mean as f32 * (1.0 - contrast);
        let tone = |value: u8| unit((f32::from(value) * scale).min(1.0) * contrast + shift);
        let ([red, green, blue], [red_out, green_out, blue_out]) =
            match (thirds(self.values, area), thirds_mut(self.out, area)) {
                (Some(values), Some(out)) => (values, out),
                _ => {
                    let [centre, spread] = self.normal[0];
                    let places = self.out.iter_mut().zip(self.values);
                    return places.for_each(|(to, from)| *to = (tone(*from) - centre) / spread);
                }
            };
        let [[c0, s0], [c1, s1], [c2, s2]] = [self.normal[0], self.normal[1], self.normal[2]];
        for place in 0..area {
            let (r, g, b) = (tone(red[place]), tone(green[place]), tone(blue[place]));
            let grey = (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b) * (1.0 - saturation);
            red_out[place] = (unit(r * saturation + grey) - c0) / s0;
            green_out[place] = (unit(g * saturation + grey) - c1) / s1;
            blue_out[place] = (unit(b * saturation + grey) - c2) / s2;
        }
    }
}

#[inline(always)]
fn unit(value: f32) -> f32 {
    value.clamp(0.0, 1.0)
}

/// Returns Σ min(value · scale, 1), in an order that is the same at every SIMD level.
#[inline(always)]
fn brightened(plane: &[u8], scale: f32) -> f64 {
    let mut sum = 0.0;
    for run in plane.chunks(RUN) {
        let mut lanes = [0.0_f32; LANES];
        let chunks = run.chunks_exact(LANES);
        let rest = chunks.remainder();
        for values in chunks {
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane += (f32::from(*value) * scale).min(1.0);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += (f32::from(*value) * scale).min(1.0);
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    sum
}

/// Splits values into three planes of `area` values; `None` if there are not three.
#[inline(always)]
fn thirds(values: &[u8], area: usize) -> Option<[&[u8]; 3]> {
    let (first, rest) = values.split_at_checked(area)?;
    let (second, third) = rest.split_at_checked(area)?;
    (third.len() == area).then_some([first, second, third])
}

#[inline(always)]
fn thirds_mut(values: &mut [f32], area: usize) -> Option<[&mut [f32]; 3]> {
    let (first, rest) = values.split_at_mut_checked(area)?;
    let (second, third) = rest.split_at_mut_checked(area)?;
    (third.len() == area).then_some([first, second, third])
}
